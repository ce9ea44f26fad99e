"""How many rig-frames does the simulator make a second, with all labels? `python -m benchmarks.simulator [frames a clip]`."""

import resource
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scenes.simulator.command import run_jobs
from scenes.simulator.config import SCENARIOS, SimulationConfig

TARGETS = {(96, 256): 10.0, (256, 704): 1.5}
"""Rig-frames a second wanted on two cores."""


def main() -> None:
    """Simulates a clip of each scenario twice over at both sizes with two workers, and prints wall-clock rates."""
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    table = Table("size", "clips", "frames", "s", "rig-frames/s", "wanted", "MB a clip", title="8 cameras, all labels, 2 workers")
    for size_hw, wanted in TARGETS.items():
        with tempfile.TemporaryDirectory() as folder:
            config = SimulationConfig(seconds=frames / 2, seed=0, size_hw=size_hw)
            clips = 2 * len(SCENARIOS) if size_hw[0] < 100 else len(SCENARIOS)
            begin = time.perf_counter()
            failures = run_jobs(Path(folder), config, list(range(clips)), 2)
            seconds = time.perf_counter() - begin
            assert not failures, failures
            megabytes = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()) / 1e6 / clips
        size = f"8x{size_hw[0]}x{size_hw[1]}"
        rate = clips * frames / seconds
        table.add_row(size, f"{clips}", f"{clips * frames}", f"{seconds:.1f}", f"{rate:.2f}", f"{wanted:g}", f"{megabytes:.2f}")
    Console().print(table)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"CPU seconds of the workers: {used.ru_utime + used.ru_stime:.1f}, largest worker {used.ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
