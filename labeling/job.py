"""How are many clips labelled? Each on its own, by one or several processes; a bad clip fails alone, a killed job goes on where it was."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from labeling.clip_labels import LabelSettings, label_clip
from labeling.stages import StageResult
from scenes.errors import ConfigError, SurroundError


@dataclass
class ClipOutcome:
    """What became of one clip."""

    clip: str
    stages: list[StageResult] = field(default_factory=list)
    failure: str = ""
    """The sentence that says why there is no layer; "" if there is one."""


@dataclass
class JobReport:
    """What became of all clips of a job."""

    layer: str
    outcomes: list[ClipOutcome]

    @property
    def failures(self) -> list[ClipOutcome]:
        """The clips without labels."""
        return [outcome for outcome in self.outcomes if outcome.failure]

    def totals(self) -> dict[str, float]:
        """Counts of all stages and clips added up, and the seconds spent now."""
        stages = [stage for outcome in self.outcomes for stage in outcome.stages]
        totals: dict[str, float] = {"clips": len(self.outcomes), "failed": len(self.failures)}
        totals["stages_run"] = sum(not stage.reused for stage in stages)
        totals["stages_reused"] = sum(stage.reused for stage in stages)
        totals["seconds"] = round(sum(stage.seconds for stage in stages if not stage.reused), 3)
        for stage in stages:
            for name, count in stage.counts.items():
                totals[name] = totals.get(name, 0) + count
        return totals

    def to_json(self) -> dict:
        """The report as JSON values."""
        return {"layer": self.layer, "totals": self.totals(), "clips": [asdict(outcome) for outcome in self.outcomes]}


def shard_of(clips: list[Path], shard: str) -> list[Path]:
    """The clips that part i of n ("i/n", i from 1) is to do: every n-th, so that all parts get some of each folder."""
    part, _, parts = shard.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise ConfigError(f"label: expected --shard like 2/8 with the part between 1 and the number of parts, got {shard!r}; correct it")
    return clips[int(part) - 1 :: int(parts)]


def label_one(clip_path: Path, settings: LabelSettings) -> ClipOutcome:
    """Labels one clip; whatever goes wrong with it becomes its sentence."""
    try:
        return ClipOutcome(str(clip_path), label_clip(clip_path, settings))
    except SurroundError as error:
        return ClipOutcome(str(clip_path), failure=str(error))
    except Exception as error:  # the other clips go on whatever this one holds
        return ClipOutcome(str(clip_path), failure=f"{clip_path}: stopped by an error of ours ({type(error).__name__}: {error}); report it")


def _outcomes(clips: list[Path], settings: LabelSettings, workers: int) -> Iterator[ClipOutcome]:
    if workers <= 1 or len(clips) <= 1:
        yield from (label_one(clip, settings) for clip in clips)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(clips)), mp_context=context) as pool:
        futures = {pool.submit(label_one, clip, settings): clip for clip in clips}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                reason = "the worker process died, perhaps for lack of memory; run the job again with fewer --workers"
                yield ClipOutcome(str(futures[future]), failure=f"{futures[future]}: {reason}")


def run_job(clips: list[Path], settings: LabelSettings, workers: int, console: Console) -> JobReport:
    """Labels the clips with a progress bar; failures are printed as they come."""
    outcomes: dict[str, ClipOutcome] = {}
    columns = (TextColumn("label"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("label", total=len(clips))
        for outcome in _outcomes(clips, settings, workers):
            outcomes[outcome.clip] = outcome
            progress.advance(task)
            if outcome.failure:
                progress.console.print(f"[red]failed[/red] {outcome.failure}", soft_wrap=True, highlight=False)
    return JobReport(settings.layer, [outcomes[str(clip)] for clip in clips])
