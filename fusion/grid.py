"""Where on the ground does each bird's-eye cell stand? `BevGrid`: cells, heights, and their points in the ego frame."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scenes.errors import ConfigError


@dataclass(frozen=True)
class BevGrid:
    """A bird's-eye grid in the ego frame; index (i, j) grows with x (forward) and y (left)."""

    min_x_m: float = -40.0
    min_y_m: float = -40.0
    cell_m: float = 1.0
    cells_x: int = 80
    cells_y: int = 80
    heights_m: tuple[float, ...] = (-0.2, 0.5, 1.2, 2.2)
    """Heights above the ego origin (on the ground) at which the images are sampled for every cell."""
    reference_z_m: float = 0.8
    """Height of the reference point from which a cell's box is predicted."""

    def __post_init__(self) -> None:
        if self.cell_m <= 0 or self.cells_x < 4 or self.cells_y < 4 or not self.heights_m:
            raise ConfigError(f"grid: expected positive cells, at least 4x4 of them and one height, got {self}; correct the config")

    @property
    def shape(self) -> tuple[int, int]:
        """Cells along x and y."""
        return self.cells_x, self.cells_y

    @property
    def max_x_m(self) -> float:
        """The far border."""
        return self.min_x_m + self.cells_x * self.cell_m

    @property
    def max_y_m(self) -> float:
        """The left border."""
        return self.min_y_m + self.cells_y * self.cell_m

    def coarser(self, factor: int) -> "BevGrid":
        """The grid of the same area with cells `factor` times as wide."""
        if self.cells_x % factor or self.cells_y % factor:
            raise ConfigError(f"grid: {self.cells_x}x{self.cells_y} cells cannot be merged by {factor}; choose a multiple")
        return BevGrid(
            self.min_x_m,
            self.min_y_m,
            self.cell_m * factor,
            self.cells_x // factor,
            self.cells_y // factor,
            self.heights_m,
            self.reference_z_m,
        )

    def centers_ego(self, device: torch.device | str = "cpu") -> Tensor:
        """(X, Y, 2) float32 cell centres x, y in metres."""
        x = self.min_x_m + (torch.arange(self.cells_x, device=device, dtype=torch.float32) + 0.5) * self.cell_m
        y = self.min_y_m + (torch.arange(self.cells_y, device=device, dtype=torch.float32) + 0.5) * self.cell_m
        return torch.stack([x[:, None].expand(self.shape), y[None, :].expand(self.shape)], dim=-1)

    def references_ego(self, device: torch.device | str = "cpu") -> Tensor:
        """(X, Y, 3) reference points of the cells' boxes: the centre at `reference_z_m`."""
        centers = self.centers_ego(device)
        return torch.cat([centers, torch.full_like(centers[..., :1], self.reference_z_m)], dim=-1)

    def points_ego(self, device: torch.device | str = "cpu") -> Tensor:
        """(Z, X, Y, 3) the points sampled for every height and cell."""
        centers = self.centers_ego(device)
        return torch.stack([torch.cat([centers, torch.full_like(centers[..., :1], z)], dim=-1) for z in self.heights_m])

    def index_of(self, points_ego: Tensor) -> tuple[Tensor, Tensor]:
        """Cell indices (..., 2) int64 of points (..., 2 or more), and whether each lies inside the grid (...)."""
        low = torch.tensor([self.min_x_m, self.min_y_m], device=points_ego.device, dtype=points_ego.dtype)
        index = torch.floor((points_ego[..., :2] - low) / self.cell_m).long()
        shape = torch.tensor(self.shape, device=points_ego.device)
        return index, ((index >= 0) & (index < shape)).all(-1)

    def contains(self, x: Tensor, y: Tensor) -> Tensor:
        """float32 in [0, 1] for ego points x, y in metres: 0 outside the grid, 1 from one cell within its border on, evenly in between."""
        across, along = x - (self.min_x_m + self.max_x_m) / 2, y - (self.min_y_m + self.max_y_m) / 2
        half_x_m, half_y_m = (self.max_x_m - self.min_x_m) / 2, (self.max_y_m - self.min_y_m) / 2
        within_m = torch.minimum(half_x_m - across.abs(), half_y_m - along.abs())
        return (within_m * (1.0 / self.cell_m)).clamp(0.0, 1.0)

    def pixels(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Fractional column (along y) and row (along x) in a (C, X, Y) map of ego points x, y in metres; cells' centres are whole."""
        return (y - self.min_y_m) * (1.0 / self.cell_m) - 0.5, (x - self.min_x_m) * (1.0 / self.cell_m) - 0.5

    def normalised(self, points_ego: Tensor) -> Tensor:
        """`grid_sample` coordinates (..., 2) with align_corners=False of points (..., 2 or more) in a (C, X, Y) map.

        The map's last axis is y, so the first number belongs to y.
        """
        x = (points_ego[..., 0] - self.min_x_m) * (2.0 / (self.cells_x * self.cell_m)) - 1.0
        y = (points_ego[..., 1] - self.min_y_m) * (2.0 / (self.cells_y * self.cell_m)) - 1.0
        return torch.stack([y, x], dim=-1)
