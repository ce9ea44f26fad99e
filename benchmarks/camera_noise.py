"""What would a camera detector report of true tracks? A documented, seeded noise model for tracking benchmarks.

For every true box within `MAX_RANGE_M` of the ego vehicle:

* it is seen by the share that no nearer true box covers (`labeling.tracks.visibility`, boxes as seen from 1.6 m above the ego origin);
  below a quarter there is no detection (occlusion dropout), up to seven tenths the chance of one grows linearly;
* in full view it is detected with 0.96 minus 0.006 a metre, and looks away for spells of 0.4 s on average (2 % of the time);
* its centre is off along the ray by 0.2 m + 3 % of the range, across it by 0.15 m + 0.6 % (standard deviations); half of the variance
  drifts slowly (0.5 s), the other half is new in each frame;
* its size is off by 6 % for its whole life and 4 % a frame, its heading by 0.12 rad, and by half a turn in 4 % of the frames;
* its score is a logistic of 2.5 + noise, less when far or hidden. Ghosts (1.5 a frame and clip, alive for two frames on average, half
  of them near a true box) score like weak detections.
"""

from dataclasses import dataclass

import numpy as np

from labeling.tracks.evidence import Evidence
from labeling.tracks.visibility import hidden_shares
from scenes.boxes import Box3D, Boxes, transform_each_box
from scenes.clips import Clip
from scenes.geometry import invert_rigid, wrap_angle

MAX_RANGE_M = 60.0
EYE_HEIGHT_M = 1.6
LEAST_SEEN, WELL_SEEN = 0.25, 0.7
"""Shares of a box in view: below the first it is not detected, from the second on as if in full view."""
GHOSTS_PER_FRAME = 1.5


@dataclass(frozen=True)
class TrueTracks:
    """N true boxes of a clip within range, sorted by frame, in the world frame."""

    frame: np.ndarray
    box_world: np.ndarray
    class_id: np.ndarray
    track_id: np.ndarray
    range_m: np.ndarray
    seen_share: np.ndarray
    """(N,) share that nearer boxes leave in view."""


def true_tracks(clip: Clip, layer_name: str = "truth") -> TrueTracks:
    """The truth layer's boxes within range, and how much of each is in view (boxes beyond the range and ignored ones hide too)."""
    layer = clip.layer(layer_name)
    frames = sorted(layer.boxes_world)
    boxes_world = Boxes.concatenate([layer.boxes_world[index] for index in frames])
    frame = np.repeat(np.array(frames, dtype=np.int64), [len(layer.boxes_world[index]) for index in frames])
    ego_from_world = invert_rigid(np.stack([f.world_from_ego for f in clip.frames]))
    box_ego = transform_each_box(ego_from_world[frame], boxes_world.box)
    seen = 1 - hidden_shares(frame, box_ego, np.ones(len(frame), dtype=bool), EYE_HEIGHT_M)
    range_m = np.hypot(box_ego[:, 0], box_ego[:, 1])
    keep = (range_m <= MAX_RANGE_M) & ~boxes_world.ignore
    columns = (frame, boxes_world.box, boxes_world.class_id, boxes_world.track_id, range_m, seen)
    return TrueTracks(*(column[keep] for column in columns))


def logistic(odds: np.ndarray) -> np.ndarray:
    """Probabilities of log odds."""
    return 1 / (1 + np.exp(-odds))


