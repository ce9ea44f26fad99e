"""Does the runner drive on for 10,000 steps without torch? Own environment, cameras that die, come late, double, send NaN.

    python -m benchmarks.onnx_runner                      # 10,000 steps of a small network (nano's operators, 32x64 pictures, no voxels)
    python -m benchmarks.onnx_runner --real --steps 1000  # the shipped nano at its own size, pictures of 540x960 to be shrunk
    python -m benchmarks.onnx_runner --file car.onnx

A virtual environment with numpy and onnxruntime alone is made (pip, versions of constraints.txt); the drive runs inside it. Printed: what
is not installed, what was dropped, memory, p50/p90/p99/max per stage. `processor` is the total in processor time of the driving thread
(with one thread: all of it), which tells the runner's own spread from that of a machine shared with others. Exit status 1 if memory
grew by more than 2 % after a tenth of the steps, an output was not finite, a state was poisoned, a step was lost, or the runner
answers otherwise than a new one afterwards.
"""

import argparse
import gc
import importlib.util
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
ABSENT = ("torch", "cv2", "onnx", "scipy", "pyarrow")


def main() -> int:
    """Exports, makes the environment, drives in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="an exported graph; default: a small random network is exported")
    parser.add_argument("--real", action="store_true", help="export and drive the shipped nano")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return drive(arguments.file, arguments.steps, arguments.threads)
    with TemporaryDirectory() as folder:
        file = (arguments.file or exported(Path(folder), arguments.real)).resolve()
        python = bare_environment(Path(folder) / "env")
        command = [str(python), "-m", "benchmarks.onnx_runner", "--inside", "--file", str(file), "--steps", str(arguments.steps)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run([*command, "--threads", str(arguments.threads)], cwd=ROOT, env=environment, check=False).returncode


def exported(folder: Path, real: bool) -> Path:
    """The shipped nano, or nano's kinds of operators at a size that makes 10,000 steps bearable."""
    from dataclasses import replace

    from export.networks import load_network, random_network
    from export.onnx_graph import export_model
    from fusion.config import nano

    path = folder / "graph.onnx"
    if real:
        network = load_network("nano", None, "gridsample")
        export_model(network.model, network.config, path)
        return path
    config = nano()
    query = replace(config.query, num_layers=1, new_queries=20, memory_slots=12)
    grid, bev = replace(config.grid, cell_m=4.0, cells_x=16, cells_y=16), replace(config.bev, encoder_blocks=1)
    small = replace(config, name="nano-small", input_hw=(32, 64), sampler="gridsample", grid=grid, query=query, bev=bev, occupancy=False)
    export_model(random_network(small), small, path)
    return path


