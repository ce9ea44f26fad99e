"""Which points does a reviewer see around the cuboids? The reconstruction, or depth images, or at least the ground."""

import numpy as np

from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import invert_rigid, transform_points
from scenes.layers import LabelLayer

REACH_M = 80.0
MOST_POINTS = 200_000
GROUND_STEP_M = 1.0


def cloud_of_frame(clip: Clip, layer: LabelLayer, frame: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Points (P, 3) in the frame's ego frame and their colours (P, 3) uint8, or None.

    Depth images of the layer itself come first, then those of any other layer of the clip; without any, a grid on the ground.
    """
    for source in (layer, *(clip.layer(name) for name in clip.layer_names if name != layer.name)):
        parts = [_depth_points(clip, source, frame, camera) for camera in clip.rig.names]
        points = [part for part in parts if part is not None]
        if points:
            return _thinned(np.concatenate([p for p, _ in points]), np.concatenate([c for _, c in points]))
    steps = np.arange(-REACH_M / 2, REACH_M / 2 + 0.1, GROUND_STEP_M)
    return np.stack([*(axis.ravel() for axis in np.meshgrid(steps, steps)), np.zeros(len(steps) ** 2)], axis=1), None


def _depth_points(clip: Clip, layer: LabelLayer, frame: int, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    depth_m = layer.depth_m(frame, name) if clip.frames[frame].views[name].alive else None
    if depth_m is None:
        return None
    height, width = depth_m.shape
    camera = clip.rig[name].resize(width, height)
    v, u = np.nonzero((depth_m > 0.3) & (depth_m < REACH_M))
    points_cam = camera.unproject(np.stack([u, v], axis=1).astype(np.float64)) * depth_m[v, u, None]
    points_ego = transform_points(invert_rigid(clip.cam_from_ego_at_ref(frame, name)), points_cam)
    return points_ego, _colours(clip, frame, name, u / width, v / height)


def _colours(clip: Clip, frame: int, name: str, u_share: np.ndarray, v_share: np.ndarray) -> np.ndarray:
    try:
        image = clip.image(frame, name)
    except DataError:
        return np.full((len(u_share), 3), 128, dtype=np.uint8)
    return image[(v_share * image.shape[0]).astype(np.int64), (u_share * image.shape[1]).astype(np.int64)]


def _thinned(points_ego: np.ndarray, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = -(-len(points_ego) // MOST_POINTS)
    return points_ego[::step], rgb[::step]
