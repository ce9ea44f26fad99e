"""How does a graph compute in int8? QuantizeLinear/DequantizeLinear pairs around convolutions, calibrated on steps.

Only Conv is quantised (FACTS: 0.8 % state error; everything: 18 %), weights symmetrically per output channel. Two styles differ in the
activations. `SYMMETRIC` is what TensorRT wants: int8, zero point 0, pairs before the convolutions alone. `UNSIGNED` is what processors
want: uint8 with a zero point, pairs behind the convolutions too, because onnxruntime runs a convolution in integers only if both its
sides are; a Relu or Clip beside a pair is what the rounding does anyway and is left away; pictures enter as the bytes they are; what only
picks values (nearest resizing, maxima) picks integers; integers are concatenated as such (`export.joining`); rows fetched from feature
maps are fetched and mixed as bytes (`export.mixing`). Other operators keep their precision: matrix products of a few hundred tokens gain
less than rounding their inputs costs.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from export.calibration import RULES, Range, quantisable, rectified, watched_by
from export.half import group_of, in_scope_of
from export.joining import common_ranges, join_integers
from export.likelihoods import subtract_range_end
from export.mixing import mix_integers, mixes_of
from export.pictures import bytes_into_convolution
from export.precision import Lowering
from export.simplify import drop_unread_nodes, readers_of
from export.wide_pixels import fill_channels, widen_pixels

WEIGHT_LEVELS = 127
SMALLEST_SCALE = 1e-8


@dataclass(frozen=True)
class Style:
    """How activations become integers."""

    name: str
    dtype: type[np.int8] | type[np.uint8]
    """numpy's type of a quantised activation."""
    both_sides: bool
    """Pairs behind the convolutions as well, and every reader of such a tensor reads what was rounded."""

    def parameters(self, found: Range) -> tuple[np.ndarray, np.ndarray]:
        """Scale (float32) and zero point of a range."""
        if self.dtype is np.int8:
            scale = max(-found.low, found.high) / 127
            return np.array(max(scale, SMALLEST_SCALE), np.float32), np.array(0, np.int8)
        scale = max((found.high - found.low) / 255, SMALLEST_SCALE)
        return np.array(scale, np.float32), np.array(np.clip(round(-found.low / scale), 0, 255), np.uint8)


SYMMETRIC = Style("int8", np.int8, both_sides=False)
UNSIGNED = Style("int8-cpu", np.uint8, both_sides=True)
STYLES = {style.name: style for style in (SYMMETRIC, UNSIGNED)}


def int8_lowering(model: ModelProto, calibration: Mapping[str, Mapping[str, Range]], style: Style) -> Lowering:
    """Int8 for the parts that hold convolutions; each takes its ranges by the rule of `calibrate` that suits it."""
    owner: dict[str, str] = {}
    for node in quantisable(model):
        for name in watched_by(node, rectified(model.graph)):
            owner.setdefault(name, group_of(node))
    for mix in mixes_of(model.graph) if style.both_sides else []:
        for name in (mix.weights, mix.table):
            owner.setdefault(name, group_of(mix.product))
    parts = list(dict.fromkeys(owner.values()))

    def convert(rules: Mapping[str, str]) -> ModelProto:
        ranges = {name: calibration[rules.get(part, RULES[0])][name] for name, part in owner.items()}
        return to_int8(model, ranges, [part for part in parts if part not in rules], style)

    return Lowering(parts, RULES, convert)


