"""Which node would a TensorRT release refuse, or silently compute otherwise? One small function a rule.

Restrictions are those of the tables named in `export.tensorrt_operators`; known issues stand beside their rule. A target that names a
major version means all of its releases: a rule that only later ones lift says from which on.
"""

from collections.abc import Callable
from enum import Enum

import numpy as np
from onnx import NodeProto, TensorProto

from export.lint_graph import DEFAULT_DOMAINS, Graph, attribute
from export.tensorrt_operators import AT_A_PRICE, INSTEAD, TAKEN, TAKEN_SINCE, Release

TENSORRT_8 = "tensorrt8.6"
TENSORRT_10 = "tensorrt10"
TENSORRT_11 = "tensorrt11"
FIRST_RELEASE: dict[str, Release] = {TENSORRT_8: (8, 6), TENSORRT_10: (10, 0), TENSORRT_11: (11, 0)}
MAX_TOPK = 3839
MAX_RANK = 8


class Effect(Enum):
    """What happens to the node."""

    REFUSED = "refused"
    OTHERWISE = "computed otherwise"
    PRICE = "taken at a price"


Fault = tuple[Effect, str]
NodeRule = Callable[[NodeProto, Graph, str], Fault | None]
"""Node, graph, target: what happens, and a sentence with the remedy; None where the node is fine."""


def _before(target: str, release: Release) -> str:
    """ " before 10.14" where later releases of the same target take it, else ""."""
    return f" before {release[0]}.{release[1]}" if FIRST_RELEASE[target][0] == release[0] else ""


