"""How does a PandaSet sequence become a clip?

What PandaSet stores (checked by overlay on sequence 002), and what becomes of it:

* Lidar poses are world_from_lidar; the `lidar` axes are x right, y forward, z up, and the origin lies below the roof rack,
  0.35 m above the road. Our `ego`: x forward, y left, z up, the same origin lowered onto the road.
* A lidar time stamp is the END of a clockwise turn that starts at the rear and takes 0.1 s. A frame's reference time is the
  middle of the turn, when the beam looks ahead. Cuboids sit where the beam met the object, so moving ones are carried on
  with their own velocity to the reference time.
* Camera poses are world_from_cam at the camera's own time stamp, pictures are free of distortion. `ego_from_cam` is the mean
  over the sequence; each view's `world_from_ego_at_cam` is chosen so that the stored camera pose is kept exactly.
* Cuboids are in the world frame: position is the centre, yaw turns about +z and points across (the y axis is the front),
  dimensions x, y, z are width, length, height. What both lidars saw is labelled twice (sibling ids); one is kept.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scenes.atomic import read_json
from scenes.boxes import Box3D, Boxes
from scenes.cameras import Camera, Lens
from scenes.clips import ClipWriter, View, sweep_path, write_clip
from scenes.errors import DataError
from scenes.geometry import (
    NS_PER_S,
    Trajectory,
    invert_rigid,
    rigid_from_parts,
    rigid_from_pose,
    rotation_from_rotvec,
    rotvec_from_rotation,
    transform_points,
    validate_rigid,
    wrap_angle,
)
from scenes.layers import LabelLayer, write_layer_files
from scenes.readers.classes import ClassMap
from scenes.readers.json_lists import read_json_list
from scenes.readers.pickles import read_pickled_table
from scenes.readers.pictures import bring_picture, picture_size
from scenes.readers.tracks import count_points_inside, track_numbers, track_velocities
from scenes.rigs import Rig
from scenes.tables import check_clock

CAMERAS = ("front_camera", "front_left_camera", "front_right_camera", "left_camera", "right_camera", "back_camera")

ORIGIN_ABOVE_ROAD_M = 0.35
"""Height of the lidar poses' origin over the road, fitted to the lidar points 3-15 m around the vehicle of sequence 002."""

LIDAR_AXES_IN_EGO = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
EGO_FROM_LIDAR = rigid_from_parts(LIDAR_AXES_IN_EGO, np.array([0.0, 0.0, ORIGIN_ABOVE_ROAD_M]))
"""x right, y forward, z up -> x forward, y left, z up, and down to the road."""

TURN_S = 0.1
"""The mechanical lidar turns ten times a second."""

CLASS_MAP = ClassMap(
    classes={
        "Car": "car",
        "Pickup Truck": "truck",
        "Medium-sized Truck": "truck",
        "Semi-truck": "truck",
        "Towed Object": "trailer",
        "Motorcycle": "motorcycle",
        "Motorized Scooter": "motorcycle",
        "Bicycle": "bicycle",
        "Bus": "bus",
        "Other Vehicle - Construction Vehicle": "construction_vehicle",
        "Pedestrian": "pedestrian",
        "Pedestrian with Object": "pedestrian",
        "Pylons": "traffic_cone",
        "Cones": "traffic_cone",
        "Road Barriers": "barrier",
        "Temporary Construction Barriers": "barrier",
    },
    ignored={
        "Emergency Vehicle": "car",
        "Other Vehicle - Uncommon": "car",
        "Other Vehicle - Pedicab": "bicycle",
        "Personal Mobility Device": "bicycle",
        "Train": "bus",
        "Trolley": "bus",
        "Tram / Subway": "bus",
    },
    dropped=frozenset({"Animals - Bird", "Animals - Other", "Signs", "Rolling Containers", "Construction Signs"}),
)
"""As nuScenes maps its categories: pick-ups are trucks, scooters are motorcycles, pushed things belong to the pedestrian."""

CUBOID_COLUMNS = ("uuid", "label", "yaw", "stationary", "position.x", "position.y", "position.z")
CUBOID_SIZES = ("dimensions.y", "dimensions.x", "dimensions.z")
"""Length, width, height."""


@dataclass(frozen=True)
class CameraLog:
    """One camera of a sequence."""

    camera: Camera
    folder: Path
    timestamps_ns: np.ndarray
    """(T,)."""
    world_from_cam: np.ndarray
    """(T, 4, 4) at the camera's own times."""
    spread: tuple[float, float]
    """Largest deviation of `ego_from_cam` from its mean over the sequence: metres, radians."""


