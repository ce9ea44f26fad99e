"""Do the boxes of a label layer make sense over time, and does what stands still stand still in the world?"""

import numpy as np

from scenes.boxes import CLASS_NAMES, Box3D, Boxes
from scenes.check.findings import Finding, broken, warning
from scenes.clips import Clip
from scenes.geometry import NS_PER_S
from scenes.layers import LabelLayer

STILL_MPS = 0.6
"""A track slower than this over its whole length is taken as standing."""
MIN_TRACK_S = 1.0
MAX_DRIFT_MPS = 0.15
"""Median drift of standing objects beyond which poses and labels do not fit."""
MAX_SIZE_M = (30.0, 6.0, 8.0)
MAX_OBJECT_SPEED_MPS = 70.0


def check_labels(clip: Clip, layer: LabelLayer) -> tuple[list[Finding], float | None]:
    """Findings of a layer's boxes, and the median drift in m/s of standing objects (None without any)."""
    findings = _check_rows(layer)
    tracks = tracks_of(clip, layer)
    findings += _check_tracks(layer, tracks)
    drifts = [drift for drift in (_drift_mps(seconds, boxes) for seconds, boxes in tracks.values()) if drift is not None]
    if not drifts:
        return findings, None
    drift = float(np.median(drifts))
    if drift > MAX_DRIFT_MPS and len(drifts) >= 3:
        text = (
            f"{clip.path}: {len(drifts)} standing objects of layer {layer.name!r} drift through the world by {drift:.2f} m/s (median), "
            f"expected below {MAX_DRIFT_MPS} m/s; the ego path and the labels do not fit, check scale and clock of the poses"
        )
        findings.append(warning("labels", text))
    return findings, drift


def tracks_of(clip: Clip, layer: LabelLayer) -> dict[int, tuple[np.ndarray, Boxes]]:
    """Track id to (seconds (F,), its boxes in the world frame in time order)."""
    indices = [i for i in sorted(layer.boxes_world) if 0 <= i < len(clip)]
    boxes = Boxes.concatenate([layer.boxes_world[i] for i in indices])
    stamps = np.repeat(
        np.array([clip.frames[i].timestamp_ns for i in indices], dtype=np.int64), [len(layer.boxes_world[i]) for i in indices]
    )
    seconds = (stamps - clip.frames[0].timestamp_ns) / NS_PER_S
    ids = np.unique(boxes.track_id[boxes.track_id >= 0])
    rows = {int(track): np.flatnonzero(boxes.track_id == track) for track in ids}
    return {track: (seconds[row], boxes.select(row)) for track, row in rows.items()}


def _check_rows(layer: LabelLayer) -> list[Finding]:
    findings = []
    for index, boxes in sorted(layer.boxes_world.items()):
        known = boxes.track_id[boxes.track_id >= 0]
        twice = known[np.bincount(np.unique(known, return_inverse=True)[1])[np.unique(known, return_inverse=True)[1]] > 1]
        if len(twice):
            text = f"{layer.path}, frame {index}: track {twice[0]} has two boxes in one frame; give each object its own track id"
            findings.append(broken("labels", text))
        for row in np.flatnonzero((boxes.box[:, Box3D.LENGTH : Box3D.HEIGHT + 1] > MAX_SIZE_M).any(axis=1)):
            size = " x ".join(f"{v:.1f}" for v in boxes.box[row, Box3D.LENGTH : Box3D.HEIGHT + 1])
            text = f"{layer.path}, frame {index}: a {CLASS_NAMES[boxes.class_id[row]]} of {size} m (l x w x h); check its units"
            findings.append(warning("labels", text))
    return findings


def _check_tracks(layer: LabelLayer, tracks: dict[int, tuple[np.ndarray, Boxes]]) -> list[Finding]:
    findings = []
    for track, (seconds, boxes) in tracks.items():
        if len(np.unique(boxes.class_id)) > 1:
            names = ", ".join(sorted({CLASS_NAMES[k] for k in boxes.class_id}))
            findings.append(warning("labels", f"{layer.path}: track {track} changes its class ({names}); one object has one class"))
        step_s = np.diff(seconds)
        if not len(step_s) or (step_s <= 0).any():
            continue
        speed = np.linalg.norm(np.diff(boxes.box[:, :2], axis=0), axis=1) / step_s
        if speed.max() > MAX_OBJECT_SPEED_MPS:
            text = f"{layer.path}: track {track} moves at {speed.max():.0f} m/s at {seconds[int(speed.argmax())]:.1f} s"
            findings.append(broken("labels", text + "; two objects share this id, or a pose is wrong"))
    return findings


def _drift_mps(seconds: np.ndarray, boxes: Boxes) -> float | None:
    """Speed of the straight line fitted to a track; None for short tracks and for those that move or claim to move."""
    if len(seconds) < 3 or np.ptp(seconds) < MIN_TRACK_S:
        return None
    claimed = np.linalg.norm(np.nan_to_num(boxes.box[:, Box3D.VX : Box3D.VY + 1]), axis=1)
    centred = seconds - seconds.mean()
    slope = (centred @ (boxes.box[:, :2] - boxes.box[:, :2].mean(axis=0))) / (centred @ centred)
    speed = float(np.linalg.norm(slope))
    return speed if speed < STILL_MPS and np.median(claimed) < STILL_MPS else None
