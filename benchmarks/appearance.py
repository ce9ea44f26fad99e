"""Do looks tell objects apart? Pairs of glimpses seconds apart, of one object and of two near each other, on clips with truth.

python -m benchmarks.appearance FIT --check CLIPS     fits the weights of `labeling.tracks.likeness` on FIT, shows the shipped ones on both
python -m benchmarks.appearance --stitch CLIPS        what they do for the tracks of a camera's detections (`benchmarks.camera_noise`)

A glimpse is what the stitching sees of a chain's end: the looks of up to eight frames, averaged; boxes are the truth moved by a camera's
errors (0.2 m and 2 % of the range along the ray). Two glimpses lie `gap_s` apart. Strangers are of the same kind (vehicle, two-wheeler,
person) and at most 10 m away from where the object was: the ones that a stitching could mistake for it.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from benchmarks.argoverse_noise import Figures, boxes_of, measure, scene_of
from benchmarks.camera_noise import noisy_detections
from labeling.appearance import picture_looks
from labeling.tracks.evidence import everywhere
from labeling.tracks.likeness import REACH, distances, log_ratio, mean_looks, spread
from labeling.tracks.rows import TrackRows
from labeling.tracks.settings import TrackingSettings
from labeling.tracks.tracking import track_clip
from scenes.clips import Clip, find_clips

RANGE_M = 40.0
NEAR_M = 10.0
LEAST_VISIBILITY = 0.3
SCORE = 0.3
"""Labels from here on are measured when tracks are compared."""


def glimpses(clip: Clip, gap_s: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Looks (P, 2, 48) of pairs of glimpses and whether each is of one object (P,)."""
    looks, pairs, same = picture_looks(clip), [], []
    time_s = np.array([frame.timestamp_ns for frame in clip.frames]) * 1e-9
    for tracks in _tracks(clip, rng):
        early, late = [], []
        for track in sorted(tracks):
            frames, boxes = tracks[track]
            cut = time_s[frames[0]] + 0.5 * (time_s[frames[-1]] - time_s[frames[0]] - gap_s)
            first = spread(np.flatnonzero(time_s[frames] <= cut)[-REACH:])
            second = spread(np.flatnonzero(time_s[frames] >= cut + gap_s)[:REACH])
            if len(first) and len(second):
                early.append((track, boxes[first[-1], :2], frames[first], boxes[first]))
                late.append((track, boxes[second[0], :2], frames[second], boxes[second]))
        look = {id(part): _glimpse(looks, part[2], part[3]) for part in early + late}
        for a in early:
            for b in late:
                if a[0] == b[0] or np.hypot(*(a[1] - b[1])) < NEAR_M:
                    pairs.append((look[id(a)], look[id(b)]))
                    same.append(a[0] == b[0])
    pairs, same = np.array(pairs).reshape(-1, 2, 48), np.array(same, dtype=bool)
    known = np.isfinite(pairs).all(axis=(1, 2))
    return pairs[known], same[known]


