"""How do a clip's tracks become its label layer?"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from labeling.confidence.stage import confidence_path
from labeling.detections import moved_layer
from labeling.stages import ClipWork, Stage, read_arrays
from labeling.tracks.settings import TrackingSettings
from scenes.atomic import atomic_folder, read_json
from scenes.boxes import Boxes
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import invert_rigid
from scenes.layers import LabelLayer, write_layer_files
from scenes.show.outlines import box_rectangles

CREATED_BY = "labeling.clip_labels"
DENSE_FOLDERS = ("occupancy", "depth")
"""What the layer takes from a stage's artefact folder."""


def refuse_foreign_layer(clip: Clip, name: str) -> None:
    """A layer that another program wrote is never overwritten."""
    header = clip.path / "layers" / name / "layer.json"
    if header.is_file() and read_json(header).get("meta", {}).get("created_by") != CREATED_BY:
        raise DataError(f"{header.parent}: exists and was not written by `surround4d label`; choose another --layer or remove it")


def label_boxes(clip: Clip, arrays: dict[str, np.ndarray], within: np.ndarray, settings: TrackingSettings) -> dict[int, Boxes]:
    """Frame index to boxes in the world of `clip`, from a tracks file's arrays and the boxes' probabilities (F, 3).

    The score is the probability within the widest distance: below `label_probability` a box is `ignore`, below
    `ignore_probability` it is left out.
    """
    limits = {class_id: group.confidence for group in settings.groups for class_id in group.class_ids}
    track = np.repeat(np.arange(len(arrays["length"])), arrays["length"])
    class_id, score = arrays["class_id"][track], within[:, -1]
    least, sure = (np.array([getattr(limits[k], name) for k in class_id.tolist()]) for name in ("ignore_probability", "label_probability"))
    columns = {"provenance": arrays["provenance"], "evidence": arrays["sources"], "within": within, "ignore": score < sure}
    columns["visibility"] = arrays["visibility"]
    boxes_world = Boxes.make(arrays["box_world"], class_id, track, score, **columns)
    found = {}
    for frame in range(len(clip)):
        boxes = boxes_world.select((arrays["frames"] == frame) & (score >= least))
        found[frame] = replace(boxes, cameras=seeing_cameras(clip, frame, boxes))
    return found


def seeing_cameras(clip: Clip, frame: int, boxes_world: Boxes) -> np.ndarray:
    """(M,) str: the live cameras into whose pictures a part of each box falls, occluded or not, joined by "+"."""
    seen_by: list[list[str]] = [[] for _ in range(len(boxes_world))]
    boxes_ego = boxes_world.transform(invert_rigid(clip.frames[frame].world_from_ego))
    for camera in clip.rig.cameras:
        if clip.frames[frame].views[camera.name].alive:
            seen = box_rectangles(camera, clip.cam_from_ego_at_ref(frame, camera.name), boxes_ego, points_per_edge=3)[1]
            for row in np.flatnonzero(seen).tolist():
                seen_by[row].append(camera.name)
    return np.array(["+".join(names) for names in seen_by], dtype=object)


def _layer(work: ClipWork, path: Path) -> dict[str, float]:
    arrays, within = read_arrays(work.artefact("tracks")), read_arrays(work.artefact("confidence"))["within"]
    boxes_world = label_boxes(work.clip, arrays, within, work.settings.tracking)
    layer = moved_layer(LabelLayer(work.settings.layer, boxes_world, meta=_meta(work)), work.clip, work.recorded)
    with atomic_folder(path, replace=True) as folder:
        write_layer_files(folder, layer)
        for stage in work.stages:
            for kind in DENSE_FOLDERS:
                if stage.name != "layer" and (work.artefact(stage.name) / kind).is_dir():
                    shutil.copytree(work.artefact(stage.name) / kind, folder / kind, copy_function=link_or_copy)
    ignored = sum(int(boxes.ignore.sum()) for boxes in boxes_world.values())
    return {"labels": sum(map(len, boxes_world.values())) - ignored, "ignore": ignored}


def link_or_copy(src: str, dst: str) -> None:
    """A hard link where the disk allows one, else a copy (for `shutil.copytree`)."""
    try:
        os.link(src, dst)
    except OSError:
        shutil.copyfile(src, dst)


def _meta(work: ClipWork) -> dict:
    settings = work.settings
    return {
        "created_by": CREATED_BY,
        "teacher": str(settings.teacher) if settings.teacher else None,
        "evidence": settings.evidence,
        "detector": str(settings.detector) if settings.detector else None,
        "boxes2d": str(settings.boxes2d) if settings.boxes2d else None,
        "lidar": settings.lidar,
        "refine_motion": settings.refine_motion.value,
        "confidence": confidence_path(settings).name,
        "sources": list(settings.sources),
        "both_ways": settings.both_ways,
        "mirrored": settings.mirrored,
        "stage_hashes": work.hashes(),
        "config": settings.tracking.to_json(),
    }


LAYER = Stage(
    "layer",
    "../../layers/{layer}",
    _layer,
    after=("motion", "tracks", "confidence", "reconstruction"),
    settings=lambda work: work.settings.tracking.to_json(),
)
