"""How does a single nuScenes sample in mmdetection3d's info format become a clip of one frame?

The format (info version 1.1) holds one `data_list` entry: matrices `lidar2cam` (ego motion between the lidar's and the camera's
instant folded in), `cam2ego`, `lidar2ego`, `ego2global`, and boxes in the lidar frame: x, y, z of the centre, length, width,
height, yaw about +z; velocity in lidar axes. Checked by overlay on the sample of mmdetection3d's demo.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from scenes.boxes import Boxes, class_id_of, transform_boxes
from scenes.cameras import Camera, Lens
from scenes.clips import View, sweep_path, write_clip
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, Trajectory, invert_rigid, pose_from_rigid, rigid_from_pose, transform_points, validate_rigid
from scenes.layers import LabelLayer, write_layer_files
from scenes.readers.pickles import read_pickle
from scenes.readers.pictures import bring_picture, picture_size
from scenes.rigs import Rig


def find_samples(source: Path) -> list[Path]:
    """The `.pkl` files of a folder that has no nuScenes tables (a full nuScenes root may hold info files too)."""
    if (source / "scene.json").is_file() or any(source.glob("*/scene.json")):
        return []
    return sorted(source.glob("*.pkl"))


def import_sample(source: Path, target: Path, link: bool = False) -> list[str]:
    """Writes one sample as a clip of one frame; returns notes. Anything broken raises `DataError`, nothing is written."""
    source = Path(source)
    values = read_pickle(source)
    try:
        samples = values["data_list"]
        if len(samples) != 1:
            raise DataError(f"{source}: expected one sample, got {len(samples)}; import the original nuScenes tables instead")
        categories = {number: name for name, number in values["metainfo"]["categories"].items()}
        return _import(source, samples[0], categories, target, link)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source}: not readable as an mmdetection3d info file ({error!r}); restore it") from error


def _import(source: Path, sample: dict, categories: dict[int, str], target: Path, link: bool) -> list[str]:
    world_from_ego = _rigid(sample["ego2global"], f"{source}, ego2global")
    ego_from_lidar = _rigid(sample["lidar_points"]["lidar2ego"], f"{source}, lidar2ego")
    stamp = _nanoseconds(sample["timestamp"])
    pictures = {name: _picture(source, name, image, world_from_ego @ ego_from_lidar) for name, image in sample["images"].items()}
    if not pictures:
        raise DataError(f"{source}: expected cameras under 'images', got none; restore the file")
    left_out: Counter = Counter()
    layer = _label_layer(source, sample, categories, world_from_ego @ ego_from_lidar, left_out)
    info = {"dataset": "nuScenes", "licence": "CC BY-NC-SA 4.0", "sample_tokens": [sample["token"]], "left_out": dict(left_out)}
    info["ego_origin"] = "on the ground below the rear axle"
    known = {view.timestamp_ns: view.world_from_ego_at_cam for _, _, view in pictures.values()} | {stamp: world_from_ego}
    trajectory = Trajectory(np.array(sorted(known), dtype=np.int64), np.stack([known[time] for time in sorted(known)]))
    with write_clip(target, target.name, Rig(tuple(camera for camera, _, _ in pictures.values())), trajectory, info) as writer:
        write_layer_files(writer.layer_folder("truth"), layer)
        views = []
        for camera, path, view in pictures.values():
            image = bring_picture(path, writer.folder, camera.name, 0, (camera.width_px, camera.height_px), link)
            views.append(View(camera.name, view.timestamp_ns, view.world_from_ego_at_cam, image))
        writer.add_frame(stamp, world_from_ego, views)
        _write_sweep(source.parent / sample["lidar_points"]["lidar_path"], sweep_path(writer.folder, 0), ego_from_lidar)
    return [f"{count} boxes of class number {number} left out: {source.name} has no name for it" for number, count in left_out.items()]


def _rigid(matrix: list, where: str) -> np.ndarray:
    """(4, 4) float64 with its rotation made exactly orthonormal (the file holds single precision)."""
    return rigid_from_pose(pose_from_rigid(validate_rigid(np.array(matrix, dtype=np.float64), where)))


def _nanoseconds(seconds: float) -> int:
    """Time stamps are seconds as doubles, exact to a microsecond."""
    return round(float(seconds) * 1e6) * (NS_PER_S // 1_000_000)


def _picture(source: Path, name: str, image: dict, world_from_lidar: np.ndarray) -> tuple[Camera, Path, View]:
    """The camera, its picture's file, and a view without picture that carries time and ego pose at capture."""
    path = source.parent / Path(image["img_path"]).name
    matrix = np.array(image["cam2img"], dtype=np.float64)
    ego_from_cam = _rigid(image["cam2ego"], f"{source}, cam2ego of {name}")
    (fx_px, _, cx_px), (_, fy_px, cy_px) = matrix[0].tolist(), matrix[1].tolist()
    width_px, height_px = picture_size(path)
    camera = Camera(name, Lens.PINHOLE, fx_px, fy_px, cx_px, cy_px, width_px, height_px, ego_from_cam)
    cam_from_lidar = _rigid(image["lidar2cam"], f"{source}, lidar2cam of {name}")
    world_from_ego_at_cam = world_from_lidar @ invert_rigid(cam_from_lidar) @ camera.cam_from_ego
    return camera, path, View(name, _nanoseconds(image["timestamp"]), world_from_ego_at_cam, "")


def _label_layer(source: Path, sample: dict, categories: dict[int, str], world_from_lidar: np.ndarray, left_out: Counter) -> LabelLayer:
    boxes, classes, points = [], [], []
    for row, instance in enumerate(sample["instances"]):
        number = int(instance["bbox_label_3d"])
        if number not in categories:
            left_out[number] += 1
            continue
        classes.append(class_id_of(categories[number], f"{source}, instance {row}"))
        boxes.append([*instance["bbox_3d"][:7], *instance["velocity"]])
        points.append(int(instance["num_lidar_pts"]))
    box_lidar = np.array(boxes, dtype=np.float64).reshape(-1, 9)
    frame = Boxes.make(transform_boxes(world_from_lidar, box_lidar), classes, num_points=points)
    return LabelLayer("truth", {0: frame}, [], {"created_by": "surround4d import nuscenes"})


def _write_sweep(source: Path, target: Path, ego_from_lidar: np.ndarray) -> None:
    """Keeps the lidar sweep, where its file is there."""
    if not source.is_file():
        return
    points = np.fromfile(source, dtype=np.float32).reshape(-1, 5).astype(np.float64)
    target.parent.mkdir()
    points_ego = transform_points(ego_from_lidar, points[:, :3]).astype(np.float32)
    np.savez_compressed(target, points_ego=points_ego, intensity=points[:, 3].astype(np.float32))
