"""How is one clip labelled? Evidence, then tracks, then a label layer, each stage done once."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from labeling.stages import ClipStages, StageResult, file_hash, read_arrays, write_arrays
from labeling.teacher import teacher_layer
from labeling.tracks.evidence import Evidence, evidence_from_layer, rig_in_view
from labeling.tracks.settings import TrackingSettings
from labeling.tracks.tracking import TrackLabels, boxes_of_tracks, track_clip
from scenes.atomic import read_json
from scenes.clips import Clip
from scenes.errors import ConfigError, DataError
from scenes.layers import LabelLayer, write_layer

CREATED_BY = "labeling.clip_labels"
STAGE_VERSION = 2
"""Part of every hash: raised when a stage's code changes what it makes."""


@dataclass(frozen=True)
class LabelSettings:
    """What one labeling job does to each clip."""

    layer: str
    """Name of the layer to write, `auto@...`."""
    teacher: Path | None = None
    """Checkpoint of the network that looks at the clips ..."""
    evidence: str | None = None
    """... or the name of a layer that holds the detections already."""
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    device: str = "cpu"
    both_ways: bool = True
    """Stream the clip through the network from both ends."""

    def __post_init__(self) -> None:
        if not self.layer.startswith("auto@") or len(self.layer) <= len("auto@") or "/" in self.layer:
            raise ConfigError(f"label: expected a layer name like auto@first, got {self.layer!r}; rename it")
        if (self.teacher is None) == (self.evidence is None):
            raise ConfigError("label: expected either a teacher's checkpoint or the name of an evidence layer, got both or none; give one")
        if self.evidence == self.layer:
            raise ConfigError(f"label: expected the evidence in another layer than the one to write, got {self.layer!r} twice; rename one")


def clip_identity(clip_path: Path) -> list[str]:
    """Hashes of the clip's tables: what a stage depends on besides settings (pictures are not read)."""
    return [file_hash(clip_path / name) for name in ("clip.json", "frames.parquet", "views.parquet")]


def label_clip(clip_path: Path, settings: LabelSettings) -> list[StageResult]:
    """Labels one clip; stages whose inputs did not change are reused. Bad input raises `DataError` and leaves no half-written layer."""
    clip = Clip.open(clip_path)
    _refuse_foreign_layer(clip, settings.layer)
    stages = ClipStages(clip_path, settings.layer)
    evidence_path, tracks_path = stages.folder / "evidence.npz", stages.folder / "tracks.npz"
    source = _source_identity(clip, settings)
    identity = [STAGE_VERSION, clip_identity(clip_path), source]
    stages.run("evidence", identity, evidence_path, lambda: _write_evidence(clip, settings, evidence_path))
    tracking = settings.tracking.to_json()
    stages.run("tracks", [STAGE_VERSION, tracking], tracks_path, lambda: _write_tracks(clip, settings, evidence_path, tracks_path))
    layer_path = clip_path / "layers" / settings.layer
    stages.run("layer", [STAGE_VERSION, tracking], layer_path, lambda: _write_labels(clip, settings, tracks_path, stages.results))
    return stages.results


def _refuse_foreign_layer(clip: Clip, name: str) -> None:
    header = clip.path / "layers" / name / "layer.json"
    if header.is_file() and read_json(header).get("meta", {}).get("created_by") != CREATED_BY:
        raise DataError(f"{header.parent}: exists and was not written by `surround4d label`; choose another --layer or remove it")


def _source_identity(clip: Clip, settings: LabelSettings) -> list[object]:
    if settings.teacher is not None:
        from training.checkpoints import resolve_checkpoint

        return ["teacher", file_hash(resolve_checkpoint(settings.teacher)), settings.both_ways]
    name = str(settings.evidence)
    layer_path = clip.layer(name).path
    return ["layer", name, file_hash(layer_path / "boxes.parquet") if layer_path else ""]


def _write_evidence(clip: Clip, settings: LabelSettings, path: Path) -> dict[str, float]:
    if settings.teacher is not None:
        layer = teacher_layer(clip, settings.teacher, settings.device, settings.both_ways)
    else:
        layer = clip.layer(str(settings.evidence))
    evidence = evidence_from_layer(clip, layer)
    columns = {name: getattr(evidence, name) for name in ("frame", "box_world", "class_id", "score")}
    write_arrays(path, columns)
    return {"frames": len(clip), "detections": len(evidence)}


def read_evidence(clip: Clip, path: Path) -> Evidence:
    """The evidence stage's artefact."""
    stamps = np.array([frame.timestamp_ns for frame in clip.frames], dtype=np.int64)
    return Evidence(stamps, np.stack([frame.world_from_ego for frame in clip.frames]), **read_arrays(path))


def _write_tracks(clip: Clip, settings: LabelSettings, evidence_path: Path, path: Path) -> dict[str, float]:
    tracks = track_clip(read_evidence(clip, evidence_path), rig_in_view(clip), settings.tracking)
    write_arrays(path, arrays_of_tracks(tracks))
    boxes = sum(len(track.frames) for track in tracks)
    filled = sum(int((track.provenance != "measured").sum()) for track in tracks)
    return {"tracks": len(tracks), "boxes": boxes, "filled": filled}


def arrays_of_tracks(tracks: list[TrackLabels]) -> dict[str, np.ndarray]:
    """Tracks as flat arrays: one row a box, one row a track."""
    return {
        "length": np.array([len(track.frames) for track in tracks], dtype=np.int64),
        "class_id": np.array([track.class_id for track in tracks], dtype=np.int64),
        "probability": np.array([track.probability for track in tracks], dtype=np.float64),
        "is_static": np.array([track.is_static for track in tracks], dtype=bool),
        "frames": np.concatenate([np.zeros(0, dtype=np.int64), *(track.frames for track in tracks)]),
        "box_world": np.concatenate([np.zeros((0, 9)), *(track.box_world for track in tracks)]),
        "box_probability": np.concatenate([np.zeros(0), *(track.box_probability for track in tracks)]),
        "provenance": np.concatenate([np.zeros(0, dtype="U12"), *(track.provenance.astype("U12") for track in tracks)]),
    }


def tracks_from_arrays(arrays: dict[str, np.ndarray]) -> list[TrackLabels]:
    """The inverse of `arrays_of_tracks`."""
    ends = np.cumsum(arrays["length"])
    return [
        TrackLabels(
            arrays["frames"][begin:end],
            arrays["box_world"][begin:end],
            int(arrays["class_id"][k]),
            float(arrays["probability"][k]),
            arrays["box_probability"][begin:end],
            arrays["provenance"][begin:end].astype(object),
            bool(arrays["is_static"][k]),
        )
        for k, (begin, end) in enumerate(zip(ends - arrays["length"], ends, strict=True))
    ]


def _write_labels(clip: Clip, settings: LabelSettings, tracks_path: Path, done: list[StageResult]) -> dict[str, float]:
    boxes_world = boxes_of_tracks(tracks_from_arrays(read_arrays(tracks_path)), len(clip), settings.tracking)
    meta = {
        "created_by": CREATED_BY,
        "teacher": str(settings.teacher) if settings.teacher else None,
        "evidence": settings.evidence,
        "both_ways": settings.both_ways,
        "stage_hashes": {result.name: result.hash for result in done},
        "config": settings.tracking.to_json(),
    }
    write_layer(clip.path, LabelLayer(settings.layer, boxes_world, meta=meta), replace=True)
    ignored = sum(int(boxes.ignore.sum()) for boxes in boxes_world.values())
    return {"labels": sum(map(len, boxes_world.values())) - ignored, "ignore": ignored}
