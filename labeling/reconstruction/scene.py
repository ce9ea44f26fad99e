"""How does a clip become points, a mesh, voxels and a road? The steps in order."""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from labeling.reconstruction.carving import carve, carve_path, cells_around
from labeling.reconstruction.consistency import confirmed
from labeling.reconstruction.filling import fill_depth
from labeling.reconstruction.fusion import SurfaceFusion
from labeling.reconstruction.ground import PathGround, ground_depth, path_ground
from labeling.reconstruction.lens_depth import write_lens_depth
from labeling.reconstruction.neighbours import choose_neighbours
from labeling.reconstruction.road import RoadGrid, fit_road, paint_road, write_road
from labeling.reconstruction.settings import ReconstructionSettings
from labeling.reconstruction.sweep import DepthMap, sweep_view
from labeling.reconstruction.views import PinholeView, clip_views, key_frames
from labeling.reconstruction.voxels import StaticScene, frame_occupancy, static_scene
from scenes.boxes import Box3D, Boxes
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.layers import OCCUPANCY_UNKNOWN, VoxelGrid, write_occupancy


class NoDepthError(DataError):
    """No two pictures of the clip agree on any depth: there is no parallax, or nothing to match."""


@dataclass
class Reconstruction:
    """Everything that was found about the static scene of a clip; all in the clip's world frame."""

    depth_maps: list[DepthMap]
    """Confirmed depths of every view that was matched."""
    filled_m: list[np.ndarray]
    """For each depth map: depths (H, W) with blank surfaces filled in; 0 unknown."""
    road: RoadGrid
    scene: StaticScene


def movers_of(boxes_world: dict[int, Boxes], moving_mps: float) -> dict[int, Boxes]:
    """The boxes of everything that moves at any time: of each frame, those faster than `moving_mps` or whose track is so elsewhere."""
    moving = set()
    for boxes in boxes_world.values():
        moving |= set(boxes.track_id[is_moving(boxes, moving_mps)].tolist())
    moving.discard(-1)
    return {
        index: boxes.select(is_moving(boxes, moving_mps) | np.isin(boxes.track_id, list(moving))) for index, boxes in boxes_world.items()
    }


def is_moving(boxes: Boxes, moving_mps: float) -> np.ndarray:
    """(M,) bool: faster than `moving_mps`; an unknown velocity does not move."""
    velocity = np.nan_to_num(boxes.box[:, Box3D.VX : Box3D.VY + 1])
    return np.hypot(velocity[:, 0], velocity[:, 1]) > moving_mps


def depth_maps_of(views: list[PinholeView], ground: PathGround, settings: ReconstructionSettings) -> list[DepthMap]:
    """Depth maps of all views that have neighbours, reduced to the depths that other maps confirm."""
    raw = []
    for view in views:
        neighbours = choose_neighbours(view, views, ground, settings.match)
        if neighbours:
            raw.append(sweep_view(view, neighbours, ground, settings.match))
    return confirm(raw, settings)


def confirm(raw: list[DepthMap], settings: ReconstructionSettings) -> list[DepthMap]:
    """The maps with every depth removed that other maps do not confirm."""
    kept = []
    for depth_map in raw:
        good = confirmed(depth_map, raw, settings.consistency, settings.match.best_angle_rad)
        kept.append(replace(depth_map, depth_m=np.where(good, depth_map.depth_m, 0), is_ground=depth_map.is_ground & good))
    return kept


def reconstruct(
    clip: Clip, boxes_world: dict[int, Boxes], settings: ReconstructionSettings, grid: VoxelGrid | None = None
) -> Reconstruction:
    """The static scene of a clip; `boxes_world` (by frame, may be empty) says what moves. A clip that shows no depth is refused."""
    ground = path_ground(clip)
    return assemble(clip, match_clip(clip, boxes_world, ground, settings), ground, settings, grid or VoxelGrid())


def match_clip(clip: Clip, boxes_world: dict[int, Boxes], ground: PathGround, settings: ReconstructionSettings) -> list[DepthMap]:
    """Confirmed depth maps of a clip's key frames; a clip that shows no depth raises `DataError`."""
    cv2.setNumThreads(1)
    movers = movers_of(boxes_world, settings.moving_mps)
    frames = key_frames(clip, settings.every_s, settings.every_m, settings.most_frames)
    maps = depth_maps_of(list(clip_views(clip, frames, settings.match, movers, settings.mask_margin_m)), ground, settings)
    if not any((depth_map.depth_m > 0).any() for depth_map in maps):
        raise NoDepthError(
            f"{clip.path}: expected pictures that show the scene from different places, found no depth that two of them agree on; "
            "the vehicle may stand still: this clip cannot be reconstructed"
        )
    return maps


