"""How does a network become one ONNX graph? `export_model`: opset 18, default domain, state in and out, any number of cameras."""

import contextlib
import hashlib
import io
import warnings
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor, nn

from export.manifest import MANIFEST_KEY, MIN_DYNAMIC_CAMERAS, Manifest, StateSpec, TensorSpec
from export.meanings import ANSWER_MEANINGS, CONVENTIONS, STATE_MEANINGS, STEP_MEANINGS, InputMeaning, preprocessing
from export.quicken import quicken
from export.simplify import merge_batch_norms, name_outputs, tidy
from export.steady_norms import steady_norms
from fusion.config import ModelConfig
from fusion.interface import StepInput, WorldState
from scenes.boxes import Box3D
from scenes.errors import ConfigError, DataError
from scenes.layers import OCCUPANCY_STATES, VoxelGrid

OPSET = 18
"""TensorRT runs GridSample of opset 20 and later as nearest neighbour without a word (TensorRT#4646)."""
GRAPH_SAMPLERS = {"auto": "gridsample", "gridsample": "gridsample", "gather": "gather"}
"""A config's sampler to what the graph holds; others exist for processors only."""
MAX_CAMERAS = 64
CAMERA_AXIS = "cameras"


class StepGraph(nn.Module):
    """The network with flat tensors in and out, in the order of the manifest. Integers cross the border as int32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.num_step_inputs = len(fields(StepInput))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Answers, then the next state."""
        images, *calibration = tensors[: self.num_step_inputs]
        step = StepInput(images.float(), *calibration)  # cast at the border: TensorRT knows uint8 nowhere else
        names = [f.name for f in fields(WorldState)]
        state = WorldState(*(_widen(name, t) for name, t in zip(names, tensors[self.num_step_inputs :], strict=True)))
        output, next_state = self.model(step, state)
        return (*self._answers(output, next_state).values(), *(_narrow(t) for t in next_state.tensors().values()))

    def _answers(self, output, next_state: WorldState) -> dict[str, Tensor]:
        found = self.model.detections(output, next_state)  # type: ignore[operator]
        answers = {"boxes": found.box_BQ9, "scores": found.score_BQ, "velocities": found.box_BQ9[..., Box3D.VX : Box3D.VY + 1]}
        answers |= {"classes": _narrow(found.class_BQ), "ids": _narrow(found.id_BQ)}
        if output.occupancy_BOXYZ is not None:
            answers |= _likeliest(output.occupancy_BOXYZ)
        if output.flow_B2XYZ is not None:
            answers["flow"] = output.flow_B2XYZ
        return answers | {name: _narrow(tensor) for name, tensor in sorted(output.extra.items())}

    @torch.no_grad()
    def named(self, step: StepInput, state: WorldState) -> tuple[dict[str, Tensor], WorldState]:
        """The same step with names: what the graph's outputs are called, and the next state."""
        output, next_state = self.model(step, state)
        return self._answers(output, next_state), next_state


def _likeliest(logits_BOXYZ: Tensor) -> dict[str, Tensor]:
    """Each voxel's likeliest state and the softmax of that alone, found in the order in which the head lays voxels down (z before x, y).

    Voxels are one axis meanwhile: runtimes may not turn it around, and what is likeliest is looked up faster than sought a second time.
    """
    planes = logits_BOXYZ.permute(0, 1, 4, 2, 3)
    flat_BOV = planes.reshape(*planes.shape[:2], -1)
    state_B1V = flat_BOV.argmax(dim=1, keepdim=True)
    confidence_BV = torch.exp(flat_BOV - flat_BOV.gather(1, state_B1V)).sum(dim=1).reciprocal()
    found = {"occupancy": state_B1V.int(), "occupancy_confidence": confidence_BV}
    return {name: values.reshape(-1, *planes.shape[2:]).permute(0, 2, 3, 1) for name, values in found.items()}


def _narrow(tensor: Tensor) -> Tensor:
    return tensor.to(torch.int32) if tensor.dtype == torch.int64 else tensor


INTEGER_STATE = ("id_BS", "next_id_B")


def _widen(name: str, tensor: Tensor) -> Tensor:
    return tensor.to(torch.int64) if name in INTEGER_STATE else tensor


def plain_name(field_name: str) -> str:
    """`cam_from_ego_BN44` without its shape letters."""
    stem, _, letters = field_name.rpartition("_")
    return stem if letters[:1] == "B" else field_name


