"""How do clips become a dataset in the nuScenes schema, which our reader and the official devkit load?

    DST/v1.0-surround4d/*.json    the 13 tables
    DST/samples/CAM_*/            pictures, as they are (copied or linked)
    DST/samples/LIDAR_TOP/        a sweep a frame, in the ego frame; empty where the clip has none (the devkit wants one)
    DST/maps/                     one blank map mask (the devkit opens it)

The schema cannot hold everything: rows carry one more key, `surround4d`, which the devkit ignores and our reader prefers: the
lens model with distortion, nanoseconds, exact boxes with velocity, track number, score, visibility, provenance. Lanes,
occupancy, depth and the ego path between sensor readings are not written. Tokens are hashes of clip name and index, so that
the same clips give the same tables.
"""

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import tyro
from rich.console import Console

from scenes.atomic import atomic_folder
from scenes.boxes import CLASS_NAMES, Box3D, Boxes
from scenes.cameras import Camera
from scenes.clips import Clip, Frame, View, find_clips, sweep_path
from scenes.errors import DataError, SurroundError
from scenes.geometry import pose_from_rigid, quaternion_from_rotation, rotation_from_yaw
from scenes.layers import LabelLayer
from scenes.readers.json_lists import write_json_list
from scenes.readers.nuscenes import LIDAR_CHANNEL, LIDAR_ROW, NS_PER_US, OURS
from scenes.readers.nuscenes_schema import (
    ATTRIBUTES,
    CATEGORY_OF_CLASS,
    CLASS_MAP,
    TABLE_NAMES,
    VISIBILITY_LEVELS,
    attribute_of,
    sample_token,
    stable_token,
    visibility_token,
)
from scenes.readers.pictures import picture_size

MAP_SIZE_PX = 16


@dataclass
class NuscenesDraft:
    """The rows of all tables while a dataset is being written."""

    folder: Path
    rows: dict[str, list[dict]] = field(default_factory=lambda: {name: [] for name in TABLE_NAMES})

    def add(self, table: str, token: str, **values: object) -> str:
        """Adds a row; returns its token."""
        self.rows[table].append({"token": token, **values})
        return token

    def extend(self, other: "NuscenesDraft") -> None:
        """Takes over the rows of a clip that is complete."""
        for name, rows in other.rows.items():
            self.rows[name] += rows


def export_command(
    source: tyro.conf.Positional[Path],
    target: tyro.conf.Positional[Path],
    /,
    layer: str = "truth",
    version: str = "v1.0-surround4d",
    link: bool = False,
) -> int:
    """Lays clips out in the nuScenes schema, so that the official tools can read them.

    Args:
        source: One clip or a folder of clips.
        target: The new dataset root; it must not exist yet.
        layer: The label layer that becomes the annotations.
        version: Name of the folder that holds the tables.
        link: Link pictures instead of copying them.
    """
    console = Console()
    failed, done = write_nuscenes(find_clips(source), target, layer, version, link)
    for sentence in failed:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True, style="red")
    console.print(f"{done} clips in {target}" + (f", {len(failed)} failed" if failed else ""))
    return 2 if failed else 0


def write_nuscenes(
    clip_paths: list[Path], target: Path, layer: str = "truth", version: str = "v1.0-surround4d", link: bool = False
) -> tuple[list[str], int]:
    """Writes clips as one dataset; returns the sentences of those that failed and the number of those that did not.

    A broken clip fails alone. If none can be written, or `target` exists, `DataError` is raised and nothing is left behind.
    """
    failed: list[str] = []
    names: set[str] = set()
    with atomic_folder(Path(target)) as folder:
        draft = NuscenesDraft(folder)
        _write_vocabulary(draft)
        for path in clip_paths:
            try:
                draft.extend(_draft_clip(folder, Clip.open(path), layer, link, names))
            except SurroundError as error:
                failed.append(f"{path.name} failed: {error}")
        if len(failed) == len(clip_paths):
            raise DataError("; ".join(failed) or f"{target}: expected clips to write, got none; check the source")
        _write_map(draft)
        (folder / version).mkdir()
        for name, rows in draft.rows.items():
            write_json_list(folder / version / f"{name}.json", rows)
    return failed, len(clip_paths) - len(failed)


