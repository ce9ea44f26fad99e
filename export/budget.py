"""Which graph is the most accurate that fits a time budget? Candidates of layers, size and precision, and their table.

    surround4d export CHECKPOINT --also OTHER --input-sizes 64x192 --out car.onnx --budget-ms 80 --calibrate TRAINING --data CLIPS

Several checkpoints (other variants) and picture sizes may compete. On this machine the 90th percentile of the network's time is measured,
in many short turns, a candidate after the other, so that a machine's slow seconds fall on all alike, and once more for the chosen file. For
a device of `export.devices` that is not here the bound is estimated, and marked so.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from onnx import ModelProto
from rich.console import Console

from export.devices import DEVICES, Device, device_of
from export.lower import Judge, Samples, lowered
from export.manifest import manifest_path
from export.networks import load_network
from export.node_costs import bound_ms, node_costs
from export.onnx_graph import OPSET
from export.pareto import Candidate, table, write_report
from export.runner import OnnxNetwork
from export.synthetic import synthetic_steps
from export.write import verified_graph, write_graph
from scenes.atomic import atomic_file
from scenes.errors import ConfigError
from scenes.rigs import default_rig

Metric = Literal["mean_ap", "vehicle_ap_30m"]
HERE = "here"
EIGHT = 8
"""Cameras with which a graph for any number is timed."""
WARM_UP, TIMED = 3, 30
TURNS, TIMED_A_TURN = 12, 10
"""How often every candidate is timed, a candidate after the other, and for how many steps."""


@dataclass(frozen=True)
class BudgetSettings:
    """How candidates are made and compared."""

    clips: list[Path]
    """Accuracy is measured on them."""
    samples: Samples
    """Lower precisions are calibrated on them; their layer is also what accuracy is measured against."""
    device: str = HERE
    """"here" measures on this machine; a name of the roofline's table estimates."""
    metric: Metric = "mean_ap"
    """What is called accurate."""
    precisions: tuple[str, ...] = ()
    """Default: fp32 and int8-cpu here, fp16 and int8 on a device of the table."""
    threads: int | None = None
    """Threads of onnxruntime when measuring here; default all cores."""
    cpu_time: bool = False
    """Measure processor time instead of the clock's, on a machine that others use too; take one thread then."""
    sampler: str | None = None
    """Default: gather here, gridsample on a device of the table."""
    input_sizes: tuple[tuple[int, int], ...] = ()
    """Rows and columns of further picture sizes than the checkpoint's own, which always competes."""
    devices: Mapping[str, Device] = field(default_factory=lambda: DEVICES)
    """What `device` may name; the roofline's table, or that and a user's own."""
    num_cameras: int | None = None
    """Rows of the graphs; None: any number, timed with eight."""
    opset: int = OPSET
    """Operator set of the graphs."""
    steps: int = 5
    """Steps per rig of which each graph is compared with torch."""

    def __post_init__(self) -> None:
        if not self.clips:
            raise ConfigError("budget-ms: accuracy cannot be measured without clips; give some with --data")
        if self.device != HERE:
            device_of(self.device, self.devices)

    @property
    def asked_precisions(self) -> tuple[str, ...]:
        """With the default filled in."""
        return self.precisions or (("fp32", "int8-cpu") if self.device == HERE else ("fp16", "int8"))

    @property
    def asked_sampler(self) -> str:
        """With the default filled in."""
        return self.sampler or ("gather" if self.device == HERE else "gridsample")


