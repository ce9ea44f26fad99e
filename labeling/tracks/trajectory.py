"""Where was each object at every frame of its life? One robust solve a track, all tracks of a group in one system.

Detections are re-anchored first (`observations.py`: the size becomes the track's, the side that faced the sensor stays where it was). The
path minimises the robust squared distances to them plus the integrals of (acceleration / a)^2 and (jerk / j)^2 over the true time
stamps; a static object's path is one point, or a slow drift where the ego poses drift. The heading follows the path while the object
drives.
"""

from dataclasses import dataclass

import numpy as np

from labeling.tracks.evidence import SIZE_COLUMNS, Evidence, folded_angle
from labeling.tracks.observations import Observations, life_frames, observe
from labeling.tracks.rows import TrackRows
from labeling.tracks.settings import GroupSettings
from labeling.tracks.smoothing import Slopes, robust_places, robust_values, robust_weight, roughness_band, smooth_line, smooth_plane
from labeling.tracks.standing import is_static
from scenes.boxes import Box3D
from scenes.geometry import wrap_angle

STILL_SPEED_MPS = 0.4
"""A moving object that stays slower than this for `STILL_S` stands meanwhile."""
STILL_S = 1.0
YAW_RATE, YAW_ACCELERATION = 2.0, 0.6
"""Normal turn rate (rad/s) and its normal change (rad/s2), in root seconds."""
VOTE_M = 0.15
"""A detection's say in which end is the front counts as much as this distance driven."""
HEIGHT_DRIFT_SHARE = 0.5
"""Static objects seem to rise and fall by this share of what they seem to drift over the ground."""
HEIGHT_ACCELERATION = 0.3
"""Normal vertical acceleration in the world frame, m/s2."""


@dataclass(frozen=True)
class SolvedTracks:
    """K objects over consecutive frames, in the world frame: F frame rows, track after track."""

    life: TrackRows
    """Layout of the frame rows."""
    seen: TrackRows
    """Layout of the detections `row`."""
    row: np.ndarray
    """(D,) int64 indices of the tracks' detections in the evidence."""
    frame: np.ndarray
    """(F,) int64."""
    box_world: np.ndarray
    """(F, 9)."""
    detection: np.ndarray
    """(F,) int64: the frame's detection, -1 where there is none."""
    class_id: np.ndarray
    """(K,) int64."""
    is_static: np.ndarray
    """(K,) bool."""

    def __len__(self) -> int:
        return len(self.life)

    @property
    def is_measured(self) -> np.ndarray:
        """(F,) bool."""
        return self.detection >= 0


def _slopes(seen: Observations) -> Slopes:
    """The source's velocities as first differences of the paths."""
    velocity = seen.box[:, Box3D.VX : Box3D.VY + 1]
    last = seen.life.end[seen.seen.owner] - 1
    at = np.minimum(seen.slot, last - 1)
    known = np.isfinite(velocity).all(axis=1) & (at >= seen.life.first[seen.seen.owner])
    at = at[known]
    step_s = seen.time_s[at + 1] - seen.time_s[at]
    return Slopes(at, velocity[known] * step_s[:, None], 1 / (seen.velocity_std_mps[known] * step_s) ** 2)


def solved_paths(seen: Observations, static: np.ndarray, settings: GroupSettings) -> np.ndarray:
    """(F, 2): one robust place or a slow drift for static objects (K,), smooth paths for the others, held still where they stop."""
    motion, free = settings.motion, np.full(len(static), np.inf)
    drift = np.where(static, max(motion.static_drift_mps, 1e-3), free)
    scales = {
        1: drift,
        2: np.where(static, free, motion.smooth_acceleration_mps2),
        3: np.where(static, free, motion.smooth_jerk_mps3),
    }
    band = roughness_band(seen.time_s, seen.life, scales)
    slopes = _slopes(seen)
    moving = ~static[seen.life.owner[slopes.at]]
    slopes = Slopes(slopes.at[moving], slopes.step[moving], slopes.information[moving])
    path = smooth_plane(band, seen.slot, seen.box[:, :2], seen.information, slopes)
    still = np.flatnonzero(still_steps(seen, path) & ~static[seen.life.owner[:-1]])
    if len(still):
        step_s = seen.time_s[still + 1] - seen.time_s[still]
        held = slopes.and_also(Slopes(still, np.zeros((len(still), 2)), 1 / (0.03 * step_s) ** 2))
        path = smooth_plane(band, seen.slot, seen.box[:, :2], seen.information, held)
    if motion.static_drift_mps == 0:
        place = robust_places(seen.seen, seen.box[:, :2], seen.information)
        path = np.where(static[seen.life.owner][:, None], place[seen.life.owner], path)
    return path


