"""How does an integer convolution read pictures fast on a processor? As the same bytes, seen as fewer pixels of more channels.

Before it multiplies, onnxruntime copies what lies under the kernel, pixel by pixel: for pixels of three bytes that takes longer than the
products. A row of pictures lies in memory pixel after pixel, so that four of them are one pixel of twelve bytes without anything being
moved, and two of the results, side by side, one of twice the channels. The kernel becomes as wide as the groups it touches, with zeros for
the pixels that a result does not look at. Not a bit of any result changes. Nor does it where a map of few channels, not a multiple of
four, gets more that are zero: integers are multiplied four channels at a time.
"""

from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from export.half import in_scope_of
from export.simplify import forget_types, readers_of

ENOUGH_BYTES = 12
"""So many are copied at once about as fast as three."""
TOGETHER = 4
"""Channels that are multiplied at once."""
FEW = 16
"""With more channels, a rest is a small share of them."""
CHANNELS_FIRST, CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
DEFAULTS = {"strides": [1, 1], "dilations": [1, 1], "group": [1], "pads": [0, 0, 0, 0]}
"""Of a convolution's attributes."""


@dataclass(frozen=True)
class Grouping:
    """`pixels` neighbours in a row of the picture become one; `results` neighbours in a row of the result do."""

    pixels: int
    results: int
    left: int
    """Groups of padding on the left."""
    width: int
    """Groups under the kernel."""

    @property
    def right(self) -> int:
        """Groups of padding on the right, so that a row of g groups gives g groups of results."""
        return self.width - 1 - self.left


def grouping_of(channels: int, kernel: int, stride: int, padding: int) -> Grouping:
    """For a kernel so many columns wide; pixels enough for `ENOUGH_BYTES`, and whole strides."""
    results = -(-ENOUGH_BYTES // (channels * stride))
    pixels = results * stride
    last = (results - 1) * stride - padding + kernel - 1
    left = -(-padding // pixels)
    return Grouping(pixels, results, left, left + last // pixels + 1)


def grouped_weights(weight_OCHW: np.ndarray, stride: int, padding: int, grouping: Grouping) -> np.ndarray:
    """(results * O, pixels * C, H, groups): what each result of a group looks at; pixels before channels, results before O."""
    outs, channels, rows, columns = weight_OCHW.shape
    wide = np.zeros((grouping.results, outs, grouping.width, grouping.pixels, channels, rows), weight_OCHW.dtype)
    for result in range(grouping.results):
        for column in range(columns):
            group, pixel = divmod(result * stride - padding + column + grouping.left * grouping.pixels, grouping.pixels)
            wide[result, :, group, pixel] = weight_OCHW[:, :, :, column]
    return wide.transpose(0, 1, 3, 4, 5, 2).reshape(grouping.results * outs, grouping.pixels * channels, rows, grouping.width)


@dataclass(frozen=True)
class Entry:
    """A rounded convolution, and what it reads and is read by alone."""

    turn: NodeProto
    """Moves the bytes' channels to the front."""
    conv: NodeProto
    parameters: list[NodeProto]
    """DequantizeLinear of the weights and, if there is one, of the bias."""
    quantise: NodeProto
    size_hwc: list[int]
    """Of the graph's input."""
    kernel: list[int]
    """Rows and columns."""

    def setting(self, name: str) -> list[int]:
        """An attribute of the convolution, or its default."""
        return next((list(a.ints) or [a.i] for a in self.conv.attribute if a.name == name), DEFAULTS[name])

    def grouping(self) -> Grouping | None:
        """How its pixels are grouped; None if its rows are not of whole groups, or its kernel has gaps or channel groups."""
        _, width, channels = self.size_hwc
        stride, kernel, (_, left, _, right) = self.setting("strides")[1], self.kernel[1], self.setting("pads")
        plan = grouping_of(channels, kernel, stride, left)
        whole = width % plan.pixels == 0 and left == right and (width + 2 * left - kernel) // stride + 1 == width // stride
        return plan if whole and self.setting("group") == [1] and set(self.setting("dilations")) == {1} else None


def entries_of(graph: GraphProto) -> list[Entry]:
    """The convolutions that read nothing but the bytes of an input (..., H, W, C), which nobody else reads as they do."""
    producer = {name: node for node in graph.node for name in node.output}
    readers = readers_of(graph)
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][-3:] for v in graph.input}
    kernels = {tensor.name: list(tensor.dims)[2:] for tensor in graph.initializer}

    def alone_before(node: NodeProto | None, operator: str) -> NodeProto | None:
        before = producer.get(node.input[0]) if node is not None and len(readers[node.input[0]]) == 1 else None
        return before if before is not None and before.op_type == operator else None

    found = []
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        turn = alone_before(alone_before(conv, "DequantizeLinear"), "Transpose")
        parameters = [producer[name] for name in conv.input[1:] if name in producer]
        behind = readers[conv.output[0]][0] if len(readers[conv.output[0]]) == 1 else None
        if turn is None or list(turn.attribute[0].ints) != CHANNELS_FIRST or behind is None or behind.op_type != "QuantizeLinear":
            continue
        source = turn.input[0]
        while source in producer and producer[source].op_type == "Reshape":
            source = producer[source].input[0]
        if len(parameters) == len(conv.input) - 1 and len(size := sizes.get(source, [])) == 3 and all(size):
            found.append(Entry(turn, conv, parameters, behind, size, kernels[parameters[0].input[0]]))
    return found


def widen_pixels(graph: GraphProto) -> int:
    """Groups the pixels of every such convolution whose rows are of whole groups, in place; returns how many."""
    found = [(entry, plan) for entry in entries_of(graph) if (plan := entry.grouping()) is not None]
    for entry, plan in found:
        (down, stride), (top, padding, bottom, _) = entry.setting("strides"), entry.setting("pads")
        outs = _round_grouped(graph, entry.parameters, stride, padding, plan)
        wide = {"strides": [down, 1], "kernel_shape": [entry.kernel[0], plan.width], "pads": [top, plan.left, bottom, plan.right]}
        del entry.conv.attribute[:]
        entry.conv.attribute.extend(helper.make_attribute(name, value) for name, value in wide.items())
        _view_as_groups(graph, entry.turn, plan.pixels * entry.size_hwc[2])
        _view_as_results(graph, entry.quantise, outs)
        forget_types(graph, (entry.turn.output[0], entry.conv.input[0], entry.conv.output[0]))
    return len(found)


def fill_channels(graph: GraphProto) -> int:
    """Adds channels of zeros, up to a multiple of `TOGETHER`, before the rounding of maps (N, C, H, W) of few channels that one rounded
    convolution reads; in place, returns how many."""
    producer = {name: node for node in graph.node for name in node.output}
    readers = readers_of(graph)
    values = {tensor.name: tensor for tensor in graph.initializer}
    order, found = list(graph.node), 0
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        dequantise, weights = producer.get(conv.input[0]), producer.get(conv.input[1])
        quantise = producer.get(dequantise.input[0]) if dequantise is not None else None
        if (
            dequantise is None
            or quantise is None
            or weights is None
            or (quantise.op_type, weights.op_type) != ("QuantizeLinear", "DequantizeLinear")
        ):
            continue
        array = numpy_helper.to_array(values[weights.input[0]])
        missing = -array.shape[1] % TOGETHER
        alone = all(len(readers[node.output[0]]) == 1 for node in (quantise, dequantise, weights))
        if not missing or array.shape[1] > FEW or not alone or any(a.name == "group" and a.i != 1 for a in conv.attribute):
            continue
        name = f"{quantise.output[0]}_filled"
        wide = {f"{name}_weights": np.pad(array, ((0, 0), (0, missing), (0, 0), (0, 0)))}
        wide |= {f"{name}_pads": np.array([0, 0, 0, 0, 0, missing, 0, 0])}
        graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in wide.items())
        fill = helper.make_node("Pad", [quantise.input[0], f"{name}_pads"], [name], name=name)
        quantise.input[0], weights.input[0] = name, f"{name}_weights"
        order.insert(order.index(quantise), in_scope_of(quantise, fill)[0])
        forget_types(graph, (quantise.output[0], dequantise.output[0]))
        found += 1
    del graph.node[:]
    graph.node.extend(order)
    return found


