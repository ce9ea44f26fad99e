"""Which group normalisations may take their statistics from calibration instead of from each picture? They vanish into convolutions.

A group normalisation needs the whole picture before it can scale one number, in float, channels first: between two integer
convolutions it costs more than either. With constant statistics it is a gain and a shift a channel, which the convolution before
it does by its weights, as a batch normalisation's are (`export.simplify.merge_batch_norms`). Whether a network bears that differs
from place to place: how busy a bird's-eye map is says how many objects there are. So it is measured, normalisation by normalisation.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from export.half import in_scope_of, scope_of
from export.precision import Lowering, observed
from export.simplify import drop_unread_nodes, merge_batch_norms, readers_of

RULE = "static"
WORTHWHILE = 0.03
"""Share of all numbers a step normalises from which on a normalisation is looked at: small maps cost little time, but may cost accuracy."""


@dataclass(frozen=True)
class GroupNorm:
    """Five nodes behind a convolution: to groups, normalised, back to planes, times a gain, plus a shift a channel."""

    name: str
    """The module it was traced in."""
    source: str
    """The convolution's output (N, C, H, W)."""
    normalise: NodeProto
    gain: np.ndarray
    """(C,)"""
    shift: np.ndarray
    """(C,)"""
    last: NodeProto
    groups: int

    @property
    def epsilon(self) -> float:
        """Added to the variance."""
        return next((a.f for a in self.normalise.attribute if a.name == "epsilon"), 1e-5)


def group_norms_of(graph: GraphProto) -> list[GroupNorm]:
    """All that follow a convolution with constant weights which nothing else reads."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    readers = readers_of(graph)

    def next_of(node: NodeProto, operator: str) -> NodeProto | None:
        after = readers[node.output[0]]
        return after[0] if len(after) == 1 and after[0] is not None and after[0].op_type == operator else None

    def constant_of(node: NodeProto) -> np.ndarray | None:
        known = [numpy_helper.to_array(constants[name]).ravel() for name in node.input if name in constants]
        return known[0] if len(known) == 1 else None

    found = []
    for node in graph.node:
        split = producer.get(node.input[0]) if node.op_type == "InstanceNormalization" else None
        conv = producer.get(split.input[0]) if split is not None and split.op_type == "Reshape" else None
        if conv is None or split is None or conv.op_type != "Conv" or conv.input[1] not in constants:
            continue
        if any(reader is None or reader.op_type != "Shape" for reader in readers[conv.output[0]] if reader is not split):
            continue
        back = next_of(node, "Reshape")
        times = next_of(back, "Mul") if back is not None else None
        plus = next_of(times, "Add") if times is not None else None
        if times is None or plus is None or any(name not in constants for name in node.input[1:]):
            continue
        own_gain, own_shift = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
        gain, shift = constant_of(times), constant_of(plus)
        channels = constants[conv.input[1]].dims[0]
        plain = (own_gain == 1).all() and not own_shift.any()
        if plain and gain is not None and shift is not None and gain.size == shift.size == channels:
            name = scope_of(node)[-1] if scope_of(node) else node.name
            found.append(GroupNorm(name, conv.output[0], node, gain, shift, plus, len(own_gain)))
    return found


@dataclass(frozen=True)
class Statistics:
    """What entered one group normalisation on the calibration steps."""

    mean: np.ndarray
    """(groups,), over steps, pictures and the group's numbers."""
    variance: np.ndarray
    """(groups,)"""
    size: float
    """Numbers a step."""


def observed_statistics(model: ModelProto, feeds: Iterable[dict[str, np.ndarray]]) -> dict[str, Statistics]:
    """Of every group normalisation, by its name."""
    norms = group_norms_of(model.graph)
    if not norms:
        return {}
    moments = {norm.name: np.zeros((2, norm.groups)) for norm in norms}
    sizes, count = dict.fromkeys(moments, 0.0), 0
    for found in observed(model, [norm.source for norm in norms], feeds):
        count += 1
        for norm, values in zip(norms, found.values(), strict=True):
            grouped = values.reshape(len(values), norm.groups, -1).astype(np.float64)
            moments[norm.name] += [grouped.mean(-1).mean(0), np.square(grouped).mean(-1).mean(0)]
            sizes[norm.name] += values.size
    return {
        name: Statistics(mean / count, square / count - np.square(mean / count), sizes[name] / count)
        for name, (mean, square) in moments.items()
    }


def norm_lowering(model: ModelProto, statistics: dict[str, Statistics]) -> Lowering:
    """Constant statistics; a part is one group normalisation, of those that are worth while."""
    least = WORTHWHILE * sum(found.size for found in statistics.values())
    parts = [name for name, found in statistics.items() if found.size >= least]
    return Lowering(parts, (RULE,), lambda rules: freeze_norms(model, statistics, rules))


def choose_norms(
    lowering: Lowering, points_lost: Callable[[ModelProto], float], allowed: float, progress: Callable[[str], None]
) -> tuple[ModelProto, list[str], list[float]]:
    """As many constant statistics as may be: while too much accuracy is lost, the one without which least is lost is taken back.

    Returns the graph, the normalisations that are constant in it, and what was lost at each attempt.
    """
    chosen = dict.fromkeys(lowering.parts, RULE)
    trail = []
    while True:
        result = lowering.convert(chosen)
        trail.append(points_lost(result))
        progress(f"mean AP falls by {trail[-1]:.4f} with constant statistics in {', '.join(chosen) or 'nothing'}")
        if trail[-1] <= allowed or not chosen:
            return result, list(chosen), trail
        without = {name: points_lost(lowering.convert({n: r for n, r in chosen.items() if n != name})) for name in chosen}
        del chosen[min(without, key=lambda name: without[name])]


def freeze_norms(model: ModelProto, statistics: dict[str, Statistics], chosen: Collection[str]) -> ModelProto:
    """A copy in which the convolutions before the `chosen` normalisations do their work, by `observed_statistics`."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    frozen = {id(norm.last): norm for norm in group_norms_of(graph) if norm.name in chosen}
    nodes = [_batch_norm(graph, frozen[id(node)], statistics) if id(node) in frozen else node for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread_nodes(graph)
    merge_batch_norms(result)
    return result


def _batch_norm(graph: GraphProto, norm: GroupNorm, statistics: dict[str, Statistics]) -> NodeProto:
    """The one node that stands for all five."""
    found, repeat = statistics[norm.name], norm.gain.size // norm.groups
    arrays = (norm.gain, norm.shift, np.repeat(found.mean, repeat), np.repeat(found.variance, repeat))
    names = [f"{norm.last.name}_{name}" for name in ("gain", "shift", "mean", "variance")]
    graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for a, n in zip(arrays, names, strict=True))
    inputs, outputs = [norm.source, *names], [norm.last.output[0]]
    made = helper.make_node("BatchNormalization", inputs, outputs, name=f"{norm.last.name}_static", epsilon=norm.epsilon)
    return in_scope_of(norm.last, made)[0]