def still_steps(seen: Observations, path: np.ndarray) -> np.ndarray:
    """(F - 1,) bool: steps between frame rows that belong to a stop of at least `STILL_S`."""
    same = seen.life.owner[1:] == seen.life.owner[:-1]
    slow = same & (np.hypot(*np.diff(path, axis=0).T) < STILL_SPEED_MPS * np.diff(seen.time_s))
    edge = np.flatnonzero(np.diff(np.concatenate([[0], slow.astype(np.int64), [0]])))
    begin, end = edge[::2], edge[1::2]
    brief = seen.time_s[end] - seen.time_s[begin] < STILL_S
    for a, b in zip(begin[brief].tolist(), end[brief].tolist(), strict=True):
        slow[a:b] = False
    return slow


def path_velocities(time_s: np.ndarray, path: np.ndarray, life: TrackRows) -> np.ndarray:
    """(F, 2) m/s: central differences, one-sided at the ends; zero for tracks of a single frame."""
    before = np.maximum(np.arange(len(path)) - 1, life.first[life.owner])
    after = np.minimum(np.arange(len(path)) + 1, life.end[life.owner] - 1)
    span_s = time_s[after] - time_s[before]
    return (path[after] - path[before]) / np.where(span_s > 0, span_s, 1.0)[:, None]


