"""What does `surround4d export` do? Load, trace, verify, and only then give the file its name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import onnx
import tyro
from rich.console import Console

from export.manifest import Manifest, manifest_path, sha256_of_file
from export.networks import LoadedNetwork, load_network
from export.onnx_graph import MAX_CAMERAS, OPSET, attach_manifest, export_model
from export.verify import Verification, require, verify
from scenes.atomic import atomic_file, write_json
from scenes.errors import ConfigError, DataError


def export_checkpoint(
    checkpoint: Annotated[str, tyro.conf.Positional],
    out: Path,
    cameras: str = "dynamic",
    layers: int | None = None,
    sampler: Literal["gridsample", "gather"] = "gridsample",
    precision: Literal["fp32", "fp16"] = "fp32",
    opset: int = OPSET,
    steps: int = 5,
) -> None:
    """Writes a checkpoint as one verified ONNX graph with its manifest.

    Args:
        checkpoint: A checkpoint file, a run's folder, a shipped name, or random:nano for an untrained network.
        out: The file to write; its manifest is written beside it as OUT.json.
        cameras: "dynamic" for any number of cameras, or a fixed number.
        layers: Keep only the first decoder layers; default all.
        sampler: How images are sampled; "gather" for runtimes whose GridSample is not to be trusted.
        precision: fp16 keeps projection and reference points in fp32.
        opset: ONNX operator set, 16 to 19.
        steps: Steps per rig that are compared with torch before the file gets its name.
    """
    num_cameras = parse_cameras(cameras)
    if out.suffix != ".onnx":
        raise ConfigError(f"{out}: expected a name that ends in .onnx; rename it")
    network = load_network(checkpoint, layers, sampler)
    manifest, found = write_verified(network, out, num_cameras, opset, steps)
    print_summary(out, manifest, found)


def parse_cameras(text: str) -> int | None:
    """None for "dynamic", else the number."""
    if text == "dynamic":
        return None
    if not text.isdigit() or not 1 <= int(text) <= MAX_CAMERAS:
        raise ConfigError(f"cameras: expected dynamic or 1 to {MAX_CAMERAS}, got {text!r}; correct it")
    return int(text)


def write_verified(
    network: LoadedNetwork, out: Path, num_cameras: int | None = None, opset: int = OPSET, steps: int = 5
) -> tuple[Manifest, Verification]:
    """Traces into a temporary file, verifies it, and renames it to `out` only if it computes what torch computes."""
    with atomic_file(out) as temporary:
        manifest = export_model(network.model, network.config, temporary, opset, num_cameras, network.checkpoint_hash)
        found = verify(temporary, network.model, network.config, steps=steps)
        require(found, out)
        manifest = replace(manifest, verification=found.to_json())
        rewrite_manifest(temporary, manifest)
    write_json(manifest_path(out), {**manifest.to_json(), "file_sha256": sha256_of_file(out)})
    return manifest, found


def rewrite_manifest(path: Path, manifest: Manifest) -> None:
    """Replaces the manifest inside a file."""
    proto = onnx.load(str(path))
    attach_manifest(proto, manifest)
    path.write_bytes(proto.SerializeToString())


def check_beside(path: Path) -> None:
    """Refuses a file whose bytes are not those that its manifest beside it was written for; no manifest beside it is fine."""
    beside = manifest_path(path)
    if not beside.is_file():
        return
    told = json.loads(beside.read_text()).get("file_sha256")
    if told and told != sha256_of_file(path):
        raise DataError(f"{path}: its bytes are not those that {beside.name} was written for; export or copy both again")


def print_summary(out: Path, manifest: Manifest, found: Verification) -> None:
    """One line of what was written, one of what was verified."""
    console = Console(highlight=False)
    cameras = "any number of" if manifest.num_cameras is None else manifest.num_cameras
    size_mb = out.stat().st_size / 1e6
    console.print(f"{out}: {manifest.variant}, {manifest.precision}, opset {manifest.opset}, {cameras} cameras, {size_mb:.1f} MB")
    console.print(
        f"verified against torch: relative error {found.max_error:.2g} over {len(found.error_by_step)} steps "
        f"({'; '.join(manifest.verification['rigs'])})"
    )
