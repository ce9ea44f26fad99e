"""Which normalisations does onnxruntime compute inexactly? Those over very many numbers, and how the same is said so that it does not.

onnxruntime sums an InstanceNormalization's numbers one after the other in float32: of 76,800 numbers the deviation is off by 3e-5 (of
32,768 by less than 1e-6), more than all the rest of a graph together. Means of rows and then of these means are exact to 1e-6. They take
twice the time, so that files of lower precision, in which 3e-5 is nothing, get the one node back (`one_node_again`).
"""

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from export.half import in_scope_of
from export.simplify import drop_unread_nodes

MANY = 2**16
"""Numbers a group from which on the sum matters."""
MARK = "_steady"
"""Names of the nodes that stand for one contain this, behind its name."""


def steady_norms(model: ModelProto) -> int:
    """Rewrites InstanceNormalizations of `MANY` numbers and more in place; returns how many. Outputs keep their names."""
    graph = model.graph
    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    types = {value.name: value.type.tensor_type for value in known}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    count = 0
    for node in graph.node:
        shape = [d.dim_value for d in types[node.input[0]].shape.dim] if node.input and node.input[0] in types else []
        plain = node.op_type == "InstanceNormalization" and len(shape) == 3 and shape[2] >= MANY and _is_plain(node, constants)
        if plain:
            kind = helper.tensor_dtype_to_np_dtype(types[node.input[0]].elem_type)
            nodes.extend(in_scope_of(node, *_in_rows(graph, node, shape, kind)))
            count += 1
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread_nodes(graph)
    return count


def one_node_again(model: ModelProto) -> ModelProto:
    """A copy with an InstanceNormalization where `steady_norms` put rows."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    shapes = {t.name: t for t in graph.initializer if MARK in t.name}
    nodes: list[NodeProto] = []
    first: dict[str, NodeProto] = {}
    for node in graph.node:
        if MARK not in node.name:
            nodes.append(node)
            continue
        name = node.name.partition(MARK)[0]
        start = first.setdefault(name, node)
        if node.op_type == "Reshape" and node is not start:
            groups = int(numpy_helper.to_array(shapes[start.input[1]])[1])
            epsilon = numpy_helper.to_array(shapes[f"{name}{MARK}_epsilon"])
            arrays = {f"{name}{MARK}_ones": np.ones(groups, epsilon.dtype), f"{name}{MARK}_zeros": np.zeros(groups, epsilon.dtype)}
            graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in arrays.items())
            inputs = [start.input[0], *arrays]
            made = helper.make_node("InstanceNormalization", inputs, [node.output[0]], name=name, epsilon=float(epsilon))
            nodes.extend(in_scope_of(node, made))
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread_nodes(graph)
    return result


def _is_plain(node: NodeProto, constants: dict[str, np.ndarray]) -> bool:
    gain, shift = (constants.get(name) for name in node.input[1:3])
    return gain is not None and shift is not None and bool((gain == 1).all()) and not shift.any()


def _in_rows(graph: GraphProto, node: NodeProto, shape: list[int], kind: np.dtype) -> list[NodeProto]:
    """(N, G, n) as (N, G, rows, columns), about as many rows as columns: means of rows, means of those."""
    _, groups, many = shape
    columns = next(size for size in range(int(many**0.5), 0, -1) if many % size == 0)
    name = f"{node.name}{MARK}"
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    arrays = {
        "rows": np.array([0, groups, many // columns, columns], np.int64),
        "flat": np.array([0, groups, many], np.int64),
        "last": np.array([3], np.int64),
        "next": np.array([2], np.int64),
        "epsilon": np.array(epsilon, kind),
    }
    graph.initializer.extend(numpy_helper.from_array(array, f"{name}_{key}") for key, array in arrays.items())
    rows, flat, last, following, small = (f"{name}_{key}" for key in arrays)
    steps = [
        ("Reshape", [node.input[0], rows]),
        ("ReduceMean", [f"{name}_0", last]),
        ("ReduceMean", [f"{name}_1", following]),
        ("Sub", [f"{name}_0", f"{name}_2"]),
        ("Mul", [f"{name}_3", f"{name}_3"]),
        ("ReduceMean", [f"{name}_4", last]),
        ("ReduceMean", [f"{name}_5", following]),
        ("Add", [f"{name}_6", small]),
        ("Sqrt", [f"{name}_7"]),
        ("Div", [f"{name}_3", f"{name}_8"]),
        ("Reshape", [f"{name}_9", flat]),
    ]
    made = [helper.make_node(operator, inputs, [f"{name}_{k}"], name=f"{name}_{k}") for k, (operator, inputs) in enumerate(steps)]
    made[-1].output[0] = node.output[0]
    return made
