"""How do tokens look at each other, at the past and at the pictures? The one kind of Transformer layer for every kind of token.

Object queries and bird's-eye tokens are told apart only by where their reference boxes stand and by what they may attend to.
Attention is written as matrix products and softmax, so that it exports as plain operators.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion.atlas import Atlas, best_views
from fusion.grid import BevGrid
from fusion.lenses import Planes
from fusion.presence import NEGLIGIBLE_LOGIT, presence_logit
from fusion.sampling import mix_pixels_often, piece_size, pixel_rows, plane_corners, sample_plane

HIDDEN_M = 1e9
"""What must not be seen is as far away as this."""


@dataclass
class Surroundings:
    """What the tokens of a layer may look at."""

    atlas: Atlas
    bev: Tensor | None
    """(B, C, X, Y) bird's-eye features, or None if the tokens are themselves made of them."""
    grid: BevGrid
    memory_BSC: Tensor | None
    """Remembered objects' embeddings with their position added, or None."""
    memory_presence_BS: Tensor | None
    """float32 in [0, 1], how far each of them counts; 0 for an empty slot."""


class BoxPosition(nn.Module):
    """The position encoding of a box: sines of its centre at several wave lengths, its size, heading and velocity."""

    frequency: Tensor

    def __init__(self, channels: int, frequencies: int = 6) -> None:
        super().__init__()
        self.register_buffer("frequency", 2.0 ** torch.arange(frequencies) * (torch.pi / 64.0), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(6 * frequencies + 7, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, box: Tensor) -> Tensor:
        """Boxes (B, Q, 9) to (B, Q, C)."""
        phase = box[..., :3, None] * self.frequency
        waves = torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1).flatten(-2)
        yaw = box[..., 6:7]
        rest = torch.cat([box[..., 3:6].clamp(min=0.05).log(), torch.sin(yaw), torch.cos(yaw), box[..., 7:9] * 0.1], dim=-1)
        return self.mlp(torch.cat([waves, rest], dim=-1))


class Attention(nn.Module):
    """Multi-head attention by matrix products; distance makes logits smaller."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        less_BQS: Tensor | None,
        distance_BQS: Tensor | None = None,
        slope: Tensor | float = 1.0,
    ) -> Tensor:
        """(B, Q, C) queries over (B, S, C) keys and values; `less_BQS` (Q or 1 rows) and `slope`, one number or (1, heads, 1, 1), times the
        distance are taken from the logits. Every query must have some key of which nothing is taken.
        """
        q, k, v = (self._split(x) for x in (self.query(query), self.key(key), self.value(value)))
        q = q * (q.shape[-1] ** -0.5)
        pieces = q.split(piece_size(q.shape[2], self.heads * k.shape[2]), 2)
        less, far = (_rows(table, len(pieces), pieces[0].shape[2]) for table in (less_BQS, distance_BQS))
        found = [
            self._look(some, k, v, part, None if away is None else slope * away) for some, part, away in zip(pieces, less, far, strict=True)
        ]
        return self.out(torch.cat(found, dim=2).transpose(1, 2).flatten(2))

    @staticmethod
    def _look(q: Tensor, k: Tensor, v: Tensor, *less: Tensor | None) -> Tensor:
        logits = (q @ k.transpose(-1, -2)).float()
        for part in less:
            logits = logits if part is None else logits - part
        least = logits.detach().amax(-1, keepdim=True) - NEGLIGIBLE_LOGIT
        return torch.maximum(logits, least).softmax(-1).to(v.dtype) @ v

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


def _rows(table: Tensor | None, pieces: int, size: int) -> list[Tensor | None]:
    """The (B, 1, rows, S) of a (B, Q or 1, S) table that belong to each piece of so many queries."""
    if table is None or table.shape[1] == 1:
        return [None if table is None else table[:, None]] * pieces
    return list(table[:, None].split(size, 2))


class SelfAttention(nn.Module):
    """Tokens look at each other; how much distance matters is learned, one number a head."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(channels, heads)
        self.reach = nn.Parameter(torch.linspace(-4.0, 1.0, heads))

    def forward(self, tokens: Tensor, position: Tensor, box: Tensor, apart_BQQ: Tensor | None, less_BQQ: Tensor | None) -> Tensor:
        """`apart_BQQ` holds 0, or `HIDDEN_M` where a token may not look; None where everyone may look at everyone. `less_BQQ` is
        `fusion.presence.less_seen`, None where all tokens count in full.
        """
        dx, dy = (box[:, :, None, i] - box[:, None, :, i] for i in (0, 1))  # plane by plane: runtimes are slow on a last axis of two
        distance = torch.sqrt(dx * dx + dy * dy + 1e-4)
        if apart_BQQ is not None:
            distance = distance + apart_BQQ
        placed, slope = tokens + position, functional.softplus(self.reach.float())[None, :, None, None]
        return self.attention(placed, placed, tokens, less_BQQ, distance, slope)


