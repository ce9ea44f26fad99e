"""How fast could a graph be on a device that is not here? Per node FLOPs, bytes, and the larger of the two times they need.

An estimate and marked as one: a device reaches 30 to 70 % of it. Rates are dense peaks of the makers' data sheets (`DEVICES`); a user
adds a device with one line or a JSON file of the same fields.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnx_ir as ir
import tyro
from onnx import ModelProto, NodeProto, TensorProto
from onnxscript.optimizer import fold_constants
from rich.console import Console
from rich.table import Table

from export.lint import read_onnx
from export.lint_graph import attribute
from scenes.atomic import write_json
from scenes.errors import ConfigError, DataError

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Device:
    """Peak rates: dense TFLOP/s (int8: TOP/s) without sparsity, and memory bandwidth in GB/s."""

    fp32_tflops: float
    fp16_tflops: float
    int8_tops: float
    memory_gbps: float
    source: str

    def __post_init__(self) -> None:
        for name in ("fp32_tflops", "fp16_tflops", "int8_tops", "memory_gbps"):
            rate = getattr(self, name)
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
                raise ConfigError(f"{name}: expected a rate above zero, got {rate!r}; correct it")


DEVICES = {
    "orin-nx": Device(1.88, 25.0, 50.0, 102.4, "Jetson Orin NX 16GB data sheet: 1024 cores at 918 MHz, 100 sparse INT8 TOPS"),
    "orin-agx": Device(5.3, 85.0, 137.0, 204.8, "Jetson AGX Orin 64GB data sheet: 275 sparse INT8 TOPS with DLA, GPU 5.3 TFLOPS fp32"),
    "thor": Device(8.0, 258.0, 517.0, 273.0, "Jetson T5000 data sheet: 2070 sparse FP4 TFLOPS, halved for dense and each wider type"),
    "h200": Device(67.0, 989.0, 1979.0, 4800.0, "H200 SXM data sheet, dense"),
    "cpu": Device(0.58, 0.58, 2.3, 100.0, "two Zen 5 server cores: 64 fp32 FLOP a cycle each at 4.5 GHz, VNNI x4; maps stay in the caches"),
}
"""This table is the only place where rates stand; `--devices FILE.json` adds to it."""

ELEMENT_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.DOUBLE: 8,
    TensorProto.INT8: 1,
    TensorProto.UINT8: 1,
    TensorProto.BOOL: 1,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
}
FREE = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Constant", "DequantizeLinear", "QuantizeLinear"}
"""Move nothing: views, or merged into their neighbours."""
PER_ELEMENT = {"Softmax": 5, "LayerNormalization": 8, "InstanceNormalization": 8, "GridSample": 10, "Sigmoid": 4, "Exp": 4, "Resize": 8}
"""Operations per output element; 1 where nothing is said."""


@dataclass(frozen=True)
class NodeCost:
    """What one node computes and moves."""

    node: str
    op_type: str
    flops: float
    bytes: float
    element: int
    """Element type it computes in."""

    def seconds(self, device: Device) -> float:
        """The larger of computing and moving."""
        rates: dict[int, float] = {TensorProto.FLOAT16: device.fp16_tflops, TensorProto.INT8: device.int8_tops}
        rate = rates.get(self.element, device.fp32_tflops)
        return max(self.flops / (rate * TERA), self.bytes / (device.memory_gbps * GIGA))


def node_costs(model: ModelProto, num_cameras: int = 8) -> list[NodeCost]:
    """One entry a node with all shapes known once dynamic axes are set to `num_cameras`.

    Raises:
        DataError: shapes cannot be inferred.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(_folded(_with_fixed_axes(model, num_cameras)), data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise DataError(f"shapes cannot be inferred ({reason}); see `surround4d lint`, or export with fixed axes") from error
    shapes: dict[str, tuple[tuple[int, ...], int]] = {}
    for value in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info):
        tensor = value.type.tensor_type
        shapes[value.name] = (tuple(max(d.dim_value, 1) for d in tensor.shape.dim), tensor.elem_type)
    for tensor in model.graph.initializer:
        shapes[tensor.name] = (tuple(tensor.dims), tensor.data_type)
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return [_cost(node, shapes, dequantised) for node in model.graph.node]


def _with_fixed_axes(model: ModelProto, num_cameras: int) -> ModelProto:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.HasField("dim_param"):
                axis.dim_value = num_cameras
    del fixed.graph.value_info[:]
    return fixed


