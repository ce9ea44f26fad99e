"""What does each node of a graph compute and move? FLOPs and bytes, and the larger of the two times they need on a device.

Two views: every node by itself, and `merged` as an engine merges them.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import ModelProto, NodeProto, TensorProto
from onnxscript.optimizer import fold_constants

from export.devices import Device
from export.lint_graph import attribute, without_weights
from scenes.errors import DataError

TERA, GIGA = 1e12, 1e9

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
WEIGHT_OF_INTEGERS = {"ConvInteger": 1, "QLinearConv": 3, "MatMulInteger": 1, "QLinearMatMul": 3}
"""Operators that compute in integers by themselves, and which input their weight is."""


@dataclass(frozen=True)
class NodeCost:
    """What one node computes and moves."""

    node: str
    op_type: str
    flops: float
    bytes: float
    element: int
    """Element type it computes in."""
    reads: dict[str, float] = field(default_factory=dict)
    """Bytes of each tensor it reads, constants too; what was quantised counts as that."""
    writes: dict[str, float] = field(default_factory=dict)
    """Bytes of each tensor it makes, likewise."""
    elements: int = 0
    """Numbers in its first output."""

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
    model = without_weights(model)
    fixed = _with_fixed_axes(model, num_cameras)
    try:
        inferred = onnx.shape_inference.infer_shapes(_folded(fixed), data_prop=True)
        plain = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise DataError(f"shapes cannot be inferred ({reason}); see `surround4d lint`, or export with fixed axes") from error
    shapes = {**_shapes_of(plain), **_shapes_of(inferred)}  # folding knows more, but takes some nodes away and the names before them
    for tensor in model.graph.initializer:
        shapes[tensor.name] = (tuple(tensor.dims), tensor.data_type)
    dequantised = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return [_cost(node, shapes, dequantised) for node in model.graph.node]


def _shapes_of(inferred: ModelProto) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape (1 where an axis is unknown) and element type of every tensor that has them, by name."""
    values = (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)
    tensors = {value.name: value.type.tensor_type for value in values}
    return {name: (tuple(max(d.dim_value, 1) for d in t.shape.dim), t.elem_type) for name, t in tensors.items() if t.HasField("shape")}


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
    """With everything computed that follows from the fixed axes alone: a Reshape to a computed shape then has a shape.

    Names stay, but for those before nodes that do nothing.
    """
    folding = ir.serde.deserialize_model(model)
    fold_constants(folding, onnx_shape_inference=True)
    return ir.serde.serialize_model(folding)


def _cost(node: NodeProto, shapes: dict[str, tuple[tuple[int, ...], int]], dequantised: dict[str, str]) -> NodeCost:
    def size(name: str) -> float:
        shape, kind = shapes.get(name, ((0,), TensorProto.FLOAT))
        return float(_count(shape) * ELEMENT_BYTES.get(kind, 4))

    moved = 0.0 if node.op_type in FREE else sum(size(name) for name in (*node.input, *node.output))
    out_shape, element = shapes.get(node.output[0], ((1,), TensorProto.FLOAT))
    heavy = node.op_type in ("Conv", "MatMul", "Gemm", "ConvTranspose")
    if heavy and all(name in dequantised for name in node.input[:2]):
        element, moved = TensorProto.INT8, moved / 4
    elif node.op_type in WEIGHT_OF_INTEGERS:
        element = TensorProto.INT8
    reads = {name: size(dequantised.get(name, name)) for name in node.input if name}
    writes = {name: size(dequantised.get(name, name)) for name in node.output if name}
    return NodeCost(node.name, node.op_type, _flops(node, shapes, out_shape), moved, element, reads, writes, _count(out_shape))


def _flops(node: NodeProto, shapes, out_shape: tuple[int, ...]) -> float:
    if node.op_type in FREE:
        return 0.0
    if "Conv" in node.op_type:  # Conv, ConvTranspose, ConvInteger, QLinearConv
        weight = shapes.get(node.input[WEIGHT_OF_INTEGERS.get(node.op_type, 1)], ((1,), 0))[0]
        size = _count(out_shape) if node.op_type != "ConvTranspose" else _count(shapes[node.input[0]][0])
        return 2.0 * size * _count(weight[1:])
    if node.op_type in ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"):
        inner = shapes.get(node.input[0], ((1,), 0))[0]
        depth = inner[-2] if node.op_type == "Gemm" and attribute(node, "transA", 0) else (inner[-1] if inner else 1)
        return 2.0 * _count(out_shape) * depth
    return float(PER_ELEMENT.get(node.op_type, 1) * _count(out_shape))


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) if shape else 1


POINTWISE = {
    *("Abs", "Add", "And", "Atan", "BatchNormalization", "Cast", "Ceil", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp"),
    *("Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max"),
    *("Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign"),
    *("Sin", "Softplus", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "Where", "Xor"),
}
"""Each output value needs only the input values at its own place, so that an engine computes them where they are made."""


def merged(costs: list[NodeCost], kept: set[str]) -> list[NodeCost]:
    """The nodes as an engine runs them: pointwise nodes and views done together with the node that makes their input.

    A node joins the maker of an input of its own size that nobody else reads; of two such makers, the one that computes more.
    So convolution, bias, residual sum, activation and quantisation are one, as in TensorRT, and what passes between them is not moved.

    Args:
        costs: The nodes in the graph's order.
        kept: Tensors that must exist: the graph's outputs.
    """
    readers = Counter(name for cost in costs for name in cost.reads)
    groups: list[list[NodeCost]] = []
    group_of: dict[str, list[NodeCost]] = {}
    for cost in costs:
        asked = cost.reads if cost.op_type in POINTWISE else list(cost.reads)[:1] if cost.op_type in FREE else ()
        lone = [group_of[name] for name in asked if name in group_of and readers[name] == 1 and name not in kept]
        fitting = [group for group in lone if _can_join(cost, group[-1])]
        if fitting:
            group = max(fitting, key=lambda members: sum(member.flops for member in members))
        else:
            group = []
            groups.append(group)
        group.append(cost)
        group_of.update(dict.fromkeys(cost.writes, group))
    return [_as_one(group) for group in groups]


def _can_join(cost: NodeCost, maker: NodeCost) -> bool:
    return len(maker.writes) == 1 and (cost.op_type in FREE or cost.elements == maker.elements)


def _as_one(group: list[NodeCost]) -> NodeCost:
    """A chain of nodes, each reading what the one before made, as one that moves only what comes in and goes out."""
    first, inner = group[0], {name for cost in group[:-1] for name in cost.writes}
    reads = {name: size for cost in group for name, size in cost.reads.items() if name not in inner}
    heavy = max(group, key=lambda cost: cost.flops)
    moved = 0.0 if all(cost.op_type in FREE for cost in group) else sum(reads.values()) + sum(group[-1].writes.values())
    flops = sum(cost.flops for cost in group)
    return NodeCost(first.node, first.op_type, flops, moved, heavy.element, reads, group[-1].writes, group[-1].elements)


def bound_ms(costs: list[NodeCost], device: Device) -> float:
    """The sum over the nodes in ms; of `merged` nodes what a merging engine could reach at best."""
    return 1e3 * sum(cost.seconds(device) for cost in costs)
