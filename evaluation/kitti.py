"""How well are KITTI's cars, pedestrians and cyclists tracked in 3D, by the rules of KITTI's and AB3DMOT's evaluations?

Sources: the KITTI tracking devkit (what counts, switches, fragmentations), Weng et al. 2020 (3D matching, sAMOTA over recall levels),
Ristani et al. 2016 (IDF1), Luiten et al. 2020 (HOTA, here at one IoU). `python -m benchmarks.kitti_agreement` compares the figures with
an evaluator that was written apart.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from evaluation.iou import iou_3d
from evaluation.tracks import assign
from scenes.errors import DataError
from scenes.readers.kitti import KittiRows

NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}
"""Boxes of these classes count neither for nor against a tracker of the other."""
MAX_TRUNCATION, MAX_OCCLUSION = 0, 2
"""True boxes beyond do not count."""
MIN_HEIGHT_PX = 25
DONTCARE_SHARE = 0.5
"""A result without a true box does not count if its rectangle is this low, or lies to a larger share in a region nobody labelled."""
RECALL_LEVELS = 40


@dataclass(frozen=True)
class KittiSequence:
    """One sequence's T true and P predicted boxes of a class, and which of them may match."""

    truth: KittiRows
    pred: KittiRows
    counts: np.ndarray
    """(T,) bool: whether the true box is to be found."""
    forgiven: np.ndarray
    """(P,) bool: whether the predicted box is no false positive if nothing true is there."""
    track_score: np.ndarray
    """(P,) mean score of the box's track."""
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Rows of truth, rows of prediction and IoU of all pairs of one frame that overlap enough."""

    @classmethod
    def of(cls, truth: KittiRows, pred: KittiRows, kind: str, min_iou: float) -> "KittiSequence":
        """Sorts out what counts for a class (lower case) at an IoU; ids that occur twice in a frame are refused (`DataError`)."""
        kinds = (kind, NEIGHBOURS.get(kind, kind))
        regions = truth.select(truth.kind == "dontcare")
        truth = truth.select(np.isin(truth.kind, kinds) & (truth.track_id != -1))
        pred = pred.select(np.isin(pred.kind, kinds) & (pred.track_id != -1))
        for rows, what in ((truth, "truth"), (pred, "results")):
            if len(np.unique(np.stack([rows.frame, rows.track_id]), axis=1).T) != len(rows):
                raise DataError(f"KITTI {what}: expected each track id once in a frame, got one twice; correct the file")
        counts = (truth.occlusion <= MAX_OCCLUSION) & (truth.truncation <= MAX_TRUNCATION) & (truth.kind == kind)
        low = np.abs(pred.rectangle_px[:, 3] - pred.rectangle_px[:, 1]) <= MIN_HEIGHT_PX
        forgiven = low | (_share_in_regions(pred, regions) > DONTCARE_SHARE) | (pred.kind != kind)
        _, member = np.unique(pred.track_id, return_inverse=True)
        score = (np.bincount(member, pred.score) / np.bincount(member))[member] if len(pred) else np.zeros(0)
        return cls(truth, pred, counts, forgiven, score, _overlapping(truth, pred, min_iou))

    def match(self, min_score: float) -> np.ndarray:
        """(T,) the predicted row on each true one, -1 if none: in each frame as many as possible, then the largest overlap."""
        i, j, iou = self.pairs
        keep = self.track_score[j] >= min_score
        i, j, iou = i[keep], j[keep], iou[keep]
        match = np.full(len(self.truth), -1)
        alone = (np.bincount(i, minlength=len(self.truth))[i] == 1) & (np.bincount(j, minlength=len(self.pred))[j] == 1)
        match[i[alone]] = j[alone]
        for frame in np.unique(self.truth.frame[i[~alone]]):
            part = ~alone & (self.truth.frame[i] == frame)
            rows, row = np.unique(i[part], return_inverse=True)
            columns, column = np.unique(j[part], return_inverse=True)
            cost = np.full((len(rows), len(columns)), np.inf)
            cost[row, column] = 1 - iou[part]
            a, b = assign(cost, np.isfinite(cost))
            match[rows[a]] = columns[b]
        return match

    def verdicts(self) -> np.ndarray:
        """(P,) of every predicted box, whatever its score: 1 right, -1 wrong, 0 neither."""
        match = self.match(-np.inf)
        verdict = np.where(self.forgiven, 0, -1)
        verdict[match[match >= 0]] = self.counts[match >= 0]
        return verdict


def _share_in_regions(pred: KittiRows, regions: KittiRows) -> np.ndarray:
    share = np.zeros(len(pred))
    for frame in np.unique(regions.frame):
        rows = np.flatnonzero(pred.frame == frame)
        a, b = pred.rectangle_px[rows, None], regions.rectangle_px[None, regions.frame == frame]
        shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(axis=-1)
        area = (a[..., 2:] - a[..., :2]).prod(axis=-1)
        share[rows] = np.divide(shared, area, out=np.zeros_like(shared), where=area != 0).max(axis=1)
    return share


def _overlapping(truth: KittiRows, pred: KittiRows, min_iou: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))]
    for frame in np.intersect1d(truth.frame, pred.frame):
        i, j = np.flatnonzero(truth.frame == frame), np.flatnonzero(pred.frame == frame)
        iou = iou_3d(truth.box_ego[i], pred.box_ego[j])
        a, b = np.nonzero((iou >= min_iou) & (iou > 0))
        parts.append((i[a], j[b], iou[a, b]))
    i, j, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return i, j, iou


@dataclass(frozen=True)
class Counts:
    """CLEAR MOT's events over all sequences at one score threshold."""

    num_truth: int
    num_found: int
    """Matches, those on true boxes that do not count included, as KITTI counts them."""
    num_misses: int
    num_false_positives: int
    num_switches: int
    num_fragmentations: int

    @property
    def errors(self) -> int:
        """What MOTA counts against a tracker."""
        return self.num_misses + self.num_false_positives + self.num_switches

    @property
    def mota(self) -> float:
        """1 - errors / truth; negative where there are more errors than boxes."""
        return 1 - self.errors / self.num_truth if self.num_truth else 0.0

    def scaled_mota(self, recall: float) -> float:
        """MOTA without the misses that a recall brings along, scaled to [0, 1]."""
        if not self.num_truth:
            return 0.0
        return min(1.0, max(0.0, 1 - (self.errors - (1 - recall) * self.num_truth) / (recall * self.num_truth)))


