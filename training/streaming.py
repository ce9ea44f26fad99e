"""What does a network say about a whole clip? The clip is streamed through it, frame after frame, as on the road."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from fusion.interface import Detections, StepInput, StepOutput, WorldState
from fusion.model import Surround
from scenes.boxes import Boxes
from scenes.clips import Clip
from scenes.layers import LabelLayer, Occupancy, VoxelGrid
from scenes.packing import PackedFrame, pack_frame


@dataclass
class StreamedStep:
    """What the network said about one frame."""

    frame_index: int
    inputs: StepInput
    output: StepOutput
    detections: Detections
    state: WorldState
    """After the step."""


@torch.no_grad()
def stream_clip(
    model: Surround,
    clip: Clip,
    frame_indices: Iterable[int] | None = None,
    memory: bool = True,
    change: Callable[[PackedFrame], PackedFrame] | None = None,
    strict: bool = True,
) -> Iterator[StreamedStep]:
    """Every step in order, where the model lies; without `memory` each begins with an empty state. It should be in evaluation mode.

    `change` may show the network another frame than the one recorded, e.g. its mirror image. Without `strict` an unreadable picture is a
    camera that is not alive instead of a `DataError`.
    """
    device = next(model.parameters()).device
    state = model.empty_state(1, device)
    previous: int | None = None
    for index in range(len(clip)) if frame_indices is None else frame_indices:
        packed = pack_frame(clip, index, model.config.input_hw, previous, strict)
        inputs = StepInput.stack([packed if change is None else change(packed)]).to(device)
        output, new_state = model(inputs, state)
        detections = model.detections(output, new_state)
        yield StreamedStep(index, inputs, output, detections, new_state)
        if memory:
            state, previous = new_state, index


def run_clip(
    model: Surround,
    clip: Clip,
    frame_indices: Iterable[int] | None = None,
    memory: bool = True,
    name: str | None = None,
    min_score: float = 0.01,
) -> LabelLayer:
    """The network's boxes of every streamed frame in the world frame, with scores and ids, as layer `model@<name>`."""
    layer = LabelLayer(f"model@{name or model.config.name}", meta={"created_by": "training.streaming", "memory": memory})
    for step in stream_clip(model, clip, frame_indices, memory):
        boxes_ego = detected_boxes(step.detections, min_score)
        if not memory:
            boxes_ego = replace(boxes_ego, track_id=np.full(len(boxes_ego), -1))
        layer.boxes_world[step.frame_index] = boxes_ego.transform(clip.frames[step.frame_index].world_from_ego)
    return layer


def detected_boxes(detections: Detections, min_score: float = 0.01, row: int = 0) -> Boxes:
    """The detections of one clip of the batch as boxes in the ego frame, best first."""
    score = detections.score_BQ[row].float().cpu().numpy()
    keep = np.flatnonzero(score >= max(min_score, 1e-6))
    keep = keep[np.argsort(-score[keep], kind="stable")]
    columns = (tensor[row].cpu().numpy()[keep] for tensor in (detections.box_BQ9.float(), detections.class_BQ, detections.id_BQ))
    box, class_id, track_id = columns
    return Boxes.make(box, class_id, track_id, score[keep].clip(0, 1))


def predicted_occupancy(output: StepOutput, row: int = 0) -> Occupancy | None:
    """The likeliest state and the flow of each voxel, for one clip of the batch; None if the network has no such head."""
    if output.occupancy_BOXYZ is None:
        return None
    state = output.occupancy_BOXYZ[row].argmax(0).to(torch.uint8).cpu().numpy()
    flow = np.zeros((*state.shape, 2), dtype=np.float32)
    if output.flow_B2XYZ is not None:
        flow = np.moveaxis(output.flow_B2XYZ[row].float().cpu().numpy(), 0, -1)
    return Occupancy(VoxelGrid(), state, np.where((state >= 3)[..., None], flow, 0.0).astype(np.float32))