def find_sequences(source: Path) -> list[Path]:
    """Every PandaSet sequence at or below a folder, sorted: folders holding `lidar` and `camera`."""
    candidates = [Path(source), *sorted(p for p in Path(source).iterdir() if p.is_dir())]
    return [p for p in candidates if (p / "lidar").is_dir() or (p / "camera").is_dir()]


def import_sequence(source: Path, target: Path, link: bool = False) -> list[str]:
    """Writes one sequence as a clip; returns notes on what was left out. Anything broken raises `DataError`, nothing is written."""
    source = Path(source)
    turn_ends_ns = _timestamps_ns(source / "lidar" / "timestamps.json")
    world_from_ego = read_poses(source / "lidar" / "poses.json", len(turn_ends_ns)) @ invert_rigid(EGO_FROM_LIDAR)
    trajectory = Trajectory(turn_ends_ns, world_from_ego)
    reference_ns = turn_ends_ns - round(TURN_S / 2 * NS_PER_S)
    cameras = [_camera_log(source, name, trajectory) for name in CAMERAS if (source / "camera" / name).is_dir()]
    if not cameras:
        raise DataError(f"{source / 'camera'}: expected folders {', '.join(CAMERAS)}, got none; restore the recording")
    rows, left_out = _read_cuboids(source / "annotations" / "cuboids", len(reference_ns))
    info = _clip_info(source, cameras, left_out)
    with write_clip(target, target.name, Rig(tuple(log.camera for log in cameras)), trajectory, info) as writer:
        sweeps = _write_sweeps(source, writer.folder, trajectory, reference_ns)
        layer = _label_layer(rows, sweeps, trajectory, reference_ns)
        write_layer_files(writer.layer_folder("truth"), layer)
        for index, stamp in enumerate(reference_ns):
            views = [_view(writer, log, index, link) for log in cameras]
            writer.add_frame(int(stamp), trajectory.at(stamp), views)
    return CLASS_MAP.report(left_out) + _spread_notes(cameras)