def track_events(found: np.ndarray, counts: np.ndarray) -> tuple[int, int]:
    """Switches and fragmentations of one true track: `found` (F,) holds the id on it or -1, `counts` (F,) whether the frame counts.

    A switch is another id than the one before in two frames that follow each other. A fragmentation is a return: an id that was not
    there the frame before, after there was one, that stays for the next frame too (the last frame needs no next one). A frame that
    does not count makes the track forget.
    """
    if not (found >= 0).any() or not counts.any():
        return 0, 0
    switches = fragments = 0
    last = int(found[0])
    end = len(found) - 1
    for k, (before, now) in enumerate(pairwise(found.tolist()), 1):
        if not counts[k]:
            last = -1
        elif now != -1:
            if last != -1:
                switches += before != -1 and now != last
                if k < end:
                    fragments += now != before and found[k + 1] != -1
            last = now
    if end and counts[end] and found[end] != -1 and found[end - 1] != found[end] and last != -1:
        fragments += 1
    return switches, fragments


def count(sequences: list[KittiSequence], min_score: float) -> tuple[Counts, list[np.ndarray]]:
    """The events at one score threshold, and each sequence's matches."""
    totals, matches = np.zeros(6, dtype=np.int64), []
    for sequence in sequences:
        match = sequence.match(min_score)
        matches.append(match)
        free = (sequence.track_score >= min_score) & ~sequence.forgiven
        free[match[match >= 0]] = False
        found = np.where(match >= 0, sequence.pred.track_id[match], -1) if len(sequence.pred) else match
        order = np.lexsort((sequence.truth.frame, sequence.truth.track_id))
        edges = np.flatnonzero(np.diff(sequence.truth.track_id[order])) + 1
        events = [track_events(found[rows], sequence.counts[rows]) for rows in np.split(order, edges) if len(rows)]
        hits, misses = (match >= 0).sum(), ((match < 0) & sequence.counts).sum()
        totals += [sequence.counts.sum(), hits, misses, free.sum(), *np.array(events, dtype=np.int64).reshape(-1, 2).sum(axis=0)]
    return Counts(*totals.tolist()), matches


