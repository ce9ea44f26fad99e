"""How does a recorded log drive again in the simulator: its tracks, its ego path and its map, in new clothes?

The recording's world is moved so that the drive starts near the origin, and flattened: heights, pitch and roll are
dropped, boxes stand on the plane. Objects that hardly move over the recording stand still for the whole clip.
"""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from scenes.boxes import CLASS_NAMES, Box3D
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, yaw_from_rotation
from scenes.layers import LabelLayer, Lane, LaneType
from scenes.simulator.actors import TICK_S, Actor, Driver, Traffic
from scenes.simulator.bodies import Body, make_body
from scenes.simulator.config import SimulationConfig
from scenes.simulator.ground import Ground, GroundRaster, blank_raster, dashes, mark_crosswalk
from scenes.simulator.paths import Path2D
from scenes.simulator.roads import RoadMap
from scenes.simulator.scenery import scenery_along
from scenes.simulator.spawn import EGO_SIZE_M
from scenes.simulator.weather import make_light
from scenes.simulator.world import LEAD_S, World, assemble, pick_weather, solid_of_box

LAYER = "truth"
STILL_M = 0.6
"""Tracks that stay within this distance of their middle stand still."""
EDGE_S = 0.15
"""A track is carried on straight for this long before its first and after its last box."""


@dataclass
class Replayed(Actor):
    """An object that repeats a recorded motion; where the recording has no box, it does not exist (NaN)."""

    times_s: np.ndarray = field(default_factory=lambda: np.zeros(1))
    poses: np.ndarray = field(default_factory=lambda: np.zeros((1, 3)))
    """(T, 3) x, y, continuous yaw at the recorded times."""


@dataclass(frozen=True)
class Track:
    """One recorded object."""

    class_id: int
    size_m: tuple[float, float, float]
    times_s: np.ndarray
    poses: np.ndarray
    """(T, 3) x, y, continuous yaw in the shifted world."""

    @property
    def stands(self) -> bool:
        """Whether it hardly moves."""
        return bool(np.linalg.norm(self.poses[:, :2] - np.median(self.poses[:, :2], axis=0), axis=1).max() < STILL_M)


def check_replay(path: Path) -> None:
    """Refuses a clip that cannot be replayed."""
    clip = Clip.open(path)
    if not any(len(boxes) for boxes in clip.layer(LAYER).boxes_world.values()):
        raise DataError(f"{path}: expected recorded tracks in the layer {LAYER!r}, got none; import a log with labels")


def replayed_world(config: SimulationConfig, rng: np.random.Generator, clip_index: int) -> World:
    """The world of a recorded clip; the n-th clip starts n clip lengths later (and begins again at the end)."""
    assert config.replay is not None
    clip = Clip.open(config.replay)
    layer = clip.layer(LAYER)
    first_ns, last_ns = clip.frames[0].timestamp_ns, clip.frames[-1].timestamp_ns
    spare_s = max((last_ns - first_ns) / NS_PER_S - config.seconds, 0.0)
    start_ns = first_ns + round((clip_index * config.seconds) % (spare_s + 1e-9) * NS_PER_S)
    zero_ns = start_ns - round(LEAD_S * NS_PER_S)
    origin = clip.trajectory.at(start_ns)[:2, 3]
    ticks = int(np.ceil((config.seconds + 0.3) / TICK_S)) + 2
    ego_poses = _ego_poses(clip, zero_ns + np.round(np.arange(ticks) * TICK_S * NS_PER_S).astype(np.int64), origin)
    tracks = recorded_tracks(clip, layer, zero_ns, origin)
    lanes = [Lane(lane.lane_id, lane.type, _flat(lane.points_world, origin)) for lane in layer.lanes]
    traffic = _traffic(tracks, ego_poses, lanes, rng)
    way = _way(ego_poses)
    raster = paint_recorded(lanes, way, tracks)
    light = make_light(pick_weather(config, rng), rng)
    world = assemble(traffic, scenery_along(way, raster, rng), raster, light, "replay", rng)
    source = str(clip.info.get("dataset", clip.name))
    world.info.update(
        replay_of=clip.name, dataset=f"surround4d simulator, replay of {source}", licence=clip.info.get("licence", "Apache-2.0")
    )
    return world


def _flat(points_world: np.ndarray, origin: np.ndarray) -> np.ndarray:
    return np.concatenate([points_world[:, :2] - origin, np.zeros((len(points_world), 1))], axis=1)


def _ego_poses(clip: Clip, stamps_ns: np.ndarray, origin: np.ndarray) -> np.ndarray:
    world_from_ego = clip.trajectory.at(stamps_ns)
    yaw = np.unwrap(yaw_from_rotation(world_from_ego[:, :3, :3]))
    return np.concatenate([world_from_ego[:, :2, 3] - origin, yaw[:, None]], axis=1)


def recorded_tracks(clip: Clip, layer: LabelLayer, zero_ns: int, origin: np.ndarray) -> list[Track]:
    """Every track of a layer, by track id; times in seconds from `zero_ns`."""
    times: dict[int, list[float]] = {}
    rows: dict[int, list[np.ndarray]] = {}
    classes: dict[int, int] = {}
    for frame, boxes in sorted(layer.boxes_world.items()):
        time_s = (clip.frames[frame].timestamp_ns - zero_ns) / NS_PER_S
        for box, class_id, track_id, ignored in zip(boxes.box, boxes.class_id, boxes.track_id, boxes.ignore, strict=True):
            if track_id >= 0 and not ignored:
                times.setdefault(int(track_id), []).append(time_s)
                rows.setdefault(int(track_id), []).append(box)
                classes[int(track_id)] = int(class_id)
    tracks = []
    for track_id in sorted(times):
        box = np.stack(rows[track_id])
        poses = np.c_[box[:, :2] - origin, np.unwrap(box[:, Box3D.YAW])]
        size = tuple(float(v) for v in np.median(box[:, 3:6], axis=0))
        tracks.append(Track(classes[track_id], size, np.array(times[track_id]), poses))  # pyright: ignore[reportArgumentType]
    return tracks


