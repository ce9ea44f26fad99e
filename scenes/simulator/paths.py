"""Where on a curve in the ground plane is something, and which way does the curve run there?"""

import bisect
import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Path2D:
    """A polyline in the world's ground plane, addressed by arc length `s` in metres."""

    points_world: np.ndarray
    """(P, 2) float64, P >= 2, no two consecutive points equal."""
    arc_m: np.ndarray = field(init=False)
    """(P,) arc length at the points."""

    def __post_init__(self) -> None:
        steps = np.linalg.norm(np.diff(self.points_world, axis=0), axis=1)
        object.__setattr__(self, "arc_m", np.concatenate([[0.0], np.cumsum(steps)]))

    @property
    def length_m(self) -> float:
        """Arc length of the whole curve."""
        return float(self.arc_m[-1])

    @cached_property
    def tangents(self) -> np.ndarray:
        """(P, 2) unit directions at the points (central differences)."""
        difference = np.gradient(self.points_world, axis=0)
        return difference / np.linalg.norm(difference, axis=1, keepdims=True)

    def at(self, s_m) -> np.ndarray:
        """Points (..., 2) at arc length(s); straight on beyond both ends."""
        s = np.asarray(s_m, dtype=np.float64)
        inside = np.clip(s, 0.0, self.length_m)
        points = np.stack([np.interp(inside, self.arc_m, self.points_world[:, k]) for k in (0, 1)], axis=-1)
        beyond = (s - inside)[..., None]
        end = np.where(beyond > 0, self.tangents[-1], self.tangents[0])
        return points + beyond * end

    def yaw_at(self, s_m, span_m: float = 2.0):
        """Heading(s) of the chord from s - span/2 to s + span/2."""
        s = np.asarray(s_m, dtype=np.float64)
        chord = self.at(s + span_m / 2) - self.at(s - span_m / 2)
        return np.arctan2(chord[..., 1], chord[..., 0])

    def pose_at(self, s_m: float, span_m: float = 2.0, left_m: float = 0.0) -> tuple[float, float, float]:
        """x, y and heading at one arc length, `left_m` beside the curve: the quick way for single points."""
        x0, y0 = self._point(s_m - span_m / 2)
        x1, y1 = self._point(s_m + span_m / 2)
        yaw = math.atan2(y1 - y0, x1 - x0)
        x, y = self._point(s_m)
        return x - left_m * math.sin(yaw), y + left_m * math.cos(yaw), yaw

    def _point(self, s_m: float) -> tuple[float, float]:
        arcs, points, ends = self._lists
        k = min(max(bisect.bisect_right(arcs, s_m) - 1, 0), len(arcs) - 2)
        if s_m < 0.0 or s_m > arcs[-1]:
            k, beyond = (0, s_m) if s_m < 0.0 else (-1, s_m - arcs[-1])
            return points[k][0] + beyond * ends[k][0], points[k][1] + beyond * ends[k][1]
        share = (s_m - arcs[k]) / (arcs[k + 1] - arcs[k])
        (ax, ay), (bx, by) = points[k], points[k + 1]
        return ax + share * (bx - ax), ay + share * (by - ay)

    @cached_property
    def _lists(self) -> tuple[list[float], list[list[float]], list[list[float]]]:
        return self.arc_m.tolist(), self.points_world.tolist(), self.tangents[[0, -1]].tolist()

    @cached_property
    def metre_points(self) -> tuple[np.ndarray, np.ndarray]:
        """Points (P, 2) and unit directions (P, 2) at every whole metre from 0, going 150 m straight on beyond the end."""
        arcs = np.arange(0.0, self.length_m + 150.0)
        yaw = self.yaw_at(arcs)
        return self.at(arcs), np.stack([np.cos(yaw), np.sin(yaw)], axis=1)

    def offset(self, left_m: float) -> "Path2D":
        """The parallel curve `left_m` to the left (negative: right)."""
        normals = np.stack([-self.tangents[:, 1], self.tangents[:, 0]], axis=1)
        return Path2D(_without_folds(self.points_world + left_m * normals, self.tangents))

    def reversed(self) -> "Path2D":
        """The same curve run the other way."""
        return Path2D(self.points_world[::-1].copy())

    def cut(self, start_m: float, end_m: float, step_m: float = 1.0) -> "Path2D":
        """The part between two arc lengths, sampled anew."""
        count = max(2, int(np.ceil((end_m - start_m) / step_m)) + 1)
        return Path2D(self.at(np.linspace(start_m, end_m, count)))

    def nearest_arc(self, point_world) -> float:
        """Arc length of the polyline's point nearest to a point (2,)."""
        return float(self.arc_m[np.argmin(((self.points_world - np.asarray(point_world)) ** 2).sum(axis=1))])


def _without_folds(points: np.ndarray, tangents: np.ndarray) -> np.ndarray:
    forward = (np.diff(points, axis=0) * tangents[:-1]).sum(axis=1) > 1e-6
    return points[np.concatenate([[True], forward])]


def straight(start_world, end_world, step_m: float = 1.0) -> Path2D:
    """The straight line between two points, a point every metre."""
    start, end = np.asarray(start_world, dtype=np.float64), np.asarray(end_world, dtype=np.float64)
    count = max(2, int(np.ceil(np.linalg.norm(end - start) / step_m)) + 1)
    return Path2D(start + np.linspace(0, 1, count)[:, None] * (end - start))


def join(parts: list[Path2D]) -> Path2D:
    """Several curves one behind the other; doubled joints are dropped."""
    points = np.concatenate([part.points_world for part in parts])
    keep = np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-3])
    return Path2D(points[keep])


def bend(start_world, start_dir, end_world, end_dir, count: int = 24) -> Path2D:
    """A smooth turn (cubic Bezier) from a point and direction to another."""
    p0, p3 = np.asarray(start_world, dtype=np.float64), np.asarray(end_world, dtype=np.float64)
    reach = 0.55 * np.linalg.norm(p3 - p0) / np.sqrt(2)
    p1, p2 = p0 + reach * np.asarray(start_dir), p3 - reach * np.asarray(end_dir)
    t = np.linspace(0, 1, count)[:, None]
    return Path2D((1 - t) ** 3 * p0 + 3 * (1 - t) ** 2 * t * p1 + 3 * (1 - t) * t**2 * p2 + t**3 * p3)
