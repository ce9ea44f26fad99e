"""Does the runner drive on for 10,000 steps without torch? Own environment, cameras that die, come late, double, send NaN.

    python -m benchmarks.onnx_runner                       # makes a venv with numpy and onnxruntime alone, runs FILE in it
    python -m benchmarks.onnx_runner --file car.onnx --steps 2000

Printed: packages of the environment, steps, dropped pictures, resident memory after a tenth and at the end, p50/p90/p99/max per stage.
Exit status 1 if memory grew by more than 5 %, an output was not finite, or the state was poisoned.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
MS = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="an exported graph; default: a small random nano is exported")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return drive(arguments.file, arguments.steps, arguments.threads)
    with TemporaryDirectory() as folder:
        file = (arguments.file or small_file(Path(folder))).resolve()
        python = bare_environment(Path(folder) / "env")
        command = [str(python), "-m", "benchmarks.onnx_runner", "--inside", "--file", str(file), "--steps", str(arguments.steps)]
        return subprocess.run([*command, "--threads", str(arguments.threads)], cwd=ROOT, check=False).returncode


def small_file(folder: Path) -> Path:
    """nano's kinds of operators at a size that makes 10,000 steps bearable."""
    from dataclasses import replace

    from export.networks import random_network
    from export.onnx_graph import export_model
    from fusion.config import nano

    config = nano()
    query = replace(config.query, num_layers=1, new_queries=20, memory_slots=12)
    small = replace(
        config, name="nano-small", input_hw=(32, 64), sampler="gridsample", query=query, bev=replace(config.bev, encoder_blocks=1)
    )
    export_model(random_network(small), small, folder / "small.onnx")
    return folder / "small.onnx"


def bare_environment(folder: Path) -> Path:
    """A virtual environment with numpy and onnxruntime; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "numpy", "onnxruntime"], check=True)
    return python


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def drive(file: Path, steps: int, threads: int) -> int:
    """The drive itself; runs inside the bare environment."""
    import numpy as np

    from export.feed import StepFeed, StepPacker
    from export.runner import OnnxNetwork, StreamRunner
    from scenes.rigs import default_rig

    absent = [name for name in ("torch", "cv2", "onnx") if not _importable(name)]
    network = OnnxNetwork(file, threads=threads)
    height, width = network.manifest.input_hw
    rig = default_rig(height, width)
    packer, runner = StepPacker(rig.cameras, network.manifest.input_hw), StreamRunner(network)
    feed = StepFeed(rig.names, period_s=0.1, deadline_s=0.05)
    random = np.random.default_rng(0)
    pool = random.integers(0, 255, (16, height, width, 3), dtype=np.uint8)
    times: dict[str, list[float]] = {"feed + preprocess": [], "network": [], "total": []}
    memory, finite, late = [], True, []
    for k in range(steps):
        stamp = 100 * MS * (k + 1)
        world_from_ego = np.eye(4)
        world_from_ego[0, 3] = 0.8 * k
        feed.push_pose(stamp if k % 97 else 0, world_from_ego if k % 53 else world_from_ego * np.nan)
        for camera, at, image in late:
            feed.push(camera, at, image)
        late = []
        for row, camera in enumerate(rig.names):
            image = pool[(k * 7 + row) % 16]
            if row == 2 and (k // 100) % 3 == 1:
                continue  # dead for a while, then back
            if row == 3 and k % 11 == 0:
                image = image.astype(np.float64) * np.nan
            at = stamp + int(random.integers(-30, 31)) * MS
            if row == 4 and k % 7 == 0:
                late.append((camera, at, image))  # delivered one step late, out of order
                continue
            feed.push(camera, at if row != 5 or k % 13 else at + 10**15, image)
        start = time.perf_counter()
        ready = feed.poll(stamp + 60 * MS)
        if ready is None:
            continue
        inputs, _ = packer.pack(ready.reference_ns, ready.pictures, ready.world_from_ego)
        packed = time.perf_counter()
        result = runner.step(ready.reference_ns, inputs, ready.world_from_ego)
        done = time.perf_counter()
        finite &= bool(np.isfinite(result.raw["boxes"]).all() and np.isfinite(result.raw["scores"]).all())
        for name, seconds in (("feed + preprocess", packed - start), ("network", result.network_s), ("total", done - start)):
            times[name].append(seconds)
        if k in (steps // 10, steps - 1):
            memory.append(resident_mb())
    memory.append(resident_mb())
    counters = {**vars(feed.counters), "steps": runner.counters.steps, "resets": runner.counters.resets}
    counters |= {"poisoned_states": runner.counters.poisoned_states, "refused_steps": runner.counters.refused_steps}
    provider = network.session.get_providers()[0]
    print(f"not installed: {', '.join(absent)}; {provider}, {threads} thread(s), load {os.getloadavg()[0]:.1f}")
    print(json.dumps(counters))
    print(f"memory after a tenth {memory[0]:.0f} MB, at the end {memory[-1]:.0f} MB; all outputs finite: {finite}")
    for name, values in times.items():
        ms = np.array(values) * 1e3
        p50, p90, p99 = np.percentile(ms, (50, 90, 99))
        print(f"{name:18} p50 {p50:.2f}  p90 {p90:.2f}  p99 {p99:.2f}  max {ms.max():.2f} ms   p99/p50 {p99 / p50:.2f}")
    flat = memory[-1] <= 1.05 * memory[0]
    return 0 if finite and flat and runner.counters.poisoned_states == 0 else 1


def _importable(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    raise SystemExit(main())
