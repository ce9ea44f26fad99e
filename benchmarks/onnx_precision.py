"""What does each precision cost and gain? One checkpoint as fp32, fp16, int8 and int8-cpu: mean AP, size, what stays fp32.

    python -m benchmarks.onnx_precision nano --calibrate TRAINING_CLIPS --data VALIDATION_CLIPS --out FOLDER

Parts are chosen on `--calibrate`, accuracy is measured on `--data` by the evaluation that measures checkpoints; torch's own answer on
the same clips stands in the first row. The files stay in FOLDER: `python -m benchmarks.onnx_speed nano --files ...` times them.
"""

import time
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from export.accuracy import accuracy_of
from export.command import verified_graph, write_graph
from export.lower import PRECISIONS, Samples, lowered
from export.networks import load_network
from scenes.clips import find_clips
from training.evaluate import streamed_layer


def precision(
    checkpoint: Annotated[str, tyro.conf.Positional],
    calibrate: list[Path],
    data: list[Path],
    out: Path,
    against: str = "truth",
    precisions: tuple[str, ...] = PRECISIONS,
    calibration_clips: int = 8,
) -> None:
    """Writes and measures the files.

    Args:
        checkpoint: A checkpoint file, a run's folder or a shipped name.
        calibrate: Clips for calibration and the choice of parts; never those of `data`.
        data: Clips that accuracy is measured on.
        out: Folder of the files.
        against: Label layer that is true.
        precisions: Which files to write.
        calibration_clips: How many of the clips of `calibrate` are used, evenly spaced.
    """
    console = Console(highlight=False, width=150)
    out.mkdir(parents=True, exist_ok=True)
    chosen, clips = find_clips(calibrate), find_clips(data)
    samples = Samples(chosen[:: max(1, len(chosen) // calibration_clips)][:calibration_clips], against)
    network = load_network(checkpoint, None, "gather")
    proto, manifest, _ = verified_graph(network, out / f"{network.name}.onnx")
    table = Table("file", "MB", "mean AP", "points lost", "vehicle AP 30 m", "one step's error", "kept in fp32", "seconds to make")
    eager = accuracy_of(lambda clip: streamed_layer(network.model, clip, "torch"), clips, against)
    table.add_row("torch", "", f"{eager['mean_ap']:.4f}", "", f"{eager['vehicle_ap_30m']:.4f}", "", "", "")
    before = 0.0
    for name in precisions:
        start = time.perf_counter()
        graph, told = (proto, manifest) if name == "fp32" else lowered(proto, manifest, name, network, samples, console.print)
        made_s = time.perf_counter() - start
        path = out / f"{network.name}-{name}.onnx"
        told = write_graph(graph, told, path, clips, against)
        before = told.accuracy["mean_ap"] if name == "fp32" else before
        choice, found = told.verification.get("precision", {}), told.accuracy
        lost, kept = 100 * (before - found["mean_ap"]), ", ".join(choice.get("kept_fp32", [])) or "nothing more"
        figures = f"{found['mean_ap']:.4f}", f"{lost:+.2f}", f"{found['vehicle_ap_30m']:.4f}"
        table.add_row(path.name, f"{path.stat().st_size / 1e6:.1f}", *figures, f"{choice.get('error', 0):.2g}", kept, f"{made_s:.0f}")
    console.print(table)


if __name__ == "__main__":
    tyro.cli(precision)
