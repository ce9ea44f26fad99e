"""How does a labeling job look? One HTML page: totals, failures, a row and a picture a clip."""

from collections.abc import Sequence
from pathlib import Path

from labeling.job import JobReport
from scenes.report import Report

COUNTS = ("detections", "tracks", "labels", "ignore", "filled")
"""The counts worth a column."""


def html_report(report: JobReport, command: str = "") -> Report:
    """The page of a job; clips that failed come first."""
    page = Report(f"Labels: {report.layer}")
    totals = report.totals()
    page.text(
        f"{totals['clips'] - totals['failed']:g} of {totals['clips']:g} clips labelled, {totals['stages_run']:g} stages run, "
        f"{totals['stages_reused']:g} reused, {totals['seconds']:.1f} s of work."
    )
    if command:
        page.commands([command])
    page.heading("Totals")
    page.table(["what", "how many"], [[name.replace("_", " "), value] for name, value in totals.items()])
    page.heading("Seconds by stage")
    page.table(["stage", "run", "reused", "seconds"], _stage_rows(report))
    if report.failures:
        page.heading("Failures")
        last = [outcome.stages[-1].name if outcome.stages else "" for outcome in report.failures]
        rows = [[Path(outcome.clip).name, stage, outcome.failure] for outcome, stage in zip(report.failures, last, strict=True)]
        page.table(["clip", "last stage done", "why"], rows)
    notes = [[Path(outcome.clip).name, note] for outcome in report.outcomes for note in outcome.notes]
    if notes:
        page.heading("Notes")
        page.table(["clip", "what was odd"], notes)
    page.heading("Clips")
    page.table(["clip", *COUNTS], [_clip_row(Path(o.clip).name, o.counts()) for o in report.outcomes if not o.failure])
    _pictures(page, report)
    return page


def _stage_rows(report: JobReport) -> list[list[object]]:
    rows: dict[str, list] = {}
    for stage in (stage for outcome in report.outcomes for stage in outcome.stages):
        row = rows.setdefault(stage.name, [stage.name, 0, 0, 0.0])
        row[1 + stage.reused] += 1
        row[3] += 0.0 if stage.reused else stage.seconds
    return list(rows.values())


def _clip_row(name: str, counts: dict[str, float]) -> Sequence[object]:
    return [name, *(int(counts.get(count, 0)) for count in COUNTS)]


def _pictures(page: Report, report: JobReport) -> None:
    for outcome in report.outcomes:
        for stage in outcome.stages:
            path = Path(outcome.clip) / stage.artefact
            if stage.name == "picture" and path.is_file():
                counts = outcome.counts()
                page.jpeg_file(path, f"{Path(outcome.clip).name}: " + ", ".join(f"{counts.get(n, 0):g} {n}" for n in COUNTS))
