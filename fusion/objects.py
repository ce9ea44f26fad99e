"""Which objects are there? Queries seeded from heatmap peaks and memory, refined by the decoder's layers."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion.boxcode import CODE_AXIS, CODE_FACING, CODE_SIZE, decode_boxes, encode_boxes
from fusion.config import ModelConfig
from fusion.denoising import DenoisingQueries
from fusion.distinct import nearness
from fusion.grid import BevGrid
from fusion.interface import LayerOutput
from fusion.kinematics import Recalled, Recollection, drives_forward, facing_forward
from fusion.layer import HIDDEN_M, BoxPosition, Layer, Surroundings
from fusion.presence import less_seen, presence_above

ABSENT_LOGIT = 12.0
"""Taken from the answered class logits of a query without presence. What it is does not change: who is just being forgotten still is the
same object as its twin."""
BEATEN_LOGIT = 30.0
"""At most this is taken from the logits of cells that are no peak,"""
PEAK_STEEPNESS = 10.0
"""this many times what they lack to the highest cell around them."""
PRESENT_LOGIT = 1.0
"""A heatmap peak is fully there when it stands this far above the best one that is not taken,"""
PRESENT_SCORE = 0.15
"""a remembered object when its score does so above the least that is remembered."""
SUPPRESSION_LOGIT = 4.0
"""Taken from a new query's logits where a remembered object or a higher peak's already stands,"""
SUPPRESSION_SCORE = 0.05
"""in full for a remembered one from so much above `QueryConfig.suppression_score` on,"""
SUPPRESSION_LEAD = 1.0
"""and for a peak whose logit is so much higher."""


@dataclass
class Queries:
    """Q object queries on their way through the decoder."""

    embedding_BQC: Tensor
    reference_BQ3: Tensor
    """Fixed points the box codes count from."""
    code_BQR: Tensor
    logits_BQK: Tensor
    presence_BQ: Tensor
    """float32 in [0, 1] (`fusion.presence`): how far others see this query, and how far its score counts; 0 for an empty place."""

    def box(self) -> Tensor:
        """(B, Q, 9) boxes as they stand now."""
        return decode_boxes(self.code_BQR, self.reference_BQ3)

    @classmethod
    def concatenate(cls, parts: "list[Queries]") -> "Queries":
        """All queries, in the order of the parts."""
        return cls(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in cls.__dataclass_fields__))


class QuerySource(nn.Module):
    """Makes queries from heatmap peaks, remembered objects and noised true boxes."""

    references_XY3: Tensor
    radius_K: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, classes = config.query.channels, len(config.class_names)
        self.config = config
        self.position = BoxPosition(channels)
        self.from_bev = nn.Linear(config.bev.channels, channels)
        self.from_heat = nn.Linear(classes, channels)
        self.from_class = nn.Embedding(classes, channels)
        self.from_motion = nn.Sequential(nn.Linear(channels + 5, channels), nn.ReLU(), nn.Linear(channels, channels))
        nn.init.zeros_(self.from_motion[-1].weight)  # type: ignore[arg-type]
        self.kind = nn.Embedding(3, channels)
        self.class_logits = nn.Linear(channels, classes)
        nn.init.constant_(self.class_logits.bias, -2.0)
        self.register_buffer("references_XY3", config.grid.references_ego(), persistent=False)
        self.register_buffer("radius_K", torch.tensor(config.query.suppression_radius_m), persistent=False)

    def from_peaks(self, heatmap: Tensor, dense_code: Tensor, bev: Tensor) -> Queries:
        """The best heatmap peaks (3x3 local maxima of any class) with the dense head's boxes.

        A cell hardly below the highest around it is still a peak, of a lower logit: which of two equal neighbours is the peak does not
        depend on rounding.
        """
        heat, places = heatmap.detach(), self.config.query.new_queries
        beaten = PEAK_STEEPNESS * (functional.max_pool2d(heat, 3, stride=1, padding=1) - heat)
        top, cell = (heat - beaten.clamp(max=BEATEN_LOGIT)).amax(1).flatten(1).float().topk(places + 1, dim=1)
        presence, cell = presence_above(top[:, :places], top[:, places:], PRESENT_LOGIT), cell[:, :places]

        def at(dense: Tensor) -> Tensor:
            index = cell[:, None].expand(-1, dense.shape[1], -1)
            return dense.flatten(2).gather(2, index).transpose(1, 2)

        logits = at(heat)
        embedding = self.from_bev(at(bev)) + self.from_heat(logits.sigmoid()) + self.kind.weight[0]
        reference = functional.embedding(cell, self.references_XY3.flatten(0, 1))
        return Queries(embedding, reference, at(dense_code.detach()), logits, presence)

    def from_memory(self, embedding: Tensor, box: Tensor, score: Tensor, motion_B5: Tensor) -> Queries:
        """Remembered objects whose boxes were already moved to now; slots below `keep_score` become queries without presence."""
        least = score.amin(1, keepdim=True).clamp(min=self.config.query.keep_score)  # what a full memory did not take lies below its last
        presence = presence_above(score, least, PRESENT_SCORE)
        moved = torch.cat([embedding, motion_B5[:, None].expand(-1, embedding.shape[1], -1).to(embedding.dtype)], dim=-1)
        embedding = embedding + self.from_motion(moved)
        logits = self.class_logits(embedding).float()
        reference = box[..., :3]
        return Queries(embedding + self.kind.weight[1], reference, encode_boxes(box, reference), logits, presence)

    def from_noise(self, denoising: DenoisingQueries) -> Queries:
        """Noised true boxes for training."""
        embedding = self.from_class(denoising.class_BM)
        logits = self.class_logits(embedding).float()
        reference = denoising.box_BM9[..., :3].float()
        code = encode_boxes(denoising.box_BM9.float(), reference)
        return Queries(embedding + self.kind.weight[2], reference, torch.nan_to_num(code), logits, denoising.mask_BM.float())

    def give_way(self, new: Queries, remembered: Queries, memory_score: Tensor) -> Queries:
        """New queries standing on a well scored remembered object get lower logits, so that the object keeps its id, and so do those on
        the object of a higher peak: few are left that find one object equally well, of which rounding would choose one.

        How well scored, how near and how much higher are gradual: an object at the border of any takes a part of the logits.
        """
        box, radius = new.box(), functional.embedding(new.logits_BQK.argmax(-1), self.radius_K[:, None])[..., 0]
        sure = presence_above(memory_score, memory_score.new_tensor(self.config.query.suppression_score), SUPPRESSION_SCORE)
        by_memory = (nearness(box, remembered.box(), radius) * sure[:, None]).amax(-1, keepdim=True)
        peak = new.logits_BQK.amax(-1)
        higher = ((peak[:, None] - peak[:, :, None]) * (1.0 / SUPPRESSION_LEAD)).clamp(0.0, 1.0) * new.presence_BQ[:, None]
        by_peaks = (nearness(box, box, radius) * higher).amax(-1, keepdim=True)
        return replace(new, logits_BQK=new.logits_BQK - SUPPRESSION_LOGIT * torch.maximum(by_memory, by_peaks))


def denoising_apart(denoising: DenoisingQueries, ordinary: int) -> Tensor:
    """(B, Q, Q) metres by which queries are farther apart: 0 where one may look at the other, `HIDDEN_M` where not.

    Ordinary queries (the first `ordinary`) do not see denoising ones, and those see their group.
    """
    group = torch.cat([torch.full_like(denoising.group_BM[:, :1], -1).expand(-1, ordinary), denoising.group_BM], dim=1)
    return torch.where(group[:, :, None] == group[:, None, :], 0.0, HIDDEN_M)


class Decoder(nn.Module):
    """Layers that refine the queries; each gives a complete answer and may be the last."""

    drives_K: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        q, classes = config.query, len(config.class_names)
        shape = (
            q.channels,
            q.heads,
            q.feedforward,
            q.points,
            len(config.backbone.levels),
            config.backbone.neck_channels,
            config.bev.channels,
        )
        self.layers = nn.ModuleList(Layer(*shape, memory=True) for _ in range(q.num_layers))
        self.codes = nn.ModuleList(_answer(q.channels, CODE_SIZE) for _ in range(q.num_layers))
        self.logits = nn.ModuleList(_answer(q.channels, classes) for _ in range(q.num_layers))
        self.quality = nn.ModuleList(_answer(q.channels, 1) for _ in range(q.num_layers))
        self.recollections = nn.ModuleList(Recollection(q.channels) for _ in range(q.num_layers))
        self.register_buffer("drives_K", drives_forward(config.class_names), persistent=False)

    def forward(
        self, queries: Queries, position: BoxPosition, apart_BQQ: Tensor | None, around: Surroundings, past: Recalled, num_layers: int
    ) -> tuple[Queries, list[LayerOutput]]:
        """The refined queries and what each of the first `num_layers` layers says."""
        outputs, less_BQQ = [], less_seen(queries.presence_BQ)
        absent = ABSENT_LOGIT * (queries.presence_BQ <= 0).float()[..., None]
        parts = list(zip(self.layers, self.codes, self.logits, self.quality, self.recollections, strict=True))
        for layer, to_code, to_logits, to_quality, recollect in parts[:num_layers]:
            box = queries.box().detach()
            tokens = layer(queries.embedding_BQC, position(box), box, apart_BQQ, around, less_BQQ)
            code = queries.code_BQR.detach() + to_code(tokens).float()
            logits = queries.logits_BQK + to_logits(tokens).float()
            queries = replace(queries, embedding_BQC=tokens, code_BQR=code, logits_BQK=logits)
            answer = recollect(tokens, code, queries.reference_BQ3, past)
            answer = facing_forward(answer, functional.embedding(logits.argmax(-1), self.drives_K[:, None])[..., 0])
            box, turn = decode_boxes(answer, queries.reference_BQ3), code[..., CODE_AXIS.start : CODE_FACING.stop]
            outputs.append(LayerOutput(logits - absent, box, to_quality(tokens).float()[..., 0], turn))
        return queries, outputs


def _answer(channels: int, size: int) -> nn.Sequential:
    """A small head that starts by saying zero, so that a layer starts by leaving its queries as they are."""
    last = nn.Linear(channels, size)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), last)


class BevTokens(nn.Module):
    """Coarse bird's-eye tokens through the same kind of layer: they look at each other and again at the pictures."""

    box_T9: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        q, bev = config.query, config.bev
        self.grid: BevGrid = config.grid.coarser(bev.token_stride)
        self.stride = bev.token_stride
        self.down = nn.Conv2d(bev.channels, q.channels, bev.token_stride, bev.token_stride)
        self.position = BoxPosition(q.channels)
        shape = (q.channels, q.heads, q.feedforward, q.points, len(config.backbone.levels), config.backbone.neck_channels, None)
        self.layers = nn.ModuleList(Layer(*shape, memory=True) for _ in range(bev.token_layers))
        self.up = nn.Conv2d(q.channels, bev.channels, 1)
        self.register_buffer("box_T9", self._boxes(), persistent=False)

    def _boxes(self) -> Tensor:
        """A resting box a token: its cell, three metres high."""
        reference = self.grid.references_ego().flatten(0, 1)
        rest = torch.tensor([self.grid.cell_m, self.grid.cell_m, 3.0, 0.0, 0.0, 0.0], device=reference.device).expand(len(reference), -1)
        return torch.cat([reference, rest], dim=-1)

    def forward(self, bev: Tensor, around: Surroundings) -> Tensor:
        """Features (B, C, X, Y), enriched."""
        tokens = self.down(bev).flatten(2).transpose(1, 2)
        box = self.box_T9[None].expand(bev.shape[0], -1, -1)
        position = self.position(box)
        for layer in self.layers:
            tokens = layer(tokens, position, box, None, around)
        coarse = self.up(tokens.transpose(1, 2).reshape(bev.shape[0], -1, *self.grid.shape))
        return bev + functional.interpolate(coarse, scale_factor=float(self.stride), mode="bilinear", align_corners=False)
