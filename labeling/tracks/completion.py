"""Which frames of the tracks become labels? Gaps are filled and ends carried on, as far as the sensors look and the motion is known."""

import numpy as np

from labeling.tracks.evidence import Evidence, InView
from labeling.tracks.settings import GroupSettings
from labeling.tracks.trajectory import SolvedTracks


def seen_around(tracks: SolvedTracks) -> tuple[np.ndarray, np.ndarray]:
    """(F,) twice: the nearest frame row with a detection at or before each row of its track, and at or after it; -1 where there is none."""
    return tracks.life.previous(tracks.is_measured), tracks.life.following(tracks.is_measured)


def unseen_s(tracks: SolvedTracks, time_s: np.ndarray) -> np.ndarray:
    """(F,) seconds from each frame of a track to its nearest detection; `time_s` (T,) of the clip's frames."""
    own_s = time_s[tracks.frame]
    return np.abs(own_s - own_s[nearest_seen(tracks, time_s)])


def nearest_seen(tracks: SolvedTracks, time_s: np.ndarray) -> np.ndarray:
    """(F,) the row of the same track, nearest in time, that has a detection (of two the earlier); `time_s` (T,) of the clip's frames."""
    own_s = time_s[tracks.frame]
    before, after = seen_around(tracks)
    since, until = np.where(before >= 0, own_s - own_s[before], np.inf), np.where(after >= 0, own_s[after] - own_s, np.inf)
    return np.where(since <= until, before, after)


def kept_frames(
    tracks: SolvedTracks, probability: np.ndarray, sides: np.ndarray, evidence: Evidence, in_view: InView, settings: GroupSettings
) -> np.ndarray:
    """(F,) bool: the frames probable enough, gaps only up to `fill_s`, ends only within view.

    `sides` (F,) is the score of the better detection shortly before each frame or shortly after it, whichever side is worse
    (`confidence.Surroundings`): a gap between two strong sides is filled however little is seen in its middle.
    """
    life, own_s = tracks.life, evidence.time_s[tracks.frame]
    best = life.largest(np.where(tracks.is_measured, probability, 0.0))
    keep = probability >= settings.confidence.keep_share * best[life.owner]
    before, after = seen_around(tracks)
    inside = (before >= 0) & (after >= 0)
    short = own_s[after] - own_s[before] <= settings.completion.fill_s
    keep &= ~inside | short | tracks.is_measured
    keep |= inside & short & (sides >= settings.completion.fill_score)
    left, right = life.previous(keep), life.following(keep)
    keep |= (left >= 0) & (right >= 0) & (own_s[right] - own_s[left] <= settings.completion.bridge_s)
    beyond = ~inside
    asked = np.flatnonzero(beyond & keep)
    keep[asked] = in_view(tracks.frame[asked], tracks.box_world[asked, :3])
    broken = beyond & ~keep  # an end is carried on without a break
    last_break, next_break = life.previous(broken), life.following(broken)
    return keep & ~(beyond & ((before >= 0) & (last_break > before) | (after >= 0) & (next_break >= 0) & (next_break < after)))


def provenance_of(tracks: SolvedTracks) -> np.ndarray:
    """(F,) object array: `measured`, `interpolated` (between detections) or `extrapolated` (beyond them)."""
    before, after = seen_around(tracks)
    words = np.where((before >= 0) & (after >= 0), "interpolated", "extrapolated").astype(object)
    words[tracks.is_measured] = "measured"
    return words