def bare_environment(folder: Path) -> Path:
    """A virtual environment with numpy and onnxruntime; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "numpy", "onnxruntime"], check=True)
    return python


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def drive(file: Path, steps: int, threads: int) -> int:
    """The drive itself; runs inside the bare environment."""
    import numpy as np

    from export.live import LiveRunner
    from export.runner import OnnxNetwork
    from scenes.rigs import default_rig

    here = [name for name in ABSENT if importlib.util.find_spec(name) is not None]
    network = OnnxNetwork(file, threads=threads)
    real_size = network.manifest.input_hw[0] >= 96
    rig = default_rig(540, 960) if real_size else default_rig(*network.manifest.input_hw)
    height, width = rig.cameras[0].height_px, rig.cameras[0].width_px
    pool = np.random.default_rng(0).integers(0, 255, (4, height, width, 3), dtype=np.uint8)
    live = LiveRunner(network, rig.cameras, period_s=0.1, deadline_s=0.05)
    rows = ("preprocess", "network", "read-out", "total", "processor")
    times = np.full((len(rows), steps), np.nan)  # all of it touched now: lists that grow would be taken for a growing runner
    memory, finite, notes, computed = np.full(steps // 100 + 1, np.nan), True, 0, 0
    deliveries = Deliveries(rig.names, pool)
    print(
        f"{file.name}: {network.manifest.variant} {network.manifest.input_hw}, {len(rig)} cameras of {height}x{width}; installed of "
        f"{', '.join(ABSENT)}: {', '.join(here) or 'none'}; onnxruntime, {threads} thread(s), load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    for k in range(steps):
        stamp = 100 * MS * (k + 1)
        deliveries.push(live, k, stamp)
        start, busy = time.perf_counter(), time.thread_time()
        step = live.poll(stamp + 60 * MS)
        total, processor = time.perf_counter() - start, time.thread_time() - busy
        if step is not None:
            raw = step.result.raw
            finite &= all(bool(np.isfinite(raw[name]).all()) for name in ("boxes", "scores", "velocities", "flow") if name in raw)
            notes += len(step.notes)
            times[:, computed] = step.preprocess_s, step.result.network_s, step.result.readout_s, total, processor
            computed += 1
        if k % 100 == 99:
            memory[k // 100] = resident_mb()
        if k % 1000 == 999:
            p50, p99 = np.percentile(times[3, max(0, computed - 900) : computed] * 1e3, (50, 99))
            print(f"step {k + 1}: {memory[k // 100]:.1f} MB, last thousand p50 {p50:.1f}, p99 {p99:.1f} ms, finite: {finite}", flush=True)
    same = answers_like_a_new_one(live, LiveRunner(network, rig.cameras, 0.1, 0.05), rig.names, pool, 100 * MS * (steps + 100))
    counters = live.counters()
    expected = steps - deliveries.silent_steps
    print(json.dumps({**counters, "cameras_not_alive": notes, "reset_reasons": live.runner.counters.reasons}))
    print(f"{computed} steps computed of {expected} in which a camera delivered; outputs finite: {finite}; like a new one: {same}")
    memory = memory[: steps // 100] if steps >= 100 else np.array([resident_mb()])
    settled = memory[max(0, len(memory) // 10 - 1)]
    print(f"memory after a tenth {settled:.1f} MB, largest later {memory.max():.1f} MB, at the end {memory[-1]:.1f} MB")
    for name, values in zip(rows, times, strict=True):
        ms = values[min(20, computed // 10) : computed] * 1e3
        p50, p90, p99 = np.percentile(ms, (50, 90, 99))
        print(f"{name:11} p50 {p50:7.2f}  p90 {p90:7.2f}  p99 {p99:7.2f}  max {ms.max():7.2f} ms   p99/p50 {p99 / p50:.2f}")
    lost = expected - computed
    good = finite and same and not here and lost == 0 and memory[-1] <= 1.02 * settled
    return 0 if good and counters["poisoned_states"] == 0 and counters["refused_steps"] == 0 else 1


class Deliveries:
    """What eight cameras and an odometer send in a bad week."""

    def __init__(self, names: tuple[str, ...], pool) -> None:
        import numpy as np

        self.names, self.pool = names, pool
        self.random = np.random.default_rng(1)
        self.late: list = []
        self.nan = np.full(pool[0].shape, np.nan)
        self.silent_steps = 0
        """Steps in which no camera at all delivered."""

    def push(self, live, k: int, stamp: int) -> None:
        """Everything that arrives before the deadline of step k."""
        import numpy as np

        world_from_ego = np.eye(4)
        world_from_ego[0, 3] = 0.8 * k
        live.push_pose(stamp if k % 97 else 0, world_from_ego if k % 53 else world_from_ego * np.nan)
        for camera, at, image in self.late:  # what was held up in the step before, out of order
            live.push_image(camera, at, image)
        self.late = []
        if k % 500 in (250, 251, 252):
            self.silent_steps += 1
            return  # every camera silent for 0.3 s
        for row, camera in enumerate(self.names):
            image, at = self.pool[(k + row) % len(self.pool)], stamp + int(self.random.integers(-30, 31)) * MS
            if row == 2 and (k // 100) % 3 == 1:
                continue  # dead for ten seconds, then back
            if row == 3 and k % 11 == 0:
                image = self.nan
            if row == 4 and k % 7 == 0:
                self.late.append((camera, at, image))
                continue
            if row == 5 and k % 13 == 0:
                at += 10**15  # its clock is broken
            if row == 6 and k % 17 == 0:
                image = image[:7]  # half a picture
            if row == 7 and k % 19 == 0:
                live.push_image(camera, at, image)  # twice
            live.push_image(camera, at, image)
        if k % 23 == 0:
            live.push_image("nobody", stamp, self.pool[0])
            live.push_image(self.names[0], float("nan"), self.pool[0])
        if k % 1000 == 999:
            gc.collect()


def answers_like_a_new_one(used, new, names: tuple[str, ...], pool, start_ns: int) -> bool:
    """After a pause longer than the manifest allows, both must say the same of five clean steps, bit by bit."""
    import numpy as np

    for k in range(5):
        stamp, answers = start_ns + 100 * MS * k, []
        for live in (used, new):
            live.push_pose(stamp, np.eye(4))
            for _ in range(2):  # the first pictures after a pause tell the feed that the clock jumped
                for row, camera in enumerate(names):
                    live.push_image(camera, stamp, pool[row % len(pool)])
            step = live.poll(stamp + 60 * MS)
            answers.append(step.result.raw if step else {})
        if not answers[0] or any(not np.array_equal(answers[0][name], answers[1][name]) for name in answers[0]):
            return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
