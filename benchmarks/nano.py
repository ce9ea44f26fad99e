"""How good is the shipped `nano` on simulated seeds that it never saw, with and without memory?

python -m benchmarks.nano            simulates three seeds (kept in --out), streams the checkpoint, prints one row a seed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from evaluation.compare import CompareSettings, EvaluationReport, compare_layers
from evaluation.detection import DetectionSettings
from scenes.clips import Clip, find_clips
from scenes.simulator.command import simulate
from training.checkpoints import load_checkpoint
from training.streaming import run_clip

MIN_VISIBILITY = 0.1
"""As in training: truth of which the cameras see less is neither to be found nor wrong to find."""


@dataclass(frozen=True)
class SeedResult:
    """One seed's figures, vehicles within 30 m as one class."""

    seed: int
    ap: dict[float, float]
    velocity_with_memory_mps: float
    velocity_without_memory_mps: float

    @property
    def mean_ap(self) -> float:
        """Mean over the distance thresholds."""
        return float(np.mean(list(self.ap.values())))

    @property
    def velocity_ratio(self) -> float:
        """Velocity error with memory as a share of that without."""
        return self.velocity_with_memory_mps / self.velocity_without_memory_mps


def measure(
    checkpoint: str = "nano",
    seeds: tuple[int, ...] = (9001, 9002, 9003),
    clips: int = 8,
    seconds: float = 8.0,
    out: Path = Path("out/benchmarks/nano"),
    workers: int = 2,
) -> None:
    """Prints one row a seed.

    Args:
        checkpoint: A shipped name, a file or a run's folder.
        seeds: Simulation seeds; training used seeds below 5000.
        clips: Clips a seed.
        seconds: Length of a clip.
        out: Where the simulated clips are kept.
        workers: Simulation processes.
    """
    model = load_checkpoint(checkpoint).model
    results = []
    for seed in seeds:
        simulate(out / f"seed_{seed}", clips=clips, seconds=seconds, seed=seed, size="96x256", workers=workers)
        results.append(measure_seed(model, seed, find_clips(out / f"seed_{seed}")))
    print_results(results)


def measure_seed(model, seed: int, paths: list[Path]) -> SeedResult:
    """Streams the clips twice, with memory and with an empty state at every step."""
    reports = [compare(model, paths, memory).vehicles["30 m"] for memory in (True, False)]
    return SeedResult(seed, reports[0].ap, reports[0].velocity_error_mps, reports[1].velocity_error_mps)


def compare(model, paths: list[Path], memory: bool) -> EvaluationReport:
    """The network's layer against the truth on every clip."""
    clips = [Clip.open(path) for path in paths]
    settings = CompareSettings(DetectionSettings(min_visibility=MIN_VISIBILITY))
    return compare_layers(((clip, run_clip(model, clip, memory=memory), clip.layer("truth")) for clip in clips), settings)


def print_results(results: list[SeedResult]) -> None:
    """One row a seed, then their mean."""
    thresholds = list(results[0].ap)
    table = Table("seed", *(f"AP {t:g} m" for t in thresholds), "vehicle AP", "velocity error m/s", "without memory", "ratio")
    for r in results:
        cells = (*r.ap.values(), r.mean_ap, r.velocity_with_memory_mps, r.velocity_without_memory_mps, r.velocity_ratio)
        table.add_row(str(r.seed), *(f"{value:.3f}" for value in cells))
    mean_ap, mean_ratio = (float(np.mean([getattr(r, name) for r in results])) for name in ("mean_ap", "velocity_ratio"))
    table.add_row("mean", *[""] * len(thresholds), f"{mean_ap:.3f}", "", "", f"{mean_ratio:.3f}")
    Console(width=130).print(table)


if __name__ == "__main__":
    tyro.cli(measure)
