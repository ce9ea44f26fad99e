"""Where is the detector good and where not? The same matches split by group of classes, range and visibility.

Unlike the nuScenes metrics, which cut predictions and truth off at the same range, a split belongs to the truth: a matched
prediction goes where its truth box goes, an unmatched one where it stands itself. A pair astride a border is no error.
"""

from dataclasses import dataclass

import numpy as np

from evaluation.detection import Curve, DetectionSettings, matched_curve, of_class
from evaluation.matching import (
    FALSE_POSITIVE,
    IGNORED,
    BoxTable,
    centre_error_m,
    heading_error_rad,
    match_greedily,
    near_pairs,
    order_by_score,
    size_error,
    velocity_error_mps,
)
from scenes.boxes import CLASS_NAMES, VEHICLE_CLASSES

RANGE_BINS_M = ((0.0, 15.0), (15.0, 30.0), (30.0, 50.0))
VISIBILITY_BINS = ((0.0, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.01))
"""The four levels of nuScenes, as shares of the object that are seen."""
MOVING_MPS = 1.0
"""An object faster than this is moving."""
GROUPS = {"all": CLASS_NAMES, "vehicle": VEHICLE_CLASSES, **{name: (name,) for name in CLASS_NAMES}}
"""Classes that are measured together; within a group the class does not matter, but for "all", where it must agree."""


@dataclass(frozen=True)
class SubsetMetrics:
    """The result on a part of the boxes."""

    num_truth: int
    ap: dict[float, float]
    """Threshold in metres to average precision."""
    recall: float
    """Share of the truth matched at the true-positive threshold (2 m), whatever the score."""
    best_f1: float
    """The best harmonic mean of precision and recall that a score threshold reaches ..."""
    best_f1_score: float
    """... that threshold ..."""
    best_f1_precision: float
    best_f1_recall: float
    centre_error_m: float
    """Mean over the matches above that threshold; likewise the next two."""
    size_error: float
    heading_error_rad: float
    velocity_error_mps: float
    """Mean velocity error over ALL matches with moving truth (faster than `MOVING_MPS`), whatever the score."""
    velocity_error_best_f1_mps: float
    """The same over the matches above the best F1 threshold."""
    num_moving: int
    """Matches that `velocity_error_mps` averages."""

    @property
    def mean_ap(self) -> float:
        """AP averaged over the thresholds."""
        return float(np.mean(list(self.ap.values())))


@dataclass(frozen=True)
class Matched:
    """Predictions and truth of one group, matched at every threshold."""

    pred: BoxTable
    truth: BoxTable
    truth_of_pred: dict[float, np.ndarray]
    settings: DetectionSettings


def match_group(pred: BoxTable, truth: BoxTable, group: str, settings: DetectionSettings) -> Matched:
    """All boxes of a group of `GROUPS`, at any range. In "all" a match needs the same class, elsewhere the group is one class."""
    if group == "all":
        return _match_all_classes(pred, truth, settings)
    pred, truth = of_class(pred, GROUPS[group]), of_class(truth, GROUPS[group])
    pairs = near_pairs(pred, truth, max(settings.thresholds_m))
    return Matched(pred, truth, {t: match_greedily(pred, truth, t, pairs) for t in settings.thresholds_m}, settings)


def _match_all_classes(pred: BoxTable, truth: BoxTable, settings: DetectionSettings) -> Matched:
    """Class by class frames are set apart, so that one matching serves all."""
    apart = len(CLASS_NAMES)
    pred_apart = BoxTable(pred.boxes, pred.frame * apart + pred.boxes.class_id)
    truth_apart = BoxTable(truth.boxes, truth.frame * apart + truth.boxes.class_id)
    pairs = near_pairs(pred_apart, truth_apart, max(settings.thresholds_m))
    matches = {t: match_greedily(pred_apart, truth_apart, t, pairs) for t in settings.thresholds_m}
    return Matched(pred, truth, matches, settings)


def in_range(matched: Matched, low_m: float, high_m: float) -> SubsetMetrics:
    """The result on truth at `low_m` <= range < `high_m` and on the predictions that belong there."""
    truth_range, pred_range = matched.truth.range_m, matched.pred.range_m
    keep_truth = (truth_range >= low_m) & (truth_range < high_m)
    keep_pred = (pred_range >= low_m) & (pred_range < high_m)
    return subset_metrics(matched, keep_truth, keep_pred)


