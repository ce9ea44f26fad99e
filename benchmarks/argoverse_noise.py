"""What does hindsight gain on real tracks with a camera's errors? Argoverse 2 logs, a documented noise model, an online tracker beside it.

    python -m benchmarks.argoverse_noise --logs ../shared/realdata/argoverse2 [--seeds 5] [--tune]

True boxes of the logs become detections (`benchmarks/camera_noise.py`). On the same detections run: a forward-only Kalman filter with
Hungarian assignment (`benchmarks/online_tracker.py`), the labeler's tracking core, and that core given perfect association (the
ceiling). Truth is every box within 60 m that is in view or in an occlusion of at most five seconds; longer unseen stretches count for
nobody. A box is right within 2 m of the centre. The labeler's confidence weights, both score thresholds and the online tracker's numbers
come from seeds 1000 and 1001 of the same logs, the figures from seeds 0, 1, ...
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from benchmarks.camera_noise import LEAST_SEEN, TrueTracks, noisy_detections, true_tracks
from benchmarks.online_tracker import OnlineSettings, track_online
from evaluation.clear_mot import ClearMot, clear_mot
from evaluation.tracks import TrackedClip, assign, tracked_sequences
from labeling.tracks.calibration import calibrated
from labeling.tracks.evidence import Evidence, everywhere
from labeling.tracks.settings import TrackingSettings, pedestrians, two_wheelers, vehicles
from labeling.tracks.tracking import Linked, TrackLabels, group_evidence, label_group, solve_groups, track_clip
from scenes.boxes import Boxes
from scenes.clips import Clip
from scenes.layers import LabelLayer
from scenes.readers.argoverse2 import find_logs, import_log

RIGHT_M = 2.0
OCCLUSION_S = (0.5, 5.0)
FIT_SEEDS = (1000, 1001)
GROUPS = (vehicles(), pedestrians(), two_wheelers())
THRESHOLDS = np.linspace(0.05, 0.8, 16)


@dataclass(frozen=True)
class Figures:
    """Sums over clips, seeds and groups."""

    truth: int = 0
    false_positives: int = 0
    misses: int = 0
    switches: int = 0
    fragmentations: int = 0
    matches: int = 0
    centre_m2: float = 0.0
    velocity_m2ps2: float = 0.0
    occluded: int = 0
    occluded_found: int = 0

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def mota(self) -> float:
        """1 - errors / truth."""
        return 1 - (self.false_positives + self.misses + self.switches) / max(self.truth, 1)

    def row(self, name: str) -> str:
        """A markdown row."""
        n = max(self.matches, 1)
        cells = (
            f"{100 * self.mota:.2f}",
            str(self.switches),
            str(self.fragmentations),
            str(self.false_positives),
            str(self.misses),
            f"{np.sqrt(self.centre_m2 / n):.3f}",
            f"{np.sqrt(self.velocity_m2ps2 / n):.3f}",
            f"{self.occluded_found / max(self.occluded, 1):.3f}",
        )
        return f"| {name} | " + " | ".join(cells) + " |"


@dataclass(frozen=True)
class Scene:
    """One log: its clip, its true tracks, and the truth to be found in each frame."""

    clip: Clip
    truth: TrueTracks
    boxes_world: list[Boxes]
    """With `ignore` where the truth counts for nobody."""
    occluded: list[np.ndarray]
    """For each frame (T,) bool: boxes inside an occlusion of half a second to five seconds."""


def scene_of(clip: Clip) -> Scene:
    """The truth of a clip made ready for measuring."""
    truth = true_tracks(clip)
    time_s = np.array([f.timestamp_ns for f in clip.frames]) / 1e9
    occluded, ignored = np.zeros(len(truth.frame), dtype=bool), np.zeros(len(truth.frame), dtype=bool)
    for track in np.unique(truth.track_id):
        rows = np.flatnonzero(truth.track_id == track)
        hidden = truth.seen_share[rows] < LEAST_SEEN
        edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden.astype(int), [0]])))
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            inside = begin > 0 and end < len(rows)
            length_s = time_s[truth.frame[rows[end]]] - time_s[truth.frame[rows[begin - 1]]] if inside else np.inf
            occluded[rows[begin:end]] = OCCLUSION_S[0] <= length_s <= OCCLUSION_S[1]
            ignored[rows[begin:end]] = length_s > OCCLUSION_S[1]
    boxes, marks = [], []
    for frame in range(len(clip)):
        rows = np.flatnonzero(truth.frame == frame)
        boxes.append(Boxes.make(truth.box_world[rows], truth.class_id[rows], truth.track_id[rows], ignore=ignored[rows]))
        marks.append(occluded[rows])
    return Scene(clip, truth, boxes, marks)


def measure(scene: Scene, pred: list[Boxes]) -> Figures:
    """All figures of one clip's predicted boxes, group by group."""
    total, stamps = Figures(), np.array([f.timestamp_ns for f in scene.clip.frames]) / 1e9
    for group in GROUPS:
        ids = list(group.class_ids)
        mot: ClearMot = clear_mot(tracked_sequences([TrackedClip(stamps, pred, scene.boxes_world)], ids, RIGHT_M), RIGHT_M)
        total = total + Figures(mot.num_truth, mot.num_false_positives, mot.num_misses, mot.num_switches, mot.num_fragmentations)
        for truth, mark, found in zip(scene.boxes_world, scene.occluded, pred, strict=True):
            mine = np.isin(truth.class_id, ids) & ~truth.ignore
            true, told = truth.box[mine], found.box[np.isin(found.class_id, ids)]
            apart_m = np.linalg.norm(true[:, None, :2] - told[None, :, :2], axis=-1)
            i, j = assign(apart_m, apart_m < RIGHT_M)
            hidden = mark[mine]
            velocity = ((true[i, 7:] - told[j, 7:]) ** 2).sum(axis=1)
            squares = float((apart_m[i, j] ** 2).sum()), float(velocity[np.isfinite(velocity)].sum())
            total = total + Figures(0, 0, 0, 0, 0, len(i), *squares, int(hidden.sum()), int(hidden[i].sum()))
    return total


