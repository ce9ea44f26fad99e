"""Which detections or tracks are the same object twice? Overlapping ones of one group; the better founded one stays."""

import numpy as np

from labeling.tracks.evidence import Evidence
from labeling.tracks.overlap import ground_iou
from labeling.tracks.trajectory import SolvedTracks


def pairs_in_frames(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs i < j of rows (N,) with the same frame; `frame` ascends."""
    end = np.searchsorted(frame, frame, side="right")
    count = end - np.arange(len(frame)) - 1
    first = np.repeat(np.arange(len(frame)), count)
    offset = np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)
    return first, first + 1 + offset


def clashing_pairs(frame: np.ndarray, box: np.ndarray, max_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs i < j of boxes (N, 9) of one frame that overlap by more than `max_iou`, seen from above; `frame` (N,) ascends."""
    i, j = pairs_in_frames(frame)
    half = (box[:, 3] + box[:, 4]) / 2
    near = (np.abs(box[i, 0] - box[j, 0]) < half[i] + half[j]) & (np.abs(box[i, 1] - box[j, 1]) < half[i] + half[j])
    i, j = i[near], j[near]
    clash = ground_iou(box[i], box[j]) > max_iou
    return i[clash], j[clash]


def single_detections(evidence: Evidence, max_iou: float) -> Evidence:
    """The evidence without detections that overlap a stronger one of the same frame by more than `max_iou`, seen from above."""
    i, j = clashing_pairs(evidence.frame, evidence.box_world, max_iou)
    strong = np.where(evidence.score[i] >= evidence.score[j], i, j)
    weak = i + j - strong
    keep = np.ones(len(evidence), dtype=bool)
    for k in np.argsort(-evidence.score[strong], kind="stable"):
        keep[weak[k]] &= not keep[strong[k]]
    return evidence if keep.all() else evidence.select(keep)


def without_duplicates(tracks: SolvedTracks, strength: np.ndarray, kept: np.ndarray, max_iou: float) -> np.ndarray:
    """The mask `kept` (F,) of the frame rows, with the weaker track's unmeasured frames taken out where two overlap.

    A weaker track, by `strength` (K,), that overlaps in more than half of its frames is a duplicate and goes altogether.
    """
    kept = kept.copy()
    row = np.flatnonzero(kept)
    row = row[np.argsort(tracks.frame[row], kind="stable")]
    i, j = (row[side] for side in clashing_pairs(tracks.frame[row], tracks.box_world[row], max_iou))
    owner, num = tracks.life.owner, len(tracks)
    first = strength[owner[i]] >= strength[owner[j]]
    strong, weak = np.where(first, i, j), np.where(first, j, i)
    meeting, number = np.unique(owner[strong] * num + owner[weak], return_inverse=True)
    left = tracks.life.sums(kept.astype(np.int64))
    for k in np.argsort(-strength[meeting // max(num, 1)], kind="stable").tolist():
        better, worse = divmod(int(meeting[k]), num)
        if not left[better]:
            continue
        rows = weak[number == k]
        mine = slice(tracks.life.first[worse], tracks.life.end[worse])
        if 2 * len(rows) > left[worse]:
            kept[mine] = False
        else:
            kept[rows] &= tracks.is_measured[rows]
        left[worse] = kept[mine].sum()
    return kept
