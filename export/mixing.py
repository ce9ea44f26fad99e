"""How are fetched rows mixed in integers? Gather takes bytes, and MatMulInteger sums them with rounded weights.

What `fusion.sampling` fetches is most of what a graph reads: a table's rows in bytes are a quarter of it, and a processor multiplies many
small matrices of bytes twice as fast as those of numbers. Only for processors; TensorRT knows no MatMulInteger.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from export.half import in_scope_of
from export.simplify import forget_types, readers_of

MOVERS = ("Reshape", "Transpose")
"""Operators that move bytes as well as numbers."""


@dataclass(frozen=True)
class Mix:
    """A product of weights (..., M, K) with rows that were fetched from a table and only reshaped since."""

    product: NodeProto
    fetch: NodeProto
    weights: str
    """Tensor of the weights."""
    table: str
    """Tensor of the rows."""
    between: tuple[str, ...]
    """What was fetched, before and after it was reshaped."""


def mixes_of(graph: GraphProto) -> list[Mix]:
    """All of a graph, where nobody else reads what was fetched."""
    producer = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    readers = readers_of(graph)
    found = []
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[0] in constants:
            continue
        name, between = node.input[1], [node.input[1]]
        while name in producer and producer[name].op_type == "Reshape" and len(readers[name]) == 1:
            name = producer[name].input[0]
            between.append(name)
        fetch = producer.get(name)
        if fetch is not None and fetch.op_type == "Gather" and len(readers[name]) == 1 and fetch.input[0] not in constants:
            found.append(Mix(node, fetch, node.input[0], fetch.input[0], tuple(between)))
    return found


def mix_integers(graph: GraphProto, mixes: list[Mix], parameters: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Rewrites `mixes` in place; `parameters` are scale and zero point (uint8) of each of their tables and weights, by name.

    A table that is made of rounded numbers by moving them only is not rounded again: the integers are moved.
    """
    by_product = {id(mix.product): mix for mix in mixes}
    producer = {name: node for node in graph.node for name in node.output}
    readers = readers_of(graph)
    tables = {mix.table: _Table.of(graph, mix.table, producer, parameters) for mix in mixes}
    for mix in mixes:
        mix.fetch.input[0] = tables[mix.table].name
    nodes: list[NodeProto] = []
    for value in graph.input:
        nodes.extend(tables[value.name].nodes if value.name in tables else [])
    for node in graph.node:
        mix = by_product.get(id(node))
        nodes.extend([node] if mix is None else _product(graph, mix, tables[mix.table], parameters[mix.weights], readers))
        for name in node.output:
            nodes.extend(tables[name].nodes if name in tables else [])
    del graph.node[:]
    graph.node.extend(nodes)
    forget_types(graph, {name for mix in mixes for name in mix.between})  # bytes now


@dataclass(frozen=True)
class _Table:
    """A table in integers: its name, the names of its scale and zero point, and the nodes that make it."""

    name: str
    scale: str
    zero: str
    nodes: list[NodeProto]

    @classmethod
    def of(cls, graph: GraphProto, name: str, producer: Mapping[str, NodeProto], parameters: Mapping[str, tuple[np.ndarray, np.ndarray]]):
        """From the table's own integers where it has any, else rounded."""
        moves, source = [], name
        while source in producer and producer[source].op_type in MOVERS:
            moves.append(producer[source])
            source = producer[source].input[0]
        before = producer.get(source)
        if before is not None and before.op_type == "DequantizeLinear":
            inside, nodes = before.input[0], []
            for move in reversed(moves):
                copy = NodeProto()
                copy.CopyFrom(move)
                copy.name, copy.input[0], copy.output[0] = f"{move.name}_integers", inside, f"{move.output[0]}_integers"
                inside = copy.output[0]
                nodes.append(copy)
            return cls(inside, before.input[1], before.input[2], nodes)
        scale, zero = _constants(graph, name, parameters[name])
        quantise = helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_integers"], name=f"{name}_table_quantise")
        near = producer.get(name)
        return cls(f"{name}_integers", scale, zero, [quantise] if near is None else list(in_scope_of(near, quantise)))


def _constants(graph: GraphProto, name: str, arrays: tuple[np.ndarray, np.ndarray]) -> tuple[str, str]:
    keys = f"{name}_mix_scale", f"{name}_mix_zero"
    known = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(numpy_helper.from_array(array, key) for array, key in zip(arrays, keys, strict=True) if key not in known)
    return keys


def _product(
    graph: GraphProto, mix: Mix, table: _Table, weights: tuple[np.ndarray, np.ndarray], readers: Mapping[str, list[NodeProto | None]]
) -> list[NodeProto]:
    """The product in integers, and its numbers: the sum times both scales, by which the weights of the next product are multiplied instead
    if nothing else reads the numbers.

    Not a DequantizeLinear: onnxruntime 1.32 moves one of int32 behind the reshaping after it and rounds to uint8 in between.
    """
    node, name = mix.product, mix.product.output[0]
    scale, zero = _constants(graph, mix.weights, weights)
    unit = _product_of_constants(graph, f"{scale}_by_{table.scale}", scale, table.scale)
    made = [
        helper.make_node("QuantizeLinear", [mix.weights, scale, zero], [f"{name}_weights"], name=f"{node.name}_weights"),
        helper.make_node(
            "MatMulInteger", [f"{name}_weights", node.input[1], zero, table.zero], [f"{name}_sum"], name=f"{node.name}_integers"
        ),
        helper.make_node("Cast", [f"{name}_sum"], [name], name=f"{node.name}_number", to=TensorProto.FLOAT),
    ]
    if not _multiplied(graph, name, unit, readers):
        made[-1].output[0] = f"{name}_number"
        made.append(helper.make_node("Mul", [f"{name}_number", unit], [name], name=node.name))
    return list(in_scope_of(node, *made))


def _multiplied(graph: GraphProto, name: str, unit: str, readers: Mapping[str, list[NodeProto | None]]) -> bool:
    """Multiplies the constant with which a tensor is multiplied next by `unit`; False if there is none, or the tensor is read otherwise."""
    constants = {tensor.name for tensor in graph.initializer}
    while len(readers[name]) == 1 and (node := readers[name][0]) is not None:
        if node.op_type == "MatMul" and node.input[0] == name and node.input[1] in constants:
            node.input[1] = _product_of_constants(graph, f"{node.input[1]}_in_{unit}", node.input[1], unit)
            return True
        if node.op_type not in (*MOVERS, "Squeeze"):
            return False
        name = node.output[0]
    return False


def _product_of_constants(graph: GraphProto, name: str, *factors: str) -> str:
    """The name of a constant that is the product of two others, unless it is there already."""
    values = {tensor.name: tensor for tensor in graph.initializer if tensor.name in (name, *factors)}
    if name not in values:
        first, second = (numpy_helper.to_array(values[factor]) for factor in factors)
        graph.initializer.append(numpy_helper.from_array(np.asarray(first * second, np.float32), name))
    return name