def _write_vocabulary(draft: NuscenesDraft) -> None:
    """The tables that are the same for every dataset: categories, attributes, visibility levels."""
    for name in (*CLASS_MAP.classes, *sorted(CLASS_MAP.dropped)):
        draft.add("category", stable_token("category", name), name=name, description="")
    for name in ATTRIBUTES:
        draft.add("attribute", stable_token("attribute", name), name=name, description="")
    for token, level, low, high in VISIBILITY_LEVELS:
        draft.add("visibility", token, level=level, description=f"{low:.0%} to {high:.0%} of the object is visible")
    draft.add("sensor", stable_token("sensor", LIDAR_CHANNEL), channel=LIDAR_CHANNEL, modality="lidar")


def _write_map(draft: NuscenesDraft) -> None:
    """One blank mask for all logs."""
    token = stable_token("map", "blank")
    (draft.folder / "maps").mkdir()
    cv2.imwrite(str(draft.folder / "maps" / f"{token}.png"), np.zeros((MAP_SIZE_PX, MAP_SIZE_PX), dtype=np.uint8))
    logs = [row["token"] for row in draft.rows["log"]]
    draft.add("map", token, log_tokens=logs, category="semantic_prior", filename=f"maps/{token}.png")
    known: set[str] = set()
    draft.rows["sensor"] = [row for row in draft.rows["sensor"] if not (row["token"] in known or known.add(row["token"]))]


def channel_of(camera_name: str) -> str:
    """The nuScenes channel of a camera: `CAM_` and its name in capitals."""
    return camera_name if camera_name.startswith("CAM_") else f"CAM_{camera_name.upper()}"


def _draft_clip(folder: Path, clip: Clip, layer_name: str, link: bool, names: set[str]) -> NuscenesDraft:
    """All rows of one clip; its pictures are brought into the dataset folder."""
    if clip.name in names:
        raise DataError(f"{clip.path}: expected distinct clip names, got {clip.name!r} twice; rename one of them")
    layer = clip.layer(layer_name)
    draft = NuscenesDraft(folder)
    mounts = _add_scene(draft, clip)
    last: dict[str, dict] = {}
    for frame in clip.frames:
        labelled = frame.index in layer.boxes_world
        _add_sample(draft, clip, frame, labelled)
        for camera in clip.rig.cameras:
            path = _bring(folder, clip, frame, frame.views[camera.name], link)
            _add_camera_reading(draft, clip, frame, camera, path, mounts[camera.name], last)
        _add_lidar_reading(draft, clip, frame, mounts[LIDAR_CHANNEL], last)
    _add_annotations(draft, clip, layer)
    names.add(clip.name)
    return draft


def _add_scene(draft: NuscenesDraft, clip: Clip) -> dict[str, str]:
    """Log, scene and calibration; returns the calibration token of each camera and of the lidar."""
    log = draft.add(
        "log",
        stable_token(clip.name, "log"),
        logfile=clip.name,
        vehicle=str(clip.info.get("vehicle", "")),
        date_captured=str(clip.info.get("date", "")),
        location=str(clip.info.get("location", "")),
    )
    draft.add(
        "scene",
        stable_token(clip.name, "scene"),
        log_token=log,
        nbr_samples=len(clip),
        first_sample_token=_token(clip, 0),
        last_sample_token=_token(clip, len(clip) - 1),
        name=clip.name,
        description=str(clip.info.get("description", "")),
        **{OURS: {"info": clip.info}},
    )
    mounts = {}
    channels = Counter(channel_of(name) for name in clip.rig.names)
    for index, camera in enumerate(clip.rig.cameras):
        channel = channel_of(camera.name)
        if channels[channel] > 1:
            raise DataError(f"{clip.path}: two cameras become channel {channel}; rename one in clip.json")
        sensor = draft.add("sensor", stable_token("sensor", channel), channel=channel, modality="camera")
        intrinsic = [[camera.fx_px, 0.0, camera.cx_px], [0.0, camera.fy_px, camera.cy_px], [0.0, 0.0, 1.0]]
        ours = {"camera": camera.to_json(), "index": index}
        token = stable_token(clip.name, "mount", channel)
        mounts[camera.name] = _add_mount(draft, token, sensor, camera.ego_from_cam, intrinsic, ours)
    lidar = stable_token("sensor", LIDAR_CHANNEL)
    mounts[LIDAR_CHANNEL] = _add_mount(draft, stable_token(clip.name, "mount", LIDAR_CHANNEL), lidar, np.eye(4), [], None)
    return mounts


