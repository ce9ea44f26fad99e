"""How well are objects followed, counted by events? CLEAR MOT: matches, misses, false alarms, identity switches.

Sources: Bernardin and Stiefelhagen 2008; `motmetrics` 1.4, which the nuScenes devkit uses, for the order of the steps.
"""

from dataclasses import dataclass

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
    return clear_mot_with_scores(sequences, gate, min_score)[0]


def clear_mot_with_scores(sequences: list[TrackedSequence], gate: float, min_score: float = -np.inf) -> tuple[ClearMot, np.ndarray]:
    """The same, with the track score of every match (not of switches): AMOTA's thresholds come from these."""
    counts = _Counts()
    for sequence in sequences:
        counts.add_sequence(sequence, gate, min_score)
    return counts.result(), np.array(counts.match_scores)


class _Counts:
    def __init__(self) -> None:
        self.matches = self.switches = self.misses = self.false_positives = 0
        self.cost = 0.0
        self.match_scores: list[float] = []
        self.tracks: list[tuple[np.ndarray, float]] = []
        """For each true track: found or not in each of its frames, and the sequence's period."""

    def add_sequence(self, sequence: TrackedSequence, gate: float, min_score: float) -> None:
        """Walks through the frames; a true track keeps its predicted track as long as both are near each other."""
        pred_of_truth: dict[int, int] = {}
        found: dict[int, list[bool]] = {}
        for frame in sequence.frames:
            frame = frame.above(min_score)
            matched = self._match_frame(frame, gate, pred_of_truth)
            for row, track in enumerate(frame.truth_id.tolist()):
                found.setdefault(track, []).append(row in matched)
            self.misses += len(frame.truth_id) - len(matched)
            self.false_positives += len(frame.pred_id) - len(matched)
        self.tracks += [(np.array(flags), sequence.period_s) for flags in found.values()]

    def _match_frame(self, frame: TrackedFrame, gate: float, pred_of_truth: dict[int, int]) -> dict[int, int]:
        """Row of truth to row of prediction; counts matches and switches."""
        allowed = frame.cost < gate
        if not allowed.any():
            return {}
        truth_id, pred_id = frame.truth_id.tolist(), frame.pred_id.tolist()
        row_of_pred = {track: row for row, track in reversed(list(enumerate(pred_id)))}
        matched: dict[int, int] = {}
        for row, track in enumerate(truth_id):
            column = row_of_pred.get(pred_of_truth.get(track, -1))
            if column is not None and allowed[row, column]:
                matched[row] = column
                allowed[row, :] = False
                allowed[:, column] = False
                self.matches += 1
                self.match_scores.append(float(frame.pred_score[column]))
        for row, column in zip(*(index.tolist() for index in assign(frame.cost, allowed)), strict=True):
            matched[row] = column
            if pred_of_truth.get(truth_id[row], pred_id[column]) != pred_id[column]:
                self.switches += 1
            else:
                self.matches += 1
                self.match_scores.append(float(frame.pred_score[column]))
            pred_of_truth[truth_id[row]] = pred_id[column]
        self.cost += float(sum(frame.cost[row, column] for row, column in matched.items()))
        return matched

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


def _num_losses(found: np.ndarray) -> int:
    """How often found turns into not found before the last time found."""
    last = np.flatnonzero(found)[-1]
    return int((np.diff(found[: last + 1].astype(int)) == -1).sum())


def _longest_gap(found: np.ndarray) -> int:
    """Most frames in a row without being found, before the first and after the last time too."""
    edges = np.flatnonzero(np.concatenate([[True], found, [True]]))
    return int(np.diff(edges).max() - 1)
