"""How true is the reconstruction? Against exact truth on simulated clips, against lidar on PandaSet.

    python -m benchmarks.reconstruction CLIPS [--boxes truth] [--ground-offset-m 0.15]
    python -m benchmarks.reconstruction PANDASET_CLIP [--boxes LAYER]

Truth, cuboids and lidar serve for measuring only; `--boxes` names the layer that says what moves. Pictures go to `--out`.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import tyro

from evaluation.occupancy import OccupancyCounts
from labeling.reconstruction.carving import cells_around
from labeling.reconstruction.ground import path_ground
from labeling.reconstruction.pictures import depth_sheet, road_picture
from labeling.reconstruction.road import grouped_median
from labeling.reconstruction.scene import Reconstruction, assemble, match_clip
from labeling.reconstruction.settings import ReconstructionSettings
from labeling.reconstruction.views import PinholeView
from labeling.reconstruction.voxels import frame_occupancy
from scenes.boxes import Box3D, Boxes
from scenes.clips import Clip, find_clips
from scenes.geometry import rotation_from_yaw, transform_points
from scenes.layers import OCCUPANCY_UNKNOWN, LabelLayer, VoxelGrid
from scenes.show.voxels import occupancy_view

NEAR_M = 30.0
"""Depths are compared this far."""
ROAD_REACH_M = 20.0
"""Road heights are compared this near to the path."""
MOVING_MPS = 0.5
LIDAR_SPREAD_M = 0.10
"""A cell whose lowest lidar points differ more in height is no ground to measure against."""


@dataclass
class Errors:
    """Values that grow clip by clip."""

    confirmed: list[np.ndarray] = field(default_factory=list)
    """Relative depth errors of confirmed depths ..."""
    filled: list[np.ndarray] = field(default_factory=list)
    """... and with filled surfaces."""
    pixels: int = 0
    """Pixels with a true depth within `NEAR_M`."""
    road_known: list[np.ndarray] = field(default_factory=list)
    """Absolute height errors in metres of cells that were matched ..."""
    road_all: list[np.ndarray] = field(default_factory=list)
    """... and of all cells near the path."""
    own: OccupancyCounts = field(default_factory=OccupancyCounts)
    """Over the voxels that the reconstruction claims to know."""
    visible: OccupancyCounts = field(default_factory=OccupancyCounts)
    """Over the voxels that exact depth would have observed; unknown counts as free."""
    known_share: list[float] = field(default_factory=list)
    """Voxels that are known, of those that exact depth would have observed."""

    def print(self) -> None:
        """The figures of all clips."""
        for name, values in (("confirmed", self.confirmed), ("with filled surfaces", self.filled)):
            error = np.concatenate(values)
            print(
                f"depth {name}: {len(error) / max(self.pixels, 1):.3f} of pixels, relative error within {NEAR_M:g} m: median "
                f"{np.median(error):.4f}, 90 % below {np.quantile(error, 0.9):.4f}, over 10 %: {(error > 0.1).mean():.3f}"
            )
        for name, values in (("matched cells", self.road_known), (f"all cells within {ROAD_REACH_M:g} m of the path", self.road_all)):
            error = np.concatenate(values) if values else np.zeros(0)
            if len(error):
                middle, most = 100 * np.quantile(error, [0.5, 0.9])
                print(f"road height, {name}: {len(error)} cells, median {middle:.1f} cm, 90 % {most:.1f} cm")
        if self.own.num_frames:
            print(f"voxels known of those that exact depth observes: {np.mean(self.known_share):.3f}")
            print_occupancy("IoU of voxels known to us", self.own)
            print_occupancy("IoU of voxels observable with exact depth (unknown counts as free)", self.visible)


def print_occupancy(name: str, counts: OccupancyCounts) -> None:
    """One line of IoUs; `static` is filled against free where neither side holds a labelled object (boxes may be given)."""
    result, static = counts.result(), counts.confusion[:3, :3]
    filled = static[1:, 1:].sum() / max(static.sum() - static[0, 0], 1)
    states = ", ".join(f"{state} {value:.3f}" for state, value in result.iou.items() if np.isfinite(value))
    print(f"{name}: occupied {result.occupied_iou:.3f}, static {filled:.3f}, {states}; RayIoU {result.ray_iou:.3f}")


def measure(
    clips: tyro.conf.Positional[Path],
    boxes: str | None = None,
    ground_offset_m: float = 0.0,
    out: Path = Path("out/benchmarks/reconstruction"),
) -> None:
    """Reconstructs the clips and prints depth, road and voxel errors.

    Args:
        clips: Folder of clips: simulated ones, or an imported PandaSet sequence.
        boxes: Layer that says what moves and fills voxels; without it nothing is taken to move.
        ground_offset_m: How wrong the expected ground below the path is made (the simulator's ground is flat, so the right
            expectation would be the answer).
        out: Folder for pictures.
    """
    errors, settings = Errors(), ReconstructionSettings()
    out.mkdir(parents=True, exist_ok=True)
    for path in find_clips(clips):
        clip, begun = Clip.open(path), time.process_time()
        truth = clip.layer("truth")
        boxes_world = clip.layer(boxes).boxes_world if boxes else {}
        ground = path_ground(clip, ground_offset_m)
        found = assemble(clip, match_clip(clip, boxes_world, ground, settings), ground, settings, VoxelGrid())
        print(f"{clip.name}: {len(found.depth_maps)} views, {time.process_time() - begun:.0f} s of one core", flush=True)
        sweeps = lidar_sweeps(clip, truth)
        exact = [view_truth(clip, truth, sweeps, part.view) for part in found.depth_maps]
        add_depths(errors, found, exact)
        if sweeps:
            add_road(errors, found, lidar_ground(found, np.concatenate(list(sweeps.values()))), clip)
        else:
            add_road(errors, found, np.zeros(found.road.known.shape), clip)
            add_voxels(errors, clip, truth, found, exact, boxes_world, settings, out)
        cv2.imwrite(str(out / f"{clip.name}_depth.jpg"), depth_sheet(found, exact)[:, :, ::-1])
        cv2.imwrite(str(out / f"{clip.name}_road.png"), road_picture(found.road)[:, :, ::-1])
    errors.print()


def lidar_sweeps(clip: Clip, truth: LabelLayer) -> dict[int, np.ndarray]:
    """Lidar points (P, 3) in the world by frame, without those on moving objects (by the cuboids); none in simulated clips."""
    sweeps = {}
    for path in sorted((clip.path / "lidar").glob("*.npz")):
        index = int(path.stem)
        with np.load(path) as values:
            points_world = transform_points(clip.frames[index].world_from_ego, values["points_ego"].astype(np.float64))
        sweeps[index] = points_world[~in_moving_box(points_world, truth.boxes_world.get(index, Boxes.empty()))]
    return sweeps


def in_moving_box(points_world: np.ndarray, boxes_world: Boxes, margin_m: float = 0.3) -> np.ndarray:
    """(P,) bool: inside a moving box, enlarged by the margin."""
    inside = np.zeros(len(points_world), dtype=bool)
    for box in boxes_world.box:
        if np.hypot(*np.nan_to_num(box[Box3D.VX : Box3D.VY + 1])) > MOVING_MPS:
            local = (points_world - box[:3]) @ rotation_from_yaw(box[Box3D.YAW])
            inside |= (np.abs(local) < box[Box3D.LENGTH : Box3D.HEIGHT + 1] / 2 + margin_m).all(-1)
    return inside


def view_truth(clip: Clip, truth: LabelLayer, sweeps: dict[int, np.ndarray], view: PinholeView) -> np.ndarray:
    """(H, W) true depth along the axis, 0 unknown: the simulator's, or the lidar sweep taken nearest to the view's place."""
    if not sweeps:
        return exact_depth(truth, view)
    places = {k: np.linalg.norm(clip.frames[k].world_from_ego[:3, 3] - clip.frames[view.frame_index].world_from_ego[:3, 3]) for k in sweeps}
    nearest = min(places, key=lambda k: (round(places[k], 2), abs(k - view.frame_index)))
    return lidar_depth(view, sweeps[nearest]) if places[nearest] < 0.5 else np.zeros(view.camera.size_hw, dtype=np.float32)


def exact_depth(truth: LabelLayer, view: PinholeView) -> np.ndarray:
    """The simulator's depth image (distance along the ray, a quarter of the size) in the pinhole view."""
    image = truth.depth_m(view.frame_index, view.camera.parent.name)
    assert image is not None
    columns, rows, inside = view.camera.lookup
    scale = image.shape[1] / view.camera.parent.width_px
    place = ((((columns + 0.5) * scale) - 0.5).astype(np.float32), (((rows + 0.5) * scale) - 0.5).astype(np.float32))
    distance = cv2.remap(image, *place, cv2.INTER_NEAREST)
    return (distance / np.linalg.norm(view.camera.rays, axis=-1) * inside).astype(np.float32)