def _add_mount(draft: NuscenesDraft, token: str, sensor: str, ego_from_sensor: np.ndarray, intrinsic: list, ours: dict | None) -> str:
    extra = {} if ours is None else {OURS: ours}
    values = {"sensor_token": sensor, **_rigid_fields(ego_from_sensor), "camera_intrinsic": intrinsic, **extra}
    return draft.add("calibrated_sensor", token, **values)


def _rigid_fields(dst_from_src: np.ndarray) -> dict[str, list[float]]:
    numbers = pose_from_rigid(dst_from_src).tolist()
    return {"translation": numbers[:3], "rotation": numbers[3:]}


def _token(clip: Clip, frame_index: int) -> str:
    """The sample's token; pictures that were imported between samples become samples of their own."""
    return sample_token(clip, frame_index) or stable_token(clip.name, "sample", frame_index)


def _add_sample(draft: NuscenesDraft, clip: Clip, frame: Frame, labelled: bool) -> None:
    draft.add(
        "sample",
        _token(clip, frame.index),
        timestamp=frame.timestamp_ns // NS_PER_US,
        prev=_token(clip, frame.index - 1) if frame.index else "",
        next=_token(clip, frame.index + 1) if frame.index + 1 < len(clip) else "",
        scene_token=stable_token(clip.name, "scene"),
        **{OURS: {"timestamp_ns": frame.timestamp_ns, "labelled": labelled}},
    )


def _bring(folder: Path, clip: Clip, frame: Frame, view: View, link: bool) -> str:
    """The picture's path below the dataset root, "" for a view that is not alive; complete files only."""
    if not view.alive:
        return ""
    is_video = "#" in view.image
    channel = channel_of(view.camera)
    suffix = ".jpg" if is_video else Path(view.image).suffix
    relative = f"samples/{channel}/{clip.name}__{channel}__{frame.index:06d}{suffix}"
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_video:
        picture = np.ascontiguousarray(clip.image(frame.index, view.camera)[:, :, ::-1])
        cv2.imwrite(str(target), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
        return relative
    source = clip.path / view.image
    picture_size(source)
    if link:
        target.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, target)
    return relative


def _add_camera_reading(draft: NuscenesDraft, clip: Clip, frame: Frame, camera: Camera, path: str, mount: str, last: dict) -> None:
    view = frame.views[camera.name]
    values = {"height": camera.height_px, "width": camera.width_px, "fileformat": Path(path).suffix[1:] or "jpg", "filename": path}
    _add_reading(draft, clip, frame, camera.name, view.timestamp_ns, view.world_from_ego_at_cam, mount, values, last)


def _add_lidar_reading(draft: NuscenesDraft, clip: Clip, frame: Frame, mount: str, last: dict) -> None:
    """The sweep of a frame as x, y, z, intensity, ring in the ego frame; an empty file where the clip keeps none."""
    path = f"samples/{LIDAR_CHANNEL}/{clip.name}__{LIDAR_CHANNEL}__{frame.index:06d}.pcd.bin"
    (draft.folder / path).parent.mkdir(parents=True, exist_ok=True)
    sweep = sweep_path(clip.path, frame.index)
    points = np.zeros((0, LIDAR_ROW), dtype=np.float32)
    if sweep.is_file():
        with np.load(sweep) as values:
            points = np.zeros((len(values["points_ego"]), LIDAR_ROW), dtype=np.float32)
            points[:, :3], points[:, 3] = values["points_ego"], values["intensity"]
    points.tofile(draft.folder / path)
    values = {"height": 0, "width": 0, "fileformat": "pcd", "filename": path}
    _add_reading(draft, clip, frame, LIDAR_CHANNEL, frame.timestamp_ns, frame.world_from_ego, mount, values, last)


