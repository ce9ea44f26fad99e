"""How does one clip come about, from its seed to its folder?"""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from scenes.clips import ClipWriter, View, write_clip
from scenes.geometry import NS_PER_S, Trajectory
from scenes.layers import DEPTH_UNIT_M, LabelLayer, write_image16, write_layer_files, write_occupancy
from scenes.rigs import Rig, default_rig
from scenes.simulator.config import SimulationConfig
from scenes.simulator.rays import CameraRays, default_rays
from scenes.simulator.renderer import Moment, Renderer
from scenes.simulator.replay import replayed_world
from scenes.simulator.truth import occupancy_truth, with_visibility
from scenes.simulator.world import LEAD_S, World, build_world

START_NS = 1_000_000_000
"""Time stamp of a clip's first frame."""
OFFSET_GROUPS_S = {"front": -0.012, "left": 0.006, "right": 0.006, "rear": 0.024}
"""Capture time minus frame time, by the first part of the camera's name: cameras of one group fire together."""
EGO_POSE_HZ = 50


def capture_offsets(rig: Rig, rng: np.random.Generator) -> dict[str, float]:
    """Seconds from the frame's time to each camera's capture, within 30 ms, fixed for a clip."""
    groups = sorted({name.split("_")[0] for name in rig.names})
    shift = dict(zip(groups, rng.integers(-4, 5, len(groups)) / 1000, strict=True))
    shift["right"] = shift.get("left", 0.0)
    return {name: OFFSET_GROUPS_S.get(name.split("_")[0], 0.0) + float(shift[name.split("_")[0]]) for name in rig.names}


def clip_name(config: SimulationConfig, clip_index: int) -> str:
    """Folder name of a clip."""
    return f"{clip_prefix(config)}{clip_index:05d}"


def clip_prefix(config: SimulationConfig) -> str:
    """What the folder names of all clips of a run begin with."""
    return f"{'sim' if config.replay is None else 'replay'}_{config.seed:05d}_"


def simulate_clip(path: Path, config: SimulationConfig, clip_index: int, threads: int = 1) -> None:
    """Simulates one clip and writes it to the folder `path`, atomically; the same bytes for the same config and index.

    Raises `DataError` if the folder exists or cannot be written.
    """
    rng = np.random.default_rng([config.seed, clip_index])
    world = build_world(config, rng, clip_index) if config.replay is None else replayed_world(config, rng, clip_index)
    rig = default_rig(*config.size_hw)
    info = {
        "dataset": "surround4d simulator",
        "licence": "Apache-2.0",
        "description": f"simulated {world.scenario}, {world.light.weather}",
        "scenario": world.scenario,
        "weather": world.light.weather,
        "simulation": settings_of(config),
        **world.info,
    }
    with write_clip(path, path.name, rig, ego_trajectory(world, config), info) as writer:
        _render_clip(writer, world, rig, config, rng, threads)


def settings_of(config: SimulationConfig) -> dict:
    """The settings that decide a clip's bytes, as JSON values."""
    replay = None if config.replay is None else config.replay.name
    return {**asdict(config), "size_hw": list(config.size_hw), "replay": replay}


def ego_trajectory(world: World, config: SimulationConfig) -> Trajectory:
    """The ego path every 20 ms, from a little before the first frame to a little after the last."""
    count = int((config.num_frames - 1) / config.hz * EGO_POSE_HZ) + 2 * EGO_POSE_HZ // 10 + 1
    times_s = np.arange(count) / EGO_POSE_HZ
    stamps = START_NS + np.round((times_s - LEAD_S) * NS_PER_S).astype(np.int64)
    return Trajectory(stamps, np.stack([world.ego_at(float(t)) for t in times_s]))


def _render_clip(writer: ClipWriter, world: World, rig: Rig, config: SimulationConfig, rng: np.random.Generator, threads: int) -> None:
    cameras = list(default_rays(*config.size_hw))
    offsets = capture_offsets(rig, rng)
    renderer = Renderer(world, cameras, rng, threads)
    settings = {key: value for key, value in asdict(config).items() if key != "replay"}
    layer = LabelLayer(
        "truth", lanes=world.lanes, meta={"created_by": "surround4d sim", "config": {**settings, "size_hw": list(config.size_hw)}}
    )
    folder = writer.layer_folder("truth")
    for frame in range(config.num_frames):
        time_s = LEAD_S + frame / config.hz
        views, pixels = _render_frame(writer, renderer, cameras, offsets, frame, time_s, config.jpeg_quality, folder)
        world_from_ego = world.ego_at(time_s)
        writer.add_frame(stamp_ns(time_s), world_from_ego, views)
        boxes_world, rows = world.boxes_at(time_s)
        layer.boxes_world[frame] = with_visibility(boxes_world, *pixels[rows].T)
        write_occupancy(folder, frame, occupancy_truth(world.columns, world_from_ego, boxes_world))
    write_layer_files(folder, layer)


def stamp_ns(time_s: float) -> int:
    """Time stamp of a world time."""
    return START_NS + round((time_s - LEAD_S) * NS_PER_S)


def _render_frame(writer: ClipWriter, renderer: Renderer, cameras: list[CameraRays], offsets: dict[str, float], frame: int, time_s: float,
                  jpeg_quality: int, folder: Path) -> tuple[list[View], np.ndarray]:  # fmt: skip
    """Renders and writes every camera of a frame; returns the views and the (visible, unhidden) pixels (A, 2) of every actor."""
    moments = {at_s: Moment(renderer, at_s) for at_s in sorted({time_s + offset for offset in offsets.values()})}
    views, pixels = [], np.zeros((len(renderer.world.traffic.actors), 2), dtype=np.int64)
    for rays in cameras:
        name, at_s = rays.camera.name, time_s + offsets[rays.camera.name]
        moment = moments[at_s]
        seen = renderer.render(rays, moment)
        image = writer.write_image(name, frame, seen.image_rgb, jpeg_quality)
        views.append(View(name, stamp_ns(at_s), moment.world_from_ego, image))
        write_image16(folder, "depth", name, frame, np.clip(np.round(seen.depth_m / DEPTH_UNIT_M), 0, 65535) * (seen.depth_m < 255.9))
        write_image16(folder, "instances", name, frame, seen.instance + 1)
        pixels[moment.rows] += np.stack([seen.visible_px, seen.unhidden_px], axis=1)
    return views, pixels
