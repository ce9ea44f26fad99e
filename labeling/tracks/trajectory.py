"""Where was one object at every frame of its life? One robust solve a track: path, heading, one size, static or moving.

Detections are re-anchored first (the size becomes the track's, the side that faced the sensor stays where it was). The path minimises
the robust squared distances to them plus the integrals of (acceleration / a)^2 and (jerk / j)^2 over the true time stamps; a static
object's path is one point, or a slow drift where the ego poses drift. The heading follows the path while the object drives.
"""

from dataclasses import dataclass

import numpy as np

from labeling.tracks.evidence import SIZE_COLUMNS, Evidence, folded_angle
from labeling.tracks.kalman import invert_2x2
from labeling.tracks.settings import GroupSettings
from labeling.tracks.smoothing import Slopes, robust_weight, roughness_band, smooth_line, smooth_plane
from scenes.boxes import Box3D
from scenes.geometry import wrap_angle

STILL_SPEED_MPS = 0.4
"""A moving object that stays slower than this for `STILL_S` stands meanwhile."""
STILL_S = 1.0
YAW_ACCELERATION = 0.6
"""Normal change of the turn rate, rad/s2."""
HEADING_WINDOW_S = 1.0
"""Over this time (standard deviation) a heading's axis is averaged before front and rear are voted on."""
VOTE_M = 0.15
"""A detection's say in which end is the front counts as much as this distance driven."""
HEIGHT_ACCELERATION = 0.3
"""Normal vertical acceleration in the world frame, m/s2."""


@dataclass(frozen=True)
class SolvedTrack:
    """One object over F consecutive frames, in the world frame."""

    chain: np.ndarray
    """(D,) indices of its detections, ascending."""
    frames: np.ndarray
    """(F,) int64, consecutive."""
    box_world: np.ndarray
    """(F, 9)."""
    detection: np.ndarray
    """(F,) int64: the frame's detection, -1 where there is none."""
    class_id: int
    is_static: bool

    @property
    def is_measured(self) -> np.ndarray:
        """(F,) bool."""
        return self.detection >= 0


@dataclass(frozen=True)
class Observations:
    """The detections of one track, made ready for its solve."""

    slot: np.ndarray
    """(D,) index of the frame within the track."""
    time_s: np.ndarray
    """(F,) of the track's frames."""
    box: np.ndarray
    """(D, 9) re-anchored: the centre is where it is with the track's size."""
    information: np.ndarray
    """(D, 2, 2)."""
    weight: np.ndarray
    """(D,) how much a detection says about size and heading: its score, less when far away."""
    size: np.ndarray
    """(3,) the track's length, width, height."""
    front_votes: float
    """How many (weighted) detections more spoke for the headings in `box` than for the opposite ones."""


