"""Does a run learn, stop, resume exactly, and does its checkpoint refuse to be misread?"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from fusion.config import BevConfig, ModelConfig
from fusion.grid import BevGrid
from fusion.model import Surround
from labeling.job import label_one
from labeling.settings import LabelSettings
from scenes.clips import Clip
from scenes.errors import ConfigError, DataError
from training.checkpoints import load_checkpoint, load_matching, read_checkpoint, save_checkpoint, strip_checkpoint
from training.command import parse
from training.command import train as train_command
from training.device import choose_device
from training.evaluate import evaluate
from training.recipes import RECIPES, TrainConfig
from training.streaming import predicted_occupancy, run_clip, stream_clip
from training.trainer import NonFiniteLoss, Trainer, learning_rate

REPOSITORY = Path(__file__).resolve().parent.parent


def small_model(model: ModelConfig) -> ModelConfig:
    """The same kind of network, shrunken to what a test can afford."""
    return replace(
        model,
        input_hw=(64, 96),
        grid=BevGrid(-16.0, -16.0, 2.0, 16, 16, (0.0, 1.0)),
        bev=replace(model.bev, channels=16, lift_channels=16, encoder_channels=16, encoder_blocks=1, memory_channels=8, token_stride=4),
        query=replace(model.query, channels=32, heads=2, feedforward=32, new_queries=12, memory_slots=6, num_layers=2, points=2),
        backbone=replace(model.backbone, name="mobilenet_v2", pretrained=None, neck_channels=16),
        occupancy=True,
    )


def small_config(clips: Path, out: Path, recipe: str = "nano", steps: int = 4) -> TrainConfig:
    """A run of a few steps on tiny clips."""
    base = RECIPES[recipe]()
    return replace(
        base,
        model=small_model(base.model),
        data=replace(base.data, folders=(clips,), batch=2, workers=0, walk_steps=3),
        optim=replace(base.optim, steps=steps, warmup_steps=1),
        run=replace(base.run, out=out, device="cpu", save_every=1, log_every=1, threads=1),
    )


def lines_of(out: Path) -> list[dict]:
    """The log of a run."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_trains_two_steps(recipe, tiny_clip_path, tmp_path):
    Trainer(small_config(tiny_clip_path, tmp_path / "run", recipe, steps=2)).run()
    assert [line["step"] for line in lines_of(tmp_path / "run")] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in lines_of(tmp_path / "run"))


def test_a_resumed_run_needs_its_pretrained_backbone_no_more(tiny_clip_path, tmp_path):
    weights = tmp_path / "mobilenet.pt"
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), weights)
    config = small_config(tiny_clip_path, tmp_path / "run", steps=2)
    config = replace(config, model=replace(config.model, backbone=replace(config.model.backbone, pretrained=str(weights))))
    Trainer(replace(config, run=replace(config.run, stop_after=1))).run()
    weights.unlink()
    trainer = Trainer(config)
    trainer.run()
    assert trainer.step == 2
    with pytest.raises(ConfigError, match="mobilenet"):
        Trainer(replace(config, run=replace(config.run, out=tmp_path / "anew")))


def test_networks_for_graphics_processors_start_from_imagenet():
    assert {name for name, make in RECIPES.items() if make().model.backbone.pretrained == "imagenet"} == {"edge", "base", "teacher"}


def test_a_stopped_run_continues_as_if_it_had_not_stopped(tiny_clip_path, tmp_path):
    whole = small_config(tiny_clip_path, tmp_path / "whole", steps=5)
    Trainer(whole).run()
    parts = replace(whole, run=replace(whole.run, out=tmp_path / "parts"))
    Trainer(replace(parts, run=replace(parts.run, stop_after=2))).run()
    Trainer(parts).run()
    one, two = (read_checkpoint(tmp_path / name)[1] for name in ("whole", "parts"))
    for group in ("weights",):
        for name, tensor in one[group].items():
            assert torch.equal(tensor, two[group][name]), name
    for name, tensor in one["run"]["streams"][0]["state"].items():
        assert torch.equal(tensor, two["run"]["streams"][0]["state"][name]), name
    losses = [[line["loss"] for line in lines_of(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1] and len(losses[0]) == 5
    with pytest.raises(ConfigError, match=r"optim\.lr was"):
        Trainer(replace(parts, optim=replace(parts.optim, lr=1e-5))).run()


def test_only_the_chosen_part_learns(tiny_clip_path, tmp_path):
    config = small_config(tiny_clip_path, tmp_path / "run", steps=3)
    save_checkpoint(tmp_path / "start.pt", Surround(config.model).state_dict(), config.model)
    config = replace(
        config,
        optim=replace(config.optim, only=r"^decoder\.(codes|quality)\.", ema=0.0),
        run=replace(config.run, init=str(tmp_path / "start.pt")),
    )
    Trainer(config).run()
    before, after = (read_checkpoint(path)[1]["weights"] for path in (tmp_path / "start.pt", tmp_path / "run"))
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"codes", "quality"}
    with pytest.raises(ConfigError, match=r"optim\.only: expected a part of the network such as .*decoder\.quality.*'nose'"):
        Trainer(replace(config, optim=replace(config.optim, only="nose")))


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{tests!r}, {repository!r}]
import torch
torch.set_num_threads(1)
from test_training_runs import small_config
from training.trainer import Trainer
if __name__ == "__main__":
    Trainer(small_config(Path({clips!r}), Path({out!r}), steps={steps})).run()
