"""How does the network write a box? Ten numbers relative to a reference point, shared by dense head, layers and losses."""

import torch
from torch import Tensor

CODE_SIZE = 10
"""x, y, z offset from the reference (m); log length, width, height; sin and cos of the yaw; vx, vy (m/s)."""
CODE_XYZ = slice(0, 3)
CODE_LOG_SIZE = slice(3, 6)
CODE_SIN, CODE_COS = 6, 7
CODE_VELOCITY = slice(8, 10)
LOG_SIZE_RANGE = (-3.0, 4.0)
"""Decoded log sizes are clamped here (5 cm to 55 m), so that an untrained network stays finite."""


def encode_boxes(box: Tensor, reference: Tensor) -> Tensor:
    """Codes (..., 10) of boxes (..., 9; columns `Box3D`) seen from reference points (..., 3), same frame.

    A NaN velocity stays NaN (unknown): losses leave it out.
    """
    offset = box[..., 0:3] - reference
    log_size = torch.log(box[..., 3:6].clamp(min=1e-2))
    yaw = box[..., 6:7]
    return torch.cat([offset, log_size, torch.sin(yaw), torch.cos(yaw), box[..., 7:9]], dim=-1)


def decode_boxes(code: Tensor, reference: Tensor) -> Tensor:
    """Boxes (..., 9) of codes (..., 10): the inverse of `encode_boxes`. Sine and cosine need not be normalised."""
    center = code[..., CODE_XYZ] + reference
    size = torch.exp(code[..., CODE_LOG_SIZE].clamp(*LOG_SIZE_RANGE))
    yaw = torch.atan2(code[..., CODE_SIN : CODE_SIN + 1], code[..., CODE_COS : CODE_COS + 1])
    return torch.cat([center, size, yaw, code[..., CODE_VELOCITY]], dim=-1)
