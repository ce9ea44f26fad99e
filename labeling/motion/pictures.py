"""How does the refinement get its pictures? Grey, at most so wide, each read once."""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from scenes.clips import Clip
from scenes.errors import DataError

LIGHT_PX = 6.0
"""Light is evened out over this distance (standard deviation), in a picture 528 pixels wide; grows with the width."""
FLAT_LEVELS = 6.0
"""Contrast (grey levels) below which a place is flat: it is not stretched any more, or noise would become pattern."""
MIDDLE_LEVEL, STRETCH_LEVELS = 128.0, 40.0

Rectangles = Mapping[tuple[int, int], np.ndarray]
"""(frame, camera index) -> rectangles (R, 4) u0, v0, u1, v1 of things that may move, in the camera's own pixels."""


@dataclass
class GreyPictures:
    """The clip's pictures as followed: grey, evenly lit, halved until at most `max_width_px` wide."""

    pictures: dict[tuple[int, int], np.ndarray]
    """(frame, camera) -> (H, W) uint8; pictures that are missing or cannot be read are absent."""
    movers_px: Rectangles
    """What is not looked at."""
    factor: np.ndarray
    """(N,) own pixels a followed pixel."""
    dead: list[str]
    """Cameras without a single picture."""

    def to_small(self, camera: int, pixel_px: np.ndarray) -> np.ndarray:
        """Own pixels in followed ones (pixel centres are whole numbers in both)."""
        return (pixel_px + 0.5) / self.factor[camera] - 0.5

    def to_own(self, camera: int, pixel_px: np.ndarray) -> np.ndarray:
        """Followed pixels in the camera's own."""
        return (pixel_px + 0.5) * self.factor[camera] - 0.5


def read_pictures(clip: Clip, max_width_px: int, movers_px: Rectangles | None = None) -> GreyPictures:
    """Reads every picture that can be read; one that cannot counts as not alive here (`check` names it)."""
    factor = np.array([_halvings(camera.width_px, max_width_px) for camera in clip.rig.cameras], dtype=np.float64)
    pictures = {}
    for frame in clip.frames:
        for index, name in enumerate(clip.rig.names):
            if not frame.views[name].alive:
                continue
            try:
                image = clip.image(frame.index, name)
            except DataError:
                continue
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            step = int(factor[index])
            if step > 1:
                height, width = grey.shape[0] // step, grey.shape[1] // step
                grey = cv2.resize(grey[: height * step, : width * step], (width, height), interpolation=cv2.INTER_AREA)
            pictures[frame.index, index] = evenly_lit(grey)
    seen = {index for _, index in pictures}
    return GreyPictures(pictures, movers_px or {}, factor, [name for index, name in enumerate(clip.rig.names) if index not in seen])


def evenly_lit(grey: np.ndarray) -> np.ndarray:
    """(H, W) uint8 with the same brightness and contrast everywhere.

    What comes nearer stands out of the fog, and the own lamps light other places every moment. A patch whose brightness changes is
    followed to a wrong place, all of one kind to the same side: less its mean and over its contrast it does not change.
    """
    reach_px = LIGHT_PX * max(grey.shape[1] / 528, 0.5)
    level = grey.astype(np.float32)
    level -= cv2.GaussianBlur(level, (0, 0), reach_px)
    contrast2 = cv2.GaussianBlur(level * level, (0, 0), reach_px) + FLAT_LEVELS**2
    return np.clip(MIDDLE_LEVEL + STRETCH_LEVELS * level / np.sqrt(contrast2), 0, 255).astype(np.uint8)


def _halvings(width_px: int, max_width_px: int) -> int:
    factor = 1
    while width_px // factor > max_width_px:
        factor *= 2
    return factor


def inside_any(pixel_px: np.ndarray, rectangles_px: np.ndarray, margin_px: float) -> np.ndarray:
    """(S,) whether pixels (S, 2) lie in one of the rectangles (R, 4), widened by a margin."""
    low, high = rectangles_px[None, :, :2] - margin_px, rectangles_px[None, :, 2:] + margin_px
    return np.asarray(((pixel_px[:, None] >= low) & (pixel_px[:, None] <= high)).all(-1).any(-1))
