"""Which lifted tracks are objects at all, and how sure is each of their boxes?"""

import numpy as np
from scipy.special import erf

from labeling.lifting.explaining import Explained, Scene
from labeling.tracks.confidence import log_odds, logistic
from labeling.tracks.evidence import Evidence
from labeling.tracks.settings import ConfidenceSettings, TrackingSettings
from scenes.geometry import invert_rigid

OWN_MARGIN_M = 0.4
"""What seems to lie within the ego vehicle, or this near to it, is a piece of it: others cannot be there."""
NEAR_M = 2.0
"""A box is right if its centre lies within this distance of the truth."""
FEATURES = ("score", "length", "misfit", "range")
"""Columns of `track_features`, each with its weight in `JudgeSettings`."""


def believable(tracks: list[Explained], scene: Scene) -> list[Explained]:
    """The tracks that some body explains, within reach."""
    judge = scene.settings.judge
    kept = []
    for track in tracks:
        offset = track.box_world[:, :2] - scene.world_from_ego[track.frames, :2, 3]
        far = np.hypot(*offset.T).min() > judge.farthest_m
        if not far and track.misfit < judge.misfit:
            kept.append(track)
    return kept


def own_pieces(scene: Scene, chains: list[np.ndarray], body: np.ndarray) -> np.ndarray:
    """(B,) bool: chains that are best explained (bodies (B, 7), clearance left aside) by something inside the ego vehicle."""
    judge, margin = scene.settings.judge, OWN_MARGIN_M
    own = np.zeros(len(chains), dtype=bool)
    for k, chain in enumerate(chains):
        ego_from_world = invert_rigid(scene.world_from_ego[np.unique(scene.observations.frame[chain])])
        ahead, left = np.median(ego_from_world[:, :2, :2] @ body[k, :2] + ego_from_world[:, :2, 3], axis=0)
        own[k] = -judge.ego_rear_m - margin < ahead < judge.ego_front_m + margin and abs(left) < judge.ego_half_width_m + margin
    return own


def track_features(track: Explained, scene: Scene) -> np.ndarray:
    """(S, 4) what speaks for a track being a real object, at each of its frames: see `JudgeSettings`."""
    score = np.sort(scene.observations.score[track.rows])[::-1]
    best = score[: max(3, len(score) // 3)].mean()
    seen_s = np.unique(scene.observations.frame[track.rows]).size * np.median(np.diff(scene.time_s)) if len(scene.time_s) > 1 else 0.0
    offset = track.box_world[:, :2] - scene.world_from_ego[track.frames, :2, 3]
    everywhere = np.ones(len(track.frames))
    columns = (log_odds(best) * everywhere, np.log1p(2 * seen_s) * everywhere, track.misfit * everywhere, np.hypot(*offset.T) / 10)
    return np.stack(columns, axis=1)


def near_probability(covariance: np.ndarray, radius_m: float = NEAR_M) -> np.ndarray:
    """(S,) probability that a place with covariance (S, 2, 2) lies within `radius_m` of the truth.

    Exact for equal axes; for unequal ones the two axes' Gaussians are integrated over a square of the same area.
    """
    half = radius_m * np.sqrt(np.pi) / 2
    deviation = np.sqrt(np.maximum(np.linalg.eigvalsh(covariance), 1e-9))
    return np.prod(erf(half / (np.sqrt(2) * deviation)), axis=-1)


def box_probabilities(track: Explained, scene: Scene) -> np.ndarray:
    """(S,) probability that each box of a track is right: that there is an object, times that its place is known well enough."""
    judge = scene.settings.judge
    weights = np.array([getattr(judge, f"{name}_weight") for name in FEATURES])
    exists = logistic(judge.bias + track_features(track, scene) @ weights)
    return exists * near_probability(track.covariance * judge.spread_factor**2)


def score_for(probability: np.ndarray, confidence: ConfidenceSettings) -> np.ndarray:
    """Scores that the tracking's confidence model turns into these probabilities where all of a track's detections have them."""
    weight = confidence.local_weight + confidence.side_weight + confidence.own_weight + confidence.best_weight
    return logistic((log_odds(probability) - confidence.bias) / max(weight, 1e-6))


def lifted_evidence(
    tracks: list[Explained], scene: Scene, timestamps_ns: np.ndarray, tracking: TrackingSettings, source: np.ndarray
) -> Evidence:
    """Detections of all tracks in the frames in which they were seen, with covariances, scored for the tracking that follows.

    `source` (N,) says who saw each rectangle.
    """
    confidence = {class_id: group.confidence for group in tracking.groups for class_id in group.class_ids}
    rows = []
    for track in tracks:
        seen = np.isin(track.frames, scene.observations.frame[track.rows])
        score = score_for(box_probabilities(track, scene)[seen], confidence[track.class_id])
        told = np.full(seen.sum(), "+".join(np.unique(source[track.rows])), dtype=object)
        same = (np.full(seen.sum(), value) for value in (track.class_id, track.velocity_std_mps))
        rows.append((track.frames[seen], track.box_world[seen], *same, score, track.covariance[seen], told))
    whole = np.zeros(0, dtype=np.int64)
    nothing = (whole, np.zeros((0, 9)), whole, np.zeros(0), np.zeros(0), np.zeros((0, 2, 2)), np.zeros(0, dtype=object))
    frame, box, class_id, velocity_std, score, covariance, told = (np.concatenate(part) for part in zip(nothing, *rows, strict=True))
    order = np.argsort(frame, kind="stable")
    return Evidence(
        timestamps_ns,
        scene.world_from_ego,
        frame[order],
        box[order],
        class_id[order],
        score[order],
        covariance[order],
        velocity_std[order],
        told[order],
    )