def to_int8(model: ModelProto, ranges: dict[str, Range], keep: Collection[str] = (), style: Style = SYMMETRIC) -> ModelProto:
    """A copy with QDQ pairs around the convolutions outside the parts `keep`; `ranges` comes from `calibrate`."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    chosen = [node for node in quantisable(result) if group_of(node) not in keep and ranges[node.input[0]].is_known]
    entered: dict[str, np.ndarray] = {}
    if style.both_sides:
        fetched = [mix.table for mix in mixes_of(graph) if group_of(mix.product) not in keep and mix.table in ranges]
        ranges = common_ranges(graph, [*(node.input[0] for node in chosen), *fetched], ranges)
        entered = bytes_into_convolution(graph, chosen)
        _merge_rectifiers(graph, chosen)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    done: dict[str, str] = {}
    for node in chosen:
        _round_weights(graph, node, weights, done)
        if style.both_sides and len(node.input) > 2:
            name = node.input[0]
            _round_bias(graph, node, weights, entered[name] if name in entered else style.parameters(ranges[name])[0])
    _round_activations(graph, chosen, ranges, style, set(entered))
    if style.both_sides:
        _stay_rounded(graph)
        mixes = [m for m in mixes_of(graph) if group_of(m.product) not in keep and m.table in ranges and ranges[m.weights].is_known]
        mix_integers(graph, mixes, {name: style.parameters(ranges[name]) for mix in mixes for name in (mix.weights, mix.table)})
        join_integers(graph)
        _drop_rectifiers(graph)
        _enlarge_rows(result)
        widen_pixels(graph)
        fill_channels(graph)
        subtract_range_end(graph)
    drop_unread_nodes(graph)
    return result


def _merge_rectifiers(graph: GraphProto, chosen: list[NodeProto]) -> None:
    """Removes the Relu or Clip(0, ...) behind each convolution: its unsigned result is cut off at 0 and at the largest value anyway."""
    after = rectified(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for conv in chosen:
        node = after.get(conv.output[0])
        if node is None or (node.op_type == "Clip" and not _starts_at_zero(node, constants)):
            continue
        conv.output[0] = node.output[0]
        graph.node.remove(node)


def _drop_rectifiers(graph: GraphProto) -> None:
    """Removes each Relu that only rounding reads whose smallest number is 0: it cuts off what the Relu does."""
    zeros = {tensor.name for tensor in graph.initializer if tensor.name.endswith("_act_zero") and not numpy_helper.to_array(tensor).any()}
    readers = readers_of(graph)
    for relu in [node for node in graph.node if node.op_type == "Relu"]:
        rounded = [n for n in readers[relu.output[0]] if n is not None and n.op_type == "QuantizeLinear" and n.input[2] in zeros]
        if len(rounded) == len(readers[relu.output[0]]):
            for node in rounded:
                node.input[0] = relu.input[0]
            graph.node.remove(relu)


def _starts_at_zero(clip: NodeProto, constants) -> bool:
    name = clip.input[1] if len(clip.input) > 1 else ""
    return name in constants and float(numpy_helper.to_array(constants[name])) == 0.0


def _round_activations(graph: GraphProto, chosen: list[NodeProto], ranges: dict[str, Range], style: Style, done: set[str]) -> None:
    """Puts the pairs in. `graph.node` is made anew: nodes held elsewhere are of the old graph afterwards."""
    numbers = {id(node) for node in chosen}
    wanted = {value.name for value in graph.output}
    names = [node.input[0] for node in chosen if node.input[0] not in done]
    if style.both_sides:
        names += [node.output[0] for node in chosen if node.output[0] not in wanted and ranges[node.output[0]].is_known]
    places = {node.input[0]: node for node in reversed(chosen)} | {node.output[0]: node for node in chosen}
    pairs: dict[str, tuple[NodeProto, NodeProto]] = {}
    for name in dict.fromkeys(names):
        scale, zero = style.parameters(ranges[name])
        pairs[name] = _pair(graph, name, scale, zero)
        in_scope_of(places[name], *pairs[name])
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in pairs and (style.both_sides or (position == 0 and id(node) in numbers)):
                node.input[position] = pairs[name][node.op_type != "Shape"].output[0]  # a size needs no values
    _insert(graph, pairs)


def _pair(graph: GraphProto, name: str, scale: np.ndarray, zero: np.ndarray) -> tuple[NodeProto, NodeProto]:
    parameters = [f"{name}_act_scale", f"{name}_act_zero"]
    graph.initializer.extend(numpy_helper.from_array(array, key) for array, key in zip((scale, zero), parameters, strict=True))
    quantise = helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"], name=f"{name}_quantise")
    dequantise = helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"], name=f"{name}_dequantise_act")
    return quantise, dequantise


def _insert(graph: GraphProto, pairs: dict[str, tuple[NodeProto, NodeProto]]) -> None:
    """Puts each pair right behind the node that makes its tensor; the graph stays sorted."""
    nodes: list[NodeProto] = []
    for value in graph.input:
        nodes.extend(pairs.get(value.name, ()))
    for node in graph.node:
        nodes.append(node)
        for name in node.output:
            nodes.extend(pairs.get(name, ()))
    del graph.node[:]
    graph.node.extend(nodes)


def _picks_values(node: NodeProto) -> bool:
    """Whether every result is one of the inputs, so that it is the same integer before and after rounding."""
    nearest = any(a.name == "mode" and a.s == b"nearest" for a in node.attribute)
    return node.op_type in ("ReduceMax", "MaxPool") or (node.op_type == "Resize" and nearest)


def _stay_rounded(graph: GraphProto) -> None:
    """Operators that only pick values read the integers of a rounded tensor and give integers, which are made numbers after them."""
    rounded = {node.output[0]: node for node in graph.node if node.name.endswith("_dequantise_act")}
    anew = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}  # has a range of its own: a convolution reads it
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        before = rounded.get(node.input[0]) if node.input and _picks_values(node) else None
        if before is None or len(node.output) > 1 or node.output[0] in anew:
            continue
        name = node.output[0]
        node.input[0], node.output[0] = before.input[0], f"{name}_picked"
        rounded[name] = helper.make_node("DequantizeLinear", [f"{name}_picked", *before.input[1:]], [name], name=f"{name}_dequantise_act")
        nodes.extend(in_scope_of(node, rounded[name]))
    del graph.node[:]
    graph.node.extend(nodes)


def _enlarge_rows(model: ModelProto) -> None:
    """Nearest resizing of integers repeats pixels, channels last, as onnxruntime's integer convolutions lay them: six times as fast."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    nodes: list[NodeProto] = []
    for node in graph.node:
        factors = _whole_factors(node, constants)
        size = sizes.get(node.input[0], [])[2:] if factors else []
        nodes.extend(_repeated(graph, node, size, factors) if len(size) == 2 and all(size) else [node])
    del graph.node[:]
    graph.node.extend(nodes)


