"""Which graph is the most accurate that fits a time budget? Candidates of layers and precision, measured or estimated, and their table.

    surround4d export CHECKPOINT --also OTHER --out car.onnx --budget-ms 80 --data CLIPS --against truth

Several checkpoints (other sizes or variants) may compete. On this machine the 90th percentile of the network's time is measured;
for a device of `export.roofline` that is not here the bound is estimated, and marked so.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from onnx import ModelProto
from rich.console import Console
from rich.table import Table

from export.command import calibration_drives, lowered, verified_graph, write_graph
from export.manifest import manifest_path
from export.networks import load_network
from export.roofline import DEVICES, bound_ms, device_of, node_costs
from export.runner import OnnxNetwork
from export.synthetic import synthetic_steps
from scenes.atomic import atomic_file, write_json
from scenes.errors import ConfigError
from scenes.rigs import default_rig

Metric = Literal["mean_ap", "vehicle_ap_30m"]
HERE = "here"
WARM_UP, TIMED = 3, 30


@dataclass(frozen=True)
class Candidate:
    """One graph that could be deployed."""

    name: str
    latency_ms: float
    """p90 measured, or the roofline bound."""
    estimated: bool
    accuracy: float
    """Vehicle AP within 30 m or mean AP on the clips, as asked."""
    megabytes: float


def write_within_budget(
    checkpoints: list[str],
    out: Path,
    budget_ms: float,
    clips: list[Path],
    against: str = "truth",
    device: str = HERE,
    metric: Metric = "mean_ap",
    precisions: tuple[str, ...] = ("fp32", "int8"),
    threads: int | None = None,
    sampler: str | None = None,
) -> Candidate:
    """Writes the most accurate graph whose step with eight cameras takes at most `budget_ms`, and the table it was chosen from.

    Args:
        clips: Measure accuracy against their layer `against` and calibrate int8.
        device: "here" measures on this machine; a name of the roofline's table estimates.
        metric: What is called accurate.
        threads: Threads of onnxruntime when measuring here.

    Raises:
        ConfigError: no clips, an unknown device, or too small a budget (names the smallest reachable).
    """
    if not clips:
        raise ConfigError("budget-ms: accuracy cannot be measured without clips; give some with --data")
    if device != HERE:
        device_of(device, DEVICES)
    console = Console(highlight=False)
    found: list[tuple[Candidate, Path]] = []
    folder = out.parent / f".{out.name}.candidates"
    try:
        for name in checkpoints:
            for layers in range(1, load_network(name).config.num_layers + 1):
                network = load_network(name, layers, sampler)
                proto, manifest, _ = verified_graph(network, out)
                for precision in precisions:
                    graph, told = proto, manifest
                    if precision != "fp32":
                        graph, told = lowered(proto, manifest, precision, calibration_drives(network, manifest, clips))
                    path = folder / f"{network.name}-{layers}layers-{precision}.onnx"
                    told = write_graph(graph, told, path, clips, against)
                    latency = _latency_ms(path, graph, device, threads)
                    candidate = Candidate(path.stem, latency, device != HERE, float(told.accuracy[metric]), path.stat().st_size / 1e6)
                    found.append((candidate, path))
                    console.print(f"{candidate.name}: {latency:.1f} ms, {metric} {candidate.accuracy:.4f}")
        best = choose([entry for entry, _ in found], budget_ms)
        path = next(p for entry, p in found if entry is best)
        write_report(out, [entry for entry, _ in found], best, budget_ms, device, metric)
        with atomic_file(out) as temporary:
            temporary.write_bytes(path.read_bytes())
        manifest_path(path).replace(manifest_path(out))
    finally:
        for leftover in folder.glob("*"):
            leftover.unlink()
        if folder.is_dir():
            folder.rmdir()
    console.print(table([entry for entry, _ in found], best, budget_ms))
    console.print(f"{out}: {best.name}")
    return best


def choose(candidates: list[Candidate], budget_ms: float) -> Candidate:
    """The most accurate within the budget (the faster of equals); too small a budget is refused with the smallest reachable one."""
    fitting = [candidate for candidate in candidates if candidate.latency_ms <= budget_ms]
    if not fitting:
        fastest = min(candidates, key=lambda candidate: candidate.latency_ms)
        raise ConfigError(
            f"budget of {budget_ms:g} ms: no candidate fits, the smallest reachable is {fastest.latency_ms:.1f} ms ({fastest.name}); "
            "raise it or give a smaller checkpoint"
        )
    return max(fitting, key=lambda candidate: (candidate.accuracy, -candidate.latency_ms))


def _latency_ms(path: Path, graph: ModelProto, device: str, threads: int | None) -> float:
    if device != HERE:
        return bound_ms(node_costs(graph, 8), device_of(device, DEVICES))
    return float(np.percentile(measure_ms(OnnxNetwork(path, threads=threads)), 90))


def measure_ms(network: OnnxNetwork, steps: int = TIMED) -> np.ndarray:
    """(steps,) ms of single steps with eight cameras and carried state, after a warm-up."""
    rig = default_rig(*network.manifest.input_hw)
    count = network.manifest.num_cameras
    if count is not None and count < len(rig):
        rig = type(rig)(rig.cameras[:count])
    feeds = list(synthetic_steps(rig, _SizeOnly(network.manifest.input_hw), 4, 0, count))  # type: ignore[arg-type]
    state, times = network.empty_state(), []
    for index in range(WARM_UP + steps):
        start = time.perf_counter()
        _, state = network(feeds[index % len(feeds)], state)
        times.append(1e3 * (time.perf_counter() - start))
    return np.array(times[WARM_UP:])


@dataclass(frozen=True)
class _SizeOnly:
    """All that `synthetic_steps` reads of a config."""

    input_hw: tuple[int, int]


def is_pareto(candidate: Candidate, others: list[Candidate]) -> bool:
    """Nothing is both faster and more accurate."""
    return not any(
        o.latency_ms <= candidate.latency_ms
        and o.accuracy >= candidate.accuracy
        and (o.latency_ms, o.accuracy) != (candidate.latency_ms, candidate.accuracy)
        for o in others
    )


def table(candidates: list[Candidate], best: Candidate, budget_ms: float) -> Table:
    """All candidates for people, fastest first."""
    result = Table("candidate", "ms", "accuracy", "MB", "Pareto", "", title=f"budget {budget_ms:g} ms")
    for entry in sorted(candidates, key=lambda c: c.latency_ms):
        mark = "chosen" if entry is best else ("too slow" if entry.latency_ms > budget_ms else "")
        latency = f"{entry.latency_ms:.1f}{' (estimate)' if entry.estimated else ''}"
        result.add_row(
            entry.name, latency, f"{entry.accuracy:.4f}", f"{entry.megabytes:.1f}", "*" if is_pareto(entry, candidates) else "", mark
        )
    return result


def write_report(out: Path, candidates: list[Candidate], best: Candidate, budget_ms: float, device: str, metric: str) -> None:
    """The table as JSON and the plot as PNG beside `out`."""
    values = [{**asdict(entry), "pareto": is_pareto(entry, candidates)} for entry in candidates]
    report = {"budget_ms": budget_ms, "device": device, "metric": metric, "chosen": best.name, "candidates": values}
    write_json(Path(f"{out}.pareto.json"), report)
    with atomic_file(Path(f"{out}.pareto.png")) as temporary:
        cv2.imwrite(str(temporary), pareto_plot(candidates, best, budget_ms, device, metric))


def pareto_plot(candidates: list[Candidate], best: Candidate, budget_ms: float, device: str, metric: str) -> np.ndarray:
    """(420, 640, 3) uint8 BGR: time to the right, accuracy upwards, the budget as a line, the chosen one ringed."""
    height, width, margin = 420, 640, 60
    image = np.full((height, width, 3), 255, np.uint8)
    most_ms = 1.15 * max(budget_ms, *(c.latency_ms for c in candidates))
    most = max(1e-6, 1.15 * max(c.accuracy for c in candidates))
    grey, black, font = (170, 170, 170), (40, 40, 40), cv2.FONT_HERSHEY_SIMPLEX

    def place(ms: float, accuracy: float) -> tuple[int, int]:
        right, up = (width - 2 * margin) * ms / most_ms, (height - 2 * margin) * accuracy / most
        return round(margin + right), round(height - margin - up)

    cv2.rectangle(image, place(0, most), place(most_ms, 0), grey, 1)
    cv2.line(image, place(budget_ms, 0), place(budget_ms, most), (60, 60, 220), 1, cv2.LINE_AA)
    cv2.putText(image, f"budget {budget_ms:g} ms", place(budget_ms, most), font, 0.42, (60, 60, 220), 1, cv2.LINE_AA)
    for entry in candidates:
        point = place(entry.latency_ms, entry.accuracy)
        cv2.circle(image, point, 4, (200, 120, 30) if is_pareto(entry, candidates) else grey, -1, cv2.LINE_AA)
        if entry is best:
            cv2.circle(image, point, 9, (60, 160, 60), 2, cv2.LINE_AA)
        cv2.putText(image, entry.name, (point[0] + 8, point[1] - 6), font, 0.38, black, 1, cv2.LINE_AA)
    told = f"{metric} (0..{most:.2f}) over ms of one step (0..{most_ms:.0f}) on {device}"
    cv2.putText(image, told + (", ESTIMATE" if best.estimated else ""), (margin, height - 20), font, 0.45, black, 1, cv2.LINE_AA)
    return image
