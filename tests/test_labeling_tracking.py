"""Do detections of hand-made scenes become the tracks that we know are there?"""

from dataclasses import replace

import numpy as np
import pytest

from labeling.kitti.scale import scaled_poses, track_scale
from labeling.tracks.association import associate
from labeling.tracks.confidence import FEATURES, fitted_weights, logistic
from labeling.tracks.duplicates import single_detections
from labeling.tracks.evidence import Evidence, everywhere
from labeling.tracks.observations import reanchored_centres, vote_headings
from labeling.tracks.overlap import ground_iou, ground_overlap
from labeling.tracks.rows import TrackRows
from labeling.tracks.settings import CompletionSettings, TrackingSettings, pedestrians, vehicles
from labeling.tracks.smoothing import difference_rows
from labeling.tracks.splitting import split_chains
from labeling.tracks.stitching import stitch
from labeling.tracks.tracking import track_clip
from labeling.tracks.trajectory import solve_tracks
from labeling.tracks.visibility import hidden_shares
from scenes.boxes import Box3D
from scenes.errors import ConfigError, DataError
from scenes.geometry import NS_PER_S, wrap_angle

CAR, PEDESTRIAN = 0, 5
SIZES = {CAR: (4.5, 1.9, 1.6), PEDESTRIAN: (0.6, 0.6, 1.8)}


def scene(objects, frames=20, hz=2.0, noise_m=0.15, seed=0, ego_speed=0.0, flips=(), score=0.9, misses=None):
    """Evidence of objects (class, x, y, vx, vy): each detected in every frame but its `misses`, turned round in frames `flips`."""
    generator = np.random.default_rng(seed)
    stamps = (np.arange(frames) * NS_PER_S / hz).astype(np.int64)
    world_from_ego = np.tile(np.eye(4), (frames, 1, 1))
    world_from_ego[:, 0, 3] = ego_speed * np.arange(frames) / hz
    rows, frame, classes, owner = [], [], [], []
    for index in range(frames):
        for k, (kind, x, y, vx, vy) in enumerate(objects):
            if misses and index in misses.get(k, ()):
                continue
            t = index / hz
            yaw = np.arctan2(vy, vx) if vx or vy else 0.4
            yaw = yaw + generator.normal(0, 0.05) + np.pi * (index in flips)
            centre = np.array([x + vx * t, y + vy * t]) + generator.normal(0, noise_m, 2)
            rows.append([*centre, 0.9, *SIZES[kind], wrap_angle(yaw), np.nan, np.nan])
            frame.append(index)
            classes.append(kind)
            owner.append(k)
    box = np.array(rows, dtype=np.float64).reshape(-1, 9)
    evidence = Evidence(
        stamps, world_from_ego, np.array(frame, dtype=np.int64), box, np.array(classes, dtype=np.int64), np.full(len(box), score)
    )
    return evidence, np.array(owner)


def labels(evidence):
    return track_clip(evidence, everywhere, TrackingSettings())


def test_crossing_cars_keep_their_ids():
    evidence, owner = scene([(CAR, -30, 0, 8, 0), (CAR, 30, 2.5, -8, 0), (CAR, 0, -30, 0, 8)], frames=16)
    for chain in associate(evidence, vehicles()):
        assert len(set(owner[chain])) == 1
    assert sorted(len(track.frames) for track in labels(evidence)) == [16, 16, 16]


def test_a_gap_of_two_seconds_is_filled_where_the_car_was():
    evidence, _ = scene([(CAR, 0, 5, 6, 0)], misses={0: range(8, 12)})
    (track,) = labels(evidence)
    assert track.frames.tolist() == list(range(20))
    gap = track.provenance == "interpolated"
    assert np.flatnonzero(gap).tolist() == [8, 9, 10, 11]
    truth_x = 6 * np.arange(20) / 2
    assert np.abs(track.box_world[gap, 0] - truth_x[gap]).max() < 0.3
    assert track.box_probability[gap].max() < track.box_probability[~gap].min()


def test_a_long_gap_is_stitched_to_the_car_that_fits():
    evidence, owner = scene([(CAR, 0, 0, 8, 0), (CAR, 0, 7, 6, 0)], misses={0: range(7, 15), 1: range(7, 15)}, frames=24)
    chains = stitch(associate(evidence, vehicles()), evidence, vehicles())
    assert [set(owner[chain].tolist()) for chain in chains] in ([{0}, {1}], [{1}, {0}])


