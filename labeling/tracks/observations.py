"""What do a track's detections say once they are put side by side? One size, headings without flips, centres that fit the size."""

from dataclasses import dataclass

import numpy as np

from labeling.tracks.evidence import Evidence, folded_angle, velocity_stds
from labeling.tracks.kalman import invert_2x2
from labeling.tracks.rows import TrackRows
from labeling.tracks.settings import GroupSettings
from scenes.boxes import Box3D
from scenes.geometry import ground_speeds

HEADING_WINDOW_S = 1.0
"""Over this time (standard deviation) a heading's axis is averaged before front and rear are voted on."""

SIZE_RANGE_M = 20.0
"""Up to about this range all detections say as much about the size; beyond, what they say falls with the fourth power of the range."""
HARDEST_BRAKING_MPS2 = 9.0
"""No road vehicle's speed changes faster."""
DOUBT_S = 2.0
"""For so long before and after a jump of the poses' speed it may be false."""


@dataclass(frozen=True)
class Observations:
    """The detections of K tracks, made ready for their solve: D detection rows and F frame rows, track after track."""

    seen: TrackRows
    """The layout of the detection rows."""
    life: TrackRows
    """The layout of the frame rows: consecutive frames, all detections inside."""
    row: np.ndarray
    """(D,) int64 indices into the evidence, ascending within a track."""
    frame: np.ndarray
    """(F,) int64 frame indices."""
    time_s: np.ndarray
    """(F,)."""
    ego_mps: np.ndarray
    """(F,) speed of the ego vehicle; so much of it as the poses are wrong, standing things seem to move with."""
    doubt_mps: np.ndarray
    """(F,) by how much the poses' speed jumped nearby beyond what a vehicle can do; speeds up to this are not to be believed."""
    slot: np.ndarray
    """(D,) the frame row of each detection."""
    box: np.ndarray
    """(D, 9) re-anchored: the centre is where it is with the track's size; headings voted on, continuous over time."""
    information: np.ndarray
    """(D, 2, 2)."""
    weight: np.ndarray
    """(D,) how much a detection says about size and heading: its score, less when far away."""
    size: np.ndarray
    """(K, 3) each track's length, width, height."""
    velocity_std_mps: np.ndarray
    """(D,) of the velocities in `box`."""
    front_votes: np.ndarray
    """(K,) how many (weighted) detections more spoke for the headings in `box` than for the opposite ones."""

    @property
    def relative_weight(self) -> np.ndarray:
        """(D,) `weight`, the largest of each track 1."""
        return self.weight / self.seen.largest(self.weight)[self.seen.owner]


