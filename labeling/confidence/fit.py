"""Which weights make the labels' probabilities true? Fitted on labelled clips whose truth is known, checked on others.

python -m labeling.confidence.fit CLIPS... --layer auto@first --check OTHER_CLIPS... --out weights.json --page reliability.html
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from labeling.confidence.features import GROUP_NAMES, BoxRows, box_rows
from labeling.confidence.model import CentreModel, fitted_model
from labeling.confidence.truth import calibration_error, distances_to_truth, reliability
from labeling.stages import read_arrays
from labeling.tracks.settings import ConfidenceSettings
from scenes.boxes import CENTRE_DISTANCES_M
from scenes.clips import Clip, find_clips
from scenes.errors import ConfigError, DataError, one_sentence
from scenes.report import Curve, Report

FEW_CLIPS = 8
"""So many clips drawn at random show how much a check on few clips is worth."""


def known_boxes(folders: list[Path], layer: str, truth: str = "truth") -> tuple[list[BoxRows], list[np.ndarray]]:
    """Rows of all labelled clips below the folders and the boxes' distances to the truth."""
    rows, distances = [], []
    for path in find_clips(folders):
        clip, tracks = Clip.open(path), path / "labeling" / layer / "tracks.npz"
        if not tracks.is_file():
            raise DataError(f"{tracks}: missing; label the clips as {layer!r} first")
        arrays = read_arrays(tracks)
        if "spread_m" not in arrays:
            raise DataError(f"{tracks}: made by an earlier version of the program; label the clips again")
        rows.append(box_rows(clip, arrays))
        distances.append(distances_to_truth(rows[-1], clip.layer(truth)))
    return rows, distances


def checked(model: CentreModel, rows: list[BoxRows], distances: list[np.ndarray], least: float) -> dict[str, dict]:
    """For all boxes and for each kind: how many boxes the layer has (probable by at least `least`) and the error at each distance."""
    within = np.concatenate([model.within(part) for part in rows])
    group, apart_m = np.concatenate([part.group for part in rows]), np.concatenate(distances)
    counted = ~np.isnan(apart_m) & (within[:, -1] >= least)
    figures = {}
    for name in ("all", *GROUP_NAMES):
        mine = counted & (group == GROUP_NAMES.index(name) if name != "all" else True)
        errors = [round(calibration_error(within[mine, k], apart_m[mine] < limit), 4) for k, limit in enumerate(CENTRE_DISTANCES_M)]
        right = [round(float((apart_m[mine] < limit).mean()), 4) if mine.any() else None for limit in CENTRE_DISTANCES_M]
        figures[name] = {"boxes": int(mine.sum()), "errors": errors if mine.any() else None, "share_right": right}
    return figures


def redrawn(model: CentreModel, rows: list[BoxRows], distances: list[np.ndarray], least: float, clips: int, draws: int = 200) -> np.ndarray:
    """(draws, 3) calibration errors of all boxes of so many clips, drawn anew each time.

    Boxes of one clip err together, so few clips say little; how little is what the draws show.
    """
    within = [model.within(part) for part in rows]
    counted = [~np.isnan(apart_m) & (said[:, -1] >= least) for said, apart_m in zip(within, distances, strict=True)]
    generator, errors = np.random.default_rng(0), np.zeros((draws, len(CENTRE_DISTANCES_M)))
    for draw in range(draws):
        taken = generator.integers(0, len(rows), clips)
        said = np.concatenate([within[i][counted[i]] for i in taken])
        apart_m = np.concatenate([distances[i][counted[i]] for i in taken])
        errors[draw] = [calibration_error(said[:, k], apart_m < limit) for k, limit in enumerate(CENTRE_DISTANCES_M)]
    return errors


def print_redrawn(console: Console, errors: np.ndarray, clips: int) -> None:
    """What so many clips show: the mean of all draws, and what one draw in twenty is below and above."""
    cells = (
        f"{m:.3f} ({a:.3f} to {b:.3f})" for m, a, b in zip(errors.mean(axis=0), *np.nanquantile(errors, (0.05, 0.95), axis=0), strict=True)
    )
    console.print(f"{clips} of these clips drawn at random {len(errors)} times, labels: {', '.join(cells)}")


