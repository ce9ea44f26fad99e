"""How high is the road around the ego path? A smooth surface through where the wheels rolled and where other vehicles stand."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from labeling.lifting.settings import RoadSettings

WHEELS_EGO = np.array([[0.0, 0.75, 0.0], [0.0, -0.75, 0.0], [2.8, 0.75, 0.0], [2.8, -0.75, 0.0]])
"""Where a passenger car's wheels touch the road, from the middle of the rear axle."""
MOST_WHEEL_POSES = 25
GRID_M = 3.0
"""Between the points at which the road's height is kept; it bends over much longer distances."""
AROUND_M = 90.0
"""How far around the ego path."""


@dataclass(frozen=True)
class Road:
    """Heights of the road in the world frame and how well they are known, on a grid around the ego path."""

    corner: np.ndarray
    """(2,) x and y of the grid's first point."""
    heights: np.ndarray
    """(X, Y) metres."""
    spreads: np.ndarray
    """(X, Y) standard deviations of them."""

    def height(self, xy: np.ndarray) -> np.ndarray:
        """Heights (N,) at places (N, 2); beyond the grid as its last cell slopes."""
        return self._between(self.heights, xy)[0]

    def slope_at(self, xy: np.ndarray) -> np.ndarray:
        """(N, 2) rise per metre along x and y."""
        return self._between(self.heights, xy)[1]

    def spread(self, xy: np.ndarray) -> np.ndarray:
        """Standard deviations (N,) of the heights at places (N, 2)."""
        return np.maximum(self._between(self.spreads, xy)[0], 1e-3)

    def _between(self, table: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (N,) and slopes (N, 2) of a table between its points."""
        at = (xy - self.corner) / GRID_M
        cell = np.clip(np.floor(at).astype(np.int64), 0, np.array(table.shape) - 2)
        u, v = (at - cell).T
        i, j = cell.T
        a, b, c, d = table[i, j], table[i + 1, j], table[i, j + 1], table[i + 1, j + 1]
        value = (1 - u) * (1 - v) * a + u * (1 - v) * b + (1 - u) * v * c + u * v * d
        slope = np.stack([(1 - v) * (b - a) + v * (d - c), (1 - u) * (c - a) + u * (d - b)], axis=1) / GRID_M
        return value, slope


def kernel(a: np.ndarray, b: np.ndarray, settings: RoadSettings) -> np.ndarray:
    """(N, M) covariance of the heights beside the ego plane at places (N, 2) and (M, 2)."""
    apart2 = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    bumps = settings.bump_m**2 * np.exp(-np.maximum(apart2, 0) / (2 * settings.reach_m**2))
    return settings.slope**2 * (a @ b.T) + bumps


def fit_road(world_from_ego: np.ndarray, points: np.ndarray, spread_m: np.ndarray, settings: RoadSettings) -> Road:
    """The road under an ego path (T, 4, 4) and under things that stand at `points` (M, 3) in the world, known to `spread_m` (M,).

    A plane (at first the ego vehicle's own) plus a Gaussian process beside it.
    """
    poses = world_from_ego[np.linspace(0, len(world_from_ego) - 1, min(MOST_WHEEL_POSES, len(world_from_ego))).round().astype(int)]
    middle = world_from_ego[len(world_from_ego) // 2]
    up = world_from_ego[:, :3, 2].mean(axis=0)
    slope = -up[:2] / up[2]
    wheels = (np.einsum("tij,wj->twi", poses[:, :3, :3], WHEELS_EGO) + poses[:, None, :3, 3]).reshape(-1, 3)
    wheel_spread = np.full(len(wheels), settings.wheel_m * np.sqrt(len(poses)))
    seen, spread = np.concatenate([wheels, points.reshape(-1, 3)]), np.concatenate([wheel_spread, spread_m])
    origin = middle[:3, 3]
    seen_xy = seen[:, :2] - origin[:2]
    beside = seen[:, 2] - origin[2] - seen_xy @ slope
    noise = spread**2
    covariance = kernel(seen_xy, seen_xy, settings)
    for _ in range(4):
        factor = cho_factor(covariance + np.diag(noise), lower=True)
        dual = cho_solve(factor, beside)
        off = beside - covariance @ dual
        noise = spread**2 * (1 + (off / spread) ** 2 / 4)  # what lies far off is not on the road
    low = world_from_ego[:, :2, 3].min(axis=0) - AROUND_M
    number = np.ceil((world_from_ego[:, :2, 3].max(axis=0) + AROUND_M - low) / GRID_M).astype(int) + 1
    places = np.stack(np.meshgrid(*(np.arange(n) * GRID_M for n in number), indexing="ij"), axis=-1).reshape(-1, 2) + low - origin[:2]
    cross = kernel(places, seen_xy, settings)
    heights = origin[2] + places @ slope + cross @ dual
    known = (cross * cho_solve(factor, cross.T).T).sum(axis=1)
    prior = settings.slope**2 * (places**2).sum(axis=1) + settings.bump_m**2
    spreads = np.sqrt(np.maximum(prior - known, 1e-6))
    return Road(low, heights.reshape(number), spreads.reshape(number))
