"""How is the exported graph computed in double precision? By the same exporter, in operators of which onnxruntime has double kernels.

In float32 two runtimes differ by 1e-5, and sooner or later a tie (two cells equally high, the last place in memory) goes another way in
each. In double they differ by 1e-13, so that ties practically never decide, and what is left is what the graph computes otherwise than
the network. `InDouble` makes the network's code, which asks for float32 by name to be safe under autocast, compute and leave in double;
`widen` does the same with the few float32 numbers that the exporter writes by itself. onnxruntime has no double kernel for convolutions
and a few others: `RULES` says those in plain arithmetic, written from what ONNX says of each operator. For comparisons alone.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn
from torch.overrides import TorchFunctionMode

from export.half import in_scope_of
from export.onnx_graph import attach_manifest, make_manifest, trace, weights_hash
from export.simplify import drop_unread_constants
from fusion.config import ModelConfig
from scenes.errors import ConfigError

OPSET = 20
"""The first in which GridSample has a double kernel."""
TO_THE_END = np.iinfo(np.int64).max
LARGEST_SLOPE = 1e300
"""Its arc tangent is that of infinity, and infinity would make NaN of the correction."""


class InDouble(TorchFunctionMode):
    """Within it whatever asks torch for float32, by name or by default, gets float64."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[float, float] = {}
        """Plain numbers (0.1) that torch was given, by the float32 next to them."""

    def __enter__(self):
        """Numbers without a type are float64 from here on."""
        self.default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error):
        """As before."""
        torch.set_default_dtype(self.default)
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Calls `func` with the other type."""
        if func is torch.Tensor.float:
            return args[0].double()
        return func(*(self._wide(value) for value in args), **{name: self._wide(value) for name, value in (kwargs or {}).items()})

    def _wide(self, value):
        if type(value) is float:
            self.numbers[float(np.float32(value))] = value
        return torch.float64 if value is torch.float32 else value


def doubled(model: nn.Module) -> nn.Module:
    """A copy in double. Normalisations add the float32 next to their epsilon: a file holds it as an attribute, which is float32."""
    model = copy.deepcopy(model).double()
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = float(np.float32(module.eps))  # type: ignore[arg-type]
    return model


def in_double(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Step inputs with float64 instead of float32."""
    return {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in inputs.items()}


def export_double(model: nn.Module, config: ModelConfig, path: Path) -> None:
    """Writes a float32 network to `path` as a graph that onnxruntime computes in double; the manifest tells the float32 weights' hash."""
    wide = doubled(model)
    with InDouble() as mode:
        proto = trace(wide, config, None)
        widen(proto, mode.numbers)
        rewrite(proto)
        manifest = make_manifest(wide, config, proto, None, "fp64")
    attach_manifest(proto, replace(manifest, hashes={"weights_sha256": weights_hash(model)}))
    onnx.checker.check_model(proto, full_check=True)
    Path(path).write_bytes(proto.SerializeToString())


def widen(model: ModelProto, numbers: Mapping[float, float]) -> None:
    """Makes double what the exporter writes as float32 whatever the network is: plain numbers, and sizes divided by sizes.

    `numbers` are those that the network's code named, by the float32 that was made of them.
    """
    graph = model.graph
    scales = {name for node in graph.node if node.op_type == "Resize" for name in node.input[2:3]}  # float32 by definition
    for tensor in graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE) and tensor.name not in scales:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            if array.ndim == 0:
                array = np.asarray(numbers.get(float(array), array))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    for value in graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE


