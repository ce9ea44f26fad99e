"""Which rays does a camera cast, and which of them can meet an object at all?"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from scenes.cameras import Camera
from scenes.rigs import default_rig
from scenes.simulator.ground import CELL_M, GROUND_REACH_M, MIP_STARTS
from scenes.simulator.weather import SKY_COLUMNS, SKY_ROWS

TRUTH_SHRINK = 4
"""Depth and instance images are this much smaller than the pictures."""
TILE_PX = 8


def truth_camera(camera: Camera) -> Camera:
    """The camera of the depth and instance images."""
    return camera.resize(max(1, round(camera.width_px / TRUTH_SHRINK)), max(1, round(camera.height_px / TRUTH_SHRINK)))


@dataclass(frozen=True)
class GroundBand:
    """Picture rows (counted from `GroundSight.top`) in which one level of the ground's texture is looked up."""

    level: int
    rows: slice
    mask: np.ndarray | None
    """(rows, W) uint8, 255 where this level is meant; None: everywhere in these rows."""


@dataclass(frozen=True)
class GroundSight:
    """Where a camera's rays meet the ground; the ego vehicle stays level, so that this never changes."""

    top: int
    """First picture row with ground in it."""
    seen: np.ndarray
    """(H - top, W) bool: is it ground?"""
    distance_m: np.ndarray
    """(H - top, W) float32, at most `GROUND_REACH_M`."""
    points_ego: np.ndarray
    """(H - top, W, 2) float32 x, y."""
    bands: tuple[GroundBand, ...]