def test_a_static_car_stays_static_under_jitter_and_its_velocity_is_zero():
    evidence, _ = scene([(CAR, 15, 4, 0, 0)], noise_m=0.3, ego_speed=5.0)
    (track,) = labels(evidence)
    assert track.is_static
    assert np.ptp(track.box_world[:, :2], axis=0).max() < 1e-9
    assert (track.box_world[:, Box3D.VX :] == 0).all()
    assert np.hypot(*(track.box_world[0, :2] - (15, 4))) < 0.3


def test_a_slow_pedestrian_is_not_static():
    evidence, _ = scene([(PEDESTRIAN, 8, -3, 0.0, 1.2)], noise_m=0.1)
    (track,) = labels(evidence)
    assert not track.is_static
    assert np.median(track.box_world[:, Box3D.VY]) == pytest.approx(1.2, abs=0.1)


def test_a_velocity_that_its_source_knows_well_says_that_somebody_walks():
    vague = np.tile(4.0 * np.eye(2), (6, 1, 1))  # each place to 2 m: 3 m of way in 2.5 s are no proof
    unknown, _ = scene([(PEDESTRIAN, 8, -3, 0.0, 1.2)], frames=6, noise_m=0.1)
    unknown = replace(unknown, covariance=vague)
    told = unknown.box_world.copy()
    told[:, Box3D.VX :] = 0.0, 1.2
    usual = replace(unknown, box_world=told)
    sure = replace(usual, velocity_std_mps=np.full(6, 0.5))
    assert [labels(evidence)[0].is_static for evidence in (unknown, usual, sure)] == [True, True, False]
    assert np.median(labels(sure)[0].box_world[:, Box3D.VY]) == pytest.approx(1.2, abs=0.1)


def test_each_box_knows_how_well_the_place_of_the_nearest_detection_is_known():
    evidence, _ = scene([(CAR, 10, 0, 0, 0)], frames=6, noise_m=0.05, misses={0: (2, 3)})
    across, away = np.full(4, 0.5), np.array([1.0, 2.0, 3.0, 4.0])
    covariance = np.stack([np.diag(pair) for pair in np.stack([across, away], axis=1) ** 2])
    (track,) = labels(replace(evidence, covariance=covariance))
    assert track.frames.tolist() == [0, 1, 2, 3, 4, 5]
    assert track.spread_m == pytest.approx(np.stack([[1, 2, 2, 3, 3, 4], np.full(6, 0.5)], axis=1))


def test_flipped_headings_are_repaired_and_follow_the_path():
    evidence, _ = scene([(CAR, 0, 5, 6, 0), (CAR, 20, -6, 0, 0)], flips=(2, 3, 9, 14))
    for track in labels(evidence):
        want = 0.4 if track.is_static else 0.0
        assert np.abs(wrap_angle(track.box_world[:, Box3D.YAW] - want)).max() < 0.1


def test_a_car_whose_detections_all_face_backwards_is_turned_by_its_motion():
    evidence, _ = scene([(CAR, 0, 5, 6, 0)], flips=range(20))
    (track,) = labels(evidence)
    assert np.abs(track.box_world[:, Box3D.YAW]).max() < 0.1


def test_two_detections_of_one_object_are_one():
    evidence, _ = scene([(CAR, 10, 0, 0, 0), (CAR, 10.4, 0.2, 0, 0), (CAR, 10, 6, 0, 0)], noise_m=0.02)
    assert len(single_detections(evidence, 0.2)) == 40
    assert len(labels(evidence)) == 2


def test_without_evidence_there_are_no_labels():
    evidence, _ = scene([], frames=3)
    assert labels(evidence) == []


def test_a_clip_of_one_frame_keeps_its_strong_detections():
    evidence, _ = scene([(CAR, 10, 0, 5, 0), (PEDESTRIAN, 5, 2, 0, 0)], frames=1, score=0.99)
    tracks = labels(evidence)
    assert sorted(track.class_id for track in tracks) == [CAR, PEDESTRIAN]
    assert all(track.frames.tolist() == [0] for track in tracks)


def test_uneven_frames_and_a_time_gap_are_solved_with_true_time_stamps():
    evidence, _ = scene([(CAR, 0, 0, 10, 0)], frames=8, noise_m=0.02)
    seconds = np.array([0, 0.5, 0.9, 1.6, 3.0, 3.4, 4.1, 4.5])
    box = evidence.box_world.copy()
    box[:, 0] = 10 * seconds
    uneven = Evidence(
        (seconds * NS_PER_S).astype(np.int64), evidence.world_from_ego, evidence.frame, box, evidence.class_id, evidence.score
    )
    (track,) = labels(uneven)
    assert np.abs(track.box_world[:, Box3D.VX] - 10).max() < 0.2


