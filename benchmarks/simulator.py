"""How many rig-frames does the simulator make a second, with all labels? `python -m benchmarks.simulator [frames a clip]`."""

import resource
import sys
import tempfile
import time
from pathlib import Path

from scenes.simulator.command import run_jobs
from scenes.simulator.config import SimulationConfig

RUNS = (((96, 256), 10, 10.0), ((256, 704), 4, 1.5))
"""Image size, number of clips, rig-frames a second wanted on two cores."""
WORKERS = 2


def main() -> None:
    """Prints, for both sizes, wall-clock and CPU rates of two workers (their start included)."""
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    for size_hw, clips, wanted in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            config = SimulationConfig(seconds=frames / 2, seed=0, size_hw=size_hw)
            begin, used = time.perf_counter(), _child_seconds()
            failures = run_jobs(Path(folder), config, list(range(clips)), WORKERS)
            seconds, used = time.perf_counter() - begin, _child_seconds() - used
            assert not failures, failures
            megabytes = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()) / 1e6 / clips
        share = used / seconds / WORKERS
        print(
            f"8x{size_hw[0]}x{size_hw[1]}: {clips * frames / seconds:.2f} rig-frames/s by the clock ({wanted:g} wanted), "
            f"{WORKERS * clips * frames / used:.2f} by CPU time of {WORKERS} cores (the workers had {share:.0%} of them), "
            f"{megabytes:.2f} MB a clip of {frames} frames"
        )


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