def boxes_of(tracks: list[TrackLabels], num_frames: int, threshold: float) -> list[Boxes]:
    """The labels at least this probable, frame by frame."""
    if not tracks:
        return [Boxes.empty()] * num_frames
    frame = np.concatenate([track.frames for track in tracks])
    count = [len(track.frames) for track in tracks]
    score = np.concatenate([track.box_probability for track in tracks])
    classes = np.repeat([track.class_id for track in tracks], count)
    boxes = Boxes.make(np.concatenate([t.box_world for t in tracks]), classes, np.repeat(np.arange(len(tracks)), count), score)
    return [boxes.select((frame == index) & (score >= threshold)) for index in range(num_frames)]


def oracle_tracks(evidence: Evidence, owner: np.ndarray, settings: TrackingSettings) -> list[TrackLabels]:
    """What the labeler makes of perfect association: every chain is one true track's detections, ghosts are known."""
    numbered = replace(evidence, source=owner.astype(object))
    groups = []
    for group in settings.groups:
        mine = group_evidence(numbered, group)
        owners = np.array(mine.source, dtype=np.int64) if mine.source is not None else np.zeros(0, dtype=np.int64)
        chains = [np.flatnonzero(owners == track) for track in np.unique(owners) if track >= 0]
        groups.append(Linked(group, replace(mine, source=None), chains))
    return [track for group in solve_groups(groups, settings.eye_height_m) for track in label_group(group, everywhere)]


def online_boxes(evidence: Evidence, settings: OnlineSettings) -> list[Boxes]:
    """What the online tracker tells, frame by frame."""
    told = [track_online(evidence, group, settings, 10_000 * k) for k, group in enumerate(GROUPS)]
    frames = []
    for parts in zip(*told, strict=True):
        rows = [row for part in parts for row in part]
        box = np.array([row[1] for row in rows]).reshape(-1, 9)
        frames.append(Boxes.make(box, [row[2] for row in rows], [row[0] for row in rows], [row[3] for row in rows]))
    return frames


def fitted_settings(scenes: list[Scene]) -> tuple[TrackingSettings, float]:
    """Confidence weights and the label threshold with the best MOTA on the seeds for fitting."""
    seen = [(scene, noisy_detections(scene.clip, scene.truth, seed)[0]) for scene in scenes for seed in FIT_SEEDS]
    pairs = [(evidence, LabelLayer("truth", dict(enumerate(scene.boxes_world)))) for scene, evidence in seen]
    settings = calibrated(pairs, TrackingSettings(GROUPS))
    tracks = [(scene, track_clip(evidence, everywhere, settings)) for scene, evidence in seen]
    mota = [sum((measure(s, boxes_of(t, len(s.clip), x)) for s, t in tracks), Figures()).mota for x in THRESHOLDS]
    return settings, float(THRESHOLDS[int(np.argmax(mota))])