class MemoryAttention(nn.Module):
    """Tokens look at the remembered objects; an empty place of its own makes attention to nothing possible."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(channels, heads)
        self.nothing = nn.Parameter(torch.zeros(1, 1, channels))

    def forward(self, tokens: Tensor, position: Tensor, memory: Tensor, presence_BS: Tensor) -> Tensor:
        """Memory (B, S, C) and how far it counts (B, S)."""
        nothing = self.nothing.expand(memory.shape[0], -1, -1).to(memory.dtype)
        keys = torch.cat([nothing, memory], dim=1)
        presence = torch.cat([torch.ones_like(presence_BS[:, :1]), presence_BS], dim=1)
        return self.attention(tokens + position, keys, keys, -presence_logit(presence)[:, None])


def initial_points(count: int) -> Tensor:
    """(P, 3) points in units of half a box: the centre, the sides, the ends, then corners."""
    fixed = [(0, 0, 0), (0.8, 0, 0), (-0.8, 0, 0), (0, 0.8, 0), (0, -0.8, 0), (0, 0, 0.8), (0, 0, -0.9)]
    corners = [(x, y, z) for z in (-0.8, 0.6) for x in (0.8, -0.8) for y in (0.8, -0.8)]
    points = (fixed + corners) * (1 + count // 15)
    return torch.tensor(points[:count], dtype=torch.float32)


class SampledAttention(nn.Module):
    """Tokens look at pictures and at the bird's-eye map through a few 3D points around their box.

    The points are learned offsets in the box's own axes; each is seen by its two best cameras at the camera's own instant.
    """

    def __init__(self, channels: int, heads: int, points: int, levels: int, neck_channels: int, bev_channels: int | None) -> None:
        super().__init__()
        self.heads, self.points, self.levels = heads, points, levels
        self.offsets = nn.Linear(channels, points * 3)
        self.camera_weights = nn.Linear(channels, heads * points * levels)
        self.camera_value = nn.Linear(neck_channels, channels)
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(initial_points(points).flatten())
        nn.init.zeros_(self.camera_weights.weight)
        self.seen = nn.Linear(1, channels)
        self.out = nn.Linear(channels, channels)
        self.bev_channels = bev_channels
        if bev_channels is not None:
            self.bev_weights = nn.Linear(channels, heads * points)
            self.bev_value = nn.Linear(bev_channels, channels)
            nn.init.zeros_(self.bev_weights.weight)

    def forward(self, tokens: Tensor, box: Tensor, around: Surroundings) -> Tensor:
        """Tokens (B, Q, C) with boxes (B, Q, 9) to what they see (B, Q, C)."""
        points = self._points_ego(tokens, box)
        found = self._from_cameras(tokens, points, box, around.atlas)
        if around.bev is not None and self.bev_channels is not None:
            found = found + self._from_bev(tokens, points, around.bev, around)
        return self.out(found)

    def _points_ego(self, tokens: Tensor, box: Tensor) -> Planes:
        """x, y and z (B, Q, P)."""
        offset = self.offsets(tokens).float().reshape(*tokens.shape[:2], self.points, 3).unbind(-1)
        cx, cy, cz, length, width, height, yaw = box[..., :7].split(1, dim=-1)
        along, aside = offset[0] * (length * 0.5), offset[1] * (width * 0.5)
        cos, sin = torch.cos(yaw), torch.sin(yaw)
        return cx + cos * along - sin * aside, cy + sin * along + cos * aside, cz + offset[2] * (height * 0.5)

    def _from_cameras(self, tokens: Tensor, points: Planes, box: Tensor, atlas: Atlas) -> Tensor:
        batch, queries = tokens.shape[:2]
        velocity = box[:, :, None, 7:9].expand(-1, -1, self.points, -1).reshape(batch, -1, 2)
        views = best_views([plane.flatten(1) for plane in points], atlas.lenses, velocity)
        seen = views.visible_BVP.amax(1).reshape(batch, queries, self.points)
        any_seen = seen.amax(-1)[..., None, None]  # B Q 1 1
        unseen = presence_logit(seen)[:, :, None].expand(-1, -1, self.levels, -1).reshape(batch, queries, 1, -1)
        logits = self._camera_logits(tokens).float().reshape(batch, queries, self.heads, -1) + unseen
        weights = (logits.softmax(-1) * any_seen).unflatten(-1, (self.levels, self.points))
        found = self._values(atlas.mixed(views, weights), self.camera_value, any_seen)
        return found + self.seen(seen.mean(-1, keepdim=True).to(found.dtype))

    def _camera_logits(self, tokens: Tensor) -> Tensor:
        """(B, Q, heads * levels * points). The layer's own rows lie point by point; points come last here, in one piece, because a runtime
        moves pieces faster than single numbers."""
        rows = [
            values.unflatten(0, (self.heads, self.points, self.levels)).transpose(1, 2).flatten(0, 2)
            for values in (self.camera_weights.weight, self.camera_weights.bias)
        ]
        return functional.linear(tokens, *rows)

    def _from_bev(self, tokens: Tensor, points: Planes, bev: Tensor, around: Surroundings) -> Tensor:
        batch, queries = tokens.shape[:2]
        column, row = around.grid.pixels(points[0], points[1])  # B Q P
        weights = self.bev_weights(tokens).float().reshape(batch, queries, self.heads, self.points).softmax(-1)
        if around.atlas.sampler == "gather":
            pixel, share = plane_corners(column.flatten(1), row.flatten(1), *bev.shape[2:])  # B 4 QP
            pixel, share = (value.unflatten(2, (queries, -1)).transpose(1, 2) for value in (pixel, share))  # B Q 4 P
            mixed = mix_pixels_often(pixel_rows(bev), pixel.flatten(2), (weights[:, :, :, None] * share[:, :, None]).flatten(3))
        else:
            samples = sample_plane(bev, column, row, around.atlas.sampler).permute(0, 2, 3, 1)
            mixed = weights.to(samples.dtype) @ samples
        return self._values(mixed, self.bev_value, mixed.new_ones(1, 1, 1, 1))

    def _values(self, mixed_BQhC: Tensor, value: nn.Linear, share: Tensor) -> Tensor:
        """What `value` makes of samples, (B, Q, C), when its heads get them already mixed: a sum passes a linear map, but is far smaller.

        `share` (B, Q, 1, 1) is the sum of the weights they were mixed with.
        """
        weight = value.weight.reshape(self.heads, -1, value.in_features)  # h C/h Cin
        values = (mixed_BQhC.transpose(1, 2) @ weight.transpose(1, 2)).transpose(1, 2)  # B Q h C/h
        return (values + share.to(values.dtype) * value.bias.reshape(self.heads, -1)).flatten(2)


class Layer(nn.Module):
    """Self-attention with 3D position, attention to memory, projected camera attention, feed-forward; normalised after each."""

    def __init__(
        self,
        channels: int,
        heads: int,
        feedforward: int,
        points: int,
        levels: int,
        neck_channels: int,
        bev_channels: int | None,
        memory: bool,
    ) -> None:
        super().__init__()
        self.itself = SelfAttention(channels, heads)
        self.memory = MemoryAttention(channels, heads) if memory else None
        self.sampled = SampledAttention(channels, heads, points, levels, neck_channels, bev_channels)
        self.feedforward = nn.Sequential(nn.Linear(channels, feedforward), nn.ReLU(), nn.Linear(feedforward, channels))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(4))

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        box: Tensor,
        apart_BQQ: Tensor | None,
        around: Surroundings,
        less_BQQ: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, Q, C) at boxes (B, Q, 9) with position encodings (B, Q, C); `apart_BQQ` and `less_BQQ` as `SelfAttention` has them."""
        tokens = self.norms[0](tokens + self.itself(tokens, position, box, apart_BQQ, less_BQQ))
        if self.memory is not None and around.memory_BSC is not None and around.memory_presence_BS is not None:
            tokens = self.norms[1](tokens + self.memory(tokens, position, around.memory_BSC, around.memory_presence_BS))
        tokens = self.norms[2](tokens + self.sampled(tokens, box, around))
        return self.norms[3](tokens + self.feedforward(tokens))
