"""How sure is a track, and each of its boxes? A logistic model of a track's record, calibrated on tracks with known truth."""

import numpy as np

from labeling.completion import unseen_s
from labeling.evidence import Evidence
from labeling.settings import ConfidenceSettings, GroupSettings
from labeling.trajectory import SolvedTrack

FEATURES = ("best", "mean", "length", "hit", "range")
"""Names of the columns of `track_features`, each with its weight in `ConfidenceSettings`."""


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Log odds of probabilities, held within +-6."""
    return np.clip(np.log(np.maximum(probability, 1e-9)) - np.log(np.maximum(1 - probability, 1e-9)), -6, 6)


def track_features(track: SolvedTrack, evidence: Evidence) -> np.ndarray:
    """(5,) what a track's record says, see `ConfidenceSettings` for each."""
    score = np.sort(evidence.score[track.chain])[::-1]
    best = score[: max(3, len(score) // 4)].mean()
    alive = np.flatnonzero(track.is_measured)
    hit = len(alive) / (alive[-1] - alive[0] + 1)
    distance_m = np.linalg.norm(track.box_world[:, :2] - evidence.world_from_ego[track.frames, :2, 3], axis=1).min()
    return np.array([log_odds(best), log_odds(score.mean()), np.log1p(len(score)), hit, distance_m / 10])


def track_log_odds(features: np.ndarray, settings: ConfidenceSettings) -> np.ndarray:
    """Log odds (...) of features (..., 5)."""
    return settings.bias + features @ np.array([getattr(settings, f"{name}_weight") for name in FEATURES])


def track_probability(track: SolvedTrack, evidence: Evidence, settings: GroupSettings) -> float:
    """Probability that the track's object is there."""
    odds = track_log_odds(track_features(track, evidence), settings.confidence)
    return float(1 / (1 + np.exp(-np.clip(odds, -30, 30))))


def box_probability(track: SolvedTrack, probability: float, time_s: np.ndarray, settings: GroupSettings) -> np.ndarray:
    """(F,) probability of each box: the track's, less the further in time the nearest detection is."""
    return probability * np.exp(-unseen_s(track, time_s) / max(settings.confidence.gap_s, 1e-6))
