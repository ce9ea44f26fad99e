"""Does onnxruntime compute what torch computes? One file, three rigs (5, 6 and 8 cameras; 5 and 8 with a fisheye), carried state.

    python -m benchmarks.onnx_parity                              # the shipped nano, or random:nano where none ships; 5 steps a rig
    python -m benchmarks.onnx_parity --steps 67 --sampler gather  # issue 4: 201 streamed steps, the other sampler

Exit status 1 if any relative error exceeds 1e-3 or an operator lies outside the default domain.
"""

import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx
import tyro
from rich.console import Console
from rich.table import Table

from export.lint import lint
from export.networks import LoadedNetwork, load_network
from export.onnx_graph import export_model
from export.runner import OnnxNetwork
from export.verify import TOLERANCE, Verification, verification_rigs, verify
from training.checkpoints import SHIPPED


def parity(
    checkpoint: str = "",
    steps: int = 5,
    sampler: Literal["gridsample", "gather"] = "gridsample",
    layers: int | None = None,
    file: Path | None = None,
) -> int:
    """Exports once, then streams every rig through torch and through the file.

    Args:
        checkpoint: Default: the shipped nano, or random:nano.
        steps: Steps per rig.
        sampler: How the graph samples images.
        layers: Decoder layers kept.
        file: Where to keep the ONNX file; default a temporary one.
    """
    name = checkpoint or ("nano" if (SHIPPED / "nano.pt").is_file() else "random:nano")
    network = load_network(name, layers, sampler)
    with TemporaryDirectory() as folder:
        path = file or Path(folder) / "graph.onnx"
        start = time.perf_counter()
        manifest = export_model(network.model, network.config, path)
        seconds = time.perf_counter() - start
        proto = onnx.load(str(path))
        console = Console(highlight=False, width=150)
        domains = sorted({node.domain or "default" for node in proto.graph.node})
        console.print(
            f"{name}, sampler {sampler}, {manifest.num_layers} layers: opset {manifest.opset}, operator domains {domains}, "
            f"{len(proto.graph.node)} nodes of {len(Counter(n.op_type for n in proto.graph.node))} kinds, "
            f"{path.stat().st_size / 1e6:.1f} MB, traced in {seconds:.0f} s"
        )
        findings = lint(proto)
        console.print(f"lint for TensorRT 10, 11 and onnxruntime: {len(findings)} findings")
        worst = rig_table(network, path, steps, console)
    return 0 if worst <= TOLERANCE and domains == ["default"] else 1


def rig_table(network: LoadedNetwork, path: Path, steps: int, console: Console) -> float:
    """Prints one row a rig; returns the largest relative error."""
    session, worst = OnnxNetwork(path), 0.0
    table = Table("rig", "steps", "max relative error", "worst tensor", "first steps", "last steps", "integers differing", "reordered")
    for number, rig in enumerate(verification_rigs(network.config.input_hw)):
        found = verify(path, network.model, network.config, [rig], steps, number, session)
        worst = max(worst, found.max_error)
        table.add_row(*row(found, steps))
    console.print(table)
    return worst


def row(found: Verification, steps: int) -> list[str]:
    """A rig's figures; "first" and "last" are the largest errors of a quarter of the steps, to see a drift."""
    quarter = max(1, steps // 4)
    first, last = (float(np.max(part)) for part in (found.error_by_step[:quarter], found.error_by_step[-quarter:]))
    return [
        found.rigs[0],
        str(steps),
        f"{found.max_error:.2e}",
        str(found.to_json()["worst_tensor"]),
        f"{first:.1e}",
        f"{last:.1e}",
        f"{found.integer_mismatches} of {found.integers_compared}",
        str(found.reordered_steps),
    ]


if __name__ == "__main__":
    raise SystemExit(tyro.cli(parity))
