"""What is painted on the ground? Rasters of material and colour that cover the clip's part of the world."""

from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np

from scenes.simulator.paths import Path2D
from scenes.simulator.roads import RoadMap, Street, outside_junctions
from scenes.simulator.textures import smooth_noise
from scenes.simulator.weather import Light

CELL_M = 0.15
SUBCELL_BITS = 4
"""Fractional bits of the polygon corners handed to OpenCV."""
MIP_STEPS = (0, 2, 4)
"""Halvings of the colour raster for near, middle and far ground."""
MIP_STARTS = (0.0, 2.5, 10.0)
"""Cells a pixel from which each of them is used."""
LAMP_HALVINGS = 3
"""Halvings of the raster of street lamps' light."""
GROUND_REACH_M = 600.0
"""Ground farther away than this is not seen."""
OCCUPANCY_CELL_M = 0.25


class Ground(IntEnum):
    """Material of a ground cell."""

    GRASS = 0
    PAVING = 1
    ASPHALT = 2
    WHITE = 3
    YELLOW = 4
    KERB = 5
    BUILT = 6
    """Under a building."""


ROAD_MATERIALS = (Ground.ASPHALT, Ground.WHITE, Ground.YELLOW)


@dataclass
class GroundRaster:
    """Cells of `CELL_M`; row r, column c is centred on origin + (c, r) * CELL_M."""

    origin_world: np.ndarray
    """(2,) x, y of cell (0, 0)."""
    material: np.ndarray
    """(R, C) uint8, `Ground`."""

    def cells(self, points_world: np.ndarray) -> np.ndarray:
        """Continuous (column, row) (..., 2) of points (..., 2)."""
        return (points_world - self.origin_world) / CELL_M

    def at(self, points_world: np.ndarray) -> np.ndarray:
        """Material (...) at points (..., 2); grass outside."""
        index = np.round(self.cells(points_world)).astype(np.int64)
        rows, columns = self.material.shape
        inside = (index >= 0).all(-1) & (index[..., 0] < columns) & (index[..., 1] < rows)
        index = np.where(inside[..., None], index, 0)
        return np.where(inside, self.material[index[..., 1], index[..., 0]], Ground.GRASS)

    def fill(self, polygon_world: np.ndarray, material: Ground) -> None:
        """Paints a polygon (P, 2)."""
        fill_polygon(self.material, self.cells(polygon_world), int(material))

    def stroke(self, points_world: np.ndarray, width_m: float, material: Ground) -> None:
        """Paints a polyline (P, 2) with a width: one quadrangle a segment."""
        width = max(1, round(width_m / CELL_M))
        points = np.round(self.cells(points_world) * 2**SUBCELL_BITS).astype(np.int32)
        cv2.polylines(self.material, [points.reshape(-1, 1, 2)], False, int(material), width, cv2.LINE_8, SUBCELL_BITS)


def fill_polygon(image: np.ndarray, corners_px: np.ndarray, value: int) -> None:
    """Fills a polygon (P, 2) given as (column, row) in an image."""
    fixed = np.round(corners_px * 2**SUBCELL_BITS).astype(np.int32)
    cv2.fillPoly(image, [fixed.reshape(-1, 1, 2)], value, cv2.LINE_8, SUBCELL_BITS)


def paint_ground(road_map: RoadMap, rng: np.random.Generator) -> GroundRaster:
    """The material raster of a road map: paving, asphalt, markings, crosswalks, stalls."""
    raster = blank_raster(np.concatenate([street.middle.points_world for street in road_map.streets] + road_map.plazas))
    for street in road_map.streets:
        if street.sidewalk_m > 0:
            _ribbon(raster, street.middle, street.half_width_m + street.sidewalk_m, Ground.PAVING)
            _ribbon(raster, street.middle, street.half_width_m + 0.2, Ground.KERB)
    for polygon in road_map.plazas:
        raster.fill(polygon, Ground.ASPHALT)
    for street in road_map.streets:
        _ribbon(raster, street.middle, street.half_width_m, Ground.ASPHALT)
        if street.median_m > 0.5:
            _ribbon(raster, street.middle, street.median_m / 2, Ground.GRASS)
    for junction in road_map.junctions:
        angle = np.linspace(0, 2 * np.pi, 25)
        raster.fill(junction.center_world + junction.half_m * 1.2 * np.c_[np.cos(angle), np.sin(angle)], Ground.ASPHALT)
    for street in road_map.streets:
        _mark_street(raster, street, road_map, bool(rng.random() < 0.4))
    for route in road_map.routes:
        for stop in route.stops:
            _mark_stop_line(raster, route.path, stop.arc_m, 2 * route.half_room_m)
    for path, _ in road_map.crosswalks:
        mark_crosswalk(raster, path)
    for x, y, yaw in road_map.stalls:
        _mark_stall(raster, x, y, yaw)
    return raster


def blank_raster(points_world: np.ndarray, margin_m: float = 45.0) -> GroundRaster:
    """Grass around all points (P, 2)."""
    points = points_world
    low, high = points.min(axis=0) - margin_m, points.max(axis=0) + margin_m
    columns, rows = np.ceil((high - low) / CELL_M).astype(int) // 16 * 16 + 16
    return GroundRaster(low, np.full((rows, columns), Ground.GRASS, dtype=np.uint8))


def _ribbon(raster: GroundRaster, middle: Path2D, half_width_m: float, material: Ground) -> None:
    left, right = middle.offset(half_width_m).points_world, middle.offset(-half_width_m).points_world
    raster.fill(np.concatenate([left, right[::-1]]), material)


