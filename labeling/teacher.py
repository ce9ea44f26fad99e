"""What does a teacher network say about a clip when it may watch it forwards, backwards and in a mirror?"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from labeling.tracks.association import REFUSED, assign
from perception.augmentation import RigChange, SceneChange, change_boxes, change_geometry
from scenes.boxes import VEHICLE_CLASSES, Box3D, Boxes, class_id_of
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import wrap_angle
from scenes.layers import LabelLayer
from scenes.packing import PackedFrame

MIRROR = SceneChange(np.diag([1.0, -1.0, 1.0, 1.0]), mirrored=True)

SAME_OBJECT_M = 2.0
"""Detections of the two passes nearer than this (larger for far ones) may be one object."""
SAME_OBJECT_PER_M = 0.04


@lru_cache(maxsize=1)
def _loaded(path: Path, modified_ns: int, device: str):
    """The network of a checkpoint file, read once for all clips of a process."""
    from training.checkpoints import load_checkpoint

    return load_checkpoint(path, device=device).model


def teacher_layer(clip: Clip, checkpoint: Path, device: str, both_ways: bool, mirrored: bool = False) -> LabelLayer:
    """The network's boxes of every frame; with `both_ways` the clip is also streamed from its end, with `mirrored` also in a mirror.

    All passes are fused. Pictures that cannot be read are left out, `meta["unreadable"]` counts them; a clip without any is refused with
    `DataError`.
    """
    from training.checkpoints import resolve_checkpoint

    path = resolve_checkpoint(checkpoint)
    model = _loaded(path, path.stat().st_mtime_ns, device)
    orders = [range(len(clip)), range(len(clip) - 1, -1, -1)] if both_ways and len(clip) > 1 else [range(len(clip))]
    passes = [_one_pass(model, clip, order, mirror) for mirror in ((False, True) if mirrored else (False,)) for order in orders]
    if passes[0].meta["unreadable"] == clip.num_pictures:
        raise DataError(f"{clip.path}: expected pictures to look at, got none of {clip.num_pictures} that can be read; restore the images")
    while len(passes) > 1:
        passes = [fuse_layers(clip, a, b) for a, b in zip(passes[::2], passes[1::2], strict=True)]
    return passes[0]


def _one_pass(model, clip: Clip, order: range, mirror: bool) -> LabelLayer:
    """The network's boxes of the frames in this order. From the end to the beginning it finds things as well, but it has learned to
    measure velocities while time goes on (backwards they were off by 5.4 m/s instead of 0.8), so those are left unknown.
    """
    from training.streaming import detected_boxes, stream_clip

    backwards = len(order) > 1 and order[0] > order[-1]
    layer, unreadable = LabelLayer(f"model@{model.config.name}"), 0
    for step in stream_clip(model, clip, order, change=mirror_frame if mirror else None, strict=False):
        unreadable += sum(view.alive for view in clip.frames[step.frame_index].views.values()) - int(step.inputs.alive_BN.sum())
        boxes_ego = detected_boxes(step.detections)
        if mirror:
            boxes_ego = replace(boxes_ego, box=change_boxes(boxes_ego.box, MIRROR))
        if backwards:
            boxes_ego.box[:, Box3D.VX : Box3D.VY + 1] = np.nan
        layer.boxes_world[step.frame_index] = boxes_ego.transform(clip.frames[step.frame_index].world_from_ego)
    layer.meta["unreadable"] = unreadable
    return layer


def mirror_frame(frame: PackedFrame) -> PackedFrame:
    """The frame as a mirror along the vehicle's axis shows it: left is right, in pictures, calibration and motion alike."""
    num_cameras, _, width, _ = frame.images_NHW3.shape
    affine = np.tile([-1.0, width - 1.0, 1.0, 0.0], (num_cameras, 1))
    return change_geometry(frame, MIRROR, RigChange(affine, np.tile(np.eye(4), (num_cameras, 1, 1))))


def fuse_layers(clip: Clip, forward: LabelLayer, backward: LabelLayer) -> LabelLayer:
    """One layer of both passes: what both saw is averaged, what one saw keeps part of its score."""
    fused = LabelLayer(forward.name, meta=forward.meta)
    for index in sorted(set(forward.boxes_world) | set(backward.boxes_world)):
        sensor_xy = clip.frames[index].world_from_ego[:2, 3]
        ahead, behind = (layer.boxes_world.get(index, Boxes.empty()) for layer in (forward, backward))
        fused.boxes_world[index] = fuse_boxes(ahead, behind, sensor_xy)
    return fused


def fuse_boxes(a: Boxes, b: Boxes, sensor_xy: np.ndarray) -> Boxes:
    """Boxes of two looks at one frame: paired by distance within a kind of class, averaged by score; the unpaired keep 0.6 of theirs."""
    vehicles = [class_id_of(name, "fuse_boxes") for name in VEHICLE_CLASSES]
    kind_a, kind_b = (np.where(np.isin(boxes.class_id, vehicles), -1, boxes.class_id) for boxes in (a, b))
    distance = np.hypot(a.box[:, None, 0] - b.box[None, :, 0], a.box[:, None, 1] - b.box[None, :, 1])
    reach = SAME_OBJECT_M + SAME_OBJECT_PER_M * np.linalg.norm(a.box[:, :2] - sensor_xy, axis=1)[:, None]
    cost = np.where((distance < reach) & (kind_a[:, None] == kind_b[None]), distance / reach, REFUSED)
    i, j = assign(cost)
    alone_a, alone_b = np.delete(np.arange(len(a)), i), np.delete(np.arange(len(b)), j)
    weak = [replace(part, score=0.6 * part.score) for part in (a.select(alone_a), b.select(alone_b))]
    return Boxes.concatenate([_averaged(a.select(i), b.select(j)), *weak])


def _averaged(a: Boxes, b: Boxes) -> Boxes:
    share = (b.score / np.maximum(a.score + b.score, 1e-9))[:, None]
    box = (1 - share) * a.box + share * b.box
    box = np.where(np.isnan(b.box), a.box, np.where(np.isnan(a.box), b.box, box))  # a velocity that only one of them knows
    turn = np.asarray(wrap_angle(b.box[:, Box3D.YAW] - a.box[:, Box3D.YAW])).reshape(-1)
    stronger = b.score > a.score
    yaw = np.where(np.abs(turn) < np.pi / 2, a.box[:, Box3D.YAW] + share[:, 0] * turn, np.where(stronger, b.box[:, 6], a.box[:, 6]))
    box[:, Box3D.YAW] = np.asarray(wrap_angle(yaw)).reshape(-1)
    class_id = np.where(stronger, b.class_id, a.class_id)
    return replace(a, box=box, class_id=class_id, score=(a.score + b.score) / 2)
