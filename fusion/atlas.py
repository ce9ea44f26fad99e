"""What do the pictures show at a 3D point? All cameras' features stacked into one map a level, sampled at a point's two best views.

The cost of sampling does not grow with the number of cameras; dead cameras fall out; nothing is tied to a camera's index.
Bilinear samples stay inside their own camera's strip of the stack (coordinates are clamped to its pixel centres).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fusion.lenses import Lenses, Planes, column_of, project, row_of
from fusion.sampling import four_pixels, four_shares, mix_pixels_often, pixel_rows

BORDER = 0.01
"""A view counts less and less over this share of a picture's width at its border, or at the largest angle that its lens sees."""
VIEWS = 2
"""Best views kept for each point."""


@dataclass
class Views:
    """The V = 2 best views of P points."""

    camera_BVP: Tensor
    """int64 camera index; any camera's where not visible."""
    u_BVP: Tensor
    """Pixels of the network image; finite also where not visible."""
    v_BVP: Tensor
    visible_BVP: Tensor
    """float32, 0 or 1; with a border in between."""
    distance_BVP: Tensor
    """Metres along the ray."""


def best_views(planes_ego: Planes, lenses: Lenses, velocity_BP2: Tensor | None = None) -> Views:
    """The two views of each point that see it with most pixels a radian and not at their border; points as `project` takes them.

    A moving point (`velocity_BP2`, m/s) is looked for where it was at each camera's own instant. Within `BORDER` of a picture's border
    visibility fades: a point does not jump out of it, and rounding does not decide whether it is seen.
    """
    seen = project(planes_ego, lenses, velocity_BP2)
    width = lenses.size_wh[0]
    sharpness = lenses.intrinsics_BN4[..., :1] * (10.0 / width**2)  # a tenth of the width from the border is far enough
    score = seen.margin_BNP.clamp(0.001 * width, 0.1 * width) * sharpness * seen.visible_BNP.float()
    first = score.argmax(dim=1, keepdim=True)
    cameras = torch.arange(score.shape[1], device=score.device)[None, :, None]
    others_score = score * (cameras != first).float()  # a runtime's Where takes twice as long
    second = others_score.argmax(dim=1, keepdim=True)
    camera = torch.cat([first, second], dim=1)
    visible = torch.cat([score.gather(1, first), others_score.gather(1, second)], dim=1) > 0  # faster than to seek the largest again

    def pick(value: Tensor) -> Tensor:
        return torch.where(visible, value.gather(1, camera), 1.0)

    u, v = column_of(pick(seen.across_BNP), seen.size_wh), row_of(pick(seen.twice_down_BNP), seen.size_wh)
    how_far = visible.float() * (seen.margin_BNP.gather(1, camera) * (1.0 / (BORDER * width))).clamp(0.0, 1.0)
    return Views(camera, u, v, how_far, pick(seen.distance_BNP))


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

    def mixed(self, views: Views, weight_BQhLP: Tensor) -> Tensor:
        """(B, Q, h, C): for every query and head the weighted sum of what its P points show in L levels.

        `views` are those of Q*P points. What a point shows is the mean of the views that see it; zero where none does.
        """
        batch, queries, _, levels, points = weight_BQhLP.shape
        visible = views.visible_BVP / views.visible_BVP.sum(1, keepdim=True).clamp(min=1.0)
        if self.sampler != "gather":
            samples = torch.stack([self.sample(views, level) for level in range(len(self.levels))], dim=2)  # B C L V QP
            seen = (samples * visible[:, None, None].to(samples.dtype)).sum(3).unflatten(3, (queries, points)).permute(0, 3, 2, 4, 1)
            return weight_BQhLP.flatten(3).to(seen.dtype) @ seen.reshape(batch, queries, levels * points, -1)
        pixel, share = corners(self.maps, self.cameras, self.lenses.size_wh, views)
        # corners and views before levels and points: a runtime multiplies rows of L P numbers faster than single ones
        pixel, share = (
            value.unflatten(4, (queries, points)).permute(0, 4, 2, 3, 1, 5).reshape(batch, queries, -1, levels * points)
            for value in (pixel, share * visible[:, None, None])
        )
        rows = torch.cat([pixel_rows(level) for level in self.maps])
        return mix_pixels_often(rows, pixel.flatten(2), (weight_BQhLP.flatten(3)[:, :, :, None] * share[:, :, None]).flatten(3))


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
    """The four pixels around each view's pixel in each of L maps (B*N, C, h, w), and their bilinear shares, both (B, L, 4, V, P).

    Pixels (int32) count through all maps as `pixel_rows` of one after the other: map, clip, camera, row, column.
    """
    device, count = maps[0].device, maps[0].shape[0]

    def of_levels(values: list[int]) -> Tensor:
        return torch.tensor(values, device=device, dtype=torch.int32)[:, None, None]  # L 1 1

    sizes = [(m.shape[2], m.shape[3]) for m in maps]
    heights, widths = (of_levels([size[axis] for size in sizes]) for axis in (0, 1))
    before = of_levels([sum(h * w for h, w in sizes[:level]) for level in range(len(maps))]) * count
    left, right_share = _lower_of_two(views.u_BVP[:, None], widths, size_wh[0])  # B L V P
    top, low_share = _lower_of_two(views.v_BVP[:, None], heights, size_wh[1])
    first = (pictures_of(views, cameras)[:, None] * heights + top) * widths + left + before
    pixel = first[:, :, None] + four_pixels(sizes, device)[..., None]
    return pixel, four_shares((1 - right_share, right_share), (1 - low_share, low_share), dim=2)


def pictures_of(views: Views, cameras: int) -> Tensor:
    """(B, V, P) int32: which of all clips' pictures, with so many a clip, each view is."""
    camera = views.camera_BVP.int()
    if len(camera) == 1:
        return camera
    return camera + torch.arange(len(camera), device=camera.device, dtype=torch.int32)[:, None, None] * cameras


def _lower_of_two(pixel: Tensor, size: Tensor, image_size: int) -> tuple[Tensor, Tensor]:
    """The lower (int32) of the two map pixels around an image pixel, and the share of the upper one, within a map of `size` pixels."""
    scale = size / image_size
    position = torch.minimum((pixel * scale + (0.5 * scale - 0.5)).clamp(min=0.0), size - 1.0)
    lower = torch.minimum(position.floor(), (size - 2.0).clamp(min=0.0))
    return lower.int(), position - lower
