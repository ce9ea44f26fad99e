"""What do the pictures show at a 3D point? All cameras' features stacked into one map a level, sampled at a point's two best views.

The cost of sampling does not grow with the number of cameras; dead cameras fall out; nothing is tied to a camera's index.
Bilinear samples stay inside their own camera's strip of the stack (coordinates are clamped to its pixel centres).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fusion.lenses import Lenses, project
from fusion.sampling import mix_pixels, pixel_rows

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
    maps: list[Tensor]
    """(B*N, C, h, w) per level: the same before they were stacked."""
    cameras: int
    lenses: Lenses
    sampler: str
    """"gridsample", "gather" or (lifting only) "bag"; the same numbers."""

    @classmethod
    def stack(cls, levels: list[Tensor], lenses: Lenses, sampler: str) -> "Atlas":
        """From levels (B*N, C, h, w) in camera order."""
        batch, cameras = lenses.alive_BN.shape
        return cls([stack_cameras(level, batch) for level in levels], levels, cameras, lenses, sampler)

    def sample(self, views: Views, level: int) -> Tensor:
        """Features (B, C, V, P) of one level; not yet masked by visibility."""
        return sample_stacked(self.levels[level], self.cameras, self.lenses.size_wh, views)

    def seen(self, views: Views) -> Tensor:
        """Features (B, P, L, C) of all levels, the mean of the views that see a point; zero where none does."""
        visible = views.visible_BVP / views.visible_BVP.sum(1, keepdim=True).clamp(min=1.0)
        if self.sampler == "gather":
            pixel, share = corners(self.maps, self.cameras, self.lenses.size_wh, views)
            weight = share * visible.transpose(1, 2)[:, :, None, :, None]
            return mix_pixels(torch.cat([pixel_rows(level) for level in self.maps]), pixel, weight)
        samples = torch.stack([self.sample(views, level) for level in range(len(self.levels))], dim=2)  # B C L V P
        return (samples * visible[:, None, None].to(samples.dtype)).sum(3).permute(0, 3, 2, 1)


def stack_cameras(maps: Tensor, batch: int) -> Tensor:
    """(B*N, C, h, w) to (B, C, N*h, w)."""
    channels, rows, columns = maps.shape[1:]
    return maps.reshape(batch, -1, channels, rows, columns).transpose(1, 2).reshape(batch, channels, -1, columns)


def stacked_coordinates(map_hw: tuple[int, int], size_wh: tuple[int, int], views: Views) -> tuple[Tensor, Tensor]:
    """Column and row (B, V, P) of the views' pixels in a stack of maps of size `map_hw`, clamped into the own camera's strip."""
    rows, columns = map_hw
    width, height = size_wh
    column = ((views.u_BVP + 0.5) * (columns / width) - 0.5).clamp(0.0, columns - 1.0)
    row = ((views.v_BVP + 0.5) * (rows / height) - 0.5).clamp(0.0, rows - 1.0)
    return column, row + views.camera_BVP.float() * rows


def sample_stacked(stacked: Tensor, cameras: int, size_wh: tuple[int, int], views: Views) -> Tensor:
    """Bilinear samples (B, C, V, P) of a stacked map (B, C, N*h, w) at the views' pixels."""
    column, row = stacked_coordinates((stacked.shape[2] // cameras, stacked.shape[3]), size_wh, views)
    total_rows, columns = stacked.shape[2], stacked.shape[3]
    grid = torch.stack([(column + 0.5) * (2.0 / columns) - 1.0, (row + 0.5) * (2.0 / total_rows) - 1.0], dim=-1)
    return functional.grid_sample(stacked, grid.to(stacked.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def corners(maps: list[Tensor], cameras: int, size_wh: tuple[int, int], views: Views) -> tuple[Tensor, Tensor]:
    """The four pixels around each view's pixel in each of L maps (B*N, C, h, w), and their bilinear shares, both (B, P, L, V, 4).

    Pixels count through all maps as `pixel_rows` of one after the other: map, clip, camera, row, column.
    """
    device, count = maps[0].device, maps[0].shape[0]

    def of_levels(values: list[int]) -> Tensor:
        return torch.tensor(values, device=device)[:, None]  # L 1

    rows, columns = of_levels([m.shape[2] for m in maps]), of_levels([m.shape[3] for m in maps])
    before = of_levels([sum(m.shape[2] * m.shape[3] for m in maps[:level]) for level in range(len(maps))]) * count
    u, v, camera = (value.transpose(1, 2)[:, :, None] for value in (views.u_BVP, views.v_BVP, views.camera_BVP))  # B P 1 V
    column, row = _within((u + 0.5) * (columns / size_wh[0]) - 0.5, columns), _within((v + 0.5) * (rows / size_wh[1]) - 0.5, rows)
    left, top = column.floor(), row.floor()
    right_share, low_share = column - left, row - top
    left, top = left.long(), top.long()
    right, low = torch.minimum(left + 1, columns - 1), torch.minimum(top + 1, rows - 1)
    clip = torch.arange(count // cameras, device=device)[:, None, None, None] * cameras
    strip = (clip + camera) * rows
    upper_row, lower_row = before + (strip + top) * columns, before + (strip + low) * columns
    pixel = torch.stack([upper_row + left, upper_row + right, lower_row + left, lower_row + right], dim=-1)
    left_share, top_share = 1 - right_share, 1 - low_share
    share = torch.stack([top_share * left_share, top_share * right_share, low_share * left_share, low_share * right_share], dim=-1)
    return pixel, share


def _within(position: Tensor, size: Tensor) -> Tensor:
    """Clamped to the centres of `size` pixels."""
    return torch.minimum(position.clamp(min=0.0), size - 1.0)
