"""How does an Argoverse 2 sensor log become a clip?

What Argoverse 2 stores, and what becomes of it:

* Poses are city_from_egovehicle; the egovehicle frame has x forward, y left, z up and its origin at the rear axle, 0.33 m above
  the road (map and lidar of two logs agree). Our `ego` is the same frame lowered onto the road; our `world` is the city frame.
* Quaternions are w, x, y, z. Cuboids are given in the egovehicle frame of their own time stamp, centre, length, width, height.
* A frame is an annotated lidar sweep (10 Hz); a log without annotations takes its sweeps. Each camera gives the picture nearest
  to that time, if one was taken within 60 ms.
* Pictures are delivered undistorted (Argoverse 2 user guide; av2-api issue 219), so the lens has no distortion; k1, k2, k3 of
  the original lens stay in the clip's info.
* A log without pictures becomes a clip whose views are not alive: it can be replayed in the simulator.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import feather

from scenes.boxes import Box3D, Boxes, transform_boxes
from scenes.cameras import Camera, Lens
from scenes.clips import ClipWriter, View, sweep_path, write_clip
from scenes.errors import DataError
from scenes.geometry import (
    NS_PER_S,
    Trajectory,
    invert_rigid,
    rigid_from_parts,
    rigid_from_pose,
    transform_points,
    yaw_from_rotation,
)
from scenes.layers import LabelLayer, Lane, write_layer_files
from scenes.readers.argoverse2_map import read_lanes
from scenes.readers.classes import ClassMap
from scenes.readers.ego_path import thinned
from scenes.readers.pictures import bring_picture
from scenes.readers.tracks import track_numbers, track_velocities
from scenes.rigs import Rig, ego_from_cam_looking
from scenes.tables import check_clock

AXLE_ABOVE_ROAD_M = 0.33
"""Height of the egovehicle origin over the road: 0.32-0.33 m by the ground height maps, 0.34-0.35 m by the lidar, of two logs."""

EGO_FROM_AXLE = rigid_from_parts(np.eye(3), np.array([0.0, 0.0, AXLE_ABOVE_ROAD_M]))

RING_CAMERAS = (
    "ring_front_center",
    "ring_front_left",
    "ring_front_right",
    "ring_side_left",
    "ring_side_right",
    "ring_rear_left",
    "ring_rear_right",
)
STEREO_CAMERAS = ("stereo_front_left", "stereo_front_right")
MAX_PICTURE_AGE_NS = 60_000_000

POSE_COLUMNS = ("tx_m", "ty_m", "tz_m", "qw", "qx", "qy", "qz")
SIZE_COLUMNS = ("length_m", "width_m", "height_m")
INTRINSIC_COLUMNS = ("fx_px", "fy_px", "cx_px", "cy_px", "k1", "k2", "k3", "width_px", "height_px")

CLASS_MAP = ClassMap(
    classes={
        "REGULAR_VEHICLE": "car",
        "LARGE_VEHICLE": "truck",
        "BOX_TRUCK": "truck",
        "TRUCK": "truck",
        "TRUCK_CAB": "truck",
        "BUS": "bus",
        "SCHOOL_BUS": "bus",
        "ARTICULATED_BUS": "bus",
        "VEHICULAR_TRAILER": "trailer",
        "PEDESTRIAN": "pedestrian",
        "OFFICIAL_SIGNALER": "pedestrian",
        "MOTORCYCLE": "motorcycle",
        "BICYCLE": "bicycle",
        "CONSTRUCTION_CONE": "traffic_cone",
        "CONSTRUCTION_BARREL": "traffic_cone",
    },
    ignored={
        "RAILED_VEHICLE": "bus",
        "MESSAGE_BOARD_TRAILER": "trailer",
        "TRAFFIC_LIGHT_TRAILER": "trailer",
        "WHEELED_RIDER": "pedestrian",
        "BICYCLIST": "pedestrian",
        "MOTORCYCLIST": "pedestrian",
        "WHEELCHAIR": "pedestrian",
        "STROLLER": "pedestrian",
        "WHEELED_DEVICE": "bicycle",
    },
    dropped=frozenset({"BOLLARD", "SIGN", "STOP_SIGN", "MOBILE_PEDESTRIAN_CROSSING_SIGN", "DOG", "ANIMAL"}),
)
"""Riders are boxes of their own in Argoverse 2 but part of the vehicle in nuScenes: kept, ignored."""


def find_logs(source: Path) -> list[Path]:
    """Every log at, or one or two folders below, a folder, sorted: folders that hold ego poses."""
    name = "city_SE3_egovehicle.feather"
    found = [p.parent for pattern in (name, f"*/{name}", f"*/*/{name}") for p in Path(source).glob(pattern)]
    return sorted(set(found))


def import_log(source: Path, target: Path, link: bool = False) -> list[str]:
    """Writes one log as a clip; returns notes on what was left out. Anything broken raises `DataError`, nothing is written."""
    source = Path(source)
    poses = _read_poses(source / "city_SE3_egovehicle.feather")
    pictures = _find_pictures(source)
    cameras, distortion, notes = _read_cameras(source / "calibration", bool(pictures))
    unknown = sorted(set(pictures) - {camera.name for camera in cameras})
    if unknown:
        raise DataError(f"{source / 'calibration'}: expected calibration of every camera with pictures, got none for {', '.join(unknown)}")
    table = _read_annotations(source / "annotations.feather")
    sweeps = _stamped_files(source / "sensors" / "lidar", ".feather")
    stamps = np.unique(table["timestamp_ns"]) if table is not None and len(table["timestamp_ns"]) else np.array(sorted(sweeps))
    if not len(stamps):
        raise DataError(f"{source}: expected annotations.feather or sensors/lidar sweeps to make frames of, got neither; complete the log")
    left_out: Counter = Counter()
    lanes, more_notes = _read_map(source)
    layer = _label_layer(source / "annotations.feather", table, poses, stamps, lanes, left_out)
    info = {
        "dataset": "Argoverse 2 sensor",
        "licence": "CC BY-NC-SA 4.0",
        "log": source.resolve().name,
        "left_out": dict(left_out),
        "ego_origin": f"on the road below the rear axle ({AXLE_ABOVE_ROAD_M} m below the origin of Argoverse 2's egovehicle frame)",
        "lens_distortion_removed": distortion,
    }
    world_from_ego = poses.at(stamps)
    with write_clip(target, target.name, Rig(cameras), thinned(poses), info) as writer:
        if layer is not None:
            write_layer_files(writer.layer_folder("truth"), layer)
        for index, stamp in enumerate(stamps.tolist()):
            dead = {camera.name: View(camera.name, stamp, world_from_ego[index], "") for camera in cameras}
            alive = [_view(writer, camera, index, stamp, pictures.get(camera.name, {}), poses, link) for camera in cameras]
            views = dead | {view.camera: view for view in alive if view is not None}
            writer.add_frame(stamp, world_from_ego[index], list(views.values()))
            if stamp in sweeps:
                _write_sweep(sweeps[stamp], sweep_path(writer.folder, index))
    return notes + more_notes + CLASS_MAP.report(left_out)


def read_feather(path: Path, required: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Every column of a feather file as numpy; a missing file or column raises `DataError`."""
    if not path.is_file():
        raise DataError(f"{path}: missing; restore it from the original log")
    try:
        table = feather.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as feather ({error}); restore it from the original log") from error
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: expected column(s) {', '.join(missing)}, got {', '.join(table.column_names)}; restore it")
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _rigid_rows(path: Path, table: dict[str, np.ndarray]) -> np.ndarray:
    """(R, 4, 4) of a table's poses; a row that is not finite or has no unit quaternion is named."""
    rows = np.stack([table[name].astype(np.float64) for name in POSE_COLUMNS], axis=1)
    bad = ~np.isfinite(rows).all(axis=1) | ~(np.abs(np.linalg.norm(rows[:, 3:], axis=1) - 1) < 1e-3)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{path}, row {row}: expected finite numbers and a unit quaternion, got {rows[row].tolist()}; correct or drop the row"
        )
    return rigid_from_pose(rows)