def example_step(config: ModelConfig, num_cameras: int) -> StepInput:
    """One step of plausible numbers: cameras that look all around."""
    height, width = config.input_hw
    n = num_cameras
    yaw = torch.arange(n) * (2 * torch.pi / n)
    cam_from_ego = torch.zeros(1, n, 4, 4)
    cam_from_ego[0, :, 0, 0], cam_from_ego[0, :, 0, 1] = torch.sin(yaw), -torch.cos(yaw)
    cam_from_ego[0, :, 1, 2], cam_from_ego[0, :, 1, 3] = -1.0, 1.5
    cam_from_ego[0, :, 2, 0], cam_from_ego[0, :, 2, 1] = torch.cos(yaw), torch.sin(yaw)
    cam_from_ego[0, :, 3, 3] = 1.0
    return StepInput(
        torch.randint(0, 256, (1, n, height, width, 3), dtype=torch.uint8),
        torch.tensor([width / 2, width / 2, (width - 1) / 2, (height - 1) / 2]).expand(1, n, 4).clone(),
        torch.zeros(1, n, 5),
        torch.zeros(1, n),
        torch.full((1, n), 1.2),
        cam_from_ego,
        torch.ones(1, n),
        torch.zeros(1, n),
        torch.full((1,), 0.5),
        torch.eye(4)[None],
    )


def narrow_state(state: WorldState) -> list[Tensor]:
    """The state's tensors as the graph takes them."""
    return [_narrow(tensor) for tensor in state.tensors().values()]


def graph_names(graph: StepGraph, step: StepInput, state: WorldState) -> tuple[list[str], list[str]]:
    """Input and output names of the graph, in order."""
    answers, _ = graph.named(step, state)
    state_names = [plain_name(f.name) for f in fields(WorldState)]
    inputs = [plain_name(f.name) for f in fields(StepInput)] + [f"state_{name}" for name in state_names]
    return inputs, [*answers, *(f"next_{name}" for name in state_names)]


def trace(model: nn.Module, config: ModelConfig, num_cameras: int | None, opset: int = OPSET) -> ModelProto:
    """The graph as torch's exporter writes it, cleaned, with our names; refused unless its opset and domains are as asked."""
    graph = StepGraph(model).eval()
    step, state = example_step(config, num_cameras or 5), model.empty_state(1, "cpu")  # type: ignore[operator]
    input_names, output_names = graph_names(graph, step, state)
    arguments = (*step.tensors().values(), *narrow_state(state))
    dynamic_shapes = None
    if num_cameras is None:
        axis = torch.export.Dim(CAMERA_AXIS, min=MIN_DYNAMIC_CAMERAS, max=MAX_CAMERAS)
        per_camera = [{1: axis} if "N" in f.name.rpartition("_")[2] else None for f in fields(StepInput)]
        dynamic_shapes = ((*per_camera, *[None] * (len(arguments) - len(per_camera))),)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            arguments,
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=dynamic_shapes,
            input_names=input_names,
            output_names=output_names,
            verbose=False,
            optimize=False,
        )
        assert program is not None
        tidy(program.model)
        name_outputs(program.model, output_names)
    proto = program.model_proto
    merge_batch_norms(proto)
    quicken(proto)
    steady_norms(proto)
    written = ([value.name for value in proto.graph.input], [value.name for value in proto.graph.output])
    if written != (input_names, output_names):
        raise ConfigError(f"export: asked for tensors {input_names} and {output_names}, torch wrote {written}; mend the network's outputs")
    return _cleaned(proto, opset)


def _cleaned(model: ModelProto, opset: int) -> ModelProto:
    """Without the exporter's notes (paths, stack traces); the opset and the domains are read back, not believed."""
    told = {entry.domain: entry.version for entry in model.opset_import}
    used = {node.domain for node in model.graph.node}
    if told.get("") != opset or used - {""} or len(model.functions):
        raise ConfigError(
            f"export: asked for opset {opset} of the default domain, torch wrote opset {told} with node domains {sorted(used)}; "
            "use a supported opset (18) and remove the operator that needs another domain"
        )
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", opset))
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
        del node.metadata_props[:]
        node.doc_string = ""
        if scopes:
            node.metadata_props.add(key="scope", value=scopes)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.producer_name, model.producer_version, model.doc_string = "surround4d", code_version(), ""
    return model


def code_version() -> str:
    """The installed version of this program."""
    try:
        return version("surround4d")
    except PackageNotFoundError:
        return "unknown"


NUMPY_TYPES = {
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}


