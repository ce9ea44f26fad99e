"""How are maps sampled where a runtime's GridSample is slow or not to be trusted? Whole pixels are fetched and mixed by a small product."""

import torch
from torch import Tensor
from torch.nn import functional


def pixel_rows(maps: Tensor) -> Tensor:
    """(B*N, C, h, w) to (B*N*h*w, C): one row a map pixel, counted through clips, cameras, rows and columns."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def mix_pixels(rows: Tensor, pixel_BPLV4: Tensor, weight_BPLV4: Tensor) -> Tensor:
    """(B, P, L, C): for every point and level the weighted sum of the V * 4 rows that it names. A gather and a small matrix product."""
    batch, points, levels = pixel_BPLV4.shape[:3]
    weight = weight_BPLV4.reshape(batch * points * levels, 1, -1)
    found = rows.index_select(0, pixel_BPLV4.reshape(-1)).reshape(batch * points * levels, -1, rows.shape[1])
    return (weight.to(rows.dtype) @ found).reshape(batch, points, levels, -1)


def sample_plane(maps: Tensor, where_BXY2: Tensor, sampler: str) -> Tensor:
    """Bilinear samples (B, C, X, Y) of maps (B, C, H, W) at (column, row) in [-1, 1] of the whole map; zeros outside it.

    By `grid_sample`, or with the sampler "gather" the same numbers without it.
    """
    if sampler != "gather":
        return functional.grid_sample(maps, where_BXY2.to(maps.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)
    batch, _, rows, columns = maps.shape
    column, row = (where_BXY2[..., 0].flatten(1) + 1) * (columns / 2) - 0.5, (where_BXY2[..., 1].flatten(1) + 1) * (rows / 2) - 0.5
    left, top = column.floor(), row.floor()
    right_share, low_share = column - left, row - top
    clip = torch.arange(batch, device=maps.device)[:, None] * (rows * columns)
    pixels, weights = [], []
    for y, y_share in ((top, 1 - low_share), (top + 1, low_share)):
        for x, x_share in ((left, 1 - right_share), (left + 1, right_share)):
            inside = (x >= 0) & (x <= columns - 1) & (y >= 0) & (y <= rows - 1)
            pixels.append(clip + y.clamp(0, rows - 1).long() * columns + x.clamp(0, columns - 1).long())
            weights.append(x_share * y_share * inside.float())
    pixel, weight = (torch.stack(values, dim=-1)[:, :, None, None] for values in (pixels, weights))  # B P 1 1 4
    mixed = mix_pixels(pixel_rows(maps), pixel, weight)
    return mixed[:, :, 0].transpose(1, 2).reshape(batch, -1, *where_BXY2.shape[1:3])
