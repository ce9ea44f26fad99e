"""Which confidence weights make KITTI's labels true? Fitted on the sequences of `TUNED_ON` with their labels.

python -m labeling.kitti.fit --root ../shared/realdata/kitti_tracking

Prints the numbers of `ConfidenceSettings` for `labeling/kitti/settings.py`. Hiding boxes are told by the present numbers, so a second run
after new ones moves them a little.
"""

from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from evaluation.kitti import KittiSequence as MeasuredSequence
from labeling.kitti.layout import KittiSequence, projected_rectangle, read_evidence, read_sequence, solve_sequence
from labeling.kitti.settings import TUNED_ON, KittiClass, kitti_classes
from labeling.tracks.confidence import FEATURES, fitted_weights
from labeling.tracks.tracking import SolvedGroup
from scenes.boxes import transform_each_box
from scenes.errors import one_sentence
from scenes.geometry import invert_rigid
from scenes.readers.kitti import KittiRows, read_kitti_rows

RIDGE = 20.0
"""How strongly a class's weights are drawn to the mean of all classes."""
ROUNDS = 12
"""Times that mean and weights are found in turn."""


def track_rows(sequence: KittiSequence, kind: KittiClass, group: SolvedGroup) -> KittiRows:
    """All boxes of all solved tracks, probable or not, as rows of a result file."""
    tracks = group.tracks
    box_ego = transform_each_box(invert_rigid(sequence.world_from_ego)[tracks.frame], tracks.box_world)
    rectangle, whole = projected_rectangle(sequence.img_from_cam, box_ego), np.zeros(len(tracks.frame))
    name = np.full(len(tracks.frame), kind.name.lower(), dtype=object)
    return KittiRows(name, tracks.frame, tracks.life.owner, whole, whole, rectangle, box_ego, group.probability)


def fitted_classes(root: Path, kinds: tuple[KittiClass, ...]) -> dict[str, dict[str, float]]:
    """Class name to `bias` and weights."""
    features: dict[str, list[np.ndarray]] = {kind.name: [] for kind in kinds}
    verdicts: dict[str, list[np.ndarray]] = {kind.name: [] for kind in kinds}
    for name in TUNED_ON:
        sequence = read_sequence(root, name)
        groups, sequence = solve_sequence(sequence, [read_evidence(root, sequence, kind) for kind in kinds], kinds)
        truth = read_kitti_rows(root / "label_02" / f"{name}.txt")
        for kind, group in zip(kinds, groups, strict=True):
            used = group.features * np.isin(FEATURES, kind.fitted)
            for iou in kind.right_iou:
                verdict = MeasuredSequence.of(truth, track_rows(sequence, kind, group), kind.name.lower(), iou).verdicts()
                features[kind.name].append(used[verdict != 0])
                verdicts[kind.name].append(verdict[verdict != 0] > 0)
    known = {name: (np.concatenate(features[name]), np.concatenate(verdicts[name])) for name in features}
    found: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        found = {
            kind.name: fitted_weights(*known[kind.name], RIDGE * len(kind.right_iou), _mean_weights(found) if found else None)
            for kind in kinds
        }
    used = {kind.name: {"bias", *(f"{name}_weight" for name in kind.fitted)} for kind in kinds}
    return {name: {key: value for key, value in weights.items() if key in used[name]} for name, weights in found.items()}


def _mean_weights(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Each weight's mean over the classes; a feature that a class does not use counts 0 there."""
    return {f"{name}_weight": float(np.mean([weights[f"{name}_weight"] for weights in found.values()])) for name in FEATURES}


def main(root: Path = Path("../shared/realdata/kitti_tracking")) -> None:
    """Prints the fitted weights of each class."""
    for name, weights in fitted_classes(root, kitti_classes()).items():
        Console(width=140).print(f"{name}: " + ", ".join(f"{key}={value:g}" for key, value in weights.items()))


if __name__ == "__main__":
    with one_sentence("labeling.kitti.fit"):
        tyro.cli(main)
