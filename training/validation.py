"""How good is the network so far? A few validation clips streamed and measured during a run."""

import numpy as np
import torch

from fusion.model import Surround
from scenes.boxes import CLASS_NAMES, VEHICLE_CLASSES, Box3D, Boxes
from scenes.clips import Clip, find_clips
from training.dataset import first_layer
from training.recipes import TrainConfig
from training.streaming import run_clip

VEHICLE_IDS = [CLASS_NAMES.index(name) for name in VEHICLE_CLASSES]
DISTANCES_M = (0.5, 1.0, 2.0, 4.0)


def validate(model: Surround, config: TrainConfig, device: torch.device, memory: bool = True) -> dict[str, float]:
    """Vehicle AP within 30 m (mean over 0.5, 1, 2, 4 m) and velocity error of matched vehicles, over `run.val_clips` clips."""
    frames: list[tuple[Boxes, Boxes]] = []
    for path in find_clips(list(config.data.val))[: config.run.val_clips]:
        clip = Clip.open(path)
        layer = first_layer(clip, config.data.layer_names)
        predicted = run_clip(model, clip, memory=memory, device=str(device))
        for index in range(len(clip)):
            truth, found = clip.boxes_ego(layer, index), clip.boxes_ego(predicted, index)
            if truth is not None and found is not None:
                frames.append((found, truth))
    return quick_vehicle_metrics(frames)


def quick_vehicle_metrics(frames: list[tuple[Boxes, Boxes]], range_m: float = 30.0) -> dict[str, float]:
    """Class-agnostic vehicle AP and velocity error of (predicted, true) boxes in ego frames: quick, for curves.

    The figures that count come from `surround4d eval`.
    """
    prepared = [(_vehicles(found, range_m), _vehicles(truth, range_m)) for found, truth in frames]
    scores = {f"ap_{distance}": _average_precision(prepared, distance)[0] for distance in DISTANCES_M}
    errors = _average_precision(prepared, 2.0)[1]
    return {
        "vehicle_map": float(np.mean(list(scores.values()))),
        **scores,
        "velocity_error": float(np.mean(errors)) if errors else float("nan"),
    }


def _vehicles(boxes: Boxes, range_m: float) -> Boxes:
    near = np.hypot(boxes.box[:, Box3D.X], boxes.box[:, Box3D.Y]) < range_m
    return boxes.select(near & np.isin(boxes.class_id, VEHICLE_IDS))


def _average_precision(frames: list[tuple[Boxes, Boxes]], distance_m: float) -> tuple[float, list[float]]:
    rows: list[tuple[float, bool]] = []
    velocity_errors: list[float] = []
    positives = 0
    for found, truth in frames:
        hidden = truth.ignore | (truth.visibility <= 0.1) | ((truth.num_points >= 0) & (truth.num_points < 6))
        positives += int((~hidden).sum())
        taken = np.zeros(len(truth), dtype=bool)
        for index in np.argsort(-found.score, kind="stable"):
            gaps = np.linalg.norm(truth.box[:, :2] - found.box[index, :2], axis=1) if len(truth) else np.zeros(0)
            gaps = np.where(taken, np.inf, gaps)
            best = int(np.argmin(gaps)) if len(gaps) else -1
            hit = best >= 0 and gaps[best] < distance_m
            if hit:
                taken[best] = True
                if hidden[best]:
                    continue
                difference = found.box[index, Box3D.VX :] - truth.box[best, Box3D.VX :]
                velocity_errors.append(float(np.hypot(*difference)))
            rows.append((float(found.score[index]), hit))
    return _area(rows, positives), [e for e in velocity_errors if np.isfinite(e)]


def _area(rows: list[tuple[float, bool]], positives: int) -> float:
    """nuScenes' area: recall and precision above 0.1 each."""
    if not rows or not positives:
        return 0.0
    hits = np.array([hit for _, hit in sorted(rows, key=lambda row: -row[0])])
    recall, precision = np.cumsum(hits) / positives, np.cumsum(hits) / np.arange(1, len(hits) + 1)
    sampled = np.interp(np.linspace(0, 1, 101), recall, precision, right=0)[11:]
    return float(np.clip(sampled - 0.1, 0, None).mean() / 0.9)
