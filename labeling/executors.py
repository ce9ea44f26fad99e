"""Who labels the clips? This process, several processes, or a Ray cluster: each yields what became of a clip as soon as it is known.

A worker that dies (killed for lack of memory, a crash in a library) costs the clip it was at, never the others: the clips that were under
way are tried again, each in a process of its own, and only one that kills this too fails.
"""

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from scenes.errors import ConfigError
from scenes.workers import end_with_parent

DIED = "its worker process died, perhaps for lack of memory; label it alone with --workers 1 to see why"
IN_FLIGHT_PER_WORKER = 2
"""Clips handed out ahead: enough to keep all busy, few enough to keep memory flat however many clips there are."""

Work = Callable[[Path], Any]
"""What is done with a clip; picklable, and it never raises for a bad clip."""


def here(clips: list[Path], work: Work) -> Iterator[tuple[Path, Any]]:
    """One clip after the other in this process."""
    yield from ((clip, work(clip)) for clip in clips)


def _share_cores(workers: int) -> None:
    """Each worker's share of the cores, for libraries that are loaded later (torch); and none outlives the job."""
    end_with_parent()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_share_cores, initargs=(workers,))


def by_processes(clips: list[Path], work: Work, workers: int, died: Callable[[Path, str], Any]) -> Iterator[tuple[Path, Any]]:
    """Several local processes; `died(clip, reason)` is what becomes of a clip that kills its worker."""
    waiting = list(reversed(clips))
    while waiting:
        suspects: list[Path] = []
        with _pool(min(workers, len(waiting))) as pool:
            under_way: dict[Future, Path] = {}
            while waiting or under_way:
                try:
                    while waiting and not suspects and len(under_way) < IN_FLIGHT_PER_WORKER * workers:
                        under_way[pool.submit(work, waiting[-1])] = waiting[-1]
                        waiting.pop()
                except BrokenProcessPool:
                    pass  # what is under way says so too
                if not under_way:
                    break
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    clip = under_way.pop(future)
                    try:
                        yield clip, future.result()
                    except BrokenProcessPool:
                        suspects.append(clip)
        for clip in suspects:
            yield clip, _alone(clip, work, died)


def _alone(clip: Path, work: Work, died: Callable[[Path, str], Any]) -> Any:
    with _pool(1) as pool:
        try:
            return pool.submit(work, clip).result()
        except BrokenProcessPool:
            return died(clip, DIED)


def _call(work: Work, clip: Path) -> Any:
    return work(clip)


def by_ray(
    clips: list[Path], work: Work, address: str, workers: int, gpus: float, died: Callable[[Path, str], Any]
) -> Iterator[tuple[Path, Any]]:
    """A Ray cluster; clips lie on a disk that all its machines see.

    `address`: "local" starts a cluster of `workers` processes here, "auto" takes the running one, or host:port, ray://host:port.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise ConfigError("label: expected the package ray for --ray, got none; pip install 'surround4d[ray]' or use --workers") from error
    dashboard, cores = (False, workers) if address == "local" else (None, None)
    try:
        ray.init(address, num_cpus=cores, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"label: no Ray at {address!r} ({first}); start it with `ray start` or use --ray local") from error
    try:
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(_call)
        work_there = ray.put(work)
        slots = IN_FLIGHT_PER_WORKER * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting, under_way = list(reversed(clips)), {}
        while waiting or under_way:
            while waiting and len(under_way) < slots:
                clip = waiting.pop()
                under_way[remote.remote(work_there, clip)] = clip
            for reference in ray.wait(list(under_way))[0]:
                clip = under_way.pop(reference)
                try:
                    yield clip, ray.get(reference)
                except RayError:
                    yield clip, died(clip, DIED)
    finally:
        ray.shutdown()
