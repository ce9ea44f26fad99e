"""How well are boxes detected? The nuScenes detection metrics: AP by centre distance, five true-positive errors, NDS.

The algorithm is that of the nuScenes devkit (`nuscenes.eval.detection`), written anew on flat arrays;
`benchmarks/nuscenes_devkit.py` holds the two together. Definitions in words: docs/METRICS.md.
"""

from dataclasses import dataclass, field

import numpy as np

from evaluation.matching import (
    FALSE_POSITIVE,
    IGNORED,
    BoxTable,
    centre_error_m,
    heading_error_rad,
    match_greedily,
    near_pairs,
    order_by_score,
    size_error,
    velocity_error_mps,
)
from scenes.boxes import CLASS_NAMES, Boxes
from scenes.errors import ConfigError

RECALLS = np.linspace(0, 1, 101)
TP_ERRORS = ("ate", "ase", "aoe", "ave", "aae")
"""Translation (m), scale (1 - IoU), orientation (rad), velocity (m/s), attribute (1 - accuracy)."""
UNDEFINED_ERRORS = {"traffic_cone": ("aoe", "ave", "aae"), "barrier": ("ave", "aae")}
HALF_TURN_CLASSES = (CLASS_NAMES.index("barrier"),)
NUSCENES_RANGE_M = {
    "car": 50.0,
    "truck": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "construction_vehicle": 50.0,
    "pedestrian": 40.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "traffic_cone": 30.0,
    "barrier": 30.0,
}


@dataclass(frozen=True)
class DetectionSettings:
    """The published settings (`detection_cvpr_2019`) unless changed."""

    class_range_m: dict[str, float] = field(default_factory=lambda: dict(NUSCENES_RANGE_M))
    """Boxes at or beyond this distance from the ego origin are left out, predicted and true; its keys are the classes."""
    thresholds_m: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Centre distances below which a prediction matches; AP is their mean."""
    tp_threshold_m: float = 2.0
    """The one at which the errors of true positives are taken."""
    min_recall: float = 0.1
    """Curves count above this recall only."""
    min_precision: float = 0.1
    """Precision counts above this only."""
    mean_ap_weight: float = 5.0
    """Weight of mAP in NDS beside each error's 1."""
    min_visibility: float = 1e-3
    """Truth of which the cameras are known to see a smaller share is ignored: neither to be found nor wrong to find. 0 counts all."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.class_range_m) - set(CLASS_NAMES))
        if unknown or not self.class_range_m:
            raise ConfigError(f"class_range_m: expected classes among {', '.join(CLASS_NAMES)}, got {unknown or 'none'}; correct them")
        if self.tp_threshold_m not in self.thresholds_m or min(self.thresholds_m) <= 0:
            raise ConfigError(f"thresholds_m: expected positive distances with {self.tp_threshold_m} among them, got {self.thresholds_m}")
        if not (0 <= self.min_recall < 1 and 0 <= self.min_precision < 1):
            raise ConfigError(f"min_recall, min_precision: expected values in [0, 1), got {self.min_recall}, {self.min_precision}")


@dataclass(frozen=True)
class Curve:
    """Precision and errors of one class over 101 recalls."""

    precision: np.ndarray
    """(101,); zero where the recall is not reached."""
    confidence: np.ndarray
    """(101,) score at which the recall is reached; zero where it is not."""
    errors: dict[str, np.ndarray]
    """(101,) each: mean error of the true positives up to that score."""

    @classmethod
    def empty(cls) -> "Curve":
        """No truth or no match: no precision, every error 1."""
        return cls(np.zeros(len(RECALLS)), np.zeros(len(RECALLS)), {name: np.ones(len(RECALLS)) for name in TP_ERRORS})

    def ap(self, settings: DetectionSettings) -> float:
        """Mean precision above `min_precision`, over the recalls above `min_recall`, scaled to [0, 1]."""
        precision = self.precision[round(100 * settings.min_recall) + 1 :] - settings.min_precision
        return float(np.maximum(precision, 0).mean() / (1 - settings.min_precision))

    def error(self, name: str, settings: DetectionSettings) -> float:
        """Mean error from `min_recall` to the highest recall reached; 1 if that is not above `min_recall`."""
        first = round(100 * settings.min_recall) + 1
        reached = np.flatnonzero(self.confidence)
        last = reached[-1] if len(reached) else 0
        return 1.0 if last < first else float(self.errors[name][first : last + 1].mean())


@dataclass(frozen=True)
class ClassMetrics:
    """One class's result."""

    ap: dict[float, float]
    """Threshold in metres to average precision."""
    errors: dict[str, float]
    """`TP_ERRORS`; NaN where the class has none."""
    num_truth: int
    num_pred: int

    @property
    def mean_ap(self) -> float:
        """AP averaged over the thresholds."""
        return float(np.mean(list(self.ap.values())))


