"""How far is each labelled box from the truth, and how true are the probabilities on the whole?"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from labeling.confidence.features import GROUP_OF_CLASS, BoxRows
from scenes.boxes import CENTRE_DISTANCES_M
from scenes.layers import LabelLayer

MIN_VISIBILITY = 0.05
"""Truth that the cameras see less of counts neither for nor against a box."""
BINS = 10


def distances_to_truth(rows: BoxRows, truth: LabelLayer) -> np.ndarray:
    """(F,) metres on the ground from each box to the true one of its kind that is its partner, one to one in each frame.

    Infinite where a box has none within the largest of `CENTRE_DISTANCES_M`; NaN where its partner is hidden or its frame unlabelled.
    """
    distance_m = np.full(len(rows), np.nan)
    reach_m = max(CENTRE_DISTANCES_M)
    for frame in np.unique(rows.frame).tolist():
        boxes_world = truth.boxes_world.get(frame)
        if boxes_world is None:
            continue
        mine = np.flatnonzero(rows.frame == frame)
        apart_m = np.linalg.norm(rows.box_world[mine][:, None, :2] - boxes_world.box[None, :, :2], axis=-1)
        kin = rows.group[mine][:, None] == GROUP_OF_CLASS[boxes_world.class_id][None]
        gain = np.where(kin & (apart_m < reach_m), reach_m - apart_m, 0.0)
        hidden = boxes_world.ignore | (boxes_world.visibility < MIN_VISIBILITY)
        distance_m[mine] = np.inf
        for i, j in zip(*linear_sum_assignment(-gain), strict=True):
            if gain[i, j] > 0:
                distance_m[mine[i]] = np.nan if hidden[j] else apart_m[i, j]
    return distance_m


def reliability(probability: np.ndarray, is_right: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of equal bins: number of boxes, mean probability and share of right ones (NaN where the bin is empty)."""
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    return count, np.bincount(index, probability, bins) / filled, np.bincount(index, is_right.astype(np.float64), bins) / filled


def calibration_error(probability: np.ndarray, is_right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: |mean probability - share of right ones| of each bin, weighted by its boxes; NaN without boxes."""
    count, said, found = reliability(probability, is_right, bins)
    return float(np.nansum(count * np.abs(said - found)) / len(probability)) if len(probability) else float("nan")
