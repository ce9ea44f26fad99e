"""What is the whole world of one clip: its ground, scenery, light, and where everybody is at any instant?"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from scenes.boxes import Boxes, box_corners
from scenes.geometry import rigid_from_parts, rotation_from_yaw, wrap_angle
from scenes.layers import Lane
from scenes.simulator.actors import EGO_CENTER_AHEAD_M, TICK_S, Traffic
from scenes.simulator.config import MIXED, SCENARIOS, WEATHERS, SimulationConfig
from scenes.simulator.ground import (
    CELL_M,
    OCCUPANCY_CELL_M,
    ROAD_MATERIALS,
    GroundRaster,
    GroundTexture,
    fill_polygon,
    ground_albedo,
    light_ground,
    paint_ground,
)
from scenes.simulator.roads import build_road_map
from scenes.simulator.scenery import Scenery, Solid, build_scenery
from scenes.simulator.spawn import EGO_SIZE_M, spawn_traffic
from scenes.simulator.weather import Light, make_light, paint_sky

LABEL_REACH_M = 80.0
"""Objects nearer than this to the ego vehicle are labelled and drawn as long as they exist."""
LEAD_S = 0.1
"""World time of a clip's first frame: cameras may fire a little before it."""
SETTLE_S = 2.0
"""Traffic runs this long before the clip starts."""
SHADOW_HALVING = 2


@dataclass
class World:
    """One clip's world; times are seconds from the clip's start."""

    traffic: Traffic
    scenery: Scenery
    light: Light
    sky: np.ndarray
    ground: GroundTexture
    lanes: list[Lane]
    columns: "StaticColumns"
    scenario: str
    info: dict = field(default_factory=dict)
    """More about the clip's origin, as JSON values."""

    def ego_at(self, time_s: float) -> np.ndarray:
        """`world_from_ego` (4, 4)."""
        poses, _ = self.traffic.poses_at(time_s)
        return rigid_from_parts(rotation_from_yaw(poses[0, 2]), np.array([poses[0, 0], poses[0, 1], 0.0]))

    def boxes_at(self, time_s: float) -> tuple[Boxes, np.ndarray]:
        """World boxes of everybody within `LABEL_REACH_M` of the ego vehicle, and their rows (M,) in `traffic.actors`."""
        poses, velocity = self.traffic.poses_at(time_s)
        row = np.flatnonzero(np.linalg.norm(poses[1:, :2] - poses[0, :2], axis=1) < LABEL_REACH_M)
        size, pose = self.traffic.sizes_m[row], poses[1 + row]
        box = np.concatenate([pose[:, :2], size[:, 2:] / 2, size, wrap_angle(pose[:, 2:]), velocity[1 + row]], axis=1)
        return Boxes.make(box, self.traffic.class_ids[row], self.traffic.track_ids[row]), row


@dataclass(frozen=True)
class StaticColumns:
    """Which heights are filled over every cell of the ground, a bit a voxel layer; and where the road is."""

    origin_world: np.ndarray
    """(2,) of cell (0, 0)'s centre."""
    filled: np.ndarray
    """(R, C) uint8: bit k says that layer k (half a metre from z = -1 + k / 2) holds something static."""
    road: np.ndarray
    """(R, C) uint8, 1 on the road."""


def build_world(config: SimulationConfig, rng: np.random.Generator, clip_index: int) -> World:
    """The procedural world of a clip."""
    scenario = SCENARIOS[clip_index % len(SCENARIOS)] if config.scenario == MIXED else config.scenario
    weather = pick_weather(config, rng)
    reach = {"highway": 26.0 * config.seconds, "parking": 0.0}.get(scenario, 13.0 * config.seconds)
    road_map = build_road_map(scenario, rng, reach)
    raster = paint_ground(road_map, rng)
    scenery = build_scenery(scenario, road_map, raster, rng)
    traffic = spawn_traffic(scenario, road_map, rng, config.seconds)
    traffic.run(SETTLE_S - 2 * TICK_S, -SETTLE_S)
    traffic.run(config.seconds + 0.3)
    return assemble(traffic, scenery, raster, make_light(weather, rng), scenario, rng)


def pick_weather(config: SimulationConfig, rng: np.random.Generator) -> str:
    """The weather asked for, or a random one, by day more often than not."""
    return str(rng.choice(WEATHERS, p=[0.42, 0.14, 0.14, 0.16, 0.14])) if config.weather == MIXED else config.weather


def assemble(traffic: Traffic, scenery: Scenery, raster: GroundRaster, light: Light, scenario: str, rng: np.random.Generator) -> World:
    """Lights the ground and rasters the static solids."""
    static_boxes = [solid_of_box(a.x_m, a.y_m, a.yaw_rad, a.body.size_m) for a in traffic.actors if a.is_static]
    shadow = static_shadow(raster, light, scenery.solids + static_boxes)
    ground = light_ground(raster, ground_albedo(raster, rng, light.wet), light, shadow, _lamp_light(raster, light, scenery))
    columns = static_columns(raster, scenery.solids)
    return World(traffic, scenery, light, paint_sky(light, rng), ground, traffic.road_map.lanes, columns, scenario)