@dataclass(frozen=True)
class DetectionMetrics:
    """The result over all classes."""

    classes: dict[str, ClassMetrics]
    settings: DetectionSettings

    @property
    def mean_ap(self) -> float:
        """Mean over all classes; a class without truth counts 0, as in the devkit."""
        return float(np.mean([c.mean_ap for c in self.classes.values()]))

    @property
    def present(self) -> dict[str, ClassMetrics]:
        """The classes that the truth has."""
        return {name: c for name, c in self.classes.items() if c.num_truth}

    @property
    def mean_ap_present(self) -> float:
        """Mean over the classes that the truth has; NaN without any."""
        return float(np.mean([c.mean_ap for c in self.present.values()])) if self.present else float("nan")

    @property
    def errors(self) -> dict[str, float]:
        """`TP_ERRORS` averaged over all classes that define them."""
        return _mean_errors(self.classes)

    @property
    def errors_present(self) -> dict[str, float]:
        """`TP_ERRORS` averaged over the classes that the truth has."""
        return _mean_errors(self.present)

    @property
    def nds(self) -> float:
        """The nuScenes detection score. Without attributes AAE is 1, so that it cannot exceed 0.9."""
        return _nds(self.mean_ap, self.errors, TP_ERRORS, self.settings.mean_ap_weight)

    @property
    def nds_without_attributes(self) -> float:
        """The same without the attribute error: (5 mAP + four scores) / 9, over the classes that the truth has."""
        return _nds(self.mean_ap_present, self.errors_present, TP_ERRORS[:4], self.settings.mean_ap_weight)


def _mean_errors(classes: dict[str, ClassMetrics]) -> dict[str, float]:
    means = {}
    for name in TP_ERRORS:
        values = [c.errors[name] for c in classes.values() if not np.isnan(c.errors[name])]
        means[name] = float(np.mean(values)) if values else float("nan")
    return means


def _nds(mean_ap: float, errors: dict[str, float], names: tuple[str, ...], weight: float) -> float:
    scores = [max(0.0, 1.0 - errors[name]) for name in names if not np.isnan(errors[name])]
    return float((weight * mean_ap + sum(scores)) / (weight + len(names)))


def nuscenes_metrics(
    pred_ego: list[Boxes],
    truth_ego: list[Boxes],
    settings: DetectionSettings | None = None,
    pred_attributes: list[np.ndarray] | None = None,
    truth_attributes: list[np.ndarray] | None = None,
) -> DetectionMetrics:
    """Detection metrics of predictions against truth, frame by frame, each in the frame's ego frame at reference time.

    Attributes, where given, are one object array of names a frame (M,), "" where the truth has none.
    """
    settings = settings or DetectionSettings()
    assert len(pred_ego) == len(truth_ego)
    pred = BoxTable.of(pred_ego, pred_attributes)
    truth = countable_truth(BoxTable.of(truth_ego, truth_attributes), settings.min_visibility)
    classes = {}
    for name, range_m in settings.class_range_m.items():
        classes[name] = _class_metrics(of_class(pred, (name,), range_m), of_class(truth, (name,), range_m), name, settings)
    return DetectionMetrics(classes, settings)


