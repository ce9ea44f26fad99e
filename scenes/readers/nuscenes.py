"""How does a nuScenes scene become a clip?

What nuScenes stores, and what becomes of it:

* Global frame: our `world`. Ego frame: x forward, y left, z up, on the ground below the rear axle: our `ego`, unchanged.
* A frame is a sample (keyframe, 2 Hz); its reference time is the sample's. Each camera has its own time stamp and ego pose.
  With `sweeps`, the pictures of CAM_FRONT between the samples become frames too (without labels).
* Annotations: `size` is width, length, height; `rotation` is w, x, y, z; `translation` is the centre, all in the global frame.
  Velocity is the official `box_velocity`: a difference over the neighbouring annotations of the instance.
* Pictures are rectified, so the lenses have no distortion. Our own writer adds a key `surround4d` to rows whose truth the schema
  cannot hold (lens, nanoseconds, exact visibility); where it is present it wins.
"""

from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np

from scenes.boxes import Box3D, Boxes, class_id_of
from scenes.cameras import Camera, Lens
from scenes.clips import ClipWriter, View, sweep_path, write_clip
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, Trajectory, invert_rigid, transform_points, yaw_from_rotation
from scenes.layers import LabelLayer, write_layer_files
from scenes.readers.ego_path import thinned
from scenes.readers.nuscenes_schema import CLASS_MAP, visibility_share
from scenes.readers.nuscenes_tables import NuscenesTables
from scenes.readers.pictures import bring_picture
from scenes.readers.tracks import track_numbers, track_velocities
from scenes.rigs import Rig
from scenes.tables import check_clock

SWEEP_CHANNEL = "CAM_FRONT"
LIDAR_CHANNEL = "LIDAR_TOP"
LIDAR_ROW = 5
"""Numbers a lidar point: x, y, z, intensity, ring."""
NS_PER_US = 1000
OURS = "surround4d"
"""The key that our writer adds to rows (see `scenes.readers.nuscenes_writer`)."""


@lru_cache(maxsize=1)
def open_tables(folder: Path) -> NuscenesTables:
    """The tables of a version folder, kept between the scenes that one process imports."""
    return NuscenesTables(folder)


def import_scene(folder: Path, name: str, target: Path, link: bool = False, sweeps: bool = False) -> list[str]:
    """Writes one scene of a version folder as a clip; returns notes on what was left out. Anything broken raises `DataError`."""
    tables = open_tables(Path(folder))
    scene = tables.scene(name)
    samples = tables.samples(scene)
    if not samples:
        raise DataError(f"{tables.path('scene')}: scene {name!r} has no sample; drop the scene")
    readings = [data for sample in samples for data in tables.data_of_sample.get(sample["token"], [])]
    readings = sorted(readings, key=_stamp_ns)
    cameras = _cameras(tables, name, readings)
    path = _trajectory(tables, name, readings)
    left_out: Counter = Counter()
    instants = _instants(tables, samples, readings, sweeps)
    layer = _label_layer(tables, samples, {stamp: index for index, (stamp, _) in enumerate(instants)}, left_out)
    info = _clip_info(tables, scene, [token for _, token in instants], left_out)
    pictures = {camera.name: [d for d in readings if _camera_name(tables, d) == camera.name] for camera in cameras}
    with write_clip(target, target.name, Rig(cameras), thinned(path), info) as writer:
        write_layer_files(writer.layer_folder("truth"), layer)
        for index, (stamp, token) in enumerate(instants):
            views = [_view(writer, tables, camera, index, stamp, token, pictures[camera.name], link) for camera in cameras]
            writer.add_frame(stamp, path.at(stamp), [view for view in views if view is not None])
            _write_sweep(writer, tables, index, path.at(stamp), tables.data_of_sample.get(token, []))
    return CLASS_MAP.report(left_out)


def _stamp_ns(row: dict) -> int:
    """Nanoseconds of a sample or a reading (nuScenes counts microseconds; our writer keeps the nanoseconds beside)."""
    return int(row[OURS]["timestamp_ns"]) if OURS in row else int(row["timestamp"]) * NS_PER_US


