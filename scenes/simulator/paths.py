"""Where on a curve in the ground plane is something, and which way does the curve run there?"""

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
