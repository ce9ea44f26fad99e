"""Which confidence weights make box probabilities true? Fitted on clips whose truth is known, one set a group of classes.

python -m labeling.tracks.calibration CLIPS... --evidence model@nano --truth truth
python -m labeling.tracks.calibration CLIPS... --artefacts auto@first --truth truth      (evidence kept by an earlier labeling job)
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from scipy.optimize import linear_sum_assignment

from labeling.detections import read_evidence
from labeling.tracks.confidence import FEATURES, fitted_weights, logistic
from labeling.tracks.evidence import Evidence, evidence_from_layer
from labeling.tracks.settings import GroupSettings, TrackingSettings
from labeling.tracks.tracking import link_clip, solve_groups
from labeling.tracks.trajectory import SolvedTracks
from scenes.clips import Clip, find_clips
from scenes.errors import ConfigError, DataError, one_sentence
from scenes.layers import LabelLayer

RIGHT_M = 2.0
"""A box is right if its centre is within this distance of a true one of its group, one to one in each frame."""
MIN_VISIBILITY = 0.05
"""Truth that the cameras see less of counts neither for nor against a box."""
FEWEST_BOXES = 50


def right_boxes(tracks: SolvedTracks, truth: LabelLayer, settings: GroupSettings) -> np.ndarray:
    """For each frame row of the tracks (F,): 1 a right box, -1 a wrong one, 0 neither (hidden truth, frames without labels)."""
    verdict = np.zeros(len(tracks.frame), dtype=np.int64)
    for frame in np.unique(tracks.frame).tolist():
        boxes_world = truth.boxes_world.get(frame)
        if boxes_world is None:
            continue
        boxes_world = boxes_world.select(np.isin(boxes_world.class_id, settings.class_ids))
        rows = np.flatnonzero(tracks.frame == frame)
        apart_m = np.linalg.norm(tracks.box_world[rows, None, :2] - boxes_world.box[None, :, :2], axis=-1)
        gain = np.where(apart_m < RIGHT_M, RIGHT_M - apart_m, 0.0)
        pairs = {i: j for i, j in zip(*linear_sum_assignment(-gain), strict=True) if gain[i, j] > 0}
        hidden = boxes_world.ignore | (boxes_world.visibility < MIN_VISIBILITY)
        for i, row in enumerate(rows.tolist()):
            verdict[row] = -1 if i not in pairs else 0 if hidden[pairs[i]] else 1
    return verdict


def labelled_features(evidence: Evidence, truth: LabelLayer, settings: GroupSettings) -> tuple[np.ndarray, np.ndarray]:
    """Features (R, 8) and verdicts (R,) of all boxes of a group in one clip."""
    (linked,) = link_clip(evidence, TrackingSettings((settings,)))
    (solved,) = solve_groups([linked.stitched()], TrackingSettings().eye_height_m)
    return solved.features, right_boxes(solved.tracks, truth, settings)


def calibrated(clips: list[tuple[Evidence, LabelLayer]], settings: TrackingSettings, ridge: float = 20.0) -> TrackingSettings:
    """The settings with confidence weights fitted on clips with truth; groups with too few boxes keep theirs."""
    groups = []
    for group in settings.groups:
        parts = [labelled_features(evidence, truth, group) for evidence, truth in clips]
        features, verdict = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        known = verdict != 0
        if min((verdict > 0).sum(), (verdict < 0).sum()) >= FEWEST_BOXES:
            weights = fitted_weights(features[known], verdict[known] > 0, ridge)
            group = replace(group, confidence=replace(group.confidence, **weights))
        groups.append(group)
    return replace(settings, groups=tuple(groups))


def calibration_error(probability: np.ndarray, is_right: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: |mean probability - share of right ones| over equal bins, weighted by their numbers."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [abs(probability[index == b].sum() - is_right[index == b].sum()) for b in range(bins)]
    return float(sum(gaps) / max(len(probability), 1))


def main(
    clips: Annotated[tuple[Path, ...], tyro.conf.Positional],
    evidence: str | None = None,
    artefacts: str | None = None,
    truth: str = "truth",
) -> None:
    """Prints fitted confidence weights of each group, and how far off the probabilities are with them and without."""
    if (evidence is None) == (artefacts is None):
        raise ConfigError("calibration: expected either --evidence LAYER or --artefacts LAYER, got both or none; give one")
    pairs = []
    for path in find_clips(list(clips)):
        clip = Clip.open(path)
        if evidence is not None:
            seen = evidence_from_layer(clip, clip.layer(evidence))
        else:
            folder = path / "labeling" / str(artefacts)
            seen = read_evidence(clip, *(p for p in (folder / "teacher.npz", folder / "evidence.npz") if p.is_file()))
        pairs.append((seen, clip.layer(truth)))
    if not pairs:
        raise DataError("calibration: expected clips with truth, got none; give some")
    before = TrackingSettings()
    console = Console(width=140)
    for old, new in zip(before.groups, calibrated(pairs, before).groups, strict=True):
        parts = [labelled_features(seen, known, old) for seen, known in pairs]
        features, verdict = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        known = verdict != 0
        errors = []
        for group in (old, new):
            weights = np.array([getattr(group.confidence, f"{name}_weight") for name in FEATURES])
            probability = logistic(group.confidence.bias + features[known] @ weights)
            errors.append(calibration_error(probability, verdict[known] > 0))
        console.print(
            f"{'/'.join(old.classes)}: {int(known.sum())} boxes, {int((verdict > 0).sum())} right, error {errors[0]:.3f} -> {errors[1]:.3f}"
        )
        console.print(new.confidence)


if __name__ == "__main__":
    with one_sentence("labeling.tracks.calibration"):
        tyro.cli(main)
