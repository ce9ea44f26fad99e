"""Is a spoilt memory spoilt as much as was asked for, and in nothing else?"""

from dataclasses import replace

import torch

from fusion.interface import WorldState
from training.memory_noise import spoil_memory
from training.recipes import MemoryConfig

CLEAN = MemoryConfig(forget=0.0, place_m=0.0, velocity_mps=0.0, embedding=0.0)


def full_state(slots: int = 2000, empty: int = 500) -> WorldState:
    """One clip's memory; the last `empty` slots hold nothing."""
    score = torch.full((1, slots), 0.7)
    score[:, slots - empty :] = 0
    filled = (score > 0).float()
    return WorldState(
        valid_B=torch.ones(1),
        query_BSC=torch.ones(1, slots, 8) * filled[..., None],
        box_BS9=torch.ones(1, slots, 9) * filled[..., None],
        score_BS=score,
        id_BS=torch.where(score > 0, torch.arange(slots)[None], -1),
        age_BS=2.0 * filled,
        next_id_B=torch.tensor([slots]),
        bev_BMCXY=torch.ones(1, 1, 2, 4, 4),
        bev_age_BM=torch.zeros(1, 1),
    )


def spoil(config: MemoryConfig, seed: int = 0) -> tuple[WorldState, torch.Tensor]:
    return spoil_memory(full_state(), config, torch.Generator().manual_seed(seed))


def test_a_clean_memory_stays_what_it_was() -> None:
    spoilt, kept = spoil(CLEAN)
    assert kept.all()
    assert all(torch.equal(value, full_state().tensors()[name]) for name, value in spoilt.tensors().items())


def test_a_tenth_is_forgotten_wholly() -> None:
    spoilt, kept = spoil(replace(CLEAN, forget=0.1))
    assert 0.07 < 1 - kept.float().mean() < 0.13
    gone = ~kept[0]
    assert (spoilt.score_BS[0, gone] == 0).all() and (spoilt.id_BS[0, gone] == -1).all()
    assert (spoilt.box_BS9[0, gone] == 0).all() and (spoilt.query_BSC[0, gone] == 0).all() and (spoilt.age_BS[0, gone] == 0).all()
    assert (spoilt.score_BS[0, :1500][kept[0, :1500]] == torch.tensor(0.7)).all()


def test_errors_are_as_large_as_asked_and_touch_only_what_is_there() -> None:
    spoilt, _ = spoil(MemoryConfig(forget=0.0, place_m=0.5, velocity_mps=0.2, embedding=0.05))
    change = spoilt.box_BS9[0] - full_state().box_BS9[0]
    deviation = change[:1500].std(0)
    assert torch.allclose(deviation[[0, 1, 7, 8]], torch.tensor([0.5, 0.5, 0.2, 0.2]), rtol=0.1)
    assert (deviation[2:7] == 0).all() and (change[1500:] == 0).all() and (spoilt.query_BSC[0, 1500:] == 0).all()
    assert abs(float((spoilt.query_BSC[0, :1500] - 1).std()) - 0.05) < 0.005
    assert torch.equal(spoilt.bev_BMCXY, full_state().bev_BMCXY)