def read_poses(path: Path, length: int) -> np.ndarray:
    """(T, 4, 4) rigid transforms of a PandaSet `poses.json` of `length` rows; a broken row is named in the error."""
    poses = []
    for row, value in enumerate(read_json_list(path, length)):
        where = f"{path}, row {row}"
        try:
            numbers = [value["position"][k] for k in "xyz"] + [value["heading"][k] for k in "wxyz"]
            numbers = np.array(numbers, dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: expected position x, y, z and heading w, x, y, z, got {value!r}; restore the row") from error
        if not np.isfinite(numbers).all() or abs(np.linalg.norm(numbers[3:]) - 1) > 1e-3:
            raise DataError(f"{where}: expected finite numbers and a unit quaternion, got {numbers.tolist()}; correct or drop the frame")
        poses.append(validate_rigid(rigid_from_pose(numbers), where))
    return np.stack(poses)


def _timestamps_ns(path: Path, length: int | None = None) -> np.ndarray:
    """(T,) nanoseconds of a list of seconds, strictly growing."""
    try:
        stamps_s = np.array(read_json_list(path, length), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: expected a list of seconds, got something else ({error}); restore it") from error
    if len(stamps_s) == 0 or not np.isfinite(stamps_s).all():
        raise DataError(f"{path}: expected at least one finite time stamp, got {len(stamps_s)}; restore it")
    stamps_ns = np.round(stamps_s * 1e6).astype(np.int64) * 1000
    check_clock(stamps_ns, path)
    return stamps_ns


def _camera_log(source: Path, name: str, trajectory: Trajectory) -> CameraLog:
    """Calibration, times and poses of one camera; `ego_from_cam` is the mean over the sequence."""
    folder = source / "camera" / name
    length = len(trajectory.timestamps_ns)
    stamps_ns = _timestamps_ns(folder / "timestamps.json", length)
    world_from_cam = read_poses(folder / "poses.json", length)
    ego_at_cam_from_cam = invert_rigid(trajectory.at(stamps_ns)) @ world_from_cam
    ego_from_cam, spread = mean_rigid(ego_at_cam_from_cam)
    intrinsics = read_json(folder / "intrinsics.json")
    missing = [key for key in ("fx", "fy", "cx", "cy") if not isinstance(intrinsics.get(key), int | float)]
    if missing:
        raise DataError(f"{folder / 'intrinsics.json'}: expected numbers fx, fy, cx, cy, got none for {', '.join(missing)}; restore it")
    fx_px, fy_px, cx_px, cy_px = (float(intrinsics[k]) for k in ("fx", "fy", "cx", "cy"))
    width_px, height_px = picture_size(_picture(folder, 0))
    camera = Camera(name, Lens.PINHOLE, fx_px, fy_px, cx_px, cy_px, width_px, height_px, ego_from_cam)
    return CameraLog(camera, folder, stamps_ns, world_from_cam, spread)


def mean_rigid(dst_from_src: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """The mean (4, 4) of nearly equal transforms (T, 4, 4) and their largest deviation from it in metres and radians."""
    middle = dst_from_src[len(dst_from_src) // 2]
    turns = rotvec_from_rotation(middle[:3, :3].T @ dst_from_src[:, :3, :3])
    mean = rigid_from_parts(middle[:3, :3] @ rotation_from_rotvec(turns.mean(0)), dst_from_src[:, :3, 3].mean(0))
    rest = rotvec_from_rotation(mean[:3, :3].T @ dst_from_src[:, :3, :3])
    shift_m = np.linalg.norm(dst_from_src[:, :3, 3] - mean[:3, 3], axis=1).max()
    return mean, (float(shift_m), float(np.linalg.norm(rest, axis=1).max()))


def _picture(folder: Path, index: int) -> Path:
    return folder / f"{index:02d}.jpg"


def _view(writer: ClipWriter, log: CameraLog, index: int, link: bool) -> View:
    """One picture; the ego pose at capture follows from the stored camera pose, which is thereby kept exactly."""
    size = (log.camera.width_px, log.camera.height_px)
    image = bring_picture(_picture(log.folder, index), writer.folder, log.camera.name, index, size, link)
    return View(log.camera.name, int(log.timestamps_ns[index]), log.world_from_cam[index] @ log.camera.cam_from_ego, image)


def _clip_info(source: Path, cameras: list[CameraLog], left_out: Counter) -> dict:
    return {
        "dataset": "PandaSet",
        "licence": "CC BY 4.0",
        "sequence": source.resolve().name,
        "left_out": dict(left_out),
        "ego_origin": f"on the road below the lidar ({ORIGIN_ABOVE_ROAD_M} m below the origin of PandaSet's lidar poses)",
        "reference_time": "middle of the lidar's turn (stored time stamp minus 0.05 s)",
        "extrinsic_spread": {log.camera.name: {"m": round(log.spread[0], 4), "rad": round(log.spread[1], 5)} for log in cameras},
    }


MAX_SPREAD_M = 0.1
MAX_SPREAD_RAD = 0.01


def _spread_notes(cameras: list[CameraLog]) -> list[str]:
    return [
        f"camera {log.camera.name!r} moves by up to {log.spread[0]:.2f} m and {np.rad2deg(log.spread[1]):.2f} deg on the vehicle; "
        "check its poses and time stamps"
        for log in cameras
        if log.spread[0] > MAX_SPREAD_M or log.spread[1] > MAX_SPREAD_RAD
    ]


@dataclass(frozen=True)
class CuboidRows:
    """All kept cuboids of a sequence, as they were labelled (at the moment the beam met them)."""

    frame_index: np.ndarray
    names: list[str]
    class_id: np.ndarray
    ignore: np.ndarray
    stationary: np.ndarray
    box_world: np.ndarray
    """(K, 9) with unknown velocity."""


def _read_cuboids(folder: Path, num_frames: int) -> tuple[CuboidRows, Counter]:
    """The cuboids of every frame, and how many of each foreign class were left out."""
    parts, left_out = [], Counter()
    for index in range(num_frames):
        path = folder / f"{index:02d}.pkl.gz"
        table = read_pickled_table(path, (*CUBOID_COLUMNS, *CUBOID_SIZES))
        parts += _frame_cuboids(path, index, table, left_out)
    frame_index, names, class_id, ignore, stationary, box = zip(*parts, strict=True) if parts else ((),) * 6
    box_world = np.array(box, dtype=np.float64).reshape(-1, 9)
    return (
        CuboidRows(
            np.array(frame_index, np.int64),
            list(names),
            np.array(class_id, np.int64),
            np.array(ignore, bool),
            np.array(stationary, bool),
            box_world,
        ),
        left_out,
    )


def _frame_cuboids(path: Path, index: int, table: dict[str, np.ndarray], left_out: Counter) -> list[tuple]:
    """Rows (frame, track name, class, ignore, stationary, box) of one frame."""
    names = [str(name) for name in table["uuid"]]
    siblings = [str(name) for name in table.get("cuboids.sibling_id", np.full(len(names), "-"))]
    sensors = table.get("cuboids.sensor_id", np.full(len(names), -1))
    box = box_from_cuboid(np.stack([table[c].astype(np.float64) for c in (*CUBOID_COLUMNS[4:], *CUBOID_SIZES, "yaw")], axis=1))
    bad = ~np.isfinite(box[:, :7]).all(axis=1) | (box[:, 3:6] <= 0).any(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{path}, row {row}: expected a finite cuboid with positive sizes, got {box[row, :7].tolist()}; drop the row")
    here, rows = set(names), []
    for row, label in enumerate(table["label"]):
        is_copy = sensors[row] == 1 and siblings[row] in here
        found = CLASS_MAP.find(str(label))
        if found is None:
            left_out[str(label)] += 1
        if found is None or is_copy:
            continue
        name = siblings[row] if sensors[row] == 1 and len(siblings[row]) > 1 else names[row]
        rows.append((index, name, *found, bool(table["stationary"][row]), box[row]))
    return rows


def box_from_cuboid(cuboid: np.ndarray) -> np.ndarray:
    """Box rows (K, 9) of PandaSet rows (K, 7): x, y, z, length, width, height, yaw of the x (right) axis; velocity NaN.

    PandaSet's cuboids face along their y axis, a quarter turn to the left of their yaw.
    """
    heading = wrap_angle(cuboid[:, 6] + np.pi / 2)
    return np.concatenate([cuboid[:, :6], np.reshape(heading, (-1, 1)), np.full((len(cuboid), 2), np.nan)], axis=1)


def scan_offset_s(bearing_ego_rad: np.ndarray) -> np.ndarray:
    """When the beam looked to a bearing (from ahead to the left), in seconds after the reference time (the middle of the turn)."""
    return np.asarray(wrap_angle(bearing_ego_rad)) * (-TURN_S / 2 / np.pi)


def _label_layer(rows: CuboidRows, sweeps: dict[int, np.ndarray], trajectory: Trajectory, reference_ns: np.ndarray) -> LabelLayer:
    """The truth: velocities along the tracks, boxes carried from the beam's time to the reference time, lidar points counted."""
    track_id = track_numbers(rows.names)
    ego_from_world = invert_rigid(trajectory.at(reference_ns))[rows.frame_index]
    centre_ego = transform_points(ego_from_world, rows.box_world[:, :3])
    offset_s = scan_offset_s(np.arctan2(centre_ego[:, 1], centre_ego[:, 0]))
    time_s = (reference_ns[rows.frame_index] - reference_ns[0]) / NS_PER_S + offset_s
    velocity = track_velocities(track_id, time_s, rows.box_world[:, :2])
    velocity[rows.stationary] = 0.0
    box_world = rows.box_world.copy()
    box_world[:, Box3D.VX : Box3D.VY + 1] = velocity
    box_world[:, :2] -= np.nan_to_num(velocity) * offset_s[:, None]
    boxes = {}
    for index in range(len(reference_ns)):
        mine = rows.frame_index == index
        num_points = count_points_inside(rows.box_world[mine], sweeps[index]) if index in sweeps else None
        boxes[index] = Boxes.make(
            box_world[mine], rows.class_id[mine], track_id=track_id[mine], num_points=num_points, ignore=rows.ignore[mine]
        )
    names = sorted(set(rows.names), key=rows.names.index)
    return LabelLayer("truth", boxes, [], {"created_by": "surround4d import pandaset", "track_names": names})


def _write_sweeps(source: Path, folder: Path, trajectory: Trajectory, reference_ns: np.ndarray) -> dict[int, np.ndarray]:
    """Keeps every lidar sweep there is as `lidar/<frame>.npz`; returns their points (P, 3) in the world frame by frame index."""
    sweeps = {}
    for index, stamp in enumerate(reference_ns):
        path = source / "lidar" / f"{index:02d}.pkl.gz"
        if not path.is_file():
            continue
        table = read_pickled_table(path, tuple("xyzitd"))
        points_world = np.stack([table[axis].astype(np.float64) for axis in "xyz"], axis=1)
        (folder / "lidar").mkdir(exist_ok=True)
        np.savez_compressed(
            sweep_path(folder, index),
            points_ego=transform_points(invert_rigid(trajectory.at(stamp)), points_world).astype(np.float32),
            intensity=table["i"].astype(np.float32),
            time_offset_s=(table["t"] - stamp / NS_PER_S).astype(np.float32),
            sensor=table["d"].astype(np.uint8),
        )
        sweeps[index] = points_world
    return sweeps
