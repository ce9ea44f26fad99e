"""How sure is each box of a track? A logistic model of what was detected near it in time, fitted on tracks with known truth.

Gaps, weak beginnings and junk that hangs on to a good track get low probabilities frame by frame, so they can be left out one by one.
"""

import numpy as np
from scipy.optimize import minimize

from labeling.tracks.completion import unseen_s
from labeling.tracks.evidence import Evidence
from labeling.tracks.settings import ConfidenceSettings
from labeling.tracks.trajectory import SolvedTrack

FEATURES = ("local", "side", "own", "best", "length", "unseen", "range")
"""Names of the columns of `box_features`, each with its weight in `ConfidenceSettings`."""
LOCAL_S = 0.5
"""Width (standard deviation) of the window of the `local` feature."""
SIDE_S = 1.5
"""Reach of the `side` feature."""


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Log odds of probabilities, held within +-5."""
    return np.clip(np.log(np.maximum(probability, 1e-9)) - np.log(np.maximum(1 - probability, 1e-9)), -5, 5)


def box_features(track: SolvedTrack, evidence: Evidence) -> np.ndarray:
    """(F, 7) what a track's record says about each of its boxes, see `ConfidenceSettings` for each."""
    score = np.zeros(len(track.frames))
    measured = track.is_measured
    score[measured] = evidence.score[track.detection[measured]]
    own_s = evidence.time_s[track.frames]
    apart_s = own_s[None] - own_s[:, None]
    kernel = np.exp(-((apart_s / LOCAL_S) ** 2) / 2)
    local = kernel @ score / kernel.sum(axis=1)
    before = np.where((apart_s <= 0) & (apart_s >= -SIDE_S), score[None], 0.0).max(axis=1)
    after = np.where((apart_s >= 0) & (apart_s <= SIDE_S), score[None], 0.0).max(axis=1)
    best = np.sort(score[measured])[::-1]
    best = best[: max(3, len(best) // 4)].mean()
    distance_m = np.linalg.norm(track.box_world[:, :2] - evidence.world_from_ego[track.frames, :2, 3], axis=1)
    everywhere = np.ones(len(score))
    columns = (
        log_odds(local),
        log_odds(np.minimum(before, after)),
        log_odds(score),
        everywhere * log_odds(best),
        everywhere * np.log1p(measured.sum()),
        np.sqrt(unseen_s(track, evidence.time_s)),
        distance_m / 10,
    )
    return np.stack(columns, axis=1)


def logistic(odds: np.ndarray) -> np.ndarray:
    """Probabilities of log odds."""
    return 1 / (1 + np.exp(-np.clip(odds, -30, 30)))


def box_probability(track: SolvedTrack, evidence: Evidence, settings: ConfidenceSettings) -> np.ndarray:
    """(F,) probability that each box is right."""
    weights = np.array([getattr(settings, f"{name}_weight") for name in FEATURES])
    return logistic(settings.bias + box_features(track, evidence) @ weights)


def fitted_weights(features: np.ndarray, is_right: np.ndarray, ridge: float = 1.0) -> dict[str, float]:
    """`bias` and `<feature>_weight` of `ConfidenceSettings` that make known boxes (R, 7), (R,) bool most likely."""
    design = np.concatenate([np.ones((len(features), 1)), features], axis=1)
    sign = np.where(is_right, 1.0, -1.0)
    penalty = ridge * np.array([0.0] + [1.0] * features.shape[1])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (design @ weights)
        slope = -sign * logistic(-margin)
        value = np.logaddexp(0, -margin).sum() + (penalty * weights**2).sum() / 2
        return float(value), design.T @ slope + penalty * weights

    weights = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x
    return dict(zip(("bias", *(f"{name}_weight" for name in FEATURES)), weights.round(3).tolist(), strict=True))
