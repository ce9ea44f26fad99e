"""What stands at each bird's-eye cell, seen by the cameras now? Cells pull features from the pictures, weighted by depth."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion.atlas import VIEWS, Atlas, Views, best_views, corners, sample_stacked, stack_cameras
from fusion.grid import BevGrid
from fusion.sampling import mix_pixels, pixel_rows
from perception.blocks import conv_norm_relu
from perception.depth import DepthBins

MIN_WEIGHT = 0.02
"""Every sample counts at least this much, so that a wrong depth can still be mended by the gradient."""


class Lifting(nn.Module):
    """Backward projection (as in BEVFormer) with depth-consistent weights (as in DFA3D): no splatting, no sorting.

    Each cell's points at several heights are projected into the pictures; a sample's weight is the probability that the
    pixel's depth distribution gives to the point's own distance. Heights are merged by a convolution.
    """

    points_ZXY3: Tensor

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
        pull = self._pull_by_samples if atlas.sampler == "gridsample" else self._pull_by_pixels
        lifted, weight = pull(atlas, views, depth_logits)
        evidence = torch.stack([weight.sum(1), views.visible_BVP.sum(1) * 0.5], dim=1).to(lifted.dtype)
        per_point = torch.cat([lifted, evidence], dim=1)
        return self.merge(per_point.reshape(batch, -1, *self.grid.shape))

    def _pull_by_samples(self, atlas: Atlas, views: Views, depth_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted features (B, C, P) and weights (B, V, P) by sampling both maps; the depth at a sample is interpolated by a hat."""

        def sampled(stacked: Tensor) -> Tensor:
            return sample_stacked(stacked, atlas.cameras, atlas.lenses.size_wh, views)

        probability = stack_cameras(depth_logits.float().softmax(1), views.visible_BVP.shape[0])
        hat = self.bins.hat(self.bins.position(views.distance_BVP)[:, None], dim=1)
        weight = ((sampled(probability) * hat).sum(1) + MIN_WEIGHT) * views.visible_BVP
        return (sampled(self.values(atlas.levels[0])) * weight[:, None].to(depth_logits.dtype)).sum(2), weight

    def _pull_by_pixels(self, atlas: Atlas, views: Views, depth_logits: Tensor) -> tuple[Tensor, Tensor]:
        """The same numbers by fetching only what counts: 2 views x 4 pixels x 2 bins a point. Much faster on a processor."""
        pixel, share = corners(atlas.maps[:1], atlas.cameras, atlas.lenses.size_wh, views)  # B P 1 V 4
        position = self.bins.position(views.distance_BVP).transpose(1, 2)[:, :, None, :, None]
        lower = position.floor().clamp(max=self.bins.bins - 2.0)
        upper_share = position - lower
        voxel = pixel * self.bins.bins + lower.long()
        flat = pixel_rows(depth_logits.float()).softmax(-1).reshape(-1)
        low, high = (flat.index_select(0, index.reshape(-1)).reshape(share.shape) for index in (voxel, voxel + 1))
        consistent = (share * (low + upper_share * (high - low))).sum(-1)  # B P 1 V
        weight = (consistent[:, :, 0].transpose(1, 2) + MIN_WEIGHT) * views.visible_BVP
        rows, share = pixel_rows(self.values(atlas.maps[0])), share * weight.transpose(1, 2)[:, :, None, :, None]
        lifted = mix_pixels(rows, pixel, share) if atlas.sampler == "gather" else _bagged(rows, pixel, share)
        return lifted[:, :, 0].transpose(1, 2), weight


def _bagged(rows: Tensor, pixel_BPLV4: Tensor, weight_BPLV4: Tensor) -> Tensor:
    """`mix_pixels` by torch's embedding bag, which has no counterpart in ONNX but is the fastest on a processor."""
    pixel, weight = (value.reshape(-1, VIEWS * 4) for value in (pixel_BPLV4, weight_BPLV4))
    lifted = functional.embedding_bag(pixel, rows, per_sample_weights=weight.to(rows.dtype), mode="sum")
    return lifted.reshape(*pixel_BPLV4.shape[:3], -1)
