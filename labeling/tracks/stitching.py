"""Which chains of detections are one object that was out of sight for a while? One assignment over all gaps of a clip."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from labeling.tracks.evidence import SIZE_COLUMNS, Evidence, Looks, folded_angle, velocity_stds
from labeling.tracks.kalman import States, invert_2x2, predict, start_states, update
from labeling.tracks.likeness import likeness
from labeling.tracks.rows import TrackRows
from labeling.tracks.settings import GroupSettings
from labeling.tracks.smoothing import squared_distance
from scenes.boxes import Box3D

RECENT = 20
"""Detections at a chain's end from which its motion there is filtered."""
STEADIER = 0.5
"""The filter at a chain's end allows this share of the linking filter's acceleration: what is linked already moves smoothly."""
STANDING_M = 0.15
"""How far two looks at a standing object may lie apart besides their noise."""
STANDING_COST = 0.3
"""What a second of absence speaks against an object that stood still; a second costs a moving one 1."""
TRAVEL_M, FEWEST_TRAVELLERS = 5.0, 5
"""A chain of so many detections that went this far is an object however weak they are: false alarms do not travel."""
STRENGTH_OF = 3
"""A chain is as strong as the mean of so many of its best detections; missing ones count 0."""


@dataclass(frozen=True)
class Ends:
    """What C chains know at one of their ends."""

    states: States
    time_s: np.ndarray
    frame: np.ndarray
    yaw: np.ndarray


def end_states(chains: list[np.ndarray], evidence: Evidence, settings: GroupSettings, at_start: bool) -> Ends:
    """Filtered states at the last detections of the chains (`at_start`: at the first ones, filtered backwards)."""
    motion, noise = settings.motion, settings.noise
    recent = [(chain[:RECENT][::-1] if at_start else chain[-RECENT:]) for chain in chains]
    count = np.array([len(chain) for chain in recent])
    longest = int(count.max())
    rows = np.zeros((len(chains), longest), dtype=np.int64)
    rows[np.arange(longest) >= longest - count[:, None]] = np.concatenate(recent)
    rows = np.where(np.arange(longest) >= longest - count[:, None], rows, np.array([chain[0] for chain in recent])[:, None])
    covariance = evidence.position_covariance(noise, rows.reshape(-1)).reshape(*rows.shape, 2, 2)
    box, time_s = evidence.box_world, evidence.time_s[evidence.frame]
    first = rows[:, 0]
    given = velocity_stds(evidence, noise, first)
    speeds = np.stack([np.full(len(given), motion.speed_mps), np.full(len(given), motion.side_speed_mps), given], axis=1)
    states = start_states(box[first, :2], covariance[:, 0], box[first, Box3D.YAW], box[first, Box3D.VX : Box3D.VY + 1], speeds)
    for k in range(1, longest):
        begun = np.flatnonzero(longest - count < k)
        now, before = rows[begun, k], rows[begun, k - 1]
        moved = predict(states.take(begun), time_s[now] - time_s[before], motion.acceleration_mps2 * STEADIER)
        moved = update(moved, box[now, :2], covariance[begun, k], slice(0, 2))
        states.mean[begun], states.cov[begun] = moved.mean, moved.cov
    last = rows[:, -1]
    return Ends(states, time_s[last], evidence.frame[last], box[last, Box3D.YAW])


