"""What does the labeler gain over an online tracker on KITTI's identical detections and visual poses?

    python -m benchmarks.kitti --root ../shared/realdata/kitti_tracking --measure ../shared/kitti_mot.py

Labels the ten sequences (`surround4d label --from-kitti`), measures them with the stand-alone evaluator and prints one table for all
sequences, one for those the settings were tuned on and one for those held apart. Without the data it says so and does nothing.
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

from labeling.kitti.layout import read_evidence, read_sequence, sequence_names, track_sequence, write_results
from labeling.kitti.settings import TUNED_ON, kitti_classes
from scenes.atomic import write_json

MEASURED = (("Car", 0.25), ("Car", 0.7), ("Pedestrian", 0.25), ("Cyclist", 0.25))
COLUMNS = (
    ("sAMOTA", lambda o: 100 * o["sAMOTA"]),
    ("MOTA", lambda o: 100 * o["mot"]["MOTA"]),
    ("IDF1", lambda o: 100 * o["identity"]["IDF1"]),
    ("HOTA", lambda o: 100 * o["identity"]["HOTA"]),
    ("IDS", lambda o: o["mot"]["IDS"]),
    ("FRAG", lambda o: o["mot"]["FRAG"]),
    ("FP", lambda o: o["mot"]["FP"]),
    ("FN", lambda o: o["mot"]["FN"]),
    ("yaw deg", lambda o: o["box"]["all"]["yaw_rmse_deg"]),
    ("pos m", lambda o: o["box"]["all"]["pos_rmse_m"]),
    ("vel m/s", lambda o: o["motion"]["all"]["vel_rmse_mps"]),
    ("acc m/s2", lambda o: o["motion"]["all"]["acc_rms_results_mps2"]),
    ("jitter", lambda o: o["motion"]["all"]["jitter_mps2"]),
    ("gap recall", lambda o: o["gaps"]["inner"]["recall"]),
)


def load_evaluator(path: Path) -> ModuleType:
    """The stand-alone evaluator as a module."""
    spec = importlib.util.spec_from_file_location("kitti_mot", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: not a Python file; give --measure the evaluator")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def label_all(root: Path, out: Path) -> tuple[float, float]:
    """Labels every sequence; returns processor seconds, text files apart, and seconds of driving."""
    spent_s, frames, kinds = 0.0, 0, kitti_classes()
    for name in sequence_names(root):
        sequence = read_sequence(root, name)
        evidences = [read_evidence(root, sequence, kind) for kind in kinds]
        begun = time.process_time()
        tracks, sequence = track_sequence(sequence, evidences, kinds)
        spent_s += time.process_time() - begun
        frames += len(sequence.world_from_ego)
        for kind in kinds:
            write_results(out, sequence, kind, tracks[kind.name])
    return spent_s, frames / 10


def table(title: str, measured: list[dict]) -> str:
    """Markdown rows of evaluator results."""
    lines = [f"**{title}**", "", "| class | IoU | " + " | ".join(name for name, _ in COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
    for result in measured:
        cells = []
        for _, read in COLUMNS:
            try:
                value = read(result)
            except TypeError:  # the evaluator says None where nothing could be measured
                value = None
            cells.append("-" if value is None else str(value) if isinstance(value, int) else f"{value:.2f}")
        lines.append(f"| {result['cls'].capitalize()} | {result['iou']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Labels, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("../shared/realdata/kitti_tracking"))
    parser.add_argument("--measure", type=Path, default=Path("../shared/kitti_mot.py"))
    parser.add_argument("--out", type=Path, default=Path("out/kitti"))
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    if not options.root.is_dir() or not options.measure.is_file():
        print(f"no KITTI data at {options.root} or no evaluator at {options.measure}: nothing measured", file=sys.stderr)
        return 0
    evaluator = load_evaluator(options.measure)
    processor_s, driving_s = label_all(options.root, options.out)
    speed = f"{driving_s / processor_s:.0f}x real time"
    print(f"labelled {driving_s:.0f} s of driving, three classes, in {processor_s:.2f} processor seconds (text files apart): {speed}\n")
    names = sequence_names(options.root)
    halves = {
        "all ten sequences": names,
        "tuned on: " + " ".join(TUNED_ON): list(TUNED_ON),
        "held apart: " + " ".join(n for n in names if n not in TUNED_ON): [n for n in names if n not in TUNED_ON],
    }
    figures = {}
    for title, sequences in halves.items():
        figures[title] = [measure(evaluator, options.root, options.out, sequences, *what) for what in MEASURED]
        print(table(title, figures[title]) + "\n")
    if options.json:
        write_json(options.json, evaluator._clean(figures))
    return 0


def measure(evaluator: ModuleType, root: Path, out: Path, sequences: list[str], kind: str, iou: float) -> dict:
    """All figures of one class at one IoU over the sequences."""
    folders = (str(root / "label_02"), str(out / kind), sequences, kind, iou, str(root / "orbslam3"), str(root / "detections" / kind))
    return evaluator.evaluate(*folders)


if __name__ == "__main__":
    sys.exit(main())
