"""Do our detection and tracking metrics equal the nuScenes devkit's? Random result sets through both.

    python -m benchmarks.nuscenes_devkit [--sets 24] [--env FOLDER]

The devkit (1.2.0) wants numpy < 2, so it lives in an environment of its own, made by pip on the first run. Only its
algorithms run (`eval.detection.algo`, `eval.tracking.algo` and what they sum up in), on our own boxes; no data set is needed.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REQUIREMENTS = ("nuscenes-devkit==1.2.0", "numpy<2", "motmetrics==1.4.0", "pandas<3", "setuptools<81")
TOLERANCE = 1e-6


def main() -> int:
    """Makes random result sets, measures them twice, prints the largest difference of every figure; status 1 above 1e-6."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=24, help="random detection result sets")
    parser.add_argument("--tracking-sets", type=int, default=8, help="how many of them hold tracks too (the devkit is slow here)")
    parser.add_argument(
        "--env", type=Path, default=Path.home() / ".cache" / "surround4d" / "nuscenes-devkit-1.2.0", help="devkit environment"
    )
    parser.add_argument("--inside-devkit", nargs=2, metavar=("IN", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside_devkit:
        measure_with_devkit(*map(Path, arguments.inside_devkit))
        return 0
    result_sets = [random_result_set(seed, tracks=seed < arguments.tracking_sets) for seed in range(arguments.sets)]
    began = time.perf_counter()
    ours = [measure_with_ours(result_set) for result_set in result_sets]
    our_seconds = time.perf_counter() - began
    began = time.perf_counter()
    theirs = run_devkit(result_sets, devkit_python(arguments.env))
    print(f"{arguments.sets} result sets; ours {our_seconds:.1f} s, devkit {time.perf_counter() - began:.1f} s (its start included)")
    return report(ours, theirs)


def devkit_python(env: Path) -> Path:
    """The interpreter of the devkit's environment, made if it is missing."""
    python = env / "bin" / "python"
    if not (env / ".done").is_file():
        print(f"making {env} with pip: {', '.join(REQUIREMENTS)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(env)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS], check=True)
        (env / ".done").touch()
    return python


def run_devkit(result_sets: list[dict], python: Path) -> list[dict]:
    """What the devkit measures, computed by this very file in its environment."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.json", Path(folder) / "out.json"
        source.write_text(json.dumps(result_sets))
        environment = {**os.environ, "PYTHONPATH": "", "MPLBACKEND": "agg"}
        subprocess.run([str(python), "-W", "ignore", __file__, "--inside-devkit", str(source), str(target)], check=True, env=environment)
        return json.loads(target.read_text())


def report(ours: list[dict], theirs: list[dict]) -> int:
    """Prints the largest difference of each kind of figure; status 1 if one exceeds the tolerance."""
    worst: dict[str, float] = {}
    compared: dict[str, int] = {}
    for our_set, their_set in zip(ours, theirs, strict=True):
        assert our_set.keys() == their_set.keys(), set(our_set) ^ set(their_set)
        for name, value in our_set.items():
            kind = name.split("/")[0]
            worst[kind] = max(worst.get(kind, 0.0), difference(value, their_set[name]))
            compared[kind] = compared.get(kind, 0) + 1
    for kind, value in worst.items():
        print(f"{kind:20} {compared[kind]:6} figures, largest difference {value:.2e}")
    total = max(worst.values())
    print(f"{sum(compared.values())} figures of {len(ours)} random result sets, largest difference {total:.2e} (allowed {TOLERANCE:g})")
    return 0 if total <= TOLERANCE else 1


def difference(a: float | None, b: float | None) -> float:
    """Absolute difference; none if both are undefined, infinite if one is."""
    if a is None or b is None:
        return 0.0 if a is b else math.inf
    return abs(a - b)


# Random result sets ---------------------------------------------------------------------------------------------------


CLASSES = (
    *("car", "truck", "bus", "trailer", "construction_vehicle"),
    *("pedestrian", "motorcycle", "bicycle", "traffic_cone", "barrier"),
)
TRACKED = ("bicycle", "bus", "car", "motorcycle", "pedestrian", "trailer", "truck")
ATTRIBUTES = ("vehicle.moving", "vehicle.parked", "vehicle.stopped", "")


def random_result_set(seed: int, tracks: bool) -> dict:
    """Truth and predictions of a few frames and, if wanted, of two tracked clips, with every oddity that has its own rule."""
    generator = np.random.default_rng(seed)
    classes = CLASSES if seed % 4 else CLASSES[: 1 + seed % 7]  # some sets lack classes altogether
    frames = []
    for _ in range(int(generator.integers(3, 30))):
        truth = [random_box(generator, classes) for _ in range(int(generator.integers(0, 25)))]
        pred = [noisy(generator, box, classes, seed) for box in truth for _ in range(2) if generator.random() < 0.7]
        pred += [random_box(generator, classes) for _ in range(int(generator.integers(0, 20)))]
        for box in pred:
            box["num_points"] = -1
            box["score"] = float(np.round(box["score"], 1) if seed % 3 == 0 else box["score"])  # many equal scores
        frames.append({"truth": truth, "pred": [] if seed == 5 else pred})
    return {"frames": frames, "clips": [random_clip(generator, seed) for _ in range(2 if tracks else 0)]}


def random_box(generator: np.random.Generator, classes: tuple[str, ...]) -> dict:
    """A box up to 60 m away, some of it without lidar points, some of unknown velocity."""
    velocity = generator.normal(0, 4, 2) if generator.random() > 0.1 else np.full(2, np.nan)
    return {
        "class": str(generator.choice(classes)),
        "center": [*generator.uniform(-45, 45, 2).tolist(), float(generator.normal())],
        "size": generator.uniform(0.3, 6, 3).tolist(),
        "yaw": float(generator.uniform(-np.pi, np.pi)),
        "velocity": velocity.tolist(),
        "num_points": int(generator.integers(0, 8)),
        "score": float(generator.uniform(0, 1)),
        "attribute": str(generator.choice(ATTRIBUTES)),
    }


def noisy(generator: np.random.Generator, box: dict, classes: tuple[str, ...], seed: int) -> dict:
    """A prediction of a box: moved, turned (some to the back), sized, sometimes of another class."""
    spread = (0.1, 0.6, 1.5)[seed % 3]
    return {
        **box,
        "class": box["class"] if generator.random() < 0.9 else str(generator.choice(classes)),
        "center": (np.array(box["center"]) + generator.normal(0, spread, 3)).tolist(),
        "size": (np.array(box["size"]) * generator.uniform(0.7, 1.4, 3)).tolist(),
        "yaw": box["yaw"] + float(generator.normal(0, 0.4)) + (np.pi if generator.random() < 0.1 else 0.0),
        "velocity": (np.array(box["velocity"]) + generator.normal(0, 1, 2)).tolist(),
        "score": float(np.clip(generator.normal(0.6, 0.25), 0.001, 1)),
        "attribute": box["attribute"] if generator.random() < 0.8 else str(generator.choice(ATTRIBUTES)),
    }


def random_clip(generator: np.random.Generator, seed: int) -> list[dict]:
    """Frames of true tracks and predicted ones: three classes with gaps, switched ids and false tracks, at 2 Hz."""
    num_frames = int(generator.integers(8, 20))
    classes = generator.choice(TRACKED, 3, replace=False)
    frames: list[dict] = [{"truth": [], "pred": []} for _ in range(num_frames)]
    next_id = 0
    for track in range(int(generator.integers(1, 14))):
        name = str(generator.choice(classes))
        first, last = sorted(generator.integers(0, num_frames, 2).tolist())
        position, velocity = generator.uniform(-20, 20, 2), generator.normal(0, 1.0, 2)
        sureness, pred_id = float(generator.uniform(0.2, 0.9)), next_id
        next_id += 1
        for index in range(first, last + 1):
            here = position + 0.5 * velocity * (index - first)
            frames[index]["truth"].append({"class": name, "center": here.tolist(), "track": track})
            if generator.random() < 0.1:
                pred_id, next_id = next_id, next_id + 1
            if generator.random() < 0.8 and seed != 5:
                found = here + generator.normal(0, 0.6, 2)
                score = sureness + float(generator.normal(0, 0.05))
                frames[index]["pred"].append({"class": name, "center": found.tolist(), "track": pred_id, "score": score})
    for _ in range(int(generator.integers(0, 4))):
        name, position, sureness = str(generator.choice(classes)), generator.uniform(-20, 20, 2), float(generator.uniform(0.1, 0.7))
        for index in range(int(generator.integers(0, num_frames)), num_frames):
            frames[index]["pred"].append({"class": name, "center": position.tolist(), "track": next_id, "score": sureness})
        next_id += 1
    return frames


# Ours -----------------------------------------------------------------------------------------------------------------


def measure_with_ours(result_set: dict) -> dict[str, float | None]:
    """Every figure by `evaluation`."""
    return {**detection_with_ours(result_set["frames"]), **tracking_with_ours(result_set["clips"])}


def detection_with_ours(frames: list[dict]) -> dict[str, float | None]:
    """AP of every class and threshold, errors, mAP, NDS."""
    from evaluation.detection import nuscenes_metrics
    from scenes.boxes import CLASS_NAMES, Boxes

    def boxes_of(rows: list[dict]) -> Boxes:
        box = [[*r["center"], *r["size"], r["yaw"], *r["velocity"]] for r in rows]
        class_id = [CLASS_NAMES.index(r["class"]) for r in rows]
        return Boxes.make(box, class_id, score=[r["score"] for r in rows], num_points=[r["num_points"] for r in rows])

    def attributes_of(rows: list[dict]) -> np.ndarray:
        return np.array([r["attribute"] for r in rows], dtype=object)

    pred, truth = [f["pred"] for f in frames], [f["truth"] for f in frames]
    metrics = nuscenes_metrics(
        list(map(boxes_of, pred)),
        list(map(boxes_of, truth)),
        pred_attributes=list(map(attributes_of, pred)),
        truth_attributes=list(map(attributes_of, truth)),
    )
    figures = {f"AP/{name}/{t}": ap for name, c in metrics.classes.items() for t, ap in c.ap.items()}
    figures |= {f"TP error/{name}/{e}": defined(value) for name, c in metrics.classes.items() for e, value in c.errors.items()}
    figures |= {f"mean TP error/{e}": defined(value) for e, value in metrics.errors.items()}
    return {**figures, "mAP": metrics.mean_ap, "NDS": metrics.nds}


def tracking_with_ours(clips: list[list[dict]]) -> dict[str, float | None]:
    """AMOTA, AMOTP and what is taken at the best MOTA, for every class with truth. Holes stay: the devkit fills them wrongly."""
    from evaluation.tracking import TrackingSettings, tracking_metrics
    from evaluation.tracks import TrackedClip
    from scenes.boxes import CLASS_NAMES, Boxes

    def boxes_of(rows: list[dict]) -> Boxes:
        box = [[*r["center"], 0, 1, 1, 1, 0, 0, 0] for r in rows]
        class_id, track_id = [CLASS_NAMES.index(r["class"]) for r in rows], [r["track"] for r in rows]
        return Boxes.make(box, class_id, track_id, [r.get("score", 1.0) for r in rows])

    tracked = [TrackedClip(np.arange(len(f)) * 0.5, [boxes_of(x["pred"]) for x in f], [boxes_of(x["truth"]) for x in f]) for f in clips]
    metrics = tracking_metrics(tracked, TrackingSettings(interpolate=False))
    figures: dict[str, float | None] = {}
    for name, group in metrics.present.items():
        clear = group.clear
        figures |= {f"AMOTA/{name}": group.amota, f"AMOTP/{name}": group.amotp}
        if np.isnan(group.score_threshold):
            continue
        figures |= {f"MOTA/{name}": clear.mota, f"MOTP/{name}": clear.motp, f"MOTAR/{name}": clear.motar}
        figures |= {f"recall/{name}": clear.recall, f"TID/{name}": clear.initialisation_s, f"LGD/{name}": clear.longest_gap_s}
        counts = {"tp": clear.num_matches, "fp": clear.num_false_positives, "fn": clear.num_misses, "ids": clear.num_switches}
        counts |= {"frag": clear.num_fragmentations, "mt": clear.mostly_tracked, "ml": clear.mostly_lost}
        figures |= {f"tracking counts/{name}/{kind}": value for kind, value in counts.items()}
    return {key: defined(value) for key, value in figures.items()}


def defined(value: float) -> float | None:
    """None instead of NaN."""
    return None if math.isnan(value) else float(value)


# The devkit's ---------------------------------------------------------------------------------------------------------


def measure_with_devkit(source: Path, target: Path) -> None:
    """Runs in the devkit's environment: every figure of every result set, as JSON."""
    import logging

    logging.disable(logging.CRITICAL)
    result_sets = json.loads(source.read_text())
    figures = [{**detection_with_devkit(s["frames"]), **tracking_with_devkit(s["clips"])} for s in result_sets]
    target.write_text(json.dumps(figures))


def detection_with_devkit(frames: list[dict]) -> dict[str, float | None]:
    """The steps of `DetectionEval` (filtering, accumulation, averages) by the devkit's own functions."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.utils import center_distance
    from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
    from nuscenes.eval.detection.data_classes import DetectionMetrics

    names = {"trans_err": "ate", "scale_err": "ase", "orient_err": "aoe", "vel_err": "ave", "attr_err": "aae"}
    undefined = {"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")}
    config = config_factory("detection_cvpr_2019")
    truth, pred = devkit_boxes(frames, "truth", config), devkit_boxes(frames, "pred", config)
    metrics = DetectionMetrics(config)
    figures: dict[str, float | None] = {}
    for name in config.class_names:
        data = {t: accumulate(truth, pred, name, center_distance, t) for t in config.dist_ths}
        for threshold in config.dist_ths:
            ap = calc_ap(data[threshold], config.min_recall, config.min_precision)
            metrics.add_label_ap(name, threshold, ap)
            figures[f"AP/{name}/{threshold}"] = ap
        for error, ours in names.items():
            skipped = error in undefined.get(name, ())
            value = float("nan") if skipped else calc_tp(data[config.dist_th_tp], config.min_recall, error)
            metrics.add_label_tp(name, error, value)
            figures[f"TP error/{name}/{ours}"] = defined(value)
    figures |= {f"mean TP error/{names[e]}": defined(value) for e, value in metrics.tp_errors.items()}
    return {**figures, "mAP": metrics.mean_ap, "NDS": metrics.nd_score}


def devkit_boxes(frames: list[dict], kind: str, config):
    """The frames as the devkit's boxes, filtered as `filter_eval_boxes` does (which itself needs the data set)."""
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox
    from pyquaternion import Quaternion

    result = EvalBoxes()
    for index, frame in enumerate(frames):
        boxes = [
            DetectionBox(
                sample_token=str(index),
                translation=tuple(row["center"]),
                size=(row["size"][1], row["size"][0], row["size"][2]),
                rotation=tuple(Quaternion(axis=(0, 0, 1), angle=row["yaw"])),
                velocity=tuple(row["velocity"]),
                ego_translation=tuple(row["center"]),
                num_pts=row["num_points"],
                detection_name=row["class"],
                detection_score=row["score"] if kind == "pred" else -1.0,
                attribute_name=row["attribute"],
            )
            for row in frame[kind]
        ]
        boxes = [box for box in boxes if box.ego_dist < config.class_range[box.detection_name] and box.num_pts != 0]
        result.add_boxes(str(index), boxes)
    return result


def tracking_with_devkit(clips: list[list[dict]]) -> dict[str, float | None]:
    """The steps of `TrackingEval` by the devkit's own functions; track scores are means over the track, as it wants them."""
    import numpy

    numpy.unicode_ = getattr(numpy, "unicode_", str)
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.utils import center_distance
    from nuscenes.eval.tracking.algo import TrackingEvaluation
    from nuscenes.eval.tracking.data_classes import TrackingMetricData

    config = config_factory("tracking_nips_2019")
    truth, pred = devkit_tracks(clips, "truth"), devkit_tracks(clips, "pred")
    figures: dict[str, float | None] = {}
    for name in config.class_names:
        evaluation = TrackingEvaluation(
            *(truth, pred, name, center_distance, config.dist_th_tp, config.min_recall, TrackingMetricData.nelem),
            metric_worst=config.metric_worst,
            verbose=False,
        )
        data = evaluation.accumulate()
        if not any(box.tracking_name == name for frames in truth.values() for boxes in frames.values() for box in boxes):
            continue
        for average, source in (("amota", "motar"), ("amotp", "motp")):
            values = numpy.array(data.get_metric(source))
            values[numpy.isnan(values)] = config.metric_worst[average]
            figures[f"{average.upper()}/{name}"] = float(values.mean())
        if numpy.all(numpy.isnan(data.confidence)):
            continue
        best = numpy.nanargmax(data.mota)
        for metric in ("mota", "motp", "motar", "recall", "tid", "lgd"):
            label = metric if metric == "recall" else metric.upper()
            figures[f"{label}/{name}"] = defined(float(data.get_metric(metric)[best]))
        for metric in ("tp", "fp", "fn", "ids", "frag", "mt", "ml"):
            figures[f"tracking counts/{name}/{metric}"] = float(data.get_metric(metric)[best])
    return figures


def devkit_tracks(clips: list[list[dict]], kind: str) -> dict:
    """Scene to time stamp to boxes, as `create_tracks` lays them out."""
    from collections import defaultdict

    from nuscenes.eval.tracking.data_classes import TrackingBox

    tracks: dict = {}
    for scene, frames in enumerate(clips):
        scores = defaultdict(list)
        for frame in frames:
            for row in frame[kind]:
                scores[row["track"]].append(row.get("score", -1.0))
        tracks[str(scene)] = {
            index: [
                TrackingBox(
                    sample_token=f"{scene}.{index}",
                    translation=(*row["center"], 0.0),
                    size=(1, 1, 1),
                    rotation=(1, 0, 0, 0),
                    tracking_id=str(row["track"]),
                    tracking_name=row["class"],
                    tracking_score=float(np.mean(scores[row["track"]])),
                )
                for row in frame[kind]
            ]
            for index, frame in enumerate(frames)
        }
    return tracks


if __name__ == "__main__":
    sys.exit(main())
