"""Which chains of detections are one object that was out of sight for a while? One assignment over all gaps of a clip."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from labeling.tracks.evidence import SIZE_COLUMNS, Evidence, folded_angle
from labeling.tracks.kalman import States, predict, start_states, update
from labeling.tracks.settings import GroupSettings
from scenes.boxes import Box3D


@dataclass(frozen=True)
class Ends:
    """What C chains know at one of their ends."""

    states: States
    time_s: np.ndarray
    frame: np.ndarray


def end_states(chains: list[np.ndarray], evidence: Evidence, settings: GroupSettings, at_start: bool) -> Ends:
    """Filtered states at the last detections of the chains (`at_start`: at the first ones, filtered backwards)."""
    motion, noise = settings.motion, settings.noise
    covariance = evidence.position_covariance(noise)
    speeds = (motion.speed_mps, motion.side_speed_mps, noise.velocity_mps)
    recent = [(chain[:12][::-1] if at_start else chain[-12:]) for chain in chains]
    longest = max(map(len, recent), default=0)
    rows = np.stack([np.pad(chain, (longest - len(chain), 0), mode="edge") for chain in recent])
    steps = [longest - len(chain) for chain in recent]
    box, time_s = evidence.box_world, evidence.time_s[evidence.frame]
    first = rows[:, 0]
    states = start_states(box[first, :2], covariance[first], box[first, Box3D.YAW], box[first, Box3D.VX : Box3D.VY + 1], speeds)
    for k in range(1, longest):
        begun = np.array(steps) < k
        if not begun.any():
            continue
        now, before = rows[begun, k], rows[begun, k - 1]
        moved = predict(states.take(begun), time_s[now] - time_s[before], motion.acceleration_mps2)
        moved = update(moved, box[now, :2], covariance[now], slice(0, 2))
        states.mean[begun], states.cov[begun] = moved.mean, moved.cov
    last = rows[:, -1]
    return Ends(states, time_s[last], evidence.frame[last])


def chain_sizes(chains: list[np.ndarray], evidence: Evidence) -> np.ndarray:
    """(C, 3) medians of the log sizes."""
    return np.stack([np.median(np.log(evidence.box_world[chain, SIZE_COLUMNS]), axis=0) for chain in chains])


def stitch_costs(chains: list[np.ndarray], evidence: Evidence, settings: GroupSettings) -> np.ndarray:
    """(C, C) cost of letting chain j follow chain i, negative where it is better than leaving both apart, 0 where it is refused.

    It is the squared distance of their states at the gap's middle, plus what size, heading, class and the gap itself speak against it.
    """
    link, motion = settings.link, settings.motion
    ends, starts = (end_states(chains, evidence, settings, at_start) for at_start in (False, True))
    gap_s = starts.time_s[None] - ends.time_s[:, None]
    cost = np.zeros(gap_s.shape)
    i, j = np.nonzero((starts.frame[None] > ends.frame[:, None]) & (gap_s <= link.stitch_s))
    if not len(i):
        return cost
    a = predict(ends.states.take(i), gap_s[i, j] / 2, motion.smooth_acceleration_mps2)
    b = predict(starts.states.take(j), -gap_s[i, j] / 2, motion.smooth_acceleration_mps2)
    spread_m = np.sqrt(np.linalg.eigvalsh((a.cov + b.cov)[:, :2, :2])[:, -1])
    offset = a.mean - b.mean
    distance2 = np.einsum("ki,ki->k", offset, np.linalg.solve(a.cov + b.cov, offset[:, :, None])[..., 0])
    apart_m = np.hypot(*(ends.states.mean[i, :2] - starts.states.mean[j, :2]).T)
    size = (((chain_sizes(chains, evidence)[i] - chain_sizes(chains, evidence)[j]) / 0.2) ** 2).sum(-1)
    classes = np.array([np.bincount(evidence.class_id[chain]).argmax() for chain in chains])
    yaw_end = np.array([evidence.box_world[chain[-1], Box3D.YAW] for chain in chains])
    yaw_start = np.array([evidence.box_world[chain[0], Box3D.YAW] for chain in chains])
    yaw = np.minimum((folded_angle(yaw_start[j] - yaw_end[i]) / (settings.noise.yaw_rad * (1 + gap_s[i, j]))) ** 2, 9)
    total = distance2 + link.size_weight * size + link.yaw_weight * yaw + 2 * link.class_cost * (classes[i] != classes[j])
    total = total + gap_s[i, j]
    speed_limit = apart_m <= link.gate_m + (3 * motion.speed_mps) * gap_s[i, j]
    limit = link.stitch_sigma**2 + 2
    strength = np.array([np.sort(evidence.score[chain])[-3:].mean() for chain in chains])
    founded = (np.minimum(strength[i], strength[j]) >= link.stitch_score) | (gap_s[i, j] <= 1.0)
    allowed = (total < limit) & speed_limit & founded & (spread_m < link.stitch_std_m)
    cost[i[allowed], j[allowed]] = total[allowed] - limit
    return cost


def stitch(chains: list[np.ndarray], evidence: Evidence, settings: GroupSettings) -> list[np.ndarray]:
    """The chains with gaps closed: each end is given at most one start, the sum of costs is least."""
    if len(chains) < 2:
        return chains
    cost = stitch_costs(chains, evidence, settings)
    i, j = linear_sum_assignment(cost)
    i, j = i[cost[i, j] < 0], j[cost[i, j] < 0]
    follower = dict(zip(i.tolist(), j.tolist(), strict=True))
    joined = []
    for first in sorted(set(range(len(chains))) - set(j.tolist())):
        parts, at = [chains[first]], first
        while at in follower:
            at = follower[at]
            parts.append(chains[at])
        joined.append(np.concatenate(parts))
    return joined
