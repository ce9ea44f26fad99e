"""Which predicted box belongs to which true box? Greedy matching by score and centre distance, over many frames at once."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import KDTree

from scenes.boxes import Box3D, Boxes
from scenes.geometry import wrap_angle

FALSE_POSITIVE = -1
IGNORED = -2
"""Marks in `truth_of_pred`: matched nothing; lies on a truth box that counts for nothing."""


@dataclass(frozen=True)
class BoxTable:
    """The boxes of many frames as one table, each frame in its own ego frame."""

    boxes: Boxes
    frame: np.ndarray
    """(M,) int64: which frame a box belongs to."""
    attribute: np.ndarray | None = None
    """(M,) object array of nuScenes attribute names ("" unknown), where there are any."""

    @classmethod
    def of(cls, frames_ego: list[Boxes], attributes: list[np.ndarray] | None = None) -> "BoxTable":
        """The table of a list of frames."""
        frame = np.repeat(np.arange(len(frames_ego)), [len(boxes) for boxes in frames_ego]).astype(np.int64)
        attribute = None if attributes is None else np.concatenate([np.zeros(0, dtype=object), *attributes])
        return cls(Boxes.concatenate(frames_ego), frame, attribute)

    def __len__(self) -> int:
        return len(self.frame)

    def select(self, index) -> "BoxTable":
        """The rows of a mask or an index array."""
        attribute = None if self.attribute is None else self.attribute[index]
        return BoxTable(self.boxes.select(index), self.frame[index], attribute)

    def with_ignore(self, ignore: np.ndarray) -> "BoxTable":
        """The same rows with another ignore mask (M,)."""
        return replace(self, boxes=replace(self.boxes, ignore=ignore))

    @property
    def range_m(self) -> np.ndarray:
        """(M,) distance of the centres from the ego origin, seen from above."""
        return np.hypot(self.boxes.box[:, Box3D.X], self.boxes.box[:, Box3D.Y])

    @property
    def speed_mps(self) -> np.ndarray:
        """(M,) speed over ground, NaN where unknown."""
        return np.hypot(self.boxes.box[:, Box3D.VX], self.boxes.box[:, Box3D.VY])


@dataclass(frozen=True)
class Pairs:
    """Predicted and true boxes of the same frame that are near each other: row numbers and centre distance."""

    pred: np.ndarray
    truth: np.ndarray
    distance_m: np.ndarray


def near_pairs(pred: BoxTable, truth: BoxTable, max_distance_m: float) -> Pairs:
    """All pairs of one frame whose centres are at most `max_distance_m` apart, seen from above.

    One k-d tree over all frames: the frame number is a third coordinate with steps so wide that frames never meet.
    """
    none = np.zeros(0, dtype=np.int64)
    if not len(pred) or not len(truth):
        return Pairs(none, none, np.zeros(0))
    pred_xy, truth_xy = pred.boxes.box[:, :2], truth.boxes.box[:, :2]
    step = 2 * max_distance_m + 1.0
    pred_tree = KDTree(np.column_stack([pred_xy, pred.frame * step]))
    truth_tree = KDTree(np.column_stack([truth_xy, truth.frame * step]))
    found = pred_tree.sparse_distance_matrix(truth_tree, max_distance_m, output_type="ndarray")
    rows, columns = found["i"].astype(np.int64), found["j"].astype(np.int64)
    # The distance is computed again: the tree's own may differ in the last bit, and a threshold is a threshold.
    return Pairs(rows, columns, np.linalg.norm(pred_xy[rows] - truth_xy[columns], axis=1))


def order_by_score(score: np.ndarray) -> np.ndarray:
    """Row numbers by falling score; among equals the later row first (the nuScenes devkit's order)."""
    return np.argsort(score, kind="stable")[::-1]


def match_greedily(pred: BoxTable, truth: BoxTable, threshold_m: float, pairs: Pairs | None = None) -> np.ndarray:
    """(P,) row of the truth box that each prediction takes, or `FALSE_POSITIVE`, or `IGNORED`.

    Predictions come by falling score; each takes the nearest free truth box of its frame closer than `threshold_m`.
    A prediction left without one, but that close to an ignored truth box, is `IGNORED` (any number of them may be).
    Classes are the caller's affair. Source: nuScenes devkit, `eval/detection/algo.py`, but for the ignored boxes.
    """
    pairs = near_pairs(pred, truth, threshold_m) if pairs is None else pairs
    rank = np.empty(len(pred), dtype=np.int64)
    rank[order_by_score(pred.boxes.score)] = np.arange(len(pred))
    close = pairs.distance_m < threshold_m
    on_ignored = truth.boxes.ignore[pairs.truth]
    truth_of_pred = np.full(len(pred), FALSE_POSITIVE, dtype=np.int64)
    truth_of_pred[pairs.pred[close & on_ignored]] = IGNORED
    rows = np.flatnonzero(close & ~on_ignored)
    rows = rows[np.lexsort((pairs.truth[rows], pairs.distance_m[rows], rank[pairs.pred[rows]]))]
    free = np.ones(len(truth), dtype=bool).tolist()
    done = -1
    for pred_row, truth_row in zip(pairs.pred[rows].tolist(), pairs.truth[rows].tolist(), strict=True):
        if pred_row != done and free[truth_row]:
            free[truth_row] = False
            truth_of_pred[pred_row] = truth_row
            done = pred_row
    return truth_of_pred


def centre_error_m(pred: Boxes, truth: Boxes) -> np.ndarray:
    """(M,) distance of the centres seen from above, row by row."""
    return np.linalg.norm(pred.box[:, :2] - truth.box[:, :2], axis=1)


def size_error(pred: Boxes, truth: Boxes) -> np.ndarray:
    """(M,) one minus the IoU of the boxes laid on each other (same centre, same heading)."""
    pred_size, truth_size = pred.box[:, 3:6], truth.box[:, 3:6]
    overlap = np.minimum(pred_size, truth_size).prod(axis=1)
    return 1 - overlap / (pred_size.prod(axis=1) + truth_size.prod(axis=1) - overlap)


def heading_error_rad(pred: Boxes, truth: Boxes, half_turn_classes: tuple[int, ...] = ()) -> np.ndarray:
    """(M,) absolute difference of yaw; for truth of `half_turn_classes` front and back count as the same."""
    difference = np.abs(np.atleast_1d(wrap_angle(truth.box[:, Box3D.YAW] - pred.box[:, Box3D.YAW])))
    half_turn = np.isin(truth.class_id, half_turn_classes)
    return np.where(half_turn, np.minimum(difference, np.pi - difference), difference)


def velocity_error_mps(pred: Boxes, truth: Boxes) -> np.ndarray:
    """(M,) length of the difference of the velocities; NaN where either is unknown."""
    return np.linalg.norm(pred.box[:, Box3D.VX : Box3D.VY + 1] - truth.box[:, Box3D.VX : Box3D.VY + 1], axis=1)
