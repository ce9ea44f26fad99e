"""Do files part from torch further than torch parts from itself? Both left to themselves for a whole drive, in float32.

    python -m benchmarks.parity_floor              # four drives of 200 steps on three rigs (half an hour on one core)
    while python -m benchmarks.parity_floor --folder F --minutes 9; [ $? = 2 ]; do :; done      # the same in parts

A network that remembers makes choices (what is a peak, what is remembered) that rounding decides where two numbers are nearly equal, and
what was chosen is remembered. So two programs that sum in different orders cannot stay together for good, whoever wrote them: torch does
not stay with torch. This is the measure for `onnx_parity --drive`: beside the files drives torch itself, the same weights with other ways
to sample images (`gridsample`, `gather`; the reference takes the one for processors), which compute the same but for rounding.

Exit status 1 if, over all drives, files are beyond 1e-3 in more steps than torch is by over two standard errors, or if voxels, flow or
dense memory (no choice touches them) are beyond 1e-3 anywhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tyro
from onnxruntime import OrtValue
from rich.table import Table
from torch import nn

from benchmarks.kept_graphs import origin
from benchmarks.onnx_parity import (
    CONSOLE,
    GRAPHS,
    Work,
    camera_rows,
    deadline,
    exported,
    picked,
    shipped_or_random,
    simulated,
    whole_and_split,
)
from export.accuracy import clip_steps
from export.comparison import Comparison
from export.networks import SAMPLERS, load_network
from export.onnx_graph import StepGraph
from export.runner import OnnxNetwork
from export.verify import TOLERANCE, SideBySide, Streaming, state_for_torch, step_input, torch_outputs

SEEN, NEAR_M = 0.1, 0.1
"""Objects with this score and more are counted; the other side has one if it has a box of its class so near, with half that
score or more."""


class TorchInstead:
    """torch where a file is expected: state in and out as the file has it, computed by a network."""

    def __init__(self, file: OnnxNetwork, model: nn.Module) -> None:
        self.file, self.graph, self.manifest = file, StepGraph(model).eval(), file.manifest

    def empty_state(self) -> dict[str, OrtValue]:
        """See `OnnxNetwork`."""
        return self.file.empty_state()

    def state_of(self, arrays: Mapping[str, np.ndarray]) -> dict[str, OrtValue]:
        """See `OnnxNetwork`."""
        return self.file.state_of(arrays)

    def __call__(
        self, inputs: Mapping[str, np.ndarray], state: Mapping[str, OrtValue]
    ) -> tuple[dict[str, np.ndarray], dict[str, OrtValue]]:
        """One step: answers by name, and the next state."""
        outputs, _ = torch_outputs(self.graph, step_input(dict(inputs)), state_for_torch(state))
        return {name: outputs[name] for name in self.file.answers}, self.state_of({s.input: outputs[s.output] for s in self.manifest.state})


class CountedObjects(Comparison):
    """Counts besides, which of the reference's objects the other side has too."""

    def __init__(self) -> None:
        super().__init__()
        self.objects, self.shared = 0, 0

    def add(self, reference: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
        """Takes in one step's outputs by name; returns its largest relative error."""
        seen = reference["scores"][0] >= SEEN
        apart = np.linalg.norm(reference["boxes"][0][seen][:, None, :3] - other["boxes"][0][None, :, :3], axis=-1)
        alike = reference["classes"][0][seen][:, None] == other["classes"][0][None]
        near = (apart <= NEAR_M) & alike & (other["scores"][0] >= 0.5 * SEEN)[None]
        self.objects += int(seen.sum())
        self.shared += int(near.any(axis=1).sum())
        return super().add(reference, other)


def floor(
    checkpoint: str = "",
    steps: int = 200,
    seeds: tuple[int, ...] = (9100, 9101, 9102, 9103),
    rig: tuple[int, ...] = (5, 6, 8),
    layers: int | None = None,
    folder: Path | None = None,
    minutes: float = 0.0,
) -> int:
    """Streams simulated drives through torch, the files and torch again, each with its own memory.

    Args:
        checkpoint: Default: the shipped nano, or random:nano.
        steps: Steps of a drive, at 10 Hz.
        seeds: Of the simulated drives, one a seed.
        rig: Numbers of cameras of the rigs that drive.
        layers: Decoder layers kept.
        folder: Where graphs, simulated drives and unfinished work are kept and looked for; default: nowhere.
        minutes: Stop after as long, exit status 2; the next call with the same folder goes on from the same bits. 0 for never.
    """
    name, until = checkpoint or shipped_or_random(), deadline(minutes)
    with TemporaryDirectory() as text:
        kept = folder or Path(text)
        kept.mkdir(parents=True, exist_ok=True)
        reference = load_network(name, layers, "auto")
        beside = contestants(name, layers, kept)
        rows = []
        for seed in seeds:
            clip = simulated(kept, seed, steps, reference.config.input_hw)
            for told, cameras in camera_rows(clip).items():
                if len(cameras) not in rig:
                    continue
                names = [*GRAPHS[len(cameras)], *(name for name in beside if name.startswith("torch"))]
                what = f"{origin(reference.model)}_floor_{seed}_{steps}_{len(cameras)}.pickle"
                work = Work(kept / what, names, f"{seed}, {told}", CountedObjects)
                drive = picked(clip_steps(clip, reference.config.input_hw), cameras)
                together = SideBySide(StepGraph(reference.model).eval(), [beside[name] for name in names], work.comparisons)
                if not work.drive(together, drive, until, "apart"):
                    return 2
                rows += [(name, comparison) for name, comparison in zip(names, work.comparisons, strict=True)]
    return verdict(rows)


def contestants(name: str, layers: int | None, folder: Path) -> dict[str, Streaming]:
    """By name: the files of both samplers, whole and split, and torch with both."""
    found: dict[str, Streaming] = {}
    for sampler in SAMPLERS:
        network = load_network(name, layers, sampler)
        whole, split = whole_and_split(exported(network, folder / f"{sampler}.onnx"))
        found[f"{sampler}, whole"], found[f"{sampler}, split"] = whole, split
        found[f"torch, {sampler}"] = TorchInstead(whole, network.model)
    return found


def verdict(rows: Sequence[tuple[str, CountedObjects]]) -> int:
    """Prints a line a drive and contestant, then what files and torch come to; 0 if files are no worse."""
    table = Table("drive", "beside torch", "beyond 1e-3", "first", "median", "dense: median", "largest", "objects shared")
    for name, comparison in rows:
        found = comparison.found
        dense = found.dense_by_step
        table.add_row(
            found.rigs[0],
            name,
            f"{beyond(comparison):.0%}",
            str(next((step for step, error in enumerate(found.error_by_step) if error > TOLERANCE), "never")),
            f"{np.median(found.error_by_step):.1e}",
            f"{np.median(dense):.1e}",
            f"{max(dense):.1e}",
            f"{comparison.shared / max(comparison.objects, 1):.1%}",
        )
    CONSOLE.print(table)
    CONSOLE.print("beyond 1e-3: share of steps, first of them; median: of each step's largest error; dense: voxels, flow, dense memory")
    CONSOLE.print(f"objects shared: torch's of a score of {SEEN:g} and more that the other side has within {100 * NEAR_M:g} cm, same class")
    kinds = {kind: [row for row in rows if row[0].startswith("torch") == (kind == "torch")] for kind in ("files", "torch")}
    drives = sorted({comparison.found.rigs[0] for _, comparison in rows})
    more = []
    for kind, own in kinds.items():
        shares = [beyond(comparison) for _, comparison in own]
        objects, shared = (sum(getattr(comparison, what) for _, comparison in own) for what in ("objects", "shared"))
        dense = np.median([error for _, comparison in own for error in comparison.found.dense_by_step])
        CONSOLE.print(
            f"{kind} beside torch, {len(own)} drives: {np.mean(shares):.1%} of the steps beyond 1e-3; {shared / max(objects, 1):.1%} of "
            f"{objects} objects shared; median of voxels, flow, dense memory {dense:.1e}"
        )
    for drive in drives:
        mean = {kind: np.mean([beyond(c) for _, c in own if c.found.rigs[0] == drive]) for kind, own in kinds.items()}
        more.append(mean["files"] - mean["torch"])
    error = np.std(more, ddof=1) / np.sqrt(len(more)) if len(more) > 1 else 0.0
    CONSOLE.print(f"files less torch, steps beyond 1e-3: {np.mean(more):+.1%}, standard error {error:.1%}, {len(more)} drives")
    steady = all(max(comparison.found.dense_by_step) <= TOLERANCE for _, comparison in rows)
    return 0 if np.mean(more) <= 2 * error and steady else 1


def beyond(comparison: Comparison) -> float:
    """Share of a drive's steps with an error above 1e-3."""
    return float(np.mean(np.array(comparison.found.error_by_step) > TOLERANCE))


if __name__ == "__main__":
    raise SystemExit(tyro.cli(floor))
