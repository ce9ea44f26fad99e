"""What does a reviewer get? A folder a clip with pictures, point clouds and annotations for CVAT, and what makes the way back safe.

::

    PKG/
      review.json                  which clips, which layer, when it was made from what
      queue.json                   every track, ranked, with the parts of its priority
      labels.json                  classes and attributes, for CVAT's raw label constructor
      CLIP/
        pictures.zip               data of a picture task: CAMERA/FRAME.jpg
        pictures_annotations.xml   its annotations, CVAT for images 1.1: projected boxes
        cloud.zip                  data of a 3D task: pointcloud/FRAME.pcd, related_images/FRAME_pcd/CAMERA.jpg
        cloud_annotations.zip      its annotations, Datumaro 3D 1.0: cuboids
        exported.json              what was given out
"""

from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from labeling.review.clouds import cloud_of_frame
from labeling.review.cuboids import SUGGESTION, Cuboid, frame_name, label_definitions, pcd_bytes, write_cuboids, write_zip
from labeling.review.queue import CONTEXT, QueueEntry
from labeling.review.rectangles import picture_name, rectangles_of, write_rectangles
from labeling.stages import file_hash, hash_of
from scenes.atomic import atomic_folder, write_json
from scenes.boxes import CLASS_NAMES, Boxes
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.layers import LabelLayer

REVIEW_SCHEMA_VERSION = 1


def layer_hash(clip_path: Path, layer: str) -> str:
    """Which version of a layer's boxes this is."""
    return file_hash(clip_path / "layers" / layer / "boxes.parquet")


def clip_hash(clip_path: Path) -> str:
    """Which clip this is, wherever its folder lies."""
    return hash_of([file_hash(clip_path / name) for name in ("clip.json", "frames.parquet", "views.parquet")])


def write_package(out: Path, queue: list[QueueEntry], layer: str, settings: dict) -> list[str]:
    """Writes the package atomically; returns one sentence for each clip that could not be packed. `settings` are kept for people."""
    chosen: dict[str, dict[str, str]] = {}
    for entry in queue:
        if entry.why:
            chosen.setdefault(entry.clip, {})[track_name(entry.track_id, entry.suggested)] = entry.why
    frames = {clip: sorted({f for e in queue if e.clip == clip and e.why for f in e.frames}) for clip in chosen}
    troubles: list[str] = []
    with atomic_folder(out) as folder:
        packed = []
        for path, tracks in sorted(chosen.items()):
            name = f"{len(packed):04d}_{Path(path).name}"
            try:
                about = _pack_clip(folder / name, Clip.open(path), layer, settings["model"], tracks, frames[path])
                packed.append({"folder": name, **about})
            except DataError as error:
                troubles.append(str(error))
        rows = [{**asdict(entry), "priority": entry.priority} for entry in queue]
        write_json(folder / "queue.json", {"tracks": rows})
        (folder / "labels.json").write_text(json_text(label_definitions()))
        header = {"schema_version": REVIEW_SCHEMA_VERSION, "layer": layer, "settings": settings, "clips": packed}
        write_json(folder / "review.json", {**header, "package": hash_of(header)})
    return troubles


def json_text(values: object) -> str:
    """JSON that is not an object, indented."""
    import json

    return json.dumps(values, indent=1) + "\n"


def track_name(track_id: int, suggested: bool) -> str:
    """What a track is called in CVAT."""
    return f"{SUGGESTION}{track_id}" if suggested else str(track_id)


def _pack_clip(folder: Path, clip: Clip, layer_name: str, model_name: str | None, tracks: dict[str, str], frames: list[int]) -> dict:
    layer, model = clip.layer(layer_name), clip.layer(model_name) if model_name else LabelLayer("")
    folder.mkdir()
    cuboids, rectangles, pictures, files_2d, files_3d = [], [], [], {}, {}
    for frame in frames:
        boxes_ego = clip.boxes_ego(layer, frame) or Boxes.empty()
        why = [tracks.get(track_name(track, False), CONTEXT) for track in boxes_ego.track_id.tolist()]
        cuboids += _cuboids(frame, boxes_ego, why, suggested=False)
        cuboids += _suggestions(frame, clip.boxes_ego(model, frame) or Boxes.empty(), tracks)
        rectangles += rectangles_of(clip, frame, boxes_ego, why)
        files_3d[f"pointcloud/{frame_name(frame)}.pcd"] = pcd_bytes(*cloud_of_frame(clip, layer, frame))
        for camera, (data, width, height) in _pictures(clip, frame).items():
            pictures.append((frame, camera, width, height))
            files_2d[picture_name(frame, camera)] = data
            files_3d[f"related_images/{frame_name(frame)}_pcd/{camera}.jpg"] = data
    order = sorted(pictures, key=lambda picture: picture_name(picture[0], picture[1]))
    write_zip(folder / "pictures.zip", {picture_name(f, c): files_2d[picture_name(f, c)] for f, c, _, _ in order})
    write_zip(folder / "cloud.zip", files_3d)
    write_rectangles(folder / "pictures_annotations.xml", rectangles, order, clip.name)
    write_cuboids(folder / "cloud_annotations.zip", cuboids, frames)
    exported = {"cuboids": [asdict(c) for c in cuboids], "rectangles": [asdict(r) for r in rectangles], "frames": frames}
    write_json(folder / "exported.json", exported)
    identity = {"layer_hash": layer_hash(clip.path, layer_name), "clip_hash": clip_hash(clip.path)}
    return {"clip": clip.path.name, **identity, "tracks": tracks, "frames": frames}


def _cuboids(frame: int, boxes_ego: Boxes, why: list[str], suggested: bool) -> list[Cuboid]:
    names = [track_name(track, suggested) for track in boxes_ego.track_id.tolist()]
    rows = zip(names, boxes_ego.class_id.tolist(), boxes_ego.box[:, :7].tolist(), why, strict=True)
    return [Cuboid(frame, name, CLASS_NAMES[kind], tuple(box), why=reason) for name, kind, box, reason in rows]


def _suggestions(frame: int, boxes_ego: Boxes, tracks: dict[str, str]) -> list[Cuboid]:
    """The deployed model's boxes of the tracks that were chosen from its layer."""
    why = [tracks.get(track_name(track, True), "") for track in boxes_ego.track_id.tolist()]
    mine = np.array([reason != "" for reason in why], dtype=bool)
    return _cuboids(frame, boxes_ego.select(mine), [reason for reason in why if reason], suggested=True)


def _pictures(clip: Clip, frame: int) -> dict[str, tuple[bytes, int, int]]:
    """Camera to JPEG bytes, width and height of the frame's pictures; unreadable ones are left out."""
    found = {}
    for camera in clip.rig.cameras:
        view = clip.frames[frame].views[camera.name]
        if not view.alive:
            continue
        try:
            image = clip.image(frame, camera.name)
        except DataError:
            continue
        if view.image.lower().endswith((".jpg", ".jpeg")):
            data = (clip.path / view.image).read_bytes()
        else:
            data = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
        found[camera.name] = data, camera.width_px, camera.height_px
    return found
