"""How does the past reach the present? Ego motion applied to what `WorldState` holds, and the next state made from a step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fusion.config import QueryConfig
from fusion.grid import BevGrid
from fusion.interface import WorldState
from fusion.sampling import sample_plane


def empty_state(batch: int, query: QueryConfig, grid: BevGrid, maps: int, channels: int, device: torch.device | str) -> WorldState:
    """The state that starts clips: nothing remembered."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(batch, *shape, device=device)

    slots = query.memory_slots
    return WorldState(
        valid_B=zeros(),
        query_BSC=zeros(slots, query.channels),
        box_BS9=zeros(slots, 9),
        score_BS=zeros(slots),
        id_BS=torch.full((batch, slots), -1, dtype=torch.int64, device=device),
        age_BS=zeros(slots),
        next_id_B=torch.zeros(batch, dtype=torch.int64, device=device),
        bev_BMCXY=zeros(maps, channels, *grid.shape),
        bev_age_BM=zeros(maps) - 1.0,
    )


def forget_invalid(state: WorldState) -> WorldState:
    """The state with everything but the maps of clips whose `valid_B` is 0 emptied, whatever it held (NaN too)."""
    valid = state.valid_B > 0.5

    def kept(value: Tensor, empty: float) -> Tensor:
        mask = valid.reshape(-1, *([1] * (value.dim() - 1)))
        return torch.where(mask, value, torch.full_like(value, empty))

    return WorldState(
        valid_B=valid.float(),
        query_BSC=kept(state.query_BSC, 0.0),
        box_BS9=kept(state.box_BS9, 0.0).float(),
        score_BS=kept(state.score_BS, 0.0).float(),
        id_BS=kept(state.id_BS, -1),
        age_BS=kept(state.age_BS, 0.0).float(),
        next_id_B=kept(state.next_id_B, 0),
        bev_BMCXY=state.bev_BMCXY,  # large: `warp_maps` forgets it where it looks it up
        bev_age_BM=kept(state.bev_age_BM, -1.0).float(),
    )


def move_boxes(box: Tensor, prev_from_ego_B44: Tensor, dt_B: Tensor) -> Tensor:
    """Boxes (B, S, 9) of the previous ego frame, moved on by their own velocity and expressed in the present ego frame."""
    rotation = prev_from_ego_B44[:, :3, :3].float()
    translation = prev_from_ego_B44[:, :3, 3].float()
    dt = dt_B.float()[:, None, None]
    center_prev = torch.cat([box[..., 0:2] + box[..., 7:9] * dt, box[..., 2:3]], dim=-1) - translation[:, None]
    center = _turned(center_prev, rotation)
    heading = torch.stack([torch.cos(box[..., 6]), torch.sin(box[..., 6]), torch.zeros_like(box[..., 6])], dim=-1)
    heading = _turned(heading, rotation)
    velocity = _turned(torch.cat([box[..., 7:9], torch.zeros_like(box[..., :1])], dim=-1), rotation)
    yaw = torch.atan2(heading[..., 1:2], heading[..., 0:1])
    return torch.cat([center, box[..., 3:6], yaw, velocity[..., :2]], dim=-1)


def _turned(vectors: Tensor, rotation: Tensor) -> Tensor:
    """Rows of (B, S, 3) times R: the inverse rotation applied, as plain arithmetic (stays float32 under autocast)."""
    return (vectors[..., :, None] * rotation[:, None]).sum(-2)


def warp_maps(
    state: WorldState, prev_from_ego_B44: Tensor, dt_B: Tensor, grid: BevGrid, centers_XY2: Tensor, sampler: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Past maps (B, M, C, X, Y) seen from the present ego frame, and (B, M, 2, X, Y): where they are known, and their age there.

    The maps of clips whose `valid_B` is 0 are unknown and empty, whatever they hold.
    """
    batch, maps, channels = state.bev_BMCXY.shape[:3]
    matrix = prev_from_ego_B44.float()[:, :, :, None, None]
    x, y = centers_XY2[..., 0], centers_XY2[..., 1]
    moved_x, moved_y = (matrix[:, row, 0] * x + matrix[:, row, 1] * y + matrix[:, row, 3] for row in (0, 1))
    column, row = grid.pixels(moved_x, moved_y)  # B X Y
    warped = sample_plane(state.bev_BMCXY.flatten(1, 2), column, row, sampler, state.valid_B)
    half_x, half_y = grid.cells_x / 2, grid.cells_y / 2
    inside = (((row - (half_x - 0.5)).abs() < half_x) & ((column - (half_y - 0.5)).abs() < half_y)).float()
    age = state.bev_age_BM + dt_B.float()[:, None]
    known = (state.bev_age_BM >= 0).float()[..., None, None] * inside[:, None]
    warped = warped.reshape(batch, maps, channels, *grid.shape) * known[:, :, None].to(warped.dtype)
    return warped, torch.stack([known, known * age[..., None, None]], dim=2)


def push_maps(state: WorldState, warped: Tensor, newest: Tensor, dt_B: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and ages of the next state: the newest first, the oldest dropped; all in the present ego frame."""
    age = torch.where(state.bev_age_BM >= 0, state.bev_age_BM + dt_B.float()[:, None], state.bev_age_BM)
    kept = warped.to(newest.dtype)[:, :-1]
    maps = torch.cat([newest[:, None], kept], dim=1) if kept.shape[1] else newest[:, None]
    ages = torch.cat([torch.zeros_like(age[:, :1]), age], dim=1)[:, : age.shape[1]]
    return maps, ages


@dataclass
class Candidates:
    """Everything that may be remembered after a step: Q queries with their final answers."""

    embedding_BQC: Tensor
    box_BQ9: Tensor
    score_BQ: Tensor
    """float32; 0 where there is no query."""
    id_BQ: Tensor
    age_BQ: Tensor


def remember_objects(candidates: Candidates, next_id_B: Tensor, slots: int, query: QueryConfig) -> tuple[Tensor, ...]:
    """The S best candidates as (query, box, score, id, age, next_id, index): known ids stay, well scored new objects get the next ones.

    Below `keep_score` an object has no id, nobody sees it any more (`QuerySource.from_memory`), and its score falls to zero at half of
    that: it leaves the memory gradually, so that rounding does not decide whether it is there.
    """
    score, index = candidates.score_BQ.topk(slots, dim=1)
    alive = score >= query.keep_score
    score = torch.minimum(score, (2.0 * score - query.keep_score).clamp(min=0.0))

    def pick(value: Tensor) -> Tensor:
        at = index.reshape(*index.shape, *([1] * (value.dim() - 2))).expand(-1, -1, *value.shape[2:])
        return value.gather(1, at)

    ids = pick(candidates.id_BQ)
    newborn = alive & (ids < 0) & (score >= query.birth_score)
    rank = newborn.long().cumsum(1) - 1
    ids = torch.where(newborn, next_id_B[:, None] + rank, ids)
    ids = torch.where(alive, ids, torch.full_like(ids, -1))
    mask = score[..., None] > 0
    return (
        torch.where(mask, pick(candidates.embedding_BQC), torch.zeros((), device=score.device, dtype=candidates.embedding_BQC.dtype)),
        torch.where(mask, pick(candidates.box_BQ9), torch.zeros((), device=score.device)),
        score,
        ids,
        torch.where(alive, pick(candidates.age_BQ), torch.zeros_like(score)),
        next_id_B + newborn.long().sum(1),
        index,
    )
