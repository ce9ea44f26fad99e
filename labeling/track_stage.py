"""How are a clip's tracks made and kept? The stage that links all evidence, and the file between it and the label layer."""

from pathlib import Path

import numpy as np

from labeling.appearance import picture_looks
from labeling.detections import all_evidence
from labeling.lidar import clip_sweeps, ranged
from labeling.stages import ClipWork, Stage, write_arrays
from labeling.tracks.evidence import rig_in_view
from labeling.tracks.tracking import TrackLabels, track_clip
from scenes.clips import sweep_path


def _tracks(work: ClipWork, path: Path) -> dict[str, float]:
    evidence, counts = all_evidence(work), {}
    if work.settings.lidar:
        if not _sweeps(work):
            work.notes.append(f"{work.recorded.path}: no lidar sweeps (lidar/FRAME.npz), so distances are those of the other evidence")
        evidence, moved = ranged(evidence, clip_sweeps(work.clip))
        counts["ranged"] = moved
    tracks = track_clip(evidence, rig_in_view(work.clip), work.settings.tracking, picture_looks(work.clip))
    write_arrays(path, arrays_of_tracks(tracks))
    boxes = sum(len(track.frames) for track in tracks)
    filled = sum(int((track.provenance != "measured").sum()) for track in tracks)
    return {"tracks": len(tracks), "boxes": boxes, "filled": filled, **counts}


def _sweeps(work: ClipWork) -> list[str]:
    """Names and sizes of the clip's sweeps that this job reads."""
    paths = [sweep_path(work.clip.path, frame) for frame in range(len(work.clip))] if work.settings.lidar else []
    return [f"{path.name} {path.stat().st_size}" for path in paths if path.is_file()]


def arrays_of_tracks(tracks: list[TrackLabels]) -> dict[str, np.ndarray]:
    """Tracks as flat arrays: one row a box, one row a track."""
    none = np.zeros(0, dtype="U1")
    return {
        "length": np.array([len(track.frames) for track in tracks], dtype=np.int64),
        "class_id": np.array([track.class_id for track in tracks], dtype=np.int64),
        "probability": np.array([track.probability for track in tracks], dtype=np.float64),
        "is_static": np.array([track.is_static for track in tracks], dtype=bool),
        "frames": np.concatenate([np.zeros(0, dtype=np.int64), *(track.frames for track in tracks)]),
        "box_world": np.concatenate([np.zeros((0, 9)), *(track.box_world for track in tracks)]),
        "box_probability": np.concatenate([np.zeros(0), *(track.box_probability for track in tracks)]),
        "provenance": np.concatenate([none, *(track.provenance.astype(str) for track in tracks)]),
        "visibility": np.concatenate([np.zeros(0), *(track.visibility for track in tracks)]),
        "sources": np.concatenate([none, *(track.sources.astype(str) for track in tracks)]),
        "spread_m": np.concatenate([np.zeros((0, 2)), *(track.spread_m for track in tracks)]),
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
            arrays["sources"][begin:end].astype(object),
            arrays["visibility"][begin:end],
            arrays["spread_m"][begin:end],
        )
        for k, (begin, end) in enumerate(zip(ends - arrays["length"], ends, strict=True))
    ]


TRACKS = Stage(
    "tracks",
    "tracks.npz",
    _tracks,
    after=("motion", "teacher", "evidence", "lifting"),
    settings=lambda work: [work.settings.tracking.to_json(), *_sweeps(work)],
    version=3,
)
