"""How does a graph compute in int8? QuantizeLinear/DequantizeLinear pairs around convolutions, symmetric, calibrated on steps.

Only Conv is quantised (FACTS: 0.8 % state error; everything: 18 %): weights per output channel, activations per tensor, zero points 0,
as TensorRT wants them. A convolution's output is quantised before its Relu: onnxruntime runs a convolution in int8 only if both its
sides are, and cannot merge a Relu into a symmetric one. Other operators keep their precision.
"""

from collections.abc import Collection, Iterable

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from export.half import group_of
from export.precision import run_session, session_of

PERCENTILE = 99.99
"""Of the absolute values of an activation: what is larger is clipped to it."""
LEVELS = 127


def quantisable(model: ModelProto) -> list[NodeProto]:
    """The convolutions with constant weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights]


def calibrate(model: ModelProto, feeds: Iterable[dict[str, np.ndarray]]) -> dict[str, float]:
    """The largest absolute value to represent, by name, of every convolution's input and output."""
    watched = list(dict.fromkeys(name for node in quantisable(model) for name in (node.input[0], node.output[0])))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in probe.graph.output}
    inner = [name for name in watched if name not in known]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in inner)
    session = session_of(probe)
    ranges = dict.fromkeys(watched, 0.0)
    for feed in feeds:
        for name, values in run_session(session, watched, feed).items():
            ranges[name] = max(ranges[name], float(np.percentile(np.abs(values), PERCENTILE)))
    return ranges


def to_int8(model: ModelProto, ranges: dict[str, float], keep: Collection[str] = ()) -> ModelProto:
    """A copy with QDQ pairs around the convolutions outside the parts `keep`; `ranges` comes from `calibrate`."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    chosen = [node for node in quantisable(result) if group_of(node) not in keep and ranges.get(node.input[0], 0.0) > 0]
    pairs = {node.input[0] for node in chosen} | {node.output[0] for node in chosen}
    _quantise_weights(graph, chosen, weights)
    added = {name: _activation_pair(graph, name, ranges[name]) for name in sorted(pairs)}
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in added:
                node.input[position] = added[name][1].output[0]
    _insert(graph, added)
    return result


def _quantise_weights(graph, nodes: list[NodeProto], weights: dict[str, np.ndarray]) -> None:
    """Replaces each convolution's weights by int8 values and a DequantizeLinear per output channel."""
    done: dict[str, NodeProto] = {}
    for node in nodes:
        name = node.input[1]
        if name not in done:
            values = weights[name].astype(np.float32)
            scale = np.maximum(np.abs(values.reshape(len(values), -1)).max(axis=1), 1e-8) / LEVELS
            quantised = np.clip(np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))), -LEVELS, LEVELS).astype(np.int8)
            graph.initializer.extend(
                [
                    numpy_helper.from_array(quantised, f"{name}_int8"),
                    numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"),
                    numpy_helper.from_array(np.zeros(len(values), np.int8), f"{name}_zero"),
                ]
            )
            names = [f"{name}_int8", f"{name}_scale", f"{name}_zero"]
            done[name] = helper.make_node("DequantizeLinear", names, [f"{name}_dequantised"], name=f"{name}_dequantise", axis=0)
        node.input[1] = f"{name}_dequantised"
    for node in reversed(list(done.values())):
        graph.node.insert(0, node)
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in [t for t in graph.initializer if t.name in done and t.name not in read]:
        graph.initializer.remove(tensor)


def _activation_pair(graph, name: str, largest: float) -> tuple[NodeProto, NodeProto]:
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(max(largest, 1e-6) / LEVELS, np.float32), f"{name}_act_scale"),
            numpy_helper.from_array(np.array(0, np.int8), f"{name}_act_zero"),
        ]
    )
    parameters = [f"{name}_act_scale", f"{name}_act_zero"]
    quantise = helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"], name=f"{name}_quantise")
    dequantise = helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"], name=f"{name}_dequantise_act")
    return quantise, dequantise


def _insert(graph, pairs: dict[str, tuple[NodeProto, NodeProto]]) -> None:
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
