"""Which voxels are filled, by what, and how do they move? A small head on the bird's-eye features."""

import torch
from torch import Tensor, nn

from fusion.grid import BevGrid
from fusion.sampling import sample_plane
from perception.blocks import conv_norm_relu
from scenes.layers import OCCUPANCY_STATES, VoxelGrid

FREE_BIAS = 2.0
"""Most voxels are free: the first steps should not have to learn that."""


class OccupancyHead(nn.Module):
    """States and flow of every voxel of `scenes.layers.VoxelGrid`; the cells are resampled where the two grids differ."""

    where_XY2: Tensor

    def __init__(self, channels: int, grid: BevGrid, voxels: VoxelGrid | None = None) -> None:
        super().__init__()
        self.voxels = voxels or VoxelGrid()
        self.states, self.heights = len(OCCUPANCY_STATES), self.voxels.shape[2]
        self.hidden = conv_norm_relu(channels, 96, kernel=1)
        self.state = nn.Conv2d(96, self.states * self.heights, 1)
        self.flow = nn.Conv2d(96, 2 * self.heights, 1)
        with torch.no_grad():
            self.state.bias[: self.heights] = FREE_BIAS  # type: ignore[index]
        where = grid.normalised(torch.from_numpy(self.voxels.centers_ego()[:, :, 0]).float())
        same = self.voxels.shape[:2] == grid.shape and self.voxels.voxel_m[0] == self.voxels.voxel_m[1] == grid.cell_m
        self.same_grid = same and self.voxels.min_ego_m[:2] == (grid.min_x_m, grid.min_y_m)
        self.register_buffer("where_XY2", where, persistent=False)

    def forward(self, bev: Tensor, sampler: str = "auto") -> tuple[Tensor, Tensor]:
        """Features (B, C, X, Y) to state logits (B, O, X, Y, Z) and flow (B, 2, X, Y, Z) in m/s."""
        if not self.same_grid:
            where = self.where_XY2[None].expand(bev.shape[0], -1, -1, -1).to(bev.dtype)
            bev = sample_plane(bev, where, sampler)
        hidden = self.hidden(bev)
        return self._voxels(self.state(hidden), self.states), self._voxels(self.flow(hidden), 2)

    def _voxels(self, dense: Tensor, size: int) -> Tensor:
        return dense.reshape(dense.shape[0], size, self.heights, *dense.shape[2:]).permute(0, 1, 3, 4, 2).float()
