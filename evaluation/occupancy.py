"""How well is space known? Voxel mIoU where the truth was observed, RayIoU, and the error of flow.

RayIoU: Liu et al. 2024, "Fully Sparse 3D Occupancy Prediction" (SparseOcc): cast rays as a lidar would through both grids
and compare what each hits first. docs/METRICS.md says what differs.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from scenes.errors import DataError
from scenes.layers import OCCUPANCY_FREE, OCCUPANCY_STATES, OCCUPANCY_UNKNOWN, Occupancy, VoxelGrid

RAY_THRESHOLDS_M = (1.0, 2.0, 4.0)
FLOW_THRESHOLD_M = 2.0
RAY_ORIGINS_EGO = ((0.0, 0.0, 1.84),)
"""Where a roof lidar would sit."""
MOVING_MPS = 0.5
_NUM_STATES = len(OCCUPANCY_STATES)


@dataclass(frozen=True)
class OccupancyMetrics:
    """The result over all frames; NaN for states that neither grid has."""

    num_frames: int
    iou: dict[str, float]
    """IoU of each state over the voxels that the truth observed."""
    occupied_iou: float
    """IoU of occupied against free, whatever the class."""
    ray_iou_by_state: dict[float, dict[str, float]]
    """Depth threshold in metres to state to IoU of first hits."""
    flow_error_mps: float
    """Mean flow error of rays that hit moving truth with the right class within 2 m; NaN without any."""

    @property
    def miou(self) -> float:
        """Mean IoU over the occupied states that the truth or the prediction has."""
        return _mean_defined([value for name, value in self.iou.items() if name != "free"])

    @property
    def ray_iou(self) -> float:
        """RayIoU: mean over states at each threshold, then over the thresholds."""
        return _mean_defined([_mean_defined(list(by_state.values())) for by_state in self.ray_iou_by_state.values()])


def _mean_defined(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


@dataclass
class OccupancyCounts:
    """Counts that grow frame by frame; `result` turns them into metrics."""

    num_frames: int = 0
    confusion: np.ndarray = field(default_factory=lambda: np.zeros((_NUM_STATES, _NUM_STATES), dtype=np.int64))
    """Voxels by true and predicted state."""
    ray_truth: np.ndarray = field(default_factory=lambda: np.zeros(_NUM_STATES, dtype=np.int64))
    ray_pred: np.ndarray = field(default_factory=lambda: np.zeros(_NUM_STATES, dtype=np.int64))
    """Rays by what they hit first."""
    ray_hits: np.ndarray = field(default_factory=lambda: np.zeros((len(RAY_THRESHOLDS_M), _NUM_STATES), dtype=np.int64))
    """Rays that hit the same state in both grids, within each threshold."""
    flow_error_sum: float = 0.0
    num_flow: int = 0

    def add(self, pred: Occupancy, truth: Occupancy, seen: np.ndarray | None = None) -> None:
        """Counts one frame. `seen` (X, Y, Z) bool, if given, limits voxels (not rays) to those a camera sees."""
        if pred.grid != truth.grid:
            raise DataError(f"occupancy: expected both layers on one voxel grid, got {pred.grid} and {truth.grid}; resample one")
        self.num_frames += 1
        # The network cannot say "unknown"; where a layer does, it claims nothing there.
        pred_state = np.where(pred.state == OCCUPANCY_UNKNOWN, OCCUPANCY_FREE, pred.state).astype(np.int64)
        counted = truth.state != OCCUPANCY_UNKNOWN
        if seen is not None:
            counted &= seen
        pairs = truth.state[counted].astype(np.int64) * _NUM_STATES + pred_state[counted]
        self.confusion += np.bincount(pairs, minlength=_NUM_STATES**2).reshape(_NUM_STATES, _NUM_STATES)
        self._add_rays(pred_state, pred.flow_mps, truth)

    def _add_rays(self, pred_state: np.ndarray, pred_flow_mps: np.ndarray, truth: Occupancy) -> None:
        fan = ray_fan(truth.grid)
        truth_voxel, truth_depth = fan.first_hit(truth.state != OCCUPANCY_FREE)
        pred_voxel, pred_depth = fan.first_hit(pred_state != OCCUPANCY_FREE)
        truth_hit = np.append(truth.state.reshape(-1), OCCUPANCY_FREE)[truth_voxel]
        pred_hit = np.append(pred_state.reshape(-1), OCCUPANCY_FREE)[pred_voxel]
        counted = (truth_hit != OCCUPANCY_FREE) & (truth_hit != OCCUPANCY_UNKNOWN)
        self.ray_truth += np.bincount(truth_hit[counted], minlength=_NUM_STATES)
        self.ray_pred += np.bincount(pred_hit[counted], minlength=_NUM_STATES)
        same = counted & (truth_hit == pred_hit)
        error = np.abs(np.where(same, truth_depth, 0) - np.where(same, pred_depth, 0))
        for row, threshold in enumerate(RAY_THRESHOLDS_M):
            self.ray_hits[row] += np.bincount(truth_hit[same & (error < threshold)], minlength=_NUM_STATES)
        near = same & (error < FLOW_THRESHOLD_M)
        truth_flow = truth.flow_mps.reshape(-1, 2)[truth_voxel[near]]
        pred_flow = pred_flow_mps.reshape(-1, 2)[pred_voxel[near]]
        moving = np.linalg.norm(truth_flow, axis=1) > MOVING_MPS
        self.flow_error_sum += float(np.linalg.norm(pred_flow - truth_flow, axis=1)[moving].sum())
        self.num_flow += int(moving.sum())

    def result(self) -> OccupancyMetrics:
        """The metrics of all frames so far."""
        hits = np.diag(self.confusion)
        iou = _ratio(hits, self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - hits)
        occupied = self.confusion[1:, 1:].sum()
        occupied_iou = _ratio(occupied, self.confusion.sum() - self.confusion[0, 0])
        ray_iou = _ratio(self.ray_hits, self.ray_truth + self.ray_pred - self.ray_hits)
        return OccupancyMetrics(
            num_frames=self.num_frames,
            iou=dict(zip(OCCUPANCY_STATES, iou.tolist(), strict=True)),
            occupied_iou=float(occupied_iou),
            ray_iou_by_state={
                threshold: dict(zip(OCCUPANCY_STATES[1:], values[1:].tolist(), strict=True))
                for threshold, values in zip(RAY_THRESHOLDS_M, ray_iou, strict=True)
            },
            flow_error_mps=self.flow_error_sum / self.num_flow if self.num_flow else float("nan"),
        )


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(np.asarray(whole) > 0, part / np.maximum(whole, 1), np.nan)


@dataclass(frozen=True)
class RayFan:
    """Rays through a grid: which voxels each passes, in order, and where it enters them."""

    voxel: np.ndarray
    """(R, S) int32 flat voxel index; the number of voxels where the ray is outside."""
    depth_m: np.ndarray
    """(R, S) float32 distance from the origin to where the ray enters the voxel."""

    def first_hit(self, solid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(R,) flat index of the first solid voxel (the number of voxels if there is none) and its distance (inf if none)."""
        hit = np.append(solid.reshape(-1), False)[self.voxel]
        first = np.argmax(hit, axis=1)
        rows = np.arange(len(first))
        found = hit[rows, first]
        return np.where(found, self.voxel[rows, first], solid.size), np.where(found, self.depth_m[rows, first], np.inf)


