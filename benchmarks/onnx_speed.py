"""How much faster than torch is onnxruntime, and int8 than fp32? All in one run, taking turns, on two threads.

    python -m benchmarks.onnx_speed nano --files nano-fp32.onnx nano-int8-cpu.onnx      # files of benchmarks.onnx_precision
    python -m benchmarks.onnx_speed random:edge      # exports fp32 and int8-cpu itself; every convolution in int8, accuracy not asked
    python -m benchmarks.onnx_speed random:edge --out FOLDER --rounds 0      # only that; then --files FOLDER/fp32.onnx FOLDER/int8-cpu.onnx

Torch runs as `surround4d eval` runs it: eager, with the sampler that is fastest on a processor. Every round runs each contestant once on
the same step of eight cameras, so that a busy machine is unfair to none. Memory is the largest resident size of a process of its own that
opens one file and runs twenty steps. A second table times the encoder and the fusion part of the files alone.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import onnx
import torch
import tyro
from rich.console import Console
from rich.table import Table

from export.lower import lowering_of
from export.networks import LoadedNetwork, load_network
from export.onnx_graph import attach_manifest, export_model
from export.precision import record_steps
from export.runner import OnnxNetwork, initial_state
from export.split import split_graph
from export.synthetic import synthetic_steps
from export.verify import step_input
from scenes.rigs import default_rig

MEMORY_CODE = """
import sys
import numpy as np
from export.runner import OnnxNetwork
network, inputs = OnnxNetwork(sys.argv[1], threads=2), dict(np.load(sys.argv[2]))
state = network.empty_state()
for _ in range(20):
    _, state = network(inputs, state)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 1024)  # getrusage would count what the parent held when it forked
