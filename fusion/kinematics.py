"""What does physics know about a box that was seen before? Its displacement is its velocity, and vehicles drive forwards."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion.boxcode import CODE_FACING, CODE_VELOCITY, CODE_XYZ, decode_yaw
from fusion.presence import presence_logit
from scenes.boxes import TWO_WHEELERS, VEHICLE_CLASSES

DRIVING_MPS = 2.0
"""A vehicle that seems to go backwards faster than this is facing the other way."""


def drives_forward(class_names: tuple[str, ...]) -> Tensor:
    """(K,) float32: 1 for classes that move along their heading."""
    return torch.tensor([float(name in (*VEHICLE_CLASSES, *TWO_WHEELERS)) for name in class_names])


MIN_STEP_S = 0.02
"""Shorter time steps count as this long where something is divided by them."""

SURE_OF = 2.0
"""A remembered object is believed to be where it is seen now if its score is this many times the one that it is remembered with."""


@dataclass
class Recalled:
    """What the memory knows of S objects, already moved to now by ego motion and their own velocity."""

    embedding_BSC: Tensor
    box_BS9: Tensor
    presence_BS: Tensor
    """float32 in [0, 1], how far each of them counts; 0 for an empty slot."""
    rate_B: Tensor
    """float32, 1/s: one over the time since the state was written."""


def recalled(embedding_BSC: Tensor, box_BS9: Tensor, presence_BS: Tensor, dt_B: Tensor) -> Recalled:
    """The memory of a state written `dt_B` seconds ago, boxes moved to now."""
    return Recalled(embedding_BSC, box_BS9, presence_BS, 1.0 / dt_B.float().clamp(min=MIN_STEP_S))


def followed(moved_BS9: Tensor, seen_BS9: Tensor, score_BS: Tensor, faded_BS: Tensor) -> Tensor:
    """Boxes (B, S, 9) to remember: between where physics expected them and where they are seen, by how well they are seen.

    A filter's correction (Kalata 1984), with a gain that is the score against the faded one of before, over `SURE_OF`: an object that
    nobody sees coasts at its remembered velocity. Without it, what the network makes of boxes that it hardly sees jumps by metres from
    step to step, and the jumps of rounding grow with them. The axis of the box follows, which end is the front is taken as seen.
    """
    less = (1.0 - score_BS / (SURE_OF * faded_BS.clamp(min=1e-6))).clamp(min=0.0)[..., None]
    gap = moved_BS9 - seen_BS9
    twice = 2.0 * gap[..., 6:7]
    turn = torch.atan2(torch.sin(twice), torch.cos(twice)) * 0.5
    box = seen_BS9 + less * torch.cat([gap[..., :6], turn, gap[..., 7:]], dim=-1)
    yaw = box[..., 6:7]
    return torch.cat([box[..., :6], torch.atan2(torch.sin(yaw), torch.cos(yaw)), box[..., 7:]], dim=-1)


class Recollection(nn.Module):
    """Velocities from displacement: where was this object before?

    Every query points, softly, at the remembered object it was (or at nothing), by likeness and nearness. Its displacement since then
    divided by the time is a measured velocity, and the network chooses how far to follow it: the correction step of an alpha-beta
    filter (Kalata 1984) with a learned association and a learned gain.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.nothing = nn.Parameter(torch.zeros(1))
        self.reach = nn.Parameter(torch.full((1,), -1.5))
        self.gain = nn.Sequential(nn.Linear(channels + 2, channels // 2), nn.ReLU(), nn.Linear(channels // 2, 1))
        nn.init.zeros_(self.gain[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.gain[-1].bias)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, code_BQR: Tensor, reference_BQ3: Tensor, past: Recalled) -> Tensor:
        """Box codes (`fusion.boxcode`) with their velocities corrected; centres are cut from this gradient."""
        center = (code_BQR[..., CODE_XYZ] + reference_BQ3).detach()
        offset = [center[..., i : i + 1] - past.box_BS9[:, None, :, i] for i in (0, 1)]  # plane by plane, as in `fusion.layer`
        distance = torch.sqrt(offset[0] * offset[0] + offset[1] * offset[1] + 1e-4)
        likeness = self.query(tokens) @ self.key(past.embedding_BSC).transpose(1, 2) * (tokens.shape[-1] ** -0.5)
        logits = likeness.float() - functional.softplus(self.reach) * distance + presence_logit(past.presence_BS)[:, None]
        nothing = self.nothing.expand(*logits.shape[:2], 1)
        weight = torch.cat([nothing, logits], dim=-1).softmax(-1)[..., 1:]
        velocity = code_BQR[..., CODE_VELOCITY]
        missed = []
        for i in (0, 1):
            measured = past.box_BS9[:, None, :, 7 + i] + offset[i] * past.rate_B[:, None, None]
            missed.append((weight * (measured - velocity[..., i : i + 1].detach())).sum(-1))
        innovation = torch.stack(missed, dim=-1)
        size = torch.log1p(torch.sqrt((innovation * innovation).sum(-1, keepdim=True) + 1e-6)).detach()
        evidence = torch.cat([tokens.float(), size, weight.sum(-1, keepdim=True)], dim=-1)
        corrected = velocity + self.gain(evidence.to(tokens.dtype)).float().sigmoid() * innovation
        return torch.cat([code_BQR[..., : CODE_VELOCITY.start], corrected], dim=-1)


def facing_forward(code_BQR: Tensor, drives_BQ: Tensor) -> Tensor:
    """Box codes with the heading turned by half a turn where a driving thing (`drives_BQ` 1) would go backwards at speed."""
    yaw, velocity = decode_yaw(code_BQR).detach(), code_BQR[..., CODE_VELOCITY].detach()
    ahead_mps = velocity[..., :1] * torch.cos(yaw) + velocity[..., 1:] * torch.sin(yaw)
    sign = 1.0 - 2.0 * drives_BQ[..., None] * (ahead_mps < -DRIVING_MPS).to(code_BQR.dtype)
    return torch.cat([code_BQR[..., : CODE_FACING.start], code_BQR[..., CODE_FACING] * sign, code_BQR[..., CODE_VELOCITY]], dim=-1)
