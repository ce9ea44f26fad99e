"""How much faster than torch is onnxruntime, and int8 than fp32? All in one run, taking turns, on two threads.

    python -m benchmarks.onnx_speed CHECKPOINT --files fp32.onnx fp16.onnx int8.onnx

Every round runs each contestant once on the same step of eight cameras, so that a busy machine is unfair to none. Memory is the largest
resident size of a process of its own that opens one file and runs twenty steps.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from export.networks import load_network
from export.runner import OnnxNetwork
from export.synthetic import synthetic_steps
from export.verify import step_input
from scenes.rigs import default_rig

MEMORY_CODE = """
import resource, sys
from export.budget import measure_ms
from export.runner import OnnxNetwork
measure_ms(OnnxNetwork(sys.argv[1], threads=2), steps=20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def speed(checkpoint: Annotated[str, tyro.conf.Positional], files: list[Path], rounds: int = 20, threads: int = 2) -> None:
    """Times torch eager and every file in turns.

    Args:
        checkpoint: The network the files were exported from.
        files: Exported graphs, the fp32 one first.
        rounds: Timed steps of each.
        threads: Threads of torch and of onnxruntime.
    """
    torch.set_num_threads(threads)
    network = load_network(checkpoint)
    rig = default_rig(*network.config.input_hw)
    inputs = list(synthetic_steps(rig, network.config, 2))[1]
    step, torch_state = step_input(inputs), network.model.empty_state(1)
    sessions = {path.name: OnnxNetwork(path, threads=threads) for path in files}
    states = {name: session.empty_state() for name, session in sessions.items()}
    seconds: dict[str, list[float]] = {"torch eager": [], **{name: [] for name in sessions}}
    for number in range(rounds + 2):
        start = time.perf_counter()
        with torch.inference_mode():
            output, state = network.model(step, torch_state)
            network.model.detections(output, state)
        measured = {"torch eager": time.perf_counter() - start}
        for name, session in sessions.items():
            start = time.perf_counter()
            session(inputs, states[name])
            measured[name] = time.perf_counter() - start
        for name, value in measured.items() if number >= 2 else ():
            seconds[name].append(value)
    print_table(seconds, {path.name: path for path in files})


def print_table(seconds: dict[str, list[float]], files: dict[str, Path]) -> None:
    """Least, median and p90 times, their ratios, file sizes and memory."""
    table = Table("contestant", "min ms", "p50 ms", "p90 ms", "torch p50 / its p50", "fp32 file p50 / its p50", "file MB", "memory MB")
    p50 = {name: float(np.median(values)) for name, values in seconds.items()}
    first = next(iter(files))
    for name, values in seconds.items():
        ms = np.array(values) * 1e3
        size = f"{files[name].stat().st_size / 1e6:.1f}" if name in files else ""
        memory = f"{peak_memory_mb(files[name]):.0f}" if name in files else ""
        ratios = f"{p50['torch eager'] / p50[name]:.2f}", f"{p50[first] / p50[name]:.2f}"
        table.add_row(name, f"{ms.min():.1f}", f"{np.median(ms):.1f}", f"{np.percentile(ms, 90):.1f}", *ratios, size, memory)
    Console(highlight=False, width=140).print(table)


def peak_memory_mb(file: Path) -> float:
    """Of a process of its own (with OpenCV and onnx loaded by the measuring code)."""
    done = subprocess.run([sys.executable, "-c", MEMORY_CODE, str(file)], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    tyro.cli(speed)
