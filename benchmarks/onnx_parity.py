"""Does onnxruntime compute what torch computes? Several rigs, carried state, both samplers, the graph as a whole and in two parts.

    python -m benchmarks.onnx_parity               # issue 2: one file, rigs of 5, 6 and 8 cameras (5 and 8 with a fisheye), 5 steps
    python -m benchmarks.onnx_parity --drive 200   # issue 4: a simulated drive of 200 steps on three rigs, four graphs (twelve minutes)
    python -m benchmarks.onnx_parity --drive 200 --against auto   # beside torch as it samples pictures by itself, which rounds otherwise
    python -m benchmarks.onnx_parity --drive 200 --rig 8 --folder kept --minutes 4   # one rig, in parts: called again, it goes on
    python -m benchmarks.onnx_parity --drive 200 --double   # the same in double precision, in which ties do not decide (an hour)
    python -m benchmarks.onnx_parity --drive 200 --laps 4   # 50 steps of road, there and back twice with one memory: does it drift?

All take the shipped nano (random:nano where none ships) or --checkpoint. Each side lives with its own memory from the first step to the
last, nothing is ever set right; with --forgive-ties a step that ties decide (`export.verify`) is counted, and both go on from torch's
state; with --same-memory they do so after every step; --laps (`benchmarks.parity_laps`) does all three, or --same-memory alone. With
--double network and graphs compute in float64 (`benchmarks.double_graph`): if two memories part in float32, is it rounding or the graph?

Exit status 1 if any relative error exceeds 1e-3 in any step, an operator lies outside the default domain, or the last quarter of a drive
is worse than the first and than the same quarter begun with an empty memory (and above `NO_DRIFT`); with --laps if, from the same memory
or step by step, a step exceeds 1e-3 or a later lap is a tenth above the first one that saw the same pictures (step by step, with six
laps and more: the mean of all laps and drives, `benchmarks.parity_laps.lap_verdict`).
"""

import pickle
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.double_graph import InDouble, doubled, export_double, in_double
from benchmarks.kept_graphs import is_current, mark, origin
from benchmarks.parity_laps import APART, SAME, lap_steps, lap_verdict
from export.accuracy import clip_steps
from export.comparison import Comparison, Verification
from export.lint import lint
from export.networks import SAMPLERS, LoadedNetwork, load_network
from export.onnx_graph import StepGraph, export_model, read_manifest
from export.run import open_network
from export.runner import OnnxNetwork, SplitNetwork
from export.synthetic import synthetic_steps, verification_rigs
from export.verify import TOLERANCE, SideBySide, compare_drive
from export.write import write_parts
from scenes.atomic import atomic_file
from scenes.clips import Clip
from scenes.errors import ConfigError
from scenes.simulator.config import SimulationConfig
from scenes.simulator.simulate import simulate_clip
from training.checkpoints import SHIPPED

CONSOLE = Console(highlight=False, width=170)
HZ = 10.0
GRAPHS = {5: ["gridsample, whole", "gather, split"], 6: ["gridsample, whole", "gather, split"], 8: ["gridsample, split", "gather, whole"]}
"""Which graphs drive with how many cameras: both samplers with every rig, all four graphs in total."""
NO_DRIFT = 1e-9
"""A median below this is not drift, however it stands to another: differences of 1e-13 go up and down as roundings fall."""
WAYS = {"same": SAME, "forgiven": "step by step", "apart": APART}
"""How both sides come to their memory."""