"""


def script_of(tmp_path: Path, clips: Path, out: Path, steps: int) -> Path:
    """A program that trains the small configuration, to be run in processes of its own."""
    path = tmp_path / f"train_{out.name}.py"
    path.write_text(SCRIPT.format(tests=str(REPOSITORY / "tests"), repository=str(REPOSITORY), clips=str(clips), out=str(out), steps=steps))
    return path


def test_killed_at_any_moment_it_ends_with_the_same_weights(tiny_clip_path, tmp_path):
    Trainer(small_config(tiny_clip_path, tmp_path / "whole", steps=6)).run()
    program = script_of(tmp_path, tiny_clip_path, tmp_path / "killed", 6)
    process = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "checkpoint.pt").is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    Trainer(small_config(tiny_clip_path, tmp_path / "killed", steps=6)).run()
    one, two = (read_checkpoint(tmp_path / name)[1]["weights"] for name in ("whole", "killed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_two_processes_train_together(tiny_clip_path, tmp_path):
    program = script_of(tmp_path, tiny_clip_path, tmp_path / "pair", 2)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    _, content = read_checkpoint(tmp_path / "pair")
    assert content["run"]["step"] == 2 and len(content["run"]["streams"]) == 2
    assert [line["step"] for line in lines_of(tmp_path / "pair")] == [1, 2]


def test_a_loss_that_is_not_finite_stops_in_words_and_keeps_the_batch(tiny_clip_path, tmp_path):
    trainer = Trainer(small_config(tiny_clip_path, tmp_path / "run"))
    with torch.no_grad():
        next(trainer.model.dense_head.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match=r"not finite.*bad_batch\.pt"):
        trainer.run()
    kept = torch.load(tmp_path / "run" / "bad_batch.pt", weights_only=True)
    assert kept["images_BNHW3"].shape[0] == 2


def saved_small_model(path: Path) -> Surround:
    """A small network with random weights, saved."""
    config = small_model(ModelConfig())
    model = Surround(config)
    save_checkpoint(path, model.state_dict(), config, {"name": "small"})
    return model


def test_checkpoints_come_back_and_half_is_nearly_the_same(tmp_path):
    model = saved_small_model(tmp_path / "a.pt")
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert not loaded.model.training and loaded.meta["name"] == "small" and loaded.class_names == model.config.class_names
    assert all(torch.equal(tensor, loaded.model.state_dict()[name]) for name, tensor in model.state_dict().items())
    strip_checkpoint(tmp_path / "a.pt", tmp_path / "half.pt", half=True)
    assert (tmp_path / "half.pt").stat().st_size < 0.6 * (tmp_path / "a.pt").stat().st_size
    half = load_checkpoint(tmp_path / "half.pt")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(half.model.state_dict()[name], tensor, rtol=2e-3, atol=1e-4)
    assert load_matching(Surround(model.config), tmp_path / "half.pt") == []


def test_corrupt_and_foreign_checkpoints_are_refused_in_words(tmp_path):
    saved_small_model(tmp_path / "good.pt")
    data = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    torch.save(BevConfig(), tmp_path / "code.pt")
    for name in ("cut", "text", "empty", "foreign", "code", "missing"):
        with pytest.raises(DataError) as caught:
            load_checkpoint(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_clip_is_streamed_with_and_without_memory(tiny_clip, tmp_path):
    saved_small_model(tmp_path / "a.pt")
    model = load_checkpoint(tmp_path / "a.pt").model
    layer = run_clip(model, tiny_clip, min_score=0.0)
    assert sorted(layer.boxes_world) == [0, 1, 2, 3] and layer.name == "model@nano"
    assert len(layer.boxes_world[2]) > 0 and np.isfinite(layer.boxes_world[2].box).all()
    alone = run_clip(model, tiny_clip, memory=False, min_score=0.0)
    only = run_clip(model, tiny_clip, frame_indices=[2], min_score=0.0)
    np.testing.assert_allclose(alone.boxes_world[2].box, only.boxes_world[2].box, atol=1e-4)
    occupancy = predicted_occupancy(next(stream_clip(model, tiny_clip)).output)
    assert occupancy.state.shape == (80, 80, 8)


def test_a_teacher_looks_without_the_pictures_that_cannot_be_read(tiny_clip_path, tmp_path):
    saved_small_model(tmp_path / "a.pt")
    settings = LabelSettings("auto@t", teacher=tmp_path / "a.pt", both_ways=False, pictures=False)
    first, *others = sorted((tiny_clip_path / "images").rglob("*.jpg"))
    first.write_bytes(first.read_bytes()[:200])
    notes = label_one(tiny_clip_path, settings).notes
    assert notes == [f"{tiny_clip_path}: 1 of {1 + len(others)} pictures could not be read, the teacher looked without them"]
    for picture in others:
        picture.unlink()
    assert "expected pictures to look at, got none of" in label_one(tiny_clip_path, settings).failure


def test_the_command_line_sets_any_field_and_refuses_the_rest(tmp_path, capsys):
    config = parse(
        ["nano", "--data", "a", "b", "--out", "r", "--optim.lr", "1e-4", "--data.layers", "human,truth", "--model.query.points", "3"]
    )
    assert config.data.folders == (Path("a"), Path("b")) and config.optim.lr == 1e-4 and config.run.out == Path("r")
    assert config.data.layer_names == ["human", "truth"] and config.model.query.points == 3
    with pytest.raises(ConfigError, match="no recipe 'huge'"):
        parse(["huge"])
    with pytest.raises(ConfigError, match=r"did you mean --optim\.lr"):
        parse(["nano", "--optim.lrr", "1"])
    with pytest.raises(ConfigError, match="--data DIR"):
        train_command(["nano"])
    with pytest.raises(DataError, match="folder of clips"):
        train_command(["nano", "--data", str(tmp_path / "nothing")])
    assert train_command(["--help"]) == 0 and "usage" in capsys.readouterr().out


def test_the_rate_warms_up_and_falls():
    config = RECIPES["nano"]()
    rates = [learning_rate(config, step) for step in range(config.optim.steps + 1)]
    assert rates[0] < rates[config.optim.warmup_steps - 1] == pytest.approx(config.optim.lr)
    assert rates[-1] == pytest.approx(config.optim.lr * config.optim.final_lr)


def test_eval_keeps_what_the_network_says_as_a_layer(tiny_clip_path, tmp_path, monkeypatch, capsys):
    saved_small_model(tmp_path / "a.pt")
    assert evaluate(str(tmp_path / "a.pt"), (tiny_clip_path,), keep=True) == 0
    clip = Clip.open(tiny_clip_path)
    assert clip.layer_names == ["model@small", "truth"]
    model = load_checkpoint(tmp_path / "a.pt").model
    np.testing.assert_allclose(clip.layer("model@small").boxes_world[3].box, run_clip(model, clip).boxes_world[3].box, atol=1e-6)
    with monkeypatch.context() as patch, pytest.raises(DataError, match="none of the 1 clips"):
        patch.setattr("training.evaluate.streamed_layer", lambda *_: pytest.fail("streamed for nothing"))
        evaluate(str(tmp_path / "a.pt"), (tiny_clip_path,), keep=True)  # the layer is there; nothing of it is lost
    assert "has a layer 'model@small' already" in capsys.readouterr().err
    assert evaluate(str(tmp_path / "a.pt"), (tiny_clip_path,), keep=True, overwrite=True) == 0
    with pytest.raises(ConfigError, match="--keep: 'truth' is a label layer"):
        evaluate("truth", (tiny_clip_path,), keep=True)


@pytest.mark.parametrize("name", ["cud", "cuda:x", "meta", "cuda:99", "cuda:01", "cuda:128"])
def test_a_device_that_is_none_is_refused_in_words(name, tiny_clip_path):
    with pytest.raises(ConfigError, match=r"--device: .*; (correct it|use cpu or auto)"):
        evaluate("nano", (tiny_clip_path,), device=name)
    assert choose_device("auto").type in ("cpu", "cuda")
    assert choose_device("cuda:99", elsewhere=True).index == 99


def test_each_process_takes_its_own_gpu(monkeypatch):
    for count, rank, expected in ((0, 1, "cpu"), (1, 1, "cuda:0"), (4, 3, "cuda:3")):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setattr("torch.cuda.device_count", lambda count=count: count)
        assert str(choose_device("auto")) == expected
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(ConfigError, match=r"process 4 .* there are 4; start as many"):
        choose_device("auto")
