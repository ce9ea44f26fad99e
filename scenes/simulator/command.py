"""How is `surround4d sim` run: which clips are missing, and who simulates them?"""

import multiprocessing
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from scenes.atomic import read_json
from scenes.errors import ConfigError, DataError, SurroundError
from scenes.simulator.config import MIXED, SimulationConfig, parse_size
from scenes.simulator.replay import check_replay
from scenes.simulator.simulate import clip_name, clip_prefix, settings_of, simulate_clip
from scenes.workers import end_with_parent


def simulate(
    out: tyro.conf.Positional[Path],
    clips: int = 8,
    seconds: float = 8.0,
    hz: float = 2.0,
    seed: int = 0,
    size: Annotated[str, tyro.conf.arg(metavar="HEIGHTxWIDTH")] = "96x256",
    workers: int = 1,
    scenario: str = MIXED,
    weather: str = MIXED,
    replay: Path | None = None,
) -> int:
    """Simulates clips with exact labels into a folder; clips that are there already are kept, so it may be stopped and started again.

    Args:
        out: Folder that gets one clip folder each.
        clips: Number of clips.
        seconds: Length of a clip.
        hz: Frames per second.
        seed: Another seed, other clips; the same seed, the same bytes.
        size: Image size in pixels, as HEIGHTxWIDTH.
        workers: Processes that simulate side by side.
        scenario: highway, city, intersection, parking, crossing or mixed.
        weather: day, dusk, night, rain, fog or mixed.
        replay: A clip whose recorded tracks and ego path are driven again.
    """
    if clips < 1 or workers < 1:
        raise ConfigError(f"--clips and --workers: expected at least 1, got {clips} and {workers}; choose positive numbers")
    if replay is not None:
        check_replay(replay)
    config = SimulationConfig(seconds, hz, seed, parse_size(size), scenario, weather, replay)
    prepare_folder(out, clip_prefix(config))
    missing = [index for index in range(clips) if not is_done(out / clip_name(config, index), config)]
    if len(missing) < clips:
        Console().print(f"{clips - len(missing)} of {clips} clips are there already")
    failures = run_jobs(out, config, missing, workers)
    for message in failures:
        Console(stderr=True).print(f"surround4d sim: {message}", markup=False, soft_wrap=True)
    return 2 if failures else 0


def prepare_folder(out: Path, prefix: str) -> None:
    """Makes the output folder and clears what a killed run of the same clips left half-written in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from error
    for leftover in out.glob(f".{prefix}*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def is_done(path: Path, config: SimulationConfig) -> bool:
    """Whether the clip is there already; one made with other settings is refused."""
    if not path.exists():
        return False
    made_with, wanted = read_json(path / "clip.json").get("info", {}).get("simulation"), settings_of(config)
    if made_with != wanted:
        other = [name for name in wanted if not isinstance(made_with, dict) or made_with.get(name) != wanted[name]]
        raise ConfigError(
            f"{path}: expected a clip made with the same settings, got another {', '.join(other)}; choose another folder or seed"
        )
    return True


def run_jobs(out: Path, config: SimulationConfig, indices: list[int], workers: int) -> list[str]:
    """Simulates the clips of these indices; returns one sentence for each that failed."""
    failures: list[str] = []
    with _progress() as progress:
        task = progress.add_task("clips", total=len(indices))
        if workers == 1:
            for index in indices:
                failures += _job(out, config, index, 0)
                progress.advance(task)
            return failures
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet_worker)
        try:
            for job in as_completed([pool.submit(_job, out, config, index, 1) for index in indices]):
                failures += job.result()
                progress.advance(task)
        except BrokenProcessPool as error:
            raise DataError(
                f"{out}: a worker process was killed, perhaps for want of memory; run again with fewer --workers, finished clips are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    return failures


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())


def _quiet_worker() -> None:
    """One thread a process, because the processes share the cores; and none outlives the command."""
    import cv2

    cv2.setNumThreads(1)
    end_with_parent()


def _job(out: Path, config: SimulationConfig, index: int, threads: int) -> list[str]:
    try:
        simulate_clip(out / clip_name(config, index), config, index, threads)
    except SurroundError as error:
        return [str(error)]
    return []
