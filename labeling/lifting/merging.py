"""Which lifted tracks are one object, seen by several cameras or again after a gap? Near enough, and as well explained together."""

from dataclasses import dataclass

import numpy as np

from labeling.lifting.explaining import Explained, Scene, class_votes, explain, explained_standing, stand
from labeling.lifting.fitting import Fit
from labeling.tracks.overlap import ground_iou

GOOD_TOGETHER = 2.0
"""Misfit that any joint explanation may have."""
ONE_THING_SHARE = 0.6
"""Rectangles of one picture that share this much of the smaller one may be around one thing."""
OVERLAP_IOU = 0.1
"""Seen from above."""
STANDS_ON_S = 1.0
"""A driving track is followed beyond its ends for at most this long when it is compared."""


@dataclass(frozen=True)
class Pair:
    """Two tracks that may be one, by numbers, with their mean distance in standard deviations."""

    a: int
    b: int
    sigma: float


def places_at(track: Explained, scene: Scene, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (F, 2) and covariances (F, 2, 2) of a track at frames within or beyond its own, with its end's velocity."""
    k = np.clip(frames - track.frames[0], 0, len(track.frames) - 1)
    beyond_s = scene.time_s[frames] - scene.time_s[track.frames[k]]
    place = track.box_world[k, :2] + track.box_world[k, 7:9] * beyond_s[:, None]
    grown = 0.0 if track.is_static else 1.0
    return place, track.covariance[k] + (grown * beyond_s**2)[:, None, None] * np.eye(2)


def shared_pictures(a: Explained, b: Explained, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The observations (S,), (S,) of both tracks in the pictures in which both were seen."""
    seen = scene.observations
    width = int(seen.camera.max()) + 1
    pictures_a, pictures_b = (seen.frame[t.rows] * width + seen.camera[t.rows] for t in (a, b))
    _, i, j = np.intersect1d(pictures_a, pictures_b, return_indices=True)
    return a.rows[i], b.rows[j]


def exclude_each_other(a: Explained, b: Explained, scene: Scene) -> bool:
    """Whether both were seen in one and the same picture as rectangles apart (not as two rectangles around one thing)."""
    i, j = shared_pictures(a, b, scene)
    if not len(i):
        return False
    p, q = scene.observations.edges_px[i], scene.observations.edges_px[j]
    common = np.prod(np.maximum(np.minimum(p[:, 2:], q[:, 2:]) - np.maximum(p[:, :2], q[:, :2]), 0), axis=1)
    smaller = np.minimum(*(np.prod(box[:, 2:] - box[:, :2], axis=1) for box in (p, q)))
    return float(np.median(common / np.maximum(smaller, 1e-9))) < ONE_THING_SHARE


def distance_sigma(a: Explained, b: Explained, scene: Scene) -> float:
    """Mean distance of two tracks, in standard deviations, over their common frames or in the gap between them; inf beyond reach."""
    merge = scene.settings.merge
    first, last = max(a.frames[0], b.frames[0]), min(a.frames[-1], b.frames[-1])
    if first > last:
        first, last = last, first
        gap_s = scene.time_s[last] - scene.time_s[first]
        if gap_s > merge.gap_s or (gap_s > STANDS_ON_S and not (a.is_static and b.is_static)):
            return np.inf
    frames = np.unique(np.linspace(first, last, 5).round().astype(int))
    (place_a, cov_a), (place_b, cov_b) = places_at(a, scene, frames), places_at(b, scene, frames)
    off = place_a - place_b
    range_m = np.hypot(*((place_a + place_b) / 2 - scene.world_from_ego[frames, :2, 3]).T)
    if (np.hypot(*off.T) > merge.reach_m + merge.reach_per_m * range_m).any():
        return np.inf
    squared = np.einsum("fi,fij,fj->f", off, np.linalg.inv(cov_a + cov_b + 0.3**2 * np.eye(2)), off)
    return float(np.sqrt(squared.mean()))


def candidate_pairs(tracks: list[Explained], scene: Scene) -> list[Pair]:
    """Pairs of one kind that lie near each other and never share a picture, nearest first."""
    pairs = []
    for a in range(len(tracks)):
        for b in range(a + 1, len(tracks)):
            if tracks[a].kind != tracks[b].kind:
                continue
            sigma = distance_sigma(tracks[a], tracks[b], scene)
            if sigma < scene.settings.merge.sigma and not exclude_each_other(tracks[a], tracks[b], scene):
                pairs.append(Pair(a, b, sigma))
    return sorted(pairs, key=lambda pair: pair.sigma)


@dataclass(frozen=True)
class Together:
    """Two tracks tried as one standing object."""

    rows: np.ndarray
    class_id: int
    fit: Fit
    """One row."""


def stand_together(pairs: list[Pair], tracks: list[Explained], scene: Scene) -> list[Together]:
    """The rectangles of each pair explained as one standing object of either's class, all pairs at once."""
    rows = [_stronger_in_shared(tracks[pair.a], tracks[pair.b], scene) for pair in pairs]
    tried = [
        (k, track.body, class_id)
        for k, pair in enumerate(pairs)
        for track in (tracks[pair.a], tracks[pair.b])
        for class_id in {tracks[pair.a].class_id, tracks[pair.b].class_id}
    ]
    owner, class_id = np.array([k for k, _, _ in tried]), np.array([c for _, _, c in tried])
    fit = stand(scene, [rows[k] for k in owner], class_id, np.stack([body for _, body, _ in tried]))
    votes = [class_votes(scene, chain) for chain in rows]
    cost = fit.cost - 2 * np.log(np.array([votes[k][c] for k, c in zip(owner, class_id, strict=True)]) + 1e-3)
    found = []
    for k, chain in enumerate(rows):
        mine = np.flatnonzero(owner == k)
        best = int(mine[np.argmin(cost[mine])])
        found.append(
            Together(
                chain,
                int(class_id[best]),
                fit.take(np.array([best])),
            )
        )
    return found


def joined(a: Explained, b: Explained, both: Together, scene: Scene) -> Explained | None:
    """Two tracks as one object, if that explains them nearly as well; whether it drives is asked where standing does not do."""
    limit, worst = a.cost + b.cost + scene.settings.merge.worse_chi2, max(a.misfit, b.misfit, GOOD_TOGETHER)
    standing = explained_standing(scene, both.rows, both.class_id, both.fit, 0)
    if a.is_static and b.is_static:
        if standing.cost < limit and standing.misfit <= worst:
            return standing
        if np.intersect1d(a.frames, b.frames).size:
            return None
    one = explain(scene, both.rows, both.class_id, both.fit, 0)
    return one if one.cost < limit and one.misfit <= worst else None


def _stronger_in_shared(a: Explained, b: Explained, scene: Scene) -> np.ndarray:
    """All observations of both, one a picture."""
    i, j = shared_pictures(a, b, scene)
    score = scene.observations.score
    weaker = np.where(score[i] >= score[j], j, i)
    return np.setdiff1d(np.concatenate([a.rows, b.rows]), weaker)


def without_overlaps(tracks: list[Explained], scene: Scene) -> list[Explained]:
    """Two bodies cannot be in one place: of two tracks that overlap most of their common time, the less seen one goes.

    Tracks that were seen apart in one picture both stay: their places are wrong, not they.
    """
    strength = [float(scene.observations.score[track.rows].sum()) for track in tracks]
    kept: list[Explained] = []
    for k in np.argsort(strength)[::-1]:
        if not any(_overlap(tracks[k], other) and not exclude_each_other(tracks[k], other, scene) for other in kept):
            kept.append(tracks[k])
    return kept


def _overlap(a: Explained, b: Explained) -> bool:
    frames = np.intersect1d(a.frames, b.frames)
    if a.kind != b.kind or 2 * len(frames) < min(len(a.frames), len(b.frames)):
        return False
    box_a, box_b = (track.box_world[frames - track.frames[0]] for track in (a, b))
    return bool((ground_iou(box_a, box_b) > OVERLAP_IOU).mean() > 0.5)


def merge_tracks(tracks: list[Explained], scene: Scene, rounds: int = 3) -> list[Explained]:
    """The tracks with all pairs joined that are explained together nearly as well as apart."""
    for _ in range(rounds):
        pairs = candidate_pairs(tracks, scene)
        if not pairs:
            return tracks
        used: set[int] = set()
        merged: list[Explained] = []
        for pair, both in zip(pairs, stand_together(pairs, tracks, scene), strict=True):
            if pair.a in used or pair.b in used:
                continue
            one = joined(tracks[pair.a], tracks[pair.b], both, scene)
            if one is not None:
                merged.append(one)
                used |= {pair.a, pair.b}
        if not merged:
            return tracks
        tracks = [track for k, track in enumerate(tracks) if k not in used] + merged
    return tracks