def lidar_depth(view: PinholeView, points_world: np.ndarray) -> np.ndarray:
    """Depths of lidar points in a view, the nearest of each pixel; points behind nearer ones within three pixels are dropped."""
    pixels, z = view.project(points_world)
    index = np.round(pixels).astype(np.int64)
    height, width = view.camera.size_hw
    inside = (z > 1.0) & (index >= 0).all(-1) & (index[:, 0] < width) & (index[:, 1] < height)
    depth = np.full((height, width), np.inf, dtype=np.float32)
    np.minimum.at(depth, (index[inside, 1], index[inside, 0]), z[inside].astype(np.float32))
    nearest = cv2.erode(depth, np.ones((5, 5), np.uint8))
    return np.where(depth < 1.08 * np.minimum(nearest, 1e6), depth, 0)


def add_depths(errors: Errors, found: Reconstruction, exact: list[np.ndarray]) -> None:
    """Counts relative depth errors of every view."""
    for depth_map, filled, true in zip(found.depth_maps, found.filled_m, exact, strict=True):
        near = (true > 0) & (true < NEAR_M) & depth_map.view.usable
        errors.pixels += int(near.sum())
        for values, depth in ((errors.confirmed, depth_map.depth_m), (errors.filled, filled)):
            both = near & (depth > 0)
            values.append(np.abs(depth[both] - true[both]) / true[both])