def tensor_specs(values, meanings: dict[str, InputMeaning]) -> list[TensorSpec]:
    """The graph's inputs or outputs as the manifest lists them."""
    specs = []
    for value in values:
        tensor = value.type.tensor_type
        shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
        told = meanings.get(value.name) or STATE_MEANINGS.get(value.name.partition("_")[2]) or InputMeaning("", "", "extra head")
        specs.append(TensorSpec(value.name, NUMPY_TYPES[tensor.elem_type], shape, told.units, told.frame, told.meaning))
    return specs


def make_manifest(model: nn.Module, config: ModelConfig, proto: ModelProto, num_cameras: int | None, precision: str = "fp32") -> Manifest:
    """What the file says about itself, read back from the graph where it can be."""
    empty = model.empty_state(1, "cpu")  # type: ignore[operator]
    names = [plain_name(f.name) for f in fields(WorldState)]
    state = [
        StateSpec(f"state_{name}", f"next_{name}", _single_value(name, tensor))
        for name, tensor in zip(names, empty.tensors().values(), strict=True)
    ]
    grid = VoxelGrid()
    return Manifest(
        variant=config.name,
        code_version=code_version(),
        opset=next(entry.version for entry in proto.opset_import if entry.domain == ""),
        precision=precision,
        sampler=GRAPH_SAMPLERS[config.sampler],
        num_layers=config.num_layers,
        num_cameras=num_cameras,
        input_hw=config.input_hw,
        inputs=tensor_specs(proto.graph.input, STEP_MEANINGS),
        outputs=tensor_specs(proto.graph.output, ANSWER_MEANINGS),
        state=state,
        class_names=tuple(config.class_names),
        preprocessing=preprocessing(config),
        occupancy={"states": list(OCCUPANCY_STATES), "min_ego_m": grid.min_ego_m, "voxel_m": grid.voxel_m, "shape": grid.shape}
        if config.occupancy
        else None,
        thresholds={"score": 0.1, "max_gap_s": 2.0},
        hashes={"weights_sha256": weights_hash(model)},
        conventions=CONVENTIONS,
    )


def weights_hash(model: nn.Module) -> str:
    """sha256 over names and bytes of the weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def _single_value(name: str, tensor: Tensor) -> float:
    values = torch.unique(tensor)
    if len(values) != 1:
        raise ConfigError(f"state {name}: expected one value in an empty state, got {len(values)}; fill it with one")
    return float(values[0])


def attach_manifest(proto: ModelProto, manifest: Manifest) -> None:
    """Puts the manifest into the file's metadata, replacing an earlier one."""
    kept = [(p.key, p.value) for p in proto.metadata_props if p.key != MANIFEST_KEY]
    del proto.metadata_props[:]
    for key, value in (*kept, (MANIFEST_KEY, manifest.dumps())):
        proto.metadata_props.add(key=key, value=value)


def read_manifest(proto: ModelProto, where: str) -> Manifest:
    """The manifest inside a loaded file."""
    text = next((p.value for p in proto.metadata_props if p.key == MANIFEST_KEY), None)
    if text is None:
        raise DataError(f"{where}: a foreign ONNX file, it carries no surround4d manifest; write it with `surround4d export`")
    return Manifest.loads(text, where)


def export_model(
    model: nn.Module, config: ModelConfig, path: Path, opset: int = OPSET, num_cameras: int | None = None, checkpoint_hash: str = ""
) -> Manifest:
    """Writes the whole network to `path` as fp32 with its manifest inside. Not verified: see `export.verify`.

    Raises:
        ConfigError: an opset that torch or TensorRT does not keep, or a number of cameras out of range.
    """
    if not 16 <= opset <= 19:
        raise ConfigError(f"opset: expected 16 to 19 (TensorRT computes GridSample of 20 and later wrongly), got {opset}; use {OPSET}")
    if num_cameras is not None and not 1 <= num_cameras <= MAX_CAMERAS:
        raise ConfigError(f"cameras: expected 1 to {MAX_CAMERAS} or dynamic, got {num_cameras}; correct the number")
    if config.sampler not in GRAPH_SAMPLERS:
        raise ConfigError(f"sampler: a graph holds gridsample or gather, got {config.sampler!r}; see export.networks.reconfigured")
    proto = trace(model, config, num_cameras, opset)
    manifest = make_manifest(model, config, proto, num_cameras)
    if checkpoint_hash:
        manifest = replace(manifest, hashes={**manifest.hashes, "checkpoint_sha256": checkpoint_hash})
    attach_manifest(proto, manifest)
    onnx.checker.check_model(proto, full_check=True)
    Path(path).write_bytes(proto.SerializeToString())
    return manifest