def stitch_pairs(
    chains: list[np.ndarray], evidence: Evidence, settings: GroupSettings, looks: Looks | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (chain, the chain that may follow it, how much better that is than leaving both apart).

    What speaks against a pair is the squared distance of their states at the gap's middle, plus what size, heading, class, the gap
    itself and, with pictures, the colours say; a pair is better by as much as that stays below the limit.
    """
    link, motion = settings.link, settings.motion
    ends, starts = (end_states(chains, evidence, settings, at_start) for at_start in (False, True))
    gap_s = starts.time_s[None] - ends.time_s[:, None]
    longest_s = max(link.stitch_s, link.standing_s)
    i, j = np.nonzero((starts.frame[None] > ends.frame[:, None]) & (gap_s <= longest_s))
    kind, gap = _kinds(chains, evidence), gap_s[i, j]
    apart_m = np.hypot(*(ends.states.mean[i, :2] - starts.states.mean[j, :2]).T)
    near = apart_m <= link.gate_m + np.where(gap <= link.stitch_s, 3 * motion.speed_mps * gap, 0.0)
    founded = (kind.is_founded(link.stitch_score)[i] & kind.is_founded(link.stitch_score)[j]) | (gap <= 1.0)
    i, j, gap = i[near & founded], j[near & founded], gap[near & founded]
    on_the_way = _moved(ends.states.take(i), starts.states.take(j), gap, settings)
    against = np.minimum(on_the_way, _stood(ends.states.take(i), starts.states.take(j), gap, settings))
    against += link.size_weight * (((kind.log_size[i] - kind.log_size[j]) / 0.2) ** 2).sum(axis=1)
    turned = folded_angle(starts.yaw[j] - ends.yaw[i]) / (settings.noise.yaw_rad * (1 + np.minimum(gap, link.stitch_s)))
    against += link.yaw_weight * np.minimum(turned**2, 9) + 2 * link.class_cost * (kind.class_id[i] != kind.class_id[j])
    gain = link.stitch_sigma**2 + 2 - against
    i, j, gain = (part[gain > 0] for part in (i, j, gain))
    if looks is None or link.looks_weight == 0 or not len(i):
        return i, j, gain
    gain = gain + 2 * link.looks_weight * likeness(chains, i, j, evidence, looks)  # as squared standard deviations are: twice a log
    return i[gain > 0], j[gain > 0], gain[gain > 0]


def _moved(end: States, start: States, gap: np.ndarray, settings: GroupSettings) -> np.ndarray:
    """(P,) squared distance of two states in the middle of the gap between them.

    Infinite where that place is known too badly, and for what stands at both ends: that stood in between, see `_stood`.
    """
    link, motion = settings.link, settings.motion
    a, b = predict(end, gap / 2, motion.smooth_acceleration_mps2), predict(start, -gap / 2, motion.smooth_acceleration_mps2)
    cov, offset = a.cov + b.cov, a.mean - b.mean
    distance2 = np.einsum("ki,ki->k", offset, np.linalg.solve(cov, offset[:, :, None])[..., 0]) + gap
    half, twist = (cov[:, 0, 0] + cov[:, 1, 1]) / 2, np.hypot((cov[:, 0, 0] - cov[:, 1, 1]) / 2, cov[:, 0, 1])
    known = (np.sqrt(half + twist) < link.stitch_std_m) & (gap <= link.stitch_s)
    drives = np.maximum(np.hypot(*end.mean[:, 2:].T), np.hypot(*start.mean[:, 2:].T)) > 2 * motion.static_speed_mps
    return np.where(known & drives, distance2 + _vagueness(cov), np.inf)


def _vagueness(cov: np.ndarray) -> np.ndarray:
    """(P,) what a vague place speaks against a pair, next to one known to a metre: strangers fit there as well."""
    return np.log(cov[:, 0, 0] * cov[:, 1, 1] - cov[:, 0, 1] ** 2)


def _stood(end: States, start: States, gap: np.ndarray, settings: GroupSettings) -> np.ndarray:
    """(P,) squared distance of two places if the object stood in between, and of both velocities from zero."""
    link = settings.link
    slack2 = (STANDING_M + settings.motion.static_drift_mps * np.sqrt(gap)) ** 2
    cov = end.cov[:, :2, :2] + start.cov[:, :2, :2] + slack2[:, None, None] * np.eye(2)
    distance2 = squared_distance(end.mean[:, :2] - start.mean[:, :2], invert_2x2(cov)[0])
    for state in (end, start):
        distance2 += squared_distance(state.mean[:, 2:], invert_2x2(state.cov[:, 2:, 2:])[0])
    return np.where(gap <= link.standing_s, distance2 + STANDING_COST * gap + _vagueness(cov), np.inf)


@dataclass(frozen=True)
class _Kinds:
    log_size: np.ndarray
    class_id: np.ndarray
    strength: np.ndarray
    travel_m: np.ndarray

    def is_founded(self, least_score: float) -> np.ndarray:
        """(C,) whether there is an object at all: strong detections say so, or many weak ones that drove along together."""
        return (self.strength >= least_score) | (self.travel_m >= TRAVEL_M)


def _kinds(chains: list[np.ndarray], evidence: Evidence) -> _Kinds:
    layout, rows = TrackRows.of_parts(chains), np.concatenate(chains)
    even = np.ones(len(rows))
    sizes = np.log(evidence.box_world[rows, SIZE_COLUMNS])
    log_size = np.stack([layout.quantile(sizes[:, k], even) for k in range(3)], axis=1)
    classes = evidence.class_id[rows]
    votes = np.zeros((len(chains), int(classes.max()) + 1))
    np.add.at(votes, (layout.owner, classes), 1)
    order = np.lexsort((-evidence.score[rows], layout.owner))
    best = np.where(np.arange(len(rows)) - layout.first[layout.owner] < STRENGTH_OF, evidence.score[rows][order], 0.0)
    place = evidence.box_world[rows, :2]
    travel_m = np.where(layout.count >= FEWEST_TRAVELLERS, np.hypot(*(place[layout.end - 1] - place[layout.first]).T), 0.0)
    return _Kinds(log_size, votes.argmax(axis=1), layout.sums(best) / STRENGTH_OF, travel_m)


def stitch(chains: list[np.ndarray], evidence: Evidence, settings: GroupSettings, looks: Looks | None = None) -> list[np.ndarray]:
    """The chains with gaps closed: each end is given at most one start, the sum of gains is largest."""
    if len(chains) < 2:
        return chains
    i, j, gain = stitch_pairs(chains, evidence, settings, looks)
    if not len(i):
        return chains
    num = len(chains)
    label = connected_components(coo_matrix((gain, (i, num + j)), shape=(2 * num, 2 * num)), directed=False)[1][i]
    order = np.argsort(label, kind="stable")
    follower: dict[int, int] = {}
    for part in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        rows, row = np.unique(i[part], return_inverse=True)
        columns, column = np.unique(j[part], return_inverse=True)
        table = np.zeros((len(rows), len(columns)))
        table[row, column] = -gain[part]
        for a, b in zip(*linear_sum_assignment(table), strict=True):
            if table[a, b] < 0:
                follower[int(rows[a])] = int(columns[b])
    joined = []
    for first in sorted(set(range(num)) - set(follower.values())):
        parts, at = [chains[first]], first
        while at in follower:
            at = follower[at]
            parts.append(chains[at])
        joined.append(np.concatenate(parts))
    return joined
