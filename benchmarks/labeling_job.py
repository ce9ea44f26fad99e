"""Does a labeling job of a thousand clips keep its memory flat, and does it go on after a kill as if nothing had been?

python -m benchmarks.labeling_job                    one simulated clip, linked a thousand times, labelled from a noisy evidence layer
python -m benchmarks.labeling_job --clip CLIP        the same with a clip of your own that has a `truth` layer
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from scenes.boxes import Boxes
from scenes.clips import Clip, find_clips
from scenes.layers import LabelLayer, write_layer
from scenes.simulator.command import simulate

EVIDENCE = "model@noisy"
LAYER = "auto@thousand"


def noisy_layer(clip: Clip, generator: np.random.Generator) -> LabelLayer:
    """The truth as a mediocre detector would see it: displaced, a fifth missing, as many ghosts, honest scores."""
    found = {}
    for index, truth in clip.layer("truth").boxes_world.items():
        kept = truth.select((generator.random(len(truth)) > 0.2) & ~truth.ignore)
        ghosts = kept.select(generator.random(len(kept)) < 0.2)
        boxes = Boxes.concatenate([kept, ghosts])
        box = boxes.box.copy()
        box[:, :2] += generator.normal(0, 0.4, (len(box), 2))
        box[len(kept) :, :2] += generator.normal(0, 15, (len(ghosts), 2))
        score = np.concatenate([generator.uniform(0.3, 0.95, len(kept)), generator.uniform(0.05, 0.4, len(ghosts))])
        found[index] = Boxes.make(box, boxes.class_id, score=score)
    return LabelLayer(EVIDENCE, found)


def linked_copies(source: Path, folder: Path, count: int) -> None:
    """`count` clips whose files are links to those of `source`; each has its own folders for what labeling writes."""
    for k in range(count):
        clip = folder / f"clip_{k:05d}"
        (clip / "layers").mkdir(parents=True)
        for name in ("clip.json", "frames.parquet", "views.parquet", "ego.parquet", "images", f"layers/{EVIDENCE}"):
            (clip / name).symlink_to((source / name).resolve())


def resident_mb(pid: int) -> float:
    """Resident memory of a process and all below it."""
    total, waiting = 0.0, [pid]
    while waiting:
        current = waiting.pop()
        try:
            status = Path(f"/proc/{current}/status").read_text()
            waiting += [int(child) for child in Path(f"/proc/{current}/task/{current}/children").read_text().split()]
        except OSError:
            continue
        total += next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)
    return total


def start_job(folder: Path, workers: int, pictures: bool, teacher: str | None) -> subprocess.Popen:
    """The job as a user starts it, in a process group of its own."""
    arguments = ["label", str(folder), "--layer", LAYER, "--evidence", EVIDENCE, "--workers", str(workers)]
    arguments += ["--teacher", teacher] if teacher else []
    arguments += [] if pictures else ["--no-pictures"]
    return subprocess.Popen([sys.executable, "-m", "surround4d", *arguments], stdout=subprocess.DEVNULL, start_new_session=True)


def labelled(folder: Path) -> int:
    """Clips that have the layer."""
    return sum(1 for _ in folder.glob(f"*/layers/{LAYER}/layer.json"))


def watch(job: subprocess.Popen, folder: Path, clips: int, stop_at: int | None) -> list[tuple[int, float, float]]:
    """(clips done, seconds, resident MB) at every tenth of the clips; kills the job once `stop_at` clips are done."""
    samples, begun, step = [], time.monotonic(), max(1, clips // 10)
    following = (labelled(folder) // step + 1) * step
    try:
        while job.poll() is None:
            time.sleep(0.5)
            done = labelled(folder)
            if following <= done < clips:
                samples.append((done, time.monotonic() - begun, resident_mb(job.pid)))
                print_sample(*samples[-1])
                following = (done // step + 1) * step
            if stop_at is not None and done >= stop_at:
                break
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
    samples.append((labelled(folder), time.monotonic() - begun, float("nan")))
    return samples


def print_sample(done: int, seconds: float, memory_mb: float) -> None:
    """A line as it comes: a measurement that is stopped has said something."""
    print(f"{done} clips after {seconds:.0f} s: {memory_mb:.0f} MB resident", flush=True)


def measure(
    clips: int = 1000, clip: Path | None = None, workers: int = 1, pictures: bool = True, kill: bool = True, teacher: str | None = None
) -> None:
    """Prints the memory along the way, the speed, and what a killed job did again.

    Args:
        clips: How many.
        clip: The clip that is linked; by default one is simulated.
        workers: Labeling processes.
        pictures: Draw a picture a clip, as a job does by default.
        kill: Kill the job half way with SIGKILL and start it again.
        teacher: A network (checkpoint or shipped name) that looks at the clips as well.
    """
    console = Console(width=120)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the job ends with the measurement
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if clip is None:
            simulate(folder / "source", clips=1, seconds=2.0, seed=9100, size="64x128", workers=1)
            clip = find_clips(folder / "source")[0]
        source = Path(shutil.copytree(clip, folder / "one", symlinks=False))
        write_layer(source, noisy_layer(Clip.open(source), np.random.default_rng(0)), replace=True)
        linked_copies(source, folder / "clips", clips)
        rows = watch(start_job(folder / "clips", workers, pictures, teacher), folder / "clips", clips, clips // 2 if kill else None)
        killed_at = labelled(folder / "clips") if kill else 0
        if kill:
            rows += watch(start_job(folder / "clips", workers, pictures, teacher), folder / "clips", clips, None)
        report = (folder / "clips" / "labeling" / f"{LAYER}.json").stat().st_size / 1e6
        page = (folder / "clips" / "labeling" / f"{LAYER}.html").stat().st_size / 1e6
        seconds = rows[-1][1] if not kill else rows[-1][1] + next(row[1] for row in rows if row[0] == killed_at)
        console.print(f"{labelled(folder / 'clips')} of {clips} clips labelled, {clips / seconds:.1f} clips/s with {workers} worker(s)")
        if kill:
            console.print(f"killed (SIGKILL) after {killed_at} clips; started again it labelled the other {clips - killed_at}")
        console.print(f"report {report:.1f} MB, page {page:.1f} MB")


if __name__ == "__main__":
    tyro.cli(measure)
