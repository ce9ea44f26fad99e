"""What do the tests share? Where the real data lies, and a tiny clip made by hand."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from scenes.boxes import Boxes
from scenes.clips import Clip, View, write_clip
from scenes.geometry import NS_PER_S, Trajectory, rigid_from_parts, rotation_from_yaw, transform_points
from scenes.layers import (
    DEPTH_UNIT_M,
    OCCUPANCY_CLASS_OFFSET,
    OCCUPANCY_ROAD,
    LabelLayer,
    Lane,
    LaneType,
    Occupancy,
    VoxelGrid,
    write_image16,
    write_layer_files,
    write_occupancy,
)
from scenes.rigs import Rig, ego_from_cam_looking, fisheye_camera, pinhole_camera

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))


@pytest.fixture(autouse=True)
def _one_torch_thread():
    """Tests run side by side on two cores: one torch thread each, where torch is loaded at all."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real recordings (never part of the repository); tests that need it are skipped without it."""
    path = Path(os.environ.get("SURROUND4D_REALDATA", REPOSITORY.parent / "shared" / "realdata"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path} (set SURROUND4D_REALDATA)")
    return path


@pytest.fixture(scope="session")
def weights() -> Path:
    """The folder of pretrained weights; tests that need it are skipped without it."""
    path = Path(os.environ.get("SURROUND4D_WEIGHTS", REPOSITORY.parent / "shared" / "weights"))
    if not path.is_dir():
        pytest.skip(f"no pretrained weights at {path} (set SURROUND4D_WEIGHTS)")
    return path


TINY_FRAMES = 4
TINY_EGO_SPEED_MPS = 5.0
TINY_CAR_WORLD_AT_START = (15.0, 2.0)
"""x, y of a car that drives 4 m/s along world +x; a pedestrian stands at (8, -3)."""


def tiny_rig(width_px: int = 64, height_px: int = 48) -> Rig:
    """A front pinhole with distortion, a left pinhole and a front fisheye."""
    size = (width_px, height_px)
    return Rig(
        (
            pinhole_camera("front", np.deg2rad(80), *size, ego_from_cam_looking((1.5, 0, 1.5), 0.0), (-0.1, 0.02, 0.001, -0.001, 0.0)),
            pinhole_camera("left", np.deg2rad(90), *size, ego_from_cam_looking((1.0, 0.8, 1.5), np.pi / 2)),
            fisheye_camera("front_fisheye", np.deg2rad(150), *size, ego_from_cam_looking((1.9, 0, 1.2), 0.0, 0.1), (0.01, -0.002)),
        )
    )


def tiny_trajectory() -> Trajectory:
    """The ego drives straight at 5 m/s while turning 0.05 rad/s: 0 to 3 s, ten poses a second, at height 0."""
    stamps = np.arange(0, 31, dtype=np.int64) * (NS_PER_S // 10)
    seconds = stamps / NS_PER_S
    translation = np.stack([TINY_EGO_SPEED_MPS * seconds, 0.2 * seconds, 0 * seconds], axis=1)
    return Trajectory(stamps, rigid_from_parts(rotation_from_yaw(0.05 * seconds), translation))


def tiny_truth(frames: int = TINY_FRAMES) -> LabelLayer:
    """The truth of `tiny_clip`: one moving car, one standing pedestrian and one divider."""
    boxes = {}
    for index in range(frames):
        car_x = TINY_CAR_WORLD_AT_START[0] + 4.0 * 0.5 * index
        boxes[index] = Boxes.make(
            [
                [car_x, TINY_CAR_WORLD_AT_START[1], 0.8, 4.5, 1.9, 1.6, 0.0, 4.0, 0.0],
                [8.0, -3.0, 0.9, 0.6, 0.6, 1.8, 1.0, 0.0, 0.0],
            ],
            [0, 5],
            track_id=[10, 11],
            visibility=[1.0, 0.6],
            num_points=[300, 80],
        )
    divider = Lane(1, LaneType.DIVIDER, np.array([[0.0, -1.75, 0.0], [20.0, -1.75, 0.0], [60.0, -1.75, 0.0]]))
    edge = Lane(2, LaneType.ROAD_EDGE, np.array([[0.0, 5.0, 0.0], [60.0, 5.0, 0.0]]))
    return LabelLayer("truth", boxes, [divider, edge], {"created_by": "tests"})


def write_tiny_clip(path: Path, frames: int = TINY_FRAMES) -> Path:
    """Writes the tiny clip: 2 Hz, cameras offset by -20, 0 and +20 ms, the left camera dead at frame 2."""
    rig, trajectory, truth = tiny_rig(), tiny_trajectory(), tiny_truth(frames)
    generator = np.random.default_rng(0)
    grid = VoxelGrid()
    with write_clip(path, path.name, rig, trajectory, {"dataset": "tiny", "licence": "Apache-2.0"}) as writer:
        layer_folder = writer.layer_folder("truth")
        write_layer_files(layer_folder, truth)
        for index in range(frames):
            stamp = index * NS_PER_S // 2
            views = []
            for offset_ms, camera in zip((-20, 0, 20), rig.cameras, strict=True):
                at = stamp + offset_ms * 1_000_000
                shape = (camera.height_px, camera.width_px, 3)
                dead = camera.name == "left" and index == 2
                image = "" if dead else writer.write_image(camera.name, index, generator.integers(0, 255, shape, dtype=np.uint8))
                views.append(View(camera.name, at, trajectory.at(at), image))
                depth = np.full((camera.height_px // 4, camera.width_px // 4), 12.0 / DEPTH_UNIT_M)
                write_image16(layer_folder, "depth", camera.name, index, depth)
                write_image16(layer_folder, "instances", camera.name, index, np.full(depth.shape, 10 + 1))
            writer.add_frame(stamp, trajectory.at(stamp), views)
            write_occupancy(layer_folder, index, _tiny_occupancy(grid, trajectory.at(stamp), truth.boxes_world[index]))
    return path


def _tiny_occupancy(grid: VoxelGrid, world_from_ego: np.ndarray, boxes_world: Boxes) -> Occupancy:
    state = np.zeros(grid.shape, dtype=np.uint8)
    state[:, :, 1] = OCCUPANCY_ROAD
    flow = np.zeros((*grid.shape, 2), dtype=np.float32)
    points_world = transform_points(world_from_ego, grid.centers_ego())
    for box, class_id in zip(boxes_world.box, boxes_world.class_id, strict=True):
        inside = (np.abs(points_world - box[:3]) <= np.maximum(box[3:6], 1.0) / 2).all(axis=-1)
        state[inside] = OCCUPANCY_CLASS_OFFSET + class_id
        flow[inside] = box[7:9]
    return Occupancy(grid, state, flow)


@pytest.fixture(scope="session")
def _tiny_clip_master(tmp_path_factory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("tiny") / "tiny_clip")


@pytest.fixture
def tiny_clip_path(_tiny_clip_master, tmp_path) -> Path:
    """A private copy of the tiny clip's folder: a test may break it."""
    import shutil

    return Path(shutil.copytree(_tiny_clip_master, tmp_path / "tiny_clip"))


@pytest.fixture
def tiny_clip(tiny_clip_path) -> Clip:
    """The tiny clip, opened."""
    return Clip.open(tiny_clip_path)