def solid_of_box(x: float, y: float, yaw: float, size_m) -> Solid:
    """The prism of a labelled box that stands on the ground."""
    along, left = np.array([np.cos(yaw), np.sin(yaw)]) * size_m[0] / 2, np.array([-np.sin(yaw), np.cos(yaw)]) * size_m[1] / 2
    corners = np.array([x, y]) + np.stack([along + left, -along + left, -along - left, along - left])
    return Solid(corners, 0.0, size_m[2])


def solids_of_boxes(box_world: np.ndarray) -> list[Solid]:
    """The prisms of box rows (M, 9) that stand on the ground."""
    return [Solid(corners[:4, :2], 0.0, float(height)) for corners, height in zip(box_corners(box_world), box_world[:, 5], strict=True)]


def shadow_outlines(solids: list[Solid], light: Light) -> list[np.ndarray]:
    """Outline (P, 2) of each solid's shadow on the ground, its own footprint included."""
    slide = -light.sun_direction[:2] / max(light.sun_direction[2], 0.08)
    outlines = []
    for solid in solids:
        points = np.concatenate([solid.outline_world + slide * max(solid.z0_m, 0.0), solid.outline_world + slide * solid.z1_m])
        outlines.append(cv2.convexHull(points.astype(np.float32))[:, 0])
    return outlines


def static_shadow(raster: GroundRaster, light: Light, solids: list[Solid]) -> np.ndarray:
    """(R / 2, C / 2) uint8 raster, 255 where the sun is hidden; contact shadows in any light."""
    rows, columns = raster.material.shape
    dark = np.zeros((rows // SHADOW_HALVING, columns // SHADOW_HALVING), dtype=np.uint8)
    for outline in shadow_outlines(solids, light):
        fill_polygon(dark, raster.cells(outline) / SHADOW_HALVING, 235)
    return cv2.GaussianBlur(dark, (5, 5), 0)


def _lamp_light(raster: GroundRaster, light: Light, scenery: Scenery) -> np.ndarray:
    rows, columns = raster.material.shape[0] // 8, raster.material.shape[1] // 8
    brightness = np.zeros((rows, columns, 3), dtype=np.float32)
    if light.lamps == 0:
        return brightness
    reach = int(18 / (8 * CELL_M))
    offset = np.arange(-reach, reach + 1) * 8 * CELL_M
    for lamp in scenery.lamps_world:
        column, row = np.round(raster.cells(lamp[:2]) / 8).astype(int)
        pool = 1 / (1 + (offset[:, None] ** 2 + offset[None] ** 2) / 40) - 0.11
        window = np.s_[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        part = brightness[window]
        top, left = max(reach - row, 0), max(reach - column, 0)
        if part.size:
            piece = np.clip(pool[top : top + part.shape[0], left : left + part.shape[1]], 0, 1)
            part += piece[:, :, None].astype(np.float32) * np.array([1.0, 0.84, 0.6], np.float32) * light.lamps
    return brightness


def static_columns(raster: GroundRaster, solids: list[Solid]) -> StaticColumns:
    """Rasters of the static solids and the road at `OCCUPANCY_CELL_M`."""
    factor = OCCUPANCY_CELL_M / CELL_M
    rows, columns = (int(n / factor) for n in raster.material.shape)
    filled = np.zeros((rows, columns), dtype=np.uint8)
    scratch = np.zeros_like(filled)
    for solid in solids:
        bits = sum(1 << k for k in range(2, 8) if solid.z0_m < -1 + (k + 1) * 0.5 and solid.z1_m > -1 + k * 0.5 + 0.05)
        corners = raster.cells(solid.outline_world) / factor
        low = np.clip(np.floor(corners.min(axis=0)).astype(int) - 1, 0, None)
        high = np.ceil(corners.max(axis=0)).astype(int) + 2
        window = np.s_[low[1] : high[1], low[0] : high[0]]
        if filled[window].size and bits:
            fill_polygon(scratch, corners, 1)
            filled[window] |= scratch[window] * np.uint8(bits)
            scratch[window] = 0
    road = np.isin(raster.material, ROAD_MATERIALS).astype(np.uint8)
    road = cv2.resize(road, (columns, rows), interpolation=cv2.INTER_NEAREST)
    return StaticColumns(raster.origin_world, filled, road)


def ego_solid(world_from_ego: np.ndarray) -> Solid:
    """The ego vehicle's own prism, for its shadow."""
    yaw = float(np.arctan2(world_from_ego[1, 0], world_from_ego[0, 0]))
    center = world_from_ego[:2, 3] + EGO_CENTER_AHEAD_M * world_from_ego[:2, 0]
    return solid_of_box(center[0], center[1], yaw, EGO_SIZE_M)