def _read_poses(path: Path) -> Trajectory:
    """All ego poses, lowered onto the road."""
    table = read_feather(path, ("timestamp_ns", *POSE_COLUMNS))
    if not len(table["timestamp_ns"]):
        raise DataError(f"{path}: expected at least one pose, got none; restore it from the original log")
    check_clock(table["timestamp_ns"], path)
    world_from_axle = _rigid_rows(path, table)
    return Trajectory(table["timestamp_ns"].astype(np.int64), world_from_axle @ invert_rigid(EGO_FROM_AXLE))


def _stamped_files(folder: Path, suffix: str) -> dict[int, Path]:
    """Files named by their time stamp."""
    return {int(path.stem): path for path in sorted(folder.glob(f"*{suffix}")) if path.stem.isdigit()}


def _find_pictures(source: Path) -> dict[str, dict[int, Path]]:
    """Camera name to time stamp to picture, for the cameras that have any."""
    folders = [p for p in sorted((source / "sensors" / "cameras").glob("*")) if p.is_dir()]
    found = {folder.name: _stamped_files(folder, ".jpg") for folder in folders}
    return {name: files for name, files in found.items() if files}


def _read_cameras(folder: Path, has_pictures: bool) -> tuple[tuple[Camera, ...], dict, list[str]]:
    """The calibrated cameras, the original lenses' distortion, and notes."""
    if not folder.is_dir() and not has_pictures:
        note = f"{folder} is missing: the log has no pictures either, so a nominal Argoverse 2 rig stands in for its own cameras"
        return nominal_cameras(), {}, [note]
    paths = (folder / "intrinsics.feather", folder / "egovehicle_SE3_sensor.feather")
    lenses = read_feather(paths[0], ("sensor_name", *INTRINSIC_COLUMNS))
    mounts = read_feather(paths[1], ("sensor_name", *POSE_COLUMNS))
    poses_in_axle = dict(zip(mounts["sensor_name"], _rigid_rows(paths[1], mounts), strict=True))
    rows = {str(name): row for row, name in enumerate(lenses["sensor_name"])}
    for name in RING_CAMERAS:
        if name not in rows or name not in poses_in_axle:
            raise DataError(f"{paths[name in rows]}: expected a row for camera {name!r}, got none; restore it from the original log")
    stereo = [name for name in STEREO_CAMERAS if name in rows and name in poses_in_axle]
    notes = [f"{paths[0]} has no row for {name}; it is left out" for name in STEREO_CAMERAS if name not in stereo]
    cameras, distortion = [], {}
    for name in (*RING_CAMERAS, *stereo):
        value = {column: lenses[column][rows[name]].item() for column in INTRINSIC_COLUMNS}
        distortion[name] = [value[k] for k in ("k1", "k2", "k3")]
        numbers = (value["fx_px"], value["fy_px"], value["cx_px"], value["cy_px"], int(value["width_px"]), int(value["height_px"]))
        axle_from_cam = poses_in_axle[name]
        cameras.append(Camera(name, Lens.PINHOLE, *numbers, EGO_FROM_AXLE @ axle_from_cam))
    return tuple(cameras), distortion, notes