def _tracks(clip: Clip, rng: np.random.Generator) -> list[dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Frames and boxes (world, with a camera's errors) of the true tracks that a camera sees, one dictionary a kind of object."""
    truth = clip.layer("truth")
    found: list[dict[int, list]] = [defaultdict(list) for _ in TrackingSettings().groups]
    for frame in sorted(truth.boxes_world):
        boxes_world, eye = truth.boxes_world[frame], clip.frames[frame].world_from_ego[:2, 3]
        offset = boxes_world.box[:, :2] - eye
        seen = ~(boxes_world.visibility < LEAST_VISIBILITY) & (np.hypot(*offset.T) < RANGE_M) & ~boxes_world.ignore
        for k in np.flatnonzero(seen):
            box = boxes_world.box[k].copy()
            box[:2] += offset[k] * (0.2 / max(np.hypot(*offset[k]), 1.0) + 0.02) * rng.normal()
            for group, tracks in zip(TrackingSettings().groups, found, strict=True):
                if boxes_world.class_id[k] in group.class_ids:
                    tracks[int(boxes_world.track_id[k])].append((frame, box))
    return [{t: (np.array([f for f, _ in rows]), np.stack([b for _, b in rows])) for t, rows in tracks.items()} for tracks in found]


def _glimpse(looks, frames: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return mean_looks(looks(frames, boxes), TrackRows.of_parts([np.arange(len(frames))]))[0][0]


def fit(pairs: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Bias and weights (3,) of a logistic model with both kinds of pairs counting alike; weights not negative."""
    light, chroma = distances(pairs[:, 0], pairs[:, 1])
    features = np.stack([np.ones(len(same)), -light, -chroma], axis=1)
    weight = np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())

    def loss(w: np.ndarray) -> float:
        return float((weight * np.logaddexp(0, np.where(same, -1, 1) * (features @ w))).sum() + 1e-4 * (w**2).sum())

    return np.asarray(minimize(loss, np.zeros(3), bounds=[(None, None), (0, None), (0, None)]).x)


def separation(score: np.ndarray, same: np.ndarray) -> float:
    """Area under the ROC curve: how often one object's pair scores higher than a stranger's."""
    order = np.argsort(np.argsort(score)) + 1.0
    positive = same.sum()
    return float((order[same].sum() - positive * (positive + 1) / 2) / (positive * (~same).sum()))


def stitched_figures(paths: list[Path], seeds: int) -> dict[str, Figures]:
    """Figures of the labeler's tracks of made detections, without and with looks."""
    total = {"without looks": Figures(), "with looks": Figures()}
    for path in paths:
        clip = Clip.open(path)
        scene = scene_of(clip)
        for seed in range(seeds):
            evidence, _ = noisy_detections(clip, scene.truth, seed)
            for name, looks in zip(total, (None, picture_looks(clip)), strict=True):
                tracks = track_clip(evidence, everywhere, TrackingSettings(), looks)
                total[name] = total[name] + measure(scene, boxes_of(tracks, len(clip), SCORE))
    return total


def main(
    clips: tyro.conf.Positional[tuple[Path, ...]] = (),
    check: tuple[Path, ...] = (),
    stitch: tuple[Path, ...] = (),
    gap_s: tuple[float, ...] = (0.5, 1.0, 2.0),
    seeds: int = 3,
) -> None:
    """Prints fitted weights and, for each set of clips and gap, how well the shipped weights tell one object from two.

    Args:
        clips: Folders of clips with truth to fit on.
        check: Folders of clips with truth to check on.
        stitch: Folders of clips with truth to track with and without looks.
        gap_s: Seconds between the glimpses.
        seeds: Draws of made detections for each clip to track.
    """
    console = Console(width=140)
    if stitch:
        console.print("| tracker | MOTA | switches | fragmentations | false positives | misses | centre m | velocity m/s | in occlusions |")
        for name, figures in stitched_figures(find_clips(list(stitch)), seeds).items():
            console.print(figures.row(name))
    if not clips:
        return
    table = Table("clips", "gap s", "one object", "strangers", "AUC", "one object, median", "strangers, median")
    fitted = []
    for name, folders in (("fit", clips), ("check", check)):
        for gap in gap_s:
            parts = [glimpses(Clip.open(path), gap, np.random.default_rng(5)) for path in find_clips(list(folders))]
            if not parts:
                continue
            pairs, same = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
            score = log_ratio(pairs[:, 0], pairs[:, 1])
            fitted += [(pairs, same)] if name == "fit" else []
            figures = (separation(score, same), np.median(score[same]), np.median(score[~same]))
            table.add_row(name, f"{gap:g}", str(same.sum()), str((~same).sum()), *(f"{v:.2f}" for v in figures))
    pairs, same = (np.concatenate([part[k] for part in fitted]) for k in (0, 1))
    console.print("bias, lightness, colour fitted:", np.round(fit(pairs, same), 2).tolist())
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
