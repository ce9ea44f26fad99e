"""How good are labels as labels? Errors, found and false boxes, and duplicates of a layer that has no score threshold to tune."""

from dataclasses import dataclass

import numpy as np

from evaluation.breakdown import MOVING_MPS, mean_or_nan
from evaluation.detection import HALF_TURN_CLASSES, countable_truth, of_class
from evaluation.matching import (
    FALSE_POSITIVE,
    IGNORED,
    BoxTable,
    centre_error_m,
    heading_error_rad,
    match_greedily,
    near_pairs,
    size_error,
    velocity_error_mps,
)
from scenes.boxes import Boxes


@dataclass(frozen=True)
class LabelQuality:
    """Every predicted box counts, whatever its score; NaN where nothing is to be averaged."""

    num_truth: int
    num_labels: int
    """Predicted boxes that count: not those on ignored truth."""
    num_matched: int
    num_duplicates: int
    """Unmatched boxes within the threshold of truth that another box took."""
    recall: float
    precision: float
    centre_error_m: float
    """Mean over matched boxes, as are the next three."""
    centre_error_p95_m: float
    """95 % of the matched boxes are nearer than this."""
    heading_error_rad: float
    size_error: float
    """1 - IoU of the boxes laid on each other."""
    velocity_error_mps: float
    """Mean over matched boxes of known velocity."""
    velocity_error_moving_mps: float
    """Mean over those whose truth moves faster than 1 m/s."""


def label_quality(
    pred_ego: list[Boxes],
    truth_ego: list[Boxes],
    classes: tuple[str, ...],
    range_m: tuple[float, float] = (0.0, 50.0),
    threshold_m: float = 2.0,
    min_visibility: float = 1e-3,
) -> LabelQuality:
    """Quality of the boxes of some classes (which count as one) in frames given in their ego frames.

    Matched boxes belong to the range of their truth, unmatched ones to their own, as in `evaluation.breakdown`.
    """
    pred = of_class(BoxTable.of(pred_ego), classes)
    truth = of_class(countable_truth(BoxTable.of(truth_ego), min_visibility), classes)
    pairs = near_pairs(pred, truth, threshold_m)
    truth_of_pred = match_greedily(pred, truth, threshold_m, pairs)
    matched = truth_of_pred >= 0
    place_m = pred.range_m
    place_m[matched] = truth.range_m[truth_of_pred[matched]]
    here = (place_m >= range_m[0]) & (place_m < range_m[1]) & (truth_of_pred != IGNORED)
    counted = (truth.range_m >= range_m[0]) & (truth.range_m < range_m[1]) & ~truth.boxes.ignore
    near_truth = np.zeros(len(pred), dtype=bool)
    near_truth[pairs.pred[(pairs.distance_m < threshold_m) & ~truth.boxes.ignore[pairs.truth]]] = True
    hit = np.flatnonzero(matched & here)
    num_truth, num_labels = int(counted.sum()), int(here.sum())
    duplicates = here & (truth_of_pred == FALSE_POSITIVE) & near_truth
    found, true = pred.select(hit).boxes, truth.select(truth_of_pred[hit])
    centre_m = centre_error_m(found, true.boxes)
    velocity_mps = velocity_error_mps(found, true.boxes)
    known = ~np.isnan(velocity_mps)
    return LabelQuality(
        num_truth=num_truth,
        num_labels=num_labels,
        num_matched=len(hit),
        num_duplicates=int(duplicates.sum()),
        recall=len(hit) / num_truth if num_truth else float("nan"),
        precision=len(hit) / num_labels if num_labels else float("nan"),
        centre_error_m=mean_or_nan(centre_m),
        centre_error_p95_m=float(np.percentile(centre_m, 95)) if len(hit) else float("nan"),
        heading_error_rad=mean_or_nan(heading_error_rad(found, true.boxes, HALF_TURN_CLASSES)),
        size_error=mean_or_nan(size_error(found, true.boxes)),
        velocity_error_mps=mean_or_nan(velocity_mps[known]),
        velocity_error_moving_mps=mean_or_nan(velocity_mps[known & (true.speed_mps > MOVING_MPS)]),
    )
