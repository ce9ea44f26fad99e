"""What does `surround4d export` do? Load, trace, verify, lower the precision, measure, and only then give the file its name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from export.accuracy import require_layer
from export.budget import HERE, BudgetSettings, write_within_budget
from export.devices import read_devices
from export.lower import Samples
from export.manifest import Manifest
from export.networks import load_network
from export.onnx_graph import MAX_CAMERAS, OPSET
from export.verify import Verification
from export.write import write_parts, write_verified
from scenes.clips import find_clips
from scenes.errors import ConfigError


def export_checkpoint(
    checkpoint: Annotated[str, tyro.conf.Positional],
    out: Path,
    cameras: str = "dynamic",
    layers: int | None = None,
    sampler: Literal["gridsample", "gather"] | None = None,
    precision: Literal["fp32", "fp16", "int8", "int8-cpu"] = "fp32",
    split: bool = False,
    data: tuple[Path, ...] = (),
    calibrate: tuple[Path, ...] = (),
    against: str = "",
    budget_ms: float | None = None,
    device: str = "here",
    devices: Path | None = None,
    also: tuple[str, ...] = (),
    input_sizes: tuple[str, ...] = (),
    opset: int = OPSET,
    steps: int = 5,
) -> None:
    """Writes a checkpoint as one verified ONNX graph with its manifest.

    Args:
        checkpoint: A checkpoint file, a run's folder, a shipped name, or random:nano for an untrained network.
        out: The file to write; its manifest is written beside it as OUT.json.
        cameras: "dynamic" for any number of cameras, or a fixed number.
        layers: Keep only the first decoder layers; default all.
        sampler: How images are sampled; "gather" for processors, where it is twice as fast, and where GridSample is not to be trusted.
        precision: fp16 and int8 keep geometry, and the parts that measure worst, in fp32; int8 suits TensorRT, int8-cpu processors.
        split: Also write the graph as two, NAME.encoder.onnx and NAME.fusion.onnx.
        data: Clips to measure the file's accuracy on.
        calibrate: Clips on which a lower precision is calibrated and its parts are chosen, better not those of `data`; default `data`,
            synthetic pictures without either.
        against: Label layer of the clips (truth) to measure accuracy against; not measured by default.
        budget_ms: Choose layers and precision: write the most accurate graph (on `data`, against truth) whose step fits this time.
        device: Where the budget holds: "here" measures, a device of `surround4d roofline` estimates.
        devices: JSON file with further devices, as `surround4d roofline` takes it.
        also: Further checkpoints (other sizes, other variants) that compete for the budget.
        input_sizes: Further picture sizes that compete for the budget, ROWSxCOLUMNS, such as 64x192; the weights stay as they are.
        opset: ONNX operator set, 16 to 19.
        steps: Steps per rig that are compared with torch before the file gets its name.
    """
    num_cameras = parse_cameras(cameras)
    if out.suffix != ".onnx":
        raise ConfigError(f"{out}: expected a name that ends in .onnx; rename it")
    if steps < 1:
        raise ConfigError(f"steps: a file is written only after it was compared with torch, got {steps}; give 1 or more")
    clips = find_clips(list(data)) if data else []
    samples = Samples(find_clips(list(calibrate)) if calibrate else clips, against)
    if against and not clips:
        raise ConfigError(f"against {against!r}: there are no clips to measure on; give some with --data")
    if against or budget_ms is not None:
        require_layer(clips, against or "truth")
        require_layer(samples.clips, against or "truth")
    sizes = parse_sizes(input_sizes)
    if budget_ms is None:
        only_with_budget = {"device": device != HERE, "devices": devices is not None, "also": bool(also), "input-sizes": bool(sizes)}
        for name in (name for name, given in only_with_budget.items() if given):
            raise ConfigError(f"{name}: serves the choice for a budget only; give one with --budget-ms, or leave it out")
    else:
        for name in (name for name, given in {"layers": layers is not None, "precision": precision != "fp32"}.items() if given):
            raise ConfigError(f"{name}: --budget-ms makes and compares all of them; leave --{name} out, or the budget")
        settings = BudgetSettings(
            clips,
            Samples(samples.clips, against or "truth"),
            device,
            sampler=sampler,
            input_sizes=sizes,
            devices=read_devices(devices),
            num_cameras=num_cameras,
            opset=opset,
            steps=steps,
        )
        write_within_budget([checkpoint, *also], out, budget_ms, settings)
        if split:
            write_parts(out)
        return
    network = load_network(checkpoint, layers, sampler or ("gather" if precision == "int8-cpu" else None))
    manifest, found = write_verified(network, out, num_cameras, opset, steps, precision, samples, clips)
    print_summary(out, manifest, found)
    if split:
        write_parts(out)


def parse_cameras(text: str) -> int | None:
    """None for "dynamic", else the number."""
    if text == "dynamic":
        return None
    if not text.isdigit() or not 1 <= int(text) <= MAX_CAMERAS:
        raise ConfigError(f"cameras: expected dynamic or 1 to {MAX_CAMERAS}, got {text!r}; correct it")
    return int(text)


def parse_sizes(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each ROWSxCOLUMNS."""
    sizes = []
    for text in texts:
        rows, _, columns = text.partition("x")
        if not (rows.isdecimal() and columns.isdecimal()):
            raise ConfigError(f"input-sizes: expected ROWSxCOLUMNS such as 64x192, got {text!r}; correct it")
        sizes.append((int(rows), int(columns)))
    return tuple(sizes)


def print_summary(out: Path, manifest: Manifest, found: Verification) -> None:
    """One line of what was written, one of what was verified, one each of precision and accuracy where measured."""
    console = Console(highlight=False, soft_wrap=True)
    cameras = "any number of" if manifest.num_cameras is None else manifest.num_cameras
    size_mb = out.stat().st_size / 1e6
    console.print(f"{out}: {manifest.variant}, {manifest.precision}, opset {manifest.opset}, {cameras} cameras, {size_mb:.1f} MB")
    console.print(
        f"verified against torch: relative error {found.max_error:.2g} over {len(found.error_by_step)} steps "
        f"({'; '.join(manifest.verification['rigs'])})"
    )
    if found.tied_steps:
        console.print(f"{len(found.tied_steps)} of these steps are decided by ties: only their dense answers were compared")
    if "precision" in manifest.verification:
        told = manifest.verification["precision"]
        console.print(
            f"{manifest.precision}: one step differs from fp32 by {told['error']:.2g}; fp32 kept: {told['kept_fp32'] or 'nothing more'}"
        )
        if "constant_statistics" in told:
            norms, points = told["constant_statistics"]["norms"], told["constant_statistics"]["points"][-1]
            console.print(f"constant statistics: {', '.join(norms) or 'in no normalisation'}; mean AP fell by {points:.4f} for them alone")
    if manifest.accuracy:
        console.print(", ".join(f"{name} {value}" for name, value in manifest.accuracy.items()))