def mean_headings(layout: TrackRows, yaw: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(K,) the robust weighted mean directions of angles (D,)."""
    mean = np.angle(layout.sums(weight * np.exp(1j * yaw)))
    for _ in range(3):
        again = weight * robust_weight((np.asarray(wrap_angle(yaw - mean[layout.owner])) / 0.1) ** 2)
        mean = np.angle(layout.sums(again * np.exp(1j * yaw)))
    return mean


def solved_headings(seen: Observations, velocity: np.ndarray, static: np.ndarray, settings: GroupSettings) -> np.ndarray:
    """(F,) headings: the weighted mean of the votes if static; else smooth curves through the detections' headings and the course.

    The course gives the axis of the object only; which end is the front is decided once for the whole track, so a car that backs up
    keeps its front.
    """
    yaw, life, owner = seen.box[:, Box3D.YAW], seen.life, seen.seen.owner
    mean = mean_headings(seen.seen, yaw, seen.weight)
    if settings.motion.heading_speed_mps <= 0:
        return mean[life.owner]
    speed = np.hypot(*velocity.T)
    at, begin, end = np.arange(len(speed)), seen.slot[seen.seen.first], seen.slot[seen.seen.end - 1]
    inside = (at >= begin[life.owner]) & (at <= end[life.owner]) & ~static[life.owner]
    least_mps = settings.motion.heading_speed_mps + settings.motion.pose_error * seen.ego_mps + seen.doubt_mps
    drives = np.flatnonzero(inside & (speed >= least_mps))
    course = np.arctan2(velocity[drives, 1], velocity[drives, 0])
    clock, share = life.clock(seen.time_s), seen.relative_weight
    known = np.interp(clock[drives], clock[seen.slot], yaw)
    driven_m = speed[drives] * _frame_s(seen)[drives] * np.interp(clock[drives], clock[seen.slot], share)
    ahead = np.bincount(life.owner[drives], driven_m * np.cos(course - known), minlength=len(life))
    turned = np.where(ahead + VOTE_M * seen.front_votes < 0, np.pi, 0.0)
    turned[static] = 0.0
    known = known + turned[life.owner[drives]]
    slip = settings.motion.heading_slip_mps / np.maximum(speed[drives], 1e-6)
    slot = np.concatenate([seen.slot, drives])
    angle = np.concatenate([yaw + turned[owner], known + folded_angle(course - known)])
    information = np.concatenate([share / settings.noise.yaw_rad**2, 1 / (slip**2 + 0.03**2)])
    every = np.ones(len(life))
    curve = smooth_line(roughness_band(seen.time_s, life, {1: YAW_RATE * every, 2: YAW_ACCELERATION * every}), slot, angle, information)
    return np.where(static[life.owner], mean[life.owner], np.asarray(wrap_angle(curve)))


def _frame_s(seen: Observations) -> np.ndarray:
    """(F,) the seconds that each frame row stands for."""
    index, life = np.arange(len(seen.time_s)), seen.life
    before, after = np.maximum(index - 1, life.first[life.owner]), np.minimum(index + 1, life.end[life.owner] - 1)
    return (seen.time_s[after] - seen.time_s[before]) / np.maximum(after - before, 1)


def solved_heights(seen: Observations, static: np.ndarray, settings: GroupSettings) -> np.ndarray:
    """(F,) z of the centres: the detections' bottoms plus half the track's height, smoothed (static: their robust mean or drift).

    `keep_bottom` says where between bottom and centre a detection is held when its height becomes the track's. Near and strong
    detections count more; poses that drift over the ground hardly rise or fall.
    """
    own = seen.box[:, Box3D.HEIGHT]
    held = settings.keep_bottom * own + (1 - settings.keep_bottom) * seen.size[seen.seen.owner, 2]
    bottom = seen.box[:, Box3D.Z] - held / 2
    information = seen.relative_weight / settings.noise.height_m**2
    drift, owner = HEIGHT_DRIFT_SHARE * settings.motion.static_drift_mps, seen.life.owner
    scales = {1: np.where(static, max(drift, 1e-3), 1.0), 2: np.where(static, np.inf, HEIGHT_ACCELERATION)}
    curve = smooth_line(roughness_band(seen.time_s, seen.life, scales), seen.slot, bottom, information)
    if drift == 0:
        curve = np.where(static[owner], robust_values(seen.seen, bottom, information)[owner], curve)
    return curve + seen.size[owner, 2] / 2


def solve_tracks(
    evidence: Evidence, chains: list[np.ndarray], settings: GroupSettings, frames: list[np.ndarray] | None = None
) -> SolvedTracks:
    """The boxes of all chains' objects at the frames of their lives (by default those of `life_frames`)."""
    if not chains:
        none = np.zeros(0, dtype=np.int64)
        return SolvedTracks(TrackRows(none), TrackRows(none), none, none, np.zeros((0, 9)), none, none, np.zeros(0, dtype=bool))
    seen = observe(evidence, chains, life_frames(evidence, chains, settings) if frames is None else frames, settings)
    static = is_static(seen, settings)
    moves = ~static[seen.life.owner]
    box = np.zeros((len(seen.frame), 9))
    box[:, :2] = solved_paths(seen, static, settings)
    box[moves, Box3D.VX :] = path_velocities(seen.time_s, box[:, :2], seen.life)[moves]
    box[:, Box3D.Z] = solved_heights(seen, static, settings)
    box[:, SIZE_COLUMNS] = seen.size[seen.life.owner]
    box[:, Box3D.YAW] = solved_headings(seen, box[:, Box3D.VX :], static, settings)
    detection = np.full(len(box), -1, dtype=np.int64)
    detection[seen.slot] = seen.row
    classes = evidence.class_id[seen.row]
    votes = np.zeros((len(chains), int(classes.max()) + 1))
    np.add.at(votes, (seen.seen.owner, classes), seen.weight)
    return SolvedTracks(seen.life, seen.seen, seen.row, seen.frame, box, detection, votes.argmax(axis=1), static)
