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


def start_states(xy: np.ndarray, xy_cov: np.ndarray, yaw: np.ndarray, velocity: np.ndarray, speeds: tuple[float, float, float]) -> States:
    """New states at detections: the velocity is the source's where it is finite, else 0 with the spread of the class.

    `speeds` are standard deviations: along the heading, across it, and of a source's velocity (m/s).
    """
    along_mps, across_mps, given_mps = speeds
    direction = np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
    outer = direction[:, :, None] * direction[:, None, :]
    known = np.asarray(np.isfinite(velocity).all(axis=1))
    mean = np.concatenate([xy, np.where(known[:, None], velocity, 0.0)], axis=1)
    cov = np.zeros((len(xy), 4, 4))
    cov[:, :2, :2] = xy_cov
    prior = across_mps**2 * np.eye(2) + (along_mps**2 - across_mps**2) * outer
    cov[:, 2:, 2:] = np.where(known[:, None, None], given_mps**2 * np.eye(2), prior)
    return States(mean, cov)


def predict(states: States, dt_s, acceleration_mps2: float) -> States:
    """The states `dt_s` later (scalar or (K,); negative: earlier), with white acceleration noise."""
    dt = np.broadcast_to(np.asarray(dt_s, dtype=np.float64), (len(states.mean),))[:, None]
    mean = states.mean.copy()
    mean[:, :2] += dt * mean[:, 2:]
    cov, step = states.cov.copy(), dt[:, :, None]
    cov[:, :2, :2] += step * (cov[:, 2:, :2] + cov[:, :2, 2:]) + step**2 * cov[:, 2:, 2:]
    cov[:, :2, 2:] += step * cov[:, 2:, 2:]
    cov[:, 2:, :2] = np.swapaxes(cov[:, :2, 2:], 1, 2)
    power, size, eye = acceleration_mps2**2, np.abs(step), np.eye(2)
    cov[:, :2, :2] += power * size**3 / 3 * eye
    cov[:, 2:, 2:] += power * size * eye
    sideways = power * step * size / 2 * eye
    cov[:, :2, 2:] += sideways
    cov[:, 2:, :2] += sideways
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
    return States(mean, (cov + np.swapaxes(cov, 1, 2)) / 2)
