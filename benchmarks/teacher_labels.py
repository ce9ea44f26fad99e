"""How good are the labels of a teacher on simulated clips, by range and class, and how true are their probabilities?

python -m benchmarks.teacher_labels TRAIN VAL                 labels both, fits the confidences on TRAIN, checks and measures on VAL
python -m benchmarks.teacher_labels TRAIN VAL --ship          the same, and the fitted weights become the shipped ones

The clips' folders get a layer each; give copies (or links) of clips that must stay as they are.
"""

from dataclasses import replace
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from evaluation.labels import LabelQuality, label_quality
from labeling.confidence.fit import fit
from labeling.confidence.model import shipped_path
from labeling.job import run_job
from labeling.settings import LabelSettings
from scenes.boxes import CLASS_NAMES, VEHICLE_CLASSES, Boxes
from scenes.clips import Clip, find_clips
from scenes.errors import DataError

RANGES_M = ((0.0, 15.0), (15.0, 30.0), (30.0, 50.0), (0.0, 30.0))
MIN_VISIBILITY = 0.1
"""As in training: truth of which the cameras see less is neither to be found nor wrong to find."""


def measure(
    train: tyro.conf.Positional[Path],
    val: tyro.conf.Positional[Path],
    teacher: Path = Path("nano"),
    layer: str = "auto@teacher",
    workers: int = 1,
    mirrored: bool = False,
    ship: bool = False,
    out: Path = Path("out/benchmarks/teacher_labels"),
) -> None:
    """Prints calibration errors, then quality by class and range.

    Args:
        train: Clips with truth to fit the confidences on.
        val: Clips with truth to check and measure on.
        teacher: The network that labels.
        layer: Name of the labels' layer.
        workers: Labeling processes.
        mirrored: Show the teacher each clip in a mirror as well.
        ship: Put the fitted weights where the program looks for them.
        out: Weights (teacher.json) and reliability diagrams (reliability.html).
    """
    console = Console(width=150)
    settings = LabelSettings(layer, teacher=teacher, mirrored=mirrored, pictures=False)
    _label(find_clips([train, val]), settings, workers, console)
    weights = out / "teacher.json"
    model = fit((train,), layer, check=(val,), out=weights, page=out / "reliability.html")
    if ship:
        model.save(shipped_path("teacher"))
        console.print(f"wrote {shipped_path('teacher')}")
    _label(find_clips([val]), replace(settings, confidence=weights), workers, console)
    print_quality(console, find_clips([val]), layer)


def _label(paths: list[Path], settings: LabelSettings, workers: int, console: Console) -> None:
    report = run_job(paths, settings, workers, console)
    totals = report.totals()
    if report.failures:
        raise DataError(report.failures[0].failure)
    console.print(
        f"{totals['clips']:g} clips, {totals['detections']:g} detections, {totals['tracks']:g} tracks, {totals['labels']:g} labels, "
        f"{totals['ignore']:g} ignore, {totals['seconds']:.0f} s"
    )


def print_quality(console: Console, paths: list[Path], layer: str) -> None:
    """A row for each class and range, the boxes that are labels (not `ignore`) against the truth at 2 m."""
    pred_ego: list[Boxes] = []
    truth_ego: list[Boxes] = []
    for path in paths:
        clip = Clip.open(path)
        labels, truth = clip.layer(layer), clip.layer("truth")
        for frame in sorted(truth.boxes_world):
            boxes_ego = clip.boxes_ego(labels, frame) or Boxes.empty()
            pred_ego.append(boxes_ego.select(~boxes_ego.ignore))
            truth_ego.append(clip.boxes_ego(truth, frame) or Boxes.empty())
    names = ("truth", "labels", "recall", "precision", "centre m", "heading deg", "1 - IoU of size", "velocity m/s", "of moving ones")
    table = Table("class", "range m", *names, title=f"{layer} on {len(paths)} clips, within 2 m")
    for name, classes in {"vehicles": VEHICLE_CLASSES, **{name: (name,) for name in CLASS_NAMES}}.items():
        for range_m in RANGES_M:
            quality = label_quality(pred_ego, truth_ego, classes, range_m, min_visibility=MIN_VISIBILITY)
            if quality.num_truth:
                table.add_row(name, f"{range_m[0]:g} to {range_m[1]:g}", *_cells(quality))
    console.print(table)


def _cells(q: LabelQuality) -> list[str]:
    degrees = q.heading_error_rad * 57.29578
    shares = (q.recall, q.precision, q.centre_error_m)
    rest = (q.size_error, q.velocity_error_mps, q.velocity_error_moving_mps)
    return [str(q.num_truth), str(q.num_labels), *(f"{v:.2f}" for v in shares), f"{degrees:.0f}", *(f"{v:.2f}" for v in rest)]


if __name__ == "__main__":
    tyro.cli(measure)
