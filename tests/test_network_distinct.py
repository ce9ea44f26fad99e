"""Does one object get one voice and keep its id? Worked out by hand."""

import pytest
import torch

from fusion.distinct import UNDECIDED_LOGIT, class_groups, inherit, may_be_same_object, same_object, speaks
from scenes.boxes import CLASS_NAMES

RADIUS_K = torch.full((len(CLASS_NAMES),), 1.5)


def box_at(*places: tuple[float, float]) -> torch.Tensor:
    box = torch.ones(1, len(places), 9)
    box[0, :, :2] = torch.tensor(places)
    return box


def same(places, names) -> torch.Tensor:
    classes = torch.tensor([[CLASS_NAMES.index(name) for name in names]])
    return same_object(box_at(*places), classes, RADIUS_K, class_groups(CLASS_NAMES))


def test_a_car_and_a_truck_on_one_place_are_one_object_a_pedestrian_is_another():
    table = same([(5, 0), (5.5, 0), (5, 0.2), (9, 0)], ["car", "truck", "pedestrian", "car"])[0]
    assert table.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_nearness_fades_beyond_the_radius():
    near = [same([(5, 0), (5 + distance, 0)], ["car", "car"])[0, 0, 1].item() for distance in (1.5, 1.5 * 1.1**0.5, 1.5 * 1.2**0.5)]
    assert near == pytest.approx([1.0, 0.5, 0.0], abs=1e-5)
    table = same([(5, 0), (5 + 1.5 * 1.1**0.5, 0)], ["car", "car"])
    assert speaks(torch.tensor([[0.2, 0.4]]), table)[0].tolist() == pytest.approx([0.5, 1.0], abs=1e-5)


def may_be_same(places, logits: list[dict[str, float]], radius_K: torch.Tensor = RADIUS_K) -> torch.Tensor:
    table = torch.full((1, len(places), len(CLASS_NAMES)), -9.0)
    for row, of_names in enumerate(logits):
        for name, value in of_names.items():
            table[0, row, CLASS_NAMES.index(name)] = value
    return may_be_same_object(box_at(*places), table, radius_K, class_groups(CLASS_NAMES))[0]


def test_what_is_answered_fades_over_a_wider_border():
    places = [(5.0, 0.0)] + [(5.0, 1.5 * square**0.5) for square in (0.4, 0.85, 1.2)]
    table = may_be_same(places, [{"car": 1.0}] * 4)
    assert table[0].tolist() == pytest.approx([1.0, 1.0, 0.5, 0.0], abs=1e-5)


def test_who_is_undecided_may_be_of_either_kind_and_has_a_radius_between():
    less = {"car": 1.0, "motorcycle": 1.0 - 0.25 * UNDECIDED_LOGIT}  # three quarters a motorcycle
    logits = [less, {"car": 0.0}, {"truck": 2.0}, {"motorcycle": 3.0}, {"pedestrian": 3.0}]
    table = may_be_same([(5, 0)] * 5, logits)
    assert table[0].tolist() == pytest.approx([1.0, 1.0, 1.0, 0.75, 0.0])
    assert table[3].tolist() == pytest.approx([0.75, 0.0, 0.0, 1.0, 0.0])
    radius_K = RADIUS_K.clone()
    radius_K[CLASS_NAMES.index("motorcycle")] = 0.5
    even = {"car": 1.0, "motorcycle": 1.0}
    table = may_be_same([(5, 0), (5 + 0.85**0.5, 0)], [even, even], radius_K)  # a radius of 1 m
    assert table[0, 1].item() == pytest.approx(0.5, abs=1e-5)


def test_the_best_of_an_object_speaks_and_the_others_fall_silent():
    table = same([(5, 0), (5.5, 0), (9, 0)], ["car", "car", "car"])
    assert speaks(torch.tensor([[0.4, 0.6, 0.1]]), table).tolist() == [[0.0, 1.0, 1.0]]


def test_equals_both_speak_rather_than_both_fall_silent():
    table = same([(5, 0), (5.5, 0)], ["car", "car"])
    assert speaks(torch.tensor([[0.5, 0.5]]), table).tolist() == [[1.0, 1.0]]


def test_a_better_new_query_takes_over_id_and_age_of_the_remembered_one():
    table = same([(5, 0), (5.5, 0), (9, 0)], ["car", "car", "car"])
    ids, ages = inherit(torch.tensor([[-1, 7, -1]]), torch.tensor([[0.0, 3.5, 0.0]]), torch.tensor([[0.6, 0.4, 0.9]]), table)
    assert ids.tolist() == [[7, 7, -1]]  # the second is silent and will be forgotten
    assert ages.tolist() == [[3.5, 3.5, 0.0]]


def test_an_id_goes_to_one_heir_only_and_nobody_loses_an_own_id():
    table, ages = same([(4, 0), (5, 0), (6, 0)], ["car", "car", "car"]), torch.tensor([[0.0, 2.0, 0.0]])  # the outer two are 2 m apart
    ids, taken = inherit(torch.tensor([[-1, 7, -1]]), ages, torch.tensor([[0.6, 0.4, 0.9]]), table)
    assert (ids.tolist(), taken.tolist()) == ([[-1, 7, 7]], [[0.0, 2.0, 2.0]])
    ids, _ = inherit(torch.tensor([[3, 7, -1]]), ages, torch.tensor([[0.6, 0.4, 0.1]]), table)
    assert ids.tolist() == [[3, 7, -1]]
