"""Does rounding decide who gets the last place? Presence by hand, and peaks that are nearly equal."""

import pytest
import torch

from fusion.grid import BevGrid
from fusion.layer import Attention
from fusion.objects import SUPPRESSION_LOGIT, SUPPRESSION_SCORE, QuerySource
from fusion.presence import less_seen, presence_above, presence_logit
from tests.test_network_model import SMALL

PLACES = SMALL.query.new_queries


def test_presence_grows_evenly_from_nothing_to_all() -> None:
    values = torch.tensor([[0.1, 0.2, 0.25, 0.3, 5.0]])
    assert presence_above(values, torch.tensor([[0.2]]), 0.1).tolist()[0] == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_absent_key_has_no_weight_and_a_half_present_one_an_eighth(dtype: torch.dtype) -> None:
    weight = presence_logit(torch.tensor([1.0, 0.5, 0.0], dtype=dtype)).softmax(-1)
    assert weight.tolist() == pytest.approx([8 / 9, 1 / 9, 0.0], abs=1e-3)
    alone = presence_logit(torch.zeros(3, dtype=dtype)).softmax(-1)
    assert alone.tolist() == pytest.approx([1 / 3] * 3, abs=1e-3)  # nobody is there: finite


def test_attention_to_absent_keys_is_attention_without_them() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2)
    query, keys = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    less = -presence_logit(torch.tensor([[1.0, 1.0, 0.0, 1.0, 0.0]]))[:, None]
    assert torch.allclose(attention(query, keys, keys, less), attention(query, keys[:, [0, 1, 3]], keys[:, [0, 1, 3]], None), atol=1e-6)


def test_everybody_sees_itself_in_full() -> None:
    less = less_seen(torch.tensor([[1.0, 0.0, 0.5]]))[0]
    assert less.diagonal().tolist() == [0.0] * 3
    assert less[0, 1] > 40 and less[0, 2].item() == pytest.approx(3 * 0.6931, abs=1e-3) and less[1, 0] == 0


def peaks(*, last: float, spare: float, twin: float = -9.0) -> dict[tuple[float, float], tuple[float, float]]:
    """Presence and largest logit of the queries by place, of a heatmap of three strong peaks (one with a twin beside it), weaker ones
    for all places but one, a candidate for the last place and a spare one."""
    torch.manual_seed(0)
    heat = torch.full((1, 10, 20, 20), -10.0)
    places = [(x, y) for x in range(1, 19, 3) for y in range(1, 19, 3)]
    logits = [2.0] * 3 + [0.0] * (PLACES - 4) + [last, spare]
    for (x, y), logit in zip(places, logits, strict=False):
        heat[0, 0, x, y] = logit
    heat[0, 0, places[0][0], places[0][1] + 1] = twin
    queries = QuerySource(SMALL).from_peaks(heat, torch.zeros(1, 10, 20, 20), torch.zeros(1, SMALL.bev.channels, 20, 20))
    rows = zip(queries.reference_BQ3[0, :, :2].tolist(), queries.presence_BQ[0], queries.logits_BQK[0].amax(-1), strict=True)
    return {(x, y): (presence.item(), logit.item()) for (x, y), presence, logit in rows}


def test_the_last_place_hardly_counts_whoever_has_it() -> None:
    one, other = peaks(last=-1.0, spare=-1.000001), peaks(last=-1.000001, spare=-1.0)
    (mine,), (yours,) = set(one) - set(other), set(other) - set(one)
    assert one[mine][0] < 1e-5 and other[yours][0] < 1e-5
    for place in set(one) & set(other):
        assert one[place] == pytest.approx(other[place], abs=1e-5)


