"""How is the likeliest of several rounded logits found without subtracting the largest from all of them?

`exp(x - max)` keeps sums of powers from overflowing. Where x are rounded numbers, their range is known: if it is no wider than `WIDEST`,
the range's upper end does the same, and as a zero point it is subtracted where integers become numbers anyway. The sum is divided by the
largest power afterwards, a number for each column instead of a number for each logit.
"""

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from export.half import in_scope_of
from export.mixing import MOVERS
from export.simplify import readers_of

WIDEST = 80.0
"""exp(-87) is the smallest number of float32 with all its digits."""
HIGHEST = np.array(255, np.uint8)


def subtract_range_end(graph: GraphProto) -> int:
    """Rewrites ones @ exp(x - x[argmax x]) of rounded x in place, as `export.quicken` leaves it; returns how often. The differences are
    left in the graph, unread.

    The likeliest is sought among the powers then: they are in the order of the logits, and equal where those are.
    """
    producer = {name: node for node in graph.node for name in node.output}
    readers = readers_of(graph)
    order, found = list(graph.node), 0
    for total in [node for node in graph.node if node.op_type == "MatMul"]:
        power = _before(total.input[1], "Exp", ("Reshape",), producer, readers)
        below = _before(power.input[0], "Sub", (), producer, readers) if power is not None else None
        pick = producer.get(below.input[1]) if below is not None else None
        if power is None or below is None or pick is None or pick.op_type != "GatherElements":
            continue
        logits, likeliest = below.input[0], producer.get(pick.input[1])
        if likeliest is None or likeliest.op_type != "ArgMax" or not pick.input[0] == likeliest.input[0] == logits:
            continue
        moved = producer.get(logits)
        if len(readers[logits]) != 3 or len(readers[pick.output[0]]) != 1 or moved is None:
            continue
        rounded = moved if moved.op_type == "DequantizeLinear" else None
        if moved.op_type in MOVERS:
            rounded = _before(moved.input[0], "DequantizeLinear", MOVERS, producer, readers)
        if rounded is None or not _end_at_zero(graph, rounded):
            continue
        power.input[0] = logits
        likeliest.input[0] = pick.input[0] = power.output[0]
        sums, name = f"{total.output[0]}_of_powers", total.output[0]
        total.output[0] = sums
        divide = in_scope_of(total, helper.make_node("Div", [sums, pick.output[0]], [name], name=f"{total.name}_of_largest"))
        order.remove(power)
        order.insert(order.index(likeliest), power)
        order[order.index(total) + 1 : order.index(total) + 1] = divide
        found += 1
    del graph.node[:]
    graph.node.extend(order)
    return found


def _before(name: str, operator: str, views: tuple[str, ...], producer: Mapping[str, NodeProto], readers) -> NodeProto | None:
    """The node of that kind that makes a tensor, with nothing but `views` between and no other readers; None if there is another."""
    while name in producer and len(readers[name]) == 1:
        node = producer[name]
        if node.op_type == operator:
            return node
        if node.op_type not in views:
            return None
        name = node.input[0]
    return None


def _end_at_zero(graph: GraphProto, dequantise: NodeProto) -> bool:
    """Shifts a uint8 tensor's numbers so that the largest possible is 0; False, and nothing done, if their range is too wide."""
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name in dequantise.input}
    scale, zero = (values.get(name) for name in dequantise.input[1:])
    if scale is None or zero is None or zero.dtype != np.uint8 or float(scale) * 255 > WIDEST:
        return False
    name = f"{dequantise.name}_end"
    graph.initializer.append(numpy_helper.from_array(HIGHEST, name))
    dequantise.input[2] = name
    return True