def _round_grouped(graph: GraphProto, parameters: list[NodeProto], stride: int, padding: int, grouping: Grouping) -> int:
    """Lets the nodes that make weights and bias of integers, by scale and zero point, make those of groups; the channels of one result."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    outs = len(values[parameters[0].input[0]])
    for node in parameters:
        for position, name in enumerate(node.input):
            array = values[name]
            wide = grouped_weights(array, stride, padding, grouping) if array.ndim > 1 else np.tile(array, grouping.results)
            node.input[position] = f"{name}_grouped"
            graph.initializer.append(numpy_helper.from_array(wide, node.input[position]))
    return outs


def _view_as_groups(graph: GraphProto, turn: NodeProto, channels: int) -> None:
    """The pictures' channels become so many before they are moved to the front."""
    name = f"{turn.output[0]}_groups"
    graph.initializer.append(numpy_helper.from_array(np.array([0, 0, -1, channels]), f"{name}_shape"))
    view = helper.make_node("Reshape", [turn.input[0], f"{name}_shape"], [name], name=name)
    turn.input[0] = name
    graph.node.insert(list(graph.node).index(turn), in_scope_of(turn, view)[0])


def _view_as_results(graph: GraphProto, quantise: NodeProto, channels: int) -> None:
    """What was rounded becomes single results of so many channels again."""
    name, made = f"{quantise.output[0]}_groups", quantise.output[0]
    quantise.output[0] = name
    graph.initializer.append(numpy_helper.from_array(np.array([0, 0, -1, channels]), f"{name}_shape"))
    steps = [
        helper.make_node("Transpose", [name], [f"{name}_last"], name=f"{name}_last", perm=CHANNELS_LAST),
        helper.make_node("Reshape", [f"{name}_last", f"{name}_shape"], [f"{name}_apart"], name=f"{name}_apart"),
        helper.make_node("Transpose", [f"{name}_apart"], [made], name=f"{name}_first", perm=CHANNELS_FIRST),
    ]
    at = list(graph.node).index(quantise) + 1
    for offset, node in enumerate(in_scope_of(quantise, *steps)):
        graph.node.insert(at + offset, node)
