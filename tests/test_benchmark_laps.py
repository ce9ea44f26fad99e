"""Does a drive there and back show the same pictures again, with poses that stay continuous, and is it counted lap by lap?"""

import numpy as np
import pytest
from rich.console import Console

from benchmarks.parity_laps import APART, SAME, as_film, growth, lap_steps, lap_verdict, mean_growth, of_lap, there_and_back
from export.comparison import Verification


def test_the_order_of_frames():
    assert there_and_back(3, 4) == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0]


def test_a_film_that_runs_backwards_keeps_its_own_time():
    step = {"dt": np.array([-0.1], np.float32), "time_offset": np.array([[0.02, -0.01]], np.float32), "alive": np.ones((1, 2))}
    film = as_film(step)
    assert film["dt"].tolist() == pytest.approx([0.1]) and film["time_offset"].tolist()[0] == pytest.approx([-0.02, 0.01])
    assert film["alive"] is step["alive"]
    forward = {**step, "dt": np.array([0.0], np.float32)}
    assert as_film(forward) is forward


def test_laps_of_a_clip_close_their_loop(tiny_clip):
    length, laps = len(tiny_clip) - 1, 4
    steps = list(lap_steps(tiny_clip, (32, 64), laps))
    assert len(steps) == laps * length + 1
    assert steps[0]["dt"] == 0 and all(step["dt"] > 0 for step in steps[1:])
    first, back, third, fourth = (of_lap(steps, lap, laps) for lap in range(laps))
    for one, other in ((first, third), (back, fourth)):
        for mine, theirs in zip(one, other, strict=True):
            assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    assert all(np.array_equal(a["images"], b["images"]) for a, b in zip(first[:-1], back[-2::-1], strict=True))
    round_trip = np.eye(4)
    for step in (*first, *back):
        round_trip = round_trip @ step["prev_from_ego"][0]
    assert np.allclose(round_trip, np.eye(4), atol=1e-5)


def test_growth_by_hand():
    values = [9.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 1.0, 1.0]  # four laps of two steps after the first
    assert [of_lap(values, lap, 4) for lap in range(4)] == [[1, 1], [2, 2], [3, 3], [1, 1]]
    assert growth(values, 4) == [3.0, 0.5]
    assert mean_growth([values], 4) == pytest.approx(1.5**0.5)
    longer = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 4.0]  # six laps of one step
    assert growth(longer, 6, since=2) == pytest.approx([2.0, 1.0])
    assert mean_growth([longer], 6, since=2) == pytest.approx(2**0.5)


def drive(every: list[float], dense: list[float]) -> Verification:
    """A drive of as many laps of one step as there are errors, after a first step that belongs to none."""
    errors = [{"boxes": boxes, "flow": flow} for boxes, flow in zip([0.0, *every], [0.0, *dense], strict=True)]
    return Verification(rigs=["r"], errors=errors)


QUIET = Console(quiet=True)
STILL = [1e-5] * 6
CHANCE = [1e-5, 1e-5, 2e-5, 4e-5, 4e-5, 2e-5]
"""Single laps are at four times the first, later ones where the third and fourth are."""
DRIFT = [1e-5, 1e-5, 2e-5, 2e-5, 4e-5, 4e-5]


def test_laps_are_judged_each_for_itself_from_one_memory_and_together_from_two():
    assert lap_verdict([SAME], [("g", drive(STILL, STILL))], 6, QUIET) == 0
    assert lap_verdict([SAME], [("g", drive(CHANCE, STILL))], 6, QUIET) == 1
    assert lap_verdict(["step by step"], [("g", drive(CHANCE, STILL))], 6, QUIET) == 0
    assert lap_verdict(["step by step"], [("g", drive(DRIFT, STILL))], 6, QUIET) == 1
    assert lap_verdict(["step by step"], [("g", drive(CHANCE, DRIFT))], 6, QUIET) == 1  # dense answers may not rise in any lap
    assert lap_verdict(["step by step"], [("g", drive(CHANCE[:4], STILL[:4]))], 4, QUIET) == 1  # too few laps for a mean
    assert lap_verdict(["step by step"], [("g", drive([*STILL[:5], 2e-3], STILL))], 6, QUIET) == 1
    assert lap_verdict([APART], [("g", drive([1.0] * 6, STILL))], 6, QUIET) == 0
