"""Do our KITTI tracking figures equal those of an evaluator that was written apart? Both measure the same result files.

    python -m benchmarks.kitti --out out/kitti                  # writes result files
    python -m benchmarks.kitti_agreement --results out/kitti --root ../shared/realdata/kitti_tracking --measure ../shared/kitti_mot.py

Compares sAMOTA, MOTA, IDF1, HOTA, switches, fragmentations, false positives and misses of every class at 3D IoU 0.25 and 0.7, for each
sequence alone and for all together; status 1 above 1e-9.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.kitti import load_evaluator
from evaluation.kitti import KittiSequence, measure
from scenes.readers.kitti import read_kitti_rows

TOLERANCE = 1e-9


def our_figures(root: Path, results: Path, names: list[str], kind: str, iou: float) -> dict[str, float]:
    """What `evaluation.kitti` says."""
    files = [(root / "label_02" / f"{name}.txt", results / kind / f"{name}.txt") for name in names]
    figures = measure([KittiSequence.of(read_kitti_rows(a), read_kitti_rows(b), kind.lower(), iou) for a, b in files])
    counts = figures.counts
    return {
        "sAMOTA": figures.samota,
        "MOTA": counts.mota,
        "IDF1": figures.idf1,
        "HOTA": figures.hota,
        "IDS": counts.num_switches,
        "FRAG": counts.num_fragmentations,
        "FP": counts.num_false_positives,
        "FN": counts.num_misses,
    }


def their_figures(evaluator, root: Path, results: Path, names: list[str], kind: str, iou: float) -> dict[str, float]:
    """What the other evaluator says."""
    out = evaluator.evaluate(str(root / "label_02"), str(results / kind), names, kind, iou)
    mot, identity = out["mot"], out["identity"]
    counted = {name: mot[name] for name in ("MOTA", "IDS", "FRAG", "FP", "FN")}
    return {"sAMOTA": out["sAMOTA"], "IDF1": identity["IDF1"], "HOTA": identity["HOTA"], **counted}


def main(arguments: list[str] | None = None) -> int:
    """Compares; prints the largest difference of each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("../shared/realdata/kitti_tracking"))
    parser.add_argument("--measure", type=Path, default=Path("../shared/kitti_mot.py"))
    parser.add_argument("--results", type=Path, default=Path("out/kitti"))
    options = parser.parse_args(arguments)
    if not options.root.is_dir() or not options.measure.is_file():
        print(f"no KITTI data at {options.root} or no evaluator at {options.measure}: nothing compared", file=sys.stderr)
        return 0
    evaluator, worst, compared = load_evaluator(options.measure), {}, 0
    names = sorted(path.stem for path in (options.root / "label_02").glob("*.txt"))
    for kind in ("Car", "Pedestrian", "Cyclist"):
        for iou in (0.25, 0.7):
            for part in ([name] for name in names):
                compared += _compare(evaluator, options, part, kind, iou, worst)
            compared += _compare(evaluator, options, names, kind, iou, worst)
    for name, difference in worst.items():
        print(f"{name:7} {compared:3} comparisons, largest difference {difference:.2e}")
    print(f"largest difference {max(worst.values()):.2e} (allowed {TOLERANCE:g})")
    return 0 if max(worst.values()) <= TOLERANCE else 1


def _compare(evaluator, options, names: list[str], kind: str, iou: float, worst: dict[str, float]) -> int:
    theirs = their_figures(evaluator, options.root, options.results, names, kind, iou)
    for name, value in our_figures(options.root, options.results, names, kind, iou).items():
        difference = abs(float(value) - float(theirs[name]))
        if difference > TOLERANCE:
            print(f"{kind} at {iou}, {' '.join(names)}: {name} {value} here, {theirs[name]} there")
        worst[name] = max(worst.get(name, 0.0), difference)
    return 1


if __name__ == "__main__":
    sys.exit(main())
