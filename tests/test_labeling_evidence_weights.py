"""Which witness is believed: jumping poses, near and far sizes, lidar centres, weak chains that drive? Answers known by hand."""

from dataclasses import replace

import numpy as np
import pytest

from labeling.tracks.evidence import Evidence
from labeling.tracks.observations import DOUBT_S, HARDEST_BRAKING_MPS2, observe, pose_doubts
from labeling.tracks.settings import GroupSettings, NoiseSettings, vehicles
from labeling.tracks.splitting import split_chains
from labeling.tracks.stitching import stitch
from labeling.tracks.trajectory import solve_tracks
from scenes.boxes import Box3D

HZ = 10.0


def ego_at(x_m: np.ndarray) -> np.ndarray:
    """Poses (T, 4, 4) on the x axis."""
    world_from_ego = np.tile(np.eye(4), (len(x_m), 1, 1))
    world_from_ego[:, 0, 3] = x_m
    return world_from_ego


def one_car(ego_x_m: np.ndarray, car_x_m: np.ndarray, yaw: float, score: float = 0.9) -> Evidence:
    """A car at (car_x_m[t], 4 m), seen in every frame by an ego vehicle at (ego_x_m[t], 0)."""
    num = len(ego_x_m)
    box = np.full((num, 9), np.nan)
    box[:, :7] = [0.0, 4.0, 0.8, 4.5, 1.9, 1.6, yaw]
    box[:, 0] = car_x_m
    stamps = (np.arange(num) * 1e9 / HZ).astype(np.int64)
    frame = np.arange(num, dtype=np.int64)
    return Evidence(stamps, ego_at(ego_x_m), frame, box, np.zeros(num, dtype=np.int64), np.full(num, score))


def path(speed_mps: np.ndarray) -> np.ndarray:
    """Places (T + 1,) of something with the speed of each step."""
    return np.concatenate([[0.0], np.cumsum(speed_mps / HZ)])


def test_a_jump_of_the_poses_speed_is_doubt_for_two_seconds():
    speed = np.full(80, 10.0)
    speed[40:] = 13.0  # 3 m/s within a tenth of a second: 0.9 m/s of them could be braking
    doubt = pose_doubts(one_car(path(speed), np.full(81, 30.0), 0.0))
    reach = round(DOUBT_S * HZ)
    assert doubt[40 - reach : 41 + reach] == pytest.approx(3.0 - HARDEST_BRAKING_MPS2 / HZ)
    assert not doubt[: 40 - reach].any()
    assert not doubt[41 + reach :].any()
    braking = path(np.maximum(10.0 - 0.8 * np.arange(80), 0.0))  # 8 m/s2 is hard, but cars do it
    assert not pose_doubts(one_car(braking, np.full(81, 30.0), 0.0)).any()


def test_where_the_poses_jump_a_car_is_not_turned_by_seeming_to_drive_backwards():
    seems_to_reverse = 30.0 - 3.0 * np.arange(21) / HZ  # 3 m/s against the way all its detections face, for two seconds
    jumping = path(np.where(np.arange(20) < 3, 11.0, 6.0))  # 5 m/s at once: 4.1 m/s of doubt
    assert np.abs(solved_yaws(one_car(jumping, seems_to_reverse, 0.0))).max() < 0.2
    steady = path(np.full(20, 6.0))
    assert np.abs(solved_yaws(one_car(steady, seems_to_reverse, 0.0))).min() > 3.0  # the same between good poses: it comes towards us


def solved_yaws(evidence: Evidence) -> np.ndarray:
    """(F,) headings of the one track of all detections."""
    return solve_tracks(evidence, [np.arange(len(evidence))], vehicles()).box_world[:, Box3D.YAW]


