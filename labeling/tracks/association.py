"""Which detections follow each other as one object? Links made forwards and backwards in time, then reconciled.

Each pass is a filter with score bands (strong detections first, weak ones only extend) that lets a track live on unseen as long as
its place is known; the two passes then vote. What both say stands; what only one says stands unless something better speaks against.
All groups of classes and both directions run side by side, each in a lane of its own, so that one step serves them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from labeling.tracks.evidence import SIZE_COLUMNS, Evidence, folded_angle, velocity_stds
from labeling.tracks.kalman import States, predict, start_states, update
from labeling.tracks.settings import GroupSettings
from scenes.boxes import Box3D

REFUSED = 1e6
"""Cost of a pair that must not be linked."""
SIZE_MEMORY = 0.15
"""Share that each new detection has in a living track's remembered size and heading."""
IMPOSSIBLE_TURN2 = 12.0
"""Strong detections whose axes differ by more (squared, in units of `yaw_rad`, times `yaw_weight`) are not the same object."""
LOOKS = slice(0, 3)
"""Columns of `Living.memory`: log sizes, ..."""
LOOK_YAW, LOOK_Z, SEEN_S = 3, 4, 5
"""... heading, height of the centre and time of the latest detection."""


@dataclass
class Living:
    """K tracks of the running passes."""

    states: States
    memory: np.ndarray
    """(K, 6), see `LOOKS` and what follows it."""
    last: np.ndarray
    """(K,) int64: the latest detection of each."""
    lane: np.ndarray
    """(K,) int64: twice the group, plus one for the pass that runs backwards."""

    def take(self, index: np.ndarray) -> "Living":
        """The tracks of a mask or an index array."""
        return Living(self.states.take(index), self.memory[index], self.last[index], self.lane[index])

    def append(self, other: "Living") -> "Living":
        """These and the others."""
        parts = ((getattr(self, name), getattr(other, name)) for name in ("memory", "last", "lane"))
        return Living(self.states.append(other.states), *(np.concatenate(pair) for pair in parts))


@dataclass(frozen=True)
class Detected:
    """What the passes need of the detections, worked out once; columns of settings have one value a lane."""

    box: np.ndarray
    covariance: np.ndarray
    memory: np.ndarray
    """(N, 6) what a track born of each detection remembers."""
    class_id: np.ndarray
    score: np.ndarray
    has_velocity: np.ndarray
    """(N,) bool."""
    velocity_std_mps: np.ndarray
    """(N,) of the velocities, see `Evidence`."""
    link: dict[str, np.ndarray]
    motion: dict[str, np.ndarray]
    noise: dict[str, np.ndarray]

    @classmethod
    def of(cls, evidence: Evidence, group: np.ndarray, settings: list[GroupSettings]) -> "Detected":
        """From evidence of several groups; `group` (N,) says whose settings hold for each detection."""
        covariance, velocity_std = np.empty((len(evidence), 2, 2)), np.empty(len(evidence))
        for number, one in enumerate(settings):
            rows = np.flatnonzero(group == number)
            covariance[rows] = evidence.position_covariance(one.noise, rows)
            velocity_std[rows] = velocity_stds(evidence, one.noise, rows)
        box = evidence.box_world
        columns = (np.log(box[:, SIZE_COLUMNS]), box[:, Box3D.YAW], box[:, Box3D.Z], evidence.time_s[evidence.frame])
        tables = (_lane_table([getattr(one, part) for one in settings]) for part in ("link", "motion", "noise"))
        known = np.asarray(np.isfinite(box[:, Box3D.VX : Box3D.VY + 1]).all(axis=1))
        return cls(box, covariance, np.column_stack(columns), evidence.class_id, evidence.score, known, velocity_std, *tables)


def _lane_table(parts: Sequence[object]) -> dict[str, np.ndarray]:
    """The numbers of one part of each group's settings, by name: one value a lane."""
    return {name: np.repeat([float(getattr(part, name)) for part in parts], 2) for name in vars(parts[0])}


