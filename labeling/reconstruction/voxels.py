"""What fills each voxel around the vehicle in one frame? Static cells, the road, and the labelled objects with their velocity."""

from dataclasses import dataclass

import cv2
import numpy as np

from labeling.reconstruction.carving import CellGrid
from labeling.reconstruction.road import RoadGrid
from labeling.reconstruction.settings import CarveSettings
from scenes.boxes import Box3D, Boxes
from scenes.geometry import invert_rigid, transform_points
from scenes.layers import OCCUPANCY_FREE, OCCUPANCY_OTHER, OCCUPANCY_ROAD, OCCUPANCY_UNKNOWN, Occupancy, VoxelGrid
from scenes.solids import fill_boxes, points_in_box

SUBVOXELS = (4, 4, 2)
"""A voxel is looked up at this many places along each axis."""
HOLE_CELLS = 5
"""Gaps of the known ground up to this many cells are closed."""


@dataclass(frozen=True)
class StaticScene:
    """What does not move: cells of the world that are filled or free, and the ground."""

    cells: CellGrid
    filled: np.ndarray
    """(I, J, K) bool."""
    free: np.ndarray
    """(I, J, K) bool."""
    road: RoadGrid
    ground_known: np.ndarray
    """(I, J) bool on the road's grid: seen, or a small hole within."""


def static_scene(cells: CellGrid, road: RoadGrid, settings: CarveSettings) -> StaticScene:
    """The counts decided: what lies on or below the ground is neither filled nor free (the road grid speaks for it)."""
    filled, free = cells.state(settings)
    i, j = np.indices(cells.shape[:2])
    xy_world = cells.origin_world[:2] + (np.stack([i, j], axis=-1) + 0.5) * cells.cell_m[:2]
    ground = road.height(xy_world)
    height = cells.origin_world[2] + (np.arange(cells.shape[2]) + 0.5) * cells.cell_m[2]
    above = height - ground[..., None]
    filled &= ~(above < settings.ground_margin_m)
    free &= ~(above < 0)
    known = cv2.morphologyEx(road.seen.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((HOLE_CELLS, HOLE_CELLS), np.uint8)) > 0
    return StaticScene(cells, filled, free, road, known)


def frame_occupancy(
    scene: StaticScene, world_from_ego: np.ndarray, boxes_world: Boxes, settings: CarveSettings, grid: VoxelGrid
) -> Occupancy:
    """The voxels of a frame: free or filled as most rays say, the ground in the voxel just below its surface, objects on top.

    Static matter within `settings.box_margin_m` of a box belongs to the box. Boxes marked `ignore` make their voxels unknown.
    """
    state = _static_state(scene, world_from_ego, boxes_world, settings, grid)
    _lay_ground(state, scene, world_from_ego, grid)
    flow = np.zeros((*grid.shape, 2), dtype=np.float32)
    boxes_ego = boxes_world.transform(invert_rigid(world_from_ego))
    unsure = np.full(grid.shape, OCCUPANCY_FREE, dtype=np.uint8)
    fill_boxes(unsure, np.zeros_like(flow), grid, boxes_ego.select(boxes_ego.ignore))
    state[unsure != OCCUPANCY_FREE] = OCCUPANCY_UNKNOWN
    fill_boxes(state, flow, grid, boxes_ego.select(~boxes_ego.ignore))
    return Occupancy(grid, state, flow)


def _static_state(
    scene: StaticScene, world_from_ego: np.ndarray, boxes_world: Boxes, settings: CarveSettings, grid: VoxelGrid
) -> np.ndarray:
    cells = scene.cells
    filled, free = np.append(scene.filled.reshape(-1), False), np.append(scene.free.reshape(-1), False)
    for row in boxes_world.box:
        larger = row.copy()
        larger[Box3D.LENGTH : Box3D.HEIGHT + 1] += 2 * settings.box_margin_m
        filled[cells.flat_index(points_in_box(larger).astype(np.float32))] = False
    index = cells.flat_index(transform_points(world_from_ego, _places_ego(grid)).astype(np.float32))
    is_filled, is_free = filled[index].any(axis=-1), free[index].mean(axis=-1) >= settings.free_share
    return np.where(is_filled, OCCUPANCY_OTHER, np.where(is_free, OCCUPANCY_FREE, OCCUPANCY_UNKNOWN)).astype(np.uint8)


def _places_ego(grid: VoxelGrid) -> np.ndarray:
    """(X, Y, Z, S, 3) places within each voxel."""
    offsets = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n - 0.5 for n in SUBVOXELS), indexing="ij"), axis=-1).reshape(-1, 3)
    return grid.centers_ego()[..., None, :] + offsets * np.array(grid.voxel_m)


def _lay_ground(state: np.ndarray, scene: StaticScene, world_from_ego: np.ndarray, grid: VoxelGrid) -> None:
    """The ground fills the voxel whose upper face is nearest to it, as road where most of the column is; what lies below is unknown."""
    places_ego = _places_ego(grid)[:, :, 0, :: SUBVOXELS[2]]
    places_ego[..., 2] = 0.0
    xy_world = transform_points(world_from_ego, places_ego)[..., :2]
    height_world = scene.road.height(xy_world)
    known = (scene.road.look_up(scene.ground_known, xy_world) & np.isfinite(height_world)).mean(axis=-1) >= 0.5
    is_road = scene.road.look_up(scene.road.is_road, xy_world).mean(axis=-1) >= 0.5
    points_world = np.concatenate([xy_world, np.nan_to_num(height_world)[..., None]], axis=-1)
    height_ego = transform_points(invert_rigid(world_from_ego), points_world)[..., 2].mean(axis=-1)
    layer = np.round((height_ego - grid.min_ego_m[2]) / grid.voxel_m[2]).astype(np.int64) - 1
    k = np.arange(grid.shape[2])
    state[(known[..., None]) & (k < layer[..., None])] = OCCUPANCY_UNKNOWN
    i, j = np.nonzero(known & (layer >= 0) & (layer < grid.shape[2]))
    state[i, j, layer[i, j]] = np.where(is_road[i, j], OCCUPANCY_ROAD, OCCUPANCY_OTHER)
