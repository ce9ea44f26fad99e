"""Which detections or tracks are the same object twice? Overlapping ones of one group; the better founded one stays."""

import numpy as np

from labeling.tracks.evidence import Evidence
from labeling.tracks.overlap import ground_iou
from labeling.tracks.trajectory import SolvedTrack


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
    reach = (box[i, 3] + box[i, 4] + box[j, 3] + box[j, 4]) / 2
    near = (np.abs(box[i, :2] - box[j, :2]) < reach[:, None]).all(axis=1)
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


def without_duplicates(tracks: list[SolvedTrack], strength: np.ndarray, kept: list[np.ndarray], max_iou: float) -> list[np.ndarray]:
    """The masks `kept` of each track's frames, with the weaker track's unmeasured frames taken out where two overlap.

    A weaker track that overlaps in more than half of its frames is a duplicate and goes altogether.
    """
    if not tracks:
        return kept
    kept = [mask.copy() for mask in kept]
    owner = np.concatenate([np.full(mask.sum(), k) for k, mask in enumerate(kept)])
    row = np.concatenate([np.flatnonzero(mask) for mask in kept])
    frame = np.concatenate([track.frames[mask] for track, mask in zip(tracks, kept, strict=True)])
    box = np.concatenate([track.box_world[mask] for track, mask in zip(tracks, kept, strict=True)])
    order = np.argsort(frame, kind="stable")
    i, j = (order[side] for side in clashing_pairs(frame[order], box[order], max_iou))
    meetings: dict[tuple[int, int], list[int]] = {}
    for a, b in zip(i.tolist(), j.tolist(), strict=True):
        strong, weak = (a, b) if strength[owner[a]] >= strength[owner[b]] else (b, a)
        meetings.setdefault((int(owner[strong]), int(owner[weak])), []).append(int(row[weak]))
    for (strong, weak), rows in sorted(meetings.items(), key=lambda item: -strength[item[0][0]]):
        if not kept[strong].any():
            continue
        if 2 * len(rows) > kept[weak].sum():
            kept[weak][:] = False
        else:
            kept[weak][rows] &= tracks[weak].is_measured[rows]
    return kept