def write_within_budget(checkpoints: list[str], out: Path, budget_ms: float, settings: BudgetSettings) -> Candidate:
    """Writes the most accurate graph whose step takes at most `budget_ms`, and the table it was chosen from.

    Raises:
        ConfigError: no clips, an unknown device, no budget at all, or too small a one (names the smallest reachable).
    """
    if not 0 < budget_ms < float("inf"):
        raise ConfigError(f"budget-ms: expected a time above zero, got {budget_ms:g}; correct it")
    console = Console(highlight=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        found = make_candidates(checkpoints, Path(folder), settings, console.print)
        best = write_choice(found, out, budget_ms, settings)
        console.print(table([entry for entry, _ in found], best, budget_ms))
    console.print(f"{out}: {best.name}")
    return best


def make_candidates(
    checkpoints: list[str], folder: Path, settings: BudgetSettings, progress: Callable[[str], None] = lambda text: None
) -> list[tuple[Candidate, Path]]:
    """Every checkpoint with every number of layers, picture size and precision: written to `folder`, measured, then all of them timed."""
    configs = {name: load_network(name).config for name in checkpoints}
    for config, size in product(configs.values(), settings.input_sizes):
        replace(config, input_hw=size)  # a size that the network cannot take is refused now, not after the first candidates
    found: list[tuple[Candidate, Path]] = []
    for name, config in configs.items():
        for layers in range(1, config.num_layers + 1):
            for size in (None, *(size for size in dict.fromkeys(settings.input_sizes) if size != config.input_hw)):
                network = load_network(name, layers, settings.asked_sampler, size)
                label = f"{network.name}-{layers}layers" + ("" if size is None else f"-{size[0]}x{size[1]}")
                proto, manifest, _ = verified_graph(network, folder / f"{label}.onnx", settings.num_cameras, settings.opset, settings.steps)
                judge = Judge(proto, manifest, settings.samples)
                for precision in settings.asked_precisions:
                    path = folder / f"{label}-{precision}.onnx"
                    graph, told = proto, manifest
                    if precision != "fp32":
                        graph, told = lowered(proto, manifest, precision, network, settings.samples, judge=judge)
                    told = write_graph(graph, told, path, settings.clips, settings.samples.against)
                    if settings.metric not in told.accuracy:
                        raise ConfigError(
                            f"budget-ms: no {settings.metric} can be measured, layer {settings.samples.against!r} of the clips holds no "
                            "such boxes; give other clips with --data"
                        )
                    accuracy, size_mb = float(told.accuracy[settings.metric]), path.stat().st_size / 1e6
                    entry = Candidate(path.stem, estimated_ms(graph, settings), settings.device != HERE, accuracy, size_mb)
                    found.append((entry, path))
                    estimate = f", at least {entry.latency_ms:.1f} ms" if entry.estimated else ""
                    progress(f"{path.stem}: {settings.metric} {accuracy:.4f}, {size_mb:.1f} MB{estimate}")
    if settings.device != HERE:
        return found
    progress(f"timing {len(found)} candidates in {TURNS} turns")
    times = measured_in_turns_ms([path for _, path in found], settings)
    return [(replace(entry, latency_ms=time_ms), path) for (entry, path), time_ms in zip(found, times, strict=True)]


def estimated_ms(graph: ModelProto, settings: BudgetSettings) -> float:
    """The bound on a device of the table; 0 for this machine, which is measured."""
    if settings.device == HERE:
        return 0.0
    return bound_ms(node_costs(graph, settings.num_cameras or EIGHT), device_of(settings.device, settings.devices))


def write_choice(found: list[tuple[Candidate, Path]], out: Path, budget_ms: float, settings: BudgetSettings) -> Candidate:
    """Copies the best candidate that fits to `out`, with the table and plot beside it.

    Where times are measured, the chosen one is timed again; if it was lucky before, the slower time counts (in `found` too) and the
    choice is made anew.
    """
    while True:
        best = choose([entry for entry, _ in found], budget_ms)
        index = next(i for i, (entry, _) in enumerate(found) if entry is best)
        path = found[index][1]
        again = 0.0 if best.estimated else measured_p90_ms(path, settings)
        if again <= budget_ms:
            break
        found[index] = (replace(best, latency_ms=again), path)
    write_report(out, [entry for entry, _ in found], best, budget_ms, settings.device, settings.metric)
    for source, target in ((path, out), (manifest_path(path), manifest_path(out))):
        with atomic_file(target) as temporary:
            temporary.write_bytes(source.read_bytes())
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


def measured_in_turns_ms(paths: Sequence[Path], settings: BudgetSettings) -> list[float]:
    """The 90th percentile of a step's time of every file, over all turns: none wins or loses by the second it was timed in."""
    turns = [[times_ms(path, settings, TIMED_A_TURN) for path in paths] for _ in range(TURNS)]
    return [float(np.percentile(np.concatenate(times), 90)) for times in zip(*turns, strict=True)]


def measured_p90_ms(path: Path, settings: BudgetSettings) -> float:
    """The 90th percentile of a step's time in a session of its own."""
    return float(np.percentile(times_ms(path, settings, TIMED), 90))


def times_ms(path: Path, settings: BudgetSettings, steps: int) -> np.ndarray:
    """(steps,) ms of single steps in a session of their own."""
    clock = time.process_time if settings.cpu_time else time.perf_counter
    return measure_ms(OnnxNetwork(path, threads=settings.threads), steps, clock)


def measure_ms(network: OnnxNetwork, steps: int = TIMED, clock: Callable[[], float] = time.perf_counter) -> np.ndarray:
    """(steps,) ms of single steps with eight cameras and carried state, after a warm-up."""
    rig = default_rig(*network.manifest.input_hw)
    count = network.manifest.num_cameras
    if count is not None and count < len(rig):
        rig = type(rig)(rig.cameras[:count])
    feeds = list(synthetic_steps(rig, _SizeOnly(network.manifest.input_hw), 4, 0, count))  # type: ignore[arg-type]
    state, times = network.empty_state(), []
    for index in range(WARM_UP + steps):
        start = clock()
        _, state = network(feeds[index % len(feeds)], state)
        times.append(1e3 * (clock() - start))
    return np.array(times[WARM_UP:])


@dataclass(frozen=True)
class _SizeOnly:
    """All that `synthetic_steps` reads of a config."""

    input_hw: tuple[int, int]