def with_visibility(matched: Matched, low: float, high: float, range_m: float) -> SubsetMetrics:
    """The result on truth within `range_m` of which a share from `low` to below `high` is seen; only its recall means something."""
    visibility = matched.truth.boxes.visibility
    keep_truth = (visibility >= low) & (visibility < high) & (matched.truth.range_m < range_m)
    return subset_metrics(matched, keep_truth, np.zeros(len(matched.pred), dtype=bool))


def subset_metrics(matched: Matched, keep_truth: np.ndarray, keep_pred: np.ndarray) -> SubsetMetrics:
    """The result on the truth rows of one mask; unmatched predictions count where the other mask holds."""
    settings = matched.settings
    truth = matched.truth.with_ignore(matched.truth.boxes.ignore | ~keep_truth)
    taken = {t: _restrict(match, keep_truth, keep_pred) for t, match in matched.truth_of_pred.items()}
    curves: dict[float, Curve] = {t: matched_curve(matched.pred, truth, match, settings) for t, match in taken.items()}
    match = taken[settings.tp_threshold_m]
    num_truth = int((~truth.boxes.ignore).sum())
    f1, score, precision, recall = _best_f1(matched.pred.boxes.score, match, num_truth)
    hit = np.flatnonzero(match >= 0)
    sure = matched.pred.boxes.score[hit] >= score
    pred_hit, truth_hit = matched.pred.select(hit), matched.truth.select(match[hit])
    velocity_error = velocity_error_mps(pred_hit.boxes, truth_hit.boxes)
    moving = (truth_hit.speed_mps > MOVING_MPS) & ~np.isnan(velocity_error)
    return SubsetMetrics(
        num_truth=num_truth,
        ap={t: curve.ap(settings) if num_truth else float("nan") for t, curve in curves.items()},
        recall=len(hit) / num_truth if num_truth else float("nan"),
        best_f1=f1,
        best_f1_score=score,
        best_f1_precision=precision,
        best_f1_recall=recall,
        centre_error_m=mean_or_nan(centre_error_m(pred_hit.boxes, truth_hit.boxes)[sure]),
        size_error=mean_or_nan(size_error(pred_hit.boxes, truth_hit.boxes)[sure]),
        heading_error_rad=mean_or_nan(heading_error_rad(pred_hit.boxes, truth_hit.boxes)[sure]),
        velocity_error_mps=mean_or_nan(velocity_error[moving]),
        velocity_error_best_f1_mps=mean_or_nan(velocity_error[moving & sure]),
        num_moving=int(moving.sum()),
    )


def mean_or_nan(values: np.ndarray) -> float:
    """The mean, NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def _restrict(truth_of_pred: np.ndarray, keep_truth: np.ndarray, keep_pred: np.ndarray) -> np.ndarray:
    """The matches with everything outside the masks set to `IGNORED`."""
    is_match = truth_of_pred >= 0
    keeps = keep_pred & (truth_of_pred == FALSE_POSITIVE)
    if len(keep_truth):
        keeps = np.where(is_match, keep_truth[np.where(is_match, truth_of_pred, 0)], keeps)
    return np.where(keeps, truth_of_pred, IGNORED)


def _best_f1(score: np.ndarray, truth_of_pred: np.ndarray, num_truth: int) -> tuple[float, float, float, float]:
    """F1, score threshold, precision and recall at the best threshold; NaN without truth or predictions."""
    order = order_by_score(score)
    order = order[truth_of_pred[order] != IGNORED]
    if not len(order) or not num_truth:
        return float("nan"), float("nan"), float("nan"), float("nan")
    hits = np.cumsum(truth_of_pred[order] >= 0)
    last_of_score = np.append(score[order][1:] != score[order][:-1], True)
    f1 = np.where(last_of_score, 2 * hits / (np.arange(1, len(order) + 1) + num_truth), -1.0)
    best = int(np.argmax(f1))
    return float(f1[best]), float(score[order][best]), float(hits[best] / (best + 1)), float(hits[best] / num_truth)