def link_costs(living: Living, rows: np.ndarray, lane: np.ndarray, detected: Detected) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (track, position in `rows`, cost) within the gates; the cost is a negative log likelihood. `lane` (D,) is each row's."""
    link, noise = detected.link, detected.noise
    xy = detected.box[rows, :2]
    dx, dy = xy[:, 0] - living.states.mean[:, 0, None], xy[:, 1] - living.states.mean[:, 1, None]
    i, j = np.nonzero((dx * dx + dy * dy <= link["gate_m"][lane] ** 2) & (living.lane[:, None] == lane))
    if not len(i):
        return i, j, np.zeros(0)
    dx, dy, row, mine = dx[i, j], dy[i, j], rows[j], lane[j]
    cov = living.states.cov[i, :2, :2] + detected.covariance[row]
    xx, xy_, yy = cov[:, 0, 0], cov[:, 0, 1], cov[:, 1, 1]
    det = xx * yy - xy_ * xy_
    distance2 = (dx * dx * yy - 2 * dx * dy * xy_ + dy * dy * xx) / det
    change = detected.memory[row] - living.memory[i]
    size = (change[:, LOOKS] ** 2).sum(axis=1) / 0.3**2
    yaw = (folded_angle(change[:, LOOK_YAW]) / noise["yaw_rad"][mine]) ** 2
    height = (change[:, LOOK_Z] / (2 * noise["height_m"][mine])) ** 2
    cost = (distance2 + np.log(det) + link["size_weight"][mine] * size + link["yaw_weight"][mine] * np.minimum(yaw, 9)) / 2
    cost += np.minimum(height, 9) / 2
    cost += link["class_cost"][mine] * (detected.class_id[row] != detected.class_id[living.last[i]])
    strong = np.minimum(detected.score[row], detected.score[living.last[i]]) >= link["high_score"][mine]
    turned = strong & (link["yaw_weight"][mine] * yaw > IMPOSSIBLE_TURN2)
    allowed = (distance2 <= link["gate_sigma"][mine] ** 2) & (size <= 36) & ~turned
    return i[allowed], j[allowed], cost[allowed]


def assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the cheapest pairing that makes as many allowed pairs as possible."""
    if not cost.size:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    row, column = linear_sum_assignment(cost)
    allowed = cost[row, column] < REFUSED / 2
    return row[allowed], column[allowed]


def assign_pairs(i: np.ndarray, j: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Indices of the pairs (i, j) that are kept: each i and j once, as many as possible, then the cheapest. All others are refused."""
    if len(set(i.tolist())) == len(i) and len(set(j.tolist())) == len(j):
        return np.arange(len(i))
    rows, row = np.unique(i, return_inverse=True)
    columns, column = np.unique(j, return_inverse=True)
    table, number = np.full((len(rows), len(columns)), REFUSED), np.zeros((len(rows), len(columns)), dtype=np.int64)
    table[row, column], number[row, column] = cost, np.arange(len(i))
    return number[assign(table)]


