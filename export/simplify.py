"""How is the exporter's graph tidied? Constants folded, batch norms merged into convolutions, doubles removed.

torch's own optimiser matches sixty rewrite rules against every node in Python, which takes minutes on a graph of two thousand nodes
and changes nothing that onnxruntime or TensorRT would not change themselves; these few passes take seconds.
"""

import logging
from collections import defaultdict
from collections.abc import Container

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper
from onnxscript.optimizer import fold_constants


def tidy(model: ir.Model) -> None:
    """Folds constants, removes what nothing reads and what is computed twice; in place."""
    passes.InlinePass()(model)
    fold_constants(model, onnx_shape_inference=True)
    noisy = logging.getLogger("onnx_ir")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        for one in (
            passes.RemoveUnusedNodesPass(),
            passes.RemoveUnusedFunctionsPass(),
            passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            passes.DeduplicateInitializersPass(),
            passes.CommonSubexpressionEliminationPass(),
            passes.RemoveUnusedNodesPass(),
            passes.OutputFixPass(),
            passes.NameFixPass(),
            passes.TopologicalSortPass(),
        ):
            one(model)
    finally:
        noisy.setLevel(level)


def name_outputs(model: ir.Model, names: list[str]) -> None:
    """Gives the graph's outputs their names back: where two are the same tensor, the exporter names one after the other."""
    for value, name in zip(model.graph.outputs, names, strict=True):
        if value.name != name:
            value.name = f"{name}__renamed"
    for value, name in zip(model.graph.outputs, names, strict=True):
        value.name = name


def merge_batch_norms(model: ModelProto) -> int:
    """Merges every BatchNormalization that follows a convolution alone into its weights; returns how many."""
    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    producer = {output: node for node in graph.node for output in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    merged = []
    for node in graph.node:
        conv = producer.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or readers[conv.output[0]] != 1 or conv.input[1] not in values:
            continue
        if all(name in values for name in node.input[1:]):
            _merge(model, conv, node, values)
            merged.append(node)
    for node in merged:
        graph.node.remove(node)
    drop_unread_constants(model.graph)
    return len(merged)


def _merge(model: ModelProto, conv: NodeProto, norm: NodeProto, values: dict[str, onnx.TensorProto]) -> None:
    kind = numpy_helper.to_array(values[conv.input[1]]).dtype
    scale, shift, mean, variance = (numpy_helper.to_array(values[name]).astype(np.float64) for name in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    gain = scale / np.sqrt(variance + epsilon)
    weight = numpy_helper.to_array(values[conv.input[1]]).astype(np.float64)
    has_bias = len(conv.input) > 2 and conv.input[2] != ""
    bias = numpy_helper.to_array(values[conv.input[2]]).astype(np.float64) if has_bias else np.zeros(len(weight))
    new_weight = (weight * gain.reshape(-1, *[1] * (weight.ndim - 1))).astype(kind)
    new_bias = ((bias - mean) * gain + shift).astype(kind)
    names = (f"{conv.input[1]}_merged", f"{conv.input[1]}_merged_bias")
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip((new_weight, new_bias), names, strict=True))
    data = conv.input[0]
    del conv.input[:]
    conv.input.extend([data, *names])
    conv.output[0] = norm.output[0]


def readers_of(graph: GraphProto) -> dict[str, list[NodeProto | None]]:
    """Tensor to the nodes that read it, once for every time; None stands for whoever takes an output of the graph."""
    readers: dict[str, list[NodeProto | None]] = defaultdict(list)
    for value in graph.output:
        readers[value.name].append(None)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def drop_unread_nodes(graph: GraphProto) -> None:
    """Removes nodes and constants that nothing reads any more."""
    wanted = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    drop_unread_constants(graph)


def forget_types(graph: GraphProto, names: Container[str]) -> None:
    """Removes the notes on type and shape of tensors that a rewrite made others."""
    for value in [value for value in graph.value_info if value.name in names]:
        graph.value_info.remove(value)


def drop_unread_constants(graph: GraphProto) -> None:
    """Removes constants that no node reads, and notes on values that no node makes."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    known = {name for node in graph.node for name in node.output}
    infos = [value for value in graph.value_info if value.name in known]
    del graph.value_info[:]
    graph.value_info.extend(infos)
