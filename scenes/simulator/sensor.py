"""What do a camera's lens and sensor, and the rain, do to a picture?"""

import cv2
import numpy as np

from scenes.simulator.weather import Light, rain_streaks, vignette

SMOOTHING_PX = 0.45
"""Standard deviation of the lens blur."""
NOISE_SHIFT_PX = 64
"""Every channel of every picture cuts its noise from another place, up to so many pixels away."""


def noise_plane(height_px: int, width_px: int, light: Light, rng: np.random.Generator) -> np.ndarray:
    """Pixel noise of a clip in grey levels, wide enough to be shifted by `NOISE_SHIFT_PX`."""
    shape = (height_px + NOISE_SHIFT_PX, width_px + NOISE_SHIFT_PX)
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(255 * light.noise)


class Finish:
    """One camera's blur, exposure, vignette, noise and rain; its gain and drops stay the same for a clip."""

    def __init__(self, height_px: int, width_px: int, light: Light, noise: np.ndarray, rng: np.random.Generator) -> None:
        gain = 255 * light.exposure * rng.uniform(0.94, 1.06) * rng.uniform(0.98, 1.02, 3)
        dark_corners = vignette(height_px, width_px, float(rng.uniform(0.1, 0.3)))
        self.gain = [np.float32(channel) * dark_corners for channel in gain]
        self.noise = noise
        self.streaks = [255 * rain_streaks(rng, height_px, width_px) for _ in range(3)] if light.wet else []

    def apply(self, planes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 from display brightness (3, H, W) float32, which is overwritten."""
        height, width = planes.shape[1:]
        corner = rng.integers(0, NOISE_SHIFT_PX, (3, 2))
        streaks = self.streaks[int(rng.integers(len(self.streaks)))] if self.streaks else None
        finished = []
        for plane, gain, (top, left) in zip(planes, self.gain, corner, strict=True):
            level = cv2.multiply(cv2.GaussianBlur(plane, (3, 3), SMOOTHING_PX), gain, dst=plane)
            if streaks is not None:
                level = cv2.add(level, streaks, dst=plane)
            finished.append(cv2.add(level, self.noise[top : top + height, left : left + width], dtype=cv2.CV_8U))
        return cv2.merge(finished)
