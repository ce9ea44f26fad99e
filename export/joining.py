"""How are rounded tensors concatenated without becoming numbers in between? With one scale for all of them, as integers.

What a concatenation joins is rounded twice where every part has a scale of its own: once for itself, once for the whole. If the parts take
the whole's scale, the integers are joined as they are, and only parts that were never rounded are rounded before.
"""

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from export.calibration import Range
from export.half import in_scope_of
from export.mixing import MOVERS
from export.simplify import readers_of


def common_ranges(graph: GraphProto, joined: list[str], ranges: Mapping[str, Range]) -> dict[str, Range]:
    """The `ranges`, but one for all that meets in a concatenation among the tensors `joined`, directly or over a third.

    A part that starts at 0 keeps its own where another does not: its cut at 0 is the Relu it comes from.
    """
    producer = {name: node for node in graph.node for name in node.output}
    group = {name: {name} for name in ranges}
    for name in joined:
        node = producer.get(name)
        if node is None or node.op_type != "Concat":
            continue
        sources = [_source(entry, producer) for entry in node.input]
        parts = [part for part in sources if part in ranges and (ranges[part].low < 0) == (ranges[name].low < 0)]
        together = set().union(*(group[part] for part in (name, *parts)))
        for member in together:
            group[member] = together
    return {
        name: Range(min(ranges[member].low for member in members), max(ranges[member].high for member in members))
        for name, members in group.items()
    }


def join_integers(graph: GraphProto) -> int:
    """Moves each rounding of a concatenation before it where a part has the very integers already; in place. Returns how many."""
    producer = {name: node for node in graph.node for name in node.output}
    readers = readers_of(graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name.endswith(("_scale", "_zero"))}

    def same_numbers(first: NodeProto, second: NodeProto) -> bool:
        pairs = zip(first.input[1:], second.input[1:], strict=True)
        return all(a in constants and b in constants and np.array_equal(constants[a], constants[b]) for a, b in pairs)

    replaced: dict[int, list[NodeProto]] = {}
    gone: set[int] = set()
    for quantise in [node for node in graph.node if node.op_type == "QuantizeLinear"]:
        concat = producer.get(quantise.input[0])
        if concat is None or concat.op_type != "Concat" or len(readers[concat.output[0]]) != 1:
            continue
        before = [producer.get(_source(name, producer)) for name in concat.input]
        known = [node is not None and node.op_type == "DequantizeLinear" and same_numbers(node, quantise) for node in before]
        if not any(known):
            continue
        made: list[NodeProto] = []
        inputs = []
        for number, (name, rounded) in enumerate(zip(concat.input, known, strict=True)):
            if rounded:
                inputs.append(_moved_integers(name, f"{quantise.name}_{number}", producer, made))
                continue
            made.append(helper.make_node("QuantizeLinear", [name, *quantise.input[1:]], [f"{quantise.name}_{number}"]))
            made[-1].name = made[-1].output[0]
            inputs.append(made[-1].output[0])
        joined = NodeProto()
        joined.CopyFrom(concat)
        del joined.input[:]
        joined.input.extend(inputs)
        joined.output[0] = quantise.output[0]
        replaced[id(quantise)] = [*in_scope_of(concat, *made), joined]
        gone.add(id(concat))
    nodes = [made for node in graph.node if id(node) not in gone for made in replaced.get(id(node), [node])]
    del graph.node[:]
    graph.node.extend(nodes)
    return len(replaced)


def _source(name: str, producer: Mapping[str, NodeProto]) -> str:
    """The tensor before all that was only moved since."""
    while name in producer and producer[name].op_type in MOVERS:
        name = producer[name].input[0]
    return name


def _moved_integers(name: str, made_name: str, producer: Mapping[str, NodeProto], made: list[NodeProto]) -> str:
    """The integers behind `name`, moved as their numbers were; the copies of the movers are appended to `made`."""
    node = producer[name]
    if node.op_type == "DequantizeLinear":
        return node.input[0]
    before = _moved_integers(node.input[0], f"{made_name}_before", producer, made)
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name, copy.input[0], copy.output[0] = made_name, before, made_name
    made.append(copy)
    return made_name
