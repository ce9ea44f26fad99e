"""The number that matters: how good is a `nano` trained on auto labels beside one trained on truth? Same clips, same steps, several seeds.

python -m benchmarks.auto_label_training --init-backbone WEIGHTS.pt     simulates clips new to the teacher, labels, trains, compares
python -m benchmarks.auto_label_training --data CLIPS --val CLIPS --layers auto@teacher auto@mine --steps 400

auto@teacher are the labels that a teacher network leads to, auto@cold those of a cold start from 2D rectangles as people would draw them
(`benchmarks.sim_cold`); any other layer has to be in the clips already. Labels, and runs that are finished, are kept and not made again.
Auto labels are boxes; the dense losses (depth, occupancy, flow) are therefore switched off for all runs alike, unless --dense.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.nano import compare
from benchmarks.sim_cold import write_drawn
from labeling.job import run_job
from labeling.settings import LabelSettings
from scenes.atomic import write_json
from scenes.clips import Clip, find_clips
from scenes.errors import DataError
from scenes.simulator.command import simulate
from training.checkpoints import load_checkpoint
from training.recipes import TrainConfig, nano
from training.trainer import Trainer

TRUTH = "truth"
TEACHER_LAYER, COLD_LAYER = "auto@teacher", "auto@cold"
DATA_SEED, VAL_SEED = 7000, 7900
"""Simulation seeds; the shipped networks were trained on seeds below 5000."""


def measure(
    data: tuple[Path, ...] = (),
    val: tuple[Path, ...] = (),
    layers: tuple[str, ...] = (TEACHER_LAYER, COLD_LAYER),
    teacher: Path = Path("nano"),
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 800,
    batch: int = 2,
    lr: float = 1e-3,
    init_backbone: Path | None = None,
    dense: bool = False,
    threads: int = 2,
    clips: int = 96,
    val_clips: int = 12,
    out: Path = Path("out/benchmarks/auto_label_training"),
) -> None:
    """Prints vehicle AP within 30 m (mean over 0.5, 1, 2, 4 m) of every run, and the ratios to the runs on truth.

    Args:
        data: Folders of clips with truth to train on; by default `clips` are simulated.
        val: Folders of clips with truth to measure on; by default `val_clips` are simulated.
        layers: Auto label layers; auto@teacher and auto@cold are made where a clip lacks them.
        teacher: Checkpoint of the teacher.
        seeds: Training seeds, each with every layer.
        steps: Optimiser steps of each run.
        batch: Streams.
        lr: Peak learning rate.
        init_backbone: ImageNet weights of the backbone; without them it starts at random.
        dense: Keep the losses on depth, voxels and flow, for layers that have them.
        threads: Torch threads.
        clips: Clips to simulate for training.
        val_clips: Clips to simulate for measuring.
        out: Runs, simulated clips and results.
    """
    console = Console(width=120)
    data = data or (_simulated(out / "data", clips, DATA_SEED),)
    val = val or (_simulated(out / "val", val_clips, VAL_SEED),)
    _label_missing(list(data), layers, teacher, out, console)
    results: dict[str, dict[int, float]] = {}
    for seed in seeds:
        for layer in (TRUTH, *layers):
            config = run_config(data, layer, seed, steps, batch, lr, init_backbone, dense, threads, out)
            results.setdefault(layer, {})[seed] = vehicle_ap(config, list(val), console)
    print_results(
        console, results, f"{len(find_clips(list(data)))} clips, {steps} steps of {batch}, dense losses {'on' if dense else 'off'}"
    )


def _simulated(folder: Path, clips: int, seed: int) -> Path:
    simulate(folder, clips=clips, seconds=5.0, seed=seed, size="96x256", workers=2)
    return folder


def _label_missing(data: list[Path], layers: tuple[str, ...], teacher: Path, out: Path, console: Console) -> None:
    paths = find_clips(data)
    for layer in layers:
        missing = [path for path in paths if layer not in Clip.open(path).layer_names]
        if missing and layer in (TEACHER_LAYER, COLD_LAYER):
            missing = _label(missing, layer, teacher, out, console)
        if missing:
            raise DataError(f"{missing[0]}: no label layer {layer!r} (and {len(missing) - 1} more clips); label them first")


def _label(paths: list[Path], layer: str, teacher: Path, out: Path, console: Console) -> list[Path]:
    """Labels the clips; returns those that failed."""
    if layer == TEACHER_LAYER:
        settings = LabelSettings(layer, teacher=teacher, pictures=False)
    else:
        settings = LabelSettings(layer, boxes2d=out / "drawn.json", pictures=False)
        console.print(f"{write_drawn(paths, out / 'drawn.json')} rectangles drawn")
    report = run_job(paths, settings, 1, console)
    return [Path(outcome.clip) for outcome in report.failures]


def run_config(
    data: tuple[Path, ...],
    layer: str,
    seed: int,
    steps: int,
    batch: int,
    lr: float,
    init_backbone: Path | None,
    dense: bool,
    threads: int,
    out: Path,
) -> TrainConfig:
    """The run of one layer and seed; nothing else differs between layers."""
    base = nano()
    if init_backbone is not None:
        backbone = replace(base.model.backbone, pretrained=str(init_backbone))
        base = replace(base, model=replace(base.model, backbone=backbone))
    loss = base.loss if dense else replace(base.loss, depth=0.0, occupancy=0.0, flow=0.0)
    name = f"{layer.replace('@', '_')}_{'dense_' if dense else ''}{steps}x{batch}_seed{seed}"
    return replace(
        base,
        data=replace(base.data, folders=data, layers=layer, batch=batch),
        optim=replace(base.optim, steps=steps, lr=lr, warmup_steps=min(100, steps // 4), ema=max(0.0, min(0.998, 1 - 8 / steps))),
        loss=loss,
        run=replace(base.run, out=out / "runs" / name, seed=seed, threads=threads),
    )


def vehicle_ap(config: TrainConfig, val: list[Path], console: Console) -> float:
    """Trains the run unless it is done, and measures it on the clips; kept in the run's folder."""
    kept = config.run.out / "vehicle_ap.json"
    if kept.is_file():
        return float(json.loads(kept.read_text())["vehicle_ap"])
    checkpoint = Trainer(config).run()
    vehicles = compare(load_checkpoint(checkpoint).model, find_clips(val), memory=True).vehicles["30 m"]
    write_json(kept, {"vehicle_ap": vehicles.mean_ap, "ap": {f"{d:g}": v for d, v in vehicles.ap.items()}, "recall": vehicles.recall})
    console.print(f"{config.run.out.name}: vehicle AP {vehicles.mean_ap:.3f}")
    return vehicles.mean_ap


def print_results(console: Console, results: dict[str, dict[int, float]], title: str) -> None:
    """One row a layer: AP of each seed, mean, and the ratio of the means with the spread of the seeds' own ratios."""
    truth = results[TRUTH]
    table = Table("trained on", *(f"seed {seed}" for seed in truth), "mean AP", "ratio to truth", "ratio of each seed", title=title)
    for layer, by_seed in results.items():
        values = np.array(list(by_seed.values()))
        ratios = values / np.maximum(np.array([truth[seed] for seed in by_seed]), 1e-9)
        ratio = values.mean() / max(float(np.mean(list(truth.values()))), 1e-9)
        cells = (*(f"{v:.3f}" for v in values), f"{values.mean():.3f}", f"{ratio:.3f}", " ".join(f"{r:.2f}" for r in ratios))
        table.add_row(layer, *cells)
    console.print(table)


if __name__ == "__main__":
    tyro.cli(measure)