def test_one_size_a_track_and_the_near_face_stays():
    box = np.array([[10.0, 0, 1, 4.0, 2, 1.5, 0, np.nan, np.nan]])
    centre = reanchored_centres(box, np.array([[5.0, 2, 1.5]]), np.zeros((1, 2)), 1.0)
    assert centre[0] == pytest.approx([10.5, 0.0])  # the rear at x = 8 stays, the front moves from 12 to 13


def test_votes_turn_the_minority_and_follow_a_curve():
    yaw = np.array([0.0, 0.5, 1.0 + np.pi, 1.5, 2.0, 2.5, 3.0])
    both = np.concatenate([yaw, yaw + 2.0])  # a second track right behind the first one
    voted = vote_headings(TrackRows(np.array([7, 7])), np.asarray(wrap_angle(both)), np.ones(14), np.tile(np.arange(7.0), 2))
    want = np.linspace(0, 3, 7)
    assert np.abs(wrap_angle(voted - np.concatenate([want, want + 2.0]))).max() < 1e-9


def test_area_shared_by_boxes_worked_out_by_hand():
    a = np.array([[0, 0, 0, 4, 2, 1, 0, 0, 0], [0, 0, 0, 4, 2, 1, 0, 0, 0], [0, 0, 0, 2, 2, 1, 0, 0, 0], [0, 0, 0, 2, 2, 1, 0, 0, 0.0]])
    b = np.array(
        [[0, 0, 0, 4, 2, 1, 0, 0, 0], [1, 0, 0, 4, 2, 1, np.pi / 2, 0, 0], [0, 0, 0, 2, 2, 1, np.pi / 4, 0, 0], [9, 0, 0, 2, 2, 1, 0, 0, 0]]
    )
    octagon = 8 * (np.sqrt(2) - 1)
    assert ground_overlap(a, b) == pytest.approx([8, 4, octagon, 0], abs=1e-4)
    assert ground_iou(a, b) == pytest.approx([1, 1 / 3, octagon / (8 - octagon), 0], abs=1e-4)


def test_divided_differences_estimate_derivatives_at_uneven_times():
    time_s = np.array([0.0, 0.5, 0.8, 2.0, 2.1])
    value = 3 * time_s**3 + 2 * time_s**2 + time_s
    third = difference_rows(np.stack([time_s[:4], time_s[1:]]), 3)
    assert [row @ value[k : k + 4] for k, row in enumerate(third)] == pytest.approx([18.0, 18.0])


def test_parked_cars_tell_that_the_poses_are_too_long():
    evidence, _ = scene([(CAR, 15, 4, 0, 0)], noise_m=0.02, ego_speed=2.0, frames=16)
    ego = evidence.world_from_ego
    box = evidence.box_world.copy()
    box[:, 0] += 0.03 * ego[evidence.frame, 0, 3]  # the world as poses 3 % too long show it
    stretched = Evidence(evidence.timestamps_ns, scaled_poses(ego, 1.03), evidence.frame, box, evidence.class_id, evidence.score)
    estimate = track_scale(stretched, np.arange(16))
    assert estimate is not None
    assert estimate[0] == pytest.approx(1 / 1.03, abs=0.005)


def test_fitted_confidence_is_calibrated():
    generator = np.random.default_rng(1)
    features = generator.normal(size=(4000, len(FEATURES)))
    odds = -0.5 + features @ np.array([1.0, 0.5, 0, 0, 0.3, 0, 0, -0.4, 0])
    weights = fitted_weights(features, generator.random(4000) < logistic(odds))
    assert weights["bias"] == pytest.approx(-0.5, abs=0.15)
    assert weights["local_weight"] == pytest.approx(1.0, abs=0.15)


def test_solving_one_detection_alone_gives_that_box():
    evidence, _ = scene([(CAR, 10, 0, 5, 0)], frames=1, noise_m=0.0)
    tracks = solve_tracks(evidence, [np.array([0])], vehicles())
    assert tracks.box_world[0, :2] == pytest.approx([10, 0])


