"""What does one camera see? uint8 pictures to feature levels and depth logits; the same weights for every camera."""

import torch
from torch import Tensor, nn

from perception.backbone import Backbone
from perception.depth import DepthHead
from perception.neck import FeaturePyramid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class CameraNetwork(nn.Module):
    """Backbone, pyramid, the rays' geometry, depth."""

    scale: Tensor
    shift: Tensor

    def __init__(self, backbone: Backbone, neck_channels: int, depth_bins: int, geometry_channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = FeaturePyramid(backbone.channels, neck_channels)
        self.geometry = nn.Sequential(
            nn.Conv2d(geometry_channels, neck_channels, 1), nn.ReLU(inplace=True), nn.Conv2d(neck_channels, neck_channels, 1)
        )
        self.depth = DepthHead(neck_channels, depth_bins)
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(IMAGENET_STD)), persistent=False)
        self.register_buffer("shift", -torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD), persistent=False)

    def forward(self, images_BNHW3: Tensor, alive_BN: Tensor, geometry_BNGhw: Tensor, ground_BNDhw: Tensor) -> tuple[list[Tensor], Tensor]:
        """Levels (B*N, C, H/l, W/l), finest first, and depth logits (B*N, D, h, w) at the finest.

        `geometry_BNGhw` describes each finest pixel's ray, `ground_BNDhw` holds the soft distance bins of flat ground along it.
        Pictures of dead cameras are replaced by zeros, so that their features are finite; no view ever reads them (`fusion.atlas`).
        """
        alive = alive_BN.flatten()[:, None, None, None] > 0.5
        pixels = images_BNHW3.flatten(0, 1).permute(0, 3, 1, 2).float()
        pixels = pixels * self.scale[:, None, None] + self.shift[:, None, None]
        if not torch.compiler.is_exporting():  # an exported graph takes whole numbers, which are always finite
            pixels = torch.where(alive, pixels, torch.zeros_like(pixels))
        levels = self.neck(self.backbone(pixels))
        levels[0] = levels[0] + self.geometry(geometry_BNGhw.flatten(0, 1).to(levels[0].dtype))
        depth = self.depth(levels[0], ground_BNDhw.flatten(0, 1).to(levels[0].dtype))
        return levels, depth
