"""How far does a query count? Presence: a gradual choice where there are fewer places than there are peaks and things to remember.

Whoever only just got a place hardly counts yet, so that it makes no difference to whom rounding gave the last one. That is what keeps two
programs together that compute the same network in another order: what was chosen is remembered, and differences would grow.
"""

import torch
from torch import Tensor

NEGLIGIBLE_LOGIT = 40.0
"""So much below the largest logit a weight is lost in float32: taken from those who are not there. In attention (`fusion.layer`) what
lies lower is raised to here: weights so small that they underflow take a processor ten to twenty times as long."""
LEAST_PRESENCE = 2.0**-14
"""The smallest number whose logarithm half precision can be asked for."""
SHARE_POWER = 3.0
"""A key's weight grows with this power of its presence. With the first power, who is hardly there but alone to look at would get half of
the weight at a presence so small that rounding is a part of it; with the third it gets there where presence means something."""


def presence_above(value: Tensor, least: Tensor, fully: float) -> Tensor:
    """Presence in [0, 1]: 0 up to `least`, 1 from `fully` above it on, and evenly in between."""
    return ((value - least) * (1.0 / fully)).clamp(0.0, 1.0)


def less_seen(presence_BQ: Tensor) -> Tensor:
    """(B, Q, Q) taken from the logits with which query i looks at query j: everybody sees itself in full."""
    # not torch.eye, which is exported as a comparison of uint16 that TensorRT refuses
    index = torch.arange(presence_BQ.shape[1], device=presence_BQ.device, dtype=torch.float32)
    return -presence_logit(presence_BQ)[:, None] * (index[:, None] != index).float()


def presence_logit(presence: Tensor) -> Tensor:
    """Added to the logit of a key in attention: multiplies its weight, before the softmax divides, by the cube of its presence."""
    hardly = (1.0 - presence * (1.0 / LEAST_PRESENCE)).clamp(min=0.0)
    return SHARE_POWER * presence.clamp(min=LEAST_PRESENCE).log() - NEGLIGIBLE_LOGIT * hardly
