"""How do bytes enter an integer convolution? The pictures' normalisation moves into its weights, nothing is left to do before it."""

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from export.half import in_scope_of

LOOSE = {"Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity"}
"""What may lie between the pictures and their normalisation: nothing that changes a value."""


def bytes_into_convolution(graph: GraphProto, chosen: list[NodeProto]) -> dict[str, np.ndarray]:
    """Lets the convolutions of `chosen` that read normalised pictures read the bytes; returns the new inputs and their scale, 1.

    The pictures' mean becomes the zero point. What the channels' means differ from it goes into the bias: exact inside the picture; at
    its border the padding is that common mean instead of each channel's own, at most a few grey levels.
    """
    made: dict[str, np.ndarray] = {}
    producer = {name: node for node in graph.node for name in node.output}
    values = {tensor.name: tensor for tensor in graph.initializer}
    bytes_in = {v.name for v in graph.input if v.type.tensor_type.elem_type == TensorProto.UINT8}
    for conv in chosen:
        found = _normalisation(conv.input[0], producer, values, bytes_in)
        if found is None:
            continue
        scale, shift, chain = found
        mean = -shift / scale
        zero = int(np.clip(round(float(mean.mean())), 0, 255))
        weight = numpy_helper.to_array(values[conv.input[1]]).astype(np.float64) * scale[:, None, None]
        bias = numpy_helper.to_array(values[conv.input[2]]).astype(np.float64) if len(conv.input) > 2 else np.zeros(len(weight))
        bias = bias + (weight * (zero - mean)[:, None, None]).sum((1, 2, 3))
        name = f"{conv.input[0]}_bytes"
        constants = {f"{name}_weight": weight.astype(np.float32), f"{name}_bias": bias.astype(np.float32)}
        constants |= {f"{name}_scale": np.array(1.0, np.float32), f"{name}_zero": np.array(zero, np.uint8)}
        graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in constants.items())
        moves = _retyped(chain, name)
        last = moves[-1].output[0] if moves else chain[0].input[0]
        dequantise = helper.make_node("DequantizeLinear", [last, f"{name}_scale", f"{name}_zero"], [name], name=f"{name}_dequantise")
        in_scope_of(conv, dequantise)
        at = next(i for i, node in enumerate(graph.node) if node.name == conv.name)
        for offset, node in enumerate((*moves, dequantise)):
            graph.node.insert(at + offset, node)
        del conv.input[:]
        conv.input.extend([name, f"{name}_weight", f"{name}_bias"])
        made[name] = np.array(1.0, np.float32)
    return made


def _normalisation(name: str, producer, values, bytes_in) -> tuple[np.ndarray, np.ndarray, list[NodeProto]] | None:
    """Scale and shift per channel, and the nodes from the pictures to where they are applied; None if `name` is something else."""
    add = producer.get(name)
    multiply = producer.get(_other(add, values)) if add is not None and add.op_type == "Add" else None
    if add is None or multiply is None or multiply.op_type != "Mul":
        return None
    scale, shift = (_per_channel(node, values) for node in (multiply, add))
    chain: list[NodeProto] = []
    at = _other(multiply, values)
    while at in producer and producer[at].op_type in LOOSE:
        chain.insert(0, producer[at])
        at = producer[at].input[0]
    if at not in bytes_in or scale is None or shift is None:
        return None
    return scale, shift, chain


def _other(node: NodeProto, values) -> str:
    return next((name for name in node.input if name not in values), "")


def _per_channel(node: NodeProto, values) -> np.ndarray | None:
    constants = [numpy_helper.to_array(values[name]).astype(np.float64) for name in node.input if name in values]
    return constants[0].ravel() if len(constants) == 1 and constants[0].shape[1:] == (1, 1) else None


def _retyped(chain: list[NodeProto], name: str) -> list[NodeProto]:
    """The chain without its casts, on the bytes themselves."""
    moves: list[NodeProto] = []
    at = chain[0].input[0]
    for number, node in enumerate(n for n in chain if n.op_type != "Cast"):
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name, copy.input[0], copy.output[0] = f"{name}_{number}", at, f"{name}_{number}"
        at = copy.output[0]
        moves.append(copy)
    return moves