def noisy_detections(clip: Clip, truth: TrueTracks, seed: int) -> tuple[Evidence, np.ndarray]:
    """Detections of true tracks by the module's noise model, and (D,) the true track of each, -1 for ghosts."""
    random = np.random.default_rng(seed)
    world_from_ego = np.stack([f.world_from_ego for f in clip.frames])
    box, detected = truth.box_world.copy(), _detected(truth, random)
    sensor = world_from_ego[truth.frame, :2, 3]
    along = (box[:, :2] - sensor) / np.maximum(truth.range_m, 1e-6)[:, None]
    radial = (0.2 + 0.03 * truth.range_m) * _half_slow(truth, random)
    lateral = (0.15 + 0.006 * truth.range_m) * _half_slow(truth, random)
    box[:, :2] += radial[:, None] * along + lateral[:, None] * np.stack([-along[:, 1], along[:, 0]], axis=1)
    box[:, Box3D.Z] += random.normal(0, 0.1, len(box))
    life = {track: random.normal(0, 0.06, 3) for track in np.unique(truth.track_id).tolist()}
    change = np.array([life[track] for track in truth.track_id.tolist()]).reshape(-1, 3) + random.normal(0, 0.04, (len(box), 3))
    box[:, 3:6] *= np.exp(change)
    flips = np.pi * (random.random(len(box)) < 0.04)
    box[:, Box3D.YAW] = wrap_angle(box[:, Box3D.YAW] + random.normal(0, 0.12, len(box)) + flips)
    score = logistic(2.5 - truth.range_m / 30 - 2 * (1 - truth.seen_share) + random.normal(0, 1, len(box)))
    ghosts = _ghosts(world_from_ego, truth, random)
    parts = ((truth.frame, box, truth.class_id, score, truth.track_id), ghosts)
    frame, box, class_id, score, owner = (np.concatenate([first[detected], second]) for first, second in zip(*parts, strict=True))
    box[:, Box3D.VX :] = np.nan
    order = np.argsort(frame, kind="stable")
    stamps = np.array([f.timestamp_ns for f in clip.frames], dtype=np.int64)
    return Evidence(stamps, world_from_ego, frame[order], box[order], class_id[order], score[order]), owner[order]


def _detected(truth: TrueTracks, random: np.random.Generator) -> np.ndarray:
    chance = (0.96 - 0.006 * truth.range_m) * np.clip(truth.seen_share / WELL_SEEN, 0, 1)
    chance = np.where(truth.seen_share < LEAST_SEEN, 0.0, chance)
    away = np.zeros(len(truth.frame), dtype=bool)
    for track in np.unique(truth.track_id):
        rows, left = np.flatnonzero(truth.track_id == track), 0
        for row in rows.tolist():
            left = int(random.geometric(0.25)) if left == 0 and random.random() < 0.005 else max(left - 1, 0)
            away[row] = left > 0
    return (random.random(len(chance)) < chance) & ~away


def _half_slow(truth: TrueTracks, random: np.random.Generator) -> np.ndarray:
    """(N,) unit noise: half of its variance drifts within half a second (ten frames a second), half is new in each frame."""
    noise = random.normal(0, 1, len(truth.frame)) * np.sqrt(0.5)
    keep = np.exp(-0.1 / 0.5)
    for track in np.unique(truth.track_id):
        rows = np.flatnonzero(truth.track_id == track)
        slow = random.normal()
        for row in rows.tolist():
            slow = keep * slow + np.sqrt(1 - keep**2) * random.normal()
            noise[row] += np.sqrt(0.5) * slow
    return noise


def _ghosts(world_from_ego: np.ndarray, truth: TrueTracks, random: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Frames, boxes, classes, scores and owners (-1) of detections of nothing."""
    frames, boxes, classes = [], [], []
    for frame in range(len(world_from_ego)):
        for _ in range(int(random.poisson(GHOSTS_PER_FRAME / 2))):  # each lives two frames on average
            like = int(random.integers(len(truth.frame)))
            box = truth.box_world[like].copy()
            box[Box3D.YAW] = random.uniform(-np.pi, np.pi)
            here = np.flatnonzero(truth.frame == frame)
            if random.random() < 0.5 and len(here):
                box[:2] = truth.box_world[random.choice(here), :2] + random.normal(0, 4.0, 2)
            else:
                angle, away_m = random.uniform(-np.pi, np.pi), random.uniform(5, MAX_RANGE_M)
                box[:2] = world_from_ego[frame, :2, 3] + away_m * np.array([np.cos(angle), np.sin(angle)])
            for later in range(frame, min(frame + int(random.geometric(0.5)), len(world_from_ego))):
                moved = box.copy()
                moved[:2] += random.normal(0, 0.3, 2)
                frames.append(later)
                boxes.append(moved)
                classes.append(int(truth.class_id[like]))
    number = len(frames)
    score = logistic(-0.5 + random.normal(0, 1, number))
    return np.array(frames, dtype=np.int64), np.array(boxes).reshape(-1, 9), np.array(classes, dtype=np.int64), score, np.full(number, -1)
