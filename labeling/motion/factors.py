"""Which errors does the adjustment weigh that the solver does not bring along? Steps of the stored path, the road under the wheels.

Perturbations are on the right (`T Exp(d)`), twists are (rotation, translation), as in the solver.
"""

from collections.abc import Callable

import numpy as np
from gtsam import Pose3, Values

ErrorFunction = Callable[[object, Values, list[np.ndarray] | None], np.ndarray]


def step_error(keys: tuple[int, int, int, int], a_from_b: Pose3, seconds: float) -> ErrorFunction:
    """The error (6,) of two following ego poses, the log scale (1,) and the drift (3,) in rad/s against the stored step `a_from_b`."""
    by_drift = np.concatenate([-seconds * np.eye(3), np.zeros((3, 3))])

    def error(_, values: Values, jacobians: list[np.ndarray] | None) -> np.ndarray:
        step = values.atPose3(keys[0]).between(values.atPose3(keys[1]))
        scaled_m = float(np.exp(values.atVector(keys[2])[0])) * a_from_b.translation()
        stored = Pose3(a_from_b.rotation(), scaled_m)
        if jacobians is not None:
            jacobians[0] = -step.inverse().AdjointMap()
            jacobians[1] = np.eye(6)
            jacobians[2] = -np.concatenate([np.zeros(3), stored.rotation().matrix().T @ scaled_m])[:, None]
            jacobians[3] = by_drift
        return Pose3.Logmap(stored.between(step)) + by_drift @ values.atVector(keys[3])

    return error


def road_error(keys: tuple[int, int, int]) -> ErrorFunction:
    """The error (1,) of a road point's height over the ego plane against the common height (1,)."""

    def error(_, values: Values, jacobians: list[np.ndarray] | None) -> np.ndarray:
        world_from_ego, point_world = values.atPose3(keys[0]), values.atPoint3(keys[1])
        rotation = world_from_ego.rotation().matrix()
        x, y, z = rotation.T @ (point_world - world_from_ego.translation())
        if jacobians is not None:
            jacobians[0] = np.array([[y, -x, 0.0, 0.0, 0.0, -1.0]])
            jacobians[1] = rotation[:, 2][None]
            jacobians[2] = np.array([[-1.0]])
        return np.array([z - values.atVector(keys[2])[0]])

    return error
