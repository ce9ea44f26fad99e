"""How far apart are two implementations' outputs? Answers worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from export.comparison import Comparison, relative_error


def outputs(boxes: Sequence[tuple[float, float, float]], scores: list[float], ids: list[int] | None = None) -> dict[str, np.ndarray]:
    """Detections and memory of (x, y, yaw) boxes 4 m long; classes are 0."""
    box = np.zeros((1, len(boxes), 9), np.float32)
    box[0, :, 3] = 4.0
    box[0, :, [0, 1, 6]] = np.array(boxes, np.float32).T
    ids_1Q = np.array([ids or list(range(len(boxes)))], np.int32)
    score = np.array([scores], np.float32)
    return {
        "boxes": box,
        "scores": score,
        "velocities": box[..., 7:9],
        "classes": np.zeros_like(ids_1Q),
        "ids": ids_1Q,
        "next_box": box,
        "next_score": score,
        "next_query": np.ones((1, len(boxes), 2), np.float32),
        "next_id": ids_1Q,
        "next_age": score * 0,
    }


def compared(*steps: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]) -> Comparison:
    comparison = Comparison()
    comparison.new_drive("rig")
    for reference, other in steps:
        comparison.add(reference, other)
    return comparison


def test_relative_error_by_hand():
    want = np.array([[10.0, -2.0]])
    assert relative_error(want, want + 0.1) == pytest.approx(0.01)
    assert relative_error(want, np.array([[np.nan, 0.0]])) == np.inf


def test_a_columns_error_counts_over_its_own_largest_value_and_at_least_one():
    found = compared((outputs([(20, 0.1, 0.0)], [0.9]), outputs([(20.02, 0.1, 0.0)], [0.9]))).found
    assert found.error_by_tensor["boxes"] == pytest.approx(0.001, rel=1e-3)  # 2 cm of 20 m
    found = compared((outputs([(20, 0.1, 0.0)], [0.9]), outputs([(20, 0.102, 0.0)], [0.9]))).found
    assert found.error_by_tensor["boxes"] == pytest.approx(0.002, rel=1e-3)  # 2 mm of 1 m


def test_a_heading_just_short_of_half_a_turn_is_near_one_just_beyond():
    found = compared((outputs([(20, 0, np.pi - 0.001)], [0.9]), outputs([(20, 0, 0.001 - np.pi)], [0.9]))).found
    assert found.max_error == pytest.approx(0.002 / np.pi, rel=1e-2)


def test_rows_in_another_order_are_the_same_set():
    found = compared((outputs([(5, 0, 0), (9, 1, 0)], [0.5, 0.5]), outputs([(9, 1, 0), (5, 0, 0)], [0.5, 0.5], [1, 0]))).found
    assert (found.max_error, found.integer_mismatches, found.reordered_steps) == (0.0, 0, 1)


def test_a_missing_object_is_an_error_as_large_as_it_was_there():
    there, gone = outputs([(20, 0, 0), (10, 0, 0)], [0.9, 0.5]), outputs([(20, 0, 0), (0, 0, 0)], [0.9, 0.0])
    found = compared((there, gone)).found
    assert found.error_by_tensor["boxes"] == pytest.approx(10 / 20)
    assert found.error_by_tensor["scores"] == pytest.approx(0.5 / 0.9)
    # a row of a fiftieth of the full 0.05 counts a fiftieth: 5 m / 50 over 1 m, and the score by 0.001 of 0.9
    fading, gone = outputs([(20, 0, 0), (10, 0, 0)], [0.9, 0.001]), outputs([(20, 0, 0), (10, 5, 0)], [0.9, 0.0])
    found = compared((fading, gone)).found
    assert found.error_by_tensor["boxes"] == pytest.approx(5 / 50, rel=1e-3)
    assert found.error_by_tensor["scores"] == pytest.approx(0.001 / 0.9, rel=1e-3)


def test_what_stands_in_empty_rows_is_nobodys_business():
    one, other = outputs([(20, 0, 0), (3, 3, 1)], [0.9, 0.0]), outputs([(20, 0, 0), (-30, 8, 2)], [0.9, 0.0], [0, 5])
    found = compared((one, other)).found
    assert (found.max_error, found.integer_mismatches) == (0.0, 0)


def test_ids_may_have_other_names_but_must_keep_them():
    places = [(5, 0, 0), (9, 1, 0)]
    swapped = (outputs(places, [0.5, 0.4], [0, 1]), outputs(places, [0.5, 0.4], [1, 0]))
    assert compared(swapped, swapped).found.integer_mismatches == 0
    kept = (outputs(places, [0.5, 0.4], [0, 1]), outputs(places, [0.5, 0.4], [0, 1]))
    assert compared(swapped, kept).found.integer_mismatches == 4  # two rows, as detections and as memory


def test_nothing_is_as_wrong_as_nan():
    broken = outputs([(5, 0, 0)], [0.5])
    broken["next_query"] = broken["next_query"] * np.nan
    assert compared((outputs([(5, 0, 0)], [0.5]), broken)).found.max_error == np.inf