def track_size(box: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(3,) weighted medians of length, width and height."""
    order = np.argsort(box[:, SIZE_COLUMNS], axis=0, kind="stable")
    share = np.cumsum(weight[order], axis=0)
    middle = (share >= share[-1:] / 2).argmax(axis=0)
    return np.take_along_axis(box[:, SIZE_COLUMNS], order, axis=0)[middle, np.arange(3)]


def vote_heading(yaw: np.ndarray, weight: np.ndarray, time_s: np.ndarray, window_s: float = HEADING_WINDOW_S) -> np.ndarray:
    """Headings (D,) without flips: continuous over time (not wrapped), turned by half a turn where they oppose the majority.

    The axis, front and rear not told apart, is averaged over a window of time and followed through curves; then all detections
    vote together, by weight, which of its two ends is the front.
    """
    apart_s = (time_s[None] - time_s[:, None]) / window_s
    double = np.exp(-(apart_s**2) / 2) @ (weight * np.exp(2j * yaw))
    axis = np.unwrap(np.angle(double)) / 2
    front = float((weight * np.cos(yaw - axis)).sum())
    axis = axis if front >= 0 else axis + np.pi
    return axis + folded_angle(yaw - axis)


def reanchored_centres(box: np.ndarray, size: np.ndarray, sensor_xy: np.ndarray, keep_near_face: float) -> np.ndarray:
    """Centres (D, 2) of the boxes with the track's size, when the faces towards the sensor (D, 2) stay where they were."""
    offset = box[:, :2] - sensor_xy
    centre = box[:, :2].copy()
    for axis in (0, 1):
        angle = box[:, Box3D.YAW] + axis * np.pi / 2
        direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        away_m = np.einsum("di,di->d", offset, direction)
        facing = np.clip(away_m / (size[axis] / 2), -1, 1)  # 0 beside the object, 1 where the sensor looks at its rear
        growth_m = (size[axis] - box[:, Box3D.LENGTH + axis]) / 2
        centre += keep_near_face * (facing * growth_m)[:, None] * direction
    return centre


def observe(evidence: Evidence, chain: np.ndarray, frames: np.ndarray, settings: GroupSettings) -> Observations:
    """The detections of a chain relative to the frames of its track, with size and headings settled."""
    box = evidence.box_world[chain].copy()
    distance_m = np.linalg.norm(box[:, :2] - evidence.world_from_ego[evidence.frame[chain], :2, 3], axis=1)
    weight = np.maximum(evidence.score[chain], 0.02) / (1 + (distance_m / 40) ** 2)
    size = track_size(box, weight)
    voted = vote_heading(box[:, Box3D.YAW], weight, evidence.time_s[evidence.frame[chain]])
    front_votes = float((weight * np.cos(box[:, Box3D.YAW] - voted)).sum() / weight.max())
    box[:, Box3D.YAW] = voted
    sensor_xy = evidence.world_from_ego[evidence.frame[chain], :2, 3]
    box[:, :2] = reanchored_centres(box, size, sensor_xy, settings.keep_near_face)
    information = invert_2x2(evidence.position_covariance(settings.noise, chain))[0]
    return Observations(evidence.frame[chain] - frames[0], evidence.time_s[frames], box, information, weight, size, front_votes)


def _slopes(seen: Observations, settings: GroupSettings) -> Slopes | None:
    """The source's velocities as first differences of the path."""
    velocity = seen.box[:, Box3D.VX : Box3D.VY + 1]
    known = np.isfinite(velocity).all(axis=1)
    if len(seen.time_s) < 2 or not known.any():
        return None
    at = np.minimum(seen.slot[known], len(seen.time_s) - 2)
    step_s = seen.time_s[at + 1] - seen.time_s[at]
    return Slopes(at, velocity[known] * step_s[:, None], 1 / (settings.noise.velocity_mps * step_s) ** 2)


def moving_path(seen: Observations, settings: GroupSettings) -> np.ndarray:
    """(F, 2): the path of an object that may move; where it stands for a while it is held still."""
    motion = settings.motion
    band = roughness_band(seen.time_s, {2: motion.smooth_acceleration_mps2, 3: motion.smooth_jerk_mps3})
    slopes = _slopes(seen, settings)
    path = smooth_plane(band, seen.slot, seen.box[:, :2], seen.information, slopes)
    still = still_steps(seen.time_s, path)
    if not still.any():
        return path
    at = np.flatnonzero(still)
    held = Slopes(at, np.zeros((len(at), 2)), 1 / (0.03 * np.diff(seen.time_s)[at]) ** 2)
    held = held if slopes is None else slopes.and_also(held)
    return smooth_plane(band, seen.slot, seen.box[:, :2], seen.information, held)


def still_steps(time_s: np.ndarray, path: np.ndarray) -> np.ndarray:
    """(F - 1,) bool: steps between frames that belong to a stop of at least `STILL_S`."""
    slow = np.hypot(*np.diff(path, axis=0).T) < STILL_SPEED_MPS * np.diff(time_s)
    edge = np.flatnonzero(np.diff(np.concatenate([[0], slow.astype(int), [0]])))
    for begin, end in zip(edge[::2], edge[1::2], strict=True):
        if time_s[end] - time_s[begin] < STILL_S:
            slow[begin:end] = False
    return slow


def static_path(seen: Observations, settings: GroupSettings) -> np.ndarray:
    """(F, 2): one robust mean place, or a slow drift if the settings allow one."""
    num, drift = len(seen.time_s), settings.motion.static_drift_mps
    if drift > 0 and num > 1:
        return smooth_plane(roughness_band(seen.time_s, {1: drift}), seen.slot, seen.box[:, :2], seen.information)
    place = smooth_plane(np.zeros((4, 1)), np.zeros(len(seen.slot), dtype=np.int64), seen.box[:, :2], seen.information)
    return np.repeat(place, num, axis=0)


def is_static(seen: Observations, settings: GroupSettings) -> bool:
    """Whether the evidence is content with an object that never moves.

    Velocities that the source gives, if any, must not agree on a motion. Nine tenths of the evidence (by weight) must lie within the
    class's spread around one place, its ends must not have left that place, and between its first and its second half it either
    travelled too little to be told from noise or was slower than the class's limit. The noise of neighbouring detections is alike: at
    most four count as independent.
    """
    motion, num = settings.motion, len(seen.slot)
    velocity = seen.box[:, Box3D.VX : Box3D.VY + 1]
    if np.isfinite(velocity).all():
        mean_speed = float(np.hypot(*(seen.weight @ velocity / seen.weight.sum())))
        if mean_speed > max(2 * motion.static_speed_mps, settings.noise.velocity_mps / np.sqrt(min(num, 4))):
            return False
    if num < 2:
        return True
    noise_m = float(np.sqrt(np.median(np.trace(invert_2x2(seen.information)[0], axis1=1, axis2=2))))
    spread_m = max(motion.static_spread_m, 1.5 * noise_m)
    place = smooth_plane(np.zeros((4, 1)), np.zeros(num, dtype=np.int64), seen.box[:, :2], seen.information)[0]
    apart_m = np.hypot(*(seen.box[:, :2] - place).T)
    order = np.argsort(apart_m)
    share = np.cumsum(seen.weight[order])
    if apart_m[order[(share >= 0.9 * share[-1]).argmax()]] > spread_m:
        return False
    strong = np.flatnonzero(seen.weight >= 0.5 * np.median(seen.weight))
    few = max(3, len(strong) // 10)
    ends = (np.median(seen.box[rows, :2], axis=0) for rows in (strong[:few], strong[-few:]))
    if max(np.hypot(*(end - place)) for end in ends) > spread_m:
        return False
    half = (np.cumsum(seen.weight) <= seen.weight.sum() / 2) | (np.arange(num) == 0)
    half[-1] = False
    (first, first_s), (last, last_s) = (_weighted_centre(seen, part) for part in (half, ~half))
    moved_m, noise_of_move_m = float(np.hypot(*(last - first))), noise_m * np.sqrt(2 / min(num / 2, 4))
    return moved_m < motion.static_speed_mps * (last_s - first_s) or moved_m < 2.5 * noise_of_move_m


def _weighted_centre(seen: Observations, part: np.ndarray) -> tuple[np.ndarray, float]:
    weight = seen.weight[part] / seen.weight[part].sum()
    return weight @ seen.box[part, :2], float(weight @ seen.time_s[seen.slot[part]])


def path_velocity(time_s: np.ndarray, path: np.ndarray) -> np.ndarray:
    """(F, 2) m/s: central differences, one-sided at the ends; zero for a single frame."""
    return np.gradient(path, time_s, axis=0) if len(time_s) > 1 else np.zeros_like(path)


def solved_heading(seen: Observations, velocity: np.ndarray, static: bool, settings: GroupSettings) -> np.ndarray:
    """(F,) heading: the weighted mean of the votes if static; else a smooth curve through the detections' headings and the course.

    The course gives the axis of the object only; which end is the front is decided once for the whole track, so a car that backs up
    keeps its front.
    """
    yaw = seen.box[:, Box3D.YAW]
    if static or settings.motion.heading_speed_mps <= 0:
        return np.full(len(seen.time_s), mean_heading(yaw, seen.weight))
    speed = np.hypot(*velocity.T)
    drives = seen.slot[0] + np.flatnonzero(speed[seen.slot[0] : seen.slot[-1] + 1] >= settings.motion.heading_speed_mps)
    course = np.arctan2(velocity[drives, 1], velocity[drives, 0])
    known = np.interp(seen.time_s[drives], seen.time_s[seen.slot], yaw)
    step_s = np.gradient(seen.time_s)[drives] if len(drives) else np.zeros(0)
    driven_m = speed[drives] * step_s * np.interp(seen.time_s[drives], seen.time_s[seen.slot], seen.weight / seen.weight.max())
    if (driven_m * np.cos(course - known)).sum() + VOTE_M * seen.front_votes < 0:
        yaw, known = yaw + np.pi, known + np.pi
    slip = settings.motion.heading_slip_mps / np.maximum(speed[drives], 1e-6)
    slot = np.concatenate([seen.slot, drives])
    angle = np.concatenate([yaw, known + folded_angle(course - known)])
    information = np.concatenate([seen.weight / seen.weight.max() / settings.noise.yaw_rad**2, 1 / (slip**2 + 0.03**2)])
    curve = smooth_line(roughness_band(seen.time_s, {1: 2.0, 2: YAW_ACCELERATION}), slot, angle, information)
    return np.asarray(wrap_angle(curve)).reshape(-1)


def mean_heading(yaw: np.ndarray, weight: np.ndarray) -> float:
    """The robust weighted mean direction of angles (D,)."""
    mean = float(np.angle(np.sum(weight * np.exp(1j * yaw))))
    for _ in range(3):
        again = weight * robust_weight((np.asarray(wrap_angle(yaw - mean)) / 0.1) ** 2)
        mean = float(np.angle(np.sum(again * np.exp(1j * yaw))))
    return mean


def solved_height(seen: Observations, static: bool, settings: GroupSettings) -> np.ndarray:
    """(F,) z of the centre: the detections' bottoms plus half the track's height, smoothed (static: their robust mean or drift)."""
    bottom = seen.box[:, Box3D.Z] - seen.box[:, Box3D.HEIGHT] / 2
    information = np.full(len(bottom), settings.noise.height_m**-2)
    drift, num = settings.motion.static_drift_mps, len(seen.time_s)
    if static and drift == 0:
        curve = np.repeat(smooth_line(np.zeros((4, 1)), np.zeros(len(bottom), dtype=np.int64), bottom, information), num)
    else:
        scales = {1: drift} if static else {1: 1.0, 2: HEIGHT_ACCELERATION}
        curve = smooth_line(roughness_band(seen.time_s, scales), seen.slot, bottom, information)
    return curve + seen.size[2] / 2


def solve_track(evidence: Evidence, chain: np.ndarray, frames: np.ndarray, settings: GroupSettings) -> SolvedTrack:
    """One object's boxes at `frames` (F,), consecutive and holding all detections of `chain` (D,); the rest is inter- or extrapolated."""
    seen = observe(evidence, chain, frames, settings)
    static = is_static(seen, settings)
    path = static_path(seen, settings) if static else moving_path(seen, settings)
    velocity = np.zeros_like(path) if static else path_velocity(seen.time_s, path)
    box = np.empty((len(frames), 9))
    box[:, :2] = path
    box[:, Box3D.Z] = solved_height(seen, static, settings)
    box[:, SIZE_COLUMNS] = seen.size
    box[:, Box3D.YAW] = solved_heading(seen, velocity, static, settings)
    box[:, Box3D.VX :] = velocity
    detection = np.full(len(frames), -1, dtype=np.int64)
    detection[seen.slot] = chain
    votes = np.bincount(evidence.class_id[chain], weights=seen.weight)
    return SolvedTrack(chain, frames, box, detection, int(votes.argmax()), static)
