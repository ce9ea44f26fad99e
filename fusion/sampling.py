"""How are maps sampled where a runtime's GridSample is slow or not to be trusted? Whole pixels are fetched and mixed by a small product."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

PIECE_VALUES = 2**21
"""An exported graph fetches and mixes about this many values at a time: as bytes they stay in a core's cache between the two, as float32
smaller pieces gain nothing."""
MAX_PIECES = 32
MIN_PRODUCT_CHANNELS = 64
"""With fewer, four long sums take less time than a small product for every pixel."""


def pixel_rows(maps: Tensor) -> Tensor:
    """(B*N, C, h, w) to (B*N*h*w, C): one row a map pixel, counted through clips, cameras, rows and columns."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def mix_pixels(
    rows: Tensor, pixel_BPK: Tensor, weight_BPK: Tensor, of: int = 1, then: Callable[[Tensor], Tensor] = lambda mixed: mixed
) -> Tensor:
    """(B, P, C): for every point the weighted sum of the K rows that it names. A gather and a small matrix product.

    `then` may make (n / of, C') of the mixed (n, C) of each piece of whole groups of `of` points; the answer is (B, P / of, C') then.
    """
    return mix_pixels_often(rows, pixel_BPK, weight_BPK[:, :, None], of, lambda mixed: then(mixed.squeeze(1)))


def mix_pixels_often(
    rows: Tensor, pixel_BPK: Tensor, weight_BPMK: Tensor, of: int = 1, then: Callable[[Tensor], Tensor] = lambda mixed: mixed
) -> Tensor:
    """(B, P, M, C): for every point M weighted sums of the K rows that it names; `of` and `then` as in `mix_pixels`."""
    batch, points, times, count = weight_BPMK.shape
    pixel, weight = pixel_BPK.reshape(-1, count), weight_BPMK.reshape(-1, times, count).to(rows.dtype)
    size = piece_size(len(pixel), count * rows.shape[1], of)
    mixed = []
    for names, shares in zip(pixel.split(size), weight.split(size), strict=True):
        mixed.append(then(shares @ rows.index_select(0, names.reshape(-1)).reshape(-1, count, rows.shape[1])))
    return torch.cat(mixed).unflatten(0, (batch, points // of))


def piece_size(points: int, values: int, of: int = 1) -> int:
    """How many of so many points, of `values` fetched values each, are mixed at a time: all, unless the graph is being exported."""
    if not torch.compiler.is_exporting():
        return points
    pieces = min(MAX_PIECES, max(1, points * values // PIECE_VALUES))
    return -(-points // (pieces * of)) * of


def plane_corners(column_BP: Tensor, row_BP: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The four pixels around each position, which is counted in pixels of a map of at least 2 x 2, and their bilinear shares.

    Both (B, 4, P): int32 counted through clips, rows and columns, and float32; a pixel outside the map has no share.
    """
    left, right_of = _two_around(column_BP, columns)
    top, low_of = _two_around(row_BP, rows)
    first = (top * columns + left)[:, None]
    if len(column_BP) > 1:
        first = first + torch.arange(len(column_BP), device=first.device, dtype=torch.int32)[:, None, None] * (rows * columns)
    return first + four_pixels([(rows, columns)], first.device)[0], four_shares(right_of, low_of, dim=1)


def _two_around(position: Tensor, size: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The lower (int32) of the two pixels around a position, and what each of them counts; 0 for one outside."""
    lower = position.floor().clamp(0.0, size - 2.0)
    beyond = position - lower
    return lower.int(), (functional.relu(1.0 - beyond.abs()), functional.relu(1.0 - (beyond - 1.0).abs()))


def four_pixels(sizes_hw: list[tuple[int, int]], device: torch.device) -> Tensor:
    """(L, 4, 1) int32: from the upper left of four pixels to itself and the others, in maps of these sizes; nowhere if there is one row."""
    steps = [(min(1, w - 1), w * min(1, h - 1)) for h, w in sizes_hw]
    return torch.tensor([[0, x, y, x + y] for x, y in steps], device=device, dtype=torch.int32)[..., None]


def four_shares(across: tuple[Tensor, Tensor], down: tuple[Tensor, Tensor], dim: int) -> Tensor:
    """The shares of four pixels, in the order of `four_pixels`, along a new axis: (left, right) times (top, low)."""
    return torch.stack([y * x for y in down for x in across], dim=dim)


def sample_plane(maps: Tensor, column_BXY: Tensor, row_BXY: Tensor, sampler: str, valid_B: Tensor | None = None) -> Tensor:
    """Bilinear samples (B, C, X, Y) of maps (B, C, H, W) at positions counted in their pixels; zeros outside the maps.

    By `grid_sample`, or with the sampler "gather" the same numbers without it. A map whose `valid_B` is 0 shows zeros, whatever it holds.
    """
    rows, columns = maps.shape[2:]
    if sampler != "gather":
        if valid_B is not None:
            maps = torch.where(valid_B[:, None, None, None] > 0.5, maps, torch.zeros_like(maps))
        where = torch.stack([(column_BXY + 0.5) * (2.0 / columns) - 1.0, (row_BXY + 0.5) * (2.0 / rows) - 1.0], dim=-1)
        return functional.grid_sample(maps, where.to(maps.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)
    pixel, share = plane_corners(column_BXY.flatten(1), row_BXY.flatten(1), rows, columns)
    fetched, shares = pixel_rows(maps), share.transpose(1, 2).to(maps.dtype)
    if valid_B is not None:  # a row of zeros to look at instead: choosing indices is faster than choosing values
        pixel = torch.where(valid_B[:, None, None] > 0.5, pixel, len(fetched))
        fetched = torch.cat([fetched, torch.zeros_like(fetched[:1])])
    if maps.shape[1] < MIN_PRODUCT_CHANNELS:
        four = [fetched.index_select(0, pixel[:, k].flatten()).unflatten(0, pixel[:, k].shape) * shares[..., k : k + 1] for k in range(4)]
        mixed = (four[0] + four[1]) + (four[2] + four[3])
    else:
        mixed = mix_pixels(fetched, pixel.transpose(1, 2), shares)
    return mixed.transpose(1, 2).reshape(len(maps), -1, *column_BXY.shape[1:])
