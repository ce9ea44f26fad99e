"""How do coarse and fine features of a picture meet? A feature pyramid (FPN) with one width for every level."""

from torch import Tensor, nn
from torch.nn import functional

from perception.blocks import conv_norm_relu


class FeaturePyramid(nn.Module):
    """Lin et al. 2017: 1x1 laterals, top-down sums (nearest upsampling by two), one 3x3 convolution a level."""

    def __init__(self, channels_in: list[int], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in channels_in)
        self.outputs = nn.ModuleList(conv_norm_relu(channels, channels) for _ in channels_in)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features of each stride, finest first, to (M, channels, H/l, W/l) each."""
        merged = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            merged[level - 1] = merged[level - 1] + functional.interpolate(merged[level], scale_factor=2.0, mode="nearest")
        return [output(feature) for output, feature in zip(self.outputs, merged, strict=True)]
