"""Which voxels are filled, by what, and how do they move? A small head on the bird's-eye features."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion.grid import BevGrid
from perception.blocks import conv_norm_relu
from scenes.layers import OCCUPANCY_STATES, VoxelGrid

FREE_BIAS = 2.0
"""Most voxels are free: the first steps should not have to learn that."""


def bilinear_shares(where: Tensor, size: int) -> Tensor:
    """(M, size): what each of `size` pixels counts at M positions in [-1, 1] of them all; nothing outside."""
    position = (where + 1) * (size / 2) - 0.5
    return functional.relu(1.0 - (position[:, None] - torch.arange(size, device=where.device)).abs())


class OccupancyHead(nn.Module):
    """States and flow of every voxel of `scenes.layers.VoxelGrid`; where the grids differ, columns and then rows are resampled."""

    from_rows_XH: Tensor
    from_columns_YW: Tensor

    def __init__(self, channels: int, grid: BevGrid, voxels: VoxelGrid | None = None) -> None:
        super().__init__()
        self.voxels = voxels or VoxelGrid()
        self.states, self.heights = len(OCCUPANCY_STATES), self.voxels.shape[2]
        self.hidden = conv_norm_relu(channels, 96, kernel=1)
        self.state = nn.Conv2d(96, self.states * self.heights, 1)
        self.flow = nn.Conv2d(96, 2 * self.heights, 1)
        with torch.no_grad():
            self.state.bias[: self.heights] = FREE_BIAS  # type: ignore[index]
        places = grid.normalised(torch.from_numpy(self.voxels.centers_ego()[:, :, 0]).float())  # X Y 2: column, row
        same = self.voxels.shape[:2] == grid.shape and self.voxels.voxel_m[0] == self.voxels.voxel_m[1] == grid.cell_m
        self.same_grid = same and self.voxels.min_ego_m[:2] == (grid.min_x_m, grid.min_y_m)
        self.register_buffer("from_rows_XH", bilinear_shares(places[:, 0, 1], grid.cells_x), persistent=False)
        self.register_buffer("from_columns_YW", bilinear_shares(places[0, :, 0], grid.cells_y), persistent=False)

    def forward(self, bev: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, H, W) to state logits (B, O, X, Y, Z) and flow (B, 2, X, Y, Z) in m/s."""
        if not self.same_grid:
            bev = self.from_rows_XH.to(bev.dtype) @ (bev @ self.from_columns_YW.to(bev.dtype).T)
        hidden = self.hidden(bev)
        return self._voxels(self.state(hidden), self.states), self._voxels(self.flow(hidden), 2)

    def _voxels(self, dense: Tensor, size: int) -> Tensor:
        return dense.reshape(dense.shape[0], size, self.heights, *dense.shape[2:]).permute(0, 1, 3, 4, 2).float()
