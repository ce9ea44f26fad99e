"""How good is one label layer, taken another for the truth? One report over many clips."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table

from evaluation.breakdown import GROUPS, RANGE_BINS_M, VISIBILITY_BINS, SubsetMetrics, in_range, match_group, with_visibility
from evaluation.detection import TP_ERRORS, DetectionMetrics, DetectionSettings, countable_truth, nuscenes_metrics
from evaluation.labels import LabelQuality, label_quality
from evaluation.matching import BoxTable
from evaluation.occupancy import OccupancyCounts, OccupancyMetrics
from evaluation.tracking import TRACKING_CLASSES, TrackingMetrics, TrackingSettings, tracking_metrics
from evaluation.tracks import TrackedClip
from scenes.boxes import CLASS_NAMES, VEHICLE_CLASSES, Box3D, Boxes
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import NS_PER_S
from scenes.layers import LabelLayer

REPORT_SCHEMA_VERSION = 1
TRACKED_GROUPS = {**{name: (name,) for name in TRACKING_CLASSES}, "vehicle": VEHICLE_CLASSES}
Item = tuple[Clip, LabelLayer, LabelLayer]
"""A clip, the predicted layer and the truth layer."""


@dataclass(frozen=True)
class CompareSettings:
    """What is measured."""

    detection: DetectionSettings = field(default_factory=DetectionSettings)
    range_bins_m: tuple[tuple[float, float], ...] = RANGE_BINS_M
    vehicle_ranges_m: tuple[float, ...] = (30.0, 50.0)
    """Ranges within which all vehicles together, whatever their class, are measured."""
    tracking: TrackingSettings = field(default_factory=lambda: TrackingSettings(groups=TRACKED_GROUPS))
    """Tracks are measured where both layers have ids."""
    occupancy: bool = True
    """Measure voxels where both layers have some."""


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
    labels: dict[str, LabelQuality]
    """Group (without "all") to quality as labels, every box counted whatever its score, within the farthest range bin."""
    tracking: TrackingMetrics | None
    """None if either layer has no track ids."""
    occupancy: OccupancyMetrics | None
    """None if no frame has voxels in both layers."""

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
                "labels": self.labels,
                "tracking": None if self.tracking is None else _tracking_json(self.tracking),
                "occupancy": None if self.occupancy is None else _occupancy_json(self.occupancy),
            }
        )

    def table(self) -> Group:
        """The figures a person looks at first, for a rich console."""
        tables = [self._class_table(), self._vehicle_table(), self._split_table()]
        if not self.predicted.startswith("model"):
            tables.append(_label_table(self.labels))
        if self.tracking is not None:
            tables.append(_tracking_table(self.tracking))
        if self.occupancy is not None:
            tables.append(_occupancy_table(self.occupancy))
        return Group(*tables)

    def _class_table(self) -> Table:
        frames = f"{self.num_frames} frames of {self.num_clips} clip{'s' if self.num_clips != 1 else ''}"
        table = plain_table(f"{self.predicted} against {self.truth}: {frames}")
        for name in ("class", "truth", *(f"AP {t:g} m" for t in self.detection.settings.thresholds_m), "AP"):
            table.add_column(name, justify="left" if name == "class" else "right", no_wrap=True)
        for name in ("ATE m", "ASE", "AOE rad", "AVE m/s"):
            table.add_column(name, justify="right", no_wrap=True)
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
        table = plain_table("vehicles as one class")
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
        table = plain_table("by range and visibility")
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


def _label_table(labels: dict[str, LabelQuality]) -> Table:
    table = plain_table("as labels: every box counts, whatever its score; matched within 2 m")
    header = ("group", "truth", "labels", "recall", "precision", "duplicates", "centre m", "95 % m", "heading rad", "size", "velocity m/s")
    for name in (*header, "moving"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for name, q in labels.items():
        if q.num_truth or q.num_labels:
            errors = (
                q.centre_error_m,
                q.centre_error_p95_m,
                q.heading_error_rad,
                q.size_error,
                q.velocity_error_mps,
                q.velocity_error_moving_mps,
            )
            counts = (str(q.num_truth), str(q.num_labels), number(q.recall), number(q.precision), str(q.num_duplicates))
            table.add_row(name, *counts, *map(number, errors))
    return table


def _tracking_table(tracking: TrackingMetrics) -> Table:
    table = plain_table("tracking, at the best score threshold; AMOTA and AMOTP over all")
    header = ("tracked", "tracks", "AMOTA", "AMOTP m", "MOTA", "recall", "switches", "frag.", "TID s", "LGD s", "IDF1", "HOTA", "AssA")
    for name in header:
        table.add_column(name, justify="left" if name == "tracked" else "right")
    for name, g in tracking.present.items():
        counts = (str(g.clear.num_switches), str(g.clear.num_fragmentations))
        tail = (g.clear.initialisation_s, g.clear.longest_gap_s, g.identity.idf1, g.hota.hota, g.hota.ass_a)
        start = map(number, (g.amota, g.amotp, g.clear.mota, g.clear.recall))
        table.add_row(name, str(g.clear.num_tracks), *start, *counts, *map(number, tail))
    return table


def _tracking_json(tracking: TrackingMetrics) -> dict:
    groups = {}
    for name, g in tracking.groups.items():
        clear = {**asdict(g.clear), "mota": g.clear.mota, "motp": g.clear.motp, "recall": g.clear.recall, "precision": g.clear.precision}
        rest = {"clear": clear, "identity": {**asdict(g.identity), "idf1": g.identity.idf1}, "hota": asdict(g.hota)}
        groups[name] = {"amota": g.amota, "amotp": g.amotp, "score_threshold": g.score_threshold, **rest}
    classes = [name for name in tracking.present if name in CLASS_NAMES]
    return {"amota": tracking.mean("amota", classes), "amotp": tracking.mean("amotp", classes), "groups": groups}


def _occupancy_table(occupancy: OccupancyMetrics) -> Table:
    table = plain_table(f"occupancy, {occupancy.num_frames} frames")
    for name in ("mIoU", "occupied IoU", "RayIoU", "flow error m/s", "road IoU", "other IoU", "car IoU"):
        table.add_column(name, justify="right")
    states = [occupancy.iou[name] for name in ("road", "other", "car")]
    table.add_row(*map(number, [occupancy.miou, occupancy.occupied_iou, occupancy.ray_iou, occupancy.flow_error_mps, *states]))
    return table


def _occupancy_json(occupancy: OccupancyMetrics) -> dict:
    return {**asdict(occupancy), "miou": occupancy.miou, "ray_iou": occupancy.ray_iou}


def plain_table(title: str) -> Table:
    """An empty table with a line under its head."""
    return Table(title=title, title_justify="left", title_style="bold", caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))


def number(value: float) -> str:
    """A figure for a table; a dash where it is not defined."""
    return "-" if value is None or np.isnan(value) else f"{value:.3f}"


def json_values(value: Any) -> Any:
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


def compare_layers(items: Iterable[Item], settings: CompareSettings | None = None) -> EvaluationReport:
    """Measures each clip's predicted layer against its truth layer, all clips together; `items` may be made one by one.

    Boxes are compared in the ego frame at reference time, in the frames that both layers label. Refused with `DataError`
    when there is no such frame.
    """
    settings = settings or CompareSettings()
    collected = _Collected(settings)
    for clip, pred_layer, truth_layer in items:
        collected.add(clip, pred_layer, truth_layer)
    collected.require_frames()
    pred = BoxTable.of(collected.pred_ego)
    truth = countable_truth(BoxTable.of(collected.truth_ego), settings.detection.min_visibility)
    matched = {group: match_group(pred, truth, group, settings.detection) for group in GROUPS}
    farthest = max(high for _, high in settings.range_bins_m)
    return EvaluationReport(
        predicted=", ".join(sorted(collected.pred_names)),
        truth=", ".join(sorted(collected.truth_names)),
        num_clips=collected.num_clips,
        num_frames=len(collected.truth_ego),
        num_frames_without_prediction=collected.num_frames_without_prediction,
        detection=nuscenes_metrics(collected.pred_ego, collected.truth_ego, settings.detection),
        vehicles={f"{r:g} m": in_range(matched["vehicle"], 0.0, r) for r in settings.vehicle_ranges_m},
        ranges={f"{b[0]:g}-{b[1]:g} m": {g: in_range(m, *b) for g, m in matched.items()} for b in settings.range_bins_m},
        visibility={_visibility_name(*b): {g: with_visibility(m, *b, farthest) for g, m in matched.items()} for b in VISIBILITY_BINS},
        labels={
            group: label_quality(
                collected.pred_ego, collected.truth_ego, classes, (0.0, farthest), min_visibility=settings.detection.min_visibility
            )
            for group, classes in GROUPS.items()
            if group != "all"
        },
        tracking=tracking_metrics(collected.tracked, settings.tracking) if collected.has_tracks else None,
        occupancy=collected.occupancy.result() if collected.occupancy.num_frames else None,
    )


@dataclass
class _Collected:
    """What is kept of the clips that went by."""

    settings: CompareSettings
    pred_ego: list[Boxes] = field(default_factory=list)
    """One entry for each frame that both layers label."""
    truth_ego: list[Boxes] = field(default_factory=list)
    pred_names: set[str] = field(default_factory=set)
    truth_names: set[str] = field(default_factory=set)
    num_clips: int = 0
    num_frames_without_prediction: int = 0
    tracked: list[TrackedClip] = field(default_factory=list)
    """Boxes within the range of their class, in the world frame."""
    occupancy: OccupancyCounts = field(default_factory=OccupancyCounts)

    def add(self, clip: Clip, pred_layer: LabelLayer, truth_layer: LabelLayer) -> None:
        """Takes one clip in."""
        self.num_clips += 1
        self.pred_names.add(pred_layer.name)
        self.truth_names.add(truth_layer.name)
        stamps_s: list[float] = []
        pred_world: list[Boxes] = []
        truth_world: list[Boxes] = []
        for index in sorted(truth_layer.boxes_world):
            pred, truth = clip.boxes_ego(pred_layer, index), clip.boxes_ego(truth_layer, index)
            if pred is None or truth is None:
                self.num_frames_without_prediction += 1
                continue
            self.pred_ego.append(pred)
            self.truth_ego.append(truth)
            stamps_s.append((clip.frames[index].timestamp_ns - clip.frames[0].timestamp_ns) / NS_PER_S)
            truth = countable_truth(BoxTable.of([truth]), self.settings.detection.min_visibility).boxes
            world_from_ego = clip.frames[index].world_from_ego
            pred_world.append(self._within_range(pred).transform(world_from_ego))
            truth_world.append(self._within_range(truth).transform(world_from_ego))
            self._add_occupancy(pred_layer, truth_layer, index)
        if stamps_s:
            self.tracked.append(TrackedClip(np.array(stamps_s), pred_world, truth_world))

    def _within_range(self, boxes_ego: Boxes) -> Boxes:
        """The boxes nearer than the range at which their class counts."""
        range_m = np.array([self.settings.detection.class_range_m.get(name, 0.0) for name in CLASS_NAMES])
        distance_m = np.hypot(boxes_ego.box[:, Box3D.X], boxes_ego.box[:, Box3D.Y])
        return boxes_ego.select(distance_m < range_m[boxes_ego.class_id])

    def _add_occupancy(self, pred_layer: LabelLayer, truth_layer: LabelLayer, index: int) -> None:
        pred = pred_layer.occupancy(index) if self.settings.occupancy else None
        truth = truth_layer.occupancy(index) if pred is not None else None
        if pred is not None and truth is not None:
            self.occupancy.add(pred, truth)

    @property
    def has_tracks(self) -> bool:
        """Whether predictions and all of the truth have track ids."""
        pred = [boxes.track_id for clip in self.tracked for boxes in clip.pred_world]
        truth = [boxes.track_id for clip in self.tracked for boxes in clip.truth_world]
        return any((ids >= 0).any() for ids in pred) and any(len(ids) for ids in truth) and all((ids >= 0).all() for ids in truth)

    def require_frames(self) -> None:
        """Refuses with `DataError` if no frame is labelled in both layers."""
        if not self.truth_ego:
            names = f"{', '.join(sorted(self.pred_names)) or 'nothing'} against {', '.join(sorted(self.truth_names)) or 'nothing'}"
            raise DataError(
                f"evaluation of {names}: expected a frame that both label, got none in {self.num_clips} clips; "
                "label the clips first or name other layers"
            )


def _visibility_name(low: float, high: float) -> str:
    return f"{100 * low:.0f}-{100 * min(high, 1.0):.0f} % seen"
