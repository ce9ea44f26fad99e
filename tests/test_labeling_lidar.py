"""Are detections moved to where a sweep's points say that their faces are?"""

import numpy as np
import pytest

from labeling.clip_labels import label_clip
from labeling.lidar import RADIAL_M, behind_faces, clip_sweeps, range_error, ranged
from labeling.settings import LabelSettings
from labeling.tracks.evidence import Evidence
from scenes.clips import Clip, sweep_path
from scenes.errors import DataError
from scenes.geometry import invert_rigid, rigid_from_parts, rotation_from_yaw, transform_points

CAR = np.array([20.0, 0.0, 0.8, 4.0, 2.0, 1.6, 0.0, np.nan, np.nan])


def rear_face(x: float, count: int = 9) -> np.ndarray:
    """Points on a plane across x, as wide and high as the car's rear."""
    y, z = np.meshgrid(np.linspace(-0.7, 0.7, count), np.linspace(0.5, 1.2, 4))
    return np.stack([np.full(y.size, x), y.ravel(), z.ravel()], axis=1)


def test_points_on_the_rear_are_no_way_behind_it():
    """The car reaches from x = 18 to 22; its rear is met at 18 by a ray along x, a little later by slanted ones."""
    assert behind_faces(rear_face(18.0), CAR) == pytest.approx(0.0, abs=1e-9)
    straight = np.array([[18.5, 0.0, 1.0], [18.5, 0.0, 0.1], [18.5, 3.0, 1.0]])  # on the road; beside the car
    assert behind_faces(straight, CAR) == pytest.approx([0.5])


def test_a_car_too_near_is_moved_onto_its_points_not_to_the_wall_behind():
    wall = np.concatenate([rear_face(26.0, 60)] * 2)
    assert range_error(np.concatenate([rear_face(19.5), wall]), CAR) == pytest.approx(1.5, abs=0.02)
    assert np.isnan(range_error(np.concatenate([rear_face(18.0)[:4], wall]), CAR))
    assert np.isnan(range_error(np.zeros((0, 3)), CAR))


def test_detections_move_along_their_ray_and_know_it():
    """Two cars at 20 m, one ahead and one to the left of a vehicle that looks along world y; only the one ahead has points."""
    pose = rigid_from_parts(rotation_from_yaw(np.pi / 2), np.array([100.0, 50.0, 0.0]))
    box = np.array([CAR, CAR])
    box[0, :2], box[0, 6] = (100.0, 70.0), np.pi / 2
    box[1, :2], box[1, 6] = (80.0, 50.0), np.pi / 2
    evidence = Evidence(
        np.array([0, 100_000_000]), np.stack([pose, pose]), np.array([1, 1]), box, np.zeros(2, dtype=np.int64), np.array([0.8, 0.7])
    )
    moved, count = ranged(evidence, lambda frame: rear_face(17.0) if frame == 1 else None)
    assert count == 1
    assert moved.box_world[:, :2] == pytest.approx(np.array([[100.0, 69.0], [80.0, 50.0]]), abs=0.02)
    assert moved.source is not None and moved.source.tolist() == ["lidar", ""]
    assert moved.covariance is not None
    assert moved.covariance[0] == pytest.approx(np.diag([0.2**2, RADIAL_M**2]))
    assert np.isnan(moved.covariance[1]).all()


def test_a_broken_sweep_is_named(tiny_clip):
    sweeps = clip_sweeps(tiny_clip)
    assert sweeps(0) is None
    path = sweep_path(tiny_clip.path, 0)
    path.parent.mkdir()
    np.savez(path, points_ego=np.array([[1.0, 2.0, 3.0], [np.nan, 0, 0]]))
    assert sweeps(0) == pytest.approx(np.array([[1.0, 2.0, 3.0]]))
    path.write_bytes(b"no sweep")
    with pytest.raises(DataError, match=r"000000\.npz: expected a sweep"):
        sweeps(0)


def test_a_job_with_lidar_puts_labels_where_the_points_are(tiny_clip):
    """The evidence (the truth) has the car a metre nearer than the sweeps do."""
    for index, frame in enumerate(tiny_clip.frames):
        (x, y, z), length = tiny_clip.layer("truth").boxes_world[index].box[0, :3], 4.5
        points_world = rear_face(x - length / 2 + 1.0) + np.array([0.0, y, z - 0.8])
        sweep_path(tiny_clip.path, index).parent.mkdir(exist_ok=True)
        np.savez(sweep_path(tiny_clip.path, index), points_ego=transform_points(invert_rigid(frame.world_from_ego), points_world))
    results = label_clip(tiny_clip.path, LabelSettings("auto@lidar", evidence="truth", lidar=True, pictures=False))
    assert next(result for result in results if result.name == "tracks").counts["ranged"] == len(tiny_clip)
    clip = Clip.open(tiny_clip.path)
    for index, boxes in clip.layer("auto@lidar").boxes_world.items():
        true, found = (b.box[b.class_id == 0][0] for b in (clip.layer("truth").boxes_world[index], boxes))
        assert np.hypot(*(found[:2] - true[:2])) == pytest.approx(1.0, abs=0.25)
        assert found[0] > true[0] + 0.7
    again = label_clip(tiny_clip.path, LabelSettings("auto@lidar", evidence="truth", lidar=True, pictures=False))
    assert all(result.reused for result in again)


def test_a_clip_without_sweeps_says_so(tiny_clip):
    results = label_clip(tiny_clip.path, LabelSettings("auto@lidar", evidence="truth", lidar=True, pictures=False))
    assert any("no lidar sweeps" in note for result in results for note in result.notes)
