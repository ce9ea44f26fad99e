"""What was really there? Boxes with visibility and voxels of one frame, exact by construction."""

from functools import lru_cache

import cv2
import numpy as np

from scenes.boxes import Boxes
from scenes.geometry import invert_rigid
from scenes.layers import OCCUPANCY_FREE, OCCUPANCY_OTHER, OCCUPANCY_ROAD, Occupancy, VoxelGrid
from scenes.simulator.ground import CELL_M, OCCUPANCY_CELL_M
from scenes.simulator.world import StaticColumns
from scenes.solids import fill_boxes

SUBCELLS = 4
"""A voxel column is looked up at SUBCELLS x SUBCELLS places."""


def occupancy_truth(columns: StaticColumns, world_from_ego: np.ndarray, boxes_world: Boxes, grid: VoxelGrid | None = None) -> Occupancy:
    """All voxels of a frame, none unknown.

    A voxel is filled as soon as it holds a part of something: labelled boxes win over static things, these over the
    ground. The ground fills the voxel just below z = 0, as `road` on asphalt and `other` elsewhere; deeper voxels are free.
    """
    grid = VoxelGrid() if grid is None else grid
    state = np.full(grid.shape, OCCUPANCY_FREE, dtype=np.uint8)
    _fill_static(state, grid, columns, world_from_ego)
    flow = np.zeros((*grid.shape, 2), dtype=np.float32)
    boxes_ego = boxes_world.transform(invert_rigid(world_from_ego))
    fill_boxes(state, flow, grid, boxes_ego)
    return Occupancy(grid, state, flow)


def _fill_static(state: np.ndarray, grid: VoxelGrid, columns: StaticColumns, world_from_ego: np.ndarray) -> None:
    nx, ny, nz = grid.shape
    points_ego = _sample_points(grid)
    world_xy = points_ego @ world_from_ego[:2, :2].T + world_from_ego[:2, 3]
    factor = OCCUPANCY_CELL_M / CELL_M
    cell = (((world_xy - columns.origin_world) / CELL_M + 0.5) / factor - 0.5).astype(np.float32)
    bits, road = (
        cv2.remap(raster, cell, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)  # pyright: ignore[reportArgumentType, reportCallIssue]
        for raster in (columns.filled, columns.road)
    )
    bits = np.bitwise_or.reduce(np.bitwise_or.reduce(bits.reshape(nx, SUBCELLS, ny, SUBCELLS), axis=3), axis=1)
    road_share = cv2.resize(road.astype(np.float32), (ny, nx), interpolation=cv2.INTER_AREA)
    heights = grid.min_ego_m[2] + np.arange(nz) * grid.voxel_m[2]
    for k, low in enumerate(heights):
        layer = round((low + 1.0) / 0.5)
        if 0 <= layer < 8:
            state[:, :, k][(bits >> layer) & 1 == 1] = OCCUPANCY_OTHER
        if low < 0 <= low + grid.voxel_m[2] + 1e-9:
            state[:, :, k] = np.where(road_share >= 0.5, OCCUPANCY_ROAD, OCCUPANCY_OTHER)


@lru_cache(maxsize=2)
def _sample_points(grid: VoxelGrid) -> np.ndarray:
    """(X * SUBCELLS, Y * SUBCELLS, 2) x, y at which the ground is looked up."""
    axes = [grid.min_ego_m[k] + (np.arange(grid.shape[k] * SUBCELLS) + 0.5) * (grid.voxel_m[k] / SUBCELLS) for k in range(2)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def with_visibility(boxes: Boxes, visible_px: np.ndarray, unhidden_px: np.ndarray) -> Boxes:
    """Boxes with their share of visible pixels and their number.

    Visibility is the number of pixels of all cameras that show the object, over the number that would show it if
    nothing else (building, tree, other object) were in the way; 0 for objects that no camera covers.
    """
    share = np.where(unhidden_px > 0, visible_px / np.maximum(unhidden_px, 1), 0.0)
    return Boxes.make(boxes.box, boxes.class_id, boxes.track_id, visibility=np.clip(share, 0, 1), num_points=visible_px)
