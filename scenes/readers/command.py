"""How does a whole dataset become clips from the command line?"""

import os
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from scenes.errors import DataError, SurroundError
from scenes.readers import argoverse2, nuscenes, nuscenes_mmdet3d, pandaset
from scenes.readers.nuscenes_tables import find_version
from scenes.workers import end_with_parent


@dataclass(frozen=True)
class ImportJob:
    """One recording to bring in: the function that does it and what it needs, so that another process can run it."""

    name: str
    """Of the clip's folder."""
    run: Callable[..., list[str]]
    """Called with the arguments and the target folder; returns notes."""
    arguments: tuple
    link: bool


@dataclass(frozen=True)
class ImportOutcome:
    """What became of a job: notes on what was left out, or the one sentence why it failed."""

    name: str
    notes: tuple[str, ...] = ()
    error: str = ""


def import_dataset(
    dataset: tyro.conf.Positional[Literal["nuscenes", "av2", "pandaset"]],
    source: tyro.conf.Positional[Path],
    target: tyro.conf.Positional[Path],
    /,
    version: str = "",
    link: bool = False,
    sweeps: bool = False,
    workers: Annotated[int, tyro.conf.arg(aliases=["-j"])] = 1,
) -> int:
    """Brings recordings in: each becomes one clip folder below the target. Finished clips are kept, so a stopped job goes on.

    Args:
        dataset: The layout of the source.
        source: A nuScenes root (or a folder of mmdetection3d samples), Argoverse 2 logs or PandaSet sequences; one or many.
        target: The folder that receives the clips.
        version: nuScenes only: the table folder, such as v1.0-mini; needed where there are several.
        link: Link pictures instead of copying them; the source must then stay where it is.
        sweeps: nuScenes only: the pictures between keyframes become frames too (12 Hz, labels at keyframes only).
        workers: How many recordings are read at the same time.
    """
    if not source.is_dir():
        raise DataError(f"{source}: expected the folder of the recordings, got nothing there; check the path")
    jobs = list_jobs(dataset, source, version, link, sweeps)
    todo = [job for job in jobs if not (target / job.name / "clip.json").is_file()]
    console = Console()
    if len(todo) < len(jobs):
        console.print(f"{len(jobs) - len(todo)} of {len(jobs)} clips are there already")
    failed = 0
    for outcome in run_jobs(todo, target, workers, console):
        failed += bool(outcome.error)
        _print_outcome(console, outcome)
    console.print(f"{len(jobs) - failed} of {len(jobs)} clips in {target}" + (f", {failed} failed" if failed else ""))
    return 2 if failed else 0


def list_jobs(dataset: str, source: Path, version: str = "", link: bool = False, sweeps: bool = False) -> list[ImportJob]:
    """One job a recording found at or below `source`; none at all is refused with `DataError`."""
    if dataset == "pandaset":
        jobs = [ImportJob(f"pandaset_{p.resolve().name}", pandaset.import_sequence, (p,), link) for p in pandaset.find_sequences(source)]
    elif dataset == "av2":
        jobs = [ImportJob(f"av2_{p.resolve().name}", argoverse2.import_log, (p,), link) for p in argoverse2.find_logs(source)]
    elif samples := nuscenes_mmdet3d.find_samples(source):
        jobs = [ImportJob(f"nuscenes_{p.stem}", nuscenes_mmdet3d.import_sample, (p,), link) for p in samples]
    else:
        jobs = _scene_jobs(find_version(source, version), link, sweeps)
    if not jobs:
        raise DataError(f"{source}: expected {dataset} recordings there or one folder below, got none; check the path")
    return jobs


def _scene_jobs(folder: Path, link: bool, sweeps: bool) -> list[ImportJob]:
    names = nuscenes.open_tables(folder).scene_names()
    return [ImportJob(f"nuscenes_{name}", partial(nuscenes.import_scene, sweeps=sweeps), (folder, name), link) for name in names]


def run_jobs(jobs: list[ImportJob], target: Path, workers: int, console: Console):
    """Yields each job's outcome in order; one failure never stops the others."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("importing", total=len(jobs))
        for outcome in _outcomes(jobs, target, workers):
            progress.advance(bar)
            yield outcome


def _outcomes(jobs: list[ImportJob], target: Path, workers: int):
    if workers <= 1 or len(jobs) <= 1:
        yield from (run_job(job, target) for job in jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs), os.cpu_count() or 1), initializer=end_with_parent) as pool:
        yield from pool.map(run_job, jobs, [target] * len(jobs))


MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError)
"""What a recording with surprising content raises where no check foresaw it: it fails alone, the others go on."""


def run_job(job: ImportJob, target: Path) -> ImportOutcome:
    """Runs one job; bad input becomes the sentence of the outcome."""
    try:
        return ImportOutcome(job.name, notes=tuple(job.run(*job.arguments, target / job.name, link=job.link)))
    except SurroundError as error:
        return ImportOutcome(job.name, error=str(error))
    except MALFORMED as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return ImportOutcome(
            job.name,
            error=f"{job.arguments[0]}: content that the reader does not expect ({error!r} in {Path(where.filename).name}, "
            f"line {where.lineno}); compare with the dataset's documentation, restore the recording",
        )


def _print_outcome(console: Console, outcome: ImportOutcome) -> None:
    if outcome.error:
        console.print(f"[red]{outcome.name} failed[/red]: ", end="")
        console.print(outcome.error, markup=False, highlight=False, soft_wrap=True)
        return
    console.print(f"{outcome.name}", highlight=False)
    for note in outcome.notes:
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)
