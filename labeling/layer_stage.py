"""How do a clip's tracks become its label layer?"""

import os
import shutil
from pathlib import Path

from labeling.detections import moved_layer
from labeling.stages import ClipWork, Stage, read_arrays
from labeling.track_stage import tracks_from_arrays
from labeling.tracks.tracking import boxes_of_tracks
from scenes.atomic import atomic_folder, read_json
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.layers import LabelLayer, write_layer_files

CREATED_BY = "labeling.clip_labels"
DENSE_FOLDERS = ("occupancy", "depth")
"""What the layer takes from a stage's artefact folder."""


def refuse_foreign_layer(clip: Clip, name: str) -> None:
    """A layer that another program wrote is never overwritten."""
    header = clip.path / "layers" / name / "layer.json"
    if header.is_file() and read_json(header).get("meta", {}).get("created_by") != CREATED_BY:
        raise DataError(f"{header.parent}: exists and was not written by `surround4d label`; choose another --layer or remove it")


def _layer(work: ClipWork, path: Path) -> dict[str, float]:
    tracks = tracks_from_arrays(read_arrays(work.artefact("tracks")))
    boxes_world = boxes_of_tracks(tracks, len(work.clip), work.settings.tracking)
    layer = moved_layer(LabelLayer(work.settings.layer, boxes_world, meta=_meta(work)), work.clip, work.recorded)
    with atomic_folder(path, replace=True) as folder:
        write_layer_files(folder, layer)
        for stage in work.stages:
            for kind in DENSE_FOLDERS:
                if stage.name != "layer" and (work.artefact(stage.name) / kind).is_dir():
                    shutil.copytree(work.artefact(stage.name) / kind, folder / kind, copy_function=_link_or_copy)
    ignored = sum(int(boxes.ignore.sum()) for boxes in boxes_world.values())
    return {"labels": sum(map(len, boxes_world.values())) - ignored, "ignore": ignored}


def _link_or_copy(src: str, dst: str) -> None:
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
        "sources": list(settings.sources),
        "both_ways": settings.both_ways,
        "stage_hashes": work.hashes(),
        "config": settings.tracking.to_json(),
    }


LAYER = Stage(
    "layer",
    "../../layers/{layer}",
    _layer,
    after=("motion", "tracks", "reconstruction"),
    settings=lambda work: work.settings.tracking.to_json(),
)
