"""What does each precision cost and gain? One checkpoint as fp32, fp16, int8 and int8-cpu: mean AP, size, what stays fp32.

    python -m benchmarks.onnx_precision nano --calibrate TRAINING_CLIPS --data VALIDATION_CLIPS --out FOLDER
    python -m benchmarks.onnx_precision nano --layers 1 --input-size 64x192 --precisions int8-cpu ...      # more candidates for
                                                                                                      # benchmarks.onnx_budget

Parts are chosen on `--calibrate`, accuracy is measured on `--data` by the evaluation that measures checkpoints; torch's own answer on
the same clips stands in the first row. A file that the present code wrote of the same weights is not made again. The files stay in FOLDER:
`python -m benchmarks.onnx_speed nano --files ...` times them.
"""

import time
from pathlib import Path
from typing import Annotated

import onnx
import tyro
from onnx import ModelProto
from rich.console import Console
from rich.table import Table

from benchmarks.kept_graphs import is_current, mark
from export.accuracy import accuracy_of
from export.command import parse_sizes
from export.lower import PRECISIONS, Judge, Samples, lowered
from export.manifest import Manifest
from export.networks import LoadedNetwork, load_network
from export.onnx_graph import read_manifest
from export.runner import OnnxNetwork
from export.write import verified_graph, write_graph
from scenes.clips import find_clips
from training.evaluate import streamed_layer


def precision(
    checkpoint: Annotated[str, tyro.conf.Positional],
    calibrate: list[Path],
    data: list[Path],
    out: Path,
    against: str = "truth",
    precisions: tuple[str, ...] = PRECISIONS[1:],
    calibration_clips: int = 12,
    layers: int | None = None,
    input_size: str = "",
    torch: bool = True,
) -> None:
    """Writes and measures the files.

    Args:
        checkpoint: A checkpoint file, a run's folder or a shipped name.
        calibrate: Clips for calibration and the choice of parts; never those of `data`.
        data: Clips that accuracy is measured on.
        out: Folder of the files.
        against: Label layer that is true.
        precisions: Which files to write besides fp32.
        calibration_clips: How many of the clips of `calibrate` are used, evenly spaced.
        layers: Decoder layers; default all.
        input_size: ROWSxCOLUMNS; default the checkpoint's own.
        torch: Measure torch's own accuracy too.
    """
    console = Console(highlight=False, width=150)
    out.mkdir(parents=True, exist_ok=True)
    chosen, clips = find_clips(calibrate), find_clips(data)
    samples = Samples(chosen[:: max(1, len(chosen) // calibration_clips)][:calibration_clips], against)
    sizes = parse_sizes([input_size] if input_size else [])
    network = load_network(checkpoint, layers, "gather", *sizes)
    stem = out / f"{network.name}-{network.config.num_layers}layers{f'-{input_size}' if input_size else ''}"
    proto, manifest = fp32_file(network, Path(f"{stem}-fp32.onnx"), clips, against)
    judge, seconds = Judge(proto, manifest, samples), {}
    for name in precisions:
        path, start = Path(f"{stem}-{name}.onnx"), time.perf_counter()
        if not is_current(path, network.model):
            graph, told = lowered(proto, manifest, name, network, samples, console.print, judge)
            seconds[path.name] = time.perf_counter() - start
            write_graph(graph, told, path, clips, against)
            mark(path, network.model)
    table = Table("file", "MB", "mean AP", "points lost", "vehicle AP 30 m", "one step's error", "kept in fp32", "seconds to make")
    if torch:
        found = accuracy_of(lambda clip: streamed_layer(network.model, clip, "torch"), clips, against)
        table.add_row("torch", "", f"{found['mean_ap']:.4f}", "", f"{found['vehicle_ap_30m']:.4f}", "", "", "")
    for path in (Path(f"{stem}-{name}.onnx") for name in PRECISIONS):
        if is_current(path, network.model):
            told = OnnxNetwork(path).manifest
            choice, found = told.verification.get("precision", {}), told.accuracy
            lost, kept = 100 * (manifest.accuracy["mean_ap"] - found["mean_ap"]), ", ".join(choice.get("kept_fp32", [])) or "nothing more"
            figures = f"{found['mean_ap']:.4f}", f"{lost:+.2f}", f"{found['vehicle_ap_30m']:.4f}"
            made = f"{seconds[path.name]:.0f}" if path.name in seconds else ""
            table.add_row(path.name, f"{path.stat().st_size / 1e6:.1f}", *figures, f"{choice.get('error', 0):.2g}", kept, made)
    console.print(table)


def fp32_file(network: LoadedNetwork, path: Path, clips: list[Path], against: str) -> tuple[ModelProto, Manifest]:
    """The fp32 graph and its manifest with its accuracy; written unless it is there."""
    if not is_current(path, network.model):
        proto, manifest, _ = verified_graph(network, path, steps=3)
        write_graph(proto, manifest, path, clips, against)
        mark(path, network.model)
    proto = onnx.load(str(path))
    return proto, read_manifest(proto, str(path))


if __name__ == "__main__":
    tyro.cli(precision)
