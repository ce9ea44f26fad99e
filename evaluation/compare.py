"""How good is one label layer, taken another for the truth? One report over many clips."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass

import numpy as np
from rich.console import Group
from rich.table import Table

from evaluation.breakdown import GROUPS, RANGE_BINS_M, VISIBILITY_BINS, SubsetMetrics, in_range, match_group, with_visibility
from evaluation.detection import TP_ERRORS, DetectionMetrics, DetectionSettings, countable_truth, nuscenes_metrics
from evaluation.matching import BoxTable
from scenes.boxes import Boxes
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.layers import LabelLayer

REPORT_SCHEMA_VERSION = 1
Item = tuple[Clip, LabelLayer, LabelLayer]
"""A clip, the predicted layer and the truth layer."""


@dataclass(frozen=True)
class CompareSettings:
    """What is measured."""

    detection: DetectionSettings = field(default_factory=DetectionSettings)
    range_bins_m: tuple[tuple[float, float], ...] = RANGE_BINS_M
    vehicle_ranges_m: tuple[float, ...] = (30.0, 50.0)
    """Ranges within which all vehicles together, whatever their class, are measured."""


@dataclass(frozen=True)
class EvaluationReport:
    """Every figure of a comparison."""

    predicted: str
    truth: str
    num_clips: int
    num_frames: int
    num_frames_without_prediction: int
    """Frames that only the truth layer labels; they are not measured."""
    detection: DetectionMetrics
    vehicles: dict[str, SubsetMetrics]
    """By range, "30 m" and "50 m": all vehicles as one class."""
    ranges: dict[str, dict[str, SubsetMetrics]]
    """Range bin to group (`GROUPS`) to result."""
    visibility: dict[str, dict[str, SubsetMetrics]]
    """Visibility bin to group to result; recall only."""

    def to_json(self) -> dict:
        """All figures as JSON values; what is not defined is null."""
        detection = self.detection
        return json_values(
            {
                "schema_version": REPORT_SCHEMA_VERSION,
                "predicted": self.predicted,
                "truth": self.truth,
                "num_clips": self.num_clips,
                "num_frames": self.num_frames,
                "num_frames_without_prediction": self.num_frames_without_prediction,
                "detection": {
                    "mean_ap": detection.mean_ap,
                    "mean_ap_present": detection.mean_ap_present,
                    "nds": detection.nds,
                    "nds_without_attributes": detection.nds_without_attributes,
                    "errors": detection.errors,
                    "errors_present": detection.errors_present,
                    "classes": {name: {**asdict(c), "mean_ap": c.mean_ap} for name, c in detection.classes.items()},
                    "settings": detection.settings,
                },
                "vehicles": {name: _subset_json(subset) for name, subset in self.vehicles.items()},
                "ranges": {name: {g: _subset_json(s) for g, s in groups.items()} for name, groups in self.ranges.items()},
                "visibility": {
                    name: {g: {"num_truth": s.num_truth, "recall": s.recall} for g, s in groups.items()}
                    for name, groups in self.visibility.items()
                },
            }
        )

    def table(self) -> Group:
        """The figures a person looks at first, for a rich console."""
        return Group(self._class_table(), self._vehicle_table(), self._split_table())

    def _class_table(self) -> Table:
        frames = f"{self.num_frames} frames of {self.num_clips} clip{'s' if self.num_clips != 1 else ''}"
        table = Table(title=f"{self.predicted} against {self.truth}: {frames}", title_justify="left")
        for name in ("class", "truth", *(f"AP {t:g} m" for t in self.detection.settings.thresholds_m), "AP"):
            table.add_column(name, justify="left" if name == "class" else "right")
        for name in ("ATE m", "ASE", "AOE rad", "AVE m/s"):
            table.add_column(name, justify="right")
        for name, c in self.detection.present.items():
            errors = [c.errors[e] for e in TP_ERRORS[:4]]
            table.add_row(name, str(c.num_truth), *map(number, [*c.ap.values(), c.mean_ap, *errors]))
        table.add_section()
        detection = self.detection
        blank = [""] * len(detection.settings.thresholds_m)
        errors = [detection.errors_present[e] for e in TP_ERRORS[:4]]
        table.add_row("mean of these", "", *blank, number(detection.mean_ap_present), *map(number, errors))
        table.caption = (
            f"NDS without attributes {number(detection.nds_without_attributes)}; as the devkit counts (all "
            f"{len(detection.classes)} classes, attributes wrong): mAP {number(detection.mean_ap)}, NDS {number(detection.nds)}"
        )
        return table

    def _vehicle_table(self) -> Table:
        table = Table(title="vehicles as one class", title_justify="left")
        thresholds = self.detection.settings.thresholds_m
        header = (
            "within",
            "truth",
            *(f"AP {t:g} m" for t in thresholds),
            "AP",
            "recall",
            "best F1",
            "at score",
            "velocity error m/s",
            "moving",
        )
        for name in header:
            table.add_column(name, justify="left" if name == "within" else "right")
        for name, s in self.vehicles.items():
            figures = [*s.ap.values(), s.mean_ap, s.recall, s.best_f1, s.best_f1_score, s.velocity_error_mps]
            table.add_row(name, str(s.num_truth), *map(number, figures), str(s.num_moving))
        return table

    def _split_table(self) -> Table:
        table = Table(title="by range and visibility", title_justify="left")
        for name in ("where", "truth", "AP", "recall", "vehicles", "vehicle AP", "vehicle recall"):
            table.add_column(name, justify="left" if name == "where" else "right")
        for name, groups in self.ranges.items():
            all_classes, vehicle = groups["all"], groups["vehicle"]
            table.add_row(
                name,
                *(str(all_classes.num_truth), number(all_classes.mean_ap), number(all_classes.recall)),
                *(str(vehicle.num_truth), number(vehicle.mean_ap), number(vehicle.recall)),
            )
        table.add_section()
        for name, groups in self.visibility.items():
            all_classes, vehicle = groups["all"], groups["vehicle"]
            counts = (str(all_classes.num_truth), "", number(all_classes.recall), str(vehicle.num_truth), "", number(vehicle.recall))
            table.add_row(name, *counts)
        return table


def _subset_json(subset: SubsetMetrics) -> dict:
    return {**asdict(subset), "mean_ap": subset.mean_ap}


def number(value: float) -> str:
    """A figure for a table; a dash where it is not defined."""
    return "-" if value is None or np.isnan(value) else f"{value:.3f}"


def json_values(value: object) -> object:
    """Nested dataclasses, dicts and sequences as JSON values: keys are strings, what is not finite is null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {f"{key:g}" if isinstance(key, float) else str(key): json_values(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(entry) for entry in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value


def compare_layers(items: Sequence[Item], settings: CompareSettings | None = None) -> EvaluationReport:
    """Measures each clip's predicted layer against its truth layer, all clips together.

    Boxes are compared in the ego frame at reference time, in the frames that both layers label. Refused with `DataError`
    when there is no such frame.
    """
    settings = settings or CompareSettings()
    pred_ego, truth_ego, num_missing = common_frames(items)
    detection = nuscenes_metrics(pred_ego, truth_ego, settings.detection)
    pred = BoxTable.of(pred_ego)
    truth = countable_truth(BoxTable.of(truth_ego), settings.detection.min_visibility)
    matched = {group: match_group(pred, truth, group, settings.detection) for group in GROUPS}
    farthest = max(high for _, high in settings.range_bins_m)
    visibility = {_visibility_name(*b): {g: with_visibility(m, *b, farthest) for g, m in matched.items()} for b in VISIBILITY_BINS}
    return EvaluationReport(
        predicted=", ".join(sorted({pred_layer.name for _, pred_layer, _ in items})),
        truth=", ".join(sorted({truth_layer.name for _, _, truth_layer in items})),
        num_clips=len(items),
        num_frames=len(truth_ego),
        num_frames_without_prediction=num_missing,
        detection=detection,
        vehicles={f"{r:g} m": in_range(matched["vehicle"], 0.0, r) for r in settings.vehicle_ranges_m},
        ranges={f"{b[0]:g}-{b[1]:g} m": {g: in_range(m, *b) for g, m in matched.items()} for b in settings.range_bins_m},
        visibility=visibility,
    )


def _visibility_name(low: float, high: float) -> str:
    return f"{100 * low:.0f}-{100 * min(high, 1.0):.0f} % seen"


def common_frames(items: Sequence[Item]) -> tuple[list[Boxes], list[Boxes], int]:
    """Boxes in the ego frame of every frame that both layers label, and how many frames only the truth labels."""
    pred_ego, truth_ego, num_missing = [], [], 0
    for clip, pred_layer, truth_layer in items:
        for index in sorted(truth_layer.boxes_world):
            pred = clip.boxes_ego(pred_layer, index)
            truth = clip.boxes_ego(truth_layer, index)
            if pred is None or truth is None:
                num_missing += 1
                continue
            pred_ego.append(pred)
            truth_ego.append(truth)
    if not truth_ego:
        names = sorted({f"{pred_layer.name!r} against {truth_layer.name!r}" for _, pred_layer, truth_layer in items})
        raise DataError(
            f"evaluation of {', '.join(names) or 'no clips'}: expected at least one frame that both layers label, got none; "
            "label the clips first or name other layers"
        )
    return pred_ego, truth_ego, num_missing
