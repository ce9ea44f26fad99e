"""How does the network write a box? Twelve numbers relative to a reference point, shared by dense head, layers and losses.

A heading is written twice: as the direction of the box's long axis, in which front and rear are the same (the doubled angle), and as a
direction that says which end is the front. What shape shows and what only lamps, windows and traffic show are learned
apart: an undecided front leaves the axis alone.
"""

import torch
from torch import Tensor

CODE_SIZE = 12
"""x, y, z offset from the reference (m); log length, width, height; axis: sin and cos of twice the yaw; facing: sin and cos of the yaw;
vx, vy (m/s)."""
CODE_XYZ = slice(0, 3)
CODE_LOG_SIZE = slice(3, 6)
CODE_AXIS = slice(6, 8)
CODE_FACING = slice(8, 10)
CODE_VELOCITY = slice(10, 12)
UNDECIDED = 0.05
"""Length of an axis (decided ones are about 1) below which its direction says less and less."""
LOG_SIZE_RANGE = (-3.0, 4.0)
"""Decoded log sizes are clamped here (5 cm to 55 m), so that an untrained network stays finite."""


def encode_boxes(box: Tensor, reference: Tensor) -> Tensor:
    """Codes (..., 12) of boxes (..., 9; columns `Box3D`) seen from reference points (..., 3), same frame.

    A NaN velocity stays NaN (unknown): losses leave it out.
    """
    offset = box[..., 0:3] - reference
    log_size = torch.log(box[..., 3:6].clamp(min=1e-2))
    sin, cos = torch.sin(box[..., 6:7]), torch.cos(box[..., 6:7])
    return torch.cat([offset, log_size, 2.0 * sin * cos, cos * cos - sin * sin, sin, cos, box[..., 7:9]], dim=-1)


def decode_boxes(code: Tensor, reference: Tensor) -> Tensor:
    """Boxes (..., 9) of codes (..., 12): the inverse of `encode_boxes`. No sine and cosine need be normalised."""
    center = code[..., CODE_XYZ] + reference
    size = torch.exp(code[..., CODE_LOG_SIZE].clamp(*LOG_SIZE_RANGE))
    return torch.cat([center, size, decode_yaw(code), code[..., CODE_VELOCITY]], dim=-1)


def decode_yaw(code: Tensor) -> Tensor:
    """(..., 1) yaw in (-pi, pi]: along the axis, towards the end that `facing` points to.

    An axis much shorter than `UNDECIDED` (round things have none) lies along x: its direction would be rounding.
    """
    sin, cos = code[..., CODE_AXIS.start, None], code[..., CODE_AXIS.start + 1, None]
    cos = cos + (UNDECIDED - (sin * sin + cos * cos) * (1.0 / UNDECIDED)).clamp(min=0.0)
    axis = 0.5 * torch.atan2(sin, cos)
    ahead = code[..., CODE_FACING.start, None] * torch.sin(axis) + code[..., CODE_FACING.start + 1, None] * torch.cos(axis)
    turned = axis + torch.where(axis > 0, -torch.pi, torch.pi)
    return torch.where(ahead < 0, turned, axis)
