"""Which rays does a camera cast, and which of them can meet an object at all?"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from scenes.cameras import Camera
from scenes.rigs import default_rig
from scenes.simulator.weather import SKY_COLUMNS, SKY_ROWS

TRUTH_SHRINK = 4
"""Depth and instance images are this much smaller than the pictures."""
TILE_PX = 8


def truth_camera(camera: Camera) -> Camera:
    """The camera of the depth and instance images."""
    return camera.resize(max(1, round(camera.width_px / TRUTH_SHRINK)), max(1, round(camera.height_px / TRUTH_SHRINK)))


@dataclass(frozen=True)
class CameraRays:
    """Rays through every pixel centre of a camera and, behind them, of its truth images; computed once a clip."""

    camera: Camera
    truth_hw: tuple[int, int]
    origin_ego: np.ndarray
    """(3,) float32."""
    rays_ego: np.ndarray
    """(N, 3) float32 unit vectors: H * W picture rays, then the truth rays."""
    tile: np.ndarray
    """(N,) int32: tile of each ray."""
    tile_axis_ego: np.ndarray
    """(T, 3) unit vectors."""
    tile_angle_rad: np.ndarray
    """(T,) half angle of a cone around the axis that holds all rays of the tile."""
    sky_row: np.ndarray
    """(H * W,) float32: row of the sky picture."""
    sky_column: np.ndarray
    """(H * W,) float32: column of the sky picture for a vehicle that looks along world +x."""

    @property
    def num_pixels(self) -> int:
        """Rays that belong to the picture."""
        return self.camera.height_px * self.camera.width_px

    def tiles_seeing(self, centers_ego: np.ndarray, radii_m: np.ndarray) -> np.ndarray:
        """(T, M) bool: may a ray of the tile meet the ball? Never wrong when it says no."""
        offset = centers_ego - self.origin_ego
        distance = np.linalg.norm(offset, axis=1)
        direction = offset / np.maximum(distance, 1e-6)[:, None]
        spread = np.arcsin(np.clip(radii_m / np.maximum(distance, radii_m + 1e-6), 0, 1))
        inside = distance <= radii_m
        cosine = np.clip(self.tile_axis_ego @ direction.T, -1, 1)
        limit = np.minimum(self.tile_angle_rad[:, None] + spread[None], np.pi)
        return (cosine >= np.cos(limit)) | inside[None]


@lru_cache(maxsize=2)
def default_rays(height_px: int, width_px: int) -> tuple[CameraRays, ...]:
    """The rays of the default rig; kept, because every clip of a run has the same rig."""
    return tuple(camera_rays(camera) for camera in default_rig(height_px, width_px).cameras)


def camera_rays(camera: Camera) -> CameraRays:
    """The rays of a camera, in the frame of the ego vehicle at capture time."""
    small = truth_camera(camera)
    pixels, small_pixels = _pixel_centers(camera.height_px, camera.width_px), _pixel_centers(small.height_px, small.width_px)
    rays_cam = np.concatenate([camera.unproject(pixels), small.unproject(small_pixels)])
    rays_ego = (rays_cam @ camera.ego_from_cam[:3, :3].T).astype(np.float32)
    axis, angle = _tile_cones(camera)
    columns = -(-camera.width_px // TILE_PX)
    scale = np.array([camera.width_px / small.width_px, camera.height_px / small.height_px])
    in_picture = np.concatenate([pixels, (small_pixels + 0.5) * scale - 0.5])
    tile_xy = np.clip(np.round(in_picture), 0, [camera.width_px - 1, camera.height_px - 1]).astype(np.int32) // TILE_PX
    picture_rays = rays_ego[: len(pixels)]
    elevation = np.arcsin(np.clip(picture_rays[:, 2], 0, 1)) / (np.pi / 2)
    azimuth = np.arctan2(picture_rays[:, 1], picture_rays[:, 0])
    return CameraRays(
        camera=camera,
        truth_hw=(small.height_px, small.width_px),
        origin_ego=camera.ego_from_cam[:3, 3].astype(np.float32),
        rays_ego=rays_ego,
        tile=tile_xy[:, 1] * columns + tile_xy[:, 0],
        tile_axis_ego=axis,
        tile_angle_rad=angle,
        sky_row=(elevation * SKY_ROWS - 0.5).astype(np.float32),
        sky_column=((azimuth / (2 * np.pi) + 0.5) * SKY_COLUMNS - 0.5).astype(np.float32),
    )


def _pixel_centers(height_px: int, width_px: int) -> np.ndarray:
    v, u = np.mgrid[0:height_px, 0:width_px]
    return np.stack([u, v], axis=-1).reshape(-1, 2).astype(np.float64)


def _tile_cones(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Axis and half angle of each tile, from rays around its border (with half a pixel and a little slack)."""
    rows, columns = -(-camera.height_px // TILE_PX), -(-camera.width_px // TILE_PX)
    top, left = np.meshgrid(np.arange(rows) * TILE_PX, np.arange(columns) * TILE_PX, indexing="ij")
    edge = np.linspace(-0.5, TILE_PX - 0.5, 5)
    grid = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 2)
    pixels = np.stack([left, top], axis=-1).reshape(-1, 1, 2) + grid
    pixels = np.minimum(pixels, [camera.width_px - 0.5, camera.height_px - 0.5])
    rays_ego = camera.unproject(pixels) @ camera.ego_from_cam[:3, :3].T
    axis = rays_ego.mean(axis=1)
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.arccos(np.clip(np.einsum("tpi,ti->tp", rays_ego, axis), -1, 1)).max(axis=1)
    return axis, 1.02 * angle + 1e-3
