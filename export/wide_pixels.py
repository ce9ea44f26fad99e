"""How does an integer convolution read pictures fast on a processor? As the same bytes, seen as fewer pixels of more channels.

Before it multiplies, onnxruntime copies what lies under the kernel, pixel by pixel: for pixels of three bytes that takes longer than the
products. A row of pictures lies in memory pixel after pixel, so that four of them are one pixel of twelve bytes without anything being
moved, and two of the results, side by side, one of twice the channels. The kernel becomes as wide as the groups it touches, with zeros for
the pixels that a result does not look at. Not a bit of any result changes.
"""

from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from export.half import in_scope_of
from export.simplify import readers_of

ENOUGH_BYTES = 12
"""So many are copied at once about as fast as three."""
CHANNELS_FIRST, CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


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


def widen_pixels(graph: GraphProto) -> int:
    """Rewrites in place the rounded convolutions that read nothing but the bytes of a graph's input (..., H, W, C); returns how many.

    One is left as it is where its rows are not of whole groups, or where others read what it reads.
    """
    producer = {name: node for node in graph.node for name in node.output}
    readers = readers_of(graph)
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    found = 0
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        before = _alone_before(conv.input[0], "DequantizeLinear", producer, readers)
        turn = _alone_before(before.input[0], "Transpose", producer, readers) if before is not None else None
        rounded = [producer.get(name) for name in conv.input[1:]]
        behind = readers[conv.output[0]]
        if turn is None or list(turn.attribute[0].ints) != CHANNELS_FIRST or any(p is None or p.op_type != before.op_type for p in rounded):
            continue
        if len(behind) != 1 or behind[0] is None or behind[0].op_type != "QuantizeLinear":
            continue
        *_, width, channels = sizes.get(_before_views(turn.input[0], producer), [0, 0])
        how = {a.name: list(a.ints) or a.i for a in conv.attribute}
        if not width or how.get("group", 1) != 1 or any(d != 1 for d in how.get("dilations", [])):
            continue
        stride, kernel = how["strides"][1], how["kernel_shape"][1]
        top, padding, bottom, right = how["pads"]
        grouping = grouping_of(channels, kernel, stride, padding)
        if width % grouping.pixels or padding != right or (width + 2 * padding - kernel) // stride + 1 != width // stride:
            continue
        outs = _round_grouped(graph, rounded, stride, padding, grouping)
        for attribute in conv.attribute:
            wide = {
                "strides": [how["strides"][0], 1],
                "kernel_shape": [how["kernel_shape"][0], grouping.width],
                "pads": [top, grouping.left, bottom, grouping.right],
            }.get(attribute.name)
            if wide is not None:
                attribute.ints[:] = wide
        _view_as_groups(graph, turn, grouping.pixels * channels)
        _view_as_results(graph, behind[0], outs)
        found += 1
    return found


def _alone_before(name: str, operator: str, producer: dict[str, NodeProto], readers) -> NodeProto | None:
    """The node of that kind that makes a tensor which one node reads."""
    node = producer.get(name)
    return node if node is not None and node.op_type == operator and len(readers[name]) == 1 else None


def _before_views(name: str, producer: dict[str, NodeProto]) -> str:
    while name in producer and producer[name].op_type == "Reshape":
        name = producer[name].input[0]
    return name


def _round_grouped(graph: GraphProto, rounded, stride: int, padding: int, grouping: Grouping) -> int:
    """Lets the nodes that make a convolution's weights and bias of integers make those of its groups; the channels of one result."""
    values = {tensor.name: tensor for tensor in graph.initializer}
    for number, node in enumerate(rounded):
        arrays = [numpy_helper.to_array(values[name]) for name in node.input]
        wide = [np.tile(array, grouping.results) for array in arrays[number == 0 :]]
        if number == 0:
            wide.insert(0, grouped_weights(arrays[0], stride, padding, grouping))
        names = [f"{name}_grouped" for name in node.input]
        graph.initializer.extend(numpy_helper.from_array(array, name) for array, name in zip(wide, names, strict=True))
        node.input[:] = names
    return len(numpy_helper.to_array(values[rounded[0].input[1].removesuffix("_grouped")]))


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
