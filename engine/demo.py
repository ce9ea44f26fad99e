"""What does one turn of the data engine look like? Simulate, train, evaluate, label, export, run, and report it all.

The demonstration types the same commands that a user types (it prints each before it runs it), then reads what they wrote.
"""

import json
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from scenes.atomic import read_json
from scenes.clips import Clip, find_clips
from scenes.errors import SurroundError
from scenes.report import Curve, Report, smooth
from scenes.show.draw import bev_view, camera_sheet, occupancy_view

console = Console()


@dataclass
class Journey:
    """Where the demonstration stands: its folder, what it has typed, how long each command took."""

    out: Path
    commands: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def type(self, *arguments: object) -> None:
        """Runs one command of the command line in this process; a failure stops the demonstration."""
        from surround4d import main

        words = [str(argument) for argument in arguments]
        self.commands.append("surround4d " + " ".join(words))
        console.print(f"\n[bold cyan]$ {self.commands[-1]}[/]", soft_wrap=True)
        start = time.monotonic()
        status = main(words)
        self.seconds.append(time.monotonic() - start)
        if status != 0:
            raise SurroundError(f"demo: `{self.commands[-1]}` ended with status {status}; see its message above")

    def evaluate(self, what: object, data: Path, name: str) -> None:
        """Types `eval` of a checkpoint or layer against the truth; the figures go to `<name>.json`."""
        self.type("eval", what, "--data", data, "--against", "truth", "--json", self.out / f"{name}.json")


def demo(
    out: Path = Path("out/demo"),
    scenario: str = "parking",
    train_clips: int = 24,
    val_clips: int = 5,
    seconds: float = 8.0,
    steps: int = 300,
    size: str = "96x256",
    seed: int = 7000,
    checkpoint: str = "nano",
) -> None:
    """Once round the data engine on simulated clips, some minutes on two cores; ends with a table and a report.

    The network is weak in one kind of scene: more of it is collected, it trains on that, and is measured there and elsewhere.

    Args:
        out: Folder of everything the demonstration makes; what is there already is used again.
        scenario: The kind of scene to get better at.
        train_clips: Simulated clips of that kind to learn from.
        val_clips: Clips of that kind, and as many of all kinds, to measure on; other seeds.
        seconds: Length of each clip.
        steps: Training steps.
        size: Rows x columns of the simulated pictures.
        seed: Seed of the simulation; the shipped checkpoint never saw seeds from 5000 on.
        checkpoint: What training starts from: a shipped name or a file.
    """
    started = time.monotonic()
    journey = Journey(out)
    train, val, run, onnx = out / "train", out / "val", out / "run", out / "nano.onnx"
    there, elsewhere = val / scenario, val / "mixed"
    common = ("--seconds", seconds, "--size", size, "--workers", 2)
    journey.type("sim", train, "--clips", train_clips, "--seed", seed, "--scenario", scenario, *common)
    journey.type("sim", there, "--clips", val_clips, "--seed", seed + 1000, "--scenario", scenario, *common)
    journey.type("sim", elsewhere, "--clips", val_clips, "--seed", seed + 2000, *common)
    journey.type("check", val)
    journey.evaluate(checkpoint, there, "before")
    journey.evaluate(checkpoint, elsewhere, "before_elsewhere")
    journey.type("train", "nano", "--data", train, "--out", run, "--init", checkpoint, "--optim.steps", steps, "--optim.lr", 4e-4)
    journey.evaluate(run, there, "after")
    journey.evaluate(run, elsewhere, "after_elsewhere")
    journey.type("label", val, "--teacher", run, "--layer", "auto@demo")
    journey.evaluate("auto@demo", val, "labels")
    journey.type("export", run, "--out", onnx)
    journey.type("run", onnx, val, "--layer", "model@onnx", "--overwrite")
    journey.evaluate("model@onnx", val, "onnx")
    rows = summary_rows(journey, scenario)
    rows.append(("whole demonstration", f"{time.monotonic() - started:.0f} s", f"peak memory {peak_memory_gb():.1f} GB a process"))
    page = write_report(journey, rows, (there, elsewhere), run)
    print_table(rows)
    console.print(f"report: [bold]{page}[/]")