"""


def speed(
    checkpoint: Annotated[str, tyro.conf.Positional],
    files: tuple[Path, ...] = (),
    rounds: int = 20,
    threads: int = 2,
    cpu_time: bool = False,
    spin: bool = True,
    out: Path | None = None,
) -> None:
    """Times torch eager and every file in turns.

    Args:
        checkpoint: The network the files were exported from.
        files: Exported graphs, the fp32 one first; default: fp32 and int8-cpu, exported now.
        rounds: Timed steps of each; 0 times nothing.
        threads: Threads of torch and of onnxruntime.
        cpu_time: On a machine that others use too: processor time of the process instead of the clock's; give --threads 1.
        spin: Whether onnxruntime's threads wait without sleeping between operators, as they do by default.
        out: Folder that keeps the files exported now.
    """
    clock = time.process_time if cpu_time else time.perf_counter
    torch.set_num_threads(threads)
    network = load_network(checkpoint, None, "gather")
    with TemporaryDirectory() as folder:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        paths = list(files) or exported(network, out or Path(folder))
        if not rounds:
            return
        inputs = list(synthetic_steps(default_rig(*network.config.input_hw), network.config, 2))[1]
        contestants: dict[str, Callable[[], object]] = {"torch eager": torch_step(network, inputs)}
        contestants |= {path.name: file_step(path, inputs, threads, spin) for path in paths}
        seconds = take_turns(contestants, rounds, clock)
        np.savez(Path(folder) / "step.npz", **inputs)  # type: ignore[arg-type]
        print_table(seconds, {path.name: path for path in paths}, Path(folder) / "step.npz")
        halves: dict[str, Callable[[], object]] = {}
        for path in paths:
            halves |= part_steps(path, inputs, threads, Path(folder), spin)
        print_parts(take_turns(halves, rounds, clock), [path.name for path in paths])


def exported(network: LoadedNetwork, folder: Path) -> list[Path]:
    """fp32, and int8-cpu with every convolution in it, calibrated on two synthetic steps."""
    plain, small = folder / "fp32.onnx", folder / "int8-cpu.onnx"
    manifest = export_model(network.model, network.config, plain)
    proto = onnx.load(str(plain))
    steps = record_steps(proto, [synthetic_steps(default_rig(*network.config.input_hw), network.config, 2)], initial_state(manifest))
    lowering = lowering_of(proto, "int8-cpu", steps)
    result = lowering.convert(dict.fromkeys(lowering.parts, lowering.rules[0]))
    attach_manifest(result, replace(manifest, precision="int8-cpu"))
    small.write_bytes(result.SerializeToString())
    return [plain, small]


def torch_step(network: LoadedNetwork, inputs: dict[str, np.ndarray]) -> Callable[[], object]:
    """One step of the network in torch."""
    model, step = network.model, step_input(inputs)
    state = model.empty_state(1)

    def run() -> object:
        model.sampler = "auto"
        with torch.inference_mode():
            return model.detections(*model(step, state))

    return run


def file_step(path: Path, inputs: dict[str, np.ndarray], threads: int, spin: bool) -> Callable[[], object]:
    """One step of a whole file."""
    session = OnnxNetwork(path, threads=threads, spin=spin)
    state = session.empty_state()
    return lambda: session(inputs, state)


def part_steps(path: Path, inputs: dict[str, np.ndarray], threads: int, folder: Path, spin: bool) -> dict[str, Callable[[], object]]:
    """One step of the encoder and one of the fusion part, by "name, part"."""
    parts = {}
    for part, proto in zip(("encoder", "fusion"), split_graph(onnx.load(str(path)), str(path)), strict=True):
        file = folder / f"{path.stem}.{part}.onnx"
        file.write_bytes(proto.SerializeToString())
        parts[part] = OnnxNetwork(file, threads=threads, part=part, spin=spin)
    encoder, fusion = parts["encoder"], parts["fusion"]
    pictures = {spec.name: inputs[spec.name] for spec in encoder.step_inputs}
    features, _ = encoder(pictures, {})
    rest = {spec.name: features[spec.name] if spec.name in features else inputs[spec.name] for spec in fusion.step_inputs}
    state = fusion.empty_state()
    return {f"{path.name}, encoder": lambda: encoder(pictures, {}), f"{path.name}, fusion": lambda: fusion(rest, state)}


def take_turns(contestants: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of every round by name; two rounds of warming up are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 2):
        for name, run in contestants.items():
            start = clock()
            run()
            if number >= 2:
                seconds[name].append(clock() - start)
    return seconds


def print_table(seconds: dict[str, list[float]], files: dict[str, Path], step: Path) -> None:
    """Least, median and p90 times, their ratios, file sizes and memory."""
    table = Table("contestant", "min ms", "p50 ms", "p90 ms", "torch p50 / its p50", "fp32 file p50 / its p50", "file MB", "memory MB")
    p50 = {name: float(np.median(values)) for name, values in seconds.items()}
    first = next(iter(files))
    for name, values in seconds.items():
        ms = np.array(values) * 1e3
        size = f"{files[name].stat().st_size / 1e6:.1f}" if name in files else ""
        memory = f"{peak_memory_mb(files[name], step):.0f}" if name in files else ""
        ratios = f"{p50['torch eager'] / p50[name]:.2f}", f"{p50[first] / p50[name]:.2f}"
        table.add_row(name, f"{ms.min():.1f}", f"{np.median(ms):.1f}", f"{np.percentile(ms, 90):.1f}", *ratios, size, memory)
    Console(highlight=False, width=140).print(table)


def print_parts(seconds: dict[str, list[float]], names: list[str]) -> None:
    """Median times of the two halves, and how much faster than the first file's they are."""
    table = Table("file", "encoder p50 ms", "first file / its", "fusion p50 ms", "first file / its")
    p50 = {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}
    for name in names:
        cells = [(p50[f"{name}, {part}"], p50[f"{names[0]}, {part}"]) for part in ("encoder", "fusion")]
        table.add_row(name, *(text for own, first in cells for text in (f"{own:.1f}", f"{first / own:.2f}")))
    Console(highlight=False, width=140).print(table)


def peak_memory_mb(file: Path, step: Path) -> float:
    """Of a process of its own that has numpy, onnxruntime and the runner; `step` holds the inputs."""
    done = subprocess.run([sys.executable, "-c", MEMORY_CODE, str(file), str(step)], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    tyro.cli(speed)
