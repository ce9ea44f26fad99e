"""Is the camera noise of the tracking benchmark what its text says, and is its online tracker an honest one?"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.camera_noise import TrueTracks, noisy_detections
from benchmarks.online_tracker import OnlineSettings, track_online
from labeling.tracks.evidence import Evidence
from labeling.tracks.settings import vehicles
from scenes.geometry import NS_PER_S

FRAMES = 400


def standing_car(x_m: float, seen_share: float) -> tuple[Any, TrueTracks]:
    """A car `x_m` ahead of an ego vehicle that stands, in view by a share, for 40 s."""
    clip = SimpleNamespace(frames=[SimpleNamespace(timestamp_ns=k * NS_PER_S // 10, world_from_ego=np.eye(4)) for k in range(FRAMES)])
    box = np.tile([x_m, 0.0, 0.8, 4.5, 1.9, 1.6, 0.0, 0.0, 0.0], (FRAMES, 1))
    ids = np.zeros(FRAMES, dtype=np.int64)
    return clip, TrueTracks(np.arange(FRAMES), box, ids, ids, np.full(FRAMES, x_m), np.full(FRAMES, seen_share))


def test_errors_are_long_along_the_ray_and_a_seed_gives_the_same_ones():
    clip, truth = standing_car(50.0, 1.0)
    evidence, owner = noisy_detections(clip, truth, 3)
    error = evidence.box_world[owner == 0, :2] - (50.0, 0.0)
    assert error[:, 0].std() == pytest.approx(0.2 + 0.03 * 50, rel=0.25)
    assert error[:, 1].std() == pytest.approx(0.15 + 0.006 * 50, rel=0.25)
    assert (owner == 0).mean() < 1  # there are ghosts
    assert 0.5 < (owner == 0).sum() / FRAMES < 0.96 - 0.006 * 50 + 0.08
    again, _ = noisy_detections(clip, truth, 3)
    assert (again.box_world[:, :7] == evidence.box_world[:, :7]).all()


def test_what_is_hidden_is_not_detected():
    clip, truth = standing_car(20.0, 0.2)
    assert (noisy_detections(clip, truth, 0)[1] == 0).sum() == 0


def test_the_online_tracker_follows_a_car_and_tells_it_from_its_third_detection_on():
    time_s = np.arange(12) / 10
    box = np.zeros((12, 9))
    box[:, 0], box[:, 2:6], box[:, 7:] = 5 + 8 * time_s, (0.8, 4.5, 1.9, 1.6), np.nan
    stamps, none = (time_s * NS_PER_S).astype(np.int64), np.zeros(12, dtype=np.int64)
    keep = np.arange(12) != 7  # one frame missed: its prediction is told
    frame = np.arange(12)[keep]
    evidence = Evidence(stamps, np.tile(np.eye(4), (12, 1, 1)), frame, box[keep], none[keep], np.full(11, 0.9))
    told = track_online(evidence, vehicles(), OnlineSettings(), 100)
    assert [len(rows) for rows in told] == [0, 0] + [1] * 10
    assert {rows[0][0] for rows in told[2:]} == {100}
    assert told[7][0][1][0] == pytest.approx(5 + 8 * 0.7, abs=0.3)
