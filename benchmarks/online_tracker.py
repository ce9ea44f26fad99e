"""What does an honest online tracker make of detections? Forward only: constant-velocity Kalman filter and Hungarian assignment.

Per group of classes; the same noise model of detections, gates in standard deviations, two score bands (strong detections first, weak ones
only extend), births, confirmation, coasting. Its few numbers were chosen by `python -m benchmarks.argoverse_noise --tune` on other seeds.
"""

from dataclasses import dataclass

import numpy as np

from labeling.tracks.association import REFUSED, assign
from labeling.tracks.duplicates import single_detections
from labeling.tracks.evidence import Evidence, folded_angle
from labeling.tracks.kalman import States, invert_2x2, predict, start_states, update
from labeling.tracks.settings import GroupSettings
from labeling.tracks.smoothing import squared_distance
from scenes.boxes import Box3D


@dataclass(frozen=True)
class OnlineSettings:
    """The numbers of the online tracker."""

    high_score: float = 0.4
    """From here on detections are assigned first and may start tracks."""
    low_score: float = 0.2
    """Weaker ones are not looked at."""
    min_hits: int = 3
    """Detections before a track is told."""
    max_age_s: float = 3.0
    """Time without a detection after which a track ends."""
    told_age_s: float = 0.5
    """Time without a detection for which its predicted box is still told."""
    gate_sigma: float = 3.0


@dataclass
class _Track:
    number: int
    state: States
    box: np.ndarray
    class_id: int
    score: float
    seen_s: float
    hits: int = 1


Told = list[list[tuple[int, np.ndarray, int, float]]]
"""For each frame: (track number, box (9,), class id, mean score) of every box told."""


def track_online(evidence: Evidence, group: GroupSettings, settings: OnlineSettings, first_number: int) -> Told:
    """The boxes told in each frame, knowing nothing of later frames."""
    mine = np.isin(evidence.class_id, group.class_ids) & (evidence.score >= settings.low_score)
    evidence = single_detections(evidence.select(mine), group.duplicate_iou)
    covariance = evidence.position_covariance(group.noise)
    tracks: list[_Track] = []
    told: Told = []
    before_s, number = 0.0, first_number
    for now_s, rows in zip(evidence.time_s.tolist(), evidence.rows_by_frame(), strict=True):
        for track in tracks:
            track.state = predict(track.state, now_s - before_s, group.motion.acceleration_mps2)
        free, before_s = list(tracks), now_s
        strong = evidence.score[rows] >= settings.high_score
        for band, may_start in ((rows[strong], True), (rows[~strong], False)):
            i, j = assign(_costs(free, band, evidence, covariance, group, settings))
            for k, row in zip(i.tolist(), band[j].tolist(), strict=True):
                _update(free[k], row, evidence, covariance, now_s)
            taken = set(i.tolist())
            free = [track for k, track in enumerate(free) if k not in taken]
            for row in np.delete(band, j).tolist() if may_start else ():
                tracks.append(_born(number, row, evidence, covariance, group, now_s))
                number += 1
        tracks = [track for track in tracks if now_s - track.seen_s <= settings.max_age_s]
        told.append([_tell(t) for t in tracks if t.hits >= settings.min_hits and now_s - t.seen_s <= settings.told_age_s])
    return told


def _costs(tracks, band, evidence: Evidence, covariance, group: GroupSettings, settings: OnlineSettings) -> np.ndarray:
    if not tracks or not len(band):
        return np.zeros((len(tracks), len(band)))
    box = evidence.box_world[band]
    cost = np.empty((len(tracks), len(band)))
    for k, track in enumerate(tracks):
        inverse, det = invert_2x2(track.state.cov[:, :2, :2] + covariance[band])
        distance2 = squared_distance(box[:, :2] - track.state.mean[0, :2], inverse)
        size = ((np.log(box[:, 3:6] / track.box[3:6]) / 0.3) ** 2).sum(axis=1)
        other = group.link.class_cost * (evidence.class_id[band] != track.class_id)
        refused = (distance2 > settings.gate_sigma**2) | (np.hypot(*(box[:, :2] - track.state.mean[0, :2]).T) > group.link.gate_m)
        cost[k] = np.where(refused, REFUSED, (distance2 + np.log(det) + size) / 2 + other)
    return cost


def _born(number: int, row: int, evidence: Evidence, covariance, group: GroupSettings, now_s: float) -> _Track:
    box = evidence.box_world[row : row + 1]
    speeds = np.array([group.motion.speed_mps, group.motion.side_speed_mps, group.noise.velocity_mps])
    state = start_states(box[:, :2], covariance[row : row + 1], box[:, Box3D.YAW], box[:, Box3D.VX :], speeds)
    return _Track(number, state, box[0].copy(), int(evidence.class_id[row]), float(evidence.score[row]), now_s)


def _update(track: _Track, row: int, evidence: Evidence, covariance, now_s: float) -> None:
    box = evidence.box_world[row]
    track.state = update(track.state, box[None, :2], covariance[row : row + 1], slice(0, 2))
    track.hits, track.seen_s = track.hits + 1, now_s
    share = 1 / min(track.hits, 10)
    track.box[3:6] += share * (box[3:6] - track.box[3:6])
    track.box[Box3D.Z] += max(share, 0.3) * (box[Box3D.Z] - track.box[Box3D.Z])
    track.box[Box3D.YAW] += 0.3 * float(folded_angle(box[Box3D.YAW] - track.box[Box3D.YAW]))
    track.score += share * (float(evidence.score[row]) - track.score)


def _tell(track: _Track) -> tuple[int, np.ndarray, int, float]:
    box = track.box.copy()
    box[:2], box[Box3D.VX :] = track.state.mean[0, :2], track.state.mean[0, 2:]
    return track.number, box, track.class_id, track.score
