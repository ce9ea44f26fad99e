"""What is estimated: ego poses, one scale, a clock offset and a rotation a camera; and where every picture was taken then."""

from dataclasses import dataclass, replace

import numpy as np

from scenes.clips import Clip, Frame, View
from scenes.geometry import NS_PER_S, Trajectory, interpolate_rigid, invert_rigid, rigid_from_parts, rotation_from_rotvec
from scenes.rigs import Rig


@dataclass(frozen=True)
class MotionState:
    """Corrections of a clip's motion and rig; F frames, N cameras."""

    world_from_ego: np.ndarray
    """(F, 4, 4) at the frames' reference times; the first is the stored one."""
    scale: float
    """Corrected step length over stored step length."""
    clock_s: np.ndarray
    """(N,) true capture time minus stored capture time."""
    rotvec_cam: np.ndarray
    """(N, 3) radians: the true `ego_from_cam` is the calibrated one times this rotation."""

    @staticmethod
    def stored(clip: Clip) -> "MotionState":
        """The clip as it is: no correction."""
        count = len(clip.rig)
        return MotionState(np.stack([frame.world_from_ego for frame in clip.frames]), 1.0, np.zeros(count), np.zeros((count, 3)))


def frame_stamps(clip: Clip) -> np.ndarray:
    """(F,) int64 reference times."""
    return np.array([frame.timestamp_ns for frame in clip.frames], dtype=np.int64)


def capture_stamps(clip: Clip) -> np.ndarray:
    """(F, N) int64 stored capture times."""
    return np.array([[frame.views[name].timestamp_ns for name in clip.rig.names] for frame in clip.frames], dtype=np.int64)


def with_scaled_steps(a_from_b: np.ndarray, scale: float) -> np.ndarray:
    """Relative pose(s) (..., 4, 4) with translations `scale` times as long."""
    scaled = a_from_b.copy()
    scaled[..., :3, 3] *= scale
    return scaled


def refined_ego_at(clip: Clip, state: MotionState, stamps_ns: np.ndarray) -> np.ndarray:
    """(..., 4, 4) refined `world_from_ego` at instants (...): between two frames the stored path, bent to meet both refined poses."""
    frames_ns, stamps = frame_stamps(clip), np.asarray(stamps_ns, dtype=np.int64)
    last = max(len(frames_ns) - 2, 0)
    left = np.clip(np.searchsorted(frames_ns, stamps, side="right") - 1, 0, last)
    right = np.minimum(left + 1, len(frames_ns) - 1)
    stored, at_frames = clip.trajectory.at(stamps), clip.trajectory.at(frames_ns)
    ends = [state.world_from_ego[row] @ with_scaled_steps(invert_rigid(at_frames[row]) @ stored, state.scale) for row in (left, right)]
    span = np.maximum(frames_ns[right] - frames_ns[left], 1)
    return interpolate_rigid(ends[0], ends[1], np.clip((stamps - frames_ns[left]) / span, 0.0, 1.0))


def refined_rig(rig: Rig, state: MotionState) -> Rig:
    """The rig with every camera turned by its correction."""
    turn = rigid_from_parts(rotation_from_rotvec(state.rotvec_cam), np.zeros((len(rig), 3)))
    return Rig(tuple(replace(camera, ego_from_cam=camera.ego_from_cam @ turn[k]) for k, camera in enumerate(rig.cameras)))


def refined_cameras_at(clip: Clip, state: MotionState) -> np.ndarray:
    """(F, N, 4, 4) `world_from_cam` of every picture at its refined capture time."""
    stamps = capture_stamps(clip) + np.round(state.clock_s * NS_PER_S).astype(np.int64)
    ego_from_cam = np.stack([camera.ego_from_cam for camera in refined_rig(clip.rig, state).cameras])
    return refined_ego_at(clip, state, stamps) @ ego_from_cam


def stored_cameras_at(clip: Clip) -> np.ndarray:
    """(F, N, 4, 4) `world_from_cam` of every picture as the clip stores it."""
    at_cam = np.stack([[frame.views[name].world_from_ego_at_cam for name in clip.rig.names] for frame in clip.frames])
    return at_cam @ np.stack([camera.ego_from_cam for camera in clip.rig.cameras])


def refined_clip(clip: Clip, state: MotionState) -> Clip:
    """The clip with refined poses, capture times and camera rotations; pictures and layers are those of the stored one."""
    stamps = np.union1d(clip.trajectory.timestamps_ns, frame_stamps(clip))
    trajectory = Trajectory(stamps, refined_ego_at(clip, state, stamps))
    shift_ns = np.round(state.clock_s * NS_PER_S).astype(np.int64)
    frames = []
    for frame in clip.frames:
        views = {}
        for index, name in enumerate(clip.rig.names):
            view = frame.views[name]
            stamp = view.timestamp_ns + int(shift_ns[index])
            views[name] = View(name, stamp, refined_ego_at(clip, state, np.array(stamp)), view.image)
        frames.append(Frame(frame.index, frame.timestamp_ns, state.world_from_ego[frame.index], views))
    return Clip(clip.path, clip.name, refined_rig(clip.rig, state), frames, trajectory, clip.info)
