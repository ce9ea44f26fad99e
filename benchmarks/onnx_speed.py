"""How much faster than torch is onnxruntime, and int8 than fp32? All in one run, taking turns, on two threads.

    python -m benchmarks.onnx_speed nano --files nano-fp32.onnx nano-int8-cpu.onnx      # files of benchmarks.onnx_precision
    python -m benchmarks.onnx_speed random:edge      # exports fp32 and int8-cpu itself; every convolution in int8, accuracy not asked
    python -m benchmarks.onnx_speed random:edge --out FOLDER --rounds 0      # only that; then --files FOLDER/fp32.onnx FOLDER/int8-cpu.onnx

Torch runs as `surround4d eval` runs it: eager, with the sampler that is fastest on a processor. Every contestant lives in a process of
its own, because threads of a runtime go on spinning for a while after a step and would take the cores from the next contestant; between
two turns all of them sleep. Every round each contestant is called once on the same step of eight cameras, so that a busy machine is
unfair to none: it runs one step that is not counted, which wakes its threads and fills the caches, and STEPS_A_TURN that are. Ratios are
of the turns of one round, which stand side by side: their median over all rounds and, in brackets, the quarter and three quarters of them
(a machine whose clock has two speeds would make a ratio of medians one of two different speeds). Memory is
the largest resident size of a process of its own that opens one file and runs twenty steps. A second table times the encoder and the
fusion part of the files alone.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from scenes.errors import ConfigError
from scenes.rigs import default_rig

STEPS_A_TURN = 3
SETTLE_S = 0.05
"""Before a turn: the threads of the contestant before have gone to sleep by then."""
TORCH = "torch eager"
CONTESTANT = "--contestant"

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
        rounds: Turns of each; 0 times nothing.
        threads: Threads of torch and of onnxruntime.
        cpu_time: On a machine that others use too: processor time of the process instead of the clock's; give --threads 1.
        spin: Whether onnxruntime's threads wait without sleeping between operators, as they do by default.
        out: Folder that keeps the files exported now.
    """
    torch.set_num_threads(threads)
    network = load_network(checkpoint, None, "gather")
    with TemporaryDirectory() as folder:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        paths = list(files) or exported(network, out or Path(folder))
        if len({path.name for path in paths}) < len(paths):
            raise ConfigError(f"files: expected different names, got {', '.join(str(path) for path in paths)}; rename one")
        if not rounds:
            return
        inputs = list(synthetic_steps(default_rig(*network.config.input_hw), network.config, 2))[1]
        step = Path(folder) / "step.npz"
        np.savez(step, **inputs)  # type: ignore[arg-type]
        how = Contest(step, threads, cpu_time, spin)
        seconds = take_turns({TORCH: how.torch(checkpoint)} | {path.name: how.whole(path) for path in paths}, rounds)
        print_table(seconds, {path.name: path for path in paths}, step)
        halves: dict[str, list[str]] = {}
        for path in paths:
            halves |= how.parts(path, Path(folder))
        print_parts(take_turns(halves, rounds), [path.name for path in paths])


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


@dataclass(frozen=True)
class Contest:
    """How everything is run; its methods give the arguments of a contestant's process."""

    step: Path
    """The inputs of one step, a numpy archive."""
    threads: int
    cpu_time: bool
    spin: bool

    def torch(self, checkpoint: str) -> list[str]:
        """The network in torch."""
        return self._arguments("torch", checkpoint)

    def whole(self, file: Path) -> list[str]:
        """A whole graph."""
        return self._arguments("whole", str(file))

    def parts(self, file: Path, folder: Path) -> dict[str, list[str]]:
        """Encoder and fusion part of a whole graph, by "name, part", written into `folder` with what the encoder hands on."""
        files = {}
        for part, proto in zip(("encoder", "fusion"), split_graph(onnx.load(str(file)), str(file)), strict=True):
            files[part] = folder / f"{file.stem}.{part}.onnx"
            files[part].write_bytes(proto.SerializeToString())
        inputs = dict(np.load(self.step))
        encoder, fusion = (OnnxNetwork(files[part], threads=self.threads, part=part) for part in ("encoder", "fusion"))
        features, _ = encoder({spec.name: inputs[spec.name] for spec in encoder.step_inputs}, {})
        known = {**inputs, **features}
        for network in (encoder, fusion):
            np.savez(network.path.with_suffix(".npz"), **{spec.name: known[spec.name] for spec in network.step_inputs})  # type: ignore[arg-type]
        return {
            f"{file.name}, {part}": replace(self, step=path.with_suffix(".npz"))._arguments(part, str(path)) for part, path in files.items()
        }

    def _arguments(self, kind: str, what: str) -> list[str]:
        return [kind, what, str(self.step), json.dumps({"threads": self.threads, "cpu_time": self.cpu_time, "spin": self.spin})]


