"""Does one object get one voice and keep its id, and does the last bit of a score decide nothing? Worked out by hand."""

import pytest
import torch

from fusion.distinct import class_kinds, inherit, nearness, same_object, speaks
from scenes.boxes import CLASS_NAMES

RADIUS_K = torch.full((len(CLASS_NAMES),), 1.5)


def box_at(*places: tuple[float, float]) -> torch.Tensor:
    box = torch.ones(1, len(places), 9)
    box[0, :, :2] = torch.tensor(places)
    return box


def same(places, names) -> torch.Tensor:
    logits = torch.full((1, len(names), len(CLASS_NAMES)), -4.0)
    for query, name in enumerate(names):
        logits[0, query, CLASS_NAMES.index(name)] = 1.0
    return same_object(box_at(*places), logits, RADIUS_K, class_kinds(CLASS_NAMES))


def test_a_car_and_a_truck_on_one_place_are_one_object_a_pedestrian_is_another():
    table = same([(5, 0), (5.5, 0), (5, 0.2), (9, 0)], ["car", "truck", "pedestrian", "car"])[0]
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert torch.allclose(table, torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def test_about_as_much_car_as_pedestrian_is_half_of_either():
    logits = torch.full((1, 2, len(CLASS_NAMES)), -9.0)
    logits[0, :, CLASS_NAMES.index("car")] = 1.0
    logits[0, 1, CLASS_NAMES.index("pedestrian")] = 1.0
    table = same_object(box_at((5, 0), (5, 0)), logits, RADIUS_K, class_kinds(CLASS_NAMES))[0]
    assert table[0, 1].item() == pytest.approx(0.5)


@pytest.mark.parametrize(("distance_m", "expected"), [(0.0, 1.0), (1.3, 1.0), (1.5, 0.5), (1.7, 0.0)])
def test_nearness_falls_from_one_to_nothing_around_the_radius(distance_m: float, expected: float):
    near = nearness(box_at((5, 0)), box_at((5, distance_m)), torch.tensor([[1.5]]))
    assert near.item() == pytest.approx(expected, abs=1e-6)


def test_the_best_of_an_object_speaks_and_the_others_fall_silent():
    table = same([(5, 0), (5.5, 0), (9, 0)], ["car", "car", "car"])
    assert speaks(torch.tensor([[0.4, 0.6, 0.1]]), table).tolist() == [[0.0, 1.0, 1.0]]


def test_of_twins_neither_is_silenced_by_the_last_bits():
    table = same([(5, 0), (5.5, 0)], ["car", "car"])
    assert speaks(torch.tensor([[0.5, 0.5]]), table).tolist() == [[1.0, 1.0]]
    for one, other in ((0.5, 0.5 * (1 + 1e-6)), (0.5 * (1 + 1e-6), 0.5)):
        assert torch.allclose(speaks(torch.tensor([[one, other]]), table), torch.ones(1, 2), atol=1e-4)
    # one leads by half of a clear lead: 1 - 0.4925 / 0.5 = 0.015
    assert speaks(torch.tensor([[0.4925, 0.5]]), table)[0].tolist() == pytest.approx([0.5, 1.0], abs=1e-4)


def test_a_better_new_query_takes_over_id_and_age_of_the_remembered_one():
    table = same([(5, 0), (5.5, 0), (9, 0)], ["car", "car", "car"])
    ids, ages = inherit(torch.tensor([[-1, 7, -1]]), torch.tensor([[0.0, 3.5, 0.0]]), torch.tensor([[0.6, 0.4, 0.9]]), table)
    assert ids.tolist() == [[7, -1, -1]]
    assert ages.tolist() == [[3.5, 3.5, 0.0]]


def test_an_id_goes_to_one_heir_only_and_a_better_remembered_query_keeps_its_own():
    table, ages = same([(4, 0), (5, 0), (6, 0)], ["car", "car", "car"]), torch.tensor([[1.0, 2.0, 3.0]])  # the outer two are 2 m apart
    ids, _ = inherit(torch.tensor([[-1, 7, -1]]), ages, torch.tensor([[0.6, 0.4, 0.9]]), table)
    assert ids.tolist() == [[-1, -1, 7]]
    ids, taken = inherit(torch.tensor([[3, 7, -1]]), ages, torch.tensor([[0.6, 0.4, 0.1]]), table)
    assert ids.tolist() == [[3, 7, -1]]
    assert taken[0, :2].tolist() == [1.0, 2.0]
