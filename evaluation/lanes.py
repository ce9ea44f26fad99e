"""How well is the road's geometry known? Average precision of polylines by Chamfer distance, as in HDMapNet and MapTR."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from evaluation.matching import order_by_score
from scenes.layers import LaneType

THRESHOLDS_M = (0.5, 1.0, 1.5)
NUM_SAMPLES = 100


@dataclass(frozen=True)
class Polyline:
    """A lane marking, road edge, centreline or crossing of one frame (or one clip)."""

    type: LaneType
    points: np.ndarray
    """(P, 2) or (P, 3) metres, P >= 2, in the frame of reference that both sides share; height is not compared."""
    score: float = 1.0


def resample(points: np.ndarray, num: int = NUM_SAMPLES) -> np.ndarray:
    """(num, 2) points at equal steps along a polyline, its ends included; height is dropped."""
    points = np.asarray(points, dtype=np.float64)[:, :2]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, along[-1], num)
    return np.stack([np.interp(at, along, points[:, axis]) for axis in range(2)], axis=1)


def chamfer_distance_m(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance to the nearest point of the other line, both ways, halved; of lines (P, 2) sampled densely."""
    return float((KDTree(b).query(a)[0].mean() + KDTree(a).query(b)[0].mean()) / 2)


def chamfer_ap(
    pred: list[list[Polyline]], truth: list[list[Polyline]], thresholds_m: tuple[float, ...] = THRESHOLDS_M
) -> dict[LaneType, dict[float, float]]:
    """Average precision of each type that the truth has, at each threshold; one list of polylines a frame.

    By falling score each prediction looks at the nearest truth of its frame and type: closer than the threshold and free
    it is right, else wrong. AP is the area under the precision envelope over recall.
    """
    result: dict[LaneType, dict[float, float]] = {}
    for kind in LaneType:
        num_truth = sum(line.type is kind for frame in truth for line in frame)
        if num_truth:
            nearest = [_nearest(p, t, kind) for p, t in zip(pred, truth, strict=True)]
            result[kind] = {threshold: _average_precision(nearest, threshold, num_truth) for threshold in thresholds_m}
    return result


@dataclass(frozen=True)
class _Nearest:
    """For each prediction of one frame the nearest truth (-1 none) and how far it is."""

    score: np.ndarray
    truth: np.ndarray
    distance_m: np.ndarray


def _nearest(pred: list[Polyline], truth: list[Polyline], kind: LaneType) -> _Nearest:
    pred_lines = [resample(line.points) for line in pred if line.type is kind]
    truth_lines = [resample(line.points) for line in truth if line.type is kind]
    score = np.array([line.score for line in pred if line.type is kind])
    if not pred_lines or not truth_lines:
        return _Nearest(score, np.full(len(score), -1), np.full(len(score), np.inf))
    distance_m = np.array([[chamfer_distance_m(a, b) for b in truth_lines] for a in pred_lines])
    return _Nearest(score, distance_m.argmin(axis=1), distance_m.min(axis=1))


def _average_precision(frames: list[_Nearest], threshold_m: float, num_truth: int) -> float:
    score = np.concatenate([frame.score for frame in frames])
    frame_index = np.repeat(np.arange(len(frames)), [len(frame.score) for frame in frames])
    truth = np.concatenate([frame.truth for frame in frames])
    close = np.concatenate([frame.distance_m for frame in frames]) < threshold_m
    order = order_by_score(score)
    is_right = np.zeros(len(order), dtype=bool)
    taken: set[tuple[int, int]] = set()
    for place, row in enumerate(order.tolist()):
        key = (int(frame_index[row]), int(truth[row]))
        is_right[place] = close[row] and key not in taken
        if close[row]:
            taken.add(key)
    return area_under_envelope(is_right, num_truth)


def area_under_envelope(is_right: np.ndarray, num_truth: int) -> float:
    """Area under the best precision at this recall or a higher one, of predictions (P,) in order of falling score."""
    if not is_right.any():
        return 0.0
    hits = np.cumsum(is_right)
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[is_right].sum() / num_truth)
