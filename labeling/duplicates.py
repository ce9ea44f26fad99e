"""Which detections or tracks are the same object twice? Overlapping ones of one group; the better founded one stays."""

import numpy as np

from labeling.evidence import Evidence
from labeling.overlap import ground_iou, ground_iou_matrix
from labeling.trajectory import SolvedTrack


def single_detections(evidence: Evidence, max_iou: float) -> Evidence:
    """The evidence without detections that overlap a stronger one of the same frame by more than `max_iou`, seen from above."""
    keep = np.ones(len(evidence), dtype=bool)
    for rows in evidence.rows_by_frame():
        if len(rows) < 2:
            continue
        rows = rows[np.argsort(-evidence.score[rows], kind="stable")]
        clash = np.triu(ground_iou_matrix(evidence.box_world[rows], evidence.box_world[rows]) > max_iou, 1)
        for k in range(len(rows)):
            if keep[rows[k]]:
                keep[rows[clash[k]]] = False
    return evidence if keep.all() else evidence.select(keep)


def clashing_frames(a: SolvedTrack, b: SolvedTrack, max_iou: float) -> np.ndarray:
    """(F_b,) bool: frames of track b whose box overlaps track a's of that frame by more than `max_iou`."""
    shared, in_a, in_b = np.intersect1d(a.frames, b.frames, assume_unique=True, return_indices=True)
    clash = np.zeros(len(b.frames), dtype=bool)
    if len(shared):
        clash[in_b] = ground_iou(a.box_world[in_a], b.box_world[in_b]) > max_iou
    return clash


def may_meet(tracks: list[SolvedTrack]) -> list[tuple[int, int]]:
    """Pairs of tracks whose lives and bounding rectangles (grown by 3 m) touch."""
    if len(tracks) < 2:
        return []
    life = np.array([(track.frames[0], track.frames[-1]) for track in tracks])
    low = np.stack([track.box_world[:, :2].min(axis=0) - 3 for track in tracks])
    high = np.stack([track.box_world[:, :2].max(axis=0) + 3 for track in tracks])
    meet = (life[:, None, 0] <= life[None, :, 1]) & (life[None, :, 0] <= life[:, None, 1])
    meet &= (low[:, None] <= high[None]).all(-1) & (low[None] <= high[:, None]).all(-1)
    return [(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(meet, 1)), strict=True)]


def without_duplicates(tracks: list[SolvedTrack], strength: np.ndarray, kept: list[np.ndarray], max_iou: float) -> list[np.ndarray]:
    """The masks `kept` of each track's frames, with the weaker track's frames taken out where two overlap.

    A weaker track that loses more than half of its frames is a duplicate and goes altogether.
    """
    kept = [mask.copy() for mask in kept]
    for i, j in sorted(may_meet(tracks), key=lambda pair: -max(strength[pair[0]], strength[pair[1]])):
        strong, weak = (i, j) if strength[i] >= strength[j] else (j, i)
        if not (kept[strong].any() and kept[weak].any()):
            continue
        clash = clashing_frames(tracks[strong], tracks[weak], max_iou) & kept[weak]
        alive = dict(zip(tracks[strong].frames.tolist(), kept[strong].tolist(), strict=True))
        clash &= np.array([alive.get(frame, False) for frame in tracks[weak].frames.tolist()])
        if clash.sum() * 2 > kept[weak].sum():
            kept[weak][:] = False
        else:
            kept[weak] &= ~(clash & ~tracks[weak].is_measured)
    return kept
