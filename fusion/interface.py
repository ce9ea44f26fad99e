"""What goes into the network at every step, and what comes out? `StepInput`, `WorldState`, `StepOutput`, `Detections`.

Shape letters: B batch, N cameras, H W image rows and columns, S memory slots, Q queries, K classes, C channels,
X Y Z bird's-eye/voxel cells (x forward, y left, z up), D depth bins, O occupancy states, L layers, M past maps.
All boxes are in the ego frame at the step's reference time, columns `scenes.boxes.Box3D`.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from scenes.packing import PackedFrame


class _TensorStruct:
    """Shared by the dataclasses of tensors below: move, detach and list them."""

    def map(self, function):
        """The same structure with `function` applied to every tensor (None stays None)."""
        changed = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **{k: function(v) if isinstance(v, Tensor) else v for k, v in changed.items()})  # type: ignore[type-var]

    def to(self, device: torch.device | str):
        """The same structure on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def detach(self):
        """The same structure cut from the autograd graph."""
        return self.map(lambda tensor: tensor.detach())

    def tensors(self) -> dict[str, Tensor]:
        """Field name to tensor, in order, without those that are None."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}  # type: ignore[arg-type]


@dataclass
class StepInput(_TensorStruct):
    """One time step of B clips with N cameras each; field by field `scenes.packing.PackedFrame` with a batch axis."""

    images_BNHW3: Tensor
    """uint8 RGB."""
    intrinsics_BN4: Tensor
    distortion_BN5: Tensor
    lens_BN: Tensor
    max_angle_BN: Tensor
    cam_from_ego_BN44: Tensor
    alive_BN: Tensor
    time_offset_BN: Tensor
    dt_B: Tensor
    prev_from_ego_B44: Tensor

    @classmethod
    def stack(cls, frames: list[PackedFrame]) -> "StepInput":
        """A batch of packed frames with the same number of cameras."""
        names = [f.name for f in fields(PackedFrame)]
        return cls(*(torch.from_numpy(np.stack([getattr(frame, name) for frame in frames])) for name in names))


@dataclass
class WorldState(_TensorStruct):
    """The explicit 4D memory: goes into a step, comes out of it. An empty state (all zeros, `valid_B` 0) starts a clip."""

    valid_B: Tensor
    """float32, 1 if there was a previous step. Set to 0 to forget that clip (the rest is then ignored)."""
    query_BSC: Tensor
    """Embeddings of remembered objects."""
    box_BS9: Tensor
    """Their boxes, which follow what is seen (`fusion.kinematics.followed`), in the ego frame of the step that wrote the state."""
    score_BS: Tensor
    """float32 in [0, 1]; 0 marks an empty slot, less than `QueryConfig.keep_score` one that is being forgotten and that nobody sees."""
    id_BS: Tensor
    """int64 persistent ids, -1 for an object without one and for an empty slot."""
    age_BS: Tensor
    """float32 seconds since the object was first seen."""
    next_id_B: Tensor
    """int64: the id that the next new object gets."""
    bev_BMCXY: Tensor
    """Past bird's-eye features, newest first, each in the ego frame of the step that wrote the STATE (already warped there)."""
    bev_age_BM: Tensor
    """float32 seconds between each map and the step that wrote the state; negative marks an empty map."""


@dataclass
class LayerOutput(_TensorStruct):
    """What one decoder layer predicts for Q queries; losses are applied to each layer."""

    logits_BQK: Tensor
    """Class logits (sigmoid, no background class)."""
    box_BQ9: Tensor
    """Metric boxes in the ego frame at the reference time."""
    quality_BQ: Tensor
    """Logit of the expected localisation quality."""
    turn_BQ4: Tensor
    """The heading as it was said: `CODE_AXIS` and `CODE_FACING` of `fusion.boxcode`, not normalised, before physics had a word."""


@dataclass
class StepOutput:
    """Everything a step predicts. Parts that a variant does not have, or that only training needs, are None."""

    layers: list[LayerOutput]
    """One per decoder layer, in order; `layers[-1]` is the answer. The first Q_new queries are new, then S propagated,
    then (training only) the denoising queries."""
    num_denoising: int
    """How many of the last queries are denoising queries (0 outside training)."""
    heatmap_BKXY: Tensor
    """Logits of the dense centre heatmap on the bird's-eye grid."""
    dense_box_BRXY: Tensor
    """Box regression at each bird's-eye cell, encoded (fusion.boxcode); R codes."""
    occupancy_BOXYZ: Tensor | None
    """Logits per voxel over `scenes.layers.OCCUPANCY_STATES`."""
    flow_B2XYZ: Tensor | None
    """m/s in ego axes per voxel."""
    depth_BNDHW: Tensor | None
    """Logits of the depth bins per camera at the auxiliary stride."""
    extra: dict[str, Tensor]
    """Outputs of plugged-in heads (lanes, forecasts) by name."""
    presence_BQ: Tensor | None = None
    """float32 in [0, 1], how far each query counts (`fusion.objects.Queries`); 0 for padding (empty memory slots, denoising padding): no
    target may be matched to it."""
    source_BS: Tensor | None = None
    """int64: which query each slot of the next state remembers (any, for an empty slot)."""


@dataclass
class Detections(_TensorStruct):
    """The readable answer of a step, fixed size, sorted by falling score; empty places have score 0 and id -1."""

    box_BQ9: Tensor
    score_BQ: Tensor
    class_BQ: Tensor
    """int64."""
    id_BQ: Tensor
    """int64 persistent ids."""
