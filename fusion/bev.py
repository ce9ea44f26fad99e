"""What does the scene look like from above? The bird's-eye encoder with its past, and the dense heads on its features."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion.boxcode import CODE_SIZE
from perception.blocks import ResidualBlock, conv_norm_relu

HEAT_BIAS = -2.94
"""Logit of 0.05: most cells hold nothing, and the first steps should not have to learn that."""


class BevEncoder(nn.Module):
    """Merges the present cells with warped past ones and spreads them over a car's length: a small two-resolution U shape."""

    def __init__(self, channels: int, wide: int, blocks: int, memory_channels: int, memory_maps: int) -> None:
        super().__init__()
        past = memory_maps * (memory_channels + 2)
        self.present = conv_norm_relu(channels, channels)
        self.remember = nn.Conv2d(channels, memory_channels, 1)
        self.down = conv_norm_relu(channels + memory_channels + past, wide, stride=2)
        self.deep = nn.Sequential(*[ResidualBlock(wide) for _ in range(blocks)])
        self.deeper = nn.Sequential(conv_norm_relu(wide, wide, stride=2), ResidualBlock(wide))
        self.up = nn.Conv2d(wide, channels, 1)
        self.fuse = conv_norm_relu(channels, channels)

    def forward(self, lifted: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Lifted cells (B, C, X, Y) and warped past maps (B, M*(Cm+2), X, Y) to features (B, C, X, Y) and the map to remember
        (B, Cm, X, Y), which shows the present only: differences between remembered maps are motion.
        """
        present = self.present(lifted)
        remembered = self.remember(present)
        deep = self.deep(self.down(torch.cat([present, remembered, past], dim=1)))
        deep = deep + _upsampled(self.deeper(deep))
        return self.fuse(present + _upsampled(self.up(deep))), remembered


def _upsampled(features: Tensor) -> Tensor:
    return functional.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)


class DenseHead(nn.Module):
    """Centre heatmap and box code at every cell (CenterPoint, Yin et al. 2021)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.heat = nn.Sequential(conv_norm_relu(channels, channels), nn.Conv2d(channels, classes, 1))
        self.box = nn.Sequential(conv_norm_relu(channels, channels), nn.Conv2d(channels, CODE_SIZE, 1))
        nn.init.constant_(self.heat[-1].bias, HEAT_BIAS)  # type: ignore[arg-type]
        nn.init.normal_(self.box[-1].weight, std=0.01)  # type: ignore[arg-type]
        with torch.no_grad():
            self.box[-1].bias.copy_(torch.tensor([0.0, 0, 0, 1.2, 0.5, 0.4, 0, 0.1, 0, 0.1, 0, 0]))  # type: ignore[operator]

    def forward(self, bev: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, X, Y) to heatmap logits (B, K, X, Y) and codes (B, 12, X, Y), float32."""
        return self.heat(bev).float(), self.box(bev).float()
