"""Does `check` see what is wrong with clocks, poses, labels and rigs, and nothing wrong with a good clip?"""

from dataclasses import replace

import numpy as np
import pytest

from scenes.boxes import Box3D
from scenes.check.command import check_clip
from scenes.check.files import check_pictures
from scenes.check.findings import CameraReport, Severity
from scenes.check.labels import check_labels
from scenes.check.motion import check_clocks, check_poses
from scenes.check.rig_sanity import check_rig
from scenes.geometry import NS_PER_S, Trajectory, rigid_from_parts, rotation_from_yaw
from scenes.layers import LabelLayer
from scenes.rigs import Rig, default_rig


def texts(findings) -> str:
    return "\n".join(f"{finding.severity.value} {finding.text}" for finding in findings)


def test_a_good_clip_has_no_findings(tiny_clip_path):
    report = check_clip(tiny_clip_path)
    assert not report.findings and not report.is_broken
    assert (report.num_frames, report.duration_s) == (4, 1.5)
    figures = {camera.camera: (camera.num_pictures, camera.num_readable) for camera in report.cameras}
    assert figures == {"front": (4, 4), "left": (3, 3), "front_fisheye": (4, 4)}
    assert report.cameras[0].offset_ms == pytest.approx((-20, -20, -20))
    assert report.static_drift_mps == pytest.approx(0, abs=1e-9)
    assert report.overall is None


def test_a_clip_without_the_layer_says_so(tiny_clip_path):
    report = check_clip(tiny_clip_path, layer="human")
    assert not report.is_broken and "no label layer 'human' (it has truth)" in texts(report.findings)


def with_view(clip, index: int, camera: str, **changes) -> None:
    views = dict(clip.frames[index].views)
    views[camera] = replace(views[camera], **changes)
    clip.frames[index] = replace(clip.frames[index], views=views)


def clock_findings(clip):
    return check_clocks(clip, [CameraReport(name) for name in clip.rig.names])


def test_a_camera_clock_that_runs_backwards_is_broken(tiny_clip):
    with_view(tiny_clip, 2, "front", timestamp_ns=0)
    findings = clock_findings(tiny_clip)
    assert findings[0].severity is Severity.BROKEN and findings[0].camera == "front"
    assert "views.parquet, frame 2, camera 'front': captured at 0 ns, not after the picture before" in findings[0].text


def test_a_picture_of_another_time_is_a_warning(tiny_clip):
    with_view(tiny_clip, 3, "front", timestamp_ns=tiny_clip.frames[3].timestamp_ns + 400_000_000)
    assert "frame 3, camera 'front': captured +400 ms from the frame's time" in texts(clock_findings(tiny_clip))


def test_a_gap_between_frames_is_named_by_row(tiny_clip):
    tiny_clip.frames[3] = replace(tiny_clip.frames[3], timestamp_ns=tiny_clip.frames[3].timestamp_ns + NS_PER_S)
    assert "frames.parquet', row 3: 1.50 s after the frame before" in texts(clock_findings(tiny_clip)).replace("parquet,", "parquet',")


def test_an_ego_path_that_jumps_is_broken(tiny_clip):
    poses = tiny_clip.trajectory.world_from_ego.copy()
    poses[12:, 0, 3] += 20
    tiny_clip.trajectory = Trajectory(tiny_clip.trajectory.timestamps_ns, poses)
    findings = check_poses(tiny_clip)
    assert "ego.parquet, row 12: the ego path jumps: speed 205.0 m/s" in findings[0].text
    assert findings[0].severity is Severity.BROKEN


