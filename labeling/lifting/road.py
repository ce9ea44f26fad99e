"""How high is the road around the ego path? A smooth surface through where the wheels rolled and where other vehicles stand."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from labeling.lifting.settings import RoadSettings

WHEELS_EGO = np.array([[0.0, 0.75, 0.0], [0.0, -0.75, 0.0], [2.8, 0.75, 0.0], [2.8, -0.75, 0.0]])
"""Where a passenger car's wheels touch the road, from the middle of the rear axle."""
MOST_WHEEL_POSES = 25


@dataclass(frozen=True)
class Road:
    """Heights of the road in the world frame: a plane plus a Gaussian process beside it."""

    settings: RoadSettings
    origin: np.ndarray
    """(3,) middle of the ego path."""
    slope: np.ndarray
    """(2,) of the ego vehicle's own plane there."""
    seen_xy: np.ndarray
    """(M, 2) places whose height was measured, relative to `origin`."""
    dual: np.ndarray
    """(M,) weights."""
    factor: tuple
    """Cholesky factor of the measurements' covariance."""

    def height(self, xy: np.ndarray) -> np.ndarray:
        """Heights (...) at places (..., 2)."""
        flat = np.asarray(xy, dtype=np.float64).reshape(-1, 2) - self.origin[:2]
        value = self.origin[2] + flat @ self.slope + kernel(flat, self.seen_xy, self.settings) @ self.dual
        return value.reshape(np.shape(xy)[:-1])

    def spread(self, xy: np.ndarray) -> np.ndarray:
        """Standard deviations (N,) of the heights at places (N, 2)."""
        flat = xy - self.origin[:2]
        cross = kernel(flat, self.seen_xy, self.settings)
        known = np.einsum("nm,mn->n", cross, cho_solve(self.factor, cross.T))
        prior = (self.settings.slope**2) * (flat**2).sum(axis=1) + self.settings.bump_m**2
        return np.sqrt(np.maximum(prior - known, 1e-6))


def kernel(a: np.ndarray, b: np.ndarray, settings: RoadSettings) -> np.ndarray:
    """(N, M) covariance of the heights beside the ego plane at places (N, 2) and (M, 2)."""
    apart2 = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    bumps = settings.bump_m**2 * np.exp(-np.maximum(apart2, 0) / (2 * settings.reach_m**2))
    return settings.slope**2 * (a @ b.T) + bumps


def fit_road(world_from_ego: np.ndarray, points: np.ndarray, spread_m: np.ndarray, settings: RoadSettings) -> Road:
    """The road under an ego path (T, 4, 4) and under things that stand at `points` (M, 3) in the world, known to `spread_m` (M,)."""
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
    for _ in range(4):
        factor = cho_factor(kernel(seen_xy, seen_xy, settings) + np.diag(noise), lower=True)
        dual = cho_solve(factor, beside)
        off = beside - kernel(seen_xy, seen_xy, settings) @ dual
        noise = spread**2 * (1 + (off / spread) ** 2 / 4)  # what lies far off is not on the road
    return Road(settings, origin, slope, seen_xy, dual, factor)
