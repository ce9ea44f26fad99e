"""Velocities from displacement and headings from driving, with answers worked out by hand."""

import math

import pytest
import torch

from fusion.boxcode import decode_boxes, encode_boxes
from fusion.kinematics import Recollection, drives_forward, facing_forward, followed, recalled


def box(x: float, y: float, yaw: float = 0.0, vx: float = 0.0, vy: float = 0.0) -> list[float]:
    return [x, y, 0.8, 4.5, 1.9, 1.6, yaw, vx, vy]


def trusting_recollection() -> Recollection:
    """Looks at nearness alone, never at nothing, and follows what it measures entirely."""
    recollection = Recollection(8)
    with torch.no_grad():
        recollection.query.weight.zero_()
        recollection.query.bias.zero_()
        recollection.nothing.fill_(-100.0)
        recollection.reach.fill_(20.0)
        recollection.gain[-1].bias.fill_(40.0)
    return recollection


def velocity_after(pred: list[float], remembered: list[list[float]], valid: list[float], dt_s: float) -> torch.Tensor:
    boxes = torch.tensor([[pred]])
    code = encode_boxes(boxes, torch.zeros(1, 1, 3))
    past = recalled(torch.zeros(1, len(remembered), 8), torch.tensor([remembered]), torch.tensor([valid]), torch.tensor([dt_s]))
    corrected = trusting_recollection()(torch.zeros(1, 1, 8), code, torch.zeros(1, 1, 3), past)
    return decode_boxes(corrected, torch.zeros(1, 1, 3))[0, 0, 7:9]


def test_an_object_thought_to_stand_that_moved_four_metres_in_half_a_second_drives_at_eight_metres_per_second() -> None:
    velocity = velocity_after(box(14.0, 2.0), [box(10.0, 2.0), box(40.0, -8.0)], [1.0, 1.0], dt_s=0.5)
    assert velocity.tolist() == pytest.approx([8.0, 0.0], abs=1e-3)


def test_a_remembered_velocity_is_corrected_by_what_it_missed() -> None:
    # expected at x = 15 with 10 m/s, found half a metre short of it: 1 m/s slower over half a second
    velocity = velocity_after(box(14.5, 0.0), [box(15.0, 0.0, vx=10.0)], [1.0], dt_s=0.5)
    assert velocity.tolist() == pytest.approx([9.0, 0.0], abs=1e-3)


def test_an_empty_memory_leaves_the_velocity_alone() -> None:
    velocity = velocity_after(box(14.0, 2.0, vx=3.0, vy=-1.0), [box(0.0, 0.0)], [0.0], dt_s=0.5)
    assert velocity.tolist() == pytest.approx([3.0, -1.0])


@pytest.mark.parametrize(
    ("name", "yaw", "vx", "expected_yaw"),
    [
        ("car", 0.0, -3.0, math.pi),  # drives at speed towards its rear: it is turned about
        ("car", 0.0, -1.0, 0.0),  # may be backing into a parking place
        ("car", 0.3, 5.0, 0.3),
        ("bicycle", math.pi, 4.0, 0.0),
        ("pedestrian", 0.0, -3.0, 0.0),  # may look anywhere
    ],
)
def test_vehicles_face_the_way_they_drive(name: str, yaw: float, vx: float, expected_yaw: float) -> None:
    code = encode_boxes(torch.tensor([[box(5.0, 1.0, yaw, vx)]]), torch.zeros(1, 1, 3))
    turned = decode_boxes(facing_forward(code, drives_forward((name,)).reshape(1, 1)), torch.zeros(1, 1, 3))
    difference = math.remainder(float(turned[0, 0, 6]) - expected_yaw, 2 * math.pi)
    assert difference == pytest.approx(0.0, abs=1e-5)
    assert turned[0, 0, 7] == pytest.approx(vx)


@pytest.mark.parametrize(
    ("score", "faded", "expected_x"),
    [
        (0.8, 0.4, 10.0),  # seen twice as well as remembered: it is where it is seen
        (0.9, 0.1, 10.0),
        (0.4, 0.4, 11.0),  # as well: half way
        (0.0, 0.4, 12.0),  # nobody sees it: where its velocity brought it
        (0.5, 0.0, 10.0),  # an empty slot
    ],
)
def test_a_remembered_box_follows_as_far_as_it_is_seen(score: float, faded: float, expected_x: float) -> None:
    moved, seen = torch.tensor([[box(12.0, 3.0, vx=4.0)]]), torch.tensor([[box(10.0, 3.0, vx=2.0)]])
    kept = followed(moved, seen, torch.tensor([[score]]), torch.tensor([[faded]]))[0, 0]
    assert kept[0] == pytest.approx(expected_x)
    assert kept[7] == pytest.approx(expected_x - 8.0)
    assert kept[1:6].tolist() == pytest.approx(box(0.0, 3.0)[1:6])


@pytest.mark.parametrize(
    ("moved_yaw", "seen_yaw", "expected_yaw"),
    [
        (0.2, 0.4, 0.3),
        (math.pi - 0.1, -math.pi + 0.3, -math.pi + 0.1),  # across the seam
        (0.1, math.pi - 0.1, math.pi),  # the front is at the other end now: no box stands across the road
    ],
)
def test_the_axis_of_a_remembered_box_follows_and_its_front_is_as_seen(moved_yaw: float, seen_yaw: float, expected_yaw: float) -> None:
    moved, seen = torch.tensor([[box(0.0, 0.0, moved_yaw)]]), torch.tensor([[box(0.0, 0.0, seen_yaw)]])
    yaw = followed(moved, seen, torch.tensor([[0.4]]), torch.tensor([[0.4]]))[0, 0, 6].item()
    assert math.cos(yaw - expected_yaw) == pytest.approx(1.0, abs=1e-6)
    assert -math.pi <= yaw <= math.pi
