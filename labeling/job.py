"""How are many clips labelled? Each on its own, by one or several processes or a cluster; a bad clip fails alone, a killed job goes on."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from labeling.clip_labels import label_clip
from labeling.confidence.model import CentreModel
from labeling.confidence.stage import confidence_path
from labeling.executors import by_processes, by_ray, here
from labeling.lifting.detector import open_detector
from labeling.lifting.people_boxes import read_drawn
from labeling.settings import LabelSettings
from labeling.stages import StageResult
from labeling.telling import tell
from scenes.errors import ConfigError, SurroundError


@dataclass
class ClipOutcome:
    """What became of one clip."""

    clip: str
    stages: list[StageResult] = field(default_factory=list)
    failure: str = ""
    """The sentence that says why there is no layer; "" if there is one."""

    @property
    def notes(self) -> list[str]:
        """What was odd about the clip."""
        return [note for stage in self.stages for note in stage.notes]

    def counts(self) -> dict[str, float]:
        """The counts of all stages; detections of several sources are added up."""
        counts = {name: count for stage in self.stages for name, count in stage.counts.items()}
        detections = [stage.counts["detections"] for stage in self.stages if "detections" in stage.counts]
        return {**counts, "detections": sum(detections)} if detections else counts


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
        """Counts of all labelled clips added up, and the stages run and the seconds spent now, also for those that failed."""
        stages = [stage for outcome in self.outcomes for stage in outcome.stages]
        totals: dict[str, float] = {"clips": len(self.outcomes), "failed": len(self.failures)}
        totals["stages_run"] = sum(not stage.reused for stage in stages)
        totals["stages_reused"] = sum(stage.reused for stage in stages)
        totals["seconds"] = round(sum(stage.seconds for stage in stages if not stage.reused), 3)
        for outcome in (outcome for outcome in self.outcomes if not outcome.failure):
            for name, count in outcome.counts().items():
                totals[name] = totals.get(name, 0) + count
        return totals

    def to_json(self) -> dict:
        """The report as JSON values."""
        clips = [{**asdict(outcome), "notes": outcome.notes} for outcome in self.outcomes]
        return {"layer": self.layer, "totals": self.totals(), "clips": clips}


def shard_of(clips: list[Path], shard: str) -> list[Path]:
    """The clips that part i of n ("i/n", i from 1) is to do: every n-th, so that all parts get some of each folder."""
    part, _, parts = shard.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise ConfigError(f"label: expected --shard like 2/8 with the part between 1 and the number of parts, got {shard!r}; correct it")
    return clips[int(part) - 1 :: int(parts)]


def check_files(settings: LabelSettings, elsewhere: bool = False) -> None:
    """Reads the files that every clip is labelled with, before a clip is begun; `elsewhere`: the work is for other machines.

    Raises:
        DataError: a file that cannot be used.
        ConfigError: no such device.
    """
    if settings.teacher is not None:
        from training.checkpoints import load_checkpoint  # brings torch
        from training.device import choose_device

        device = choose_device(settings.device, elsewhere=elsewhere)
        if elsewhere and (settings.device == "auto" or device.index):
            raise ConfigError(f"--device: on a cluster every task has one GPU or none, got {settings.device!r}; give cpu or cuda")
        load_checkpoint(settings.teacher)
    if settings.detector is not None:
        open_detector(settings.detector, settings.lifting.detector.score, 0, 1)
    if settings.boxes2d is not None:
        read_drawn(settings.boxes2d)
    CentreModel.load(confidence_path(settings))


def label_one(clip_path: Path, settings: LabelSettings) -> ClipOutcome:
    """Labels one clip; whatever goes wrong with it becomes its sentence."""
    done: list[StageResult] = []
    try:
        return ClipOutcome(str(clip_path), label_clip(clip_path, settings, done))
    except SurroundError as error:
        return ClipOutcome(str(clip_path), done, str(error))
    except Exception as error:  # the other clips go on whatever this one holds
        return ClipOutcome(str(clip_path), done, f"{clip_path}: stopped by an error of ours ({type(error).__name__}: {error}); report it")


def _died(clip: Path, reason: str) -> ClipOutcome:
    return ClipOutcome(str(clip), failure=f"{clip}: {reason}")


def _outcomes(clips: list[Path], settings: LabelSettings, workers: int, ray_address: str | None) -> Iterator[tuple[Path, ClipOutcome]]:
    work = partial(label_one, settings=settings)
    if ray_address is not None:
        return by_ray(clips, work, ray_address, workers, 1.0 if settings.device.startswith("cuda") else 0.0, _died)
    if workers <= 1 or len(clips) <= 1:
        return here(clips, work)
    return by_processes(clips, work, workers, _died)


def run_job(clips: list[Path], settings: LabelSettings, workers: int, console: Console, ray_address: str | None = None) -> JobReport:
    """Labels the clips with a progress bar; failures and notes are printed as they come."""
    outcomes: dict[Path, ClipOutcome] = {}
    columns = (
        TextColumn("label"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task, failed = progress.add_task("label", total=len(clips), last=""), 0
        for clip, outcome in _outcomes(clips, settings, workers, ray_address):
            outcomes[clip] = outcome
            failed += bool(outcome.failure)
            progress.update(task, advance=1, last=f"{failed} failed   {clip.name}" if failed else clip.name)
            if outcome.failure:
                tell(progress.console, "failed", outcome.failure)
            for note in outcome.notes:
                tell(progress.console, "note", note)
    return JobReport(settings.layer, [outcomes[clip] for clip in clips])