def test_rows_of_tracks_keep_to_themselves():
    rows = TrackRows(np.array([3, 2]))
    value = np.array([5.0, 1.0, 2.0, 9.0, 7.0])
    assert rows.sums(value).tolist() == [8, 16]
    assert rows.largest(value).tolist() == [5, 9]
    assert rows.quantile(value, np.ones(5)).tolist() == [2, 7]
    assert rows.quantile(value, np.array([4.0, 1, 1, 0, 1])).tolist() == [5, 7]
    assert rows.running(value).tolist() == [5, 6, 8, 9, 16]
    mask = np.array([False, True, False, False, True])
    assert rows.previous(mask).tolist() == [-1, 1, 1, -1, 4]
    assert rows.following(mask).tolist() == [1, 1, -1, 4, 4]
    time_s = np.array([0.0, 1.0, 3.0, 0.0, 1.0])
    pairs = [(int(a), int(b)) for first, second, _ in rows.neighbours(time_s, 2.0) for a, b in zip(first, second, strict=True)]
    assert pairs == [(0, 1), (1, 2), (3, 4)]
    assert (np.diff(rows.clock(time_s)) > 0).all()


def test_a_box_behind_another_one_is_hidden():
    box = np.zeros((4, 9))
    box[:, 3:6] = (4.0, 2.0, 1.5)
    box[:, 2] = 0.75
    box[:, :2] = [(10, 0), (20, 0), (20, 1.5), (10, 8)]  # near, right behind it, half behind it, beside
    hidden = hidden_shares(np.zeros(4, dtype=np.int64), box, np.ones(4, dtype=bool), eye_height_m=0.75)
    assert hidden[[0, 3]].tolist() == [0, 0]
    assert hidden[1] == 1
    assert 0.2 < hidden[2] < 0.9
    assert hidden_shares(np.array([0, 1, 2, 3]), box, np.ones(4, dtype=bool), 0.75).tolist() == [0, 0, 0, 0]


def test_a_chain_that_hops_to_the_next_parked_car_is_cut():
    evidence, owner = scene([(CAR, 10, 0, 0, 0), (CAR, 10 - 3 * np.sin(0.4), 3 * np.cos(0.4), 0, 0)], frames=16, hz=10)
    hop = np.concatenate([np.flatnonzero(owner == 0)[:8], np.flatnonzero(owner == 1)[8:]])
    parts = split_chains([hop], evidence, vehicles())
    assert [set(owner[part].tolist()) for part in parts] == [{0}, {1}]
    whole, _ = scene([(CAR, 0, 0, 8, 0)], frames=16, hz=10)
    assert len(split_chains([np.arange(16)], whole, vehicles())) == 1


def test_a_parked_car_is_the_same_after_a_truck_stood_before_it_for_long():
    evidence, _ = scene([(CAR, 12, 4, 0, 0)], frames=60, hz=4.0, noise_m=0.1, misses={0: range(16, 44)})  # seven seconds
    link = replace(vehicles().link, standing_s=10.0)
    group = replace(vehicles(), link=link, completion=CompletionSettings(fill_s=10.0, fill_score=0.5))
    (track,) = track_clip(evidence, everywhere, TrackingSettings((group,)))
    assert track.frames.tolist() == list(range(60))
    assert len(labels(evidence)) == 2  # without it they are two


def test_many_tracks_solved_together_are_what_each_is_alone():
    evidence, owner = scene([(CAR, -30, 0, 8, 0), (CAR, 20, 6, 0, 0), (CAR, 0, -30, 0, 7)], frames=12, misses={0: range(4, 6)})
    chains = [np.flatnonzero(owner == k) for k in range(3)]
    together = solve_tracks(evidence, chains, vehicles())
    for k, chain in enumerate(chains):
        alone = solve_tracks(evidence, [chain], vehicles())
        assert together.box_world[together.life.owner == k] == pytest.approx(alone.box_world, abs=1e-6)


def test_bad_evidence_and_settings_are_refused_in_words():
    evidence, _ = scene([(CAR, 10, 0, 5, 0)], frames=3)
    with pytest.raises(DataError, match="belongs to another clip"):
        Evidence(
            evidence.timestamps_ns[:2], evidence.world_from_ego[:2], evidence.frame, evidence.box_world, evidence.class_id, evidence.score
        )
    broken = evidence.box_world.copy()
    broken[1, 3] = -1
    with pytest.raises(DataError, match="detection 1"):
        Evidence(evidence.timestamps_ns, evidence.world_from_ego, evidence.frame, broken, evidence.class_id, evidence.score)
    with pytest.raises(ConfigError, match="one group"):
        TrackingSettings((vehicles(), pedestrians(), vehicles()))
    with pytest.raises(ConfigError, match="label limits"):
        TrackingSettings().with_probabilities(0.2, 0.5)