@dataclass(frozen=True)
class CameraRays:
    """Rays through every pixel centre of a camera and, behind them, of its truth images; computed once a process."""

    camera: Camera
    truth_hw: tuple[int, int]
    origin_ego: np.ndarray
    """(3,) float32."""
    rays_ego: np.ndarray
    """(N, 3) float32 unit vectors: H * W picture rays, then the truth rays."""
    ground_m: np.ndarray
    """(N,) float32 distance to the ground z = 0; inf where there is none or only beyond `GROUND_REACH_M`."""
    tile: np.ndarray
    """(N,) int32: tile of each ray."""
    tile_axis_ego: np.ndarray
    """(T, 3) float32 unit vectors."""
    tile_angle_rad: np.ndarray
    """(T,) float32 half angle of a cone around the axis that holds all rays of the tile."""
    sky_row: np.ndarray
    """(H, W) float32: row of the sky picture."""
    sky_column: np.ndarray
    """(H, W) float32: column of the sky picture for a vehicle that looks along world +x."""

    @property
    def num_pixels(self) -> int:
        """Rays that belong to the picture."""
        return self.camera.height_px * self.camera.width_px

    @cached_property
    def axes_ego(self) -> np.ndarray:
        """(3, N) float32: the rays axis by axis."""
        return np.ascontiguousarray(self.rays_ego.T)

    @cached_property
    def ground(self) -> GroundSight:
        """The picture's part of the ground."""
        return _ground_sight(self)

    @cached_property
    def sky_bottom(self) -> int:
        """The picture's rows from this one on hold no sky."""
        rows = np.flatnonzero(np.any(np.isinf(self.ground_m[: self.num_pixels]).reshape(self.sky_row.shape), axis=1))
        return int(rows[-1]) + 1 if len(rows) else 0

    def tiles_seeing(self, centers_ego: np.ndarray, radii_m: np.ndarray) -> np.ndarray:
        """(M, T) bool: which tiles may hold a ray that meets the ball? Never wrong when it says no."""
        offset = centers_ego - self.origin_ego
        distance = np.linalg.norm(offset, axis=1)[:, None]
        x, y, z = (offset / np.maximum(distance, 1e-6)).astype(np.float32).T[:, :, None]
        sine = np.clip(radii_m[:, None] / np.maximum(distance, radii_m[:, None] + 1e-6), 0, 1).astype(np.float32)
        axis_x, axis_y, axis_z = self._tile_axes
        cosine = x * axis_x + y * axis_y + z * axis_z  # not by a matrix product, whose threads would get in each other's way
        limit = np.sqrt(1 - sine * sine) * np.cos(self.tile_angle_rad) - sine * np.sin(self.tile_angle_rad)
        return (cosine >= limit) | (distance <= radii_m[:, None])

    def candidates(self, centers_ego: np.ndarray, radii_m: np.ndarray) -> np.ndarray:
        """(M, T) bool: which tiles may see which of M objects, each inside K balls (M, K, 3) of one radius (M,)?"""
        middle = centers_ego.mean(axis=1)
        reach = radii_m + np.linalg.norm(centers_ego - middle[:, None], axis=2).max(axis=1, initial=0.0)
        distance = np.linalg.norm(middle - self.origin_ego, axis=1)
        angle = np.arccos(np.clip((middle - self.origin_ego) @ self._cone[0] / np.maximum(distance, 1e-6), -1, 1))
        spread = np.arcsin(np.clip(reach / np.maximum(distance, 1e-6), 0, 1))
        near = np.flatnonzero((angle < self._cone[1] + spread) | (distance <= reach))
        seen = np.zeros((len(centers_ego), len(self.tile_angle_rad)), dtype=bool)
        for ball in range(centers_ego.shape[1]):
            seen[near] |= self.tiles_seeing(centers_ego[near, ball], radii_m[near])
        return seen

    @cached_property
    def _tile_axes(self) -> np.ndarray:
        return np.ascontiguousarray(self.tile_axis_ego.T)

    @cached_property
    def _cone(self) -> tuple[np.ndarray, float]:
        """Axis and half angle of a cone that holds all tiles."""
        axis = self.tile_axis_ego.mean(axis=0, dtype=np.float64)
        axis /= np.linalg.norm(axis)
        angle = np.arccos(np.clip(self.tile_axis_ego @ axis, -1, 1)) + self.tile_angle_rad
        return axis, float(angle.max()) + 1e-3


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
    origin_ego = camera.ego_from_cam[:3, 3].astype(np.float32)
    axis, angle = _tile_cones(camera)
    columns = -(-camera.width_px // TILE_PX)
    scale = np.array([camera.width_px / small.width_px, camera.height_px / small.height_px])
    in_picture = np.concatenate([pixels, (small_pixels + 0.5) * scale - 0.5])
    tile_xy = np.clip(np.round(in_picture), 0, [camera.width_px - 1, camera.height_px - 1]).astype(np.int32) // TILE_PX
    picture_rays = rays_ego[: len(pixels)].reshape(camera.height_px, camera.width_px, 3)
    elevation = np.arcsin(np.clip(picture_rays[..., 2], 0, 1)) / (np.pi / 2)
    azimuth = np.arctan2(picture_rays[..., 1], picture_rays[..., 0])
    return CameraRays(
        camera=camera,
        truth_hw=(small.height_px, small.width_px),
        origin_ego=origin_ego,
        rays_ego=rays_ego,
        ground_m=_ground_distance(origin_ego[2], rays_ego[:, 2]),
        tile=tile_xy[:, 1] * columns + tile_xy[:, 0],
        tile_axis_ego=axis.astype(np.float32),
        tile_angle_rad=angle.astype(np.float32),
        sky_row=(elevation * SKY_ROWS - 0.5).astype(np.float32),
        sky_column=((azimuth / (2 * np.pi) + 0.5) * SKY_COLUMNS - 0.5).astype(np.float32),
    )


def _ground_distance(height_m: np.floating, rise: np.ndarray) -> np.ndarray:
    distance = height_m / -np.minimum(rise, np.float32(-1e-6))
    return np.where((rise < 0) & (distance < GROUND_REACH_M), distance, np.float32(np.inf)).astype(np.float32)


def _ground_sight(rays: CameraRays) -> GroundSight:
    shape, n = rays.sky_row.shape, rays.num_pixels
    distance = rays.ground_m[:n].reshape(shape)
    holds = np.isfinite(distance).any(axis=1)
    top = int(holds.argmax()) if holds.any() else shape[0]
    distance = distance[top:]
    seen, near = np.isfinite(distance), np.minimum(distance, np.float32(GROUND_REACH_M))
    x, y, z = rays.axes_ego[:, :n].reshape(3, *shape)[:, top:]
    points_ego = np.stack([rays.origin_ego[0] + near * x, rays.origin_ego[1] + near * y], axis=-1)
    cells_a_pixel = near / np.float32(rays.camera.fx_px * CELL_M) / np.sqrt(np.clip(-z, 1e-3, 1))
    level = np.searchsorted(MIP_STARTS, cells_a_pixel.ravel(), side="right").reshape(near.shape) - 1
    bands = []
    for k in range(len(MIP_STARTS)):
        mask = (level == k) & seen
        rows = mask.any(axis=1).nonzero()[0]
        if len(rows):
            span = slice(int(rows[0]), int(rows[-1]) + 1)
            bands.append(GroundBand(k, span, None if mask[span].all() else np.where(mask[span], 255, 0).astype(np.uint8)))
    return GroundSight(top, seen, near, np.ascontiguousarray(points_ego), tuple(bands))


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
