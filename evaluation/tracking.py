"""How well are objects tracked? The nuScenes tracking metrics (AMOTA, AMOTP, ...), and IDF1 and HOTA beside them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from evaluation.clear_mot import ClearMot, MotEvents
from evaluation.hota import Hota, Identity, hota, identity
from evaluation.tracks import (
    CostFunction,
    TrackedClip,
    TrackedSequence,
    centre_distance,
    fill_gaps,
    tracked_sequences,
    with_track_scores,
)
from scenes.boxes import CLASS_NAMES

TRACKING_CLASSES = ("bicycle", "bus", "car", "motorcycle", "pedestrian", "trailer", "truck")
"""The seven of nuScenes."""


@dataclass(frozen=True)
class TrackingSettings:
    """The published settings unless changed."""

    groups: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {name: (name,) for name in TRACKING_CLASSES})
    """What is tracked: name to classes that count as one."""
    gate: float = 2.0
    """Boxes match below this cost: metres between centres, or 1 - IoU."""
    zero_cost: float = 2.0
    """HOTA's similarity falls from 1 at cost 0 to 0 here."""
    min_recall: float = 0.1
    num_thresholds: int = 40
    """AMOTA averages over this many recalls from `min_recall` to 1."""
    worst_motp: float = 2.0
    """AMOTP's value for a recall that is not reached."""
    interpolate: bool = True
    """Fill the holes of tracks, true and predicted, before measuring."""


@dataclass(frozen=True)
class GroupTracking:
    """One group's result. NaN throughout for a group without truth."""

    amota: float
    amotp: float
    """Metres."""
    score_threshold: float
    """The one of AMOTA's thresholds with the best MOTA (of equals the one with the highest recall); what follows is taken there."""
    clear: ClearMot
    identity: Identity
    hota: Hota


@dataclass(frozen=True)
class TrackingMetrics:
    """The result over all groups."""

    groups: dict[str, GroupTracking]

    @property
    def present(self) -> dict[str, GroupTracking]:
        """The groups that the truth has; the devkit averages over these as well."""
        return {name: group for name, group in self.groups.items() if group.clear.num_truth}

    def mean(self, name: str, groups: Iterable[str] | None = None) -> float:
        """Mean of `amota` or `amotp` over the groups that the truth has (or over some of them)."""
        values = [getattr(group, name) for key, group in self.present.items() if groups is None or key in groups]
        return float(np.mean(values)) if values else float("nan")


def tracking_metrics(
    clips: list[TrackedClip], settings: TrackingSettings | None = None, cost: CostFunction = centre_distance
) -> TrackingMetrics:
    """Tracking metrics of all clips together. What is out of range must have been left out before."""
    settings = settings or TrackingSettings()
    clips = [_prepared(clip, settings.interpolate) for clip in clips]
    groups = {}
    for name, classes in settings.groups.items():
        class_ids = [CLASS_NAMES.index(c) for c in classes]
        groups[name] = group_tracking(tracked_sequences(clips, class_ids, settings.gate, cost), settings)
    return TrackingMetrics(groups)


def _prepared(clip: TrackedClip, interpolate: bool) -> TrackedClip:
    pred, truth = with_track_scores(clip.pred_world), clip.truth_world
    if interpolate:
        pred, truth = fill_gaps(pred, clip.timestamps_s), fill_gaps(truth, clip.timestamps_s)
    return TrackedClip(clip.timestamps_s, pred, truth)


def group_tracking(sequences: list[TrackedSequence], settings: TrackingSettings) -> GroupTracking:
    """The result of one group's sequences."""
    events = MotEvents(sequences, settings.gate)
    at_all, scores = events.above(-np.inf)
    thresholds = score_thresholds(scores, at_all.num_truth, settings)
    results = {t: events.above(t)[0] for t in sorted(set(thresholds[~np.isnan(thresholds)].tolist()))}
    amota, amotp = _averages(thresholds, results, settings, at_all.num_truth)
    # Without any threshold nothing was predicted well enough: everything counts as missed.
    best = max(results, key=lambda t: (results[t].mota, -t), default=np.inf)
    clear = results[best] if results else events.above(np.inf)[0]
    return GroupTracking(
        amota=amota,
        amotp=amotp,
        score_threshold=float(best) if np.isfinite(best) else float("nan"),
        clear=clear,
        identity=identity(sequences, settings.gate, best),
        hota=hota(sequences, settings.zero_cost, best),
    )


def score_thresholds(match_scores: np.ndarray, num_truth: int, settings: TrackingSettings) -> np.ndarray:
    """(num_thresholds,) track scores that should reach each recall from 1 down to `min_recall`; NaN where none does."""
    if not len(match_scores) or not num_truth:
        return np.full(settings.num_thresholds, np.nan)
    scores = np.sort(match_scores)[::-1]
    recall = np.arange(1, len(scores) + 1) / num_truth
    recalls = np.linspace(settings.min_recall, 1, settings.num_thresholds).round(12)
    thresholds = np.interp(recalls, recall, scores, right=0)
    thresholds[recalls > recall[-1]] = np.nan
    return thresholds[::-1]


def _averages(thresholds: np.ndarray, results: dict[float, ClearMot], settings: TrackingSettings, num_truth: int) -> tuple[float, float]:
    """AMOTA and AMOTP: a recall that is not reached counts with the worst value."""
    if not num_truth:
        return float("nan"), float("nan")
    motar = [results[t].motar if t in results else np.nan for t in thresholds.tolist()]
    motp = [results[t].motp if t in results else np.nan for t in thresholds.tolist()]
    return float(np.nan_to_num(motar, nan=0.0).mean()), float(np.nan_to_num(motp, nan=settings.worst_motp).mean())