def reliability_page(model: CentreModel, rows: list[BoxRows], distances: list[np.ndarray], least: float, title: str) -> Report:
    """Reliability diagrams, one a distance, a line for all boxes and one for each kind that has enough."""
    within = np.concatenate([model.within(part) for part in rows])
    group, apart_m = np.concatenate([part.group for part in rows]), np.concatenate(distances)
    counted = ~np.isnan(apart_m) & (within[:, -1] >= least)
    page = Report(title)
    for k, limit in enumerate(CENTRE_DISTANCES_M):
        curves = [Curve("perfect", [0, 1], [0, 1])]
        for name in ("all", *GROUP_NAMES):
            mine = counted & (group == GROUP_NAMES.index(name) if name != "all" else True)
            count, said, found = reliability(within[mine, k], apart_m[mine] < limit)
            enough = count >= 20
            if enough.any():
                curves.append(Curve(f"{name} ({mine.sum()})", said[enough].tolist(), found[enough].tolist()))
        page.curves(curves, f"centre within {limit:g} m: said against found", "probability said", "share right")
    return page


def print_check(console: Console, title: str, figures: dict[str, dict]) -> None:
    """One row a kind of object."""
    errors, shares = ([f"{word} {d:g} m" for d in CENTRE_DISTANCES_M] for word in ("ECE", "right"))
    table = Table("kind", "boxes", *errors, *shares, title=title)
    for name, row in figures.items():
        if row["boxes"]:
            table.add_row(name, str(row["boxes"]), *(f"{v:.3f}" for v in (*row["errors"], *row["share_right"])))
    console.print(table)


def fit(
    clips: Annotated[tuple[Path, ...], tyro.conf.Positional],
    layer: str = "auto@first",
    check: tuple[Path, ...] = (),
    halves: bool = False,
    truth: str = "truth",
    out: Path | None = None,
    page: Path | None = None,
    least: float = ConfidenceSettings.ignore_probability,
    label: float = ConfidenceSettings.label_probability,
    ridge: float = 5.0,
    own_widest: bool = False,
) -> CentreModel:
    """Prints the expected calibration error on the clips fitted on and on those held apart, of all boxes in the layer and of the labels.

    Args:
        clips: Folders of labelled clips with truth to fit on.
        layer: The labels' layer.
        check: Folders of labelled clips with truth to check on.
        halves: Before all clips are fitted on, fit on every other one and check on those between: many clips held apart, at no cost.
        truth: The truth's layer.
        out: Where the weights go (JSON), for `surround4d label --confidence`.
        page: Where the reliability diagrams go (HTML).
        least: Boxes from this probability on count: those in the layer ...
        label: ... and those that are labels.
        ridge: Strength of the prior that weights are small.
        own_widest: The probability within the widest distance stays the tracks' own, nearer ones are fitted: which boxes of a detector are
            false differs between the clips fitted on and others, how well the right ones are placed is geometry.
    """

    def fitted(rows: list[BoxRows], distances: list[np.ndarray]) -> CentreModel:
        model = fitted_model(rows, distances, ridge)
        return model.with_own_widest() if own_widest else model

    if not clips:
        raise ConfigError("expected folders of labelled clips to fit on, got none; give at least one")
    console = Console(width=130)
    rows, distances = known_boxes(list(clips), layer, truth)
    notes: dict = {"clips": len(rows), "boxes": int(sum(len(part) for part in rows))}
    if halves:
        half, apart = fitted(rows[::2], distances[::2]), (rows[1::2], distances[1::2])
        for word, limit in (("boxes in the layer", least), ("labels", label)):
            notes[f"halves, {word}"] = figures = checked(half, *apart, limit)
            print_check(console, f"every other clip held apart, {len(apart[0])} clips, {word} (from {limit:g})", figures)
    model = fitted(rows, distances)
    print_check(console, f"fitted on {len(rows)} clips", checked(model, rows, distances, least))
    if check:
        rows, distances = known_boxes(list(check), layer, truth)
        notes["check"] = {"clips": len(rows), **checked(model, rows, distances, least)}
        print_check(console, f"held apart, {len(rows)} clips, boxes in the layer (from {least:g})", checked(model, rows, distances, least))
        print_check(console, f"held apart, {len(rows)} clips, labels (from {label:g})", checked(model, rows, distances, label))
        for clips_drawn in sorted({min(FEW_CLIPS, len(rows)), len(rows)}):
            print_redrawn(console, redrawn(model, rows, distances, label, clips_drawn), clips_drawn)
    if page is not None:
        reliability_page(model, rows, distances, least, f"Reliability of {layer}").save(page)
    model = replace(model, fitted_on=notes)
    if out is not None:
        model.save(out)
        console.print(f"wrote {out}")
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; bad input ends it with one sentence and exit status 2."""
    with one_sentence("labeling.confidence.fit"):
        tyro.cli(fit, args=arguments)


if __name__ == "__main__":
    main()
