"""What was detected in a clip? The stages that make evidence from a teacher network or an existing layer, and all evidence together."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from labeling.mixing import joined_sources
from labeling.stages import ClipWork, Stage, file_hash, read_arrays, write_arrays
from labeling.teacher import teacher_layer
from labeling.tracks.evidence import Evidence, evidence_from_layer
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import invert_rigid
from scenes.layers import LabelLayer

FARTHEST_M = 1000.0
"""Evidence that on the whole lies further from the ego vehicle belongs to another clip."""


def write_evidence(path: Path, evidence: Evidence) -> dict[str, float]:
    """An evidence stage's artefact and its counts."""
    write_arrays(path, {name: column.astype(str) if column.dtype == object else column for name, column in evidence.columns().items()})
    return {"frames": len(evidence.timestamps_ns), "detections": len(evidence)}


def read_evidence(clip: Clip, *paths: Path) -> Evidence:
    """The detections of one or several evidence files of a clip, sorted by frame."""
    stamps = np.array([frame.timestamp_ns for frame in clip.frames], dtype=np.int64)
    poses = np.stack([frame.world_from_ego for frame in clip.frames])
    parts = [_with_all_columns(read_arrays(path)) for path in paths]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns["frame"], kind="stable")
    return Evidence(stamps, poses, **{name: values[order] for name, values in columns.items()})


def _with_all_columns(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Evidence columns with those that one source may leave out."""
    count = len(arrays["frame"])
    covariance = arrays.get("covariance", np.full((count, 2, 2), np.nan))
    velocity_std = arrays.get("velocity_std_mps", np.full(count, np.nan))
    source = arrays.get("source", np.full(count, "")).astype(object)
    return {**arrays, "covariance": covariance, "velocity_std_mps": velocity_std, "source": source}


def all_evidence(work: ClipWork) -> Evidence:
    """What all evidence stages of this job found in the clip; what several sources saw of one object is one detection."""
    found = read_evidence(work.clip, *(work.artefact(stage.name) for stage in work.stages if stage.gives_evidence))
    return joined_sources(found, work.settings.tracking) if len(work.settings.sources) > 1 else found


def moved_layer(layer: LabelLayer, src: Clip, dst: Clip) -> LabelLayer:
    """Boxes of the world of `src`, put as they stand around the ego vehicle in the world of `dst`: the same drive, other poses."""
    if src is dst:
        return layer
    poses = {i: (dst.frames[i].world_from_ego, src.frames[i].world_from_ego) for i in layer.boxes_world if 0 <= i < len(src)}
    moved = {
        i: boxes_world.transform(poses[i][0] @ invert_rigid(poses[i][1])) if i in poses else boxes_world
        for i, boxes_world in layer.boxes_world.items()
    }
    return replace(layer, boxes_world=moved)


def _teacher(work: ClipWork, path: Path) -> dict[str, float]:
    settings = work.settings
    assert settings.teacher is not None
    layer = teacher_layer(work.clip, settings.teacher, settings.device, settings.both_ways, settings.mirrored)
    if layer.meta["unreadable"]:
        unreadable = f"{layer.meta['unreadable']} of {work.clip.num_pictures} pictures could not be read"
        work.notes.append(f"{work.recorded.path}: {unreadable}, the teacher looked without them")
    return write_evidence(path, evidence_from_layer(work.clip, layer, "teacher"))


def _teacher_settings(work: ClipWork) -> object:
    from training.checkpoints import resolve_checkpoint

    assert work.settings.teacher is not None
    return [file_hash(resolve_checkpoint(work.settings.teacher)), work.settings.both_ways, work.settings.mirrored]


def _layer(work: ClipWork, path: Path) -> dict[str, float]:
    name = str(work.settings.evidence)
    layer = moved_layer(work.recorded.layer(name), work.recorded, work.clip)
    evidence = evidence_from_layer(work.clip, layer, name)
    distance_m = float(np.median(evidence.sight()[0])) if len(evidence) else 0.0
    if distance_m > FARTHEST_M:
        raise DataError(
            f"{work.recorded.path}: expected the boxes of layer {name!r} around the ego vehicle, got them {distance_m:.0f} m away "
            "(median); it belongs to another clip, make it again"
        )
    return write_evidence(path, evidence)


def _layer_settings(work: ClipWork) -> object:
    name = str(work.settings.evidence)
    layer_path = work.recorded.layer(name).path
    return [name, file_hash(layer_path / "boxes.parquet") if layer_path else ""]


TEACHER = Stage(
    "teacher",
    "teacher.npz",
    _teacher,
    after=("motion",),
    settings=_teacher_settings,
    wanted=lambda settings: settings.teacher is not None,
    gives_evidence=True,
    version=2,
)
LAYER_EVIDENCE = Stage(
    "evidence",
    "evidence.npz",
    _layer,
    after=("motion",),
    settings=_layer_settings,
    wanted=lambda settings: settings.evidence is not None,
    gives_evidence=True,
)
