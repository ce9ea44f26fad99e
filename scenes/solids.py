"""Which voxels does a box fill?"""

from functools import lru_cache

import numpy as np

from scenes.boxes import Box3D, Boxes
from scenes.geometry import rotation_from_yaw
from scenes.layers import OCCUPANCY_CLASS_OFFSET, VoxelGrid

SAMPLE_M = 0.4
"""Largest distance between the points that stand for a box in the voxels."""


def fill_boxes(state: np.ndarray, flow_mps: np.ndarray, grid: VoxelGrid, boxes_ego: Boxes) -> None:
    """Writes class and velocity of every box into the voxels (X, Y, Z) and (X, Y, Z, 2) that hold a part of it; later boxes win."""
    reach = np.array(grid.voxel_m[:2]) * grid.shape[:2] / 2
    middle = np.array(grid.min_ego_m[:2]) + reach
    for box, class_id in zip(boxes_ego.box, boxes_ego.class_id, strict=True):
        if (np.abs(box[:2] - middle) > reach + box[Box3D.LENGTH]).any():
            continue
        index, inside = grid.index_of(points_in_box(box))
        i, j, k = index[inside].T
        state[i, j, k] = OCCUPANCY_CLASS_OFFSET + class_id
        flow_mps[i, j, k] = np.nan_to_num(box[Box3D.VX : Box3D.VY + 1])


def points_in_box(box: np.ndarray) -> np.ndarray:
    """Points (P, 3) that fill a box row densely, a centimetre inside its faces."""
    local = _lattice(*box[Box3D.LENGTH : Box3D.HEIGHT + 1].tolist())
    return local @ rotation_from_yaw(box[Box3D.YAW]).T + box[:3]


@lru_cache(maxsize=512)
def _lattice(*size_m: float) -> np.ndarray:
    axes = [np.linspace(-0.5, 0.5, max(2, int(np.ceil(s / SAMPLE_M)) + 1)) * max(s - 0.02, 0.0) for s in size_m]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