def _cameras(tables: NuscenesTables, name: str, readings: list[dict]) -> tuple[Camera, ...]:
    """The scene's calibrated cameras in the order of the sensor table; a second calibration within the scene is refused."""
    found: dict[str, dict] = {}
    for data in readings:
        sensor = tables.sensor_of(data)
        if sensor.get("modality") != "camera":
            continue
        first = found.setdefault(sensor["channel"], data)
        if first["calibrated_sensor_token"] != data["calibrated_sensor_token"]:
            raise DataError(
                f"{tables.path('sample_data')}, token {data['token']}: expected one calibration of {sensor['channel']} in scene {name!r}, "
                "got two; split the scene where it was recalibrated"
            )
    if not found:
        raise DataError(f"{tables.path('sample_data')}: expected camera pictures in scene {name!r}, got none; restore the tables")
    order = [row["channel"] for row in tables.rows("sensor") if row["channel"] in found]
    return tuple(_camera(tables, channel, found[channel]) for channel in sorted(order, key=lambda c: _rank(tables, found[c])))


def _rank(tables: NuscenesTables, data: dict) -> int:
    """The camera's place in the rig where our writer kept it; other cameras stay in the order of the sensor table."""
    row = tables.get("calibrated_sensor", data["calibrated_sensor_token"], f"sample_data {data['token']}")
    return int(row[OURS]["index"]) if OURS in row else 0


def _camera(tables: NuscenesTables, channel: str, data: dict) -> Camera:
    row = tables.get("calibrated_sensor", data["calibrated_sensor_token"], f"sample_data {data['token']}")
    where = f"{tables.path('calibrated_sensor')}, token {row['token']}"
    if OURS in row:
        return Camera.from_json(row[OURS]["camera"], where)
    matrix = np.array(tables.field("calibrated_sensor", row, "camera_intrinsic"), dtype=np.float64)
    if matrix.shape != (3, 3):
        raise DataError(f"{where}: expected a 3x3 camera_intrinsic for {channel}, got shape {matrix.shape}; restore the calibration")
    width, height = int(tables.field("sample_data", data, "width")), int(tables.field("sample_data", data, "height"))
    ego_from_cam = tables.rigid("calibrated_sensor", row)
    try:
        return Camera(channel, Lens.PINHOLE, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], width, height, ego_from_cam)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _camera_name(tables: NuscenesTables, data: dict) -> str:
    """The name of a reading's camera in the clip; "" for other sensors."""
    sensor = tables.sensor_of(data)
    if sensor.get("modality") != "camera":
        return ""
    row = tables.get("calibrated_sensor", data["calibrated_sensor_token"], f"sample_data {data['token']}")
    return str(row[OURS]["camera"]["name"]) if OURS in row else str(sensor["channel"])


def _trajectory(tables: NuscenesTables, name: str, readings: list[dict]) -> Trajectory:
    """Every ego pose of the scene at its sensor's time; of several at the same instant the lidar's counts, then the first."""
    poses: dict[int, np.ndarray] = {}
    for data in sorted(readings, key=lambda d: tables.sensor_of(d)["channel"] != LIDAR_CHANNEL):
        poses.setdefault(_stamp_ns(data), tables.ego_pose_of(data))
    if not poses:
        raise DataError(f"{tables.path('sample_data')}: expected sensor readings of scene {name!r}, got none; restore the tables")
    stamps = sorted(poses)
    return Trajectory(np.array(stamps, dtype=np.int64), np.stack([poses[stamp] for stamp in stamps]))


