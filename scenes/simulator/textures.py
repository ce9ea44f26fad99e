"""What patterns lie on walls, cloth and paint? One atlas of tiles that multiply a surface's colour."""

from functools import lru_cache

import cv2
import numpy as np

from scenes.simulator.meshes import Texture

TILE_PX = 128
METERS_A_TILE = {
    Texture.PLAIN: 4.0, Texture.PAINT: 3.0, Texture.GLASS: 4.0, Texture.BRICK: 2.0, Texture.WINDOWS: 3.2, Texture.OFFICE: 3.6,
    Texture.PLASTER: 6.0, Texture.LEAVES: 2.5, Texture.CORRUGATED: 1.6, Texture.CLOTH: 0.6, Texture.STRIPES: 0.8, Texture.BARK: 1.0,
}  # fmt: skip


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int, octaves: int = 3) -> np.ndarray:
    """(height, width) float32 in about [-1, 1] that wraps around both ways; `cells` waves across at first."""
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(octaves):
        n = cells * 2**octave
        grid = rng.uniform(-1, 1, (n, n)).astype(np.float32)
        wrapped = np.pad(grid, 2, mode="wrap")
        scale_y, scale_x = height / n, width / n
        large = cv2.resize(wrapped, (round(scale_x * (n + 4)), round(scale_y * (n + 4))), interpolation=cv2.INTER_CUBIC)
        top, left = round(2 * scale_y), round(2 * scale_x)
        total += large[top : top + height, left : left + width] * 0.55**octave
    return total / 1.6


@lru_cache(maxsize=1)
def texture_atlas() -> np.ndarray:
    """(tiles, TILE_PX, TILE_PX, 3) float32 factors around 1, the same for every clip."""
    rng = np.random.default_rng(4)
    atlas = np.ones((len(Texture), TILE_PX, TILE_PX, 3), dtype=np.float32)
    y, x = np.mgrid[0:TILE_PX, 0:TILE_PX] / TILE_PX

    def grey(tile: Texture, factor: np.ndarray) -> None:
        atlas[tile] = factor[:, :, None]

    grey(Texture.PLAIN, 1 + 0.05 * smooth_noise(rng, TILE_PX, TILE_PX, 4))
    grey(Texture.PAINT, 1 + 0.07 * smooth_noise(rng, TILE_PX, TILE_PX, 3))
    grey(Texture.GLASS, 1 + 0.9 * np.clip(np.sin(2 * np.pi * (x + y)) - 0.6, 0, 1) + 0.2 * smooth_noise(rng, TILE_PX, TILE_PX, 3))
    rows = np.floor(y * 16)
    mortar = ((y * 16) % 1 < 0.14) | (((x * 8 + 0.5 * (rows % 2)) % 1) < 0.07)
    grey(Texture.BRICK, np.where(mortar, 1.35, 0.95 + 0.16 * smooth_noise(rng, TILE_PX, TILE_PX, 16, 1)))
    _paint_windows(atlas[Texture.WINDOWS], x, y, rng, (0.28, 0.72), (0.3, 0.8))
    _paint_windows(atlas[Texture.OFFICE], x, y, rng, (0.06, 0.94), (0.25, 0.92))
    grey(Texture.PLASTER, 1 + 0.14 * smooth_noise(rng, TILE_PX, TILE_PX, 4))
    grey(Texture.LEAVES, 0.9 + 0.65 * smooth_noise(rng, TILE_PX, TILE_PX, 10, 2))
    grey(Texture.CORRUGATED, 0.95 + 0.16 * np.sin(2 * np.pi * 8 * x))
    grey(Texture.CLOTH, 1 + 0.22 * smooth_noise(rng, TILE_PX, TILE_PX, 4))
    red = ((x + y) * 2) % 1 < 0.5
    atlas[Texture.STRIPES] = np.where(red[:, :, None], np.array([0.85, 0.12, 0.08]), 1.0)
    grey(Texture.BARK, 0.95 + 0.3 * smooth_noise(rng, TILE_PX, TILE_PX, 8, 2))
    return np.clip(atlas, 0.05, 2.0)


def _paint_windows(tile: np.ndarray, x, y, rng: np.random.Generator, columns, rows) -> None:
    """One window of a facade: a dark blue pane in a light frame; v grows upwards as z does."""
    tile[:] = (1 + 0.06 * smooth_noise(rng, TILE_PX, TILE_PX, 6))[:, :, None]
    frame = (x > columns[0] - 0.04) & (x < columns[1] + 0.04) & (y > rows[0] - 0.04) & (y < rows[1] + 0.04)
    pane = (x > columns[0]) & (x < columns[1]) & (y > rows[0]) & (y < rows[1]) & (np.abs(x - 0.5) > 0.015)
    tile[frame] = 1.2
    shine = (0.75 + 0.6 * y + 0.25 * smooth_noise(rng, TILE_PX, TILE_PX, 3))[:, :, None] * np.array([0.32, 0.38, 0.46])
    tile[pane] = shine[pane]
