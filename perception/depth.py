"""How far along its ray does each feature pixel see something? Distance bins, the head that fills them, interpolation between them."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.blocks import conv_norm_relu

GROUND_GAIN = 2.0
"""How much the flat ground's bin is preferred before anything is learned (a logit)."""


class DepthBins(nn.Module):
    """`bins` distances along the ray from `min_m` to `max_m`, evenly spaced in their logarithm."""

    def __init__(self, bins: int, min_m: float, max_m: float) -> None:
        super().__init__()
        self.bins, self.min_m, self.max_m = bins, min_m, max_m

    def position(self, distance_m: Tensor) -> Tensor:
        """Fractional bin of a distance: 0 at `min_m`, bins - 1 at `max_m`; clamped to the ends."""
        scale = (self.bins - 1) / math.log(self.max_m / self.min_m)
        return ((distance_m.clamp(min=1e-3) / self.min_m).log() * scale).clamp(0.0, self.bins - 1.0)

    def centers_m(self, device: torch.device | str = "cpu") -> Tensor:
        """(D,) the distance of each bin."""
        steps = torch.arange(self.bins, device=device, dtype=torch.float32) / (self.bins - 1)
        return self.min_m * (steps * math.log(self.max_m / self.min_m)).exp()

    def target(self, distance_m: Tensor) -> Tensor:
        """(..., D) soft one-hot of distances (...): linear between the two neighbouring bins; sums to 1."""
        return self.hat(self.position(distance_m)[..., None], dim=-1)

    def hat(self, position: Tensor, dim: int) -> Tensor:
        """Weights of the D bins along `dim` (size 1 in `position`) for fractional bins: linear interpolation as arithmetic."""
        shape = [1] * position.dim()
        shape[dim] = self.bins
        index = torch.arange(self.bins, device=position.device, dtype=position.dtype).reshape(shape)
        return functional.relu(1.0 - (position - index).abs())


class DepthHead(nn.Module):
    """Logits of the distance bins at the finest feature level, starting from where flat ground would be.

    Each pixel knows at which distance its ray would meet flat ground. The head may copy that answer (for road) or move it up the
    picture (for what stands on the road), which is far easier to learn than distance from scratch.
    """

    def __init__(self, channels: int, bins: int) -> None:
        super().__init__()
        self.trunk = conv_norm_relu(channels + bins, channels)
        self.logits = nn.Conv2d(channels, bins, 1)
        self.ground_gain = nn.Conv2d(channels, 1, 1)
        nn.init.constant_(self.ground_gain.bias, GROUND_GAIN)  # type: ignore[arg-type]

    def forward(self, features: Tensor, ground: Tensor) -> Tensor:
        """(M, C, h, w) and the flat ground's soft bins (M, D, h, w) to logits (M, D, h, w)."""
        hidden = self.trunk(torch.cat([features, ground], dim=1))
        return self.logits(hidden) + self.ground_gain(hidden) * ground
