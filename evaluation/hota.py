"""How well are objects followed as wholes? HOTA with its parts, and IDF1.

Sources: Luiten et al. 2020 (HOTA) and Ristani et al. 2016 (IDF1), computed in the order of the `TrackEval` library.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from evaluation.tracks import TrackedFrame, TrackedSequence

ALPHAS = np.arange(1, 20) * 0.05
"""Similarities at which a match counts; HOTA is the mean over them."""


@dataclass(frozen=True)
class Hota:
    """Means over `ALPHAS`, between 0 and 1; NaN without truth and predictions."""

    hota: float
    """Geometric mean of the next two at each alpha, then the mean."""
    det_a: float
    """Detection accuracy: TP / (TP + FN + FP)."""
    ass_a: float
    """Association accuracy: how far matched tracks overlap as wholes."""
    loc_a: float
    """Mean similarity of the matches."""


@dataclass(frozen=True)
class Identity:
    """Truth and predictions under the one assignment of whole tracks that explains most boxes."""

    num_identity_tp: int
    num_identity_fn: int
    num_identity_fp: int

    @property
    def idf1(self) -> float:
        """2 IDTP / (2 IDTP + IDFN + IDFP); NaN of nothing."""
        total = 2 * self.num_identity_tp + self.num_identity_fn + self.num_identity_fp
        return 2 * self.num_identity_tp / total if total else float("nan")


class _Tracks:
    """One sequence's ids as consecutive numbers, and in how many frames each lives."""

    def __init__(self, sequence: TrackedSequence, min_score: float) -> None:
        self.frames = [frame.above(min_score) for frame in sequence.frames]
        self.truth_rows, self.truth_count = _numbered([frame.truth_id for frame in self.frames])
        self.pred_rows, self.pred_count = _numbered([frame.pred_id for frame in self.frames])

    @property
    def num_truth(self) -> int:
        """True boxes."""
        return int(self.truth_count.sum())

    @property
    def num_pred(self) -> int:
        """Predicted boxes."""
        return int(self.pred_count.sum())

    def table(self) -> np.ndarray:
        """Zeros (true tracks, predicted tracks)."""
        return np.zeros((len(self.truth_count), len(self.pred_count)))

    def overlap(self, together: np.ndarray) -> np.ndarray:
        """Jaccard index of tracks that share `together` frames."""
        return together / np.maximum(1, self.truth_count[:, None] + self.pred_count[None, :] - together)


def _numbered(ids: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Each frame's ids as numbers from 0, and how often each occurs."""
    _, member, count = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *ids]), return_inverse=True, return_counts=True)
    ends = np.cumsum([len(frame) for frame in ids])
    return [member[end - len(frame) : end] for end, frame in zip(ends, ids, strict=True)], count


def similarity(frame: TrackedFrame, zero_cost: float) -> np.ndarray:
    """(T, P) in [0, 1]: 1 at cost 0, 0 from `zero_cost` on."""
    return np.maximum(0.0, 1 - frame.cost / zero_cost)


def hota(sequences: list[TrackedSequence], zero_cost: float, min_score: float = -np.inf) -> Hota:
    """HOTA of all sequences together. `zero_cost`: the cost of no similarity, 2 m between centres or 1 for 1 - IoU."""
    sums = np.zeros((len(ALPHAS), 3))
    num_boxes = 0
    for sequence in sequences:
        tracks = _Tracks(sequence, min_score)
        num_boxes += tracks.num_truth + tracks.num_pred
        if tracks.num_truth and tracks.num_pred:
            sums += _sums_by_alpha(tracks, [similarity(frame, zero_cost) for frame in tracks.frames])
    if not num_boxes:
        return Hota(float("nan"), float("nan"), float("nan"), float("nan"))
    num_matches, overlap, similarity_sum = sums.T
    det_a = num_matches / (num_boxes - num_matches)
    ass_a = overlap / np.maximum(1, num_matches)
    loc_a = np.where(num_matches > 0, similarity_sum / np.maximum(1, num_matches), 1.0)
    return Hota(float(np.sqrt(det_a * ass_a).mean()), float(det_a.mean()), float(ass_a.mean()), float(loc_a.mean()))


def _sums_by_alpha(tracks: _Tracks, similarities: list[np.ndarray]) -> np.ndarray:
    """(alphas, 3): number of matches, and over them the sums of track overlap and of similarity.

    Frames are matched once, by similarity times how well the tracks fit as wholes; an alpha then keeps what reaches it.
    """
    alignment = _alignment(tracks, similarities)
    matches = []
    for rows, columns, values in zip(tracks.truth_rows, tracks.pred_rows, similarities, strict=True):
        i, j = linear_sum_assignment(-alignment[np.ix_(rows, columns)] * values)
        matches.append((rows[i], columns[j], values[i, j]))
    truth, pred, value = (np.concatenate(part) for part in zip(*matches, strict=True))
    sums = np.zeros((len(ALPHAS), 3))
    for row, alpha in enumerate(ALPHAS):
        good = value >= alpha - np.finfo(float).eps
        together = tracks.table()
        np.add.at(together, (truth[good], pred[good]), 1)
        sums[row] = good.sum(), (together * tracks.overlap(together)).sum(), value[good].sum()
    return sums


def _alignment(tracks: _Tracks, similarities: list[np.ndarray]) -> np.ndarray:
    """(true tracks, predicted tracks): how well two tracks fit as wholes, a soft Jaccard index."""
    together = tracks.table()
    for rows, columns, values in zip(tracks.truth_rows, tracks.pred_rows, similarities, strict=True):
        total = values.sum(axis=1, keepdims=True) + values.sum(axis=0, keepdims=True) - values
        together[np.ix_(rows, columns)] += np.divide(values, total, out=np.zeros_like(values), where=total > np.finfo(float).eps)
    return tracks.overlap(together)


def identity(sequences: list[TrackedSequence], gate: float, min_score: float = -np.inf) -> Identity:
    """IDF1's counts over all sequences; boxes at a cost below `gate` may stand for each other."""
    hits = misses = false_positives = 0
    for sequence in sequences:
        tracks = _Tracks(sequence, min_score)
        together = tracks.table()
        for rows, columns, frame in zip(tracks.truth_rows, tracks.pred_rows, tracks.frames, strict=True):
            together[np.ix_(rows, columns)] += frame.cost < gate
        explained = int(together[linear_sum_assignment(-together)].sum())
        hits += explained
        misses += tracks.num_truth - explained
        false_positives += tracks.num_pred - explained
    return Identity(hits, misses, false_positives)