def test_which_of_two_neighbours_is_the_peak_does_not_depend_on_rounding() -> None:
    one, other = peaks(last=-1.0, spare=-4.0, twin=2.0 - 1e-6), peaks(last=-1.0, spare=-4.0, twin=2.0 + 1e-6)
    assert set(one) == set(other)
    for place, (presence, _) in one.items():
        assert other[place][0] == pytest.approx(presence, abs=1e-4)
    strong = [presence for presence, logit in one.values() if logit > 1.9]
    assert strong == [1.0] * 4  # the twin is a query too
    assert len([logit for _, logit in peaks(last=-1.0, spare=-4.0, twin=1.0).values() if logit > 0.5]) == 3  # clearly lower: no peak


@pytest.mark.parametrize(
    ("apart_share", "over", "taken"),
    [(0.9, 1.0, 1.0), (0.9, 0.5, 0.5), (0.9, -0.1, 0.0), (1.0488, 1.0, 0.5), (1.1, 1.0, 0.0), (1.0488, 0.5, 0.25)],
)
def test_how_far_a_new_query_gives_way_is_gradual_in_place_and_score(apart_share: float, over: float, taken: float) -> None:
    torch.manual_seed(0)
    source, motion = QuerySource(SMALL), torch.zeros(1, 5)
    radius_m = SMALL.query.suppression_radius_m[0]
    embedding, box = torch.randn(1, 1, SMALL.query.channels), torch.tensor([[[3.0, 4.0, 0.8, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0]]])
    score = torch.full((1, 1), SMALL.query.suppression_score + over * SUPPRESSION_SCORE)
    remembered = source.from_memory(embedding, box, score, motion)
    new = source.from_memory(embedding, box + torch.tensor([apart_share * radius_m] + [0.0] * 8), torch.ones(1, 1), motion)
    new.logits_BQK[..., 0] = 9.0  # surely of the first class
    less = new.logits_BQK - source.give_way(new, remembered, score).logits_BQK
    assert less.flatten().tolist() == pytest.approx([taken * SUPPRESSION_LOGIT] * less.numel(), abs=0.02)


@pytest.mark.parametrize(
    ("apart_share", "lead", "presence", "taken"),
    [(0.9, 2.0, 1.0, 1.0), (0.9, 0.5, 1.0, 0.5), (0.9, 2.0, 0.25, 0.25), (1.0488, 2.0, 1.0, 0.5), (1.1, 2.0, 1.0, 0.0)],
)
def test_how_far_a_peak_gives_way_to_a_higher_one_is_gradual_in_place_lead_and_presence(apart_share, lead, presence, taken) -> None:
    torch.manual_seed(0)
    source, motion = QuerySource(SMALL), torch.zeros(1, 5)
    radius_m = SMALL.query.suppression_radius_m[0]
    box = torch.tensor([[[3.0, 4.0, 0.8, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0]]]).repeat(1, 2, 1)
    box[0, 1, 0] += apart_share * radius_m
    nobody = source.from_memory(torch.randn(1, 1, SMALL.query.channels), box[:, :1], torch.zeros(1, 1), motion)
    new = source.from_memory(torch.randn(1, 2, SMALL.query.channels), box, torch.ones(1, 2), motion)
    new.logits_BQK[..., 0] = torch.tensor([9.0 + lead, 9.0])
    new.presence_BQ[0, 0] = presence
    less = new.logits_BQK - source.give_way(new, nobody, torch.zeros(1, 1)).logits_BQK
    assert less[0, 0].abs().max() == 0.0  # the higher one gives nothing
    assert less[0, 1].tolist() == pytest.approx([taken * SUPPRESSION_LOGIT] * less.shape[-1], abs=0.02)


def test_what_leaves_the_grid_fades_over_its_last_cell() -> None:
    grid = BevGrid(-16.0, -8.0, 2.0, 16, 8)
    x, y = torch.tensor([0.0, 13.9, 15.0, 0.0, 15.5, 17.0]), torch.tensor([0.0, 0.0, 0.0, -7.5, 7.0, 0.0])
    assert grid.contains(x, y).tolist() == pytest.approx([1.0, 1.0, 0.5, 0.25, 0.25, 0.0])