def tuned_online(scenes: list[Scene]) -> OnlineSettings:
    """The online tracker's numbers with the best MOTA on the seeds for fitting, one after another, twice over."""
    seen = [(scene, noisy_detections(scene.clip, scene.truth, seed)[0]) for scene in scenes for seed in FIT_SEEDS[:1]]
    best, choices = (
        OnlineSettings(),
        {
            "high_score": (0.3, 0.4, 0.5, 0.6, 0.7),
            "low_score": (0.05, 0.1, 0.2, 0.3),
            "min_hits": (1, 2, 3, 4, 5),
            "max_age_s": (0.5, 1.0, 2.0, 3.0),
            "told_age_s": (0.05, 0.25, 0.5, 1.0, 2.0),
            "gate_sigma": (2.5, 3.0, 3.5, 4.0),
        },
    )
    for name in (*choices, *choices):
        tried = [replace(best, **{name: value}) for value in choices[name]]
        mota = [sum((measure(s, online_boxes(e, one)) for s, e in seen), Figures()).mota for one in tried]
        best = tried[int(np.argmax(mota))]
        print(f"{name}: {max(mota):.4f} with {best}", flush=True)
    return best


def main(arguments: list[str] | None = None) -> int:
    """Imports the logs, fits, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, default=Path("../shared/realdata/argoverse2"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tune", action="store_true", help="choose the online tracker's numbers and stop")
    options = parser.parse_args(arguments)
    logs = [log for log in find_logs(options.logs) if (log / "annotations.feather").is_file()] if options.logs.is_dir() else []
    if not logs:
        print(f"no annotated Argoverse 2 logs in {options.logs}: nothing measured", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        scenes = []
        for log in logs:
            import_log(log, Path(folder) / log.name)
            scenes.append(scene_of(Clip.open(Path(folder) / log.name)))
        if options.tune:
            print(tuned_online(scenes))
            return 0
        report(scenes, options.seeds)
    return 0


def report(scenes: list[Scene], seeds: int) -> None:
    """Fits on the seeds for it, prints the table over the others."""
    settings, threshold = fitted_settings(scenes)
    totals = {name: Figures() for name in ("online", "labeler", "perfect association")}
    for scene in scenes:
        for seed in range(seeds):
            evidence, owner = noisy_detections(scene.clip, scene.truth, seed)
            made = {
                "online": online_boxes(evidence, OnlineSettings()),
                "labeler": boxes_of(track_clip(evidence, everywhere, settings), len(scene.clip), threshold),
                "perfect association": boxes_of(oracle_tracks(evidence, owner, settings), len(scene.clip), threshold),
            }
            totals = {name: totals[name] + measure(scene, boxes) for name, boxes in made.items()}
    names = "MOTA | switches | fragmentations | false positives | misses | centre RMSE m | velocity RMSE m/s | recall in occlusions"
    print(f"{len(scenes)} logs, {seeds} seeds, {totals['online'].truth} true boxes, {totals['online'].occluded} in occlusions\n")
    print(f"| tracker | {names} |\n|" + "---|" * 9)
    for name, figures in totals.items():
        print(figures.row(name))
    print("\n" + changes(totals["online"], totals["labeler"]))


def changes(before: Figures, after: Figures) -> str:
    """The labeler against the online tracker, in per cent."""

    def percent(old: float, new: float) -> str:
        return f"{100 * (new / max(old, 1e-9) - 1):+.0f} %"

    centre = percent(np.sqrt(before.centre_m2 / before.matches), np.sqrt(after.centre_m2 / after.matches))
    velocity = percent(np.sqrt(before.velocity_m2ps2 / before.matches), np.sqrt(after.velocity_m2ps2 / after.matches))
    recall = 100 * (after.occluded_found / after.occluded - before.occluded_found / before.occluded)
    return (
        f"labeler against online: switches {percent(before.switches, after.switches)}, "
        f"fragmentations {percent(before.fragmentations, after.fragmentations)}, centre RMSE {centre}, velocity RMSE {velocity}, "
        f"recall in occlusions {recall:+.1f} points, false positives {percent(before.false_positives, after.false_positives)}"
    )


if __name__ == "__main__":
    sys.exit(main())
