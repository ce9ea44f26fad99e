"""Is a known error of ego motion, clock and mount found again, and is what cannot be told left alone?"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from labeling.clip_labels import label_clip
from labeling.motion import stage
from labeling.motion.adjustment import RoadContacts, Sigmas, adjust
from labeling.motion.crossing import match_crossings
from labeling.motion.features import flow_sigma_px, follow_corners, road_distance
from labeling.motion.perturbation import Roughness, roughened
from labeling.motion.pictures import GreyPictures, evenly_lit, read_pictures
from labeling.motion.refine import Found, fixed_points, refine, stands, triangulate_or_far
from labeling.motion.settings import CrossingSettings, DecisionSettings, FeatureSettings, MotionSettings, PriorSettings, RefineMotion
from labeling.motion.sightings import Sightings, reprojection_px, triangulate
from labeling.motion.state import MotionState, refined_cameras_at, refined_clip, stored_cameras_at
from labeling.motion.verdict import Verdict, corrected_clip, decide, findings, read_verdict, write_verdict
from labeling.settings import LabelSettings
from scenes.atomic import read_json
from scenes.boxes import Boxes
from scenes.clips import Clip, Frame, View, write_clip
from scenes.errors import ConfigError, DataError
from scenes.geometry import (
    NS_PER_S,
    Trajectory,
    invert_rigid,
    rigid_from_parts,
    rotation_from_rotvec,
    rotation_from_yaw,
    rotvec_from_rotation,
    transform_points,
)
from scenes.layers import LabelLayer, write_layer_files
from scenes.rigs import Rig, default_rig, ego_from_cam_looking, pinhole_camera
from surround4d import main

DEFAULT_PRIORS = PriorSettings()
NO_ROAD = RoadContacts(np.zeros(0, np.int64), np.zeros(0, np.int64))


def drive(frames: int = 16, rig: Rig | None = None, speed_mps: float = 8.0, turn_radps: float = 0.06) -> Clip:
    """A clip without pictures: a wide bend at even speed, ten frames a second, cameras firing up to 20 ms beside the frame."""
    rig = rig or default_rig(192, 528)
    stamps = np.arange(-10, 10 * frames + 10, dtype=np.int64) * (NS_PER_S // 100)
    seconds = stamps / NS_PER_S
    yaw = turn_radps * seconds
    radius = speed_mps / turn_radps
    place = np.stack([radius * np.sin(yaw), radius * (1 - np.cos(yaw)), 0 * yaw], axis=1)
    path = Trajectory(stamps, rigid_from_parts(rotation_from_yaw(yaw), place))
    found = []
    for index in range(frames):
        stamp = index * NS_PER_S // 10
        views = {}
        for k, name in enumerate(rig.names):
            at = stamp + (k % 3 - 1) * NS_PER_S // 50
            views[name] = View(name, at, path.at(at), "there.jpg")
        found.append(Frame(index, stamp, path.at(stamp), views))
    return Clip(Path("drive"), "drive", rig, found, path)


def sightings_of(clip: Clip, points_world: np.ndarray, noise_px: float = 0.0) -> Sightings:
    """What the cameras see of points (P, 3) nearer than 50 m, whatever stands in between."""
    rng, rows, cameras_at = np.random.default_rng(0), [], stored_cameras_at(clip)
    for frame in range(len(clip)):
        for index, camera in enumerate(clip.rig.cameras):
            points_cam = transform_points(invert_rigid(cameras_at[frame, index]), points_world)
            pixel, seen = camera.project(points_cam)
            for track in np.flatnonzero(seen & (np.linalg.norm(points_cam, axis=1) < 50)):
                rows.append((track, frame, index, *(pixel[track] + rng.normal(0, noise_px, 2))))
    table = np.array(rows)
    return Sightings.of_pixels(clip.rig, *table[:, :3].astype(np.int64).T, table[:, 3:]).renumbered()


def seen_again(clip: Clip, seen: Sightings) -> Sightings:
    """The same pixels, seen with the (wrong) rig of another clip."""
    return Sightings.of_pixels(clip.rig, seen.track, seen.frame, seen.camera, seen.pixel_px)


def points_around(clip: Clip, count: int) -> np.ndarray:
    """(count, 3): half of them on the road, all within 25 m of the path."""
    rng = np.random.default_rng(1)
    base = np.stack([frame.world_from_ego for frame in clip.frames])[rng.integers(0, len(clip), count)]
    distance, angle = rng.uniform(4, 25, count), rng.uniform(-np.pi, np.pi, count)
    height = np.where(np.arange(count) % 2 == 0, 0.0, rng.uniform(0, 5, count))
    return transform_points(base, np.stack([distance * np.cos(angle), distance * np.sin(angle), height], axis=-1))


def solved(rough: Clip, seen: Sightings, road: RoadContacts = NO_ROAD, priors: PriorSettings = DEFAULT_PRIORS) -> MotionState:
    """Triangulate with the rough motion, adjust."""
    state = MotionState.stored(rough)
    points, _ = triangulate_or_far(refined_cameras_at(rough, state)[seen.frame, seen.camera], seen)
    return adjust(rough, state, seen, points, road, priors, iterations=10).state


def test_a_point_is_triangulated_where_two_rays_meet():
    # Cameras at x = 0 and x = 2 that look along world y; the point (1, 5, 0) is 1 m right of the first, 1 m left of the second.
    world_from_cam = np.tile(rigid_from_parts(np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.zeros(3)), (2, 1, 1))
    world_from_cam[1, 0, 3] = 2.0
    ray = np.array([[1.0, 0, 5], [-1, 0, 5]]) / np.sqrt(26)
    whole = np.array([0, 1])
    seen = Sightings(np.zeros(2, np.int64), whole, whole, np.zeros((2, 2)), ray, np.full(2, 100.0), np.ones(2))
    points, parallax = triangulate(world_from_cam, seen, 1)
    assert points[0] == pytest.approx([1, 5, 0])
    assert parallax[0] == pytest.approx(1 / 26)  # the square of the sine of half the angle between the rays
    assert reprojection_px(world_from_cam, seen, points) == pytest.approx([0, 0], abs=1e-6)
    higher = reprojection_px(world_from_cam, seen, points + np.array([0, 0, 0.1]))  # 0.1 m at sqrt(26) m: 19.6 mrad, 100 pixels a radian
    assert higher == pytest.approx([1.961, 1.961], abs=1e-3)


def test_rays_meet_the_road_by_height_over_slope():
    down = np.array([[0.8, 0.0, -0.6], [1.0, 0.0, 0.0]])
    assert road_distance(np.array([[0, 0, 1.5], [0, 0, 1.5]]), down, np.eye(4)) == pytest.approx([2.5, np.inf])


def test_rough_motion_is_one_percent_long_and_turns_half_a_degree_in_ten_seconds():
    clip = drive(16, turn_radps=1e-9)
    rough = roughened(clip, Roughness(clock_camera="rear"))
    way = rough.frames[-1].world_from_ego[:3, 3]
    assert np.linalg.norm(way) == pytest.approx(1.01 * 12.0, rel=1e-3)
    turned = rotvec_from_rotation(rough.frames[-1].world_from_ego[:3, :3])
    assert np.rad2deg(turned[2]) == pytest.approx(0.05 * 1.5, rel=1e-2)
    assert rough.frames[3].views["rear"].timestamp_ns - clip.frames[3].views["rear"].timestamp_ns == 20_000_000
    assert np.allclose(rough.frames[0].world_from_ego, clip.frames[0].world_from_ego)


def test_scale_drift_clock_and_mount_are_found_from_points_that_pass_between_cameras():
    clip = drive()
    seen = sightings_of(clip, points_around(clip, 160), noise_px=0.2)
    mounts = np.zeros((8, 3))
    mounts[0] = (0.0, 0.004, 0.0)  # the front camera is stored turned by 0.23 degrees
    rough = roughened(clip, Roughness(clock_camera="left_forward", rotvec_cam=tuple(map(tuple, mounts))))
    state = solved(rough, seen_again(rough, seen))
    assert state.scale == pytest.approx(1 / 1.01, abs=0.002)
    assert state.clock_s[3] == pytest.approx(-0.02, abs=0.003)
    assert np.abs(np.delete(state.clock_s, 3)).max() < 0.003
    assert state.rotvec_cam[0, 1] == pytest.approx(-0.004, abs=0.0015)
    end = invert_rigid(clip.frames[-1].world_from_ego) @ state.world_from_ego[-1]
    assert np.linalg.norm(end[:3, 3]) < 0.04  # it was 0.12
    assert np.rad2deg(np.linalg.norm(rotvec_from_rotation(end[:3, :3]))) < 0.03


def test_without_a_second_look_the_height_over_the_road_gives_the_scale():
    clip = drive(12, Rig((pinhole_camera("front", 1.2, 528, 192, ego_from_cam_looking((1.7, 0, 1.5), 0.0, 0.1)),)), turn_radps=1e-6)
    points = points_around(clip, 200)
    rough = roughened(clip, Roughness(drift_rad_per_s=(0.0, 0.0, 0.0)))
    seen = sightings_of(clip, points)
    order = np.unique(seen.track, return_index=True)[1]
    points, _ = triangulate_or_far(stored_cameras_at(clip)[seen.frame, seen.camera], seen)
    on_road = np.flatnonzero(np.abs(points[:, 2]) < 1e-3)
    blind = solved(rough, seen)
    told = solved(rough, seen, RoadContacts(on_road, seen.frame[order[on_road]]))
    assert blind.scale == pytest.approx(1.0, abs=1e-3)  # one camera, straight on: only the stored motion says how far
    assert told.scale == pytest.approx(1 / 1.01, abs=0.004)


def test_a_vehicle_that_stands_learns_neither_scale_nor_clocks():
    clip = drive(8, speed_mps=0.02, turn_radps=1e-6)
    assert stands(clip) and not stands(drive(8))
    # Stored places tremble by 2 mm, as those of real recordings do: a clock or a scale would "explain" some of it.
    rng = np.random.default_rng(3)
    seen = sightings_of(clip, points_around(clip, 80), noise_px=0.2)
    trembling = [replace(frame, world_from_ego=frame.world_from_ego @ _shifted(rng.normal(0, 0.002, 3))) for frame in clip.frames]
    stamps = np.array([frame.timestamp_ns for frame in clip.frames], dtype=np.int64)
    path = Trajectory(stamps, np.stack([frame.world_from_ego for frame in trembling]))
    stored = Clip(clip.path, clip.name, clip.rig, trembling, path)
    free, held = (solved(stored, seen, priors=priors) for priors in (PriorSettings(), PriorSettings().of_a_standing_vehicle()))
    assert abs(free.scale - 1) > DecisionSettings().rough_scale  # out of nothing
    assert abs(held.scale - 1) < 1e-4 and np.abs(held.clock_s).max() < 1e-4


def _shifted(place_m: np.ndarray) -> np.ndarray:
    return rigid_from_parts(np.eye(3), place_m)


def test_exact_motion_stays():
    clip = drive()
    state = solved(clip, sightings_of(clip, points_around(clip, 100)))
    wrong = findings(clip, state)
    assert abs(wrong.scale) < 1e-3 and wrong.drift_rad_per_s < 1e-4 and np.abs(wrong.clock_s).max() < 5e-4


def test_the_refined_path_goes_through_the_refined_frames_and_shifts_captures():
    clip = drive(4)
    state = MotionState.stored(clip)
    moved = rigid_from_parts(rotation_from_rotvec(np.array([0, 0, 0.01])), np.array([1.0, 2.0, 0.0]))
    clock = np.zeros(8)
    clock[2] = 0.005
    state = replace(state, world_from_ego=moved @ state.world_from_ego, clock_s=clock)
    better = refined_clip(clip, state)
    assert np.allclose(better.trajectory.at(clip.frames[2].timestamp_ns), moved @ clip.frames[2].world_from_ego)
    name = clip.rig.names[2]
    view, stored = better.frames[1].views[name], clip.frames[1].views[name]
    assert view.timestamp_ns == stored.timestamp_ns + 5_000_000
    assert np.allclose(view.world_from_ego_at_cam, moved @ clip.trajectory.at(view.timestamp_ns), atol=1e-5)
    assert better.layer_names == clip.layer_names and better.path == clip.path


def test_what_lies_below_the_road_or_moves_is_no_fixed_point():
    clip = drive(8, turn_radps=1e-6)
    cameras_at = stored_cameras_at(clip)
    standing = points_around(clip, 40)
    seen = sightings_of(clip, standing)
    # A car 15 m ahead at the ego vehicle's own speed: its rays do not turn, so they seem to meet far away, below the road.
    front = clip.rig.cameras[0]
    pixel, _ = front.project(transform_points(front.cam_from_ego, np.array([[15.0, 0.5, 0.6]])))
    whole = np.arange(8)
    car = Sightings.of_pixels(clip.rig, np.full(8, 1000), whole, np.zeros(8, np.int64), np.repeat(pixel, 8, axis=0))
    both = Sightings.join([seen, car]).renumbered()
    kept, points, _ = fixed_points(clip, both, MotionState.stored(clip), cameras_at, FeatureSettings(), 2.0)
    assert not (np.abs(kept.pixel_px - pixel).max(axis=1) < 1e-9).any()
    assert kept.num_tracks > 25
    assert np.isfinite(points).all()


def test_a_weak_corner_that_does_not_move_may_be_the_pictures_own_pattern():
    clip = drive(8, turn_radps=1e-6)
    far = np.array([[400.0, 20.0, 60.0], [400.0, -30.0, 80.0]])  # above the horizon, a kilometre's parallax away: both stay where they are
    seen = Sightings.of_pixels(clip.rig, np.repeat([0, 1], 8), np.tile(np.arange(8), 2), np.zeros(16, np.int64), np.zeros((16, 2)))
    front, cameras_at = clip.rig.cameras[0], stored_cameras_at(clip)
    point_cam = transform_points(invert_rigid(cameras_at[seen.frame, seen.camera]), far[seen.track])
    seen = Sightings.of_pixels(clip.rig, seen.track, seen.frame, seen.camera, front.project(point_cam)[0], np.repeat([1.0, 2.0], 8))
    kept, points, _ = fixed_points(clip, seen, MotionState.stored(clip), cameras_at, FeatureSettings(), 2.0)
    assert kept.num_tracks == len(points) == 1 and (kept.spread == 1.0).all()  # the sharp one says how the vehicle turns


# --- pictures made by hand: a wall with random blots, seen by two cameras -------------------------------------------------------------


def wall_pictures(clip: Clip, cell_m: float = 0.15) -> GreyPictures:
    """What the cameras see of a wall 12 m to the front (the plane x = 22), painted with random cells; no road, no shadows."""
    rng = np.random.default_rng(3)
    paint = cv2.GaussianBlur(rng.integers(0, 256, (400, 700)).astype(np.float32), (0, 0), 1.0)
    paint = np.clip((paint - paint.mean()) * 3 + 128, 0, 255).astype(np.uint8)
    cameras_at, pictures = stored_cameras_at(clip), {}
    for index, camera in enumerate(clip.rig.cameras):
        u, v = np.meshgrid(np.arange(camera.width_px), np.arange(camera.height_px))
        rays = camera.unproject(np.stack([u, v], axis=-1).astype(np.float64))
        for frame in range(len(clip)):
            pose = cameras_at[frame, index]
            ray = rays @ pose[:3, :3].T
            hit = pose[:3, 3] + ((22.0 - pose[0, 3]) / np.maximum(ray[..., 0], 1e-3))[..., None] * ray
            cells = np.stack([hit[..., 1] / cell_m + 350, hit[..., 2] / cell_m + 150], axis=-1).astype(np.float32)
            pictures[frame, index] = cv2.remap(paint, cells, None, cv2.INTER_LINEAR, borderValue=0)
    return GreyPictures(pictures, {}, np.ones(len(clip.rig)), [])


def two_front_cameras() -> Rig:
    """Side by side, 1.2 m apart, the right one longer."""
    return Rig(
        (
            pinhole_camera("left", 1.2, 264, 128, ego_from_cam_looking((1.7, 0.6, 1.5), 0.0), (-0.1, 0.02, 0.0, 0.0, 0.0)),
            pinhole_camera("right", 1.0, 264, 128, ego_from_cam_looking((1.7, -0.6, 1.5), 0.0)),
        )
    )


def test_corners_are_followed_and_found_in_the_other_camera_to_a_fraction_of_a_pixel():
    clip = drive(6, two_front_cameras(), speed_mps=5.0, turn_radps=1e-6)
    pictures, cameras_at = wall_pictures(clip), stored_cameras_at(clip)
    flows = follow_corners(clip, pictures, cameras_at, FeatureSettings(corners_per_camera=60))
    on_wall = Sightings.of_pixels(clip.rig, flows.track, flows.frame, flows.camera, flows.pixel_px)
    pose = cameras_at[on_wall.frame, on_wall.camera]
    ray = np.einsum("sij,sj->si", pose[:, :3, :3], on_wall.ray_cam)
    hit = pose[:, :3, 3] + ((22.0 - pose[:, 0, 3]) / ray[:, 0])[:, None] * ray  # where the pixel's ray meets the painted wall
    first = np.unique(flows.track, return_index=True)[1]
    drift_m = np.linalg.norm(hit - hit[first][flows.track], axis=1)
    assert np.median(drift_m[flows.frame > flows.frame[first][flows.track]]) < 0.02  # a pixel is 0.07 m there
    found = match_crossings(clip, pictures, flows, hit[first], cameras_at, CrossingSettings(), 6.0)
    assert len(found) > 60
    error = reprojection_px(cameras_at[found.frame, found.camera], found, hit[first])
    assert np.median(error) < 0.5
    for index, camera in enumerate(clip.rig.cameras):  # no systematic shift, which would look like a turned camera
        own = found.select(found.camera == index)
        points_cam = transform_points(invert_rigid(cameras_at[own.frame, index]), hit[first][own.track])
        assert np.abs((own.pixel_px - camera.project(points_cam)[0]).mean(axis=0)).max() < 0.15
    # The camera that found a point is not the one that followed it.
    assert (flows.camera[first][found.track] != found.camera).all()


def test_a_patch_is_known_as_well_as_its_slopes_stand_out_from_the_noise():
    grey = np.zeros((40, 40), np.uint8)
    ramp = 100 + 8 * (np.arange(20) % 14)  # 8 grey levels a pixel, to the right in the left half, downwards in the right half
    grey[:, :20], grey[:, 20:] = ramp, np.r_[ramp, ramp][:, None]
    # A window of 12 about the seam: slopes of 8 in half of it each way, so 32 a pixel along the weakest direction, over 144 pixels.
    # A mean difference of 2 grey levels is noise of 2 * sqrt(pi / 2) = 2.507: 2.507 / sqrt(144 * 32) = 0.0369 px.
    sigma = flow_sigma_px(grey, np.array([[20.0, 6.0]]), np.array([2.0]), 12)
    assert sigma[0] == pytest.approx(0.0369, rel=0.15)
    assert flow_sigma_px(np.full((40, 40), 90, np.uint8), np.array([[20.0, 20.0]]), np.array([2.0]), 12)[0] > 100


def test_light_is_evened_out_and_noise_is_not_stretched_to_a_pattern():
    chess = np.indices((60, 80)).sum(axis=0) % 2 * 2.0 - 1.0  # its mean is 0 and its contrast 1 wherever one looks
    for level, contrast in ((120, 40), (60, 20), (100, 3)):
        even = evenly_lit((level + contrast * chess).astype(np.uint8))[25:35, 35:45].astype(float)
        # 40 grey levels times the contrast over the root of its square and 6 squared: 39.6, 38.3, and 17.9 for what may be noise
        expected = 40 * contrast / np.hypot(contrast, 6)
        assert np.abs(np.abs(even - 127.75) - expected).max() < 1.0, contrast
    assert (evenly_lit(np.full((30, 40), 200, np.uint8)) == 128).all()


def test_a_clip_of_two_frames_a_second_is_taken_as_it_is_and_says_why(tiny_clip_path):
    clip = Clip.open(tiny_clip_path)
    assert refine(clip, MotionSettings()) is None
    verdict = decide(clip, None, RefineMotion.ON, DecisionSettings())
    assert not verdict.refined and "ego motion not checked, its frames are 0.50 s apart" in verdict.reason
    assert corrected_clip(clip, verdict) is clip
    results = label_clip(tiny_clip_path, LabelSettings("auto@slow", evidence="truth", refine_motion=RefineMotion.AUTO, pictures=False))
    assert "3.3 frames a second" in str(next(result.notes for result in results if result.name == "motion"))


def test_a_camera_without_pictures_is_left_out():
    clip = drive(6, two_front_cameras(), speed_mps=5.0, turn_radps=1e-6)
    for frame in clip.frames:
        frame.views["right"] = replace(frame.views["right"], image="")
    pictures = read_pictures(clip, 1024)
    assert pictures.dead == ["left", "right"]  # the left one's files are not there either
    assert refine(clip, MotionSettings(), pictures) is None


def found_with(clip: Clip, state: MotionState, before_px: float, after_px: float, after_loss: float = 1.0) -> Found:
    """A solution that leaves losses of 2 (stored motion) and `after_loss`."""
    nothing = sightings_of(clip, points_around(clip, 4))
    return Found(
        state, nothing, np.zeros((4, 3)), before_px, after_px, 2.0, after_loss, Sigmas(0.003, 0.0005, np.full(8, 0.001)), 400, 90, 10
    )


def test_rough_motion_is_replaced_good_motion_kept_and_hopeless_clips_refused():
    clip = drive(6)
    state = replace(MotionState.stored(clip), scale=1 / 1.01)
    better = decide(clip, found_with(clip, state, 0.6, 0.4), RefineMotion.AUTO, DecisionSettings())
    assert better.refined and "+1.00 % too long" in better.reason
    fits_noise = decide(clip, found_with(clip, state, 0.6, 0.58, after_loss=1.9), RefineMotion.AUTO, DecisionSettings())
    assert not fits_noise.refined and "explains only 5 % more" in fits_noise.reason  # 1 - 1.9 / 2; 7 % are asked
    unsure = replace(found_with(clip, state, 0.6, 0.4), sigmas=Sigmas(0.006, 0.0005, np.full(8, 0.001)))
    assert not decide(clip, unsure, RefineMotion.AUTO, DecisionSettings()).refined  # 1 % known to 0.6 %: less than two sigmas
    close = replace(state, scale=1 / 1.001)
    assert not decide(clip, found_with(clip, close, 0.41, 0.4), RefineMotion.AUTO, DecisionSettings()).refined
    assert decide(clip, found_with(clip, close, 0.41, 0.4), RefineMotion.ON, DecisionSettings()).refined
    assert not decide(clip, found_with(clip, state, 0.4, 0.5), RefineMotion.ON, DecisionSettings()).refined
    with pytest.raises(DataError, match=r"quarantined: .* within 1 pixel .* got 1\.40 after refinement \(2\.00 before\)"):
        decide(clip, found_with(clip, state, 2.0, 1.4), RefineMotion.ON, DecisionSettings())


def test_the_verdict_reads_back(tmp_path):
    clip = drive(5)
    state = replace(MotionState.stored(clip), scale=0.99, clock_s=np.linspace(-0.01, 0.02, 8), rotvec_cam=np.full((8, 3), 0.001))
    verdict = decide(clip, found_with(clip, state, 0.6, 0.4), RefineMotion.ON, DecisionSettings())
    write_verdict(tmp_path / "motion.npz", clip, verdict)
    back = read_verdict(tmp_path / "motion.npz")
    assert back.reason == verdict.reason and back.refined and back.after_px == 0.4
    for name, value in vars(state).items():
        assert np.array_equal(getattr(back.state, name), value)


def test_nonsense_settings_are_refused():
    with pytest.raises(ConfigError, match="at least 8 corners"):
        FeatureSettings(corners_per_camera=2)


def test_labels_made_with_refined_motion_fit_the_recorded_poses(tiny_clip_path, monkeypatch):
    clip = Clip.open(tiny_clip_path)
    # The refined path lies 30 m aside and is turned by 40 degrees; in each frame's ego frame nothing changes.
    aside = rigid_from_parts(rotation_from_yaw(np.deg2rad(40)), np.array([0.0, 30.0, 0.0]))
    state = replace(MotionState.stored(clip), world_from_ego=aside @ MotionState.stored(clip).world_from_ego)
    monkeypatch.setattr(stage, "refined_verdict", lambda *_: Verdict(state, True, "refined for the test"))
    results = label_clip(tiny_clip_path, LabelSettings("auto@moved", evidence="truth", refine_motion=RefineMotion.ON))
    assert "refined for the test" in next(result.notes for result in results if result.name == "motion")
    labels, truth = Clip.open(tiny_clip_path).layer("auto@moved"), clip.layer("truth")
    for index, boxes in labels.boxes_world.items():
        order = np.argsort(boxes.class_id)
        assert np.abs(boxes.box[order, :2] - truth.boxes_world[index].box[:, :2]).max() < 0.3
        assert boxes.box[order[0], 7:9] == pytest.approx([4.0, 0.0], abs=0.5)
    label_clip(tiny_clip_path, LabelSettings("auto@still", evidence="truth", refine_motion=RefineMotion.OFF))
    assert not (tiny_clip_path / "labeling" / "auto@still" / "motion.npz").exists()


def write_wall_clip(path: Path, shake_px: int) -> Path:
    """The drive towards the painted wall as a clip; every picture is shifted by up to so many pixels, each its own way."""
    drive_clip, rng = drive(8, two_front_cameras(), speed_mps=5.0, turn_radps=1e-6), np.random.default_rng(5)
    pictures, behind = wall_pictures(drive_clip), Boxes.make([[-15.0, 0, 0.8, 4.5, 1.9, 1.6, 0.0, 0, 0]], [0], track_id=[1])
    with write_clip(path, path.name, drive_clip.rig, drive_clip.trajectory, {}) as writer:
        write_layer_files(writer.layer_folder("truth"), LabelLayer("truth", dict.fromkeys(range(8), behind), [], {}))
        for frame in drive_clip.frames:
            for index, (name, view) in enumerate(frame.views.items()):
                shaken = np.roll(pictures.pictures[frame.index, index], rng.integers(-shake_px, shake_px + 1, 2), (0, 1))
                image = writer.write_image(name, frame.index, np.repeat(shaken[..., None], 3, axis=2))
                frame.views[name] = replace(view, image=image)
            writer.add_frame(frame.timestamp_ns, frame.world_from_ego, list(frame.views.values()))
    return path


def test_a_clip_whose_pictures_no_motion_explains_is_quarantined_and_the_job_goes_on(tmp_path, capsys):
    for name, shake_px in (
        ("firm", 0),
        ("loose", 4),
    ):  # two loose cameras shake apart: no path of the vehicle, clock or mount explains that
        write_wall_clip(tmp_path / name, shake_px)
    told = ["--layer", "auto@q", "--evidence", "truth", "--refine-motion", "on", "--no-pictures"]
    assert main(["label", str(tmp_path), *told]) == 2
    capsys.readouterr()
    report = read_json(tmp_path / "labeling" / "auto@q.json")
    failures = [outcome["failure"] for outcome in report["clips"]]
    assert failures[0] in (None, "") and "loose: quarantined: expected fixed points within 1 pixel (median)" in failures[1]
    assert "calibrate the rig again, correct the poses, or label with --refine-motion off" in failures[1]
    assert Clip.open(tmp_path / "firm").layer_names == ["auto@q", "truth"] and Clip.open(tmp_path / "loose").layer_names == ["truth"]
    assert main(["label", str(tmp_path), *told[:-3], "--refine-motion", "off", "--no-pictures"]) == 0  # the remedy that the sentence names
    capsys.readouterr()
