"""What light falls on a clip, and what does the air do to it?"""

from dataclasses import dataclass

import cv2
import numpy as np

from scenes.simulator.textures import smooth_noise

SKY_ROWS, SKY_COLUMNS = 64, 512


@dataclass(frozen=True)
class Light:
    """The light of one clip, in display brightness (1 is white)."""

    weather: str
    sun_direction: np.ndarray
    """(3,) unit vector towards the sun (or moon), world frame."""
    sun_rgb: np.ndarray
    ambient_rgb: np.ndarray
    zenith_rgb: np.ndarray
    horizon_rgb: np.ndarray
    """Also the colour of the haze."""
    haze_per_m: float
    """Extinction of the air."""
    lamps: float
    """How strongly lamps shine: 0 by day, 1 at night."""
    clouds: float
    wet: float
    """0 dry, 1 raining."""
    exposure: float
    noise: float
    """Standard deviation of the pixel noise at mid grey."""


@dataclass(frozen=True)
class LightRange:
    """Where a weather's light lies before it is varied."""

    sun_height_rad: tuple[float, float]
    sun_rgb: tuple[float, float, float]
    ambient_rgb: tuple[float, float, float]
    zenith_rgb: tuple[float, float, float]
    horizon_rgb: tuple[float, float, float]
    haze_per_m: tuple[float, float]
    lamps: float


LIGHT_RANGES = {
    "day": LightRange((0.5, 1.2), (0.85, 0.8, 0.72), (0.52, 0.56, 0.62), (0.35, 0.55, 0.85), (0.78, 0.85, 0.93), (0.0004, 0.0015), 0.0),
    "dusk": LightRange((0.12, 0.3), (0.66, 0.42, 0.24), (0.36, 0.34, 0.39), (0.25, 0.3, 0.5), (0.85, 0.55, 0.38), (0.0008, 0.0025), 0.55),
    "night": LightRange((0.7, 1.2), (0.04, 0.045, 0.06), (0.15, 0.155, 0.19), (0.02, 0.025, 0.05), (0.09, 0.085, 0.1), (0.001, 0.003), 1.0),
    "rain": LightRange((0.7, 1.2), (0.1, 0.1, 0.1), (0.54, 0.56, 0.59), (0.45, 0.48, 0.52), (0.62, 0.64, 0.67), (0.004, 0.009), 0.3),
    "fog": LightRange((0.7, 1.2), (0.08, 0.08, 0.08), (0.62, 0.63, 0.64), (0.68, 0.69, 0.71), (0.72, 0.73, 0.74), (0.014, 0.035), 0.35),
}


def make_light(weather: str, rng: np.random.Generator) -> Light:
    """A random light of a weather."""
    base = LIGHT_RANGES[weather]
    height, azimuth = rng.uniform(*base.sun_height_rad), rng.uniform(-np.pi, np.pi)
    tint = rng.uniform(0.92, 1.08, 3)
    return Light(
        weather=weather,
        sun_direction=np.array([np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height)]),
        sun_rgb=np.array(base.sun_rgb) * rng.uniform(0.75, 1.1) * (0.35 if weather == "day" and rng.random() < 0.25 else 1.0),
        ambient_rgb=np.array(base.ambient_rgb) * rng.uniform(0.85, 1.15) * tint,
        zenith_rgb=np.array(base.zenith_rgb) * tint,
        horizon_rgb=np.array(base.horizon_rgb) * tint,
        haze_per_m=float(rng.uniform(*base.haze_per_m)),
        lamps=base.lamps,
        clouds=float(rng.uniform(0, 1)),
        wet=1.0 if weather == "rain" else 0.0,
        exposure=float(rng.uniform(0.88, 1.2)),
        noise=float(rng.uniform(0.008, 0.02) * (1.8 if weather == "night" else 1.0)),
    )


def paint_sky(light: Light, rng: np.random.Generator) -> np.ndarray:
    """(SKY_ROWS, SKY_COLUMNS, 3) float32: elevation 0 to 90 degrees down the rows, world azimuth -pi to pi along the columns."""
    elevation = (np.arange(SKY_ROWS) + 0.5) / SKY_ROWS * np.pi / 2
    azimuth = ((np.arange(SKY_COLUMNS) + 0.5) / SKY_COLUMNS * 2 - 1) * np.pi
    up = np.sin(elevation)[:, None, None] ** 0.6
    sky = light.horizon_rgb * (1 - up) + light.zenith_rgb * up + np.zeros((1, SKY_COLUMNS, 1))
    clouds = np.clip(smooth_noise(rng, SKY_COLUMNS, SKY_COLUMNS, 6, 4)[:SKY_ROWS] + light.clouds - 0.6, 0, 1)[:, :, None]
    sky = sky + clouds * (0.25 * light.horizon_rgb + 0.25 * light.sun_rgb)
    ray = np.stack([np.cos(elevation)[:, None] * np.cos(azimuth), np.cos(elevation)[:, None] * np.sin(azimuth),
                    np.repeat(np.sin(elevation)[:, None], SKY_COLUMNS, 1)], axis=-1)  # fmt: skip
    glow = np.clip(ray @ light.sun_direction, 0, 1)[:, :, None]
    return (sky + light.sun_rgb * (0.9 * glow**400 + 0.25 * glow**12)).astype(np.float32)


def vignette(height_px: int, width_px: int, strength: float) -> np.ndarray:
    """(H, W) float32 factor that darkens the corners."""
    v, u = np.linspace(-1, 1, height_px, dtype=np.float32)[:, None], np.linspace(-1, 1, width_px, dtype=np.float32)
    square = np.minimum((u * u + v * v) / 2, 1)
    return 1 - np.float32(strength) * square * np.sqrt(square)


def rain_streaks(rng: np.random.Generator, height_px: int, width_px: int) -> np.ndarray:
    """(H, W) float32 brightness of falling drops."""
    layer = np.zeros((height_px, width_px), dtype=np.uint8)
    count = int(height_px * width_px * 0.0012)
    length = max(3, height_px // 14)
    tops = np.c_[rng.integers(0, width_px, count), rng.integers(-length, height_px, count)]
    for (x, y), slope, value in zip(tops, rng.uniform(-0.15, 0.25, count), rng.integers(12, 45, count), strict=True):
        cv2.line(layer, (int(x), int(y)), (int(x + slope * length), int(y + length)), int(value), 1, cv2.LINE_AA)
    return layer.astype(np.float32) / 255
