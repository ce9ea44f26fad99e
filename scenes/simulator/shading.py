"""What colour does each pixel get? Sky, ground and meshes under the clip's light, seen through its air.

Pictures are kept as three planes, red, green and blue: what is the same for all three is computed once.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from scenes.simulator.ground import CELL_M, GROUND_REACH_M, LAMP_HALVINGS, MIP_STEPS
from scenes.simulator.meshes import Texture
from scenes.simulator.rays import CameraRays
from scenes.simulator.surfaces import ATLAS_ONE, atlas_levels
from scenes.simulator.textures import TILE_PX
from scenes.simulator.weather import SKY_COLUMNS, Light
from scenes.simulator.world import World

SHADOW_CELL_M, SHADOW_CELLS = 0.2, 500
"""Raster around the ego vehicle in which moving shadows are drawn."""
SHADOW_REACH_M = SHADOW_CELL_M * SHADOW_CELLS / 2 * 1.42
"""No corner of that raster is farther away."""
LEVEL_STARTS_PX = (3.0, 12.0)
"""Texels a pixel from which the blurred and the flat level of the atlas are used."""


LOOKUP_COLUMNS = 1024


@dataclass(frozen=True)
class Hits:
    """Rays that end on meshes; row = ray."""

    ray: np.ndarray
    """(P,) int64, ascending."""
    distance_m: np.ndarray
    """(P,) float32."""
    triangle: np.ndarray
    """(P,) int64 column of the look table."""
    barycentric: np.ndarray
    """(P, 2) float32."""

    def __len__(self) -> int:
        return len(self.ray)

    def part(self, rows) -> "Hits":
        """The hits of a slice, mask or index array."""
        return Hits(self.ray[rows], self.distance_m[rows], self.triangle[rows], self.barycentric[rows])


class Shader:
    """Colours of a clip; everything that stays the same from picture to picture is computed here."""

    def __init__(self, world: World, cameras: list[CameraRays]) -> None:
        light = world.light
        self.light, self.ground = light, world.ground
        self.haze_rgb = light.horizon_rgb.astype(np.float32)
        self.level = np.float32(light.ambient_rgb.mean() + 0.15)
        """Brightness of the scene that lamps add to."""
        clear = np.float32(np.exp(-GROUND_REACH_M * light.haze_per_m))
        sky = self.haze_rgb + (world.sky - self.haze_rgb) * clear
        self.sky = np.concatenate([sky, sky, sky[:, :1]], axis=1)  # twice round, so that no camera meets a seam
        self.lamp_light = np.ascontiguousarray(world.ground.lamp_light.mean(axis=2)) if light.lamps > 0 else None
        self.atlas = atlas_levels()
        self.look_at_ground = {rays.camera.name: self._ground_through_air(rays) for rays in cameras}

    def _ground_through_air(self, rays: CameraRays) -> tuple[np.ndarray, list[np.ndarray]]:
        """What the ground's colours (0 to 255) are multiplied by (H - top, W), and what is added to each plane."""
        sight = rays.ground
        clear = np.exp(sight.distance_m * np.float32(-self.light.haze_per_m))
        veil = [haze * (1 - clear) for haze in self.haze_rgb]
        if self.light.lamps > 0:
            x, y = np.moveaxis(sight.points_ego, -1, 0)
            clear *= 1 + head_lamps(self.light, x, y, np.zeros(1, np.float32)) / self.level
        return clear / np.float32(255), veil

    def shade(self, rays: CameraRays, world_from_ego: np.ndarray, shadow: np.ndarray, meshes: list[tuple[np.ndarray, Hits]]) -> np.ndarray:
        """(3, H, W) float32 display brightness of a picture; `meshes` are look tables with the picture rays that end on them.

        `shadow` (SHADOW_CELLS, SHADOW_CELLS) float32 is the share of light that moving things leave on the ground around
        the ego vehicle; its rows and columns run along world y and x.
        """
        planes = np.empty((3, rays.camera.height_px, rays.camera.width_px), dtype=np.float32)
        self._paint_sky(planes, rays, world_from_ego)
        self._paint_ground(planes, rays, world_from_ego, shadow)
        for look, hits in meshes:
            if len(hits):
                self._paint_meshes(planes, rays, world_from_ego, look, hits)
        return planes

    def _paint_sky(self, planes: np.ndarray, rays: CameraRays, world_from_ego: np.ndarray) -> None:
        bottom = rays.sky_bottom
        if bottom == 0:
            return
        yaw = np.arctan2(world_from_ego[1, 0], world_from_ego[0, 0])
        column = rays.sky_column[:bottom] + np.float32(yaw / (2 * np.pi) % 1 * SKY_COLUMNS)
        sky = cv2.remap(self.sky, column, rays.sky_row[:bottom], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        cv2.split(sky, [plane[:bottom] for plane in planes])

    def _paint_ground(self, planes: np.ndarray, rays: CameraRays, world_from_ego: np.ndarray, shadow: np.ndarray) -> None:
        sight = rays.ground
        if not len(sight.seen):
            return
        look = np.zeros((*sight.seen.shape, 3), dtype=np.uint8)
        for band in sight.bands:
            mip, cell_m = self.ground.mips[band.level], CELL_M * 2 ** MIP_STEPS[band.level]
            cells = cv2.transform(sight.points_ego[band.rows], raster_from_ego(world_from_ego, self.ground.origin_world, cell_m))
            colors = cv2.remap(mip, cells, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore[reportArgumentType, reportCallIssue]
            look[band.rows] = colors if band.mask is None else cv2.copyTo(colors, band.mask, look[band.rows])
        factor, veil = self.look_at_ground[rays.camera.name]
        near = (sight.distance_m < SHADOW_REACH_M).any(axis=1)
        if near.any():
            first = int(near.argmax())
            corner = world_from_ego[:2, 3] - SHADOW_CELL_M * SHADOW_CELLS / 2
            cells = cv2.transform(sight.points_ego[first:], raster_from_ego(world_from_ego, corner, SHADOW_CELL_M))
            share = cv2.remap(shadow, cells, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=1.0)  # pyright: ignore[reportArgumentType, reportCallIssue]
            factor = factor.copy()
            factor[first:] *= share
        overlap = max(rays.sky_bottom - sight.top, 0)
        for plane, color, haze in zip(planes, cv2.split(look), veil, strict=True):
            ground = cv2.add(cv2.multiply(color, factor, dtype=cv2.CV_32F), haze)
            plane[sight.top + overlap :] = ground[overlap:]
            np.copyto(plane[sight.top : sight.top + overlap], ground[:overlap], where=sight.seen[:overlap])

    def _paint_meshes(self, planes: np.ndarray, rays: CameraRays, world_from_ego: np.ndarray, look: np.ndarray, hits: Hits) -> None:
        u, v, du1, dv1, du2, dv2, red, green, blue, texture = look.take(hits.triangle, axis=1)
        first, second = hits.barycentric.T
        column = (u + first * du1 + second * du2).astype(np.int32) & (TILE_PX - 1)
        row = (v + first * dv1 + second * dv2).astype(np.int32) & (TILE_PX - 1)
        tile = texture.astype(np.int32)
        for start in LEVEL_STARTS_PX:
            tile += (hits.distance_m > np.float32(start * rays.camera.fx_px * 3.0 / TILE_PX)) * np.int32(len(Texture))
        texel = self.atlas.take((tile * TILE_PX + row) * TILE_PX + column).view(np.uint8).reshape(-1, 4)
        clear = np.exp(hits.distance_m * np.float32(-self.light.haze_per_m))
        veil = 1 - clear
        if self.lamp_light is not None:
            clear *= self._lamp_gain(rays, world_from_ego, hits, self.lamp_light)
        clear *= np.float32(1 / ATLAS_ONE)
        for channel, (plane, color) in enumerate(zip(planes, (red, green, blue), strict=True)):
            color *= texel[:, channel]
            color *= clear
            color += self.haze_rgb[channel] * veil
            plane.reshape(-1)[hits.ray] = color

    def _lamp_gain(self, rays: CameraRays, world_from_ego: np.ndarray, hits: Hits, lamp_light: np.ndarray) -> np.ndarray:
        """(P,) factor by which street lamps (not on the ground, where they are painted) and head lamps brighten meshes."""
        x, y, z = rays.origin_ego[:, None] + hits.distance_m * rays.axes_ego.take(hits.ray, axis=1)
        cells = cv2.transform(
            np.stack([x, y], axis=1)[None], raster_from_ego(world_from_ego, self.ground.origin_world, CELL_M * 2**LAMP_HALVINGS)
        )
        places = np.full((-(-len(hits) // LOOKUP_COLUMNS), LOOKUP_COLUMNS, 2), -9, dtype=np.float32)  # OpenCV's rows are limited
        places.reshape(-1, 2)[: len(hits)] = cells[0]
        light = cv2.remap(lamp_light, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)  # pyright: ignore[reportArgumentType, reportCallIssue]
        standing = light.reshape(-1)[: len(hits)]
        return 1 + (head_lamps(self.light, x, y, z) + standing) / self.level


def raster_from_ego(world_from_ego: np.ndarray, origin_world: np.ndarray, cell_m: float) -> np.ndarray:
    """(2, 3): (column, row) of a raster along the world's axes, of ground points in the ego frame."""
    offset = world_from_ego[:2, 3] - origin_world
    return np.concatenate([world_from_ego[:2, :2], offset[:, None]], axis=1) / cell_m


def head_lamps(light: Light, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Brightness that the ego vehicle's beam adds at points of its frame."""
    ahead = x - np.float32(3.5)
    aside = y / (np.float32(0.28) * np.abs(ahead) + np.float32(1.6))
    above = np.maximum(z - np.float32(0.4) - np.float32(0.01) * ahead, 0)
    beam = np.exp(-(aside * aside) - above * above / 2) / (1 + (ahead / 22) ** 2)
    return np.where(ahead > 0, beam * np.float32(0.75 * light.lamps), np.float32(0))