def _mark_street(raster: GroundRaster, street: Street, road_map: RoadMap, yellow: bool) -> None:
    half_median = street.median_m / 2

    def line(left_m: float, material: Ground, dash_m: float = 0.0) -> None:
        for piece in outside_junctions(street.middle.offset(left_m), road_map.junctions, 4.5):
            for part in dashes(Path2D(piece), dash_m) if dash_m else [piece]:
                raster.stroke(part, 0.15, material)

    if street.lane_width_m < 3.65 and not road_map.junctions:
        return  # aisles of a parking lot carry no lines
    middle = Ground.YELLOW if yellow else Ground.WHITE
    for side in (-1, 1):
        line(side * (half_median + 0.12), middle)
        for index in range(1, street.lanes_each_way):
            line(side * (half_median + index * street.lane_width_m), Ground.WHITE, 3.0)
        line(side * (half_median + street.lanes_each_way * street.lane_width_m), Ground.WHITE)


def _mark_stop_line(raster: GroundRaster, path: Path2D, arc_m: float, lane_width_m: float) -> None:
    point, yaw = path.at(arc_m), float(path.yaw_at(arc_m))
    along, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    half = 0.45 * lane_width_m
    raster.fill(
        np.stack([point + half * left, point - half * left, point - half * left + 0.45 * along, point + half * left + 0.45 * along]),
        Ground.WHITE,
    )


def dashes(path: Path2D, dash_m: float) -> list[np.ndarray]:
    """Segments (2, 2) of `dash_m` with gaps of twice that."""
    return [path.at(np.array([start, start + dash_m])) for start in np.arange(0, path.length_m - dash_m, 3 * dash_m)]


def mark_crosswalk(raster: GroundRaster, path: Path2D) -> None:
    """Stripes across a middle line over the road."""
    yaw = float(path.yaw_at(path.length_m / 2))
    across = np.array([-np.sin(yaw), np.cos(yaw)]) * 1.8
    along = np.array([np.cos(yaw), np.sin(yaw)]) * 0.45
    for arc in np.arange(0.6, path.length_m - 0.6, 0.95):
        point = path.at(arc)
        raster.fill(np.stack([point - across, point + across, point + across + along, point - across + along]), Ground.WHITE)


def _mark_stall(raster: GroundRaster, x: float, y: float, yaw: float) -> None:
    along, left = np.array([np.cos(yaw), np.sin(yaw)]) * 2.6, np.array([-np.sin(yaw), np.cos(yaw)]) * 1.35
    for side in (-1, 1):
        raster.stroke(np.array([x, y]) + side * left + np.stack([-along, along]), 0.12, Ground.WHITE)


def ground_albedo(raster: GroundRaster, rng: np.random.Generator, wet: float) -> np.ndarray:
    """(R, C, 3) uint8 colours of the dry or wet ground: palette times noise of several sizes."""
    grass = np.array([[0.28, 0.38, 0.17], [0.36, 0.36, 0.2], [0.42, 0.38, 0.3], [0.5, 0.5, 0.49]])[rng.integers(4)]
    asphalt = rng.uniform(0.22, 0.42) * np.array([1.0, 1.0, rng.uniform(0.98, 1.05)])
    paint = rng.uniform(0.75, 0.95)
    paving = rng.uniform(0.45, 0.62) * np.array([1.0, 0.98, 0.94])
    white, yellow = paint * np.ones(3), paint * np.array([1.0, 0.74, 0.17])
    palette = np.stack([grass, paving, asphalt, white, yellow, np.array([0.66, 0.65, 0.62]), np.full(3, 0.4)])
    palette[1:3] *= 1 - 0.35 * wet
    rows, columns = raster.material.shape
    coarse, fine = smooth_noise(rng, 512, 512, 4, 4), rng.normal(0, 1, (256, 256)).astype(np.float32)
    noise = 1 + 0.16 * cv2.resize(coarse, (1024, 1024)) + 0.05 * np.tile(fine, (4, 4))
    tile = cv2.merge([np.clip(noise * 128, 0, 255).astype(np.uint8)] * 3)
    table = np.zeros((256, 1, 3), dtype=np.uint8)
    table[: len(palette), 0] = np.clip(palette * 255, 0, 255)
    colors = cv2.applyColorMap(raster.material, table)
    return cv2.multiply(colors, np.tile(tile, (-(-rows // 1024), -(-columns // 1024), 1))[:rows, :columns], scale=1 / 128)


@dataclass(frozen=True)
class GroundTexture:
    """The lit ground, ready to be looked up."""

    origin_world: np.ndarray
    mips: tuple[np.ndarray, ...]
    """(R / 2**k, C / 2**k, 3) uint8 for the k of `MIP_STEPS`."""
    lamp_light: np.ndarray
    """(R / 8, C / 8, 3) float32: light of street lamps, for what stands there."""


def light_ground(raster: GroundRaster, albedo: np.ndarray, light: Light, shadow: np.ndarray, lamp_light: np.ndarray) -> GroundTexture:
    """Albedo times light; `shadow` (R / 2, C / 2) uint8 (255 dark), `lamp_light` (R / 8, C / 8, 3)."""
    rows, columns = raster.material.shape
    lit = (1 - shadow.astype(np.float32) / 255)[:, :, None] * (light.sun_rgb * light.sun_direction[2]).astype(np.float32)
    lit += light.ambient_rgb.astype(np.float32)
    if light.lamps > 0:
        lit += cv2.resize(lamp_light, (lit.shape[1], lit.shape[0]))
    full = cv2.resize(np.clip(lit * 128, 0, 255).astype(np.uint8), (columns, rows))
    mips = [cv2.multiply(albedo, full, scale=1 / 128)]
    for _ in range(MIP_STEPS[-1]):
        mips.append(cv2.pyrDown(mips[-1]))
    return GroundTexture(raster.origin_world, tuple(mips[k] for k in MIP_STEPS), lamp_light)
