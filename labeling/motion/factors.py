"""Which errors does the adjustment weigh that the solver does not bring along? Ties of pictures to ego poses, steps, road height.

Perturbations are on the right (`T Exp(d)`), twists are (rotation, translation), as in the solver.
"""

from collections.abc import Callable

import numpy as np
from gtsam import Pose3, Rot3, Values

ErrorFunction = Callable[[object, Values, list[np.ndarray] | None], np.ndarray]


def _scaled(a_from_b: Pose3, scale: float) -> Pose3:
    return Pose3(a_from_b.rotation(), scale * a_from_b.translation())


def _scale_twist(a_from_b: Pose3) -> np.ndarray:
    """(6, 1): how `a_from_b` moves when its translation grows by a small share."""
    return np.concatenate([np.zeros(3), a_from_b.rotation().matrix().T @ a_from_b.translation()])[:, None]


def picture_tie(keys: tuple[int, int, int, int, int], ego_from_capture: Pose3, twist_capture: np.ndarray, ego_from_cam: Pose3) -> ErrorFunction:
    """The error of a picture's pose against its ego pose, clock and mount.

    Args:
        keys: Of `world_from_cam`, `world_from_ego`, the camera's clock (1,), the camera's rotation (3,), the log scale (1,).
        ego_from_capture: The stored motion between the frame's time and the stored capture time.
        twist_capture: (6,) stored velocity at capture, per second, in the frame of capture.
        ego_from_cam: As calibrated.
    """

    def error(_, values: Values, jacobians: list[np.ndarray] | None) -> np.ndarray:
        world_from_cam, world_from_ego = values.atPose3(keys[0]), values.atPose3(keys[1])
        clock, rotvec, log_scale = (values.atVector(key) for key in keys[2:])
        moved = _scaled(ego_from_capture.compose(Pose3.Expmap(twist_capture * clock[0])), float(np.exp(log_scale[0])))
        capture_from_cam = ego_from_cam.compose(Pose3(Rot3.Expmap(rotvec), np.zeros(3)))
        ego_at_frame_from_cam = moved.compose(capture_from_cam)
        off = world_from_cam.between(world_from_ego.compose(ego_at_frame_from_cam))
        if jacobians is not None:
            cam_from_capture = capture_from_cam.inverse().AdjointMap()
            jacobians[0] = -off.inverse().AdjointMap()
            jacobians[1] = ego_at_frame_from_cam.inverse().AdjointMap()
            jacobians[2] = cam_from_capture @ twist_capture[:, None]
            jacobians[3] = np.eye(6, 3)
            jacobians[4] = cam_from_capture @ _scale_twist(moved)
        return Pose3.Logmap(off)

    return error


def step_error(keys: tuple[int, int, int], a_from_b: Pose3) -> ErrorFunction:
    """The error of two following ego poses and the log scale (1,) against the stored step."""

    def error(_, values: Values, jacobians: list[np.ndarray] | None) -> np.ndarray:
        step = values.atPose3(keys[0]).between(values.atPose3(keys[1]))
        stored = _scaled(a_from_b, float(np.exp(values.atVector(keys[2])[0])))
        if jacobians is not None:
            jacobians[0] = -step.inverse().AdjointMap()
            jacobians[1] = np.eye(6)
            jacobians[2] = -_scale_twist(stored)
        return Pose3.Logmap(stored.between(step))

    return error


def road_error(keys: tuple[int, int, int]) -> ErrorFunction:
    """The error of a road point's height over the ego plane against the common height (1,)."""

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
