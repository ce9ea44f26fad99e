"""What does an object look like? Colours of its upper and lower half, in the picture that shows it largest.

Looks tell objects apart that were out of sight for a while (`labeling.tracks.stitching`). They are histograms in CIELAB compared by the
Bhattacharyya coefficient, the classical description of a thing that is tracked by colour (Comaniciu, Ramesh and Meer, CVPR 2000). Nothing
is learned, so they mean the same for every rig and every class.
"""

from functools import lru_cache

import cv2
import numpy as np

from labeling.tracks.evidence import Looks
from scenes.boxes import Boxes
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import invert_rigid
from scenes.show.outlines import box_rectangles

PATCH = 16
"""The inner part of an object's rectangle is shrunk to this many pixels a side."""
INNER = 0.7
"""Share of the rectangle's width and height that is looked at; at its edge is mostly background."""
LEAST_PX = 8.0
"""Smaller rectangles (height or width) say nothing."""
BINS = 8
"""Of each histogram. A look holds six, as roots of shares: lightness of the upper and the lower half, then a, then b."""
CHROMA_REACH = 40.0
"""Of the a and b axes of CIELAB -40 to 40 is told apart; hardly any surface of a street is more colourful."""


def picture_looks(clip: Clip) -> Looks:
    """Looks (M, 48) of boxes of a clip, NaN where no live camera shows one well enough. Pictures are read when they are needed."""

    @lru_cache(maxsize=16)
    def picture(frame: int, camera: str) -> np.ndarray | None:
        try:
            return clip.image(frame, camera)
        except DataError:
            return None  # labels from `--evidence` need no pictures; `surround4d check` tells about broken ones

    def looks(frames: np.ndarray, box_world: np.ndarray) -> np.ndarray:
        found = np.full((len(frames), 6 * BINS), np.nan)
        for frame in np.unique(frames).tolist():
            rows = np.flatnonzero(frames == frame)
            boxes_world = Boxes.make(box_world[rows], np.zeros(len(rows), dtype=np.int64))
            boxes_ego = boxes_world.transform(invert_rigid(clip.frames[frame].world_from_ego))
            for row, (camera, rectangle) in zip(rows.tolist(), _best_rectangles(clip, frame, boxes_ego), strict=True):
                image = picture(frame, camera) if camera else None
                if image is not None:
                    found[row] = look_of(image, rectangle)
        return found

    return looks


def _best_rectangles(clip: Clip, frame: int, boxes_ego: Boxes) -> list[tuple[str, np.ndarray]]:
    """For each box the camera that shows it largest and its rectangle there; no camera: an empty name."""
    best, area = [("", np.zeros(4))] * len(boxes_ego), np.zeros(len(boxes_ego))
    for name, view in clip.frames[frame].views.items():
        if view.alive:
            rectangles, seen = box_rectangles(clip.rig[name], clip.cam_from_ego_at_ref(frame, name), boxes_ego)
            size = (rectangles[:, 2:] - rectangles[:, :2]) * seen[:, None]
            for k in np.flatnonzero((size.min(axis=1) >= LEAST_PX) & (size.prod(axis=1) > area)):
                best[k], area[k] = (name, rectangles[k]), size[k].prod()
    return best


def look_of(image: np.ndarray, rectangle: np.ndarray) -> np.ndarray:
    """(48,) look of what a rectangle (4,) of left, top, right, bottom pixels shows of an RGB image (H, W, 3) uint8."""
    middle, half = (rectangle[:2] + rectangle[2:]) / 2, np.maximum((rectangle[2:] - rectangle[:2]) * INNER / 2, 1.0)
    limit = np.array([image.shape[1], image.shape[0]])
    left, top = np.clip(np.floor(middle - half + 0.5), 0, limit - 1).astype(int)
    right, bottom = np.clip(np.ceil(middle + half + 0.5), 1, limit).astype(int)
    patch = cv2.resize(image[top : max(bottom, top + 1), left : max(right, left + 1)], (PATCH, PATCH), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(patch.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
    shares = lab[..., 0] / 100.0, (lab[..., 1] / CHROMA_REACH + 1) / 2, (lab[..., 2] / CHROMA_REACH + 1) / 2
    halves = slice(0, PATCH // 2), slice(PATCH // 2, PATCH)
    return np.concatenate([_root_histogram(share[part]) for share in shares for part in halves])


def _root_histogram(share: np.ndarray) -> np.ndarray:
    """(8,) roots of the shares of values in [0, 1] that fall into each bin; a value between two centres is split between them."""
    place = np.clip(share.reshape(-1) * BINS - 0.5, 0, BINS - 1)
    low = np.minimum(place.astype(int), BINS - 2)
    rest = place - low
    count = np.bincount(low, 1 - rest, BINS) + np.bincount(low + 1, rest, BINS)
    return np.sqrt(count / len(place))