def _add_reading(
    draft: NuscenesDraft,
    clip: Clip,
    frame: Frame,
    sensor: str,
    stamp: int,
    world_from_ego_at_sensor: np.ndarray,
    mount: str,
    values: dict,
    last: dict[str, dict],
) -> None:
    """One row of sample_data with its ego pose, chained to the sensor's reading before."""
    token = stable_token(clip.name, "reading", sensor, frame.index)
    exact = {OURS: {"timestamp_ns": stamp}}
    draft.add("ego_pose", token, timestamp=stamp // NS_PER_US, **_rigid_fields(world_from_ego_at_sensor))
    before = last.get(sensor)
    row = {
        "sample_token": _token(clip, frame.index),
        "ego_pose_token": token,
        "calibrated_sensor_token": mount,
        "timestamp": stamp // NS_PER_US,
        "is_key_frame": True,
        **values,
        "prev": before["token"] if before else "",
        "next": "",
        **exact,
    }
    draft.add("sample_data", token, **row)
    last[sensor] = draft.rows["sample_data"][-1]
    if before:
        before["next"] = token


def _add_annotations(draft: NuscenesDraft, clip: Clip, layer: LabelLayer) -> None:
    """Instances and their annotations, chained along each track; a box without track is an instance of its own."""
    chains: dict[str, list[dict]] = {}
    class_of: dict[str, int] = {}
    for index, boxes in sorted(layer.boxes_world.items()):
        for row in range(len(boxes)):
            track = int(boxes.track_id[row])
            instance = stable_token(clip.name, "instance", track if track >= 0 else f"{index}/{row}")
            token = stable_token(clip.name, "annotation", index, row)
            draft.add("sample_annotation", token, **_annotation(clip, index, boxes, row, instance))
            chains.setdefault(instance, []).append(draft.rows["sample_annotation"][-1])
            class_of.setdefault(instance, int(boxes.class_id[row]))
    for instance, rows in chains.items():
        for before, after in pairwise(rows):
            before["next"], after["prev"] = after["token"], before["token"]
        draft.add(
            "instance",
            instance,
            category_token=stable_token("category", CATEGORY_OF_CLASS[CLASS_NAMES[class_of[instance]]]),
            nbr_annotations=len(rows),
            first_annotation_token=rows[0]["token"],
            last_annotation_token=rows[-1]["token"],
        )


def _annotation(clip: Clip, frame_index: int, boxes: Boxes, row: int, instance: str) -> dict:
    box, name = boxes.box[row], CLASS_NAMES[int(boxes.class_id[row])]
    speed = float(np.hypot(*np.nan_to_num(box[Box3D.VX : Box3D.VY + 1])))
    attribute = attribute_of(name, speed)
    return {
        "sample_token": _token(clip, frame_index),
        "instance_token": instance,
        "visibility_token": visibility_token(float(boxes.visibility[row])),
        "attribute_tokens": [stable_token("attribute", attribute)] if attribute else [],
        "translation": box[:3].tolist(),
        "size": box[[Box3D.WIDTH, Box3D.LENGTH, Box3D.HEIGHT]].tolist(),
        "rotation": quaternion_from_rotation(rotation_from_yaw(box[Box3D.YAW])).tolist(),
        "prev": "",
        "next": "",
        "num_lidar_pts": max(int(boxes.num_points[row]), 0),
        "num_radar_pts": 0,
        OURS: {
            "box": _without_nan(box),
            "class": name,
            "track_id": int(boxes.track_id[row]),
            "score": float(boxes.score[row]),
            "visibility": _without_nan([boxes.visibility[row]])[0],
            "num_points": int(boxes.num_points[row]),
            "ignore": bool(boxes.ignore[row]),
            "provenance": str(boxes.provenance[row]),
        },
    }


def _without_nan(values: Iterable) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]
