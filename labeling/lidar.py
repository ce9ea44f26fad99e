"""How far away is it really, where the vehicle also carried a lidar? Detections are moved along their ray of sight onto the sweep's points.

Cameras know well in which direction an object lies and badly how far away; a sweep knows the opposite, it cannot tell a bush from a car.
So nothing is found by the lidar alone: each detection of a frame with a sweep looks for points where its faces would be.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from labeling.tracks.evidence import Evidence
from scenes.boxes import Box3D, transform_each_box
from scenes.clips import Clip, sweep_path
from scenes.errors import DataError
from scenes.geometry import invert_rigid

Sweeps = Callable[[int], np.ndarray | None]
"""Frame index to the sweep's points (P, 3) in the ego frame at the frame's reference time, None for a frame without one."""

BIN_M = 0.2
"""Distances between points and faces are counted in bins of this width."""
LEAST_POINTS = 5
"""Fewer points on a face prove nothing."""
GROUND_M, ROOF_M = 0.3, 0.1
"""Points this low over the box's bottom may be road; points this high over its top may be leaves."""
REACH_M, REACH_PER_M = 1.0, 0.15
"""How far along the ray an object is looked for: at range 0, and what each metre of range adds."""
EXPECTED_SHARE = 0.5
"""Standard deviation of a detection's distance as a share of that reach: nearer peaks need fewer points."""
RADIAL_M, LATERAL_M, LATERAL_PER_M = 0.15, 0.1, 0.005
"""What is left of the uncertainty: along the ray, across it at range 0, and what each metre of range adds across it."""
INNER = 0.9
"""Share of the footprint's width, seen from the sensors, in which points are looked at: what lies beside it belongs to others."""


def clip_sweeps(clip: Clip) -> Sweeps:
    """The sweeps `lidar/<frame>.npz` of a clip; a broken one is refused with `DataError`."""

    def sweep(frame: int) -> np.ndarray | None:
        path = sweep_path(clip.path, frame)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as values:
                points_ego = np.asarray(values["points_ego"], dtype=np.float64)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DataError(f"{path}: expected a sweep with `points_ego`, got something unreadable ({error}); import it again") from error
        if points_ego.ndim != 2 or points_ego.shape[1] != 3:
            raise DataError(f"{path}: expected points_ego of shape (P, 3), got {points_ego.shape}; import it again")
        return points_ego[np.isfinite(points_ego).all(axis=1)]

    return sweep


def ranged(evidence: Evidence, sweeps: Sweeps) -> tuple[Evidence, int]:
    """The evidence with detections moved along their rays onto lidar points, and how many were.

    Those get a small covariance of their own and "lidar" among their sources; all others stay as they are.
    """
    box_ego = transform_each_box(invert_rigid(evidence.world_from_ego)[evidence.frame], evidence.box_world)
    shift_m = np.full(len(evidence), np.nan)
    for frame, rows in enumerate(evidence.rows_by_frame()):
        points_ego = sweeps(frame) if len(rows) else None
        if points_ego is not None:
            shift_m[rows] = [range_error(points_ego, box) for box in box_ego[rows]]
    found = np.isfinite(shift_m)
    return _moved(evidence, np.where(found, shift_m, 0.0), found), int(found.sum())


def range_error(points_ego: np.ndarray, box_ego: np.ndarray) -> float:
    """How many metres away from the ego vehicle a box (9,) has to move so that points (P, 3) lie on its near faces; NaN: cannot be told."""
    behind_m = behind_faces(points_ego, box_ego)
    reach_m = REACH_M + REACH_PER_M * float(np.hypot(*box_ego[:2]))
    behind_m = behind_m[np.abs(behind_m) <= reach_m]
    if len(behind_m) < LEAST_POINTS:
        return np.nan
    count, edges = np.histogram(behind_m, bins=np.arange(-reach_m - BIN_M, reach_m + 2 * BIN_M, BIN_M))
    middle = (edges[:-1] + edges[1:]) / 2
    near = np.convolve(count, [1.0, 1.0, 1.0], mode="same")
    best = int(np.argmax(near * np.exp(-0.5 * (middle / (EXPECTED_SHARE * reach_m)) ** 2)))
    if near[best] < LEAST_POINTS:
        return np.nan
    return float(np.median(behind_m[np.abs(behind_m - middle[best]) <= 1.5 * BIN_M]))


def behind_faces(points_ego: np.ndarray, box_ego: np.ndarray) -> np.ndarray:
    """(K,) how far beyond the box's near faces, along the horizontal ray from the ego origin, those points lie that could be on them."""
    x, y, z, length, width, height, yaw = box_ego[:7]
    tall = (points_ego[:, 2] > z - height / 2 + GROUND_M) & (points_ego[:, 2] < z + height / 2 + ROOF_M)
    points = points_ego[tall, :2]
    range_m = np.maximum(np.hypot(*points.T), 1e-6)
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cos, sin], [-sin, cos]])
    half = np.array([length, width]) / 2
    start, ray = turn @ -np.array([x, y]), (points / range_m[:, None]) @ turn.T
    ray = np.where(np.abs(ray) < 1e-9, 1e-9, ray)
    sides = np.stack([(-INNER * half - start) / ray, (INNER * half - start) / ray])
    enters, leaves = sides.min(axis=0).max(axis=1), sides.max(axis=0).min(axis=1)
    hits = (enters < leaves) & (enters > 0)
    full = np.stack([(-half - start) / ray[hits], (half - start) / ray[hits]]).min(axis=0).max(axis=1)
    return range_m[hits] - full


def _moved(evidence: Evidence, shift_m: np.ndarray, found: np.ndarray) -> Evidence:
    distance_m, along = evidence.sight()
    box_world = evidence.box_world.copy()
    box_world[:, : Box3D.Z] += shift_m[:, None] * along
    known = np.full((len(evidence), 2, 2), np.nan) if evidence.covariance is None else evidence.covariance
    lateral = (LATERAL_M + LATERAL_PER_M * distance_m) ** 2
    outer = along[:, :, None] * along[:, None, :]
    measured = lateral[:, None, None] * (np.eye(2) - outer) + RADIAL_M**2 * outer
    source = np.full(len(evidence), "", dtype=object) if evidence.source is None else evidence.source.astype(object)
    parts = [{*name.split("+"), "lidar"} - {""} for name in source[found].tolist()]
    source[found] = np.array(["+".join(sorted(names)) for names in parts], dtype=object)
    return replace(evidence, box_world=box_world, covariance=np.where(found[:, None, None], measured, known), source=source)