NOMINAL_MOUNTS = (
    ("ring_front_center", (1.63, 0.0, 1.73), 0.0, 0.0, 1780.0, (1550, 2048)),
    ("ring_front_left", (1.55, 0.2, 1.72), 45.0, 3.0, 1685.0, (2048, 1550)),
    ("ring_front_right", (1.55, -0.2, 1.72), -45.0, 3.0, 1685.0, (2048, 1550)),
    ("ring_side_left", (1.3, 0.28, 1.73), 99.0, 3.0, 1685.0, (2048, 1550)),
    ("ring_side_right", (1.3, -0.28, 1.73), -99.0, 3.0, 1685.0, (2048, 1550)),
    ("ring_rear_left", (1.1, 0.13, 1.75), 153.0, 0.0, 1685.0, (2048, 1550)),
    ("ring_rear_right", (1.1, -0.13, 1.75), -153.0, 0.0, 1685.0, (2048, 1550)),
    ("stereo_front_left", (1.63, 0.25, 1.52), 0.0, 0.0, 1690.0, (2048, 1550)),
    ("stereo_front_right", (1.63, -0.25, 1.52), 0.0, 0.0, 1690.0, (2048, 1550)),
)
"""Name, position in ego, yaw and downward pitch in degrees, focal length, width and height in pixels."""


def nominal_cameras() -> tuple[Camera, ...]:
    """The nine cameras of an Argoverse 2 vehicle, rounded: enough to replay a log that has neither pictures nor calibration."""
    cameras = []
    for name, position, yaw_deg, pitch_deg, focal_px, (width, height) in NOMINAL_MOUNTS:
        ego_from_cam = ego_from_cam_looking(position, np.deg2rad(yaw_deg), np.deg2rad(pitch_deg))
        centre = ((width - 1) / 2, (height - 1) / 2)
        cameras.append(Camera(name, Lens.PINHOLE, focal_px, focal_px, *centre, width, height, ego_from_cam))
    return tuple(cameras)


def _read_annotations(path: Path) -> dict[str, np.ndarray] | None:
    """The annotation table, or None where the log has none (the test split)."""
    if not path.is_file():
        return None
    return read_feather(path, ("timestamp_ns", "track_uuid", "category", *SIZE_COLUMNS, *POSE_COLUMNS))