def _instants(tables: NuscenesTables, samples: list[dict], readings: list[dict], sweeps: bool) -> list[tuple[int, str]]:
    """(reference time, sample token) of each frame; the token is "" for the pictures between samples."""
    stamps = np.array([_stamp_ns(sample) for sample in samples], dtype=np.int64)
    wrong = np.flatnonzero(np.diff(stamps) <= 0)
    if len(wrong):
        token = samples[int(wrong[0]) + 1]["token"]
        raise DataError(f"{tables.path('sample')}, token {token}: the clock stands or runs backwards; restore the table")
    instants: list[tuple[int, str]] = [(int(stamp), str(sample["token"])) for stamp, sample in zip(stamps, samples, strict=True)]
    if sweeps:
        between = [d for d in readings if not d["is_key_frame"] and tables.sensor_of(d)["channel"] == SWEEP_CHANNEL]
        instants = sorted([*instants, *((_stamp_ns(d), "") for d in between)])
    check_clock(np.array([stamp for stamp, _ in instants], dtype=np.int64), tables.path("sample_data"))
    return instants


def _view(
    writer: ClipWriter, tables: NuscenesTables, camera: Camera, index: int, stamp: int, token: str, pictures: list[dict], link: bool
) -> View | None:
    """The camera's picture of a sample (or, between samples, the nearest one); None where it has none."""
    if token:
        mine = [d for d in pictures if d["is_key_frame"] and d["sample_token"] == token]
    else:
        mine = sorted(pictures, key=lambda d: abs(_stamp_ns(d) - stamp))[:1]
    if not mine:
        return None
    data = mine[0]
    image = ""
    if tables.field("sample_data", data, "filename"):
        source = tables.root / data["filename"]
        image = bring_picture(source, writer.folder, camera.name, index, (camera.width_px, camera.height_px), link)
    return View(camera.name, _stamp_ns(data), tables.ego_pose_of(data), image)


def _clip_info(tables: NuscenesTables, scene: dict, sample_tokens: list[str], left_out: Counter) -> dict:
    log = next((row for row in tables.rows("log") if row["token"] == scene.get("log_token")), {})
    if OURS in scene:
        return {**scene[OURS]["info"], "sample_tokens": sample_tokens}
    return {
        "dataset": "nuScenes",
        "licence": "CC BY-NC-SA 4.0",
        "version": tables.folder.name,
        "scene": scene["name"],
        "scene_token": scene["token"],
        "description": scene.get("description", ""),
        "location": log.get("location", ""),
        "date": log.get("date_captured", ""),
        "vehicle": log.get("vehicle", ""),
        "ego_origin": "on the ground below the rear axle",
        "sample_tokens": sample_tokens,
        "left_out": dict(left_out),
    }


def _label_layer(tables: NuscenesTables, samples: list[dict], frame_of_stamp: dict[int, int], left_out: Counter) -> LabelLayer:
    """The truth in the global frame, with a labelled frame for every sample."""
    rows = []
    for sample in samples:
        for annotation in tables.annotations_of_sample.get(sample["token"], []):
            row = _annotation(tables, annotation, frame_of_stamp[_stamp_ns(sample)], _stamp_ns(sample), left_out)
            rows += [row] if row is not None else []
    frame_index = np.array([row["frame_index"] for row in rows], dtype=np.int64)
    names = [row["track_name"] for row in rows]
    track_id, box = track_numbers(names), np.array([row["box"] for row in rows], dtype=np.float64).reshape(-1, 9)
    time_s = np.array([row["stamp"] for row in rows], dtype=np.int64) - min(frame_of_stamp)
    box[:, Box3D.VX : Box3D.VY + 1] = track_velocities(track_id, time_s / NS_PER_S, box[:, :2])
    boxes = Boxes.make(
        box,
        [row["class_id"] for row in rows],
        track_id=track_id,
        visibility=[row["visibility"] for row in rows],
        num_points=[row["num_points"] for row in rows],
    )
    _take_ours(boxes, [row["ours"] for row in rows])
    labelled = sorted(frame_of_stamp[_stamp_ns(sample)] for sample in samples if sample.get(OURS, {}).get("labelled", True))
    meta = {"created_by": "surround4d import nuscenes", "track_names": list(dict.fromkeys(names))}
    return LabelLayer("truth", {i: boxes.select(np.flatnonzero(frame_index == i)) for i in labelled}, [], meta)