def _traffic(tracks: list[Track], ego_poses: np.ndarray, lanes: list[Lane], rng: np.random.Generator) -> Traffic:
    """Actors with their whole history already known."""
    ego = Driver(-1, Body(0, EGO_SIZE_M, make_body("car", rng).mesh), *map(float, ego_poses[0]))  # pyright: ignore[reportArgumentType]
    actors: list[Actor] = []
    columns = [ego_poses]
    ticks_s = np.arange(len(ego_poses)) * TICK_S
    for number, track in enumerate(tracks):
        body = make_body(CLASS_NAMES[track.class_id], rng, track.size_m, ridden=not track.stands)
        if track.stands:
            x, y, yaw = (float(v) for v in np.median(track.poses, axis=0))
            actors.append(Actor(number, body, x, y, yaw))
            columns.append(np.tile([x, y, yaw], (len(ticks_s), 1)))
        else:
            actors.append(Replayed(number, body, *map(float, track.poses[0]), times_s=track.times_s, poses=track.poses))
            columns.append(resample(track, ticks_s))
    return Traffic(RoadMap(lanes=lanes), ego, actors, np.stack(columns, axis=1))


def resample(track: Track, times_s: np.ndarray) -> np.ndarray:
    """Poses (N, 3) at instants: interpolated, carried on for `EDGE_S` beyond the ends, NaN where the track does not exist."""
    poses = np.stack([np.interp(times_s, track.times_s, track.poses[:, k]) for k in range(3)], axis=1)
    if len(track.times_s) > 1:
        for end, neighbour in ((0, 1), (-1, -2)):
            rate = (track.poses[end] - track.poses[neighbour]) / (track.times_s[end] - track.times_s[neighbour])
            beyond = times_s < track.times_s[0] if end == 0 else times_s > track.times_s[-1]
            poses[beyond] += (times_s[beyond] - track.times_s[end])[:, None] * rate
    gone = (times_s < track.times_s[0] - EDGE_S) | (times_s > track.times_s[-1] + EDGE_S)
    poses[gone] = np.nan
    return poses


def _way(ego_poses: np.ndarray) -> Path2D:
    """The ego vehicle's way, carried 60 m on at both ends."""
    heading = np.stack([np.cos(ego_poses[[0, -1], 2]), np.sin(ego_poses[[0, -1], 2])], axis=1)
    points = [ego_poses[0, :2] - 60 * heading[0], *ego_poses[:, :2], ego_poses[-1, :2] + 60 * heading[1]]
    kept = [points[0]]
    for point in points[1:]:
        if np.linalg.norm(point - kept[-1]) > 1.0:
            kept.append(point)
    way = Path2D(np.array(kept))
    return way.cut(0, way.length_m)


def paint_recorded(lanes: list[Lane], way: Path2D, tracks: list[Track]) -> GroundRaster:
    """Asphalt along all centrelines, the ego way and vehicles' tracks; lines and crossings from the map, if there is one."""
    near = [lane for lane in lanes if np.linalg.norm(lane.points_world[:, None, :2] - way.points_world[None, ::10], axis=2).min() < 110]
    raster = blank_raster(way.points_world, 120.0)
    driven = [track.poses[:, :2] for track in tracks if track.class_id <= 4 and not track.stands]
    roads = [way.points_world, *driven, *(lane.points_world[:, :2] for lane in near if lane.type is LaneType.CENTRELINE)]
    for width, material in ((9.0, Ground.PAVING), (4.2, Ground.ASPHALT)):
        for points in roads:
            raster.stroke(points, width, material)
    for lane in near:
        points = lane.points_world[:, :2]
        if lane.type is LaneType.DIVIDER:
            for part in dashes(Path2D(points), 3.0):
                raster.stroke(part, 0.15, Ground.WHITE)
        elif lane.type is LaneType.ROAD_EDGE:
            raster.stroke(points, 0.2, Ground.KERB)
        elif lane.type is LaneType.CROSSING:
            _paint_crossing(raster, points)
    for track in tracks:
        if track.stands and track.class_id != CLASS_NAMES.index("pedestrian"):
            outline = solid_of_box(*np.median(track.poses, axis=0), track.size_m).outline_world  # pyright: ignore[reportCallIssue]
            if (raster.at(outline) == Ground.GRASS).any():
                raster.fill(outline, Ground.PAVING)
    return raster


def _paint_crossing(raster: GroundRaster, outline_world: np.ndarray) -> None:
    (x, y), (a, b), angle_deg = cv2.minAreaRect(outline_world.astype(np.float32))
    angle = np.deg2rad(angle_deg) + (0 if a >= b else np.pi / 2)
    half = max(a, b) / 2 * np.array([np.cos(angle), np.sin(angle)])
    if max(a, b) > 2.5:
        mark_crosswalk(raster, Path2D(np.array([x, y]) + np.stack([-half, half])))
