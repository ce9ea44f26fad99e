"""Which detections follow each other as one object? Links made forwards and backwards in time, then reconciled.

Each pass is a filter with score bands (strong detections first, weak ones only extend) that lets a track live on unseen as long as
its place is known; the two passes then vote. What both say stands; what only one says stands unless something better speaks against.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from labeling.tracks.evidence import SIZE_COLUMNS, Evidence, folded_angle
from labeling.tracks.kalman import States, invert_2x2, predict, start_states, update
from labeling.tracks.settings import GroupSettings
from scenes.boxes import Box3D

REFUSED = 1e6
"""Cost of a pair that must not be linked."""
SIZE_MEMORY = 0.15
"""Share that each new detection has in a living track's remembered size and heading."""


@dataclass
class Living:
    """K tracks of a running pass."""

    states: States
    last: np.ndarray
    """(K,) int64: the latest detection of each."""
    seen_s: np.ndarray
    """(K,) time of it."""
    log_size: np.ndarray
    """(K, 3)."""
    yaw: np.ndarray
    """(K,)."""
    z: np.ndarray
    """(K,)."""

    def take(self, index) -> "Living":
        """The tracks of a mask or an index array."""
        return Living(self.states.take(index), *(getattr(self, name)[index] for name in ("last", "seen_s", "log_size", "yaw", "z")))


@dataclass(frozen=True)
class Detected:
    """What the passes need of the detections, worked out once."""

    evidence: Evidence
    covariance: np.ndarray
    log_size: np.ndarray

    @classmethod
    def of(cls, evidence: Evidence, settings: GroupSettings) -> "Detected":
        """From evidence of one group."""
        return cls(evidence, evidence.position_covariance(settings.noise), np.log(evidence.box_world[:, SIZE_COLUMNS]))


def link_costs(living: Living, detected: Detected, rows: np.ndarray, settings: GroupSettings) -> np.ndarray:
    """(K, D) negative log likelihood of each pair of predicted track and detection, `REFUSED` beyond the gates."""
    link, noise = settings.link, settings.noise
    box = detected.evidence.box_world[rows]
    offset = box[None, :, :2] - living.states.mean[:, None, :2]
    inverse, det = invert_2x2(living.states.cov[:, None, :2, :2] + detected.covariance[None, rows])
    dx, dy = offset[..., 0], offset[..., 1]
    distance2 = dx * dx * inverse[..., 0, 0] + 2 * dx * dy * inverse[..., 0, 1] + dy * dy * inverse[..., 1, 1]
    if not distance2.size:
        return distance2
    size = (((detected.log_size[rows][None] - living.log_size[:, None]) / 0.3) ** 2).sum(-1)
    yaw = (folded_angle(box[None, :, Box3D.YAW] - living.yaw[:, None]) / noise.yaw_rad) ** 2
    height = ((box[None, :, Box3D.Z] - living.z[:, None]) / (2 * noise.height_m)) ** 2
    classes = detected.evidence.class_id
    other = classes[rows][None] != classes[living.last][:, None]
    cost = (distance2 + np.log(det)) / 2 + link.size_weight * size / 2 + link.yaw_weight * np.minimum(yaw, 9) / 2
    cost = cost + np.minimum(height, 9) / 2 + link.class_cost * other
    refused = (distance2 > link.gate_sigma**2) | ((offset**2).sum(-1) > link.gate_m**2) | (size > 36)
    return np.where(refused, REFUSED, cost)


def assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the cheapest pairing that makes as many allowed pairs as possible."""
    if not cost.size:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    row, column = linear_sum_assignment(cost)
    allowed = cost[row, column] < REFUSED / 2
    return row[allowed], column[allowed]


class DirectedPass:
    """One run over all frames in one direction; `links` collects (earlier detection, later detection, cost)."""

    def __init__(self, detected: Detected, settings: GroupSettings, backwards: bool) -> None:
        self.detected, self.settings, self.backwards = detected, settings, backwards
        self.links: list[tuple[int, int, float]] = []
        self.living = self._born(np.zeros(0, dtype=np.int64))

    def run(self) -> list[tuple[int, int, float]]:
        """Goes over all frames; returns the links."""
        evidence = self.detected.evidence
        rows_by_frame = evidence.rows_by_frame()
        order = range(len(rows_by_frame))
        before_s = None
        for frame in reversed(order) if self.backwards else order:
            now_s, rows = float(evidence.time_s[frame]), rows_by_frame[frame]
            if len(self.living.last) and before_s is not None:
                self._advance(now_s, now_s - before_s)
            if len(rows):
                self._observe(rows, now_s)
            before_s = now_s
        return self.links

    def _advance(self, now_s: float, step_s: float) -> None:
        link, motion = self.settings.link, self.settings.motion
        self.living.states = predict(self.living.states, step_s, motion.acceleration_mps2)
        spread_m = np.sqrt(np.maximum(self.living.states.cov[:, 0, 0], self.living.states.cov[:, 1, 1]))
        unseen_s = np.abs(now_s - self.living.seen_s) - abs(step_s)
        keep = (unseen_s < link.coast_s) & ((spread_m < link.coast_std_m) | (unseen_s <= 1e-6))
        if not keep.all():
            self.living = self.living.take(keep)

    def _observe(self, rows: np.ndarray, now_s: float) -> None:
        link, score = self.settings.link, self.detected.evidence.score
        free = np.ones(len(self.living.last), dtype=bool)
        unclaimed = []
        for band in (rows[score[rows] >= link.high_score], rows[score[rows] < link.high_score]):
            if not len(band):
                continue
            tracks = np.flatnonzero(free)
            living = self.living if len(tracks) == len(free) else self.living.take(tracks)
            k, d = assign(cost := link_costs(living, self.detected, band, self.settings))
            self._extend(tracks[k], band[d], cost[k, d], now_s)
            free[tracks[k]] = False
            unclaimed.append(np.delete(band, d))
        born = np.concatenate(unclaimed)
        born = born[score[born] >= link.birth_score]
        if len(born):
            self._join(self._born(born))

    def _extend(self, tracks: np.ndarray, rows: np.ndarray, cost: np.ndarray, now_s: float) -> None:
        if not len(tracks):
            return
        living, box = self.living, self.detected.evidence.box_world[rows]
        for a, b, c in zip(living.last[tracks].tolist(), rows.tolist(), cost.tolist(), strict=True):
            self.links.append((b, a, c) if self.backwards else (a, b, c))
        states = update(living.states.take(tracks), box[:, :2], self.detected.covariance[rows], slice(0, 2))
        velocity = box[:, Box3D.VX : Box3D.VY + 1]
        known = np.asarray(np.isfinite(velocity).all(axis=1))
        if known.any():
            noise = np.where(known, self.settings.noise.velocity_mps, 1e3)[:, None, None] ** 2 * np.eye(2)
            states = update(states, np.where(known[:, None], velocity, 0.0), noise, slice(2, 4))
        living.states.mean[tracks], living.states.cov[tracks] = states.mean, states.cov
        living.last[tracks], living.seen_s[tracks] = rows, now_s
        living.log_size[tracks] += SIZE_MEMORY * (self.detected.log_size[rows] - living.log_size[tracks])
        living.yaw[tracks] += 0.5 * folded_angle(box[:, Box3D.YAW] - living.yaw[tracks])
        living.z[tracks] += 0.5 * (box[:, Box3D.Z] - living.z[tracks])

    def _born(self, rows: np.ndarray) -> Living:
        evidence, motion, noise = self.detected.evidence, self.settings.motion, self.settings.noise
        box = evidence.box_world[rows]
        speeds = (motion.speed_mps, motion.side_speed_mps, noise.velocity_mps)
        velocity = box[:, Box3D.VX : Box3D.VY + 1]
        states = start_states(box[:, :2], self.detected.covariance[rows], box[:, Box3D.YAW], velocity, speeds)
        time_s = evidence.time_s[evidence.frame[rows]]
        return Living(states, rows.copy(), time_s, self.detected.log_size[rows], box[:, Box3D.YAW].copy(), box[:, Box3D.Z].copy())

    def _join(self, born: Living) -> None:
        living = self.living
        rest = (np.concatenate([getattr(living, n), getattr(born, n)]) for n in ("last", "seen_s", "log_size", "yaw", "z"))
        self.living = Living(living.states.append(born.states), *rest)


def reconcile(forward: list[tuple[int, int, float]], backward: list[tuple[int, int, float]]) -> list[tuple[int, int]]:
    """The links that stand: each detection has at most one before and one after it, and the votes kept are the most.

    A link weighs 1 a direction that made it, a little more the cheaper it was; each group of rivals is solved by assignment.
    """
    votes: dict[tuple[int, int], float] = {}
    for a, b, cost in forward + backward:
        votes[a, b] = votes.get((a, b), 0.0) + 1.0 + 0.3 / (1.0 + np.exp(np.clip(cost / 4, -30, 30)))
    if not votes:
        return []
    pairs = np.array(list(votes), dtype=np.int64)
    weight = np.array(list(votes.values()))
    number = pairs.max() + 1
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], number + pairs[:, 1])), shape=(2 * number, 2 * number))
    label = connected_components(graph, directed=False)[1][pairs[:, 0]]
    order = np.argsort(label, kind="stable")
    kept: list[tuple[int, int]] = []
    for group in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        kept += _best_of_rivals(pairs[group], weight[group])
    return kept


def _best_of_rivals(pairs: np.ndarray, weight: np.ndarray) -> list[tuple[int, int]]:
    if len(pairs) == 1:
        return [tuple(pairs[0].tolist())]
    before, row = np.unique(pairs[:, 0], return_inverse=True)
    after, column = np.unique(pairs[:, 1], return_inverse=True)
    gain = np.zeros((len(before), len(after)))
    gain[row, column] = weight
    i, j = linear_sum_assignment(-gain)
    return [(int(before[a]), int(after[b])) for a, b in zip(i, j, strict=True) if gain[a, b] > 0]


def chains_of(links: list[tuple[int, int]], num_detections: int, alone: np.ndarray) -> list[np.ndarray]:
    """Chains of detection indices in time order; detections without links form chains of one where `alone` (N,) allows it."""
    after = np.full(num_detections, -1, dtype=np.int64)
    has_before = np.zeros(num_detections, dtype=bool)
    for a, b in links:
        after[a] = b
        has_before[b] = True
    chains = []
    for first in np.flatnonzero(~has_before & ((after >= 0) | alone)):
        chain = [int(first)]
        while after[chain[-1]] >= 0:
            chain.append(int(after[chain[-1]]))
        chains.append(np.array(chain, dtype=np.int64))
    return chains


def associate(evidence: Evidence, settings: GroupSettings) -> list[np.ndarray]:
    """Chains of detection indices, each one object as far as filters without hindsight can tell."""
    if not len(evidence):
        return []
    detected = Detected.of(evidence, settings)
    forward = DirectedPass(detected, settings, backwards=False).run()
    backward = DirectedPass(detected, settings, backwards=True).run()
    return chains_of(reconcile(forward, backward), len(evidence), evidence.score >= settings.link.birth_score)
