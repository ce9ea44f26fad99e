"""`surround4d label`: who labels these clips, from what, and under which name?"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from labeling.job import JobReport, check_files, run_job, shard_of
from labeling.job_report import COUNTS, html_report
from labeling.kitti.layout import label_sequence, sequence_names, write_results
from labeling.kitti.settings import kitti_classes
from labeling.motion.settings import RefineMotion
from labeling.settings import LabelSettings
from labeling.tracks.settings import ConfidenceSettings, TrackingSettings
from scenes.atomic import write_json
from scenes.clips import find_clips
from scenes.errors import ConfigError, SurroundError
from scenes.workers import end_with_parent

MOST_ROWS = 60
"""A longer job prints the rows of its failures only; the report has all."""


def label(
    clips: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    layer: str = "auto@first",
    teacher: Path | None = None,
    evidence: str | None = None,
    detector: Path | None = None,
    boxes2d: Path | None = None,
    lidar: bool = False,
    workers: int = 1,
    ray: str | None = None,
    shard: str = "1/1",
    device: str = "cpu",
    both_ways: bool = True,
    mirrored: bool = False,
    label_probability: float = ConfidenceSettings.label_probability,
    ignore_probability: float = ConfidenceSettings.ignore_probability,
    confidence: Path | None = None,
    report: Path | None = None,
    pictures: bool = True,
    reconstruct: bool = False,
    refine_motion: Literal["auto", "on", "off"] = "off",
    from_kitti: Path | None = None,
    out: Path | None = None,
) -> int:
    """Label clips with hindsight: detections of all frames become tracks, tracks become one smooth trajectory each, written as a layer.

    Run again, it does only what changed; killed, it goes on where it was. The exit status is 2 if any clip failed, or none was begun
    because a file that all need cannot be used.

    Args:
        clips: Folders of clips, searched in depth.
        layer: Name of the layer to write, auto@NAME.
        teacher: Checkpoint (file, run folder or shipped name) of the network that looks at the clips.
        evidence: Instead of a teacher or besides it: the layer whose boxes are detections.
        detector: Cold start, without or besides the others: ONNX file of a 2D detector (YOLOX), lifted to objects in space.
        boxes2d: People's rectangles (COCO JSON, CVAT XML for images) to be lifted, without or besides the detector.
        lidar: Take distances from lidar sweeps where clips have them (lidar/FRAME.npz, as `import` writes them).
        workers: Processes that label clips side by side.
        ray: Instead of local processes: a Ray cluster; "local" starts one here, "auto" takes the running one, or its host:port.
        shard: Do part i of n of the clips ("2/8"), for batch queues.
        device: Where the teacher runs: auto, cpu, cuda, cuda:1.
        both_ways: Show the teacher each clip from both ends and fuse what it says.
        mirrored: Show it each clip in a mirror as well; takes twice as long.
        label_probability: Boxes at least this probable are labels ...
        ignore_probability: ... those at least this probable are written as `ignore`, the rest is left out.
        confidence: Weights of the probabilities (JSON of `python -m labeling.confidence.fit`); by default those shipped for the evidence.
        report: Where the job's report goes (JSON, and a page beside it); by default labeling/<layer>.json in the first folder given.
        pictures: Put a picture of each clip into the page.
        reconstruct: Also reconstruct the static scene from the pictures: points, mesh, road heights, occupancy and depth labels.
        refine_motion: Refine ego motion, camera clocks and rotations from the pictures: where rough (auto), always, never.
        from_kitti: Instead of clips: label the KITTI tracking sequences in this folder from their detections.
        out: Folder for the KITTI result files.
    """
    if from_kitti is not None or out is not None:
        return _label_kitti(from_kitti, out, workers)
    if not clips:
        raise ConfigError("label: expected folders of clips, got none; give at least one")
    if workers < 1:
        raise ConfigError(f"label: expected at least one worker, got {workers}; correct --workers")
    tracking = TrackingSettings().with_probabilities(label_probability, ignore_probability)
    settings = LabelSettings(
        layer,
        teacher,
        evidence,
        tracking,
        confidence,
        device,
        both_ways,
        mirrored,
        pictures,
        reconstruct,
        detector=detector,
        boxes2d=boxes2d,
        lidar=lidar,
        refine_motion=RefineMotion(refine_motion),
    )
    chosen = shard_of(find_clips(list(clips)), shard)
    check_files(settings, elsewhere=ray is not None)
    console = Console()
    done = run_job(chosen, settings, workers, console, ray)
    suffix = "" if shard == "1/1" else "-" + shard.replace("/", "of")
    report_path = report or clips[0] / "labeling" / f"{layer}{suffix}.json"
    print_report(console, done)  # first: where the disk is full this is all that there will be
    write_json(report_path, done.to_json())
    page = html_report(done).save(report_path.with_suffix(".html"))
    console.print(f"report: {report_path}, {page}", soft_wrap=True, highlight=False, markup=False)
    return 2 if done.failures else 0


def _label_kitti(root: Path | None, out: Path | None, workers: int) -> int:
    if root is None or out is None:
        raise ConfigError("label: expected --from-kitti ROOT together with --out DIR, got one of them; give both")
    console, names = Console(), sequence_names(root)
    failures = 0
    with ProcessPoolExecutor(max(workers, 1), multiprocessing.get_context("spawn"), end_with_parent) as pool:
        results = pool.map(label_kitti_sequence, [root] * len(names), names, [out] * len(names))
        for name, sentence in zip(names, results, strict=True):
            failures += sentence.startswith("failed")
            console.print(f"{name}: {sentence}", soft_wrap=True, highlight=False, markup=False)
    return 2 if failures else 0


def label_kitti_sequence(root: Path, name: str, out: Path) -> str:
    """Labels one KITTI sequence and writes its result files; returns what was done, or `failed` and why."""
    try:
        tracks, sequence = label_sequence(root, name, kitti_classes())
        for kind in kitti_classes():
            write_results(out, sequence, kind, tracks[kind.name])
    except (SurroundError, OSError) as error:
        return f"failed {error}"
    return ", ".join(f"{len(found)} {kind}" for kind, found in tracks.items())


def print_report(console: Console, report: JobReport) -> None:
    """One line a clip (of a small job) and one for all."""
    table, names = Table(title=f"layer {report.layer}"), COUNTS
    for name in ("clip", *names, "seconds"):
        table.add_column(name, justify="left" if name == "clip" else "right")
    for outcome in report.outcomes if len(report.outcomes) <= MOST_ROWS else report.failures[:MOST_ROWS]:
        counts = outcome.counts()
        spent = sum(stage.seconds for stage in outcome.stages if not stage.reused)
        cells = ["failed"] + [""] * (len(names) - 1) if outcome.failure else [f"{counts.get(name, 0):g}" for name in names]
        table.add_row(Text(Path(outcome.clip).name), *cells, f"{spent:.1f}")
    totals = report.totals()
    if len(report.outcomes) > 1:
        table.add_row("all", *(f"{totals.get(name, 0):g}" for name in names), f"{totals['seconds']:.1f}", style="bold")
    console.print(table)
    console.print(
        f"{totals['clips'] - totals['failed']:g} of {totals['clips']:g} clip(s) labelled, "
        f"{totals['stages_run']:g} stages run, {totals['stages_reused']:g} reused"
    )
