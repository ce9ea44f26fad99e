"""Does an object stand all its life? The evidence must be content with one place."""

import numpy as np

from labeling.tracks.kalman import invert_2x2
from labeling.tracks.observations import Observations
from labeling.tracks.settings import GroupSettings
from labeling.tracks.smoothing import robust_places
from scenes.boxes import Box3D


def is_static(seen: Observations, settings: GroupSettings) -> np.ndarray:
    """(K,) whether the evidence is content with an object that never moves.

    Velocities that the source gives, if any, must not agree on a motion. Nine tenths of the evidence (by weight) must lie within the
    class's spread around one place, its ends must not have left that place, and between its first and its second half it either
    travelled too little to be told from noise or was slower than the class's limit. The noise of neighbouring detections is alike: at
    most four count as independent.
    """
    motion, rows = settings.motion, seen.seen
    variance = np.trace(invert_2x2(seen.information)[0], axis1=1, axis2=2)
    noise_m = np.sqrt(rows.quantile(variance, np.ones(rows.total)))
    spread_m = np.maximum(motion.static_spread_m, 1.5 * noise_m)
    place = robust_places(rows, seen.box[:, :2], seen.information)
    apart_m = np.hypot(*(seen.box[:, :2] - place[rows.owner]).T)
    gathered = rows.quantile(apart_m, seen.weight, 0.9) <= spread_m
    ends_m = np.stack([np.hypot(*(end - place).T) for end in _ends(seen)]).max(axis=0)
    moved_m, between_s = _halves(seen)
    independent = np.minimum(rows.count / 2, 4)
    seeming_mps = motion.pose_error * rows.sums(seen.ego_mps[seen.slot]) / rows.count
    unmoved = (moved_m < (motion.static_speed_mps + seeming_mps) * between_s) | (moved_m < 2.5 * noise_m * np.sqrt(2 / independent))
    static = gathered & (ends_m <= spread_m) & unmoved
    return ((rows.count < 2) | static) & ~_agreed_to_move(seen, settings)


def _agreed_to_move(seen: Observations, settings: GroupSettings) -> np.ndarray:
    """(K,) whether the source's velocities, where all detections have one, agree on a motion."""
    rows, velocity = seen.seen, seen.box[:, Box3D.VX : Box3D.VY + 1]
    known = np.asarray(np.isfinite(velocity).all(axis=1))
    mean = rows.sums(seen.weight[:, None] * np.where(known[:, None], velocity, 0.0)) / rows.sums(seen.weight)[:, None]
    std = rows.sums(seen.weight * seen.velocity_std_mps) / rows.sums(seen.weight)
    limit = np.maximum(2 * settings.motion.static_speed_mps, std / np.sqrt(np.minimum(rows.count, 4)))
    return ~rows.any(~known) & (np.hypot(*mean.T) > limit)


def _ends(seen: Observations) -> tuple[np.ndarray, np.ndarray]:
    """(K, 2) twice: the medians of the first and of the last few detections, the weak ones left out."""
    rows, even = seen.seen, np.ones(seen.seen.total)
    strong = seen.weight >= 0.5 * rows.quantile(seen.weight, even)[rows.owner]
    number = rows.running(strong.astype(np.float64))
    count = rows.sums(strong.astype(np.float64))
    few = np.maximum(3, count // 10)[rows.owner]
    early = strong & (number <= few)
    late = strong & (number > count[rows.owner] - few)
    return tuple(
        np.stack([rows.quantile(seen.box[:, axis], np.where(part, 1.0, 0.0)) for axis in (0, 1)], axis=1) for part in (early, late)
    )  # type: ignore[return-value]


def _halves(seen: Observations) -> tuple[np.ndarray, np.ndarray]:
    """(K,) twice: how far apart, in metres and seconds, the weighted means of the first and of the second half of the evidence are."""
    rows = seen.seen
    last = np.zeros(rows.total, dtype=bool)
    last[rows.end - 1] = True
    begin = np.zeros(rows.total, dtype=bool)
    begin[rows.first] = True
    first = ((rows.running(seen.weight) <= rows.sums(seen.weight)[rows.owner] / 2) | begin) & ~last
    spacetime = np.column_stack([seen.box[:, :2], seen.time_s[seen.slot]])
    means = []
    for part in (first, ~first):
        weight = np.where(part, seen.weight, 0.0)
        means.append(rows.sums(weight[:, None] * spacetime) / np.maximum(rows.sums(weight), 1e-12)[:, None])
    moved = means[1] - means[0]
    return np.hypot(moved[:, 0], moved[:, 1]), moved[:, 2]
