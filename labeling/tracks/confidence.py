"""How sure is each box of a track? A logistic model of what was detected near it in time, fitted on tracks with known truth.

Gaps, weak beginnings and junk that hangs on to a good track get low probabilities frame by frame, so they can be left out one by one.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from labeling.tracks.completion import seen_around, unseen_s
from labeling.tracks.evidence import Evidence
from labeling.tracks.settings import ConfidenceSettings
from labeling.tracks.trajectory import SolvedTracks

FEATURES = ("local", "side", "own", "best", "length", "unseen", "moving", "range", "hidden")
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


@dataclass(frozen=True)
class Surroundings:
    """What was detected around each frame row of the tracks in time."""

    score: np.ndarray
    """(F,) of the row's own detection, 0 without one."""
    local: np.ndarray
    """(F,) mean score nearby, rows without detection counting 0."""
    sides: np.ndarray
    """(F,) the best score within `SIDE_S` before the row (in a gap: before the gap) or after it, whichever side is worse."""


def surroundings(tracks: SolvedTracks, evidence: Evidence) -> Surroundings:
    """Scores around every frame row."""
    life, own_s = tracks.life, evidence.time_s[tracks.frame]
    score = np.where(tracks.is_measured, evidence.score[tracks.detection], 0.0) if len(evidence) else np.zeros(0)
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
    earlier, later = seen_around(tracks)
    sides = np.minimum(np.where(earlier >= 0, before[earlier], 0.0), np.where(later >= 0, after[later], 0.0))
    return Surroundings(score, total / norm, sides)


def box_features(tracks: SolvedTracks, evidence: Evidence, around: Surroundings, hidden: np.ndarray | None = None) -> np.ndarray:
    """(F, 9) what the tracks' records say about each of their boxes, see `ConfidenceSettings` for each.

    `hidden` (F,) is the share of each box that nearer boxes cover; nothing where it is not known yet.
    """
    owner = tracks.life.owner
    distance_m = np.hypot(*(tracks.box_world[:, :2] - evidence.world_from_ego[tracks.frame, :2, 3]).T)
    columns = (
        log_odds(around.local),
        log_odds(around.sides),
        log_odds(around.score),
        log_odds(best_scores(tracks, evidence))[owner],
        np.log1p(tracks.seen.count)[owner],
        np.sqrt(unseen_s(tracks, evidence.time_s)),
        ~tracks.is_static[owner],
        distance_m / 10,
        np.zeros(len(owner)) if hidden is None else hidden,
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
    """(F,) probability that each box is right, from its features (F, 9)."""
    weights = np.array([getattr(settings, f"{name}_weight") for name in FEATURES])
    return logistic(settings.bias + features @ weights)


def fitted_weights(
    features: np.ndarray, is_right: np.ndarray, ridge: float = 1.0, towards: dict[str, float] | None = None
) -> dict[str, float]:
    """`bias` and `<feature>_weight` of `ConfidenceSettings` that make known boxes (R, 9), (R,) bool most likely.

    Weights are drawn to those of `towards`, or to 0, the more the larger `ridge` is.
    """
    usual = np.array([0.0] + [0.0 if towards is None else towards[f"{name}_weight"] for name in FEATURES])
    design = np.concatenate([np.ones((len(features), 1)), features], axis=1)
    sign = np.where(is_right, 1.0, -1.0)
    penalty = ridge * np.array([0.0] + [1.0] * features.shape[1])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (design @ weights)
        slope = -sign * logistic(-margin)
        value = np.logaddexp(0, -margin).sum() + (penalty * (weights - usual) ** 2).sum() / 2
        return float(value), design.T @ slope + penalty * (weights - usual)

    weights = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x
    return dict(zip(("bias", *(f"{name}_weight" for name in FEATURES)), weights.round(3).tolist(), strict=True))
