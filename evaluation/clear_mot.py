"""How well are objects followed, counted by events? CLEAR MOT: matches, misses, false alarms, identity switches.

Sources: Bernardin and Stiefelhagen 2008; `motmetrics` 1.4, which the nuScenes devkit uses, for the order of the steps.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evaluation.tracks import TrackedFrame, TrackedSequence, assign

MOSTLY_TRACKED, MOSTLY_LOST = 0.8, 0.2


@dataclass(frozen=True)
class ClearMot:
    """Counts over all sequences, and what follows from them."""

    num_truth: int
    """True boxes; `num_matches + num_switches + num_misses`."""
    num_matches: int
    """True boxes with the track they had before (or their first one)."""
    num_switches: int
    """True boxes found by another track than before."""
    num_misses: int
    num_false_positives: int
    num_fragmentations: int
    """How often a true track is lost and found again."""
    num_tracks: int
    mostly_tracked: int
    """True tracks found in at least 80 % of their frames."""
    mostly_lost: int
    """True tracks found in less than 20 % of their frames."""
    total_cost: float
    """Sum over matches and switches."""
    initialisation_s: float
    """Mean time from a true track's beginning to its first match, over the tracks found at all; NaN if none."""
    longest_gap_s: float
    """Mean of each true track's longest time unfound, over the same tracks."""

    @property
    def mota(self) -> float:
        """1 - (misses + switches + false alarms) / truth, not below 0; NaN without truth."""
        if not self.num_truth:
            return float("nan")
        return max(0.0, 1 - (self.num_misses + self.num_switches + self.num_false_positives) / self.num_truth)

    @property
    def motar(self) -> float:
        """nuScenes' recall-normalised MOTA, not below 0; NaN without a match."""
        if not self.num_matches:
            return float("nan")
        recall = self.num_matches / self.num_truth
        errors = self.num_misses + self.num_switches + self.num_false_positives - (1 - recall) * self.num_truth
        return max(0.0, 1 - errors / (recall * self.num_truth))

    @property
    def motp(self) -> float:
        """Mean cost (metres between centres) of found boxes; NaN if there are none."""
        found = self.num_matches + self.num_switches
        return self.total_cost / found if found else float("nan")

    @property
    def recall(self) -> float:
        """Found share of the truth."""
        return (self.num_matches + self.num_switches) / self.num_truth if self.num_truth else float("nan")

    @property
    def precision(self) -> float:
        """Share of the predictions that found something."""
        found = self.num_matches + self.num_switches
        return found / (found + self.num_false_positives) if found + self.num_false_positives else float("nan")


def clear_mot(sequences: list[TrackedSequence], gate: float, min_score: float = -np.inf) -> ClearMot:
    """CLEAR MOT of all sequences together; pairs at a cost of `gate` or more never match."""
    return MotEvents(sequences, gate).above(min_score)[0]


class MotEvents:
    """Sequences prepared once, to be counted at many score thresholds: of each frame only the pairs within the gate are kept."""

    def __init__(self, sequences: list[TrackedSequence], gate: float) -> None:
        self.sequences = [([_PairedFrame.of(frame, gate) for frame in sequence.frames], sequence.period_s) for sequence in sequences]

    def above(self, min_score: float) -> tuple[ClearMot, np.ndarray]:
        """The result for predicted tracks with at least this score, and the track score of every match (not of switches)."""
        counts = _Counts()
        for frames, period_s in self.sequences:
            counts.add_sequence(frames, period_s, min_score)
        return counts.result(), np.array(counts.match_scores)


class _Pair(NamedTuple):
    """A true and a predicted box within the gate: their rows and tracks, what a match costs, the predicted track's score."""

    row: int
    column: int
    truth_id: int
    pred_id: int
    cost: float
    score: float


@dataclass(frozen=True)
class _PairedFrame:
    truth_id: list[int]
    pred_score: np.ndarray
    pairs: list[_Pair]

    @classmethod
    def of(cls, frame: TrackedFrame, gate: float) -> "_PairedFrame":
        rows, columns = np.nonzero(frame.cost < gate)
        parts = (rows, columns, frame.truth_id[rows], frame.pred_id[columns], frame.cost[rows, columns], frame.pred_score[columns])
        return cls(frame.truth_id.tolist(), frame.pred_score, list(map(_Pair._make, zip(*(part.tolist() for part in parts), strict=True))))


