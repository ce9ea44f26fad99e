"""Which true and predicted tracks live in each frame, and how far apart are they? The input of every tracking metric."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from scenes.boxes import Box3D, Boxes
from scenes.geometry import wrap_angle


@dataclass(frozen=True)
class TrackedClip:
    """The boxes of one clip, frame by frame, all in one frame of reference that stands still (world)."""

    timestamps_s: np.ndarray
    """(F,) growing."""
    pred_world: list[Boxes]
    truth_world: list[Boxes]


@dataclass(frozen=True)
class TrackedFrame:
    """What a tracking metric needs to know of one frame: T true boxes, P predicted ones."""

    truth_id: np.ndarray
    """(T,) int64, at most once each in a frame; unique over all sequences, as is `pred_id`."""
    pred_id: np.ndarray
    """(P,) int64."""
    pred_score: np.ndarray
    """(P,) the score of the whole track: the mean over its boxes."""
    cost: np.ndarray
    """(T, P) distance of each pair: metres between centres, or 1 - IoU."""

    def above(self, min_score: float) -> "TrackedFrame":
        """The frame without predictions of tracks below a score."""
        keep = self.pred_score >= min_score
        return self if keep.all() else TrackedFrame(self.truth_id, self.pred_id[keep], self.pred_score[keep], self.cost[:, keep])


@dataclass(frozen=True)
class TrackedSequence:
    """The frames of one clip, in order."""

    frames: list[TrackedFrame]
    period_s: float
    """Time from frame to frame."""


CostFunction = Callable[[Boxes, Boxes], np.ndarray]
"""(T, P) distances of T true and P predicted boxes in one frame of reference."""


def centre_distance(truth: Boxes, pred: Boxes) -> np.ndarray:
    """(T, P) metres between centres, seen from above."""
    return np.linalg.norm(truth.box[:, None, :2] - pred.box[None, :, :2], axis=-1)


def assign(cost: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the assignment with as many allowed pairs as possible and, among those, the least cost."""
    if not allowed.any():
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    dear = 2 * min(cost.shape) * (np.abs(cost[allowed]).max() + 1) + 1
    rows, columns = linear_sum_assignment(np.where(allowed, cost, dear))
    good = allowed[rows, columns]
    return rows[good], columns[good]


def with_track_scores(frames: list[Boxes]) -> list[Boxes]:
    """The same boxes with each score replaced by the mean over its track; boxes without track (id -1) become tracks of their own."""
    boxes = Boxes.concatenate(frames)
    if not len(boxes):
        return frames
    track_id = boxes.track_id.copy()
    alone = track_id < 0
    track_id[alone] = max(track_id.max(), -1) + 1 + np.arange(alone.sum())
    _, member = np.unique(track_id, return_inverse=True)
    mean_score = np.bincount(member, boxes.score) / np.bincount(member)
    boxes = replace(boxes, track_id=track_id, score=mean_score[member])
    ends = np.cumsum([len(frame) for frame in frames])
    return [boxes.select(slice(end - len(frame), end)) for end, frame in zip(ends, frames, strict=True)]


def fill_gaps(frames: list[Boxes], timestamps_s: np.ndarray) -> list[Boxes]:
    """Every track without holes: where it is missing between two of its boxes, the box in between (linear in time).

    The nuScenes devkit means the same, but weighs the two ends the wrong way round (its issue 1141); this does not.
    """
    where: dict[int, list[tuple[int, int]]] = {}
    for index, boxes in enumerate(frames):
        for row, track in enumerate(boxes.track_id.tolist()):
            if track >= 0:
                where.setdefault(track, []).append((index, row))
    extra: dict[int, list[Boxes]] = {}
    for places in where.values():
        for (left, left_row), (right, right_row) in pairwise(places):
            for index in range(left + 1, right):
                weight = (timestamps_s[index] - timestamps_s[left]) / (timestamps_s[right] - timestamps_s[left])
                between = _between(frames[left].select([left_row]), frames[right].select([right_row]), float(weight))
                extra.setdefault(index, []).append(between)
    return [Boxes.concatenate([boxes, *extra[i]]) if i in extra else boxes for i, boxes in enumerate(frames)]


def _between(left: Boxes, right: Boxes, right_weight: float) -> Boxes:
    box = (1 - right_weight) * left.box + right_weight * right.box
    turn = np.atleast_1d(wrap_angle(right.box[:, Box3D.YAW] - left.box[:, Box3D.YAW]))
    box[:, Box3D.YAW] = wrap_angle(left.box[:, Box3D.YAW] + right_weight * turn)
    score = (1 - right_weight) * left.score + right_weight * right.score
    return replace(right, box=box, score=score, ignore=left.ignore | right.ignore)


def tracked_sequences(
    clips: list[TrackedClip], class_ids: list[int], gate: float, cost: CostFunction = centre_distance
) -> list[TrackedSequence]:
    """The boxes of some classes as sequences with ids that are unique over all clips.

    Ignored truth is left out, and with it every prediction that lies within the gate of such a box and is not needed
    for another one.
    """
    sequences = []
    first_truth = first_pred = 0
    for clip in clips:
        frames = []
        for pred, truth in zip(clip.pred_world, clip.truth_world, strict=True):
            pred = pred.select(np.isin(pred.class_id, class_ids))
            truth = truth.select(np.isin(truth.class_id, class_ids))
            distances = cost(truth, pred)
            keep = ~_on_ignored(distances, truth.ignore, gate)
            frames.append(
                TrackedFrame(
                    truth.track_id[~truth.ignore] + first_truth,
                    pred.track_id[keep] + first_pred,
                    pred.score[keep],
                    distances[~truth.ignore][:, keep],
                )
            )
        sequences.append(TrackedSequence(frames, _period_s(clip.timestamps_s)))
        first_truth += _next_id(clip.truth_world)
        first_pred += _next_id(clip.pred_world)
    return sequences


def _on_ignored(distances: np.ndarray, ignore: np.ndarray, gate: float) -> np.ndarray:
    """(P,) bool: predictions near ignored truth that no other truth needs."""
    near_ignored = np.atleast_1d((distances[ignore] < gate).any(axis=0))
    if near_ignored.any():
        _, needed = assign(distances[~ignore], distances[~ignore] < gate)
        near_ignored[needed] = False
    return near_ignored


def _period_s(timestamps_s: np.ndarray) -> float:
    return float(np.median(np.diff(timestamps_s))) if len(timestamps_s) > 1 else 0.0


def _next_id(frames: list[Boxes]) -> int:
    return 1 + max((int(boxes.track_id.max()) for boxes in frames if len(boxes)), default=-1)
