"""How does a decision stay continuous? Ramps where a comparison would jump, so that the last bits of a sum never decide what is seen.

Two implementations of one network (torch, onnxruntime, TensorRT) differ in the last bits. A hard choice that hangs on them (which
hundredth peak becomes a query, which of two twins speaks) is carried on by the memory for seconds. Here whatever stands at the border
of a choice has a weight that is zero there: crossing the border then changes nothing.

Not everything that can be ramped should be. A ramp multiplies small differences by its steepness, and where the memory carries them
round (a remembered score that weighs the query that makes the next score) they grow at every step. What is kept in memory, and which
cell of the heatmap is a local maximum, are therefore plain comparisons: rarely undecided, and stable everywhere else.
"""

import torch
from torch import Tensor

LEAST_WEIGHT = 1e-6
"""Weights below count as zero in attention."""
CLASS_SHARPNESS = 8.0
"""Class logits are multiplied by this before their softmax says how far a query is of each class: half a logit apart is decided."""


def ramp(value: Tensor, width: float) -> Tensor:
    """0 below zero, 1 above `width`, straight between."""
    return (value * (1.0 / width)).clamp(0.0, 1.0)


def best_with_weight(value: Tensor, count: int, width: float) -> tuple[Tensor, Tensor]:
    """Indices (B, count) of the largest of (B, P) with P > count, and their weights: zero at the first one left out, one `width` above."""
    best, index = value.topk(count + 1, dim=1)
    return index[:, :count], ramp(best[:, :count] - best[:, count:], width)


def attention_bias(weight: Tensor) -> Tensor:
    """What to add to attention logits so that a key counts `weight` (0 to 1) times: its logarithm, -10000 for none."""
    return torch.where(weight > LEAST_WEIGHT, weight.clamp(min=LEAST_WEIGHT).log(), -1e4)


def class_shares(logits: Tensor) -> Tensor:
    """(..., K) how far each query is of each class: one-hot where the best class leads clearly, mixed where two are about equal."""
    return (logits * CLASS_SHARPNESS).softmax(-1)
