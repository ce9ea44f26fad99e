"""How well does a picture agree with its neighbours if each pixel lies at a given depth?"""

from dataclasses import dataclass

import cv2
import numpy as np

from labeling.reconstruction.views import PinholeView

BLIND = 1.2
"""Cost where no neighbour sees the point: worse than no correlation at all (1.0)."""


@dataclass(frozen=True)
class Source:
    """A neighbour, prepared: pixel = (a + w b)[:2] / (a + w b)[2] for inverse depth w."""

    grey: np.ndarray
    usable: np.ndarray
    """uint8, 255 where usable."""
    a: np.ndarray
    """(3, H, W) float32 of the view that is matched."""
    b: np.ndarray
    """(3,) float32."""

    def pixels(self, inverse_depth) -> tuple[np.ndarray, np.ndarray]:
        """float32 columns and rows (H, W) where points at an inverse depth (number or map) appear; -9 behind the camera."""
        depth = self.a[2] + inverse_depth * self.b[2]
        ahead = depth > 1e-3
        scale = 1.0 / np.where(ahead, depth, 1.0)
        x = (self.a[0] + inverse_depth * self.b[0]) * scale
        y = (self.a[1] + inverse_depth * self.b[1]) * scale
        if not ahead.all():
            x[~ahead] = -9.0
        return x, y

    def slope(self, inverse_depth: np.ndarray) -> np.ndarray:
        """(H, W) pixels that a point moves in the neighbour per unit of inverse depth; 0 where it does not see the point."""
        x, y = self.pixels(inverse_depth)
        depth = np.maximum(self.a[2] + inverse_depth * self.b[2], 1e-3)
        inside = (x >= 0) & (y >= 0) & (x < self.grey.shape[1]) & (y < self.grey.shape[0])
        return inside * np.hypot(self.b[0] - x * self.b[2], self.b[1] - y * self.b[2]) / depth


def source_of(view: PinholeView, other: PinholeView) -> Source:
    """What `Matcher` needs of a neighbour."""
    other_from_view = other.pin_from_world @ view.world_from_pin
    a = view.camera.rays @ (other.camera.matrix @ other_from_view[:3, :3]).T.astype(np.float32)
    b = other.camera.matrix @ other_from_view[:3, 3]
    return Source(other.grey, other.usable.astype(np.uint8) * 255, np.ascontiguousarray(np.moveaxis(a, -1, 0)), b.astype(np.float32))


class Matcher:
    """One picture with its neighbours; costs are 1 minus the correlation (ZNCC) of windows, averaged over the better half."""

    def __init__(self, view: PinholeView, others: list[PinholeView], window_px: int, texture: float) -> None:
        self.view, self.sources = view, [source_of(view, other) for other in others]
        self.window, self.texture = (window_px, window_px), texture
        self.grey = view.grey
        self.mean = cv2.blur(self.grey, self.window)
        self.spread = np.maximum(cv2.blur(self.grey * self.grey, self.window) - self.mean**2, 0) + np.float32(texture**2)
        self.kept = max(1, (len(self.sources) + 1) // 2)

    def cost(self, inverse_depth) -> np.ndarray:
        """(H, W) float32 cost of an inverse depth (number or map): 0 equal, 1 not alike, `BLIND` not seen."""
        costs = [self._source_cost(source, inverse_depth) for source in self.sources]
        if len(costs) == 1:
            return costs[0]
        stack = np.stack(costs)
        if len(costs) > self.kept:
            stack = np.partition(stack, self.kept - 1, axis=0)[: self.kept]
        seen = stack < BLIND
        number = seen.sum(axis=0, dtype=np.float32)
        stack *= seen
        return np.where(number > 0, stack.sum(axis=0) / np.maximum(number, 1), np.float32(BLIND))

    def _source_cost(self, source: Source, inverse_depth) -> np.ndarray:
        x, y = source.pixels(inverse_depth)
        warped = cv2.remap(source.grey, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        usable = cv2.remap(source.usable, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        mean = cv2.blur(warped, self.window)
        variance = cv2.blur(cv2.multiply(warped, warped), self.window)
        variance -= cv2.multiply(mean, mean)
        np.maximum(variance, 0, out=variance)
        variance += self.texture**2
        variance *= self.spread
        joint = cv2.blur(cv2.multiply(warped, self.grey), self.window)
        joint -= cv2.multiply(mean, self.mean)
        joint /= cv2.sqrt(variance)
        np.subtract(1.0, joint, out=joint)
        np.minimum(joint, 1.0, out=joint)
        joint[usable < 128] = BLIND
        return joint

    def step(self, inverse_depth: np.ndarray, pixels: float) -> np.ndarray:
        """(H, W) change of inverse depth that moves the point by `pixels` in the neighbour where it moves most."""
        slope = np.max([source.slope(inverse_depth) for source in self.sources], axis=0)
        return (pixels / np.maximum(slope, 1.0)).astype(np.float32)