def ray_directions(azimuth_step_deg: float = 1.0) -> np.ndarray:
    """(R, 3) unit directions of SparseOcc's lidar: ten rings that meet the ground at 1 to 10 heights, then on with the same step."""
    pitches = [math.atan(k + 1) - math.pi / 2 for k in range(10)]
    while pitches[-1] < 0.21:
        pitches.append(2 * pitches[-1] - pitches[-2])
    pitch, azimuth = np.meshgrid(pitches, np.deg2rad(np.arange(0, 360, azimuth_step_deg)), indexing="ij")
    return np.stack([np.cos(pitch) * np.cos(azimuth), np.cos(pitch) * np.sin(azimuth), np.sin(pitch)], axis=-1).reshape(-1, 3)


@lru_cache(maxsize=4)
def ray_fan(
    grid: VoxelGrid, origins_ego: tuple[tuple[float, float, float], ...] = RAY_ORIGINS_EGO, azimuth_step_deg: float = 1.0
) -> RayFan:
    """The rays of a lidar at each origin, walked through the grid once for all frames."""
    directions = ray_directions(azimuth_step_deg)
    parts = [walk_rays(grid, np.broadcast_to(np.array(origin), directions.shape), directions) for origin in origins_ego]
    longest = max(part.voxel.shape[1] for part in parts)
    outside = int(np.prod(grid.shape))
    voxel = [np.pad(p.voxel, ((0, 0), (0, longest - p.voxel.shape[1])), constant_values=outside) for p in parts]
    depth = [np.pad(p.depth_m, ((0, 0), (0, longest - p.depth_m.shape[1])), constant_values=np.inf) for p in parts]
    return RayFan(np.concatenate(voxel), np.concatenate(depth))


def walk_rays(grid: VoxelGrid, origins_ego: np.ndarray, directions: np.ndarray) -> RayFan:
    """Exact walk of rays (R, 3), (R, 3) through the grid: between two neighbouring crossings of voxel faces lies one voxel."""
    crossings = [np.zeros((len(directions), 1))]
    for axis in range(3):
        faces = grid.min_ego_m[axis] + np.arange(grid.shape[axis] + 1) * grid.voxel_m[axis]
        along = directions[:, axis : axis + 1]
        safe = np.where(np.abs(along) > 1e-12, along, 1e-12)
        distance = (faces - origins_ego[:, axis : axis + 1]) / safe
        crossings.append(np.where((distance > 0) & (np.abs(along) > 1e-12), distance, np.inf))
    enter = np.sort(np.concatenate(crossings, axis=1), axis=1)
    enter, leave = enter[:, :-1], enter[:, 1:]
    exists = np.isfinite(leave) & (leave > enter)
    middle = np.where(exists, (np.where(exists, enter, 0) + np.where(exists, leave, 0)) / 2, 0)
    index, inside = grid.index_of(origins_ego[:, None] + middle[..., None] * directions[:, None])
    inside &= exists
    flat = np.ravel_multi_index(tuple(np.where(inside, index[..., axis], 0) for axis in range(3)), grid.shape)
    # Only steps inside the grid are kept, moved to the front.
    order = np.argsort(~inside, axis=1, kind="stable")[:, : max(1, int(inside.sum(axis=1).max()))]
    voxel = np.where(inside, flat, int(np.prod(grid.shape))).astype(np.int32)
    depth = np.where(inside, enter, np.inf).astype(np.float32)
    return RayFan(np.take_along_axis(voxel, order, axis=1), np.take_along_axis(depth, order, axis=1))