def parity(
    checkpoint: str = "",
    steps: int = 5,
    drive: int = 0,
    sampler: Literal["gridsample", "gather"] = "gridsample",
    layers: int | None = None,
    seed: int = 9100,
    rig: tuple[int, ...] = (5, 6, 8),
    graph: tuple[str, ...] = (),
    folder: Path | None = None,
    minutes: float = 0.0,
    forgive_ties: bool = False,
    same_memory: bool = False,
    laps: int = 0,
    double: bool = False,
    against: Literal["same", "auto"] = "same",
) -> int:
    """Exports, then streams every rig through torch and through the files.

    Args:
        checkpoint: Default: the shipped nano, or random:nano.
        steps: Steps per rig of the synthetic drives.
        drive: Steps of a simulated drive instead, for both samplers and for whole and split graphs; 0 for the synthetic ones.
        sampler: How the graph of the synthetic drives samples images.
        layers: Decoder layers kept.
        seed: Of the simulated drive.
        rig: Numbers of cameras of the rigs that drive.
        graph: Graphs of the simulated drive, such as "gather, split"; default: two a rig, all four in total.
        folder: Where graphs, simulated drive and unfinished work are kept and looked for; default: nowhere.
        forgive_ties: After a step that ties decide, both sides of a simulated drive go on from torch's state.
        same_memory: After every step both sides of a simulated drive go on from torch's state: what one step costs, and nothing else.
        laps: The simulated drive is so many laps of drive / laps steps, there and back: from the same memory, step by step (forgiving
            ties), and then each side left to itself.
        double: The simulated drive in double precision, in network, graphs and memory.
        against: How torch samples pictures beside a graph of the simulated drive: as the graph does, or as torch does by itself on a
            processor, which rounds otherwise.
        minutes: Stop after as long, exit status 2; the next call with the same folder goes on from the same bits. 0 for never.
    """
    if double and not drive:
        raise ConfigError("double: the synthetic drives are compared in float32 alone; add --drive 200")
    name = checkpoint or shipped_or_random()
    with TemporaryDirectory() as text:
        kept = folder or Path(text)
        kept.mkdir(parents=True, exist_ok=True)
        if drive:
            return long_drive(
                name, layers, kept, drive, seed, rig, graph, deadline(minutes), forgive_ties, same_memory, laps, double, against
            )
        network = load_network(name, layers, sampler)
        path = exported(network, kept / f"{sampler}.onnx")
        comparisons = []
        for number, cameras in enumerate(verification_rigs(network.config.input_hw)):
            if len(cameras) not in rig:
                continue
            comparisons.append(Comparison())
            fisheyes = sum(camera.lens.value == "fisheye" for camera in cameras.cameras)
            inputs = synthetic_steps(cameras, network.config, steps, number)
            told = f"{len(cameras)} cameras, {fisheyes} fisheye"
            compare_drive(StepGraph(network.model).eval(), [OnnxNetwork(path, threads=1)], comparisons[-1:], inputs, told)
        return verdict([(f"{sampler}, whole", comparison.found, None) for comparison in comparisons])


def exported(network: LoadedNetwork, path: Path, double: bool = False) -> Path:
    """Writes the graph and prints what it is made of."""
    start = time.perf_counter()
    if not is_current(path, network.model):
        write = export_double if double else export_model
        write(network.model, network.config, path)
        mark(path, network.model)
    seconds = time.perf_counter() - start
    proto = onnx.load(str(path))
    manifest = read_manifest(proto, str(path))
    linted = "double, not linted" if double else f"lint: {len(lint(proto))} findings"
    domains = sorted({node.domain or "default" for node in proto.graph.node})
    CONSOLE.print(
        f"{network.name}, sampler {manifest.sampler}, {manifest.num_layers} layers: opset {manifest.opset}, operator domains {domains}, "
        f"{len(proto.graph.node)} nodes of {len(Counter(n.op_type for n in proto.graph.node))} kinds, "
        f"{path.stat().st_size / 1e6:.1f} MB, ready after {seconds:.0f} s; {linted}; "
        f"weights {manifest.hashes['weights_sha256'][:12]}"
    )
    if domains != ["default"]:
        raise SystemExit("an operator lies outside the default domain")
    return path