def recall_thresholds(scores: np.ndarray, num_truth: int) -> list[tuple[float, float]]:
    """(score threshold, recall level) where the recall of matches with these `scores` comes closest to 1/40, 2/40, ...

    Levels that are never reached have none.
    """
    found, level = [], 0
    scores = np.sort(scores)[::-1]
    for k, score in enumerate(scores.tolist(), 1):
        target = level / RECALL_LEVELS
        if k < len(scores) and (k + 1) / num_truth - target < target - k / num_truth:
            continue  # the next score comes closer
        found.append((score, target))
        level += 1
    return found[1:]  # the first belongs to no recall at all


@dataclass(frozen=True)
class KittiFigures:
    """One class at one IoU over all sequences; all but sAMOTA at the score threshold with the best MOTA."""

    samota: float
    threshold: float
    counts: Counts
    idf1: float
    hota: float


def measure(sequences: list[KittiSequence]) -> KittiFigures:
    """All figures of sequences prepared for one class and IoU."""
    everything, matches = count(sequences, -np.inf)
    scores = np.concatenate([s.track_score[match[match >= 0]] for s, match in zip(sequences, matches, strict=True)])
    best, best_mota, scaled = -np.inf, 0.0, 0.0
    for threshold, recall in recall_thresholds(scores, everything.num_found + everything.num_misses):
        counts, _ = count(sequences, threshold)
        scaled += counts.scaled_mota(recall)
        if counts.mota > best_mota:
            best, best_mota = threshold, counts.mota
    counts, matches = count(sequences, best)
    return KittiFigures(scaled / RECALL_LEVELS, best, counts, *_identities(sequences, matches, best))


def _identities(sequences: list[KittiSequence], matches: list[np.ndarray], min_score: float) -> tuple[float, float]:
    """IDF1 and HOTA; what does not count is left out of both sides."""
    explained = num_boxes = num_matches = 0
    overlap = 0.0
    for sequence, match in zip(sequences, matches, strict=True):
        pred_counts = (sequence.track_score >= min_score) & ~sequence.forgiven
        pred_counts[match[match >= 0]] = True
        pred_counts[match[(match >= 0) & ~sequence.counts]] = False
        truth_ids, truth = np.unique(sequence.truth.track_id, return_inverse=True)
        pred_ids, pred = np.unique(sequence.pred.track_id, return_inverse=True)
        num_boxes += int(sequence.counts.sum() + pred_counts.sum())
        if not len(truth_ids) or not len(pred_ids):
            continue
        i, j, _ = sequence.pairs
        use = sequence.counts[i] & pred_counts[j]
        table = np.zeros((len(truth_ids), len(pred_ids)))
        np.add.at(table, (truth[i[use]], pred[j[use]]), 1)
        explained += int(table[linear_sum_assignment(-table)].sum())
        rows = np.flatnonzero((match >= 0) & sequence.counts)
        together = np.zeros_like(table)
        np.add.at(together, (truth[rows], pred[match[rows]]), 1)
        sizes = [np.bincount(m[c], minlength=n) for m, c, n in zip((truth, pred), (sequence.counts, pred_counts), table.shape, strict=True)]
        overlap += float((together**2 / np.maximum(sizes[0][:, None] + sizes[1][None] - together, 1)).sum())
        num_matches += len(rows)
    det_a, ass_a = num_matches / max(num_boxes - num_matches, 1), overlap / max(num_matches, 1)
    return 2 * explained / max(num_boxes, 1), float(np.sqrt(det_a * ass_a))
