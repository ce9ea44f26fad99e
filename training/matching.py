"""Which query answers for which true box? Hungarian matching, with a preference of remembered objects for their own track."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fusion.boxcode import encode_boxes
from fusion.interface import LayerOutput, WorldState
from training.targets import StepTargets

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


@dataclass(frozen=True)
class Matches:
    """Pairs over the whole batch; P pairs."""

    clip_P: Tensor
    """int64 place in the batch."""
    query_P: Tensor
    target_P: Tensor

    def __len__(self) -> int:
        return len(self.clip_P)


def code_of(box: Tensor) -> Tensor:
    """Codes (..., 12) of boxes (..., 9) about the ego origin: what box losses and costs compare."""
    return encode_boxes(box, torch.zeros_like(box[..., :3]))


def code_weights(velocity: float, size: float, heading: float, device: torch.device | str = "cpu") -> Tensor:
    """(12,) weights of a box code's numbers in losses and costs; which end is the front counts in a loss of its own and in no cost."""
    return torch.tensor([1.0, 1.0, 1.0, size, size, size, heading, heading, 0.0, 0.0, velocity, velocity], device=device)


@torch.no_grad()
def matching_cost(layer: LayerOutput, targets: StepTargets, weight_12: Tensor, box_weight: float, class_weight: float = 2.0) -> Tensor:
    """(B, Q, M) focal class cost plus weighted L1 of box codes, as in DETR3D; an unknown velocity costs nothing."""
    probability = layer.logits_BQK.float().sigmoid()
    positive = FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * -(probability + 1e-8).log()
    negative = (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * -(1 - probability + 1e-8).log()
    classes_BQM = targets.class_BM[:, None].expand(-1, probability.shape[1], -1)
    cost = class_weight * (positive - negative).gather(2, classes_BQM)
    difference = (code_of(layer.box_BQ9.float())[:, :, None] - code_of(targets.box_BM9)[:, None]).abs()
    return cost + box_weight * (torch.nan_to_num(difference, nan=0.0) * weight_12).sum(-1)


@torch.no_grad()
def match(cost_BQM: Tensor, valid_BM: Tensor, bonus_BQM: Tensor | None = None) -> Matches:
    """The cheapest one-to-one pairs of each clip; padding is never matched, no targets give no pairs."""
    cost = cost_BQM if bonus_BQM is None else cost_BQM - bonus_BQM
    cost_np = np.nan_to_num(cost.cpu().numpy(), nan=1e6, posinf=1e6, neginf=-1e6)
    valid = valid_BM.cpu().numpy()
    clips, queries, chosen = [], [], []
    for clip in range(len(cost_np)):
        columns = np.flatnonzero(valid[clip])
        rows, picked = linear_sum_assignment(cost_np[clip][:, columns])
        clips.append(np.full(len(rows), clip))
        queries.append(rows)
        chosen.append(columns[picked])
    parts = (torch.from_numpy(np.concatenate(part).astype(np.int64)).to(cost.device) for part in (clips, queries, chosen))
    return Matches(*parts)


@torch.no_grad()
def track_bonus(slot_track_BS: Tensor, targets: StepTargets, num_queries: int, bonus: float) -> Tensor:
    """(B, Q, M): `bonus` where a remembered object meets the track it stood for; slots are the last S of Q queries."""
    same = (slot_track_BS[:, :, None] == targets.track_BM[:, None]) & (slot_track_BS[:, :, None] >= 0) & targets.valid_BM[:, None]
    new = torch.zeros(len(same), num_queries - same.shape[1], same.shape[2], device=same.device)
    return torch.cat([new, bonus * same.float()], dim=1)


@torch.no_grad()
def tracks_of_slots(state: WorldState, targets: StepTargets, keep_score: float, radius_m: float = 2.0) -> Tensor:
    """(B, S) int64 the true track that each remembered object now stands for, -1 for none: nearest within `radius_m`, one to one.

    What is remembered with less than `keep_score` (`QueryConfig`) is being forgotten and stands for nothing.
    """
    slots = torch.full_like(state.id_BS, -1)
    distance = torch.cdist(state.box_BS9[..., :2].float(), targets.box_BM9[..., :2]).cpu()
    filled, valid = (state.score_BS >= keep_score).cpu(), (targets.valid_BM & (targets.track_BM >= 0)).cpu()
    distance = torch.where(filled[:, :, None] & valid[:, None], distance, 1e3).clamp(max=1e3)
    for clip, cost in enumerate(torch.nan_to_num(distance, nan=1e3).numpy()):
        # beyond the radius all pairs cost the same, so that they never push a good pair aside
        rows, columns = linear_sum_assignment(np.minimum(cost, radius_m))
        near = cost[rows, columns] < radius_m
        slots[clip, torch.from_numpy(rows[near]).to(slots.device)] = targets.track_BM[clip, torch.from_numpy(columns[near])]
    return slots