class Passes:
    """One run over all frames, forwards and backwards at once; `links` collects (earlier detection, later detection, cost)."""

    def __init__(self, detected: Detected) -> None:
        self.detected = detected
        self.links: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        none = np.zeros(0, dtype=np.int64)
        self.living = self._born(none, none)

    def run(self, time_s: np.ndarray, frame: np.ndarray, group: np.ndarray) -> None:
        """Goes over all frames. `time_s` (T,) of the frames, `frame` and `group` (N,) of the detections."""
        num_frames, num = len(time_s), len(frame)
        step = np.concatenate([frame, num_frames - 1 - frame])
        order = np.argsort(step, kind="stable")
        lanes = np.concatenate([2 * group, 2 * group + 1])[order]
        rows = np.concatenate([np.arange(num), np.arange(num)])[order]
        edges = np.searchsorted(step[order], np.arange(num_frames + 1)).tolist()
        clock_s = np.stack([time_s, time_s[::-1]], axis=1)
        for k, (begin, end) in enumerate(pairwise(edges)):
            if len(self.living.last) and k:
                self._advance(clock_s[k], clock_s[k] - clock_s[k - 1])
            if end > begin:
                self._observe(rows[begin:end], lanes[begin:end])

    def _advance(self, now_s: np.ndarray, step_s: np.ndarray) -> None:
        living, link = self.living, self.detected.link
        backwards = living.lane & 1
        dt_s = step_s[backwards]
        living.states = predict(living.states, dt_s, self.detected.motion["acceleration_mps2"][living.lane])
        spread2 = np.maximum(living.states.cov[:, 0, 0], living.states.cov[:, 1, 1])
        unseen_s = np.abs(now_s[backwards] - living.memory[:, SEEN_S]) - np.abs(dt_s)
        known = (spread2 < link["coast_std_m"][living.lane] ** 2) | (unseen_s <= 1e-6)
        keep = known & (unseen_s < link["coast_s"][living.lane])
        if not keep.all():
            self.living = living.take(keep)

    def _observe(self, rows: np.ndarray, lanes: np.ndarray) -> None:
        link, score = self.detected.link, self.detected.score[rows]
        claimed = np.zeros(len(rows), dtype=bool)
        if len(self.living.last):
            i, j, cost = link_costs(self.living, rows, lanes, self.detected)
            strong = score[j] >= link["high_score"][lanes[j]]
            first = np.flatnonzero(strong)
            first = first[assign_pairs(i[first], j[first], cost[first])]
            taken = np.zeros(len(self.living.last), dtype=bool)
            taken[i[first]] = True
            second = np.flatnonzero(~strong & ~taken[i])
            second = second[assign_pairs(i[second], j[second], cost[second])]
            chosen = np.concatenate([first, second])
            if len(chosen):
                self._extend(i[chosen], rows[j[chosen]], cost[chosen])
                claimed[j[chosen]] = True
        born = ~claimed & (score >= link["birth_score"][lanes])
        if born.any():
            self.living = self.living.append(self._born(rows[born], lanes[born]))

    def _extend(self, tracks: np.ndarray, rows: np.ndarray, cost: np.ndarray) -> None:
        living, detected = self.living, self.detected
        before, backwards = living.last[tracks], (living.lane[tracks] & 1).astype(bool)
        self.links.append((np.where(backwards, rows, before), np.where(backwards, before, rows), cost))
        states = update(living.states.take(tracks), detected.box[rows, :2], detected.covariance[rows], slice(0, 2))
        known = detected.has_velocity[rows]
        if known.any():
            velocity = np.where(known[:, None], detected.box[rows, Box3D.VX : Box3D.VY + 1], 0.0)
            noise = np.where(known, detected.velocity_std_mps[rows], 1e3)[:, None, None] ** 2 * np.eye(2)
            states = update(states, velocity, noise, slice(2, 4))
        living.states.mean[tracks], living.states.cov[tracks] = states.mean, states.cov
        living.last[tracks] = rows
        memory, seen = living.memory[tracks], detected.memory[rows]
        memory[:, LOOKS] += SIZE_MEMORY * (seen[:, LOOKS] - memory[:, LOOKS])
        memory[:, LOOK_YAW] += 0.5 * folded_angle(seen[:, LOOK_YAW] - memory[:, LOOK_YAW])
        memory[:, LOOK_Z] += 0.5 * (seen[:, LOOK_Z] - memory[:, LOOK_Z])
        memory[:, SEEN_S] = seen[:, SEEN_S]
        living.memory[tracks] = memory

    def _born(self, rows: np.ndarray, lanes: np.ndarray) -> Living:
        detected = self.detected
        box, motion = detected.box[rows], detected.motion
        speeds = np.stack([motion["speed_mps"][lanes], motion["side_speed_mps"][lanes], detected.velocity_std_mps[rows]], axis=1)
        states = start_states(box[:, :2], detected.covariance[rows], box[:, Box3D.YAW], box[:, Box3D.VX : Box3D.VY + 1], speeds)
        return Living(states, detected.memory[rows], rows, lanes)


