"""Which parts of space did rays pass, and in which did they end?"""

from dataclasses import dataclass, field

import numpy as np

from labeling.reconstruction.road import RoadGrid
from labeling.reconstruction.settings import CarveSettings
from labeling.reconstruction.sweep import DepthMap
from scenes.clips import Clip
from scenes.layers import VoxelGrid

EGO_BOX_M = ((-0.5, 3.0), (-0.8, 0.8), (0.3, 1.4))
"""A part of space in the ego frame that every vehicle fills: where it drove, nothing static stands."""


@dataclass
class CellGrid:
    """Counts of rays in cells of the world; index (i, j, k) grows with x, y, z."""

    origin_world: np.ndarray
    """(3,) lower corner."""
    cell_m: np.ndarray
    """(3,)."""
    shape: tuple[int, int, int]
    hits: np.ndarray = field(init=False)
    passes: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.hits = np.zeros(self.shape, dtype=np.float32)
        self.passes = np.zeros(self.shape, dtype=np.float32)

    def flat_index(self, points_world: np.ndarray) -> np.ndarray:
        """Flat cell index (...) of points (..., 3); the number of cells where outside."""
        index = np.floor((points_world - self.origin_world.astype(np.float32)) / self.cell_m.astype(np.float32)).astype(np.int32)
        inside = ((index >= 0) & (index < np.array(self.shape, dtype=np.int32))).all(-1)
        flat = (index[..., 0] * self.shape[1] + index[..., 1]) * self.shape[2] + index[..., 2]
        return np.where(inside, flat, self.hits.size)

    def add_rays(self, origin_world: np.ndarray, points_world: np.ndarray, ends: np.ndarray, weight: np.ndarray, margin: float) -> None:
        """Counts rays from one place to points (P, 3): cells on the way up to `margin` (a share of the length) before the end are passed;
        where `ends` (P,) the cell of the point is hit. `weight` (P,)."""
        offset = (points_world - origin_world).astype(np.float32)
        length = np.linalg.norm(offset, axis=1)
        step = 0.9 * float(self.cell_m.min())
        steps = np.maximum(((length - np.maximum(margin * length, step)) / step).astype(np.int64), 0)
        ray = np.repeat(np.arange(len(steps)), steps)
        along = (np.arange(len(ray)) - np.repeat(np.cumsum(steps) - steps, steps) + 0.5) * step
        share = (along / np.maximum(length[ray], 1e-6)).astype(np.float32)
        passed = self.flat_index(origin_world.astype(np.float32) + offset[ray] * share[:, None])
        entered = np.ones(len(passed), dtype=bool)
        entered[1:] = (passed[1:] != passed[:-1]) | (ray[1:] != ray[:-1])
        self._count(self.passes, passed[entered], weight[ray[entered]])
        self._count(self.hits, self.flat_index(points_world[ends].astype(np.float32)), weight[ends])

    def _count(self, counts: np.ndarray, flat_index: np.ndarray, weight: np.ndarray) -> None:
        inside = flat_index < counts.size
        np.add.at(counts.reshape(-1), flat_index[inside], weight[inside].astype(np.float32))

    def state(self, settings: CarveSettings) -> tuple[np.ndarray, np.ndarray]:
        """Which cells are filled and which free, (I, J, K) bool each; the rest is unknown."""
        filled = (self.hits >= settings.min_hits) & (self.hits >= settings.hit_share * (self.hits + self.passes))
        return filled, (self.passes >= settings.min_passes) & ~filled


def cells_around(clip: Clip, grid: VoxelGrid, settings: CarveSettings) -> CellGrid:
    """Empty cells that cover the voxel grid of every frame."""
    low_ego = np.array(grid.min_ego_m)
    high_ego = low_ego + np.array(grid.voxel_m) * grid.shape
    corners = np.stack(np.meshgrid(*zip(low_ego, high_ego, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
    poses = np.stack([frame.world_from_ego for frame in clip.frames])
    points = np.einsum("tij,pj->tpi", poses[:, :3, :3], corners) + poses[:, None, :3, 3]
    low, high = points.reshape(-1, 3).min(axis=0), points.reshape(-1, 3).max(axis=0)
    cell = np.array([settings.cell_m, settings.cell_m, settings.cell_height_m])
    shape = np.ceil((high - low) / cell).astype(int) + 1
    return CellGrid(low, cell, (int(shape[0]), int(shape[1]), int(shape[2])))


def carve(cells: CellGrid, depth_map: DepthMap, filled_m: np.ndarray, road: RoadGrid, settings: CarveSettings) -> None:
    """Counts one view's rays: confirmed depths in full, filled ones (`filled_m` where the map has none) for less; ground fills nothing."""
    stride = np.s_[settings.stride // 2 :: settings.stride, settings.stride // 2 :: settings.stride]
    measured = depth_map.depth_m > 0
    depth = np.where(measured, depth_map.depth_m, filled_m)
    points = depth_map.view.points_world(depth)[stride].reshape(-1, 3)
    flat, sure = depth[stride].reshape(-1), measured[stride].reshape(-1)
    use = (flat > 0) & depth_map.view.usable[stride].reshape(-1)
    above = points[use, 2] - road.height(points[use, :2])
    ends = (flat[use] < settings.far_m) & ~(above < settings.ground_margin_m)
    weight = np.where(sure[use], 1.0, settings.filled_weight)
    cells.add_rays(depth_map.view.center_world, points[use], ends, weight, settings.margin)


def carve_path(cells: CellGrid, clip: Clip) -> None:
    """Marks as free what the vehicle itself drove through."""
    axes = [np.arange(low, high, 0.2) for low, high in EGO_BOX_M]
    body_ego = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    poses = np.concatenate([clip.trajectory.world_from_ego, [frame.world_from_ego for frame in clip.frames]])
    last = np.full(3, np.inf)
    for pose in poses:
        if np.linalg.norm(pose[:3, 3] - last) > 0.3:
            last = pose[:3, 3]
            flat = np.unique(cells.flat_index((body_ego @ pose[:3, :3].T + last).astype(np.float32)))
            flat = flat[flat < cells.hits.size]
            cells.passes.reshape(-1)[flat] += 1000.0
