"""What would a runtime refuse in an ONNX file, or silently compute otherwise? `surround4d lint FILE` works on any file.

TensorRT's rules stand in `export.lint_rules`, with their sources in `export.tensorrt_operators`; onnxruntime is simply asked to load
the file. What is read is the file as written, not what its author meant.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import tyro
from onnx import ModelProto, TensorProto, numpy_helper
from rich.console import Console
from rich.table import Table

from export.lint_graph import Graph
from export.lint_rules import NODE_RULES, TENSORRT_8, TENSORRT_10, TENSORRT_11, Effect
from export.tensorrt_operators import LAST_OPSET
from scenes.errors import ConfigError, DataError

ONNXRUNTIME = "onnxruntime"
TARGETS = (TENSORRT_8, TENSORRT_10, TENSORRT_11, ONNXRUNTIME)
DEFAULT_TARGETS = (TENSORRT_10, TENSORRT_11, ONNXRUNTIME)
"""TensorRT 8.6 ends at opset 17 and is asked for by name."""
FIRST_OPSET = 9
INT32 = np.iinfo(np.int32)


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


def lint(model: ModelProto, targets: Sequence[str] = DEFAULT_TARGETS, path: Path | None = None) -> list[Finding]:
    """Everything that the targets would refuse or compute otherwise, in the order of the nodes.

    `path` is the file of the model; where its weights take more than 2 GB, onnxruntime can be asked about that alone.

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
            findings += _onnxruntime_findings(model if path is None else path)
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
    if graph.opset < FIRST_OPSET:
        sentence = f"opset {graph.opset} is older than {FIRST_OPSET}, the first it reads reliably; convert the file to 17 or 18"
        yield Finding(target, Effect.OTHERWISE, "opset", "file", sentence)
    if graph.model.functions and target == TENSORRT_8:
        names = ", ".join(sorted({function.name for function in graph.model.functions}))
        yield Finding(target, Effect.REFUSED, "functions", "file", f"local functions ({names}); inline them")
    if not graph.outputs:
        yield Finding(
            target, Effect.REFUSED, "no_output", "file", "the graph has no output, nothing of it would be computed; export it again"
        )
    for node, name in graph.unmade_inputs():
        sentence = f"reads {name!r}, which neither a node, nor an input, nor a constant gives; export the file again"
        yield Finding(target, Effect.REFUSED, "unmade_input", f"{node.op_type} {node.name or node.output[0]}", sentence)
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


def _onnxruntime_findings(model: ModelProto | Path) -> list[Finding]:
    """onnxruntime is asked itself: the checker first, then a session on the CPU."""
    try:
        onnx.checker.check_model(str(model) if isinstance(model, Path) else model)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        content = str(model) if isinstance(model, Path) else model.SerializeToString()
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
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
    findings = lint(read_onnx(file), target, file)
    console = Console(highlight=False)
    if not findings:
        console.print(f"{file}: nothing found for {', '.join(target)}")
        return 0
    table = Table("target", "effect", "where", "what")
    for (effect, sentence), alike in grouped(findings).items():
        targets = dict.fromkeys(finding.target for finding in alike)
        places = list(dict.fromkeys(finding.where for finding in alike))
        where = places[0] + (f" and {len(places) - 1} more" if len(places) > 1 else "")
        table.add_row(", ".join(targets), effect.value, where, sentence)
    console.print(table)
    return 1


def grouped(findings: Sequence[Finding]) -> dict[tuple[Effect, str], list[Finding]]:
    """Findings that say the same of several nodes or targets, together; in the order of their first."""
    groups: dict[tuple[Effect, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.effect, finding.sentence), []).append(finding)
    return groups


def read_onnx(path: Path) -> ModelProto:
    """Any ONNX file; one that is none is refused with `DataError`."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; give an ONNX file")
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's own exception class is private
        reason = str(error).strip().splitlines()[0][:400] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: not readable as ONNX ({reason}); export it again, or bring the files that belong to it") from error
    if not model.graph.node:
        raise DataError(f"{path}: not an ONNX graph, it has no nodes; export it again")
    return model
