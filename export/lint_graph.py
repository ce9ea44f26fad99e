"""What do lint rules ask of an ONNX graph? Types, ranks, shapes and constants by tensor name, subgraphs included."""

import math
from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

DEFAULT_DOMAINS = ("", "ai.onnx")
MOST_READ = 4096
"""Constants of more numbers than this are weights: no shape is computed from them."""


class Graph:
    """A model with what the rules ask of it: types, ranks and constants by tensor name."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.opset = next((e.version for e in model.opset_import if e.domain in DEFAULT_DOMAINS), 0)
        self.nodes = list(_all_nodes(model.graph))
        self.constants = _constants(model, self.nodes)
        self.elements: dict[str, int] = {name: tensor.data_type for name, tensor in self.constants.items()}
        self.ranks: dict[str, int] = {name: len(tensor.dims) for name, tensor in self.constants.items()}
        self.shapes: dict[str, list[int | str | None]] = {name: list(tensor.dims) for name, tensor in self.constants.items()}
        try:
            inferred = onnx.shape_inference.infer_shapes(without_weights(model))
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError, EncodeError):
            inferred = model
        for value in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info):
            if not value.type.HasField("tensor_type"):
                continue
            tensor = value.type.tensor_type
            self.elements[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                self.ranks[value.name] = len(tensor.shape.dim)
                self.shapes[value.name] = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
        self.inputs = [value.name for value in model.graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in model.graph.output]

    def unmade_inputs(self) -> Iterator[tuple[NodeProto, str]]:
        """Nodes and what they read that nobody makes, nowhere in the file."""
        made = {name for node in self.nodes for name in node.output}
        for graph in _all_graphs(self.model.graph):
            made |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            made |= {tensor.values.name for tensor in graph.sparse_initializer}
        yield from ((node, name) for node in self.nodes for name in node.input if name and name not in made)

    def array(self, name: str) -> np.ndarray | None:
        """A constant's values."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def is_computed(self, node: NodeProto, position: int) -> bool:
        """Whether the node has an input there that is not a constant."""
        return len(node.input) > position and bool(node.input[position]) and node.input[position] not in self.constants


def without_weights(model: ModelProto) -> ModelProto:
    """The same model whose weights have types and shapes, but no values: no message of more than 2 GB can be serialised."""
    graph = model.graph
    light = GraphProto(
        name=graph.name,
        node=graph.node,
        input=graph.input,
        output=graph.output,
        value_info=graph.value_info,
        sparse_initializer=graph.sparse_initializer,
    )
    for tensor in graph.initializer:
        heavy = math.prod(tensor.dims) > MOST_READ
        light.initializer.append(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims) if heavy else tensor)
    return ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions, graph=light)


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for subgraph in _subgraphs(node):
            yield from _all_nodes(subgraph)


def _all_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for subgraph in _subgraphs(node):
            yield from _all_graphs(subgraph)


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for entry in node.attribute:
        if entry.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            yield from (entry.g, *entry.graphs)


def _constants(model: ModelProto, nodes: list[NodeProto]) -> dict[str, TensorProto]:
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes:
        if node.op_type != "Constant":
            continue
        for entry in node.attribute:
            if entry.name == "value":
                found[node.output[0]] = entry.t
            elif entry.name in ("value_int", "value_ints", "value_float", "value_floats"):
                found[node.output[0]] = numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(entry)))
    return found


def attribute(node: NodeProto, name: str, default=None):
    """A node's attribute as a Python value."""
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default
