"""What stands at each bird's-eye cell, seen by the cameras now? Cells pull features from the pictures, weighted by depth."""

import torch
from torch import Tensor, nn

from fusion.atlas import Atlas, Views, best_views, sample_stacked, stack_cameras
from fusion.grid import BevGrid
from perception.blocks import conv_norm_relu
from perception.depth import DepthBins

MIN_WEIGHT = 0.02
"""Every sample counts at least this much, so that a wrong depth can still be mended by the gradient."""


class Lifting(nn.Module):
    """Backward projection (as in BEVFormer) with depth-consistent weights (as in DFA3D): no splatting, no sorting.

    Each cell's points at several heights are projected into the pictures; a sample's weight is the probability that the
    pixel's depth distribution gives to the point's own distance. Heights are merged by a convolution.
    """

    def __init__(self, grid: BevGrid, bins: DepthBins, neck_channels: int, lift_channels: int, channels: int) -> None:
        super().__init__()
        self.grid, self.bins = grid, bins
        heights = len(grid.heights_m)
        self.values = nn.Conv2d(neck_channels, lift_channels, 1)
        self.merge = conv_norm_relu(heights * (lift_channels + 2), channels, kernel=1)
        self.register_buffer("points_ZXY3", grid.points_ego(), persistent=False)

    def forward(self, atlas: Atlas, depth_logits: Tensor) -> Tensor:
        """Features (B, C, X, Y) of the cells; `depth_logits` (B*N, D, h, w) belong to the atlas' finest level."""
        batch = atlas.lenses.alive_BN.shape[0]
        points = self.points_ZXY3.reshape(1, -1, 3).expand(batch, -1, -1)
        views = best_views(points, atlas.lenses)
        values = self.values(atlas.levels[0])
        probability = stack_cameras(depth_logits.float().softmax(1), batch)
        return self._gather(atlas, views, values, probability)

    def _gather(self, atlas: Atlas, views: Views, values: Tensor, probability: Tensor) -> Tensor:
        stacked = torch.cat([values, probability.to(values.dtype)], dim=1)
        samples = sample_stacked(stacked, atlas.cameras, atlas.lenses.size_wh, views, atlas.sampler)
        channels = values.shape[1]
        hat = self.bins.hat(self.bins.position(views.distance_BVP)[:, None], dim=1)
        consistent = (samples[:, channels:] * hat.to(samples.dtype)).sum(1)
        weight = (consistent + MIN_WEIGHT) * views.visible_BVP.to(samples.dtype)
        lifted = (samples[:, :channels] * weight[:, None]).sum(2)
        evidence = torch.stack([weight.sum(1), views.visible_BVP.sum(1).to(weight.dtype) * 0.5], dim=1)
        per_point = torch.cat([lifted, evidence], dim=1)
        return self.merge(per_point.reshape(per_point.shape[0], -1, *self.grid.shape))