def track_sizes(layout: TrackRows, box: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(K, 3) weighted medians of length, width and height."""
    return np.stack([layout.quantile(box[:, column], weight) for column in range(Box3D.LENGTH, Box3D.HEIGHT + 1)], axis=1)


def vote_headings(
    layout: TrackRows, yaw: np.ndarray, weight: np.ndarray, time_s: np.ndarray, window_s: float = HEADING_WINDOW_S
) -> np.ndarray:
    """Headings (D,) without flips: continuous over time (not wrapped), turned by half a turn where they oppose the majority.

    The axis, front and rear not told apart, is averaged over a window of time and followed through curves; then all detections
    vote together, by weight, which of its two ends is the front.
    """
    own = weight * np.exp(2j * yaw)
    double = own.copy()
    for a, b, apart_s in layout.neighbours(time_s, 4 * window_s):
        near = np.exp(-((apart_s / window_s) ** 2) / 2)
        double[a] += near * own[b]
        double[b] += near * own[a]
    angle = np.angle(double)
    turn = np.zeros(len(yaw))
    turn[1:] = np.mod(np.diff(angle) + np.pi, 2 * np.pi) - np.pi
    turn[layout.first] = 0.0
    axis = (angle[layout.first][layout.owner] + layout.running(turn)) / 2
    front = layout.sums(weight * np.cos(yaw - axis))
    axis = axis + np.where(front >= 0, 0.0, np.pi)[layout.owner]
    return axis + folded_angle(yaw - axis)


def reanchored_centres(box: np.ndarray, size: np.ndarray, sensor_xy: np.ndarray, keep_near_face: float) -> np.ndarray:
    """Centres (D, 2) of the boxes with the tracks' sizes (D, 3), when the faces towards the sensor (D, 2) stay where they were."""
    offset = box[:, :2] - sensor_xy
    centre = box[:, :2].copy()
    for axis in (0, 1):
        angle = box[:, Box3D.YAW] + axis * np.pi / 2
        direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        away_m = (offset * direction).sum(axis=1)
        facing = np.clip(away_m / (size[:, axis] / 2), -1, 1)  # 0 beside the object, 1 where the sensor looks at its rear
        growth_m = (size[:, axis] - box[:, Box3D.LENGTH + axis]) / 2
        centre += keep_near_face * (facing * growth_m)[:, None] * direction
    return centre


def pose_doubts(evidence: Evidence) -> np.ndarray:
    """(T,) m/s: the largest jump of the ego vehicle's speed within `DOUBT_S`, less what a vehicle can do between two frames.

    Visual odometry that mistakes traffic for the street runs on at a false speed for a second or two: everything else then seems to
    move with the difference. It enters and leaves such a stretch by jumps that no vehicle makes.
    """
    step_s = np.diff(evidence.time_s)
    if len(step_s) < 2:
        return np.zeros(len(evidence.time_s))
    speed = np.hypot(*np.diff(evidence.world_from_ego[:, :2, 3], axis=0).T) / step_s
    between_s = (step_s[1:] + step_s[:-1]) / 2
    jump = np.abs(np.diff(speed)) - HARDEST_BRAKING_MPS2 * between_s
    found = np.flatnonzero(jump > 0)
    near = np.abs(evidence.time_s[:, None] - evidence.time_s[None, found + 1]) <= DOUBT_S
    return np.where(near, jump[found], 0.0).max(axis=1, initial=0.0)


def life_frames(evidence: Evidence, chains: list[np.ndarray], settings: GroupSettings) -> list[np.ndarray]:
    """The consecutive frames each track is solved on: from its first to its last detection and `extend_s` beyond both."""
    ends = np.array([[evidence.frame[chain[0]], evidence.frame[chain[-1]]] for chain in chains], dtype=np.int64).reshape(-1, 2)
    reach_s = np.array([settings.completion.extend_s if len(chain) > 2 else 0.0 for chain in chains])
    begin = np.searchsorted(evidence.time_s, evidence.time_s[ends[:, 0]] - reach_s - 1e-6)
    end = np.searchsorted(evidence.time_s, evidence.time_s[ends[:, 1]] + reach_s + 1e-6)
    return [np.arange(a, b, dtype=np.int64) for a, b in zip(begin.tolist(), end.tolist(), strict=True)]


def observe(evidence: Evidence, chains: list[np.ndarray], frames: list[np.ndarray], settings: GroupSettings) -> Observations:
    """The detections of chains relative to the frames of their tracks, with sizes and headings settled."""
    seen, life = TrackRows.of_parts(chains), TrackRows.of_parts(frames)
    row, frame = np.concatenate(chains), np.concatenate(frames)
    box = evidence.box_world[row].copy()
    at = evidence.frame[row]
    sensor_xy = evidence.world_from_ego[at, :2, 3]
    distance_m = np.hypot(*(box[:, :2] - sensor_xy).T)
    weight = np.maximum(evidence.score[row], 0.02) / (1 + (distance_m / 40) ** 2)
    size = track_sizes(seen, box, evidence.score[row].clip(0.02) / (1 + (distance_m / SIZE_RANGE_M) ** 2) ** 2)
    voted = vote_headings(seen, box[:, Box3D.YAW], weight, evidence.time_s[at])
    front_votes = seen.sums(weight * np.cos(box[:, Box3D.YAW] - voted)) / seen.largest(weight)
    box[:, Box3D.YAW] = voted
    box[:, :2] = reanchored_centres(box, size[seen.owner], sensor_xy, settings.keep_near_face)
    slot = life.first[seen.owner] + at - frame[life.first][seen.owner]
    information = invert_2x2(evidence.position_covariance(settings.noise, row))[0]
    ego_mps = ground_speeds(evidence.world_from_ego, evidence.timestamps_ns)
    every = (frame, evidence.time_s[frame], ego_mps[frame], pose_doubts(evidence)[frame])
    columns = (slot, box, information, weight, size, velocity_stds(evidence, settings.noise, row), front_votes)
    return Observations(seen, life, row, *every, *columns)
