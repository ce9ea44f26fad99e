"""Do our HOTA, IDF1 and CLEAR MOT equal the TrackEval library's? Random tracks through both.

    python -m benchmarks.trackeval_hota [--sets 20] [--env FOLDER]

TrackEval (PyPI, 1.0.9 or newer) lives in an environment of its own, made by pip on the first run; only its metric classes run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

REQUIREMENTS = ("trackeval>=1.0", "numpy<2", "scipy", "pandas<3", "matplotlib")
TOLERANCE = 1e-6


def main() -> int:
    """Measures random sequences twice; prints the largest difference of every figure; status 1 above 1e-6."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=20, help="random sets of two sequences each")
    parser.add_argument("--env", type=Path, default=Path.home() / ".cache" / "surround4d" / "trackeval", help="TrackEval's environment")
    parser.add_argument("--inside-trackeval", nargs=2, metavar=("IN", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside_trackeval:
        source, target = map(Path, arguments.inside_trackeval)
        target.write_text(json.dumps([measure_with_trackeval(s) for s in json.loads(source.read_text())]))
        return 0
    sets = [[random_sequence(np.random.default_rng((seed, part))) for part in range(2)] for seed in range(arguments.sets)]
    theirs = run_trackeval(sets, trackeval_python(arguments.env))
    ours = [measure_with_ours(sequences) for sequences in sets]
    worst = {name: max(abs(a[name] - b[name]) for a, b in zip(ours, theirs, strict=True)) for name in ours[0]}
    for name, value in worst.items():
        print(f"{name:8} {len(ours):4} figures, largest difference {value:.2e}")
    print(f"largest difference {max(worst.values()):.2e} (allowed {TOLERANCE:g})")
    return 0 if max(worst.values()) <= TOLERANCE else 1


def trackeval_python(env: Path) -> Path:
    """The interpreter of TrackEval's environment, made if it is missing."""
    python = env / "bin" / "python"
    if not (env / ".done").is_file():
        print(f"making {env} with pip: {', '.join(REQUIREMENTS)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(env)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS], check=True)
        (env / ".done").touch()
    return python


def run_trackeval(sets: list, python: Path) -> list[dict[str, float]]:
    """What TrackEval measures, computed by this very file in its environment."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.json", Path(folder) / "out.json"
        source.write_text(json.dumps(sets))
        subprocess.run([str(python), "-W", "ignore", __file__, "--inside-trackeval", str(source), str(target)], check=True)
        return json.loads(target.read_text())


def random_sequence(generator: np.random.Generator) -> list[dict]:
    """Frames of true ids, predicted ids and distances: tracks that come and go, switch ids, and false ones."""
    frames: list[dict] = [{"truth": {}, "pred": {}} for _ in range(int(generator.integers(5, 40)))]
    next_id = 0
    for track in range(int(generator.integers(1, 10))):
        first, last = sorted(generator.integers(0, len(frames), 2).tolist())
        position, velocity = generator.uniform(-8, 8, 2), generator.normal(0, 0.5, 2)
        for index in range(first, last + 1):
            here = position + velocity * (index - first)
            frames[index]["truth"][track] = here.tolist()
            next_id += int(generator.random() < 0.15)
            if generator.random() < 0.8:
                frames[index]["pred"][next_id] = (here + generator.normal(0, 0.5, 2)).tolist()
        next_id += 1
    for index in range(len(frames)):
        if generator.random() < 0.3:
            frames[index]["pred"][next_id] = generator.uniform(-8, 8, 2).tolist()
    return [
        {
            "truth_id": list(f["truth"]),
            "pred_id": list(f["pred"]),
            "distance": [[float(np.hypot(a[0] - b[0], a[1] - b[1])) for b in f["pred"].values()] for a in f["truth"].values()],
        }
        for f in frames
    ]


def measure_with_ours(sequences: list[list[dict]]) -> dict[str, float]:
    """HOTA, its parts, IDF1 and CLEAR MOT by `evaluation`; matches of the last two at similarity 0.5, which is 1 m."""
    from evaluation.clear_mot import clear_mot
    from evaluation.hota import hota, identity
    from evaluation.tracks import TrackedFrame, TrackedSequence

    tracked = []
    for part, frames in enumerate(sequences):
        offset = 10_000 * part
        tracked.append(
            TrackedSequence(
                [
                    TrackedFrame(
                        np.array(f["truth_id"], dtype=np.int64) + offset,
                        np.array(f["pred_id"], dtype=np.int64) + offset,
                        np.ones(len(f["pred_id"])),
                        np.array(f["distance"], dtype=float).reshape(len(f["truth_id"]), len(f["pred_id"])),
                    )
                    for f in frames
                ],
                0.5,
            )
        )
    whole, ids = hota(tracked, 2.0), identity(tracked, 1.0)
    return {"HOTA": whole.hota, "DetA": whole.det_a, "AssA": whole.ass_a, "LocA": whole.loc_a, "IDF1": ids.idf1} | {
        "recall": clear_mot(tracked, 1.0).recall
    }


def measure_with_trackeval(sequences: list[list[dict]]) -> dict[str, float]:
    """The same by TrackEval's metric classes, its sequences combined by its own rules."""
    for name, kind in (("float", float), ("int", int), ("bool", bool)):
        if name not in np.__dict__:
            setattr(np, name, kind)
    from trackeval.metrics import CLEAR, HOTA, Identity

    whole, ids, events = HOTA(), Identity({"PRINT_CONFIG": False}), CLEAR({"PRINT_CONFIG": False})
    data = {str(part): trackeval_data(frames) for part, frames in enumerate(sequences)}
    combined = [metric.combine_sequences({k: metric.eval_sequence(d) for k, d in data.items()}) for metric in (whole, ids, events)]
    result = {name: float(np.mean(combined[0][name])) for name in ("HOTA", "DetA", "AssA", "LocA")}
    return {**result, "IDF1": float(combined[1]["IDF1"]), "recall": float(combined[2]["CLR_Re"])}


def trackeval_data(frames: list[dict]) -> dict:
    """One sequence as TrackEval's metrics want it: ids from 0, similarity 1 - distance / 2 m."""
    truth_names = sorted({i for f in frames for i in f["truth_id"]})
    pred_names = sorted({i for f in frames for i in f["pred_id"]})
    distance = [np.array(f["distance"], dtype=float).reshape(len(f["truth_id"]), len(f["pred_id"])) for f in frames]
    return {
        "num_timesteps": len(frames),
        "num_gt_ids": len(truth_names),
        "num_tracker_ids": len(pred_names),
        "num_gt_dets": sum(len(f["truth_id"]) for f in frames),
        "num_tracker_dets": sum(len(f["pred_id"]) for f in frames),
        "gt_ids": [np.array([truth_names.index(i) for i in f["truth_id"]], dtype=int) for f in frames],
        "tracker_ids": [np.array([pred_names.index(i) for i in f["pred_id"]], dtype=int) for f in frames],
        "similarity_scores": [np.maximum(0, 1 - d / 2.0) for d in distance],
    }


if __name__ == "__main__":
    sys.exit(main())
