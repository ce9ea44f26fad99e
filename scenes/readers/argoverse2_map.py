"""Which lane lines, road edges, centrelines and crossings does an Argoverse 2 vector map hold?"""

from itertools import pairwise
from pathlib import Path

import numpy as np

from scenes.atomic import read_json
from scenes.errors import DataError
from scenes.layers import Lane, LaneType

UNPAINTED = frozenset({"NONE", "UNKNOWN"})
DRIVEN_LANES = frozenset({"VEHICLE", "BUS"})
EDGE_STEP_M = 1.0
"""Outlines of drivable areas are walked in steps of this length."""
EDGE_PROBE_M = 0.3
"""A step is a road edge if exactly one of the points this far to its left and right is drivable."""
CENTRELINE_POINTS = 10


def read_lanes(path: Path) -> list[Lane]:
    """All polylines of a `log_map_archive_*.json` in the city frame, numbered as they come; a broken one raises `DataError`.

    Dividers are painted lane boundaries, each line once. Road edges are where a drivable area ends and no other one begins.
    Centrelines run midway between a driven lane's boundaries. A crossing is the closed outline between its two edges.
    """
    archive = read_json(path)
    try:
        segments = [s for s in archive["lane_segments"].values() if s["lane_type"] in DRIVEN_LANES]
        lines = [(LaneType.DIVIDER, line) for line in _dividers(list(archive["lane_segments"].values()))]
        lines += [
            (LaneType.ROAD_EDGE, line) for line in road_edges([_points(a["area_boundary"]) for a in archive["drivable_areas"].values()])
        ]
        lines += [(LaneType.CENTRELINE, _centreline(segment)) for segment in segments]
        lines += [(LaneType.CROSSING, _crossing(c)) for c in archive["pedestrian_crossings"].values()]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not readable as an Argoverse 2 map, field {error} is missing or broken; restore or remove it") from error
    return [Lane(number, kind, line) for number, (kind, line) in enumerate(lines)]


def _points(values: list[dict]) -> np.ndarray:
    points = np.array([[p["x"], p["y"], p["z"]] for p in values], dtype=np.float64)
    if len(points) < 2 or not np.isfinite(points).all():
        raise ValueError(f"a polyline of {len(points)} points or with a number that is not finite")
    return points


def _dividers(segments: list[dict]) -> list[np.ndarray]:
    """Painted boundaries of lanes; neighbours share a line, which is kept once (whichever way it runs)."""
    lines: dict[frozenset, np.ndarray] = {}
    for segment in segments:
        for side in ("left", "right"):
            if segment[f"{side}_lane_mark_type"] in UNPAINTED:
                continue
            points = _points(segment[f"{side}_lane_boundary"])
            lines.setdefault(frozenset(map(tuple, points.round(1).tolist())), points)
    return list(lines.values())


def _centreline(segment: dict) -> np.ndarray:
    """(CENTRELINE_POINTS, 3): midway between both boundaries at equal shares of their lengths."""
    sides = [resample(_points(segment[f"{side}_lane_boundary"]), CENTRELINE_POINTS) for side in ("left", "right")]
    return (sides[0] + sides[1]) / 2


def _crossing(crossing: dict) -> np.ndarray:
    """(P, 3): the closed outline between the edges; the second one is turned round if it runs along with the first."""
    first, second = _points(crossing["edge1"]), _points(crossing["edge2"])
    if np.dot(first[-1] - first[0], second[-1] - second[0]) > 0:
        second = second[::-1]
    return np.concatenate([first, second, first[:1]])


def resample(line: np.ndarray, num_points: int) -> np.ndarray:
    """(num_points, 3): points at equal distances along a polyline (P, 3), ends included."""
    length = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))]
    at = np.linspace(0, length[-1], num_points)
    return np.stack([np.interp(at, length, line[:, axis]) for axis in range(3)], axis=1)


def road_edges(areas: list[np.ndarray]) -> list[np.ndarray]:
    """The outline of the union of polygons (each (P, 3), implicitly closed) as polylines, walked in short steps."""
    edges = []
    for area in areas:
        closed = np.concatenate([area, area[:1]])
        closed = closed[np.r_[True, np.linalg.norm(np.diff(closed[:, :2], axis=0), axis=1) > 1e-6]]
        steps = np.concatenate([_walk(a, b) for a, b in pairwise(closed)] + [closed[-1:]])
        direction = np.diff(steps[:, :2], axis=0)
        normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1) / np.linalg.norm(direction, axis=1, keepdims=True)
        middle = (steps[:-1, :2] + steps[1:, :2]) / 2
        left = _is_drivable(middle + EDGE_PROBE_M * normal, areas)
        right = _is_drivable(middle - EDGE_PROBE_M * normal, areas)
        edges += _runs(steps, left != right)
    return edges


def _walk(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Points from a towards b (without b), `EDGE_STEP_M` apart or less."""
    count = max(1, int(np.ceil(np.linalg.norm(b - a) / EDGE_STEP_M)))
    return a + (b - a) * (np.arange(count) / count)[:, None]


def _is_drivable(points: np.ndarray, areas: list[np.ndarray]) -> np.ndarray:
    """Whether each point (P, 2) lies in any of the polygons (even-odd rule)."""
    inside = np.zeros(len(points), dtype=bool)
    for area in areas:
        a, b = area[:, :2], np.roll(area[:, :2], -1, axis=0)
        crosses = (a[:, 1] > points[:, None, 1]) != (b[:, 1] > points[:, None, 1])
        rise = np.where(a[:, 1] == b[:, 1], 1.0, b[:, 1] - a[:, 1])
        meets_x = a[:, 0] + (points[:, None, 1] - a[:, 1]) * (b[:, 0] - a[:, 0]) / rise
        inside |= (crosses & (points[:, None, 0] < meets_x)).sum(axis=1) % 2 == 1
    return inside


def _runs(steps: np.ndarray, keep: np.ndarray) -> list[np.ndarray]:
    """The unbroken runs of kept steps as polylines, points on straight stretches taken out."""
    borders = np.flatnonzero(np.diff(np.r_[False, keep, False].astype(int)))
    return [_without_straight(steps[a : b + 1]) for a, b in zip(borders[::2], borders[1::2], strict=True)]


def _without_straight(line: np.ndarray) -> np.ndarray:
    step = np.diff(line, axis=0)
    step = step / np.linalg.norm(step, axis=1, keepdims=True)
    bends = np.linalg.norm(np.diff(step, axis=0), axis=1) > 1e-6
    return line[np.r_[True, bends, True]]