def peak_memory_gb() -> float:
    """The largest resident size so far of this process or any finished child."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1e6


def print_table(rows: Sequence[tuple[str, str, str]]) -> None:
    """The closing table on the terminal."""
    table = Table("what", "figure", "remark", title="Once round the data engine")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def vehicle_figures(path: Path) -> dict[str, float]:
    """Vehicle AP within 30 m and its companions from a JSON file of `surround4d eval`; NaN where not defined."""
    vehicles = read_json(path)["vehicles"]["30 m"]
    names = ("mean_ap", "recall", "best_f1", "velocity_error_mps")
    return {name: float("nan") if vehicles[name] is None else float(vehicles[name]) for name in names}


def summary_rows(journey: Journey, scenario: str) -> list[tuple[str, str, str]]:
    """What, figure, remark: read from what the commands wrote."""
    out = journey.out
    names = ("before", "after", "before_elsewhere", "after_elsewhere", "labels", "onnx")
    before, after, before_elsewhere, after_elsewhere, labels, onnx = (vehicle_figures(out / f"{name}.json") for name in names)
    first, last = loss_ends(out / "run" / "log.jsonl")
    verification = read_json(out / "nano.onnx.json")["verification"]
    rows = [
        (
            f"vehicle AP within 30 m, {scenario}",
            _arrow(before, after, "mean_ap"),
            f"held-out clips; training loss {first:.2f} -> {last:.2f}",
        ),
        (f"velocity error in m/s, {scenario}", _arrow(before, after, "velocity_error_mps"), "moving vehicles, matched within 2 m"),
        ("vehicle AP, scenes of all kinds", _arrow(before_elsewhere, after_elsewhere, "mean_ap"), "what it does elsewhere"),
        ("auto-labels, vehicle AP", f"{labels['mean_ap']:.3f}", f"both sets; best F1 {labels['best_f1']:.3f}; past and future"),
        ("ONNX graph in onnxruntime, vehicle AP", f"{onnx['mean_ap']:.3f}", "both sets; the exported file over the same clips"),
    ]
    rows.append(("ONNX against torch", f"{verification['max_relative_error']:.1e}", "largest relative error over rigs and carried steps"))
    return rows


def _arrow(before: dict[str, float], after: dict[str, float], name: str) -> str:
    return f"{before[name]:.3f} -> {after[name]:.3f}"


def read_log(path: Path) -> list[dict]:
    """The lines of a run's log that hold a loss."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [line for line in lines if "loss" in line]


def loss_ends(path: Path) -> tuple[float, float]:
    """Median loss of the first and of the last fifth of a run's log."""
    losses = [line["loss"] for line in read_log(path)]
    fifth = max(1, len(losses) // 5)
    return float(np.median(losses[:fifth])), float(np.median(losses[-fifth:]))


def write_report(journey: Journey, rows: Sequence[tuple[str, str, str]], val: tuple[Path, Path], run: Path) -> Path:
    """The self-contained page `report.html`."""
    report = Report("Surround4D: once round the data engine")
    report.text("Eight simulated cameras, one 4D world; every figure below was measured by the commands on this page.")
    report.table(("what", "figure", "remark"), rows)
    report.heading("What the network sees")
    for folder in val:
        add_scene(report, folder)
    report.heading("How it learned")
    add_curves(report, run)
    report.heading("Voxels")
    add_voxels(report, val[0], run)
    report.heading("What was typed")
    report.commands([f"{line}    # {spent:.0f} s" for line, spent in zip(journey.commands, journey.seconds, strict=True)])
    return report.save(journey.out / "report.html")


def add_scene(report: Report, folder: Path, score: float = 0.3) -> None:
    """For the first clip: all cameras and the view from above with network boxes, auto-labels and truth."""
    clip = Clip.open(find_clips(folder)[0])
    middle = len(clip) // 2
    found, labels, truth = clip.layer("model@onnx"), clip.layer("auto@demo"), clip.layer("truth")
    found.boxes_world = {i: boxes.select(boxes.score >= score) for i, boxes in found.boxes_world.items()}
    weather = f"{clip.info.get('scenario', '')}, {clip.info.get('weather', '')}"
    report.picture(camera_sheet(clip, middle, [found]), f"{clip.name} ({weather}): boxes of the ONNX graph with score >= {score}")
    above = np.concatenate([bev_view(clip, middle, [truth, found]), bev_view(clip, middle, [truth, labels])], axis=1)
    report.picture(above, f"{clip.name} from above, truth with the ONNX graph's boxes (left) and with the auto-labels (right)")


def add_curves(report: Report, run: Path) -> None:
    """Loss and its parts over the steps."""
    log = read_log(run / "log.jsonl")
    steps = [line["step"] for line in log]
    report.curves([Curve("loss", steps, smooth([line["loss"] for line in log], 5))], "total training loss", "step", "loss")
    parts = [name for name in ("heatmap", "dense_box", "box1", "depth", "occupancy") if log and name in log[0]]
    curves = [Curve(name, steps, smooth([line.get(name, float("nan")) for line in log], 5)) for name in parts]
    report.curves(curves, "its parts", "step", "loss")


def add_voxels(report: Report, val: Path, run: Path) -> None:
    """Predicted and true voxels of one frame side by side."""
    from training.checkpoints import load_checkpoint
    from training.streaming import predicted_occupancy, stream_clip

    clip = Clip.open(find_clips(val)[0])
    middle = len(clip) // 2
    true = clip.layer("truth").occupancy(middle)
    predicted = None
    for step in stream_clip(load_checkpoint(run).model, clip, range(middle + 1)):
        predicted = predicted_occupancy(step.output)
    if true is None or predicted is None:
        report.text("This network or these clips have no voxels.")
        return
    pair = np.concatenate([occupancy_view(predicted), occupancy_view(true)], axis=1)
    report.picture(pair, f"{clip.name}: predicted voxels (left) and true ones (right)")