def contestant(kind: str, what: str, step: str, settings: str) -> None:
    """What runs in a process of its own: for every line read, one step that is not counted and as many as the line says that are."""
    how = json.loads(settings)
    clock = time.process_time if how["cpu_time"] else time.perf_counter
    inputs = dict(np.load(step))
    run = torch_step(what, inputs, how["threads"]) if kind == "torch" else file_step(what, kind, inputs, how["threads"], how["spin"])
    for line in sys.stdin:
        run()
        seconds = []
        for _ in range(int(line)):
            start = clock()
            run()
            seconds.append(clock() - start)
        print(json.dumps(seconds), flush=True)


def torch_step(checkpoint: str, inputs: dict[str, np.ndarray], threads: int) -> Callable[[], object]:
    """One step of the network in torch."""
    torch.set_num_threads(threads)
    model, step = load_network(checkpoint, None, "gather").model, step_input(inputs)
    model.sampler = "auto"
    state = model.empty_state(1)

    def run() -> object:
        with torch.inference_mode():
            return model.detections(*model(step, state))

    return run


def file_step(file: str, part: str, inputs: dict[str, np.ndarray], threads: int, spin: bool) -> Callable[[], object]:
    """One step of a graph, or of a part of one."""
    network = OnnxNetwork(file, threads=threads, part=part, spin=spin)
    state = network.empty_state()
    return lambda: network(inputs, state)


def take_turns(contestants: dict[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every counted step by name; one round of warming up is not counted."""
    command = [sys.executable, "-m", "benchmarks.onnx_speed", CONTESTANT]
    processes = {
        name: subprocess.Popen([*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, arguments in contestants.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    try:
        for number in range(rounds + 1):
            for name, process in processes.items():
                time.sleep(SETTLE_S)
                seconds[name] += _turn(process, name) if number else _turn(process, name)[:0]
    finally:
        for process in processes.values():
            process.communicate()
    return seconds


def _turn(process: subprocess.Popen, name: str) -> list[float]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{STEPS_A_TURN}\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"{name}: its process ended; what it said is above")
    return json.loads(answer)


def print_table(seconds: dict[str, list[float]], files: dict[str, Path], step: Path) -> None:
    """Least, median and p90 times, their ratios, file sizes and memory."""
    table = Table("contestant", "min ms", "p50 ms", "p90 ms", "torch / it", "fp32 file / it", "file MB", "memory MB")
    first = next(iter(files))
    for name, values in seconds.items():
        ms = np.array(values) * 1e3
        size = f"{files[name].stat().st_size / 1e6:.1f}" if name in files else ""
        memory = f"{peak_memory_mb(files[name], step):.0f}" if name in files else ""
        ratios = ratio(seconds[TORCH], values), ratio(seconds[first], values)
        table.add_row(name, f"{ms.min():.1f}", f"{np.median(ms):.1f}", f"{np.percentile(ms, 90):.1f}", *ratios, size, memory)
    Console(highlight=False, width=140).print(table)


def ratio(slow: list[float], fast: list[float]) -> str:
    """How many times as long one contestant takes as another: median and quartiles of what the rounds say, each by medians of its turns."""
    turns = [np.median(np.reshape(seconds, (-1, STEPS_A_TURN)), axis=1) for seconds in (slow, fast)]
    low, middle, high = np.percentile(turns[0] / turns[1], [25, 50, 75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def print_parts(seconds: dict[str, list[float]], names: list[str]) -> None:
    """Median times of the two halves, and how much faster than the first file's they are."""
    table = Table("file", "encoder p50 ms", "first file / its", "fusion p50 ms", "first file / its")
    for name in names:
        cells = [(seconds[f"{name}, {part}"], seconds[f"{names[0]}, {part}"]) for part in ("encoder", "fusion")]
        table.add_row(name, *(text for own, first in cells for text in (f"{1e3 * np.median(own):.1f}", ratio(first, own))))
    Console(highlight=False, width=140).print(table)


def peak_memory_mb(file: Path, step: Path) -> float:
    """Of a process of its own that has numpy, onnxruntime and the runner; `step` holds the inputs."""
    done = subprocess.run([sys.executable, "-c", MEMORY_CODE, str(file), str(step)], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    if CONTESTANT in sys.argv[1:2]:
        contestant(*sys.argv[2:])
    else:
        tyro.cli(speed)