def refused_operator(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Operators that the parser does not take."""
    if node.domain not in DEFAULT_DOMAINS or node.op_type in TAKEN:
        return None
    since = TAKEN_SINCE.get(node.op_type)
    if since is not None and since <= FIRST_RELEASE[target]:
        return None
    told = f"{node.op_type} is not taken{_before(target, since) if since else ''}"
    return Effect.REFUSED, f"{told}; {INSTEAD.get(node.op_type, 'compute it outside or write it in plain operators')}"


def at_a_price(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Operators whose shape or flow depends on data."""
    if node.domain in DEFAULT_DOMAINS and node.op_type in AT_A_PRICE:
        return Effect.PRICE, f"{node.op_type}: {AT_A_PRICE[node.op_type]}"
    return None


def foreign_domain(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Nodes outside the default domain need a plugin, unless they are local functions (taken since 9.0)."""
    local = {(function.domain, function.name) for function in graph.model.functions}
    if node.domain in DEFAULT_DOMAINS or ((node.domain, node.op_type) in local and target != TENSORRT_8):
        return None
    return Effect.REFUSED, f"domain {node.domain!r} needs a plugin; export with default-domain operators"


def attention(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Of the new operator only the plain four-dimensional form is taken."""
    if node.op_type != "Attention" or node.domain not in DEFAULT_DOMAINS or target != TENSORRT_11:
        return None
    flat = any(graph.ranks.get(name, 4) != 4 for name in node.input[:3])
    if flat or len([name for name in node.input[4:] if name]) or len(node.output) > 1 or attribute(node, "softcap", 0.0):
        return Effect.REFUSED, "Attention with anything but 4-D query, key, value and mask; write it as MatMul, Softmax, MatMul"
    return None


def grid_sample(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """4-D only before 11.2; nearest neighbour from opset 20 on (TensorRT#4646, seen in 10.13 to 11.1)."""
    if node.op_type != "GridSample":
        return None
    if graph.ranks.get(node.input[0], 4) != 4:
        told = f"GridSample takes 4-D input{_before(target, (11, 2))}, got {graph.ranks[node.input[0]]}-D"
        return Effect.REFUSED, f"{told}; stack the third axis into rows"
    if graph.opset >= 20 and attribute(node, "mode", "linear") != "nearest":
        return Effect.OTHERWISE, f"GridSample of opset {graph.opset} runs as nearest neighbour (TensorRT#4646); export opset 18"
    return None


def top_k(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """K below 3840, sorted."""
    if node.op_type != "TopK" or len(node.input) < 2:
        return None
    k = graph.array(node.input[1])
    if k is not None and int(k.reshape(-1)[0]) > MAX_TOPK:
        return Effect.REFUSED, f"TopK with K = {int(k.reshape(-1)[0])}, at most {MAX_TOPK} are taken; select in two stages"
    if attribute(node, "sorted", 1) != 1:
        return Effect.REFUSED, "TopK with sorted=0; ask for sorted output"
    return None


def scatter_reduction(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """ScatterND only overwrites; ScatterElements adds since 10.0."""
    reduction = attribute(node, "reduction", "none")
    reduces = node.op_type == "ScatterND" or (node.op_type == "ScatterElements" and target == TENSORRT_8)
    if not reduces or reduction == "none":
        return None
    return Effect.REFUSED, f"{node.op_type} with reduction {reduction!r}; use a one-hot MatMul or a sorted sum"


def einsum(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """No ellipsis, no diagonal before 10.12."""
    equation = str(attribute(node, "equation", ""))
    if node.op_type != "Einsum" or target == TENSORRT_11:
        return None
    diagonal = any(len(set(term)) != len(term) for term in equation.replace(" ", "").split("->")[0].split(",") if "." not in term)
    if "..." in equation or diagonal:
        told = f"Einsum {equation!r}: ellipsis and diagonals are not taken{_before(target, (10, 12))}"
        return Effect.REFUSED, f"{told}; write the axes out or use MatMul"
    return None


RESIZE_TRANSFORMS = {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}


def resize(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Modes that are not taken, and antialiasing, which no release computes."""
    if node.op_type != "Resize":
        return None
    transform, mode = attribute(node, "coordinate_transformation_mode", "half_pixel"), attribute(node, "mode", "nearest")
    if transform not in RESIZE_TRANSFORMS:
        return Effect.REFUSED, f"Resize with coordinates {transform!r}; use half_pixel"
    if mode not in ("nearest", "linear"):
        return Effect.REFUSED, f"Resize with mode {mode!r}; use linear"
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return Effect.REFUSED, "Resize that keeps the aspect ratio; give it the final size"
    if attribute(node, "antialias", 0):
        return Effect.OTHERWISE, "Resize with antialias=1 is not computed with it; average with a convolution or pooling instead"
    return None


def zero_point(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Quantisation is symmetric and int8."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    point = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if graph.array(node.input[1]) is None:
        return Effect.REFUSED, f"{node.op_type} whose scale is computed; calibrate and store it"
    if point is not None and point.dtype == np.uint8:
        return Effect.REFUSED, f"{node.op_type} to uint8; quantise to int8"
    if point is not None and point.dtype == np.int8 and np.any(point != 0):
        return Effect.REFUSED, f"{node.op_type} with zero point {int(point.reshape(-1)[0])}; quantise symmetrically (zero point 0)"
    return None


REDUCTIONS = tuple(f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"))
CONSTANT_PARAMETERS: tuple[tuple[str, int, str, Release | None], ...] = (
    ("CumSum", 1, "axis", None),
    ("OneHot", 1, "depth", None),
    ("Slice", 3, "axes", (10, 3)),
    ("Pad", 3, "axes", (10, 4)),
    ("Squeeze", 1, "axes", None),
    ("Unsqueeze", 1, "axes", None),
    *((name, 1, "axes", None) for name in REDUCTIONS),
)
"""Operator, position of the input, its name, and the release from which on it may be computed."""


def constant_parameters(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Parameters that must be known when the engine is built."""
    for op_type, position, name, since in CONSTANT_PARAMETERS:
        if node.op_type == op_type and graph.is_computed(node, position) and (since is None or since > FIRST_RELEASE[target]):
            lifted = _before(target, since) if since else ""
            return Effect.REFUSED, f"{op_type} whose {name} is computed{lifted and f' ({lifted.strip()})'}; make it a constant"
    if node.op_type == "InstanceNormalization" and target == TENSORRT_8 and any(graph.is_computed(node, n) for n in (1, 2)):
        return Effect.REFUSED, "InstanceNormalization whose scale or bias is computed; make them constants"
    return None


def pooling(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """No indices, no dilation."""
    if node.op_type not in ("MaxPool", "AveragePool", "LpPool"):
        return None
    if len(node.output) > 1 and node.output[1]:
        return Effect.REFUSED, "MaxPool with its Indices output; compute indices with ArgMax"
    if any(step != 1 for step in attribute(node, "dilations") or ()):
        return Effect.REFUSED, f"{node.op_type} with dilations; slice first or use a convolution"
    return None


def further_outputs(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """LayerNormalization gives its first output alone; dropout must be off."""
    if node.op_type == "LayerNormalization" and any(node.output[1:]):
        return Effect.REFUSED, "LayerNormalization with its mean or deviation as an output; compute them with ReduceMean"
    if node.op_type == "Dropout" and len(node.input) > 2 and (graph.array(node.input[2]) is None or bool(graph.array(node.input[2]))):
        return Effect.REFUSED, "Dropout in training mode; export the network in evaluation mode"
    return None


def opset_18_semantics(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """TensorRT 8.6 reads reductions of opset 18 without the axes that moved into an input."""
    if target != TENSORRT_8 or graph.opset < 18:
        return None
    if node.op_type in REDUCTIONS and node.op_type != "ReduceSum" and len(node.input) > 1 and node.input[1]:
        return Effect.OTHERWISE, f"{node.op_type} of opset 18 has its axes as an input, 8.6 looks for the attribute; export opset 17"
    if node.op_type == "Split" and attribute(node, "num_outputs") is not None:
        return Effect.REFUSED, "Split with num_outputs (opset 18); export opset 17"
    return None


def float64(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Doubles become floats."""
    if any(graph.elements.get(name) == TensorProto.DOUBLE for name in (*node.input, *node.output)):
        return Effect.OTHERWISE, f"{node.op_type} in float64 is computed in float32; cast before export and verify there"
    return None


UNKNOWN_ELEMENTS = {
    getattr(TensorProto, name): name.lower() for name in ("INT16", "UINT16", "UINT32", "UINT64", "COMPLEX64", "COMPLEX128", "STRING")
}


def element_type(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Types that TensorRT does not have at all, or not yet."""
    elements = {graph.elements.get(name) for name in (*node.input, *node.output)}
    for element, name in UNKNOWN_ELEMENTS.items():
        if element in elements:
            return Effect.REFUSED, f"{node.op_type} on {name}; {'keep text outside the graph' if name == 'string' else 'cast to int32'}"
    if TensorProto.BFLOAT16 in elements and (target == TENSORRT_8 or node.op_type == "GridSample"):
        return Effect.REFUSED, f"{node.op_type} in bfloat16; use float16"
    return None


def rank(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """At most eight axes."""
    for name in (*node.input, *node.output):
        if graph.ranks.get(name, 0) > MAX_RANK:
            return Effect.REFUSED, f"{node.op_type} on a tensor of {graph.ranks[name]} axes, at most {MAX_RANK} are taken; merge axes"
    return None


def uint8_inside(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """uint8 exists only at the graph's border and only a Cast to floating point may read it."""
    touches = [name for name in node.input if graph.elements.get(name) == TensorProto.UINT8]
    if not touches or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return None
    if node.op_type != "Cast" or attribute(node, "to") not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        return Effect.REFUSED, f"{node.op_type} on uint8; cast the input to float first"
    return None


def random_without_seed(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Seeds are ignored."""
    if node.op_type.startswith("Random"):
        return Effect.OTHERWISE, f"{node.op_type}: the seed is ignored, answers differ from run to run; make the numbers an input"
    return None


NODE_RULES: tuple[NodeRule, ...] = (
    refused_operator,
    at_a_price,
    foreign_domain,
    attention,
    grid_sample,
    top_k,
    scatter_reduction,
    einsum,
    resize,
    zero_point,
    constant_parameters,
    pooling,
    further_outputs,
    opset_18_semantics,
    float64,
    element_type,
    rank,
    uint8_inside,
    random_without_seed,
)
