"""What do the pictures show at a 3D point? All cameras' features stacked into one map a level, sampled at a point's two best views.

The cost of sampling does not grow with the number of cameras; dead cameras fall out; nothing is tied to a camera's index.
Bilinear samples stay inside their own camera's strip of the stack (coordinates are clamped to its pixel centres).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fusion.lenses import Lenses, project

VIEWS = 2
"""Best views kept for each point."""


@dataclass
class Views:
    """The V = 2 best views of P points."""

    camera_BVP: Tensor
    """int64 camera index."""
    u_BVP: Tensor
    """Pixels of the network image; finite also where not visible."""
    v_BVP: Tensor
    visible_BVP: Tensor
    """float32 0 or 1."""
    distance_BVP: Tensor
    """Metres along the ray."""


def best_views(points_ego: Tensor, lenses: Lenses, velocity_BP2: Tensor | None = None) -> Views:
    """The two views of each point (B, P, 3) that see it with most pixels a radian and not at their border.

    A moving point (`velocity_BP2`, m/s) is looked for where it was at each camera's own instant.
    """
    seen = project(points_ego, lenses, velocity_BP2)
    width, height = lenses.size_wh
    margin = torch.minimum(
        torch.minimum(seen.u_BNP + 0.5, width - 0.5 - seen.u_BNP), torch.minimum(seen.v_BNP + 0.5, height - 0.5 - seen.v_BNP) * 2.0
    )
    sharpness = lenses.intrinsics_BN4[..., :1] / width
    score = torch.where(seen.visible_BNP, sharpness * (margin / (0.1 * width)).clamp(0.01, 1.0), torch.zeros_like(margin))
    first_score, first = score.max(dim=1, keepdim=True)
    cameras = torch.arange(score.shape[1], device=score.device)[None, :, None]
    second_score, second = torch.where(cameras == first, torch.full_like(score, -1.0), score).max(dim=1, keepdim=True)
    camera = torch.cat([first, second], dim=1)

    def pick(value: Tensor, fallback: float) -> Tensor:
        picked = value.gather(1, camera)
        return torch.where(visible, picked, torch.full_like(picked, fallback))

    visible = torch.cat([first_score, second_score], dim=1) > 0
    return Views(
        torch.where(visible, camera, torch.zeros_like(camera)),
        pick(seen.u_BNP, 0.0),
        pick(seen.v_BNP, 0.0),
        visible.float(),
        pick(seen.distance_BNP, 1.0),
    )


@dataclass
class Atlas:
    """The feature levels of all cameras, stacked along the rows: camera n owns rows n*h to (n+1)*h of each map."""

    levels: list[Tensor]
    """(B, C, N*h, w) per level."""
    cameras: int
    lenses: Lenses
    sampler: str
    """"gridsample", "gather" or (lifting only) "bag"; the same numbers."""

    @classmethod
    def stack(cls, levels: list[Tensor], lenses: Lenses, sampler: str) -> "Atlas":
        """From levels (B*N, C, h, w) in camera order."""
        batch, cameras = lenses.alive_BN.shape
        return cls([stack_cameras(level, batch) for level in levels], cameras, lenses, sampler)

    def sample(self, views: Views, level: int) -> Tensor:
        """Features (B, C, V, P) of one level; not yet masked by visibility."""
        return sample_stacked(self.levels[level], self.cameras, self.lenses.size_wh, views, self.sampler)


def stack_cameras(maps: Tensor, batch: int) -> Tensor:
    """(B*N, C, h, w) to (B, C, N*h, w)."""
    channels, rows, columns = maps.shape[1:]
    return maps.reshape(batch, -1, channels, rows, columns).transpose(1, 2).reshape(batch, channels, -1, columns)


def stacked_coordinates(stacked: Tensor, cameras: int, size_wh: tuple[int, int], views: Views) -> tuple[Tensor, Tensor]:
    """Column and row (B, V, P) of the views' pixels in a stacked map, in map pixels, clamped into the own camera's strip."""
    rows, columns = stacked.shape[2] // cameras, stacked.shape[3]
    width, height = size_wh
    column = ((views.u_BVP + 0.5) * (columns / width) - 0.5).clamp(0.0, columns - 1.0)
    row = ((views.v_BVP + 0.5) * (rows / height) - 0.5).clamp(0.0, rows - 1.0)
    return column, row + views.camera_BVP.float() * rows


def sample_stacked(stacked: Tensor, cameras: int, size_wh: tuple[int, int], views: Views, sampler: str) -> Tensor:
    """Bilinear samples (B, C, V, P) of a stacked map (B, C, N*h, w) at the views' pixels."""
    column, row = stacked_coordinates(stacked, cameras, size_wh, views)
    if sampler == "gather":
        return _sample_by_gather(stacked, column, row)
    total_rows, columns = stacked.shape[2], stacked.shape[3]
    grid = torch.stack([(column + 0.5) * (2.0 / columns) - 1.0, (row + 0.5) * (2.0 / total_rows) - 1.0], dim=-1)
    return functional.grid_sample(stacked, grid.to(stacked.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def stacked_corners(stacked: Tensor, cameras: int, size_wh: tuple[int, int], views: Views) -> tuple[Tensor, Tensor]:
    """The four map pixels around each view's pixel and their bilinear shares, both (B, V, P, 4).

    Pixels count through the whole batch: clip, then row, then column.
    """
    column, row = stacked_coordinates(stacked, cameras, size_wh, views)
    total_rows, columns = stacked.shape[2], stacked.shape[3]
    left, top = column.floor(), row.floor()
    right_share, low_share = column - left, row - top
    left, top = left.long(), top.long()
    right, low = (left + 1).clamp(max=columns - 1), (top + 1).clamp(max=total_rows - 1)
    clip = torch.arange(stacked.shape[0], device=stacked.device)[:, None, None] * total_rows
    upper_row, lower_row = (clip + top) * columns, (clip + low) * columns
    pixel = torch.stack([upper_row + left, upper_row + right, lower_row + left, lower_row + right], dim=-1)
    left_share, top_share = 1 - right_share, 1 - low_share
    share = torch.stack([top_share * left_share, top_share * right_share, low_share * left_share, low_share * right_share], dim=-1)
    return pixel, share


def _sample_by_gather(stacked: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """The same by four gathers of whole map pixels."""
    total_rows, columns = stacked.shape[2], stacked.shape[3]
    left, top = column.floor(), row.floor()
    right_share, low_share = column - left, row - top
    right, low = (left + 1).clamp(max=columns - 1), (top + 1).clamp(max=total_rows - 1)
    flat = stacked.flatten(2)

    def corner(y: Tensor, x: Tensor, share: Tensor) -> Tensor:
        index = (y * columns + x).long().flatten(1)[:, None].expand(-1, flat.shape[1], -1)
        return flat.gather(2, index).reshape(*flat.shape[:2], *column.shape[1:]) * share[:, None].to(stacked.dtype)

    upper = corner(top, left, (1 - low_share) * (1 - right_share)) + corner(top, right, (1 - low_share) * right_share)
    return upper + corner(low, left, low_share * (1 - right_share)) + corner(low, right, low_share * right_share)
