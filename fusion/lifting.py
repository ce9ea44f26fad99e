"""What stands at each bird's-eye cell, seen by the cameras now? Cells pull features from the pictures, weighted by depth."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion.atlas import Atlas, Views, best_views, corners, pictures_of, sample_stacked, stack_cameras
from fusion.grid import BevGrid
from fusion.sampling import mix_pixels, pixel_rows
from perception.blocks import conv_norm_relu
from perception.depth import DepthBins

ToCells = Callable[[Tensor], Tensor]
"""Features of points, cell by cell and height by height (n, C), to features of cells (n / Z, O)."""
MIN_WEIGHT = 0.02
"""Every sample counts at least this much, so that a wrong depth can still be mended by the gradient."""


class Lifting(nn.Module):
    """Backward projection (as in BEVFormer) with depth-consistent weights (as in DFA3D): no splatting, no sorting.

    Each cell's points at several heights are projected into the pictures; a sample's weight is the probability that the
    pixel's depth distribution gives to the point's own distance. Heights are merged by a convolution. Points are counted height by
    height until they are looked up (a runtime adds long rows, not columns of four), and cell by cell from then on.
    """

    x_1X1: Tensor
    y_11Y: Tensor
    z_Z11: Tensor

    def __init__(self, grid: BevGrid, bins: DepthBins, neck_channels: int, lift_channels: int, channels: int) -> None:
        super().__init__()
        self.grid, self.bins = grid, bins
        self.heights = len(grid.heights_m)
        self.values = nn.Conv2d(neck_channels, lift_channels, 1)
        self.merge = conv_norm_relu(self.heights * (lift_channels + 2), channels, kernel=1)
        points_ZXY3 = grid.points_ego()
        self.register_buffer("x_1X1", points_ZXY3[None, 0, :, :1, 0].clone(), persistent=False)
        self.register_buffer("y_11Y", points_ZXY3[None, 0, :1, :, 1].clone(), persistent=False)
        self.register_buffer("z_Z11", points_ZXY3[:, :1, :1, 2].clone(), persistent=False)

    def forward(self, atlas: Atlas, depth_logits: Tensor) -> Tensor:
        """Features (B, C, X, Y) of the cells; `depth_logits` (B*N, D, h, w) belong to the atlas' finest level."""
        batch = atlas.lenses.alive_BN.shape[0]
        views = best_views((self.x_1X1[None], self.y_11Y[None], self.z_Z11[None]), atlas.lenses)
        pull = self._pull_by_samples if atlas.sampler == "gridsample" else self._pull_by_pixels
        conv, *norm_relu = self.merge  # a 1x1 convolution over all heights' channels: a matrix product, because points lie cell by cell
        assert isinstance(conv, nn.Conv2d)
        weight_ZCO = conv.weight.reshape(conv.out_channels, -1, self.heights).permute(2, 1, 0)
        of_lifted, of_evidence = weight_ZCO.split([weight_ZCO.shape[1] - 2, 2], dim=1)
        of_lifted, of_evidence = of_lifted.flatten(0, 1), of_evidence.transpose(0, 1).flatten(0, 1)
        merged, weight = pull(atlas, views, depth_logits, lambda lifted: lifted.reshape(-1, len(of_lifted)) @ of_lifted)
        evidence = torch.cat([weight.sum(1), views.visible_BVP.sum(1) * 0.5], dim=1).to(merged.dtype).reshape(batch, 2 * self.heights, -1)
        merged = merged + evidence.transpose(1, 2) @ of_evidence
        planes = merged.transpose(1, 2).reshape(batch, -1, *self.grid.shape)
        for module in norm_relu:
            planes = module(planes)
        return planes

    def _cell_by_cell(self, values_BKP: Tensor) -> Tensor:
        """(B, P, K) of values (B, K, P) that are ordered height by height."""
        batch, count, _ = values_BKP.shape
        planes = values_BKP.reshape(batch, count, self.heights, -1).transpose(1, 2).flatten(1, 2)  # B ZK XY
        return planes.transpose(1, 2).reshape(batch, -1, count)

    def _pull_by_samples(self, atlas: Atlas, views: Views, depth_logits: Tensor, to_cells: ToCells) -> tuple[Tensor, Tensor]:
        """What `to_cells` makes of the weighted features (P, C), (B, XY, O), and their weights (B, V, P), by sampling both maps.

        The depth at a sample is interpolated by a hat.
        """

        def sampled(stacked: Tensor) -> Tensor:
            return sample_stacked(stacked, atlas.cameras, atlas.lenses.size_wh, views)

        probability = stack_cameras(depth_logits.float().softmax(1), views.visible_BVP.shape[0])
        hat = self.bins.hat(self.bins.position(views.distance_BVP)[:, None], dim=1)
        weight = ((sampled(probability) * hat).sum(1) + MIN_WEIGHT) * views.visible_BVP
        lifted = (sampled(self.values(atlas.levels[0])) * weight[:, None].to(depth_logits.dtype)).sum(2)
        return to_cells(self._cell_by_cell(lifted).flatten(0, 1)).unflatten(0, (len(weight), -1)), weight

    def _pull_by_pixels(self, atlas: Atlas, views: Views, depth_logits: Tensor, to_cells: ToCells) -> tuple[Tensor, Tensor]:
        """The same numbers by fetching only what counts: 2 views x 4 pixels x 2 bins a point. Much faster on a processor."""
        pixel, share = (value.squeeze(1) for value in corners(atlas.maps[:1], atlas.cameras, atlas.lenses.size_wh, views))  # B 4 V P
        position = self.bins.position(views.distance_BVP)
        lower = position.floor().clamp(max=self.bins.bins - 2.0)
        upper_share = (position - lower)[:, None]
        plane = depth_logits.shape[2] * depth_logits.shape[3]  # bins lie plane by plane, camera by camera
        voxel = pixel + ((pictures_of(views, atlas.cameras) * (self.bins.bins - 1) + lower.int()) * plane)[:, None]
        flat = depth_logits.float().softmax(1).flatten()
        low, high = (flat.index_select(0, index.flatten()).reshape(share.shape) for index in (voxel, voxel + plane))
        weight = ((share * (low + upper_share * (high - low))).sum(1) + MIN_WEIGHT) * views.visible_BVP
        by_point = [self._cell_by_cell(value.flatten(1, 2)) for value in (pixel, share * weight[:, None])]  # B P 4V
        rows = pixel_rows(self.values(atlas.maps[0]))
        if atlas.sampler == "gather":
            return mix_pixels(rows, *by_point, of=self.heights, then=to_cells), weight
        return to_cells(_bagged(rows, *by_point)).unflatten(0, (len(weight), -1)), weight


def _bagged(rows: Tensor, pixel_BPK: Tensor, weight_BPK: Tensor) -> Tensor:
    """`mix_pixels` by torch's embedding bag, (B*P, C): it has no counterpart in ONNX but is the fastest on a processor."""
    pixel, weight = (value.flatten(0, 1).contiguous() for value in (pixel_BPK, weight_BPK))
    return functional.embedding_bag(pixel, rows, per_sample_weights=weight.to(rows.dtype), mode="sum")