def _whole_factors(node: NodeProto, constants: Mapping[str, np.ndarray]) -> list[int]:
    """By how much a Resize that repeats integers enlarges rows and columns; empty for any other node."""
    how = {a.name: a.s for a in node.attribute if a.type == a.STRING}
    repeats = (how.get("coordinate_transformation_mode"), how.get("nearest_mode")) == (b"asymmetric", b"floor")
    if node.op_type != "Resize" or not (repeats and _picks_values(node) and node.output[0].endswith("_picked")) or len(node.input) != 3:
        return []
    scales = constants.get(node.input[2])
    if scales is None or len(scales) != 4 or (scales[:2] != 1).any() or (scales != np.rint(scales)).any():
        return []
    return [int(scale) for scale in scales[2:]]


def _repeated(graph: GraphProto, resize: NodeProto, size: list[int], factors: list[int]) -> tuple[NodeProto, ...]:
    """Rows, then columns fetched several times, between two transposes."""
    name, label = resize.output[0], resize.name
    steps = [helper.make_node("Transpose", [resize.input[0]], [f"{name}_last"], name=f"{label}_last", perm=[0, 2, 3, 1])]
    for axis, length, factor in zip((1, 2), size, factors, strict=True):
        index = f"{name}_pixels{axis}"
        graph.initializer.append(numpy_helper.from_array(np.repeat(np.arange(length), factor), index))
        inputs = [steps[-1].output[0], index]
        steps.append(helper.make_node("Gather", inputs, [f"{name}_by{axis}"], name=f"{label}_pixels{axis}", axis=axis))
    steps.append(helper.make_node("Transpose", [steps[-1].output[0]], [name], name=label, perm=[0, 3, 1, 2]))
    return in_scope_of(resize, *steps)


def _round_weights(graph: GraphProto, node: NodeProto, weights, done: dict[str, str]) -> None:
    """A convolution's weights become int8 values and a DequantizeLinear per output channel."""
    name = node.input[1]
    if name not in done:
        values = numpy_helper.to_array(weights[name]).astype(np.float32)
        scale = weight_scale(values)
        quantised = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
        arrays = {f"{name}_int8": quantised, f"{name}_scale": scale, f"{name}_zero": np.zeros(len(values), np.int8)}
        graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in arrays.items())
        dequantise = helper.make_node("DequantizeLinear", list(arrays), [f"{name}_dequantised"], name=f"{name}_dequantise", axis=0)
        graph.node.insert(0, *in_scope_of(node, dequantise))
        done[name] = dequantise.output[0]
    node.input[1] = done[name]


def weight_scale(values: np.ndarray) -> np.ndarray:
    """(channels,) float32: each output channel's largest weight becomes 127."""
    return np.maximum(np.abs(values.reshape(len(values), -1)).max(axis=1), SMALLEST_SCALE).astype(np.float32) / np.float32(WEIGHT_LEVELS)


def _round_bias(graph: GraphProto, node: NodeProto, weights, in_scale: np.ndarray) -> None:
    """A convolution's bias as int32 in units of input scale times weight scale, which is what integer kernels add."""
    weight = numpy_helper.to_array(weights[node.input[1].removesuffix("_dequantised")])
    scale = (in_scale * weight_scale(weight.astype(np.float32))).astype(np.float32)
    name = f"{node.name}_bias"
    bias = np.clip(np.rint(numpy_helper.to_array(weights[node.input[2]]).astype(np.float64) / scale), -(2**31) + 1, 2**31 - 1)
    arrays = {f"{name}_int32": bias.astype(np.int32), f"{name}_scale": scale, f"{name}_zero": np.zeros(len(bias), np.int32)}
    graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in arrays.items())
    dequantise = helper.make_node("DequantizeLinear", list(arrays), [name], name=f"{name}_dequantise", axis=0)
    graph.node.insert(0, *in_scope_of(node, dequantise))
    node.input[2] = name
