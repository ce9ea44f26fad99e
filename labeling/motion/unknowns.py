"""What does the solver call the unknowns, and how do they become a motion state and back?"""

from dataclasses import replace

import numpy as np
from gtsam import Pose3, Values, symbol

from labeling.motion.state import MotionState


class Unknowns:
    """Names and values: ego poses x, clocks c, camera rotations r, points p, the log scale s, the drift b, the road's height h."""

    def __init__(self, frames: int, cameras: int, points: int) -> None:
        self.ego = [symbol("x", k) for k in range(frames)]
        self.clock = [symbol("c", k) for k in range(cameras)]
        self.rotation = [symbol("r", k) for k in range(cameras)]
        self.point = [symbol("p", k) for k in range(points)]
        self.scale, self.drift, self.height = symbol("s", 0), symbol("b", 0), symbol("h", 0)

    def start(self, state: MotionState, points_world: np.ndarray) -> Values:
        """Values of a state and points (P, 3)."""
        values = Values()
        for key, world_from_ego in zip(self.ego, state.world_from_ego, strict=True):
            values.insert(key, Pose3(world_from_ego))
        for k in range(len(self.clock)):
            values.insert(self.clock[k], state.clock_s[k : k + 1])
            values.insert(self.rotation[k], state.rotvec_cam[k])
        for key, point in zip(self.point, points_world, strict=True):
            values.insert(key, point)
        values.insert(self.scale, np.array([np.log(state.scale)]))
        values.insert(self.drift, np.zeros(3))
        values.insert(self.height, np.zeros(1))
        return values

    def state(self, values: Values, like: MotionState) -> MotionState:
        """The state that values say."""
        return replace(
            like,
            world_from_ego=np.stack([values.atPose3(key).matrix() for key in self.ego]),
            scale=float(np.exp(values.atVector(self.scale)[0])),
            clock_s=np.array([values.atVector(key)[0] for key in self.clock]),
            rotvec_cam=np.stack([values.atVector(key) for key in self.rotation]),
        )

    def points(self, values: Values) -> np.ndarray:
        """(P, 3)."""
        return np.array([values.atPoint3(key) for key in self.point]).reshape(-1, 3)