class _Counts:
    def __init__(self) -> None:
        self.matches = self.switches = self.misses = self.false_positives = 0
        self.cost = 0.0
        self.match_scores: list[float] = []
        self.tracks: list[tuple[np.ndarray, float]] = []
        """For each true track: found or not in each of its frames, and the sequence's period."""

    def add_sequence(self, frames: list[_PairedFrame], period_s: float, min_score: float) -> None:
        """Walks through the frames; a true track keeps its predicted track as long as both are near each other."""
        pred_of_truth: dict[int, int] = {}
        found: dict[int, list[bool]] = {}
        for frame in frames:
            matched = self._match_frame([pair for pair in frame.pairs if pair.score >= min_score], pred_of_truth)
            for row, track in enumerate(frame.truth_id):
                found.setdefault(track, []).append(row in matched)
            self.misses += len(frame.truth_id) - len(matched)
            self.false_positives += int(np.count_nonzero(frame.pred_score >= min_score)) - len(matched)
        self.tracks += [(np.array(flags), period_s) for flags in found.values()]

    def _match_frame(self, pairs: list[_Pair], pred_of_truth: dict[int, int]) -> set[int]:
        """The rows of truth that are found; counts matches and switches."""
        rows: set[int] = set()
        columns: set[int] = set()
        for pair in pairs:
            if pred_of_truth.get(pair.truth_id) == pair.pred_id and pair.row not in rows and pair.column not in columns:
                self._count(pair, rows, columns, is_switch=False)
        rest = [pair for pair in pairs if pair.row not in rows and pair.column not in columns]
        for pair in _assigned(rest):
            self._count(pair, rows, columns, is_switch=pred_of_truth.get(pair.truth_id, pair.pred_id) != pair.pred_id)
            pred_of_truth[pair.truth_id] = pair.pred_id
        return rows

    def _count(self, pair: _Pair, rows: set[int], columns: set[int], is_switch: bool) -> None:
        rows.add(pair.row)
        columns.add(pair.column)
        self.cost += pair.cost
        if is_switch:
            self.switches += 1
        else:
            self.matches += 1
            self.match_scores.append(pair.score)

    def result(self) -> ClearMot:
        """The counts as a result."""
        shares = np.array([flags.mean() for flags, _ in self.tracks])
        seen = [(flags, period_s) for flags, period_s in self.tracks if flags.any()]
        return ClearMot(
            num_truth=self.matches + self.switches + self.misses,
            num_matches=self.matches,
            num_switches=self.switches,
            num_misses=self.misses,
            num_false_positives=self.false_positives,
            num_fragmentations=sum(_num_losses(flags) for flags, _ in seen),
            num_tracks=len(self.tracks),
            mostly_tracked=int((shares >= MOSTLY_TRACKED).sum()),
            mostly_lost=int((shares < MOSTLY_LOST).sum()),
            total_cost=self.cost,
            initialisation_s=float(np.mean([np.argmax(flags) * period_s for flags, period_s in seen])) if seen else float("nan"),
            longest_gap_s=float(np.mean([_longest_gap(flags) * period_s for flags, period_s in seen])) if seen else float("nan"),
        )


def _assigned(pairs: list[_Pair]) -> list[_Pair]:
    """As many pairs as possible without sharing a box, and among those the cheapest."""
    rows, columns = sorted({pair.row for pair in pairs}), sorted({pair.column for pair in pairs})
    if len(rows) == len(pairs) == len(columns):
        return pairs
    cost = np.full((len(rows), len(columns)), np.inf)
    which = {(rows.index(pair.row), columns.index(pair.column)): pair for pair in pairs}
    for place, pair in which.items():
        cost[place] = pair.cost
    return [which[place] for place in zip(*(index.tolist() for index in assign(cost, np.isfinite(cost))), strict=True)]


def _num_losses(found: np.ndarray) -> int:
    """How often found turns into not found before the last time found."""
    last = np.flatnonzero(found)[-1]
    return int((np.diff(found[: last + 1].astype(int)) == -1).sum())


def _longest_gap(found: np.ndarray) -> int:
    """Most frames in a row without being found, before the first and after the last time too."""
    edges = np.flatnonzero(np.concatenate([[True], found, [True]]))
    return int(np.diff(edges).max() - 1)
