"""How fast does a recipe train on this machine? Steps a second, the loader's share, peak memory; `python benchmarks/training.py DIR`."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import tyro

from training.recipes import recipe
from training.trainer import Trainer


def measure(
    data: tyro.conf.Positional[Path], name: str = "nano", batch: int = 4, steps: int = 20, threads: int = 2, workers: int = 1
) -> None:
    """Trains a few steps on the clips below `data` and prints the figures of the second half (the first one warms up).

    Args:
        data: A folder of clips.
        name: Recipe.
        batch: Streams.
        steps: Steps in all.
        threads: Torch threads.
        workers: Loader processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        base = recipe(name)
        config = replace(
            base,
            model=base.model.unpretrained(),
            data=replace(base.data, folders=(data,), batch=batch, workers=workers),
            optim=replace(base.optim, steps=steps),
            run=replace(base.run, out=Path(folder), threads=threads, log_every=max(1, steps // 2)),
        )
        Trainer(config).run()
        line = json.loads((Path(folder) / "log.jsonl").read_text().splitlines()[-1])
    print(
        f"{name}, batch {batch}, {threads} threads: {1 / line['seconds_per_step']:.2f} steps/s, "
        f"loader {line['loader_share']:.1%} of the time, peak memory {line['peak_memory_mb'] / 1000:.2f} GB"
    )


if __name__ == "__main__":
    tyro.cli(measure)