def countable_truth(truth: BoxTable, min_visibility: float) -> BoxTable:
    """The truth with unseen boxes ignored, and boxes without any lidar point dropped as the devkit does.

    A box that is known to be unseen stays, ignored, even without points: finding it is not wrong.
    """
    unseen = truth.boxes.visibility < min_visibility  # False for NaN: unknown counts as seen
    truth = truth.with_ignore(truth.boxes.ignore | unseen)
    return truth.select((truth.boxes.num_points != 0) | truth.boxes.ignore)


def of_class(table: BoxTable, names: tuple[str, ...], range_m: float = np.inf) -> BoxTable:
    """The boxes of some classes nearer than `range_m`."""
    wanted = np.isin(table.boxes.class_id, [CLASS_NAMES.index(name) for name in names])
    return table.select(wanted & (table.range_m < range_m))


def _class_metrics(pred: BoxTable, truth: BoxTable, name: str, settings: DetectionSettings) -> ClassMetrics:
    pairs = near_pairs(pred, truth, max(settings.thresholds_m))
    curves = {t: matched_curve(pred, truth, match_greedily(pred, truth, t, pairs), settings) for t in settings.thresholds_m}
    tp_curve = curves[settings.tp_threshold_m]
    skipped = UNDEFINED_ERRORS.get(name, ())
    errors = {e: float("nan") if e in skipped else tp_curve.error(e, settings) for e in TP_ERRORS}
    num_truth = int((~truth.boxes.ignore).sum())
    return ClassMetrics({t: curve.ap(settings) for t, curve in curves.items()}, errors, num_truth, len(pred))


def matched_curve(pred: BoxTable, truth: BoxTable, truth_of_pred: np.ndarray, settings: DetectionSettings) -> Curve:
    """The curve of matched predictions (see `match_greedily`); ignored ones are left out."""
    order = order_by_score(pred.boxes.score)
    order = order[truth_of_pred[order] != IGNORED]
    is_tp = truth_of_pred[order] != FALSE_POSITIVE
    num_truth = int((~truth.boxes.ignore).sum())
    if not is_tp.any() or num_truth == 0:
        return Curve.empty()
    true_positives = np.cumsum(is_tp)
    precision = true_positives / np.arange(1, len(order) + 1)
    recall = true_positives / num_truth
    score = pred.boxes.score[order]
    confidence = np.interp(RECALLS, recall, score, right=0)
    hit = order[is_tp]
    errors = {}
    for name, values in _errors_of(pred.select(hit), truth.select(truth_of_pred[hit])).items():
        means = _running_mean(values)
        errors[name] = np.interp(confidence[::-1], score[is_tp][::-1], means[::-1])[::-1]
    return Curve(np.interp(RECALLS, recall, precision, right=0), confidence, errors)


def _errors_of(pred: BoxTable, truth: BoxTable) -> dict[str, np.ndarray]:
    """(M,) each: the errors of matched rows; NaN where a velocity or attribute is unknown."""
    attribute = np.full(len(pred), np.nan)
    if pred.attribute is not None and truth.attribute is not None:
        attribute = np.where(truth.attribute == "", np.nan, (pred.attribute != truth.attribute).astype(float))
    return {
        "ate": centre_error_m(pred.boxes, truth.boxes),
        "ase": size_error(pred.boxes, truth.boxes),
        "aoe": heading_error_rad(pred.boxes, truth.boxes, HALF_TURN_CLASSES),
        "ave": velocity_error_mps(pred.boxes, truth.boxes),
        "aae": attribute,
    }


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of what came so far, unknown values left out: 0 before the first known one, 1 throughout if none is known."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    return np.cumsum(np.where(known, values, 0.0)) / np.maximum(np.cumsum(known), 1)
