"""What is known about each box of a clip's tracks that bears on how far off it may be?"""

from dataclasses import dataclass

import numpy as np

from labeling.tracks.confidence import log_odds
from labeling.tracks.duplicates import pairs_in_frames
from scenes.boxes import CLASS_NAMES, VEHICLE_CLASSES
from scenes.clips import Clip
from scenes.geometry import NS_PER_S, ground_speeds

GROUPS = {
    "vehicles": VEHICLE_CLASSES,
    "two_wheelers": ("motorcycle", "bicycle"),
    "pedestrians": ("pedestrian",),
    "fixtures": ("traffic_cone", "barrier"),
}
"""Kinds of objects whose errors are alike; each has its own numbers, and a box is right only against truth of its kind."""
GROUP_NAMES = tuple(GROUPS)
GROUP_OF_CLASS = np.array([next(k for k, names in enumerate(GROUPS.values()) if name in names) for name in CLASS_NAMES])
"""(10,) class id to index into `GROUP_NAMES`."""

SEEN_S = 2.0
"""Reach of the feature `seen`."""
FEATURES = (
    *("odds", "strong", "track", "range", "root_range", "far_odds", "speed", "interpolated", "extrapolated", "seen", "hidden"),
    *("spread", "across", "looks", "standing", "rival", "pace"),
)
"""Names of the columns of `BoxRows.features`; a model says which of them it reads."""
UNKNOWN_SPREAD_M = 1.0
LEAST_SPREAD_M = 0.03
MOST_LOOKS_S = 8.0
"""Who was seen for longer counts as seen for so long: the clips that weights are fitted on are no longer."""
MOST_SPEED_MPS = 20.0
RIVAL_M = 2.5
"""Another box so near (standard deviation) may be the same object."""


@dataclass(frozen=True)
class BoxRows:
    """All boxes of a clip's tracks, one row each, as `labeling.track_stage.arrays_of_tracks` orders them."""

    frame: np.ndarray
    """(F,) int64."""
    box_world: np.ndarray
    """(F, 9)."""
    class_id: np.ndarray
    """(F,) int64."""
    group: np.ndarray
    """(F,) int64, index into `GROUP_NAMES`."""
    range_m: np.ndarray
    """(F,) distance from the ego vehicle on the ground."""
    features: np.ndarray
    """(F, 17): see `FEATURES`."""

    def __len__(self) -> int:
        return len(self.frame)


def box_rows(clip: Clip, arrays: dict[str, np.ndarray]) -> BoxRows:
    """The rows of the arrays of a tracks file; the features are what tells good boxes from bad ones and near from far.

    odds: log odds of the tracks stage's own probability, strong: their positive part, track: those of the whole track's mean,
    range and root_range: tens of metres, far_odds: odds times range, speed: in units of 10 m/s, where it came from, seen: the share of the
    frames within `SEEN_S` in which the track was detected, hidden: the share that nearer labels hide, spread and across: logarithms of how
    well the nearest detection's place is known along its worst axis and across it (metres), looks: log(1 + seconds in which the track was
    detected), standing: whether it stands, rival: the probability of the surest other box of its kind near it, and pace: the ego vehicle's
    speed in units of 10 m/s (driving, it sees what stands from places far apart). None depends on the frames a second.
    """
    track = np.repeat(np.arange(len(arrays["length"])), arrays["length"])
    box_world, class_id = arrays["box_world"], arrays["class_id"][track]
    poses = np.stack([frame.world_from_ego for frame in clip.frames])
    ego_mps = ground_speeds(poses, np.array([frame.timestamp_ns for frame in clip.frames]))
    range_m = np.hypot(*(box_world[:, :2] - poses[arrays["frames"], :2, 3]).T)
    odds, far = log_odds(arrays["box_probability"]), range_m / 10
    spread = np.log(np.maximum(np.nan_to_num(arrays["spread_m"], nan=UNKNOWN_SPREAD_M), LEAST_SPREAD_M))
    columns = (
        odds,
        np.maximum(odds, 0),
        log_odds(arrays["probability"])[track],
        far,
        np.sqrt(far),
        odds * far,
        np.minimum(np.nan_to_num(np.hypot(box_world[:, 7], box_world[:, 8])), MOST_SPEED_MPS) / 10,
        (arrays["provenance"] == "interpolated").astype(np.float64),
        (arrays["provenance"] == "extrapolated").astype(np.float64),
        _share_seen(clip, arrays, track),
        np.nan_to_num(1 - arrays["visibility"]),
        *spread.T,
        np.log1p(_seconds_seen(clip, arrays, track))[track],
        arrays["is_static"][track].astype(np.float64),
        _rivals(arrays, GROUP_OF_CLASS[class_id]),
        np.minimum(ego_mps, MOST_SPEED_MPS)[arrays["frames"]] / 10,
    )
    return BoxRows(arrays["frames"], box_world, class_id, GROUP_OF_CLASS[class_id], range_m, np.stack(columns, axis=1))


def _share_seen(clip: Clip, arrays: dict[str, np.ndarray], track: np.ndarray) -> np.ndarray:
    seconds = np.array([frame.timestamp_ns - clip.frames[0].timestamp_ns for frame in clip.frames]) / NS_PER_S
    near = np.abs(seconds[:, None] - seconds[None]) <= SEEN_S
    measured = np.zeros((len(arrays["length"]), len(clip)))
    measured[track, arrays["frames"]] = arrays["provenance"] == "measured"
    return (measured @ near)[track, arrays["frames"]] / near.sum(axis=1)[arrays["frames"]]


def _seconds_seen(clip: Clip, arrays: dict[str, np.ndarray], track: np.ndarray) -> np.ndarray:
    """(K,) in which each track was detected, up to `MOST_LOOKS_S`; a frame counts as long as the usual step between frames."""
    stamps_ns = np.array([frame.timestamp_ns for frame in clip.frames])
    step_s = float(np.median(np.diff(stamps_ns))) / NS_PER_S if len(stamps_ns) > 1 else 0.0
    frames = np.bincount(track[arrays["provenance"] == "measured"], minlength=len(arrays["length"]))
    return np.minimum(frames * step_s, MOST_LOOKS_S)


def _rivals(arrays: dict[str, np.ndarray], group: np.ndarray) -> np.ndarray:
    """(F,) the largest probability of any other box of the same frame and kind, times how near it is."""
    frame, place, probability = arrays["frames"], arrays["box_world"][:, :2], arrays["box_probability"]
    order = np.argsort(frame, kind="stable")
    i, j = (order[side] for side in pairs_in_frames(frame[order]))
    near = np.where(group[i] == group[j], np.exp(-(((place[i] - place[j]) / RIVAL_M) ** 2).sum(axis=1) / 2), 0.0)
    surest = np.zeros(len(frame))
    np.maximum.at(surest, i, near * probability[j])
    np.maximum.at(surest, j, near * probability[i])
    return surest
