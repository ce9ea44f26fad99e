"""`surround4d check`: are these clips fit to be trained on?"""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from scenes.atomic import write_json
from scenes.check.agreement import FEWEST_DETECTIONS, check_agreement
from scenes.check.files import check_layers, check_pictures
from scenes.check.findings import Agreement, ClipReport, Severity, broken, warning
from scenes.check.labels import check_labels
from scenes.check.motion import check_clocks, check_poses
from scenes.check.rig_sanity import check_rig
from scenes.clips import Clip, find_clips
from scenes.detector2d import YoloxDetector
from scenes.errors import DataError
from scenes.geometry import NS_PER_S


def check(
    clips: Annotated[tuple[Path, ...], tyro.conf.Positional],
    detector: Path | None = None,
    layer: str = "truth",
    frames: int = 50,
    json: Path | None = None,
) -> int:
    """Verify files, clocks, poses, labels and calibration of clips; the exit status is 2 if any clip is broken.

    Args:
        clips: Folders of clips, searched in depth.
        detector: YOLOX detector as ONNX; with it each camera's calibration is compared with what the detector sees.
        layer: Label layer whose boxes are checked and projected.
        frames: At most this many frames of each clip, evenly spread, are shown to the detector.
        json: Write the reports as JSON here.
    """
    console = Console(width=max(Console().width, 124), soft_wrap=True)
    paths = find_clips(list(clips))
    model = YoloxDetector(detector, score_threshold=0.5) if detector else None
    reports = []
    for path in paths:
        report = check_clip(path, model, layer, frames)
        print_report(console, report)
        reports.append(report)
    num_broken = sum(report.is_broken for report in reports)
    console.print(f"{len(reports)} clip(s) checked, {num_broken} broken.")
    if json is not None:
        write_json(json, {"clips": [report.to_json() for report in reports], "num_broken": num_broken})
    return 2 if num_broken else 0


def check_clip(path: Path, detector: YoloxDetector | None = None, layer: str = "truth", frames: int = 50) -> ClipReport:
    """Everything that can be checked about one clip; a clip that cannot be opened gets a report that says why."""
    report = ClipReport(str(path), path.name)
    try:
        clip = Clip.open(path)
    except DataError as error:
        report.findings.append(broken("files", str(error)))
        return report
    report.name, report.num_frames = clip.name, len(clip)
    report.duration_s = (clip.frames[-1].timestamp_ns - clip.frames[0].timestamp_ns) / NS_PER_S
    report.findings, report.cameras = check_pictures(clip)
    report.findings += check_layers(clip)
    report.findings += check_clocks(clip, report.cameras)
    report.findings += check_poses(clip)
    report.findings += check_rig(clip.rig, str(clip.path / "clip.json"))
    _check_with_labels(clip, report, detector, layer, frames)
    return report


def _check_with_labels(clip: Clip, report: ClipReport, detector: YoloxDetector | None, name: str, frames: int) -> None:
    """Adds what needs the label layer to the report; a clip without it is told so, a broken layer is known already."""
    if name not in clip.layer_names:
        has = ", ".join(clip.layer_names) or "none"
        report.findings.append(warning("labels", f"{clip.path}: no label layer {name!r} (it has {has}), so labels are not checked"))
        return
    try:
        labels = clip.layer(name)
    except DataError:
        return
    findings, report.static_drift_mps = check_labels(clip, labels)
    report.findings += findings
    if detector is None:
        return
    agreements, findings = check_agreement(clip, labels, detector, frames)
    report.findings += findings
    for camera in report.cameras:
        camera.agreement = agreements[camera.camera]


def print_report(console: Console, report: ClipReport) -> None:
    """One table of cameras and the findings below it."""
    verdict = "[red]broken[/]" if report.is_broken else "[yellow]look[/]" if report.findings else "[green]good[/]"
    drift = "" if report.static_drift_mps is None else f", standing objects drift {report.static_drift_mps:.3f} m/s"
    console.print(f"[bold]{report.name}[/]  {report.num_frames} frames, {report.duration_s:.1f} s{drift}: {verdict}")
    if report.cameras:
        console.print(_camera_table(report))
    for finding in report.findings:
        color = "red" if finding.severity is Severity.BROKEN else "yellow"
        console.print(f"  [{color}]{finding.severity.value}[/] {finding.part}: ", end="")
        console.print(finding.text, markup=False, highlight=False)


def _camera_table(report: ClipReport) -> Table:
    table = Table("camera", "pictures", "offset ms", "detections", "meet a box", "turn that fits best: left, up, clockwise", "verdict")
    for camera in report.cameras:
        low, middle, high = camera.offset_ms
        bad = any(f.camera == camera.camera and f.severity is Severity.BROKEN for f in report.findings)
        table.add_row(
            camera.camera,
            f"{camera.num_readable}/{report.num_frames}",
            f"{middle:+.0f} ({low:+.0f} .. {high:+.0f})",
            *_agreement_cells(camera.agreement),
            "[red]broken[/]" if bad else "[green]good[/]",
        )
    overall = report.overall
    if overall is not None and overall.num_detections:
        table.add_section()
        table.add_row("all", "", "", str(overall.num_detections), f"{overall.share:.1%}", "", "")
    return table


def _agreement_cells(agreement: Agreement | None) -> tuple[str, str, str]:
    if agreement is None:
        return "", "", ""
    share = f"{agreement.share:.0%}" if agreement.num_detections else "-"
    if agreement.turn_deg is None:
        few = f"too few to judge (< {FEWEST_DETECTIONS})" if agreement.num_detections < FEWEST_DETECTIONS else "too few objects to judge"
        return str(agreement.num_detections), share, few
    left, up, clockwise = agreement.turn_deg
    return str(agreement.num_detections), share, f"{left:+.2f} {up:+.2f} {clockwise:+.2f} deg (+-{agreement.error_deg:.2f})"
