"""How far apart are the outputs of two implementations of one network? Step by step over a drive, tensor by tensor.

Relative error of a tensor: the largest absolute difference over the largest absolute value of the reference at that step; box columns
and velocities each for themselves, over at least 1 m, 1 rad, 1 m/s; yaw on the circle. Detections and memory slots are sets: equal
scores may stand in either order, so rows are paired by content first, and it is told in how many steps the order differed. A row counts
as far as it is there: in full from a score of `FULL_SCORE` on (below the score at which anything is remembered or shown), less below,
nothing at zero. Integers (class, id, voxel state) are counted where they differ, ids up to renaming that lasts for the whole drive;
a slot's age goes with its id and is counted with it.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from scenes.boxes import Box3D

FULL_SCORE = 0.05
"""From this score on a row counts in full."""


@dataclass(frozen=True)
class RowGroup:
    """Tensors (1, rows, ...) whose rows belong together."""

    score: str
    box: str
    numbers: tuple[str, ...]
    """Further numbers of a row."""
    integers: tuple[str, ...]
    age: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors."""
        return tuple(name for name in (self.score, self.box, *self.numbers, *self.integers, self.age) if name)


ROW_GROUPS = (
    RowGroup("scores", "boxes", ("velocities",), ("classes", "ids")),
    RowGroup("next_score", "next_box", ("next_query",), ("next_id",), "next_age"),
)
COLUMN_SCALES = {
    "boxes": np.ones(9),
    "next_box": np.ones(9),
    "velocities": np.ones(2),
}
"""Tensors whose last axis holds columns of different meaning, and the least scale of each: 1 m, 1 rad, 1 m/s."""
LEAST_SCALE = 1e-3
DENSE_OUTPUTS = ("occupancy", "occupancy_confidence", "flow", "next_bev", "next_bev_age", "next_valid")
"""Outputs that no selection touches."""
ID_TENSORS = ("ids", "next_id")


@dataclass
class Verification:
    """What a comparison found."""

    errors: list[dict[str, float]] = field(default_factory=list)
    """Relative error of every tensor of numbers, one entry a step, rigs one after the other."""
    integer_mismatches: int = 0
    """Classes, ids and voxel states that differ within paired rows."""
    integers_compared: int = 0
    tied_steps: list[int] = field(default_factory=list)
    """Steps decided by ties within torch itself; what was compared of them instead is said in `export.verify`."""
    reordered_steps: int = 0
    """Steps in which rows of about equal score stood in another order."""
    rigs: list[str] = field(default_factory=list)

    @property
    def error_by_step(self) -> list[float]:
        """Largest relative error of any tensor."""
        return [max(step.values(), default=0.0) for step in self.errors]

    @property
    def dense_by_step(self) -> list[float]:
        """The same of the outputs that no selection touches."""
        return [max((error for name, error in step.items() if name in DENSE_OUTPUTS), default=0.0) for step in self.errors]

    @property
    def error_by_tensor(self) -> dict[str, float]:
        """Largest relative error of each tensor in any step."""
        names = {name for step in self.errors for name in step}
        return {name: max(step.get(name, 0.0) for step in self.errors) for name in sorted(names)}

    @property
    def max_error(self) -> float:
        """The largest relative error; infinite if any number was not finite."""
        return max(self.error_by_step, default=0.0)

    @property
    def mismatch_share(self) -> float:
        """Share of integers that differ."""
        return self.integer_mismatches / max(self.integers_compared, 1)

    def to_json(self) -> dict:
        """For the manifest."""
        worst = max(self.error_by_tensor, key=lambda name: self.error_by_tensor[name], default="")
        return {
            "against": "torch",
            "steps": len(self.errors),
            "rigs": self.rigs,
            "max_relative_error": float(f"{self.max_error:.3g}"),
            "worst_tensor": worst,
            "integer_mismatch_share": float(f"{self.mismatch_share:.3g}"),
            "reordered_steps": self.reordered_steps,
            "tied_steps": len(self.tied_steps),
        }