def reconcile(before: np.ndarray, after: np.ndarray, cost: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """The links (earlier, later of `num` detections) that stand: each detection has one before and one after it at most.

    A link weighs 1 a direction that made it, a little more the cheaper it was; each group of rivals is solved by assignment.
    """
    key, inverse = np.unique(before * num + after, return_inverse=True)
    weight = np.bincount(inverse, 1.0 + 0.3 / (1.0 + np.exp(np.clip(cost / 4, -30, 30))), minlength=len(key))
    before, after = key // max(num, 1), key % max(num, 1)
    rival = (np.bincount(before, minlength=num)[before] > 1) | (np.bincount(after, minlength=num)[after] > 1)
    kept = [np.flatnonzero(~rival)]
    rows = np.flatnonzero(rival)
    if len(rows):
        graph = coo_matrix((np.ones(len(rows)), (before[rows], num + after[rows])), shape=(2 * num, 2 * num))
        label = connected_components(graph, directed=False)[1][before[rows]]
        order = np.argsort(label, kind="stable")
        parts = np.split(rows[order], np.flatnonzero(np.diff(label[order])) + 1)
        kept += [part[_best_of_rivals(before[part], after[part], weight[part])] for part in parts]
    chosen = np.concatenate(kept)
    return before[chosen], after[chosen]


def _best_of_rivals(before: np.ndarray, after: np.ndarray, weight: np.ndarray) -> np.ndarray:
    rows, row = np.unique(before, return_inverse=True)
    columns, column = np.unique(after, return_inverse=True)
    gain, number = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)), dtype=np.int64)
    gain[row, column], number[row, column] = weight, np.arange(len(weight))
    i, j = linear_sum_assignment(-gain)
    return number[i, j][gain[i, j] > 0]


def chains_of(before: np.ndarray, after: np.ndarray, num_detections: int, alone: np.ndarray) -> list[np.ndarray]:
    """Chains of detection indices in time order; detections without links form chains of one where `alone` (N,) allows it."""
    origin = np.full(num_detections, -1, dtype=np.int64)
    origin[after] = before
    linked = np.zeros(num_detections, dtype=bool)
    linked[before] = linked[after] = True
    head = np.arange(num_detections).tolist()
    for row, source in enumerate(origin.tolist()):  # a link's earlier detection comes first, so its head is known
        if source >= 0:
            head[row] = head[source]
    rows = np.flatnonzero(linked | alone)
    first = np.array(head, dtype=np.int64)[rows]
    order = np.argsort(first, kind="stable")
    return np.split(rows[order], np.flatnonzero(np.diff(first[order])) + 1) if len(rows) else []


def associate_groups(evidence: Evidence, group: np.ndarray, settings: list[GroupSettings]) -> list[list[np.ndarray]]:
    """For each group its chains of detection indices, each one object as far as filters without hindsight can tell."""
    if not len(evidence):
        return [[] for _ in settings]
    passes = Passes(Detected.of(evidence, group, settings))
    passes.run(evidence.time_s, evidence.frame, group)
    none = np.zeros(0, dtype=np.int64)
    before, after, cost = (np.concatenate(column) for column in zip((none, none, np.zeros(0)), *passes.links, strict=True))
    births = np.array([one.link.birth_score for one in settings])
    chains = chains_of(*reconcile(before, after, cost, len(evidence)), len(evidence), evidence.score >= births[group])
    number = group[[chain[0] for chain in chains]] if chains else none
    return [[chain for chain, mine in zip(chains, number.tolist(), strict=True) if mine == k] for k in range(len(settings))]


def associate(evidence: Evidence, settings: GroupSettings) -> list[np.ndarray]:
    """The chains of one group's evidence."""
    return associate_groups(evidence, np.zeros(len(evidence), dtype=np.int64), [settings])[0]
