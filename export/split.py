"""How does one graph become two, `encoder` (pictures to features) and `fusion` (features and memory to the world)?

Embedded pipelines run the encoder as cameras deliver and the fusion once a step. The cut follows the data: what the camera network
hands to the rest is the boundary; cheap geometry that both sides need is computed on both.
"""

from dataclasses import replace
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, helper

from export.half import scope_of
from export.manifest import Manifest
from export.meanings import InputMeaning
from export.onnx_graph import attach_manifest, read_manifest, tensor_specs
from scenes.errors import DataError

ENCODER_SCOPE = "cameras"


def part_paths(out: Path) -> tuple[Path, Path]:
    """Where the two parts of `car.onnx` lie: `car.encoder.onnx`, `car.fusion.onnx`."""
    return out.with_suffix(".encoder.onnx"), out.with_suffix(".fusion.onnx")


def split_graph(model: ModelProto, where: str = "graph") -> tuple[ModelProto, ModelProto]:
    """The encoder and the fusion part, each with its manifest inside.

    Raises:
        DataError: the graph was not written by us, or has no camera network to cut off.
    """
    manifest = read_manifest(model, where)
    found = boundary_tensors(model)
    if not found:
        raise DataError(f"{where}: no camera network found in the graph to cut off; export it again as a whole")
    boundary = [f"features_{number}" for number in range(len(found))]
    model = _renamed(model, dict(zip(found, boundary, strict=True)))
    infos = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    outputs = [value.name for value in model.graph.output]
    encoder = _cut(model, set(), boundary, infos)
    fusion = _cut(model, set(boundary), outputs, infos)
    _describe(encoder, manifest, "encoder", boundary)
    _describe(fusion, manifest, "fusion", boundary)
    return encoder, fusion


def boundary_tensors(model: ModelProto) -> list[str]:
    """What nodes of the camera network hand to nodes outside it, in the order of the graph."""
    inside = {name for node in model.graph.node if _in_encoder(node) for name in node.output}
    outside = {name for node in model.graph.node if not _in_encoder(node) for name in node.input}
    outside |= {value.name for value in model.graph.output}
    return [name for node in model.graph.node for name in node.output if name in inside and name in outside]


def _renamed(model: ModelProto, names: dict[str, str]) -> ModelProto:
    """A copy with other names for some inner tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        for tensors in (node.input, node.output):
            for position, name in enumerate(tensors):
                tensors[position] = names.get(name, name)
    for value in copy.graph.value_info:
        value.name = names.get(value.name, value.name)
    return copy


def _in_encoder(node: NodeProto) -> bool:
    scope = scope_of(node)
    return bool(scope) and scope[0] == ENCODER_SCOPE


def _cut(model: ModelProto, given: set[str], wanted: list[str], infos) -> ModelProto:
    """The nodes that `wanted` needs when the tensors `given` come from outside."""
    producer = {name: node for node in model.graph.node for name in node.output if name not in given}
    needed, queue = set(), list(wanted)
    while queue:
        name = queue.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in producer:
            queue.extend(n for n in producer[name].input if n)
    graph = model.graph
    nodes = [node for node in graph.node if any(name in needed and name not in given for name in node.output)]
    known = {value.name: value for value in (*graph.input, *graph.output)} | infos
    inputs = [value for value in graph.input if value.name in needed or (given and value.name.startswith("state_"))]
    inputs += [known[name] for name in sorted(given)]
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    part = helper.make_graph(nodes, graph.name, inputs, [known[name] for name in wanted], initializers)
    return helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version, producer_name=model.producer_name)


def _describe(part: ModelProto, whole: Manifest, name: str, boundary: list[str]) -> None:
    meanings = {spec.name: InputMeaning(spec.units, spec.frame, spec.meaning) for spec in (*whole.inputs, *whole.outputs)}
    meanings |= {tensor: InputMeaning("", "", "features that the encoder hands to the fusion part") for tensor in boundary}
    state = whole.state if name == "fusion" else []
    inputs, outputs = tensor_specs(part.graph.input, meanings), tensor_specs(part.graph.output, meanings)
    attach_manifest(part, replace(whole, part=name, boundary=boundary, inputs=inputs, outputs=outputs, state=state))
