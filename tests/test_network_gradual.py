"""Do choices stay continuous: does what stands at the border of a choice count nothing, and what stands well inside count in full?"""

from dataclasses import replace

import pytest
import torch

from fusion.config import nano
from fusion.gradual import attention_bias, best_with_weight, class_shares, ramp
from fusion.memory import Candidates, remember_objects
from fusion.objects import QuerySource

QUERY = replace(nano().query, memory_slots=3, keep_score=0.05, birth_score=0.25)


def test_a_ramp_by_hand():
    assert ramp(torch.tensor([-1.0, 0.0, 0.5, 2.0, 9.0]), 2.0).tolist() == [0.0, 0.0, 0.25, 1.0, 1.0]


def test_the_last_of_the_best_counts_as_far_as_it_is_above_the_first_left_out():
    index, weight = best_with_weight(torch.tensor([[0.0, 3.0, 1.0, 1.25, -2.0]]), 3, width=1.0)
    assert (index.tolist(), weight.tolist()) == ([[1, 3, 2]], [[1.0, 1.0, 1.0]])  # the first left out is 0
    index, weight = best_with_weight(torch.tensor([[0.0, 3.0, 1.0, 1.25, -2.0]]), 2, width=1.0)
    assert (index.tolist(), weight.tolist()) == ([[1, 3]], [[1.0, 0.25]])  # here it is 1


def test_a_key_of_half_weight_gets_half_the_attention_and_an_empty_one_none():
    shares = attention_bias(torch.tensor([1.0, 0.5, 0.0])).softmax(-1)
    assert shares.tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])


def test_class_shares_are_one_hot_except_where_two_classes_are_about_equal():
    assert class_shares(torch.tensor([2.0, 0.0])).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert class_shares(torch.tensor([2.0, 2.0])).tolist() == [0.5, 0.5]


def remembered(scores: list[float], ids: list[int] | None = None, distinct: list[float] | None = None) -> tuple[torch.Tensor, ...]:
    count = len(scores)
    candidates = Candidates(
        embedding_BQC=torch.ones(1, count, 2),
        box_BQ9=torch.arange(count).float()[None, :, None].expand(1, count, 9),
        score_BQ=torch.tensor([scores]),
        id_BQ=torch.tensor([ids or [-1] * count]),
        age_BQ=torch.zeros(1, count),
        speaks_BQ=torch.tensor([distinct or [1.0] * count]),
    )
    return remember_objects(candidates, torch.tensor([7]), QUERY.memory_slots, QUERY)


def test_a_twin_is_remembered_but_not_born():
    assert remembered([0.9, 0.5, 0.0, 0.0], ids=[3, -1, -1, -1], distinct=[1.0, 0.4, 1.0, 1.0])[3][0].tolist() == [3, -1, -1]


@pytest.fixture(scope="module")
def source() -> QuerySource:
    torch.manual_seed(0)
    return QuerySource(replace(nano(), query=replace(nano().query, new_queries=2))).eval()


def seeds(source: QuerySource, heat: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Cells that become queries, with their weights."""
    config = source.config
    shape = config.grid.shape
    heatmap = torch.full((1, len(config.class_names), *shape), -20.0)
    for (row, column), value in heat.items():
        heatmap[0, 0, row, column] = value
    queries = source.from_peaks(heatmap, torch.zeros(1, 10, *shape), torch.zeros(1, config.bev.channels, *shape))
    cells = ((queries.reference_BQ3[0, :, :2] - config.grid.min_x_m) / config.grid.cell_m).floor().int().tolist()
    return {(cell[0], cell[1]): weight for cell, weight in zip(cells, queries.valid_BQ[0].tolist(), strict=True)}


def test_peaks_become_queries_and_their_slopes_do_not(source: QuerySource):
    found = seeds(source, {(10, 10): 1.0, (10, 11): 0.0, (30, 30): -2.0})
    assert found == pytest.approx({(10, 10): 1.0, (30, 30): 1.0})


def test_a_peak_at_the_border_of_the_best_counts_little_whichever_it_is(source: QuerySource):
    first = seeds(source, {(10, 10): 1.0, (30, 30): -2.0, (50, 50): -2.001})
    assert first == pytest.approx({(10, 10): 1.0, (30, 30): 0.001}, abs=1e-4)  # by 0.001 of a ramp of 1
    second = seeds(source, {(10, 10): 1.0, (30, 30): -2.001, (50, 50): -2.0})
    assert second == pytest.approx({(10, 10): 1.0, (50, 50): 0.001}, abs=1e-4)
