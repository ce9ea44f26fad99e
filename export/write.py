"""How does a graph get its name? Only after it was verified, loaded and, where asked, measured; whole or in two parts."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import ModelProto

from export.accuracy import measure_accuracy
from export.lower import Samples, lowered
from export.manifest import Manifest, manifest_path, sha256_of_file
from export.networks import LoadedNetwork
from export.onnx_graph import OPSET, attach_manifest, export_model, read_manifest
from export.runner import OnnxNetwork
from export.split import part_paths, split_graph
from export.verify import Verification, require, verify
from scenes.atomic import atomic_file, write_json


def write_verified(
    network: LoadedNetwork,
    out: Path,
    num_cameras: int | None = None,
    opset: int = OPSET,
    steps: int = 5,
    precision: str = "fp32",
    samples: Samples | None = None,
    clips: list[Path] | None = None,
) -> tuple[Manifest, Verification]:
    """Writes a network to `out` only if the file computes what torch computes.

    A lower precision is made from the verified fp32 graph; its parts are chosen and its cost is written by measurement.
    """
    proto, manifest, found = verified_graph(network, out, num_cameras, opset, steps)
    samples = samples or Samples([])
    if precision != "fp32":
        proto, manifest = lowered(proto, manifest, precision, network, samples)
    return write_graph(proto, manifest, out, clips or [], samples.against), found


def verified_graph(
    network: LoadedNetwork, out: Path, num_cameras: int | None = None, opset: int = OPSET, steps: int = 5
) -> tuple[ModelProto, Manifest, Verification]:
    """The fp32 graph in memory, verified; `out` is what error messages call it. Nothing is left on disk."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / out.name
        manifest = export_model(network.model, network.config, path, opset, num_cameras, network.checkpoint_hash)
        found = verify(path, network.model, network.config, steps=steps)
        require(found, out)
        return onnx.load(str(path)), replace(manifest, verification=found.to_json()), found


def write_graph(proto: ModelProto, manifest: Manifest, out: Path, clips: list[Path], against: str = "") -> Manifest:
    """Writes a graph with its manifest, atomically, once it loads; with `against` its accuracy on the clips is measured first."""
    with atomic_file(out) as temporary:
        attach_manifest(proto, manifest)
        temporary.write_bytes(proto.SerializeToString())
        network = OnnxNetwork(temporary)
        if against:
            manifest = replace(manifest, accuracy={"against": against, **measure_accuracy(network, clips, against)})
            attach_manifest(proto, manifest)
            temporary.write_bytes(proto.SerializeToString())
    write_json(manifest_path(out), {**manifest.to_json(), "file_sha256": sha256_of_file(out)})
    return manifest


def write_parts(out: Path) -> tuple[Path, Path]:
    """Cuts a verified file in two beside it; both parts load and agree with their manifests before they get their names."""
    paths = part_paths(out)
    for path, part in zip(paths, split_graph(onnx.load(str(out)), str(out)), strict=True):
        with atomic_file(path) as temporary:
            temporary.write_bytes(part.SerializeToString())
            told = OnnxNetwork(temporary, part=read_manifest(part, str(path)).part).manifest
        write_json(manifest_path(path), {**told.to_json(), "file_sha256": sha256_of_file(path)})
    return paths
