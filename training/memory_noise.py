"""What if the memory were not perfect? The carried state, spoilt a little for training."""

from dataclasses import replace

import torch
from torch import Tensor

from fusion.interface import WorldState
from scenes.boxes import Box3D
from training.recipes import MemoryConfig


def spoil_memory(state: WorldState, config: MemoryConfig, generator: torch.Generator) -> tuple[WorldState, Tensor]:
    """The state with some objects forgotten and errors in the others, and (B, S) bool: which slots were kept.

    `generator` is one of the processor's: every device draws the same. Empty slots stay empty; the dense map is left alone.
    """

    def noise(like: Tensor, deviation: float) -> Tensor:
        return deviation * torch.randn(like.shape, generator=generator).to(like)

    kept = (torch.rand(state.score_BS.shape, generator=generator) >= config.forget).to(state.score_BS.device)
    filled = (kept & (state.score_BS > 0)).float()[..., None]
    error = torch.zeros_like(state.box_BS9)
    error[..., [Box3D.X, Box3D.Y]] = noise(error[..., :2], config.place_m)
    error[..., [Box3D.VX, Box3D.VY]] = noise(error[..., :2], config.velocity_mps)
    spoilt = replace(
        state,
        query_BSC=(state.query_BSC + noise(state.query_BSC, config.embedding)) * filled,
        box_BS9=(state.box_BS9 + error) * filled,
        score_BS=state.score_BS * kept,
        id_BS=torch.where(kept, state.id_BS, -1),
        age_BS=state.age_BS * kept,
    )
    return spoilt, kept