def test_millimetres_of_noise_in_a_dense_path_are_no_jump(tiny_clip):
    path = tiny_clip.trajectory
    stamps = np.arange(path.timestamps_ns[0], path.timestamps_ns[-1], NS_PER_S // 500)  # a pose every 2 ms
    poses = path.at(stamps)
    poses[:, 0, 3] += 0.004 * (np.arange(len(stamps)) % 2)  # 2 m/s to and fro between neighbours
    tiny_clip.trajectory = Trajectory(stamps, poses)
    assert not check_poses(tiny_clip)
    poses[len(stamps) // 2 :, 0, 3] += 0.12  # 60 m/s between neighbours, and 1.2 m/s more in the tenth of a second that holds it
    tiny_clip.trajectory = Trajectory(stamps, poses)
    assert not check_poses(tiny_clip)
    poses[len(stamps) // 2 :, 0, 3] += 0.4
    tiny_clip.trajectory = Trajectory(stamps, poses)
    assert "the ego path jumps" in texts(check_poses(tiny_clip))


def test_an_ego_path_that_spins_is_broken(tiny_clip):
    poses = tiny_clip.trajectory.world_from_ego.copy()
    poses[5, :3, :3] = rotation_from_yaw(2.0)
    tiny_clip.trajectory = Trajectory(tiny_clip.trajectory.timestamps_ns, poses)
    assert "row 5: the ego path jumps: turn rate" in texts(check_poses(tiny_clip))


def test_a_frame_whose_pose_contradicts_the_path_is_broken(tiny_clip):
    moved = tiny_clip.frames[1].world_from_ego.copy()
    moved[1, 3] += 1.0
    tiny_clip.frames[1] = replace(tiny_clip.frames[1], world_from_ego=moved)
    assert "frames.parquet, row 1: the pose lies 1.00 m and 0.00 degrees from" in texts(check_poses(tiny_clip))


def test_a_view_whose_pose_belongs_to_another_time_is_broken(tiny_clip):
    with_view(tiny_clip, 1, "front_fisheye", world_from_ego_at_cam=tiny_clip.frames[3].world_from_ego)
    findings = check_poses(tiny_clip)
    assert findings[0].camera == "front_fisheye" and "take the pose from the path" in findings[0].text


def test_a_frozen_camera_is_a_warning(tiny_clip_path, tiny_clip):
    first = (tiny_clip_path / "images" / "front" / "000000.jpg").read_bytes()
    for index in (1, 2, 3):
        (tiny_clip_path / "images" / "front" / f"{index:06d}.jpg").write_bytes(first)
    findings, _ = check_pictures(tiny_clip)
    assert "camera 'front': 3 of 4 pictures equal the one before" in texts(findings)


def test_a_camera_without_any_picture_is_a_warning(tiny_clip):
    for index in range(4):
        with_view(tiny_clip, index, "left", image="")
    assert "camera 'left' has no picture in any of 4 frames" in texts(check_pictures(tiny_clip)[0])


def changed_truth(clip, change) -> LabelLayer:
    """The truth layer after `change(boxes, frame)` of each frame's box array."""
    layer = clip.layer("truth")
    for index, boxes in layer.boxes_world.items():
        change(boxes.box, index)
    return layer


def test_standing_objects_that_drift_betray_the_poses(tiny_clip):
    layer = tiny_clip.layer("truth")
    for index, boxes in layer.boxes_world.items():
        many = [replace(boxes.select([1]), track_id=np.array([20 + k])) for k in range(4)]
        layer.boxes_world[index] = type(boxes).concatenate(many)
        layer.boxes_world[index].box[:, 0] += 0.3 * index * 0.5
    findings, drift = check_labels(tiny_clip, layer)
    assert drift == pytest.approx(0.3)
    assert "4 standing objects of layer 'truth' drift through the world by 0.30 m/s" in texts(findings)


def test_two_boxes_of_one_track_in_one_frame_are_broken(tiny_clip):
    layer = tiny_clip.layer("truth")
    layer.boxes_world[1].track_id[:] = 10
    findings, _ = check_labels(tiny_clip, layer)
    assert "frame 1: track 10 has two boxes in one frame" in texts(findings)


def test_a_track_that_leaps_or_changes_its_class_is_found(tiny_clip):
    layer = changed_truth(tiny_clip, lambda box, index: box.__setitem__((0, Box3D.X), 100.0 * index))
    layer.boxes_world[3].class_id[1] = 0
    said = texts(check_labels(tiny_clip, layer)[0])
    assert "broken" in said and "track 10 moves at 200 m/s" in said
    assert "track 11 changes its class (car, pedestrian)" in said


def test_a_box_in_centimetres_is_a_warning(tiny_clip):
    layer = changed_truth(tiny_clip, lambda box, index: box.__setitem__((1, slice(3, 6)), [60.0, 60.0, 180.0]))
    assert "a pedestrian of 60.0 x 60.0 x 180.0 m (l x w x h); check its units" in texts(check_labels(tiny_clip, layer)[0])


def test_no_boxes_at_all_are_no_finding(tiny_clip):
    assert check_labels(tiny_clip, LabelLayer("human")) == ([], None)
    layer = changed_truth(tiny_clip, lambda box, index: None)
    empty = LabelLayer("human", {index: boxes.select([]) for index, boxes in layer.boxes_world.items()})
    assert check_labels(tiny_clip, empty) == ([], None)


def rig_with(**changes) -> Rig:
    rig = default_rig()
    return Rig((replace(rig.cameras[0], **changes), *rig.cameras[1:]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ego_from_cam": rigid_from_parts(np.eye(3), [1, 0, 1.5])}, "its down axis does not point down"),
        (
            {"ego_from_cam": default_rig()["front"].ego_from_cam + np.array([[0, 0, 0, 150.0]] + [[0] * 4] * 3)},
            "stands at (151.75, 0.00, 1.52)",
        ),
        (
            {"ego_from_cam": default_rig()["front_narrow"].ego_from_cam, "fx_px": default_rig()["front_narrow"].fx_px},
            "the same place and lens",
        ),
        ({"cx_px": 1400.0}, "principal point (1400, 128) lies outside the image"),
        ({"cx_px": 20.0, "distortion": ()}, "lies far from the middle"),
        ({"fx_px": 900.0, "distortion": ()}, "differ by more than a tenth"),
        ({"distortion": (-0.9,)}, "the distortion folds back inside the image"),
    ],
)
def test_implausible_calibrations_are_named(changes, says):
    findings = check_rig(rig_with(**changes), "clip.json")
    assert says in texts(findings) and all(finding.camera.startswith("front") for finding in findings)


def test_the_default_rig_is_plausible():
    assert check_rig(default_rig(), "clip.json") == []
