"""Where was the car, as far as its odometer has told? The last ego poses, asked for near their own time only. numpy alone."""

from dataclasses import dataclass, field

import numpy as np

from scenes.geometry import NS_PER_S, Trajectory

KEPT = 64
"""Poses; the older ones are forgotten."""


@dataclass
class EgoPoses:
    """Poses as they arrive, `world_from_ego` (4, 4) at instants in nanoseconds."""

    max_gap_s: float
    """A pose further from an instant than this says nothing about it."""
    _times_ns: list[int] = field(default_factory=list)
    _poses: list[np.ndarray] = field(default_factory=list)
    _stray: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._poses)

    def push(self, timestamp_ns: int, world_from_ego: np.ndarray) -> bool:
        """Takes a pose; False for what is no rigid transform or not newer than the last one.

        One older by more than `max_gap_s` is of a broken clock or of a new drive. It is put aside (False as well) and begins a new path
        when the next pose, or an instant that is asked for, lies near it.
        """
        if not _is_rigid(world_from_ego):
            return False
        pose, gap_ns = np.array(world_from_ego, dtype=np.float64), self.max_gap_s * NS_PER_S
        stray, self._stray = self._stray, None
        if self._times_ns and timestamp_ns < self._times_ns[-1] - gap_ns:
            if stray is None or not 0 < timestamp_ns - stray[0] <= gap_ns:
                self._stray = (int(timestamp_ns), pose)
                return False
            self._begin(*stray)
        elif self._times_ns and timestamp_ns <= self._times_ns[-1]:
            return False
        self._times_ns.append(int(timestamp_ns))
        self._poses.append(pose)
        del self._times_ns[:-KEPT], self._poses[:-KEPT]
        return True

    def around(self, timestamp_ns: int) -> Trajectory | None:
        """The path to be asked about this instant; None if no pose lies within `max_gap_s` of it."""
        gap_ns = self.max_gap_s * NS_PER_S
        if not any(abs(time_ns - timestamp_ns) <= gap_ns for time_ns in self._times_ns):
            if self._stray is None or abs(self._stray[0] - timestamp_ns) > gap_ns:
                return None
            self._begin(*self._stray)
        return Trajectory(np.array(self._times_ns), np.stack(self._poses))

    def _begin(self, timestamp_ns: int, world_from_ego: np.ndarray) -> None:
        self._times_ns, self._poses, self._stray = [timestamp_ns], [world_from_ego], None


def _is_rigid(dst_from_src) -> bool:
    """Whether it is a finite 4x4 matrix that turns and moves without scaling or mirroring."""
    matrix = np.asarray(dst_from_src)
    if matrix.shape != (4, 4) or matrix.dtype.kind not in "fiu" or not np.isfinite(matrix).all():
        return False
    rotation = matrix[:3, :3].astype(np.float64)
    straight = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-3 and np.linalg.det(rotation) > 0
    return bool(straight and np.array_equal(matrix[3], [0, 0, 0, 1]))