def long_drive(
    name: str,
    layers: int | None,
    folder: Path,
    steps: int,
    seed: int,
    rigs: tuple[int, ...],
    graph: tuple[str, ...],
    until: float,
    forgive: bool,
    same: bool,
    laps: int = 0,
    double: bool = False,
    against: str = "same",
) -> int:
    """One simulated drive at 10 Hz on three sets of its cameras: two to four graphs, and torch beside each sampler's."""
    if laps and (laps < 3 or steps % laps):
        raise ConfigError(f"laps {laps}: expected three or more that divide the {steps} steps of the drive; correct --laps or --drive")
    kind = "_double" if double else ""
    graphs: dict[str, OnnxNetwork | SplitNetwork] = {}
    references: dict[str, StepGraph] = {}
    for sampler in SAMPLERS:
        network = load_network(name, layers, sampler)
        path = exported(network, folder / f"{sampler}{kind}.onnx", double)
        graphs[f"{sampler}, whole"], graphs[f"{sampler}, split"] = whole_and_split(path)
        model = network.model if against == "same" else load_network(name, layers, "auto").model
        beside = StepGraph(doubled(model) if double else model).eval()
        references |= {f"{sampler}, whole": beside, f"{sampler}, split": beside}
    size_hw, made = network.config.input_hw, origin(network.model) + kind
    frames = steps // laps + 1 if laps else steps
    clip, found = simulated(folder, seed, frames, size_hw), []
    way = "same" if same else "forgiven" if forgive else "apart"
    ways = ["same"] if same else list(WAYS)
    parts = [(f"laps{laps}", one) for one in ways] if laps else [("carried", way), ("anew", way)]
    rigs_and_graphs = [
        (rig, rows, one) for rig, rows in camera_rows(clip).items() if len(rows) in rigs for one in graph or GRAPHS[len(rows)]
    ]
    for rig, rows, one in rigs_and_graphs:
        results = []
        for part, how in parts:
            told = part if how == "apart" else f"{part}-{how}"
            what = f"{made}_{told}_{seed}_{steps}_{len(rows)}_{against}_{one.replace(', ', '-')}"
            work = Work(folder / f"{what}.pickle", [one], rig)
            every = lap_steps(clip, size_hw, laps) if laps else clip_steps(clip, size_hw)
            drive = islice(picked(every, rows), steps - steps // 4 if part == "anew" else 0, None)
            with InDouble() if double else nullcontext():
                together = SideBySide(references[one], [graphs[one]], work.comparisons)
                if not work.drive(together, map(in_double, drive) if double else drive, until, how):
                    return 2
            results.append(work.comparisons[0].found)
        found.append((one, *results))
    return lap_verdict([WAYS[one] for one in ways], found, laps, CONSOLE) if laps else verdict(found)


def shipped_or_random() -> str:
    """The network that is measured unless another is asked for."""
    return "nano" if (SHIPPED / "nano.pt").is_file() else "random:nano"


def deadline(minutes: float) -> float:
    """When to stop, by `time.monotonic`; 0 minutes for never."""
    return time.monotonic() + 60 * minutes if minutes else float("inf")


def whole_and_split(path: Path) -> tuple[OnnxNetwork, SplitNetwork]:
    """A graph as one file and as two, opened with one thread each."""
    encoder, fusion = write_parts(path)
    return OnnxNetwork(path, threads=1), open_network(fusion, encoder, threads=1)


def simulated(folder: Path, seed: int, frames: int, size_hw: tuple[int, int]) -> Clip:
    """A simulated drive, made unless it is there."""
    path = folder / f"clip_{seed}_{frames}"
    if not path.exists():
        simulate_clip(path, SimulationConfig(frames / HZ, HZ, seed, size_hw), 0)
    return Clip.open(path)


class Work:
    """One drive of one rig, which can be laid down and taken up again."""

    def __init__(self, path: Path, names: Sequence[str], rig: str, kind: type[Comparison] = Comparison) -> None:
        self.path, self.names, self.rig, self.done = path, names, rig, 0
        self.memory, self.comparisons = None, [kind() for _ in names]
        if path.is_file():
            self.done, self.memory, self.comparisons = pickle.loads(path.read_bytes())
            return
        for comparison in self.comparisons:
            comparison.new_drive(rig)

    def drive(self, together: SideBySide, steps: Iterator[dict[str, np.ndarray]], until: float, how: str) -> bool:
        """Takes the steps that are left; False if there was no time for all of them. Says every fifty how it stands."""
        if self.memory is not None:
            together.remember(self.memory)
        for inputs in islice(steps, self.done, None):
            if time.monotonic() > until:
                self._keep(together)
                print(f"{self.rig}, {self.path.stem}: {self.done} steps done, time is up; call again to go on", flush=True)
                return False
            together.step(inputs, forgive_ties=how != "apart", same_memory=how == "same")
            self.done += 1
            if self.done % 50 == 0:
                errors = [comparison.found.error_by_step[-50:] for comparison in self.comparisons]
                parts = [f"{name}: median {np.median(e):.1e}, largest {max(e):.1e}" for name, e in zip(self.names, errors, strict=True)]
                print(f"{self.rig}, {self.path.stem}, steps {self.done - 50} to {self.done - 1}: {'; '.join(parts)}", flush=True)
        self._keep(together)
        return True

    def _keep(self, together: SideBySide) -> None:
        with atomic_file(self.path) as path:
            path.write_bytes(pickle.dumps((self.done, together.memory(), self.comparisons)))


def camera_rows(clip: Clip) -> dict[str, list[int]]:
    """Three rigs out of the simulator's eight cameras: five with the fisheye, six pinholes, all."""
    fisheyes = [row for row, camera in enumerate(clip.rig.cameras) if camera.lens.value == "fisheye"]
    pinholes = [row for row in range(len(clip.rig)) if row not in fisheyes]
    rigs = [fisheyes[:1] + pinholes[-4:], pinholes[:6], list(range(len(clip.rig)))]
    return {f"{len(rows)} cameras, {len(set(rows) & set(fisheyes))} fisheye": rows for rows in rigs}


def picked(steps: Iterator[dict[str, np.ndarray]], rows: list[int]) -> Iterator[dict[str, np.ndarray]]:
    """The same steps with some of their cameras."""
    for inputs in steps:
        yield {name: value if name in ("dt", "prev_from_ego") else value[:, rows] for name, value in inputs.items()}


def verdict(rows: list[tuple[str, Verification, Verification | None]]) -> int:
    """Prints a line a rig and graph, then the medians of every tensor; 0 if all of them hold.

    The third of a row is the last quarter of the drive once more, begun with an empty memory: pictures differ in how hard they are, so
    a drift is what the carried memory adds to it.
    """
    columns = (
        "rig",
        "graph",
        "steps",
        "largest",
        "in",
        "beyond",
        "all: first / last / anew",
        "dense: first / last / anew",
        "integers",
        "order",
        "ties",
    )
    table, good = Table(*columns), True
    for graph, found, fresh in rows:
        medians = quarters(found.error_by_step, fresh.error_by_step if fresh else None)
        good &= found.max_error <= TOLERANCE and (len(found.errors) < 100 or medians[1] <= max(NO_DRIFT, medians[0], *medians[2:]))
        table.add_row(
            found.rigs[0],
            graph,
            str(len(found.errors)),
            f"{found.max_error:.1e}",
            str(found.to_json()["worst_tensor"]),
            str(sum(error > TOLERANCE for error in found.error_by_step)),
            in_words(medians),
            in_words(quarters(found.dense_by_step, fresh.dense_by_step if fresh else None)),
            f"{found.integer_mismatches} of {found.integers_compared}",
            str(found.reordered_steps),
            str(len(found.tied_steps)),
        )
    CONSOLE.print(table)
    CONSOLE.print(
        "beyond: steps with an error above 1e-3; quarters: medians of each step's largest relative error, of all tensors and of voxels,"
    )
    CONSOLE.print(
        "flow and dense memory alone; anew: the last quarter begun with an empty memory; integers: classes, ids, ages, voxel states"
    )
    for graph, found, fresh in rows:
        told = {name: [step[name] for step in found.errors if name in step] for name in found.error_by_tensor}
        new = {name: [step[name] for step in fresh.errors if name in step] for name in told} if fresh else {}
        parts = [f"{name} {max(errors):.1e} ({in_words(quarters(errors, new.get(name)))})" for name, errors in told.items()]
        CONSOLE.print(f"{found.rigs[0]}, {graph}: largest (medians) of {', '.join(parts)}")
    return 0 if good else 1


def quarters(errors: list[float], fresh: list[float] | None = None) -> list[float]:
    """Medians of the first and the last quarter, and of the last begun anew."""
    quarter = max(1, len(errors) // 4)
    return [float(np.median(part)) for part in (errors[:quarter], errors[-quarter:], fresh) if part is not None]


def in_words(medians: list[float]) -> str:
    """Side by side."""
    return " / ".join(f"{median:.1e}" for median in medians)


if __name__ == "__main__":
    raise SystemExit(tyro.cli(parity))