def _folded(model: ModelProto) -> ModelProto:
    """With everything computed that follows from the fixed axes alone: a Reshape to a computed shape then has a shape. Names stay."""
    folding = ir.serde.deserialize_model(model)
    fold_constants(folding, onnx_shape_inference=True)
    return ir.serde.serialize_model(folding)


def _cost(node: NodeProto, shapes: dict[str, tuple[tuple[int, ...], int]], dequantised: set[str]) -> NodeCost:
    known = [shapes[name] for name in (*node.input, *node.output) if name in shapes]
    moved = 0.0 if node.op_type in FREE else float(sum(_count(shape) * ELEMENT_BYTES.get(kind, 4) for shape, kind in known))
    out_shape, element = shapes.get(node.output[0], ((1,), TensorProto.FLOAT))
    heavy = node.op_type in ("Conv", "MatMul", "Gemm", "ConvTranspose")
    if heavy and all(name in dequantised for name in node.input[:2]):
        element, moved = TensorProto.INT8, moved / 4
    return NodeCost(node.name, node.op_type, _flops(node, shapes, out_shape), moved, element)


def _flops(node: NodeProto, shapes, out_shape: tuple[int, ...]) -> float:
    if node.op_type in FREE:
        return 0.0
    if node.op_type in ("Conv", "ConvTranspose"):
        weight = shapes.get(node.input[1], ((1,), 0))[0]
        size = _count(out_shape) if node.op_type == "Conv" else _count(shapes[node.input[0]][0])
        return 2.0 * size * _count(weight[1:])
    if node.op_type in ("MatMul", "Gemm"):
        inner = shapes.get(node.input[0], ((1,), 0))[0]
        depth = inner[-2] if node.op_type == "Gemm" and attribute(node, "transA", 0) else (inner[-1] if inner else 1)
        return 2.0 * _count(out_shape) * depth
    return float(PER_ELEMENT.get(node.op_type, 1) * _count(out_shape))


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) if shape else 1


def read_devices(path: Path | None) -> dict[str, Device]:
    """The table, with a user's JSON file of `{name: {fp32_tflops, fp16_tflops, int8_tops, memory_gbps, source}}` added."""
    if path is None:
        return DEVICES
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a JSON file of devices")
    try:
        added = {name: Device(**values) for name, values in json.loads(path.read_text()).items()}
    except (OSError, TypeError, AttributeError, ValueError) as error:  # ValueError: no JSON, no text, or a rate that is none
        wanted = ", ".join(f.name for f in fields(Device))
        raise DataError(f"{path}: expected JSON of devices, each a name and {wanted} ({error}); correct it") from error
    return {**DEVICES, **added}


def device_of(name: str, devices: Mapping[str, Device]) -> Device:
    """A device by name; an unknown one is refused with the names there are."""
    if name not in devices:
        raise ConfigError(f"device {name!r}: not in the table ({', '.join(devices)}); add it with --devices FILE.json")
    return devices[name]


def bound_ms(costs: list[NodeCost], device: Device) -> float:
    """The sum over the nodes, in ms: no smaller time is possible without merging nodes."""
    return 1e3 * sum(cost.seconds(device) for cost in costs)


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
    table = Table("device", "bound ms", "source of its rates")
    for name, entry in chosen.items():
        table.add_row(name, f"{bound_ms(costs, entry):.2f}", entry.source)
    console.print(table)
    first = next(iter(chosen.values()))
    nodes = Table("node", "operator", "GFLOP", "MB", *(f"ms {name}" for name in chosen))
    for cost in sorted(costs, key=lambda c: -c.seconds(first))[: max(top, 0)]:
        bounds = (f"{1e3 * cost.seconds(entry):.3f}" for entry in chosen.values())
        nodes.add_row(cost.node, cost.op_type, f"{cost.flops / 1e9:.3f}", f"{cost.bytes / 1e6:.2f}", *bounds)
    console.print(nodes)
    if json is not None:
        write_json(json, report(costs, chosen, cameras))


def report(costs: list[NodeCost], devices: Mapping[str, Device], cameras: int) -> dict:
    """Every node and the totals as JSON values, bounds in ms by device."""
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
    bounds = {name: bound_ms(costs, entry) for name, entry in devices.items()}
    total = {"flops": sum(c.flops for c in costs), "bytes": sum(c.bytes for c in costs), "bound_ms": bounds}
    return {"estimate": True, "cameras": cameras, "devices": {k: asdict(v) for k, v in devices.items()}, "total": total, "nodes": nodes}