def _annotation(tables: NuscenesTables, annotation: dict, frame_index: int, stamp: int, left_out: Counter) -> dict | None:
    """One annotation as the values of a box, or None if its category is not one of ours (counted in `left_out`)."""
    where = f"sample_annotation {annotation['token']}"
    instance = tables.get("instance", tables.field("sample_annotation", annotation, "instance_token"), where)
    category = str(tables.get("category", tables.field("instance", instance, "category_token"), f"instance {instance['token']}")["name"])
    found = CLASS_MAP.find(category)
    if found is None:
        left_out[category] += 1
        return None
    world_from_box = tables.rigid("sample_annotation", annotation)
    try:
        width, length, height = (float(v) for v in tables.field("sample_annotation", annotation, "size"))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{tables.path('sample_annotation')}, token {annotation['token']}: unreadable size ({error}); restore it"
        ) from error
    if not min(width, length, height) > 0:
        raise DataError(
            f"{tables.path('sample_annotation')}, token {annotation['token']}: expected positive width, length, height, "
            f"got {annotation['size']}; correct or drop the row"
        )
    yaw = float(yaw_from_rotation(world_from_box[:3, :3]))
    return {
        "frame_index": frame_index,
        "stamp": stamp,
        "class_id": found[0],
        "track_name": instance["token"],
        "box": [*world_from_box[:3, 3], length, width, height, yaw, np.nan, np.nan],
        "visibility": visibility_share(str(annotation.get("visibility_token", ""))),
        "num_points": int(annotation.get("num_lidar_pts", -1)),
        "ours": annotation.get(OURS),
    }


def _take_ours(boxes: Boxes, ours: list[dict | None]) -> None:
    """Overwrites what our own writer kept exactly (its docstring says which)."""
    for row, values in enumerate(ours):
        if values is None:
            continue
        boxes.box[row] = [np.nan if v is None else v for v in values["box"]]
        boxes.class_id[row] = class_id_of(values["class"], "sample_annotation.json")
        boxes.track_id[row] = values["track_id"]
        boxes.score[row] = values["score"]
        boxes.visibility[row] = np.nan if values["visibility"] is None else values["visibility"]
        boxes.num_points[row] = values["num_points"]
        boxes.ignore[row] = values["ignore"]
        boxes.provenance[row] = values["provenance"]


def _write_sweep(writer: ClipWriter, tables: NuscenesTables, index: int, world_from_ego: np.ndarray, readings: list[dict]) -> None:
    """Keeps a sample's lidar sweep (where its file is there) as `lidar/<frame>.npz`, points in the ego frame at reference time."""
    lidar = [d for d in readings if d["is_key_frame"] and tables.sensor_of(d)["channel"] == LIDAR_CHANNEL]
    source = tables.root / lidar[0]["filename"] if lidar else None
    if source is None or not source.is_file():
        return
    values = np.fromfile(source, dtype=np.float32)
    if not len(values):
        return
    if len(values) % LIDAR_ROW:
        raise DataError(f"{source}: expected a multiple of {LIDAR_ROW} float32 numbers, got {len(values)}; restore the sweep")
    points = values.reshape(-1, LIDAR_ROW).astype(np.float64)
    mount = tables.get("calibrated_sensor", lidar[0]["calibrated_sensor_token"], f"sample_data {lidar[0]['token']}")
    ego_at_lidar_from_lidar = tables.rigid("calibrated_sensor", mount)
    world_from_ego_at_lidar = tables.ego_pose_of(lidar[0])
    ego_from_lidar = invert_rigid(world_from_ego) @ world_from_ego_at_lidar @ ego_at_lidar_from_lidar
    (writer.folder / "lidar").mkdir(exist_ok=True)
    np.savez_compressed(
        sweep_path(writer.folder, index),
        points_ego=transform_points(ego_from_lidar, points[:, :3]).astype(np.float32),
        intensity=points[:, 3].astype(np.float32),
    )