class Comparison:
    """Compares the outputs of two implementations step by step."""

    def __init__(self) -> None:
        self.found = Verification()
        self._renamed: dict[int, int] = {}

    def new_drive(self, rig: str = "") -> None:
        """Ids begin anew."""
        self.found.rigs.append(rig)
        self._renamed = {}

    def add(self, reference: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
        """Takes in one step's outputs by name; returns its largest relative error."""
        other, errors, grouped, reordered = dict(other), {}, set(), False
        for group in ROW_GROUPS:
            if group.score not in reference:
                continue
            present, moved = align_rows(group, reference, other)
            reordered |= moved
            grouped |= {name for name in group.names if name in reference}
            errors |= row_errors(group, reference, other, present)
            self._count_rows(group, reference, other, present)
        for name in reference.keys() - grouped:
            want, got = reference[name], other[name]
            if want.dtype.kind in "iu":
                self._count(want != got)
            else:
                errors[name] = relative_error(want, got)
        self.found.reordered_steps += reordered
        self.found.errors.append(errors)
        return max(errors.values(), default=0.0)

    def add_tied(self, reference: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
        """Takes in a step that ties decide, after which both sides share one memory: ids begin anew."""
        self._renamed = {}
        self.found.tied_steps.append(len(self.found.errors))
        self.add(reference, other)
        self._renamed = {}

    def _count(self, wrong: np.ndarray) -> None:
        self.found.integers_compared += wrong.size
        self.found.integer_mismatches += int(wrong.sum())

    def _count_rows(self, group: RowGroup, reference: dict[str, np.ndarray], other: dict[str, np.ndarray], present: np.ndarray) -> None:
        """Integers of rows that are there in full."""
        rows = present >= 1.0
        for name in group.integers:
            if name in reference:
                want, got = reference[name][0][rows], other[name][0][rows]
                self._count(self._other_ids(want, got) if name in ID_TENSORS else want != got)
        if group.age in reference:
            want, got = reference[group.age][0][rows], other[group.age][0][rows]
            self._count(np.abs(want - got) > 1e-3 * np.maximum(1.0, np.abs(want)))

    def _other_ids(self, want: np.ndarray, got: np.ndarray) -> np.ndarray:
        """Ids of objects born in the same step may be swapped; from then on the other name must be kept."""
        pairs = zip(want.tolist(), got.tolist(), strict=True)
        wrong = [(ours < 0) != (theirs < 0) or (ours >= 0 and self._renamed.setdefault(theirs, ours) != ours) for ours, theirs in pairs]
        return np.array(wrong, dtype=bool)


def step_error(reference: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Largest relative error of one step."""
    return Comparison().add(reference, other)


def dense_only(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs that no selection touches."""
    return {name: value for name, value in outputs.items() if name in DENSE_OUTPUTS}


def relative_error(want: np.ndarray, got: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute value; infinite for NaN."""
    if not (np.isfinite(got).all() and np.isfinite(want).all()):
        return float("inf")
    if want.size == 0:
        return 0.0
    want, got = want.astype(np.float64), got.astype(np.float64)
    return float(np.abs(want - got).max() / max(np.abs(want).max(), LEAST_SCALE))


def row_errors(group: RowGroup, reference: dict[str, np.ndarray], other: dict[str, np.ndarray], present: np.ndarray) -> dict[str, float]:
    """Relative errors of the group's numbers, rows (R,) weighted by how far they are `present`."""
    errors = {group.score: relative_error(reference[group.score], other[group.score])}
    for name in (group.box, *group.numbers):
        if name not in reference:
            continue
        want, got = (side[name][0].reshape(len(present), -1).astype(np.float64) for side in (reference, other))
        if not (np.isfinite(want).all() and np.isfinite(got).all()):
            errors[name] = float("inf")
            continue
        difference = np.abs(_differences(want, got, name == group.box)) * present[:, None]
        least, size = COLUMN_SCALES.get(name), np.abs(want) * present[:, None]
        scale = np.maximum(size.max(axis=0), least) if least is not None else max(size.max(), LEAST_SCALE)
        errors[name] = float((difference / scale).max())
    return errors


def _differences(want: np.ndarray, got: np.ndarray, is_box: bool) -> np.ndarray:
    """want - got, the yaw of boxes on the circle."""
    difference = want - got
    if is_box:
        difference[..., Box3D.YAW] = np.remainder(difference[..., Box3D.YAW] + np.pi, 2 * np.pi) - np.pi
    return difference


def align_rows(group: RowGroup, reference: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> tuple[np.ndarray, bool]:
    """Puts the group's rows of `other` into the order of `reference`, by content.

    Returns:
        How far each row is there (R,) in [0, 1], by the larger of the two scores; and whether the order of such rows differed.
    """
    scores = [np.nan_to_num(side[group.score][0].astype(np.float64), nan=1.0) for side in (reference, other)]
    boxes = [np.nan_to_num(side[group.box][0].astype(np.float64), nan=1e9, posinf=1e9, neginf=-1e9) for side in (reference, other)]
    there = [np.clip(score / FULL_SCORE, 0.0, 1.0) for score in scores]
    distance = np.abs(_differences(boxes[0][:, None], boxes[1][None], is_box=True)).max(axis=-1)
    weight = np.maximum(there[0][:, None], there[1][None])
    rows, order = linear_sum_assignment(weight * distance + 10.0 * np.abs(scores[0][:, None] - scores[1][None]))
    moved = bool(((order != rows) & (there[0] > 0)).any())
    for name in group.names:
        if name in other:
            other[name] = other[name][:, order]
    return np.maximum(there[0], there[1][order]), moved
