"""Is the right query asked for the right box, and is every part of the loss finite and zero when it should be?"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion.boxcode import CODE_AXIS, CODE_FACING
from fusion.config import ModelConfig
from fusion.grid import BevGrid
from fusion.interface import LayerOutput, StepOutput
from fusion.memory import empty_state
from scenes.boxes import CLASS_NAMES, Boxes
from scenes.layers import OCCUPANCY_UNKNOWN
from training.losses import (
    dense_box_loss,
    depth_loss,
    draw_denoising,
    heatmap_loss,
    heatmap_targets,
    inside_ignored,
    query_losses,
    step_losses,
)
from training.matching import code_of, code_weights, match, matching_cost, track_bonus, tracks_of_slots
from training.recipes import LossConfig, nano
from training.targets import FrameTargets, StepTargets

GRID = BevGrid(-8.0, -8.0, 1.0, 16, 16)
CONFIG = LossConfig()


def make_targets(boxes: list[list[float]], classes: list[int], ignored=(), labelled=True) -> StepTargets:
    """Targets of one clip on a small grid; tracks count from 100."""
    target = FrameTargets(
        labelled,
        Boxes.make(np.array(boxes).reshape(-1, 9), classes, track_id=np.arange(len(classes)) + 100),
        np.array(ignored).reshape(-1, 9),
        np.zeros((1, 4, 4), np.float32),
        np.full((4, 4, 2), OCCUPANCY_UNKNOWN, np.uint8),
        np.zeros((2, 4, 4, 2), np.float32),
    )
    return FrameTargets.stack([target])


CAR = [3.2, -1.4, 0.8, 4.0, 2.0, 1.5, 0.5, 2.0, 1.0]
PERSON = [-4.0, 5.0, 0.9, 0.6, 0.6, 1.8, -3.0, float("nan"), float("nan")]


def layer_of(box: torch.Tensor, classes: list[int], sure: float = 6.0) -> LayerOutput:
    """A layer that says `classes` with certainty for boxes (Q, 9); class -1 is background."""
    logits = torch.full((1, len(box), 10), -sure)
    for query, class_id in enumerate(classes):
        if class_id >= 0:
            logits[0, query, class_id] = sure
    turn = code_of(box[None])[..., CODE_AXIS.start : CODE_FACING.stop].clone().requires_grad_()
    return LayerOutput(logits.requires_grad_(), box[None].clone().requires_grad_(), torch.zeros(1, len(box), requires_grad=True), turn)


def test_each_box_gets_its_query():
    targets = make_targets([CAR, PERSON], [0, 5])
    boxes = torch.nan_to_num(targets.box_BM9[0]).flip(0)
    layer = layer_of(torch.cat([torch.zeros(1, 9) + 1, boxes]), [-1, 5, 0])
    pairs = match(matching_cost(layer, targets, code_weights(0.5, 1, 1), 0.25), targets.valid_BM)
    assert sorted(zip(pairs.query_P.tolist(), pairs.target_P.tolist(), strict=True)) == [(1, 1), (2, 0)]


def test_no_targets_no_pairs():
    targets = make_targets([], [])
    layer = layer_of(torch.ones(3, 9), [-1, -1, -1])
    assert len(match(matching_cost(layer, targets, code_weights(0.5, 1, 1), 0.25), targets.valid_BM)) == 0
    parts = query_losses(layer, targets, CLASS_NAMES, CONFIG, None)
    assert parts["box"] == 0 and parts["quality"] == 0 and parts["class"] < 1e-3
    torch.stack(list(parts.values())).sum().backward()
    assert torch.isfinite(layer.logits_BQK.grad).all()


def test_a_remembered_object_keeps_its_track():
    targets = make_targets([CAR], [0])
    box = torch.nan_to_num(targets.box_BM9[0])
    layer = layer_of(torch.cat([box, box + 0.2]), [0, 0])
    cost = matching_cost(layer, targets, code_weights(0.5, 1, 1), 0.25)
    assert match(cost, targets.valid_BM).query_P.tolist() == [0]
    bonus = track_bonus(torch.tensor([[100]]), targets, 2, 2.0)  # one slot, the last query
    assert match(cost, targets.valid_BM, bonus).query_P.tolist() == [1]
    assert (track_bonus(torch.tensor([[-1]]), targets, 2, 2.0) == 0).all()


def test_what_is_being_forgotten_stands_for_no_track():
    config = nano().model
    targets = make_targets([[5.0, 0, 1, 4, 2, 1.5, 0, 0, 0], [9.0, 0, 1, 4, 2, 1.5, 0, 0, 0]], [0, 0])
    state = empty_state(1, config.query, config.grid, config.bev.memory_maps, config.bev.memory_channels, "cpu")
    keep = config.query.keep_score
    state.box_BS9[0, :2], state.score_BS[0, :2] = targets.box_BM9[0], torch.tensor([keep, 0.99 * keep])
    assert tracks_of_slots(state, targets, keep)[0].tolist() == [int(targets.track_BM[0, 0])] + [-1] * (config.query.memory_slots - 1)


def test_a_perfect_answer_costs_next_to_nothing():
    targets = make_targets([CAR, PERSON], [0, 5])
    parts = query_losses(layer_of(torch.nan_to_num(targets.box_BM9[0]), [0, 5], 12.0), targets, CLASS_NAMES, CONFIG, None)
    assert parts["class"] < 1e-4 and parts["box"] < 1e-4
    assert parts["facing"].item() == pytest.approx(CONFIG.facing * np.log(1 + np.exp(-3.0)), rel=1e-4)  # a unit vector is a logit of 3


def turned_layer(turn_rad: float) -> LayerOutput:
    """The car, its heading said wrong by `turn_rad`."""
    box = torch.tensor([CAR])
    box[0, 6] += turn_rad
    return layer_of(box, [0], 12.0)


def test_half_a_turn_costs_facing_alone_and_pulls_at_facing_alone():
    layer = turned_layer(np.pi)
    parts = query_losses(layer, make_targets([CAR], [0]), CLASS_NAMES, CONFIG, None)
    assert parts["box"] < 1e-4
    assert parts["facing"].item() == pytest.approx(CONFIG.facing * np.log(1 + np.exp(3.0)), rel=1e-4)
    (parts["box"] + parts["facing"]).backward()
    assert layer.turn_BQ4.grad is not None
    pull = -layer.turn_BQ4.grad[0, 0, 2:]
    assert torch.allclose(pull / pull.norm(), torch.tensor([np.sin(0.5), np.cos(0.5)]).float(), atol=1e-4)  # straight towards the truth


@pytest.mark.parametrize("wrong_rad", [np.pi / 2, -np.pi / 2, 0.7, -2.0])
def test_no_wrong_axis_is_a_resting_point(wrong_rad: float):
    layer = turned_layer(wrong_rad)
    query_losses(layer, make_targets([CAR], [0]), CLASS_NAMES, CONFIG, None)["box"].backward()
    truth = torch.tensor([np.sin(1.0), np.cos(1.0)]).float()
    assert layer.turn_BQ4.grad is not None
    step = layer.turn_BQ4.detach()[0, 0, :2] - 0.1 * layer.turn_BQ4.grad[0, 0, :2].sign()
    assert (step - truth).norm() < (layer.turn_BQ4.detach()[0, 0, :2] - truth).norm()


def test_cones_have_no_front():
    box = torch.tensor([CAR])
    assert query_losses(layer_of(box, [8]), make_targets([CAR], [8]), CLASS_NAMES, CONFIG, None)["facing"] == 0


def test_ignored_regions_and_unlabelled_frames_are_no_background():
    box = torch.tensor([CAR])
    wrong = layer_of(box, [0])
    assert query_losses(wrong, make_targets([], []), CLASS_NAMES, CONFIG, None)["class"] > 1
    assert query_losses(wrong, make_targets([], [], ignored=[CAR]), CLASS_NAMES, CONFIG, None)["class"] == 0
    assert query_losses(wrong, make_targets([], [], labelled=False), CLASS_NAMES, CONFIG, None)["class"] == 0
    points = torch.tensor([[[3.2, -1.4], [7.5, 5.0]]])
    assert inside_ignored(points, make_targets([], [], ignored=[CAR])).tolist() == [[True, False]]


def test_the_heatmap_peaks_at_the_centre_cell():
    heat = heatmap_targets(make_targets([CAR], [0]), GRID, 10)
    assert heat[0, 0, 11, 6] == 1 and heat.sum() == heat[0, 0].sum()  # x 3.2 is cell 11, y -1.4 is cell 6
    assert 0 < heat[0, 0, 12, 6] < 1
    good = torch.where(heat == 1, 12.0, -12.0)
    ones = torch.ones(1, 1, 16, 16)
    assert heatmap_loss(good, heat, ones) < 1e-3 < heatmap_loss(-good, heat, ones)


def test_dense_boxes_are_read_at_the_cells():
    targets = make_targets([CAR, PERSON], [0, 5])
    codes, model = torch.zeros(1, 12, 16, 16, requires_grad=True), replace(ModelConfig(), grid=GRID)
    dense_box_loss(codes, targets, model, CONFIG).backward()
    touched = codes.grad[0].abs().sum(0) > 0
    assert touched.sum() == 18 and touched[11, 6] and touched[4, 13]
    assert dense_box_loss(codes, make_targets([], []), model, CONFIG) == 0


def test_depth_lies_between_two_bins():
    depth = ModelConfig().depth
    logits = torch.zeros(1, 1, depth.bins, 2, 2)
    truth = torch.tensor([[[[0.0, 10.0], [10.0, 0.0]]]])
    flat = depth_loss(logits, truth, torch.ones(1, 1), depth)
    assert flat == pytest.approx(np.log(depth.bins), rel=1e-4)
    place = np.log(10 / depth.min_m) / np.log(depth.max_m / depth.min_m) * (depth.bins - 1)
    logits[:, :, int(place)] = logits[:, :, int(place) + 1] = 20
    assert depth_loss(logits, truth, torch.ones(1, 1), depth) == pytest.approx(np.log(2), abs=1e-3)
    assert depth_loss(logits, truth, torch.zeros(1, 1), depth) == 0


def test_an_empty_batch_has_a_finite_loss():
    model = replace(ModelConfig(), grid=GRID)
    layer = layer_of(torch.ones(4, 9), [-1] * 4)
    output = StepOutput(
        [layer],
        0,
        torch.zeros(1, 10, 16, 16, requires_grad=True),
        torch.zeros(1, 12, 16, 16, requires_grad=True),
        torch.zeros(1, 13, 4, 4, 2, requires_grad=True),
        torch.zeros(1, 2, 4, 4, 2, requires_grad=True),
        torch.zeros(1, 1, 32, 4, 4, requires_grad=True),
        {},
    )
    from fusion.interface import StepInput

    inputs = StepInput(*([torch.ones(1, 1)] * 10))
    parts = step_losses(output, inputs, make_targets([], []), model, CONFIG)
    total = torch.stack(list(parts.values())).sum()
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(output.heatmap_BKXY.grad).all()


def test_denoising_repeats_the_targets():
    targets = make_targets([CAR, PERSON], [0, 5])
    queries = draw_denoising(targets, replace(CONFIG, denoising_groups=3), 10, torch.Generator().manual_seed(0))
    assert queries.box_BM9.shape == (1, 6, 9) and torch.isfinite(queries.box_BM9).all()
    assert queries.group_BM.tolist() == [[0, 0, 1, 1, 2, 2]]
    assert (queries.box_BM9[0, :, :3] - torch.nan_to_num(targets.box_BM9[0].repeat(3, 1))[:, :3]).abs().max() < 2.5
    assert draw_denoising(targets, replace(CONFIG, denoising=0.0), 10, torch.Generator()) is None


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_denoising_queries_may_be_shown_the_wrong_way_round(share: float):
    targets = make_targets([CAR], [0])
    queries = draw_denoising(targets, replace(CONFIG, denoising_groups=8, denoising_turned=share), 10, torch.Generator().manual_seed(0))
    assert queries is not None
    off = torch.cos(queries.box_BM9[0, :, 6] - CAR[6])  # noise is at most half a radian
    assert (off < -0.8).all() if share else (off > 0.8).all()


def test_nonsense_settings_are_refused():
    from scenes.errors import ConfigError

    with pytest.raises(ConfigError, match=r"loss\.box"):
        LossConfig(box=-1.0)
    with pytest.raises(ConfigError, match="learning rate"):
        replace(nano().optim, lr=3.0)
