"""Which part of a graph may compute in half precision? Convolutions, matrix products and what lies between them; never geometry.

The graph is rewritten node by node, so that the rules can be read and the order stays sorted. A node turns half if it is a matrix
product or convolution, or cheap and fed by nothing but half nodes and small constants. Projection, reference points, TopK, Softmax,
Exp and GridSample are neither, and stay fp32. `groups_of` and `keep` let a measurement exclude parts that do not bear it; values too
large for half precision are found on steps (`largest_values`), because a processor, which computes half precision in fp32, never overflows.
"""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.precision import Lowering, observed
from export.simplify import drop_unread_constants

HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
CHEAP = {
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Expand",
    "Flatten",
    "GlobalAveragePool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "MaxPool",
    "Mul",
    "Relu",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "Split",
    "Squeeze",
    "Sum",
    "Tanh",
    "Transpose",
    "Unsqueeze",
    "Where",
}
"""Follow their inputs into half precision."""
ONLY_FIRST_INPUT = {"Resize"}
"""Operators whose further floating inputs must stay fp32."""
LARGEST_CONSTANT = 16.0
"""A larger constant in a sum or product is a length in metres or pixels, which half precision would round to centimetres."""
SAFE_WEIGHT = 6e4
SAFE_VALUE = 65504.0 / 4
"""Of activations seen on some steps: others may see larger ones."""


def scope_of(node: NodeProto) -> list[str]:
    """The modules a node was traced in, outermost first, e.g. ["cameras", "cameras.backbone"]."""
    text = next((p.value for p in node.metadata_props if p.key == "scope"), "[]")
    names = [part.strip(" '\"") for part in text.strip("[]").split(",")]
    return [name.removeprefix("model.") for name in names if name.startswith("model.")]


def in_scope_of(node: NodeProto, *made: NodeProto) -> tuple[NodeProto, ...]:
    """New nodes that belong where `node` does, so that parts and the cut between encoder and fusion still know them."""
    for one in made:
        one.metadata_props.extend(node.metadata_props)
    return made


def group_of(node: NodeProto) -> str:
    """The part of the network a node belongs to: its outermost module, one level deeper inside the camera network."""
    scope = scope_of(node)
    if not scope:
        return "top"
    return scope[1] if scope[0] == "cameras" and len(scope) > 1 else scope[0]


def groups_of(model: ModelProto) -> list[str]:
    """The parts that hold convolutions or matrix products, in the order of the graph."""
    return list(dict.fromkeys(group_of(node) for node in model.graph.node if node.op_type in HEAVY))


def half_lowering(model: ModelProto, largest: Mapping[str, float]) -> Lowering:
    """Half precision for the parts that hold convolutions or matrix products; `largest` is what `largest_values` found."""
    parts = groups_of(model)
    return Lowering(parts, ("half",), lambda rules: to_half(model, [part for part in parts if part not in rules], largest))


def to_half(model: ModelProto, keep: Collection[str] = (), largest: Mapping[str, float] | None = None) -> ModelProto:
    """A copy whose heavy nodes outside the groups `keep` compute in float16; inputs and outputs keep their types.

    Nodes that read or make a tensor of which `largest` tells more than `SAFE_VALUE` stay fp32.
    """
    return _Rewriting(model, set(keep), largest or {}).run()


def largest_values(model: ModelProto, feeds: Iterable[dict[str, np.ndarray]]) -> dict[str, float]:
    """The largest magnitude on the steps of every tensor that `to_half` would compute or read in half precision, by name."""
    names = _Rewriting(model, set(), {}).half_values()
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for name in names:  # the graph reduces them itself: all of a large network's maps of a step would take gigabytes
        probe.graph.node.append(helper.make_node("Abs", [name], [f"{name}_abs"]))
        probe.graph.node.append(helper.make_node("ReduceMax", [f"{name}_abs"], [f"{name}_largest"], keepdims=0))
    found = dict.fromkeys(names, 0.0)
    for seen in observed(probe, [f"{name}_largest" for name in names], feeds):
        found = {name: max(value, float(seen[f"{name}_largest"])) for name, value in found.items()}
    return found