class Writer:
    """Nodes and constants that take the place of others."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.nodes: list[NodeProto] = []
        self.constants = list(graph.initializer)
        self.values = {tensor.name: tensor for tensor in graph.initializer}
        known = (*onnx.shape_inference.infer_shapes(model).graph.value_info, *graph.input, *graph.output)
        self.shapes = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in known}

    def constant(self, numbers) -> str:
        """A new constant: whole numbers as int64, others as float64."""
        self.constants.append(numpy_helper.from_array(np.asarray(numbers), f"double_constant_{len(self.constants)}"))
        return self.constants[-1].name

    def value(self, name: str) -> np.ndarray:
        """The numbers of a constant."""
        if name not in self.values:
            raise ConfigError(f"double graph: expected {name} to be a constant; fold it before")
        return numpy_helper.to_array(self.values[name])

    def __call__(self, operator: str, *inputs: str, **attributes) -> str:
        """Adds a node; returns the name of its output."""
        name = f"double_{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name


def rewrite(model: ModelProto) -> None:
    """Replaces what `RULES` knows; outputs keep their names, new nodes the scope of the old, so that the graph splits as before."""
    writer = Writer(model)
    for node in model.graph.node:
        rule = RULES.get(node.op_type)
        if rule is None:
            writer.nodes.append(node)
            continue
        first = len(writer.nodes)
        rule(writer, node, {a.name: helper.get_attribute_value(a) for a in node.attribute})
        writer.nodes[-1].output[0] = node.output[0]
        in_scope_of(node, *writer.nodes[first:])
    nodes, constants = list(writer.nodes), list(writer.constants)
    del model.graph.node[:], model.graph.initializer[:], model.opset_import[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    model.opset_import.append(helper.make_opsetid("", OPSET))
    drop_unread_constants(model.graph)


def _conv(write: Writer, node: NodeProto, given: dict) -> None:
    """Channels last, then a product for every tap of the kernel with the pixels under it, and their sum."""
    weight_OCHW, strides, dilations = write.value(node.input[1]), given["strides"], given["dilations"]
    outputs, inputs, *kernel = weight_OCHW.shape
    is_depthwise = inputs == 1 and given["group"] == outputs
    if not is_depthwise and given["group"] != 1:
        raise ConfigError(f"double graph: {node.name} has {given['group']} groups; expected one, or one a channel")
    top, left, bottom, right = given["pads"]
    pixels = write("Transpose", node.input[0], perm=[0, 2, 3, 1])
    pixels = write("Pad", pixels, write.constant([0, top, left, 0, 0, bottom, right, 0]))
    axes, steps, products = write.constant([1, 2]), write.constant(strides), list(node.input[2:])
    for tap in np.ndindex(*kernel):
        starts = [at * apart for at, apart in zip(tap, dilations, strict=True)]
        after = [(size - 1 - at) * apart for at, size, apart in zip(tap, kernel, dilations, strict=True)]
        ends = [-pixels_after or TO_THE_END for pixels_after in after]
        under = write("Slice", pixels, write.constant(starts), write.constant(ends), axes, steps)
        weight_OC = weight_OCHW[:, :, *tap]
        kind, factor = ("Mul", weight_OC[:, 0]) if is_depthwise else ("MatMul", weight_OC.T)
        products.append(write(kind, under, write.constant(factor)))
    write("Transpose", write("Sum", *products), perm=[0, 3, 1, 2])


def _instance_norm(write: Writer, node: NodeProto, given: dict) -> None:
    source, scale, shift = node.input
    last, column = write.constant([2]), write.constant([1])
    flat = write("Reshape", source, write.constant([0, 0, -1]))
    off = write("Sub", flat, write("ReduceMean", flat, last))
    variance = write("ReduceMean", write("Mul", off, off), last)
    normal = write("Div", off, write("Sqrt", write("Add", variance, write.constant(given["epsilon"]))))
    scaled = write("Mul", normal, write("Unsqueeze", scale, column))
    write("Reshape", write("Add", scaled, write("Unsqueeze", shift, column)), write("Shape", source))


def _resize(write: Writer, node: NodeProto, given: dict) -> None:
    """Shares of rows, times the map, times shares of columns."""
    rows, columns, new_rows, new_columns = (int(n) for name in (node.input[0], node.output[0]) for n in write.shapes[name][2:])
    kind = (given["mode"], given["coordinate_transformation_mode"])
    from_columns = write("MatMul", node.input[0], write.constant(resize_shares(columns, new_columns, *kind).T))
    write("MatMul", write.constant(resize_shares(rows, new_rows, *kind)), from_columns)


def resize_shares(size: int, new_size: int, mode: bytes, coordinates: bytes) -> np.ndarray:
    """(new, old): how much of each old pixel is in each new one. Nearest rounds down; edges are repeated."""
    if (mode, coordinates) not in ((b"nearest", b"asymmetric"), (b"linear", b"half_pixel")):
        raise ConfigError(f"double graph: Resize {mode!r} by {coordinates!r} pixels is not known; add it to `resize_shares`")
    half = 0.5 * (coordinates == b"half_pixel")
    place = ((np.arange(new_size) + half) * size / new_size - half).clip(0, size - 1)
    if mode == b"nearest":
        place = np.floor(place)
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(size)))


def _atan(write: Writer, node: NodeProto, given: dict) -> None:
    """The float32 answer y, then what it lacks: tan(a - y) = (x cos y - sin y) / (cos y + x sin y), about 1e-7 and so its own tangent."""
    slope = write("Clip", node.input[0], write.constant(-LARGEST_SLOPE), write.constant(LARGEST_SLOPE))
    rough = write("Cast", write("Atan", write("Cast", slope, to=TensorProto.FLOAT)), to=TensorProto.DOUBLE)
    sin, cos = write("Sin", rough), write("Cos", rough)
    across = write("Sub", write("Mul", slope, cos), sin)
    along = write("Add", cos, write("Mul", slope, sin))
    write("Add", rough, write("Div", across, along))


def _tan(write: Writer, node: NodeProto, given: dict) -> None:
    write("Div", write("Sin", node.input[0]), write("Cos", node.input[0]))


def _grid_sample(write: Writer, node: NodeProto, given: dict) -> None:
    """Bilinear is called linear since opset 20."""
    write("GridSample", *node.input, **{**given, "mode": {b"bilinear": b"linear"}[given["mode"]]})


RULES: dict[str, Callable[[Writer, NodeProto, dict], None]] = {
    "Conv": _conv,
    "InstanceNormalization": _instance_norm,
    "Resize": _resize,
    "Atan": _atan,
    "Tan": _tan,
    "GridSample": _grid_sample,
}
