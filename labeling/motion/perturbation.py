"""How is a clip's exact motion made rough? A documented model, for tests and benchmarks.

The stored path is cut into its steps. Every step's translation is multiplied by `1 + scale`, every step is turned by `drift_rad_per_s`
times its duration (about an axis fixed in the ego frame), and the steps are put together again from the first frame's pose. The stored
capture times of one camera are moved by `clock_s` (its true capture time is `clock_s` EARLIER than stored), and every camera may be
turned against its calibration. Frame and picture poses are then read from the rough path at the stored times.
"""

from dataclasses import dataclass, replace

import numpy as np

from scenes.clips import Clip, Frame, View
from scenes.geometry import NS_PER_S, Trajectory, invert_rigid, rigid_from_parts, rotation_from_rotvec
from scenes.rigs import Rig


@dataclass(frozen=True)
class Roughness:
    """What is wrong with the stored motion."""

    scale: float = 0.01
    drift_rad_per_s: tuple[float, float, float] = (0.0, 0.0, 0.00087)
    """0.5 degrees in 10 s to the left."""
    clock_s: float = 0.02
    clock_camera: str = ""
    """The camera whose clock is wrong; "" for none."""
    rotvec_cam: tuple[tuple[float, float, float], ...] = ()
    """A turn of every camera against its calibration; empty for none."""


def rough_trajectory(trajectory: Trajectory, roughness: Roughness, start_ns: int) -> Trajectory:
    """The path with scaled and turned steps; it meets the exact one at `start_ns`."""
    stamps = np.union1d(trajectory.timestamps_ns, [start_ns])
    exact = trajectory.at(stamps)
    steps = invert_rigid(exact[:-1]) @ exact[1:]
    steps[:, :3, 3] *= 1 + roughness.scale
    seconds = np.diff(stamps)[:, None] / NS_PER_S
    steps = steps @ rigid_from_parts(rotation_from_rotvec(seconds * np.array(roughness.drift_rad_per_s)), np.zeros((len(steps), 3)))
    first = int(np.searchsorted(stamps, start_ns))
    rough = exact.copy()
    for row in range(first, len(stamps) - 1):
        rough[row + 1] = rough[row] @ steps[row]
    for row in range(first, 0, -1):
        rough[row - 1] = rough[row] @ invert_rigid(steps[row - 1])
    return Trajectory(stamps, rough)


def roughened(clip: Clip, roughness: Roughness) -> Clip:
    """The clip with rough motion, a wrong clock and wrong mounts; pictures and layers are those of the exact one."""
    trajectory = rough_trajectory(clip.trajectory, roughness, clip.frames[0].timestamp_ns)
    rig = clip.rig
    if roughness.rotvec_cam:
        cam_from_stored = rigid_from_parts(rotation_from_rotvec(np.array(roughness.rotvec_cam)), np.zeros((len(rig), 3)))
        rig = Rig(tuple(replace(c, ego_from_cam=c.ego_from_cam @ cam_from_stored[k]) for k, c in enumerate(rig.cameras)))
    frames = []
    for frame in clip.frames:
        views = {}
        for name, view in frame.views.items():
            shift_ns = round(roughness.clock_s * NS_PER_S) if name == roughness.clock_camera else 0
            stamp = view.timestamp_ns + shift_ns
            views[name] = View(name, stamp, trajectory.at(stamp), view.image)
        frames.append(Frame(frame.index, frame.timestamp_ns, trajectory.at(frame.timestamp_ns), views))
    return Clip(clip.path, clip.name, rig, frames, trajectory, clip.info)
