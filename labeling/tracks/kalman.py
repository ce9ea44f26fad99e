"""Where will many objects be a moment later, or have been a moment earlier? A constant-velocity Kalman filter over K objects.

State of each: x, y (m), vx, vy (m/s) in the world frame. A negative time step predicts backwards; the noise grows either way.
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class States:
    """Means (K, 4) and covariances (K, 4, 4)."""

    mean: np.ndarray
    cov: np.ndarray

    def take(self, index) -> "States":
        """The states of a mask or an index array."""
        return States(self.mean[index], self.cov[index])

    def append(self, other: "States") -> "States":
        """These states and then the others."""
        return States(np.concatenate([self.mean, other.mean]), np.concatenate([self.cov, other.cov]))


def start_states(xy: np.ndarray, xy_cov: np.ndarray, yaw: np.ndarray, velocity: np.ndarray, speeds: np.ndarray) -> States:
    """New states at detections: the velocity is the source's where it is finite, else 0 with the spread of the class.

    `speeds` (3,) or (K, 3) are standard deviations: along the heading, across it, and of a source's velocity (m/s).
    """
    along2, across2, given2 = (np.asarray(speeds, dtype=np.float64) ** 2).T
    cos, sin = np.cos(yaw), np.sin(yaw)
    mean, cov = np.zeros((len(xy), 4)), np.zeros((len(xy), 4, 4))
    mean[:, :2] = xy
    cov[:, :2, :2] = xy_cov
    cov[:, 2, 2] = across2 + (along2 - across2) * cos * cos
    cov[:, 3, 3] = across2 + (along2 - across2) * sin * sin
    cov[:, 2, 3] = cov[:, 3, 2] = (along2 - across2) * cos * sin
    known = np.isfinite(velocity).all(axis=1)
    if known.any():
        mean[known, 2:] = velocity[known]
        cov[known, 2:, 2:] = np.broadcast_to(given2, (len(xy),))[known, None, None] * np.eye(2)
    return States(mean, cov)


def predict(states: States, dt_s, acceleration_mps2) -> States:
    """The states `dt_s` later (scalar or (K,); negative: earlier), with white acceleration noise (scalar or (K,))."""
    num = len(states.mean)
    dt = np.broadcast_to(np.asarray(dt_s, dtype=np.float64), (num,))
    power = np.broadcast_to(np.asarray(acceleration_mps2, dtype=np.float64) ** 2, (num,)) * np.abs(dt)
    later_from_now = np.zeros((num, 4, 4))
    later_from_now.reshape(num, 16)[:, ::5] = 1.0
    later_from_now[:, 0, 2] = later_from_now[:, 1, 3] = dt
    mean = states.mean.copy()
    mean[:, :2] += dt[:, None] * mean[:, 2:]
    cov = later_from_now @ states.cov @ later_from_now.swapaxes(1, 2)
    sideways, flat = power * dt / 2, cov.reshape(num, 16)
    flat[:, 0:6:5] += (power * dt * dt / 3)[:, None]  # the diagonal: positions,
    flat[:, 10::5] += power[:, None]  # velocities
    for a, b in ((0, 2), (2, 0), (1, 3), (3, 1)):
        cov[:, a, b] += sideways
    return States(mean, cov)


def invert_2x2(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverses (..., 2, 2) and determinants (...)."""
    a, b, c, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 0], matrix[..., 1, 1]
    det = a * d - b * c
    inverse = np.empty(matrix.shape)
    inverse[..., 0, 0], inverse[..., 0, 1], inverse[..., 1, 0], inverse[..., 1, 1] = d / det, -b / det, -c / det, a / det
    return inverse, det


def update(states: States, observed: np.ndarray, observed_cov: np.ndarray, columns: slice) -> States:
    """The states after observing two of their columns (K, 2) with covariances (K, 2, 2): positions slice(0, 2), velocities slice(2, 4)."""
    gain = states.cov[:, :, columns] @ invert_2x2(states.cov[:, columns, columns] + observed_cov)[0]
    innovation = observed - states.mean[:, columns]
    mean = states.mean + (gain @ innovation[:, :, None])[..., 0]
    cov = states.cov - gain @ states.cov[:, columns, :]
    return States(mean, (cov + cov.swapaxes(1, 2)) / 2)