def _read_map(source: Path) -> tuple[list[Lane], list[str]]:
    paths = sorted((source / "map").glob("log_map_archive_*.json"))
    return (read_lanes(paths[0]), []) if paths else ([], [f"{source / 'map'} has no log_map_archive_*.json; the clip has no lanes"])


def _label_layer(
    path: Path, table: dict[str, np.ndarray] | None, poses: Trajectory, stamps: np.ndarray, lanes: list[Lane], left_out: Counter
) -> LabelLayer | None:
    """The truth in the world (city) frame: velocities by differences along the tracks. None without annotations and map."""
    if table is None:
        return LabelLayer("truth", {}, lanes, {"created_by": "surround4d import av2"}) if lanes else None
    box_axle = _boxes_axle(path, table)
    found = [CLASS_MAP.find(str(name)) for name in table["category"]]
    left_out.update(str(name) for name, hit in zip(table["category"], found, strict=True) if hit is None)
    kept = np.array([hit is not None for hit in found], dtype=bool)
    frame_index = np.searchsorted(stamps, table["timestamp_ns"])[kept]
    world_from_axle = poses.at(stamps) @ EGO_FROM_AXLE
    box_world = np.zeros((int(kept.sum()), 9))
    for index in range(len(stamps)):
        mine = frame_index == index
        box_world[mine] = transform_boxes(world_from_axle[index], box_axle[kept][mine])
    names = [str(name) for name in table["track_uuid"][kept]]
    track_id = track_numbers(names)
    time_s = (stamps[frame_index] - stamps[0]) / NS_PER_S
    box_world[:, Box3D.VX : Box3D.VY + 1] = track_velocities(track_id, time_s, box_world[:, :2])
    class_id, ignore = (np.array([hit[k] for hit in found if hit is not None]) for k in (0, 1))
    points = table["num_interior_pts"][kept] if "num_interior_pts" in table else np.full(len(box_world), -1)
    boxes = Boxes.make(box_world, class_id, track_id=track_id, num_points=points, ignore=ignore)
    by_frame = {index: boxes.select(np.flatnonzero(frame_index == index)) for index in range(len(stamps))}
    meta = {"created_by": "surround4d import av2", "track_names": list(dict.fromkeys(names))}
    return LabelLayer("truth", by_frame, lanes, meta)


def _boxes_axle(path: Path, table: dict[str, np.ndarray]) -> np.ndarray:
    """(R, 9) boxes in the egovehicle frame; a velocity of NaN. A broken row is named."""
    axle_from_box = _rigid_rows(path, table)
    sizes = np.stack([table[name].astype(np.float64) for name in SIZE_COLUMNS], axis=1)
    bad = ~np.isfinite(sizes).all(axis=1) | (sizes <= 0).any(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{path}, row {row}: expected positive sizes, got {sizes[row].tolist()}; correct or drop the row")
    yaw = yaw_from_rotation(axle_from_box[:, :3, :3])
    return np.concatenate([axle_from_box[:, :3, 3], sizes, yaw[:, None], np.full((len(sizes), 2), np.nan)], axis=1)


def _view(writer: ClipWriter, camera: Camera, index: int, stamp: int, files: dict[int, Path], poses: Trajectory, link: bool) -> View | None:
    """The picture nearest to a frame, with its own time and ego pose; None if none is near enough."""
    taken = min(files, key=lambda at: abs(at - stamp), default=None)
    if taken is None or abs(taken - stamp) > MAX_PICTURE_AGE_NS:
        return None
    image = bring_picture(files[taken], writer.folder, camera.name, index, (camera.width_px, camera.height_px), link)
    return View(camera.name, taken, poses.at(taken), image)


def _write_sweep(source: Path, target: Path) -> None:
    """Keeps a lidar sweep: points in the ego frame at its time stamp (Argoverse 2 has moved them there already)."""
    table = read_feather(source, ("x", "y", "z", "intensity"))
    points_axle = np.stack([table[axis].astype(np.float64) for axis in "xyz"], axis=1)
    offset_s = table.get("offset_ns", np.zeros(len(points_axle))) / NS_PER_S
    target.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        target,
        points_ego=transform_points(EGO_FROM_AXLE, points_axle).astype(np.float32),
        intensity=table["intensity"].astype(np.float32),
        time_offset_s=np.asarray(offset_s, dtype=np.float32),
        sensor=(table["laser_number"] >= 32).astype(np.uint8) if "laser_number" in table else np.zeros(len(points_axle), np.uint8),
    )
