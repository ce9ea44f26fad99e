"""Between which numbers does each activation lie? Observed on steps, and narrowed where clipping rare values rounds the others better."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto

from export.mixing import mixes_of
from export.precision import observed
from export.simplify import readers_of

RECTIFIERS = ("Relu", "Clip")
SAMPLES = 4096
"""Values kept of every tensor and step."""
RULES = ("full", "narrow")
"""The whole observed range, or the share of it that represents the values with the smallest mean squared error."""
NARROWER = tuple(np.linspace(0.3, 1.0, 15))
"""Shares of the observed range that are tried."""


@dataclass(frozen=True)
class Range:
    """What is to be represented; always holds 0."""

    low: float = 0.0
    high: float = 0.0

    @property
    def is_known(self) -> bool:
        """Something else than zero was seen."""
        return self.high > self.low


def quantisable(model: ModelProto) -> list[NodeProto]:
    """The convolutions with constant weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights]


def rectified(graph: GraphProto) -> dict[str, NodeProto]:
    """Tensor to the Relu or Clip that is all that reads it."""
    alone = {name: nodes[0] for name, nodes in readers_of(graph).items() if len(nodes) == 1 and nodes[0] is not None}
    return {name: node for name, node in alone.items() if node.op_type in RECTIFIERS and node.input[0] == name}


def watched_by(node: NodeProto, after: dict[str, NodeProto]) -> list[str]:
    """A convolution's input and output, and what a Relu or Clip makes of the output (`after` is `rectified`)."""
    return [node.input[0], node.output[0], *([after[node.output[0]].output[0]] if node.output[0] in after else [])]


def calibrate(model: ModelProto, feeds: Iterable[dict[str, np.ndarray]]) -> dict[str, dict[str, Range]]:
    """For every rule of `RULES` the range to represent of every tensor at a convolution or in a mixing, by name, over the steps."""
    after = rectified(model.graph)
    names = list(dict.fromkeys(name for node in quantisable(model) for name in watched_by(node, after)))
    names = list(dict.fromkeys([*names, *(name for mix in mixes_of(model.graph) for name in (mix.weights, mix.table))]))
    seen = {name: Range() for name in names}
    samples: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for found in observed(model, names, feeds):
        for name, values in found.items():
            flat = values.ravel()
            seen[name] = Range(min(seen[name].low, float(flat.min())), max(seen[name].high, float(flat.max())))
            samples[name].append(flat[:: max(1, flat.size // SAMPLES)].copy())
    return {"full": seen, "narrow": {name: narrowed(seen[name], np.concatenate(samples[name])) for name in names}}


def narrowed(seen: Range, values: np.ndarray) -> Range:
    """The share of a range whose 255 steps represent the values with the smallest mean squared error."""
    if not seen.is_known:
        return seen

    def error(share: float) -> float:
        step = share * (seen.high - seen.low) / 255
        rounded = np.rint(np.clip(values, share * seen.low, share * seen.high) / step) * step
        return float(np.square(rounded - values).mean())

    best = min(NARROWER, key=error)
    return Range(best * seen.low, best * seen.high)
