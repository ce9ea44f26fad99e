"""What would a runtime refuse in an ONNX file, or silently compute otherwise? `surround4d lint FILE` works on any file.

Rules come from the operator tables of onnx-tensorrt (8.5/8.6: docs/operators.md; 10: opset 9 to 22), the known issues named beside
them, and onnxruntime itself, which is simply asked to load the file. What is read is the file as written, not what its author meant.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import tyro
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from rich.console import Console
from rich.table import Table

from scenes.errors import ConfigError, DataError

TENSORRT_8 = "tensorrt8.6"
TENSORRT_10 = "tensorrt10"
TENSORRT_11 = "tensorrt11"
ONNXRUNTIME = "onnxruntime"
TENSORRTS = (TENSORRT_8, TENSORRT_10, TENSORRT_11)
TARGETS = (*TENSORRTS, ONNXRUNTIME)
DEFAULT_TARGETS = (TENSORRT_10, TENSORRT_11, ONNXRUNTIME)
"""TensorRT 8.6 ends at opset 17 and is asked for by name."""

LAST_OPSET = {TENSORRT_8: 17, TENSORRT_10: 22, TENSORRT_11: 24}
MAX_TOPK = 3840
MAX_RANK = 8
INT32 = np.iinfo(np.int32)


class Effect(Enum):
    """What happens to the node."""

    REFUSED = "refused"
    OTHERWISE = "computed otherwise"


@dataclass(frozen=True)
class Finding:
    """One fault."""

    target: str
    effect: Effect
    rule: str
    """Short name of the rule, for tests and for switching it off in the head."""
    where: str
    """Node or tensor, with its operator."""
    sentence: str
    """What, why and what to do."""


class Graph:
    """A model with what the rules ask of it: types, ranks and constants by tensor name."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)
        self.nodes = list(_all_nodes(model.graph))
        self.constants = _constants(model, self.nodes)
        self.elements: dict[str, int] = {name: tensor.data_type for name, tensor in self.constants.items()}
        self.ranks: dict[str, int] = {name: len(tensor.dims) for name, tensor in self.constants.items()}
        self.shapes: dict[str, list[int | str | None]] = {name: list(tensor.dims) for name, tensor in self.constants.items()}
        try:
            inferred = onnx.shape_inference.infer_shapes(model)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            inferred = model
        for value in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info):
            if not value.type.HasField("tensor_type"):
                continue
            tensor = value.type.tensor_type
            self.elements[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                self.ranks[value.name] = len(tensor.shape.dim)
                self.shapes[value.name] = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
        self.inputs = [value.name for value in model.graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in model.graph.output]

    def array(self, name: str) -> np.ndarray | None:
        """A constant's values."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None


def _all_nodes(graph) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (
                (attribute.g, *attribute.graphs) if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) else ()
            ):
                yield from _all_nodes(inner)


def _constants(model: ModelProto, nodes: list[NodeProto]) -> dict[str, TensorProto]:
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
    return found


def attribute(node: NodeProto, name: str, default=None):
    """A node's attribute as a Python value."""
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


Fault = tuple[Effect, str]
NodeRule = Callable[[NodeProto, Graph, str], Fault | None]

NO_TENSORRT = {
    "NonZero": "its output shape depends on data",
    "Unique": "its output shape depends on data",
    "Compress": "its output shape depends on data",
    "NonMaxSuppression": "its output shape depends on data",
    "If": "control flow",
    "Loop": "control flow",
    "Scan": "control flow",
    "Attention": "fused attention is compiled unevenly; write it as MatMul and Softmax",
    "DynamicQuantizeLinear": "scales must be constants",
    "QLinearConv": "write it as DequantizeLinear, Conv, QuantizeLinear",
    "QLinearMatMul": "write it as DequantizeLinear, MatMul, QuantizeLinear",
    "ConvInteger": "write it as DequantizeLinear, Conv",
    "MatMulInteger": "write it as DequantizeLinear, MatMul",
    "Multinomial": "random",
    "Bernoulli": "random",
    "Det": "not in the parser's table",
    "Hardmax": "not in the parser's table",
    "BitShift": "not in the parser's table",
    "MaxUnpool": "not in the parser's table",
    "MaxRoiPool": "not in the parser's table",
    "StringNormalizer": "strings",
    "TfIdfVectorizer": "strings",
    "Optional": "not a tensor",
    "OptionalGetElement": "not a tensor",
    "OptionalHasElement": "not a tensor",
}
NO_TENSORRT_8 = {
    "IsInf",
    "BlackmanWindow",
    "HammingWindow",
    "HannWindow",
    "DFT",
    "STFT",
    "Gelu",
    "GroupNormalization",
    "Col2Im",
    "BitwiseAnd",
}
"""Operators that TensorRT 8.6 does not have; 10 does."""
RESIZE_TRANSFORMS = {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
REDUCTIONS = tuple(f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"))


def refused_operator(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Operators that the parser does not take."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in NO_TENSORRT:
        return Effect.REFUSED, f"{NO_TENSORRT[node.op_type]}; compute it outside or replace it"
    if node.op_type.startswith(("Sequence", "SplitToSequence", "ConcatFromSequence")):
        return Effect.REFUSED, "sequences are not tensors; use Concat and Split"
    if target == TENSORRT_8 and node.op_type in NO_TENSORRT_8:
        return Effect.REFUSED, "TensorRT 8.6 does not have it; write it in plain operators"
    return None


def foreign_domain(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Nodes outside the default domain need a plugin."""
    if node.domain in ("", "ai.onnx"):
        return None
    return Effect.REFUSED, f"domain {node.domain!r} needs a plugin; export with default-domain operators"


def grid_sample(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """4-D only; nearest neighbour from opset 20 on (TensorRT#4646)."""
    if node.op_type != "GridSample":
        return None
    if graph.ranks.get(node.input[0], 4) != 4:
        return Effect.REFUSED, f"GridSample takes 4-D input, got {graph.ranks[node.input[0]]}-D; stack the third axis into rows"
    if graph.opset >= 20:
        return Effect.OTHERWISE, f"GridSample of opset {graph.opset} runs as nearest neighbour (TensorRT#4646); export opset 18"
    return None


def top_k(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """K is at most 3840, and constant in TensorRT 8.6."""
    if node.op_type != "TopK" or len(node.input) < 2:
        return None
    k = graph.array(node.input[1])
    if k is not None and int(k.reshape(-1)[0]) > MAX_TOPK:
        return Effect.REFUSED, f"TopK with K = {int(k.reshape(-1)[0])}, at most {MAX_TOPK} are taken; select in two stages"
    if k is None and target == TENSORRT_8:
        return Effect.REFUSED, "TopK whose K is computed; make K a constant"
    return None


def scatter_reduction(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """ScatterND and ScatterElements only overwrite."""
    reduction = attribute(node, "reduction", "none")
    if node.op_type not in ("ScatterND", "ScatterElements") or reduction == "none":
        return None
    return Effect.REFUSED, f"{node.op_type} with reduction {reduction!r}; use a one-hot MatMul or a sorted sum"


def einsum(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """No ellipsis, no diagonal."""
    equation = str(attribute(node, "equation", ""))
    if node.op_type != "Einsum":
        return None
    diagonal = any(len(set(term)) != len(term) for term in equation.replace(" ", "").split("->")[0].split(",") if "." not in term)
    if "..." in equation or diagonal:
        return Effect.REFUSED, f"Einsum {equation!r}: ellipsis and diagonals are not taken; write the axes out or use MatMul"
    return None


def resize(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Modes that are not taken, and antialiasing, which is ignored."""
    if node.op_type != "Resize":
        return None
    transform = attribute(node, "coordinate_transformation_mode", "half_pixel")
    if transform not in RESIZE_TRANSFORMS:
        return Effect.REFUSED, f"Resize with coordinates {transform!r}; use half_pixel"
    if attribute(node, "antialias", 0):
        return Effect.OTHERWISE, "Resize with antialias=1 is computed without it; average with a convolution or pooling instead"
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


def constant_parameters(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Parameters that must be known when the engine is built."""
    for op_type, position, name in (("CumSum", 1, "axis"), ("Pad", 3, "axes"), ("OneHot", 1, "depth"), ("Slice", 3, "axes")):
        if node.op_type == op_type and len(node.input) > position and node.input[position] and graph.array(node.input[position]) is None:
            return Effect.REFUSED, f"{op_type} whose {name} is computed; make it a constant"
    if node.op_type == "InstanceNormalization" and any(graph.array(name) is None for name in node.input[1:]):
        return Effect.REFUSED, "InstanceNormalization whose scale or bias is computed; make them constants"
    return None


def max_pool_indices(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """The second output of MaxPool does not exist."""
    if node.op_type == "MaxPool" and len(node.output) > 1 and node.output[1]:
        return Effect.REFUSED, "MaxPool with its Indices output; compute indices with ArgMax"
    return None


def opset_18_semantics(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """TensorRT 8.6 reads reductions of opset 18 without the axes that moved into an input."""
    if target != TENSORRT_8 or graph.opset < 18:
        return None
    if node.op_type in REDUCTIONS and len(node.input) > 1 and node.input[1]:
        return Effect.OTHERWISE, f"{node.op_type} of opset 18 has its axes as an input, 8.6 looks for the attribute; export opset 17"
    if node.op_type == "Split" and attribute(node, "num_outputs") is not None:
        return Effect.REFUSED, "Split with num_outputs (opset 18); export opset 17"
    return None


def float64(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Doubles become floats."""
    if any(graph.elements.get(name) == TensorProto.DOUBLE for name in (*node.input, *node.output)):
        return Effect.OTHERWISE, f"{node.op_type} in float64 is computed in float32; cast before export and verify there"
    return None


def bfloat16(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """TensorRT 8.6 has no bfloat16."""
    if target == TENSORRT_8 and any(graph.elements.get(name) == TensorProto.BFLOAT16 for name in (*node.input, *node.output)):
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


def strings(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """There are no strings."""
    if any(graph.elements.get(name) == TensorProto.STRING for name in (*node.input, *node.output)):
        return Effect.REFUSED, f"{node.op_type} on strings; keep text outside the graph"
    return None


def random_without_seed(node: NodeProto, graph: Graph, target: str) -> Fault | None:
    """Seeds are ignored."""
    if node.op_type.startswith("Random"):
        return Effect.OTHERWISE, f"{node.op_type}: the seed is ignored, answers differ from run to run; make the numbers an input"
    return None


NODE_RULES: tuple[NodeRule, ...] = (
    refused_operator,
    foreign_domain,
    grid_sample,
    top_k,
    scatter_reduction,
    einsum,
    resize,
    zero_point,
    constant_parameters,
    max_pool_indices,
    opset_18_semantics,
    float64,
    bfloat16,
    rank,
    uint8_inside,
    strings,
    random_without_seed,
)


def lint(model: ModelProto, targets: Sequence[str] = DEFAULT_TARGETS) -> list[Finding]:
    """Everything that the targets would refuse or compute otherwise, in the order of the nodes.

    Raises:
        ConfigError: an unknown target.
    """
    unknown = [target for target in targets if target not in TARGETS]
    if unknown:
        raise ConfigError(f"target: expected some of {', '.join(TARGETS)}, got {', '.join(unknown)}; correct the name")
    graph = Graph(model)
    findings = []
    for target in targets:
        if target == ONNXRUNTIME:
            findings += _onnxruntime_findings(model, graph)
            continue
        findings += _file_findings(graph, target)
        for number, node in enumerate(graph.nodes):
            where = f"{node.op_type} {node.name or f'#{number}'}"
            for rule in NODE_RULES:
                fault = rule(node, graph, target)
                if fault is not None:
                    findings.append(Finding(target, fault[0], rule.__name__, where, fault[1]))
    return findings


def _file_findings(graph: Graph, target: str) -> Iterator[Finding]:
    """What concerns the file as a whole, its borders and its weights."""
    if graph.opset > LAST_OPSET[target]:
        sentence = f"opset {graph.opset} is newer than the last one it knows ({LAST_OPSET[target]}); export an older one"
        yield Finding(target, Effect.OTHERWISE, "opset", "file", sentence)
    if graph.model.functions:
        names = ", ".join(sorted({function.name for function in graph.model.functions}))
        yield Finding(target, Effect.REFUSED, "functions", "file", f"local functions ({names}); inline them")
    for name in (*graph.inputs, *graph.outputs):
        yield from _border_findings(graph, target, name)
    for name, tensor in graph.constants.items():
        if tensor.data_type != TensorProto.INT64 or target != TENSORRT_8 or not len(tensor.raw_data or tensor.int64_data):
            continue
        values = numpy_helper.to_array(tensor)
        bounded = (values <= INT32.max) & (values >= INT32.min)
        slice_end = np.isin(values, (np.iinfo(np.int64).max, np.iinfo(np.int64).min, np.iinfo(np.int64).max - 1))
        if not (bounded | slice_end).all():
            sentence = "int64 values beyond int32 are clamped; keep them in int32 range"
            yield Finding(target, Effect.OTHERWISE, "int64_weights", f"constant {name}", sentence)


def _border_findings(graph: Graph, target: str, name: str) -> Iterator[Finding]:
    kind = "input" if name in graph.inputs else "output"
    element = graph.elements.get(name)
    if element == TensorProto.DOUBLE:
        yield Finding(target, Effect.REFUSED, "float64_border", f"{kind} {name}", "float64 cannot cross the border; use float32")
    if element == TensorProto.INT64 and target == TENSORRT_8:
        yield Finding(target, Effect.OTHERWISE, "int64_border", f"{kind} {name}", "an int64 binding becomes int32; use int32 in the graph")
    if element == TensorProto.STRING:
        yield Finding(target, Effect.REFUSED, "string_border", f"{kind} {name}", "strings cannot cross the border; use indices")
    if kind == "input" and (name not in graph.ranks or any(axis is None for axis in graph.shapes.get(name, []))):
        sentence = "its rank or an axis is unknown and without a name; fix it or name the axis for the optimisation profile"
        yield Finding(target, Effect.REFUSED, "dynamic_shape", f"{kind} {name}", sentence)


def _onnxruntime_findings(model: ModelProto, graph: Graph) -> list[Finding]:
    """onnxruntime is asked itself: the checker first, then a session on the CPU."""
    try:
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the checker and onnxruntime raise many classes; every one of them means refused
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return [Finding(ONNXRUNTIME, Effect.REFUSED, "session", "file", f"{lines[0][:300] if lines else error!r}; mend the file")]
    return []


def lint_file(
    file: Annotated[Path, tyro.conf.Positional],
    target: tuple[str, ...] = DEFAULT_TARGETS,
) -> int:
    """Says what TensorRT or onnxruntime would refuse in an ONNX file, or silently compute otherwise.

    Args:
        file: Any ONNX file.
        target: One or more of tensorrt8.6, tensorrt10, tensorrt11, onnxruntime.
    """
    findings = lint(read_onnx(file), target)
    console = Console(highlight=False)
    if not findings:
        console.print(f"{file}: nothing found for {', '.join(target)}")
        return 0
    table = Table("target", "effect", "where", "what")
    for finding in findings:
        table.add_row(finding.target, finding.effect.value, finding.where, finding.sentence)
    console.print(table)
    return 1


def read_onnx(path: Path) -> ModelProto:
    """Any ONNX file; one that is none is refused with `DataError`."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; give an ONNX file")
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's own exception class is private
        raise DataError(f"{path}: not readable as ONNX ({str(error).splitlines()[0][:120]}); export it again") from error
    if not model.graph.node:
        raise DataError(f"{path}: not an ONNX graph, it has no nodes; export it again")
    return model