def assemble(clip: Clip, maps: list[DepthMap], ground: PathGround, settings: ReconstructionSettings, grid: VoxelGrid) -> Reconstruction:
    """Road, filled depth and carved space from confirmed depth maps."""
    road = fit_road(*matched_ground(maps, settings), ground, settings.road)
    filled = [filled_depth(depth_map, road, ground, settings) for depth_map in maps]
    road = paint_road(road, *shown_ground(maps, filled, road, settings), ground)
    cells = cells_around(clip, grid, settings.carve)
    for depth_map, filled_m in zip(maps, filled, strict=True):
        carve(cells, depth_map, filled_m, road, settings.carve)
    carve_path(cells, clip)
    return Reconstruction(maps, filled, road, static_scene(cells, road, settings.carve))


def matched_ground(maps: list[DepthMap], settings: ReconstructionSettings) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 3) and weights (P,) of what was matched on the ground; far ones count less."""
    points, weights = [np.zeros((0, 3))], [np.zeros(0)]
    for depth_map in maps:
        found = depth_map.view.points_world(depth_map.depth_m)[depth_map.is_ground][::2]
        points.append(found)
        weights.append(_trust(found, depth_map.view, settings))
    return np.concatenate(points), np.concatenate(weights)


def shown_ground(
    maps: list[DepthMap], filled: list[np.ndarray], road: RoadGrid, settings: ReconstructionSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (P, 3), colours (P, 3) and weights (P,) of every pixel that shows ground, matched or filled."""
    points, colors, weights = [np.zeros((0, 3))], [np.zeros((0, 3))], [np.zeros(0)]
    for depth_map, filled_m in zip(maps, filled, strict=True):
        found = depth_map.view.points_world(filled_m)[::2, ::2]
        above = found[..., 2] - road.height(found[..., :2])
        pick = (filled_m[::2, ::2] > 0) & depth_map.view.usable[::2, ::2] & (np.abs(above) < settings.carve.ground_margin_m / 2)
        points.append(found[pick])
        colors.append(depth_map.view.image_rgb[::2, ::2][pick])
        weights.append(_trust(found[pick], depth_map.view, settings))
    return np.concatenate(points), np.concatenate(colors).astype(np.float64), np.concatenate(weights)


def _trust(points_world: np.ndarray, view: PinholeView, settings: ReconstructionSettings) -> np.ndarray:
    return 1 / (1 + (np.linalg.norm(points_world - view.center_world, axis=1) / settings.road.trusted_m) ** 2)


def filled_depth(depth_map: DepthMap, road: RoadGrid, ground: PathGround, settings: ReconstructionSettings) -> np.ndarray:
    """(H, W) depth of a view with blank surfaces filled in; ground pixels lie on the road's surface. Sharpens `is_ground`."""
    on_road = road_depth(depth_map.view, road, ground, settings.fill.far_m)
    points = depth_map.view.points_world(depth_map.depth_m)
    above = points[..., 2] - road.height(points[..., :2])
    low = np.abs(above) < settings.carve.ground_margin_m
    depth_map.is_ground = (depth_map.depth_m > 0) & (low | (depth_map.is_ground & ~np.isfinite(above)))
    return fill_depth(depth_map.view.image_rgb, depth_map.depth_m, depth_map.is_ground, on_road, settings.fill)


def road_depth(view: PinholeView, road: RoadGrid, ground: PathGround, far_m: float) -> np.ndarray:
    """(H, W) float32 depth at which each pixel's ray meets the road grid's surface; 0 where it does not."""
    depth = ground_depth(view, ground, 0.0, far_m)
    up = view.world_from_ego_at_cam[:3, 2]
    camera_height = max(float((view.center_world - view.world_from_ego_at_cam[:3, 3]) @ up), 0.3)
    for _ in range(2):
        points = view.points_world(depth)
        rise = road.height(points[..., :2]) - points[..., 2]
        depth = np.where(np.isfinite(rise), depth * np.clip(1 - rise / camera_height, 0.2, 2.0), 0).astype(np.float32)
    return depth


def write_reconstruction(folder: Path, clip: Clip, found: Reconstruction, boxes_world: dict[int, Boxes], settings: ReconstructionSettings,
                         grid: VoxelGrid | None = None) -> dict[str, float]:  # fmt: skip
    """Writes points, mesh, road, and the voxels and depths of the frames into an existing folder; returns counts for the report."""
    grid = grid or VoxelGrid()
    fusion = SurfaceFusion(settings.fusion, clip.frames[0].world_from_ego[:3, 3])
    for depth_map, filled_m in zip(found.depth_maps, found.filled_m, strict=True):
        fusion.add(depth_map, filled_m)
    counts = fusion.write(folder)
    write_road(folder / "road.npz", found.road)
    known = 0.0
    for frame in clip.frames:
        boxes = boxes_world.get(frame.index, Boxes.empty())
        occupancy = frame_occupancy(found.scene, frame.world_from_ego, boxes, settings.carve, grid)
        write_occupancy(folder, frame.index, occupancy)
        known += float((occupancy.state != OCCUPANCY_UNKNOWN).mean()) / len(clip)
    write_lens_depth(folder, clip, found.depth_maps, found.filled_m)
    depths = np.mean([(depth_map.depth_m > 0).mean() for depth_map in found.depth_maps])
    return {**counts, "views": len(found.depth_maps), "depth_share": round(float(depths), 4), "known_voxels": round(known, 4)}