def test_near_detections_settle_the_size():
    evidence = one_car(np.zeros(30), np.linspace(80.0, 5.0, 30), np.pi)
    far = np.arange(30) < 20  # beyond 28 m it looks half a metre short
    evidence.box_world[far, Box3D.LENGTH] = 4.0
    seen = observe(evidence, [np.arange(30)], [np.arange(30)], vehicles())
    assert seen.size[0].tolist() == [4.5, 1.9, 1.6]


@pytest.mark.parametrize(("keep_bottom", "height_m"), [(1.0, 0.8), (0.5, 0.75), (0.0, 0.7)])
def test_what_of_the_height_stays(keep_bottom, height_m):
    ego = np.where(np.arange(21) < 20, 0.0, 55.0)
    evidence = one_car(ego, np.full(21, 60.0), 0.0)
    evidence.box_world[:20, Box3D.HEIGHT] = 1.4  # from afar it is lower, with its wheels on the same ground ...
    evidence.box_world[:20, Box3D.Z] = 0.7
    solved = solve_tracks(evidence, [np.arange(21)], replace(vehicles(), keep_bottom=keep_bottom))
    assert solved.box_world[:, Box3D.HEIGHT] == pytest.approx(1.6)  # ... but the near look is believed
    assert solved.box_world[:, Box3D.Z] == pytest.approx(height_m, abs=0.02)


def test_the_near_looks_settle_where_a_car_stands():
    x_m = np.concatenate([np.full(20, 80.0), np.full(20, 4.0)])  # weights 0.2 and 1
    evidence = one_car(np.zeros(40), x_m, 0.0)
    evidence.box_world[:20, Box3D.Z] = 1.0  # 0.2 m higher from afar
    parked = replace(evidence, box_world=evidence.box_world.copy())
    parked.box_world[:, 0] = 80.0  # the car stays, the ego vehicle comes
    parked = replace(parked, world_from_ego=ego_at(80.0 - x_m))
    solved = solve_tracks(parked, [np.arange(40)], vehicles())
    assert solved.is_static.tolist() == [True]
    assert solved.box_world[:, Box3D.Z] == pytest.approx(0.8 + 0.2 * 0.2 / 1.2, abs=0.02)


def chains_before_and_after(weak: float, travel_m: float, settings: GroupSettings) -> int:
    """Into how many tracks a car's chain of 11 detections of score `weak` and, two seconds later, a strong one are stitched."""
    speed = travel_m / 1.0  # ten steps of a tenth of a second
    early, late = np.arange(11), np.arange(31, 42)
    frame = np.concatenate([early, late])
    evidence = one_car(np.zeros(42), 10.0 + speed * np.arange(42) / HZ, 0.0)
    score = np.where(frame < 20, weak, 0.9)
    evidence = replace(evidence.select(frame), score=score)
    return len(stitch([np.arange(11), np.arange(11, 22)], evidence, settings))


def test_a_weak_chain_that_drove_along_is_an_object_and_a_weak_one_that_crept_is_not():
    settings = vehicles()
    assert settings.link.stitch_score > 0.05
    assert chains_before_and_after(0.05, 8.0, settings) == 1
    assert chains_before_and_after(0.05, 3.0, settings) == 2
    assert chains_before_and_after(0.5, 3.0, settings) == 1


def test_a_jump_along_the_ray_is_noise_for_a_camera_and_another_car_for_a_lidar():
    x_m = np.where(np.arange(20) < 10, 50.0, 52.2)  # it stands across the ray, so depth errors are ways across its heading
    evidence = one_car(np.zeros(20), x_m, np.pi / 2)
    chain = [np.arange(20)]
    camera, lidar = vehicles(), replace(vehicles(), noise=NoiseSettings(radial_m=0.1, radial_per_m=0.004))
    assert len(split_chains(chain, evidence, camera)) == 1  # 1.0 m + 0.3 m + 0.03 * 51 m > 2.2 m
    assert len(split_chains(chain, evidence, lidar)) == 2  # 1.0 m + 0.1 m + 0.004 * 51 m < 2.2 m
