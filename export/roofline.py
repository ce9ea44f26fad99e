"""How fast could a graph be on a device that is not here? `surround4d roofline`: the least time by FLOPs and bytes.

Two sums: every node by itself, and merged as an engine merges them, where a pointwise node is done in the registers of the node that
makes its input. An estimate and marked as one: a device reaches 30 to 70 % of its peaks, and small nodes take their launch, which is
not counted.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from export.devices import DEVICES, Device, device_of, read_devices
from export.lint import read_onnx
from export.node_costs import NodeCost, bound_ms, merged, node_costs
from scenes.atomic import write_json
from scenes.errors import ConfigError, DataError


def roofline(
    file: Annotated[Path, tyro.conf.Positional],
    device: tuple[str, ...] = tuple(DEVICES),
    cameras: int = 8,
    devices: Path | None = None,
    top: int = 8,
    json: Path | None = None,
) -> None:
    """Estimates the least time an ONNX graph needs on named devices, from its FLOPs and bytes.

    Args:
        file: Any ONNX file.
        device: Names from the table.
        cameras: What dynamic axes are set to.
        devices: JSON file with further devices.
        top: How many of the most expensive nodes (on the first device) are listed.
        json: File to write every node and the totals to.
    """
    if cameras < 1:
        raise ConfigError(f"cameras: expected one or more, got {cameras}; correct the number")
    table_of_devices = read_devices(devices)
    chosen = {name: device_of(name, table_of_devices) for name in device}
    model = read_onnx(file)
    try:
        costs = node_costs(model, cameras)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    console = Console(highlight=False)
    gflops, megabytes = sum(c.flops for c in costs) / 1e9, sum(c.bytes for c in costs) / 1e6
    console.print(f"{file}: {len(costs)} nodes, {gflops:.2f} GFLOP, {megabytes:.0f} MB moved, {cameras} cameras (ESTIMATE, not measured)")
    fused = merged(costs, {value.name for value in model.graph.output})
    table = Table("device", "each node ms", "merged ms", "source of its rates")
    for name, entry in chosen.items():
        table.add_row(name, f"{bound_ms(costs, entry):.2f}", f"{bound_ms(fused, entry):.2f}", entry.source)
    console.print(table)
    first = next(iter(chosen.values()))
    nodes = Table("node", "operator", "GFLOP", "MB", *(f"ms {name}" for name in chosen))
    for cost in sorted(costs, key=lambda c: -c.seconds(first))[: max(top, 0)]:
        bounds = (f"{1e3 * cost.seconds(entry):.3f}" for entry in chosen.values())
        nodes.add_row(cost.node, cost.op_type, f"{cost.flops / 1e9:.3f}", f"{cost.bytes / 1e6:.2f}", *bounds)
    console.print(nodes)
    if json is not None:
        write_json(json, report(costs, fused, chosen, cameras))


def report(costs: list[NodeCost], fused: list[NodeCost], devices: Mapping[str, Device], cameras: int) -> dict:
    """Every node and the totals as JSON values, bounds in ms by device; of merged nodes only the totals."""
    nodes = [
        {
            "node": cost.node,
            "operator": cost.op_type,
            "flops": cost.flops,
            "bytes": cost.bytes,
            "bound_ms": {name: 1e3 * cost.seconds(entry) for name, entry in devices.items()},
        }
        for cost in costs
    ]
    total = {
        "flops": sum(c.flops for c in costs),
        "bytes": sum(c.bytes for c in costs),
        "bound_ms": {name: bound_ms(costs, entry) for name, entry in devices.items()},
        "merged_bytes": sum(c.bytes for c in fused),
        "merged_bound_ms": {name: bound_ms(fused, entry) for name, entry in devices.items()},
    }
    return {"estimate": True, "cameras": cameras, "devices": {k: asdict(v) for k, v in devices.items()}, "total": total, "nodes": nodes}
