"""How sure is each box of a track? A logistic model of what was detected near it in time, fitted on tracks with known truth.

Gaps, weak beginnings and junk that hangs on to a good track get low probabilities frame by frame, so they can be left out one by one.
"""

import numpy as np
from scipy.optimize import minimize

from labeling.tracks.completion import unseen_s
from labeling.tracks.evidence import Evidence
from labeling.tracks.settings import ConfidenceSettings
from labeling.tracks.trajectory import SolvedTracks

FEATURES = ("local", "side", "own", "best", "length", "unseen", "range")
"""Names of the columns of `box_features`, each with its weight in `ConfidenceSettings`."""
LOCAL_S = 0.5
"""Width (standard deviation) of the window of the `local` feature."""
LOCAL_REACH = 3.0
"""So many widths far it is summed up."""
SIDE_S = 1.5
"""Reach of the `side` feature."""


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Log odds of probabilities, held within +-5."""
    return np.clip(np.log(np.maximum(probability, 1e-9)) - np.log(np.maximum(1 - probability, 1e-9)), -5, 5)


def box_features(tracks: SolvedTracks, evidence: Evidence) -> np.ndarray:
    """(F, 7) what the tracks' records say about each of their boxes, see `ConfidenceSettings` for each."""
    life, measured = tracks.life, tracks.is_measured
    score = np.where(measured, evidence.score[tracks.detection], 0.0) if len(evidence) else np.zeros(0)
    own_s = evidence.time_s[tracks.frame]
    total, norm, before, after = score.copy(), np.ones(len(score)), score.copy(), score.copy()
    for a, b, apart_s in life.neighbours(own_s, LOCAL_REACH * LOCAL_S):
        near = np.exp(-((apart_s / LOCAL_S) ** 2) / 2)
        total[a] += near * score[b]
        total[b] += near * score[a]
        norm[a] += near
        norm[b] += near
        beside = apart_s <= SIDE_S
        a, b = a[beside], b[beside]
        after[a], before[b] = np.maximum(after[a], score[b]), np.maximum(before[b], score[a])
    distance_m = np.hypot(*(tracks.box_world[:, :2] - evidence.world_from_ego[tracks.frame, :2, 3]).T)
    columns = (
        log_odds(total / norm),
        log_odds(np.minimum(before, after)),
        log_odds(score),
        log_odds(best_scores(tracks, evidence))[life.owner],
        np.log1p(tracks.seen.count)[life.owner],
        np.sqrt(unseen_s(tracks, evidence.time_s)),
        distance_m / 10,
    )
    return np.stack(columns, axis=1)


def best_scores(tracks: SolvedTracks, evidence: Evidence) -> np.ndarray:
    """(K,) mean of each track's best detections: a quarter of them, at least three where there are so many."""
    seen, score = tracks.seen, evidence.score[tracks.row]
    order = np.lexsort((-score, seen.owner))
    few = np.minimum(np.maximum(3, seen.count // 4), seen.count)
    among = np.arange(seen.total) - seen.first[seen.owner] < few[seen.owner]
    return seen.sums(np.where(among, score[order], 0.0)) / few


def logistic(odds: np.ndarray) -> np.ndarray:
    """Probabilities of log odds."""
    return 1 / (1 + np.exp(-np.clip(odds, -30, 30)))


def box_probability(features: np.ndarray, settings: ConfidenceSettings) -> np.ndarray:
    """(F,) probability that each box is right, from its features (F, 7)."""
    weights = np.array([getattr(settings, f"{name}_weight") for name in FEATURES])
    return logistic(settings.bias + features @ weights)


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
