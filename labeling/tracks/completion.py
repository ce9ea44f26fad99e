"""Which frames of a track become labels? Gaps are filled and ends carried on, as far as the sensors look and the motion is known."""

from itertools import pairwise

import numpy as np

from labeling.tracks.evidence import Evidence, InView
from labeling.tracks.settings import GroupSettings
from labeling.tracks.trajectory import SolvedTrack


def track_frames(evidence: Evidence, chain: np.ndarray, settings: GroupSettings) -> np.ndarray:
    """The consecutive frames a track is solved on: from its first to its last detection and `extend_s` beyond both."""
    reach_s = settings.completion.extend_s if len(chain) > 2 else 0.0
    first_s, last_s = evidence.time_s[evidence.frame[chain[[0, -1]]]]
    begin = np.searchsorted(evidence.time_s, first_s - reach_s - 1e-6)
    end = np.searchsorted(evidence.time_s, last_s + reach_s + 1e-6)
    return np.arange(begin, end, dtype=np.int64)


def unseen_s(track: SolvedTrack, time_s: np.ndarray) -> np.ndarray:
    """(F,) seconds from each frame of the track to its nearest detection."""
    own_s = time_s[track.frames]
    seen_s = own_s[track.is_measured]
    after = np.searchsorted(seen_s, own_s).clip(max=len(seen_s) - 1)
    before = np.maximum(after - 1, 0)
    return np.minimum(np.abs(seen_s[after] - own_s), np.abs(seen_s[before] - own_s))


def kept_frames(track: SolvedTrack, probability: np.ndarray, evidence: Evidence, in_view: InView, settings: GroupSettings) -> np.ndarray:
    """(F,) bool: the frames probable enough, gaps only up to `fill_s`, ends only within view."""
    keep = probability >= settings.confidence.keep_share * probability[track.is_measured].max()
    own_s = evidence.time_s[track.frames]
    seen = np.flatnonzero(track.is_measured)
    for a, b in pairwise(seen):
        if b - a > 1 and own_s[b] - own_s[a] > settings.completion.fill_s:
            keep[a + 1 : b] = False
    for a, b in pairwise(np.flatnonzero(keep)):
        if b - a > 1 and own_s[b] - own_s[a] <= settings.completion.bridge_s:
            keep[a + 1 : b] = True
    for outside in (range(seen[0] - 1, -1, -1), range(seen[-1] + 1, len(keep))):
        visible = True
        for k in outside:
            visible = visible and keep[k] and in_view(int(track.frames[k]), track.box_world[k : k + 1, :3])[0]
            keep[k] = visible
    return keep


def provenance_of(track: SolvedTrack) -> np.ndarray:
    """(F,) object array: `measured`, `interpolated` (between detections) or `extrapolated` (beyond them)."""
    seen = np.flatnonzero(track.is_measured)
    words = np.full(len(track.frames), "interpolated", dtype=object)
    words[: seen[0]] = "extrapolated"
    words[seen[-1] + 1 :] = "extrapolated"
    words[seen] = "measured"
    return words