def lidar_ground(found: Reconstruction, points_world: np.ndarray) -> np.ndarray:
    """(I, J) ground heights of the road's cells by lidar: the median of a cell whose lower points agree; NaN elsewhere."""
    road = found.road
    index = np.round(road.cells(points_world[:, :2])).astype(np.int64)
    inside = (index >= 0).all(-1) & (index < np.array(road.known.shape)).all(-1)
    keep = inside & (np.abs(points_world[:, 2] - road.height(points_world[:, :2])) < 1.0)
    flat = index[keep, 0] * road.known.shape[1] + index[keep, 1]
    z = points_world[keep, 2]
    low = np.full(road.known.size, np.inf)
    np.minimum.at(low, flat, z)
    near_low = z < low[flat] + LIDAR_SPREAD_M
    median, _ = grouped_median(flat[near_low], z[near_low], np.ones(int(near_low.sum())), road.known.size)
    count, all_points = np.bincount(flat[near_low], minlength=road.known.size), np.bincount(flat, minlength=road.known.size)
    return np.where((count >= 3) & (count > 0.9 * all_points), median, np.nan).reshape(road.known.shape)


def add_road(errors: Errors, found: Reconstruction, true_height: np.ndarray, clip: Clip) -> None:
    """Counts height errors of cells near the path."""
    road = found.road
    centers = road.origin_world + road.cell_m * np.moveaxis(np.indices(road.known.shape), 0, -1)
    near = (path_ground(clip).distance(centers) < ROAD_REACH_M) & np.isfinite(true_height)
    error = np.abs(road.height_world_m - true_height)
    errors.road_known.append(error[near & road.known])
    errors.road_all.append(error[near])


def add_voxels(errors: Errors, clip: Clip, truth: LabelLayer, found: Reconstruction, exact: list[np.ndarray], boxes_world: dict[int, Boxes],
               settings: ReconstructionSettings, out: Path) -> None:  # fmt: skip
    """Compares the voxels of every second frame with the exact ones."""
    grid, observed = VoxelGrid(), cells_around(clip, VoxelGrid(), settings.carve)
    for depth_map, true in zip(found.depth_maps, exact, strict=True):
        points = depth_map.view.points_world(np.minimum(true, 60.0))[1::3, 1::3][true[1::3, 1::3] > 0]
        observed.add_rays(depth_map.view.center_world, points, np.ones(len(points), bool), np.ones(len(points)), 0.0)
    touched = np.append((observed.hits + observed.passes > 0).reshape(-1), False)
    for frame in clip.frames[::2]:
        boxes = boxes_world.get(frame.index, Boxes.empty())
        pred, true = frame_occupancy(found.scene, frame.world_from_ego, boxes, settings.carve, grid), truth.occupancy(frame.index)
        assert true is not None
        centers = transform_points(frame.world_from_ego, grid.centers_ego())
        seen = touched[observed.flat_index(centers.astype(np.float32))]
        errors.own.add(pred, true, pred.state != OCCUPANCY_UNKNOWN)
        errors.visible.add(pred, true, seen)
        errors.known_share.append(float((pred.state != OCCUPANCY_UNKNOWN)[seen].mean()))
        if frame.index == len(clip) // 2 // 2 * 2:
            rows = [np.concatenate([occupancy_view(part, 640), occupancy_view(part, 640, oblique=False)], axis=1) for part in (pred, true)]
            cv2.imwrite(str(out / f"{clip.name}_voxels.png"), np.concatenate(rows)[:, :, ::-1])


if __name__ == "__main__":
    tyro.cli(measure)