class _Rewriting:
    def __init__(self, model: ModelProto, keep: set[str], largest: Mapping[str, float]) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        graph = self.model.graph
        self.keep, self.largest = keep, largest
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(self.model).graph
        self.elements = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
        self.elements |= {name: tensor.data_type for name, tensor in self.weights.items()}
        self.half_nodes = self._choose()
        self.nodes: list[NodeProto] = []
        self.half_name: dict[str, str] = {}
        """fp32 tensor to the name of its half twin, where there is one."""

    def _is_float(self, name: str) -> bool:
        return bool(name) and self.elements.get(name) == TensorProto.FLOAT

    def _choose(self) -> set[int]:
        """Indices of the nodes that turn half."""
        half_tensors: set[str] = set()
        chosen = set()
        for index, node in enumerate(self.model.graph.node):
            if group_of(node) in self.keep or not any(self._is_float(name) for name in node.output):
                continue
            inputs = [name for name in self._half_inputs(node) if self._is_float(name)]
            constants = [name for name in inputs if name in self.weights]
            if not all(self._fits(name, SAFE_WEIGHT if node.op_type in HEAVY else LARGEST_CONSTANT) for name in constants):
                continue
            follows = [name for name in inputs if name not in self.weights]
            if any(self.largest.get(name, 0.0) > SAFE_VALUE for name in (*follows, *node.output)):
                continue
            if node.op_type in HEAVY or (node.op_type in CHEAP and follows and all(name in half_tensors for name in follows)):
                chosen.add(index)
                half_tensors |= {name for name in node.output if self._is_float(name)}
        return chosen

    def half_values(self) -> list[str]:
        """What the chosen nodes read and make in half precision, constants apart."""
        nodes = [node for index, node in enumerate(self.model.graph.node) if index in self.half_nodes]
        names = (name for node in nodes for name in (*self._half_inputs(node), *node.output))
        return list(dict.fromkeys(name for name in names if self._is_float(name) and name not in self.weights))

    def _fits(self, name: str, largest: float) -> bool:
        return float(np.abs(numpy_helper.to_array(self.weights[name])).max(initial=0.0)) <= largest

    @staticmethod
    def _half_inputs(node: NodeProto) -> list[str]:
        return list(node.input[:1] if node.op_type in ONLY_FIRST_INPUT else node.input)

    def run(self) -> ModelProto:
        graph = self.model.graph
        wanted = {value.name for value in graph.output}
        for index, node in enumerate(graph.node):
            if index not in self.half_nodes:
                wanted |= set(node.input)
            else:
                wanted |= set(node.input) - set(self._half_inputs(node))
        for index, node in enumerate(list(graph.node)):
            if index in self.half_nodes:
                self._emit_half(node, wanted)
            else:
                self.nodes.append(node)
        del graph.node[:]
        graph.node.extend(self.nodes)
        drop_unread_constants(graph)  # what is noted of shapes stays: runtimes optimise by it
        return self.model

    def _emit_half(self, node: NodeProto, wanted: set[str]) -> None:
        """The node with half inputs and outputs, casts before and after it where the other side is fp32."""
        for position, name in enumerate(self._half_inputs(node)):
            if self._is_float(name):
                node.input[position] = self._half_of(name, node)
        back = []
        for position, name in enumerate(node.output):
            if self._is_float(name):
                self.half_name[name] = node.output[position] = f"{name}_half"
                if name in wanted:
                    back.append(helper.make_node("Cast", [f"{name}_half"], [name], name=f"{name}_to_float", to=TensorProto.FLOAT))
        self.nodes.extend([node, *in_scope_of(node, *back)])

    def _half_of(self, name: str, reader: NodeProto) -> str:
        if name in self.half_name:
            return self.half_name[name]
        half = self.half_name[name] = f"{name}_half"
        if name in self.weights:
            values = numpy_helper.to_array(self.weights[name]).astype(np.float16)
            self.model.graph.initializer.append(numpy_helper.from_array(values, half))
        else:
            cast = helper.make_node("Cast", [name], [half], name=f"{name}_to_half", to=TensorProto.FLOAT16)
            self.nodes.extend(in_scope_of(reader, cast))
        return half
