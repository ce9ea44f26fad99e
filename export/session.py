"""How is an exported graph called? `OnnxNetwork`: arrays and state in, arrays and state out, checked against its manifest.

numpy and onnxruntime alone: no torch, no OpenCV, no onnx. State lives where the session computes and passes from step to step without
a copy (IO binding).
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime import OrtValue

from export.manifest import MANIFEST_KEY, MIN_DYNAMIC_CAMERAS, Manifest, TensorSpec, check_beside
from scenes.errors import ConfigError, DataError

Tensor = np.ndarray | OrtValue
"""What a graph takes: an array, or a value that lies on the device already."""

ORT_TYPES = {
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}


def available_providers(name: str = "auto") -> list[str]:
    """onnxruntime's providers for `cpu`, `cuda`, `tensorrt` or `auto` (the best present); an absent one is refused in words."""
    present = set(onnxruntime.get_available_providers())
    if name == "auto":
        name = next(n for n in ("tensorrt", "cuda", "cpu") if PROVIDERS[n][0] in present)
    if name not in PROVIDERS:
        raise ConfigError(f"provider: expected auto or one of {', '.join(PROVIDERS)}, got {name!r}; choose one")
    if PROVIDERS[name][0] not in present:
        raise ConfigError(f"provider {name!r}: this onnxruntime has {', '.join(sorted(present))}; install onnxruntime-gpu or use cpu")
    return [p for p in PROVIDERS[name] if p in present]


def open_session(path: Path, provider: str = "cpu", threads: int | None = None, spin: bool = True) -> onnxruntime.InferenceSession:
    """A session of any ONNX file; an unreadable one is refused with `DataError`.

    With `spin` threads wait for the next operator without sleeping: fastest on cores of one's own, a waste on cores that others use too.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; export a checkpoint first")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = available_providers(provider)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime raises its own classes, which differ between builds; the sentence keeps its reason
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: onnxruntime cannot load it ({reason}); export the checkpoint again") from error


def initial_state(manifest: Manifest) -> dict[str, np.ndarray]:
    """The memory before the first step of a drive, by input name."""
    specs = {state.input: manifest.spec(state.input) for state in manifest.state}
    return {s.input: np.full([int(n) for n in specs[s.input].shape], s.initial, np.dtype(specs[s.input].dtype)) for s in manifest.state}


class OnnxNetwork:
    """An exported graph: arrays and state in, arrays and state out. Keeps nothing between calls."""

    def __init__(self, path: Path | str, provider: str = "cpu", threads: int | None = None, part: str = "whole", spin: bool = True) -> None:
        self.path = Path(path)
        self.session = open_session(self.path, provider, threads, spin)
        self.manifest = self._read_manifest(part)
        self.state_inputs = [s.input for s in self.manifest.state]
        self.state_outputs = [s.output for s in self.manifest.state]
        self.step_inputs = [s for s in self.manifest.inputs if s.name not in set(self.state_inputs)]
        self.answers = [s.name for s in self.manifest.outputs if s.name not in set(self.state_outputs)]
        self.device = "cuda" if self.session.get_providers()[0] in ("CUDAExecutionProvider", "TensorrtExecutionProvider") else "cpu"

    def _read_manifest(self, part: str) -> Manifest:
        text = self.session.get_modelmeta().custom_metadata_map.get(MANIFEST_KEY)
        if text is None:
            raise DataError(f"{self.path}: a foreign ONNX file, it carries no surround4d manifest; write it with `surround4d export`")
        manifest = Manifest.loads(text, str(self.path))
        if manifest.part != part:
            wanted, got = ("a whole graph" if p == "whole" else f"the {p} part of a split one" for p in (part, manifest.part))
            other = "the whole file, or both parts (surround4d run FUSION CLIP --encoder ENCODER)" if part == "whole" else "the other file"
            raise DataError(f"{self.path}: expected {wanted}, got {got}; give {other}")
        for told, real in ((manifest.inputs, self.session.get_inputs()), (manifest.outputs, self.session.get_outputs())):
            _check_tensors(told, real, self.path)
        check_beside(self.path, manifest)
        return manifest

    def empty_state(self) -> dict[str, OrtValue]:
        """The memory before the first step of a drive, on the session's device."""
        return {name: self._value(array) for name, array in initial_state(self.manifest).items()}

    def _value(self, array: np.ndarray) -> OrtValue:
        return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device)

    def state_of(self, arrays: Mapping[str, np.ndarray]) -> dict[str, OrtValue]:
        """A state made from arrays by input name, on the session's device."""
        return {name: self._value(arrays[name]) for name in self.state_inputs}

    def check(self, inputs: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Refuses missing, surplus or wrongly shaped inputs, and a state that is not complete, with one sentence (`DataError`)."""
        missing = [n for n in self.state_inputs if n not in state]
        if missing:
            raise DataError(f"{self.path}: state lacks {', '.join(missing)}; start from empty_state() and pass on what a step returns")
        absent = [s.name for s in self.step_inputs if s.name not in inputs]
        surplus = sorted(set(inputs) - {s.name for s in self.step_inputs})
        if absent or surplus:
            raise DataError(f"{self.path}: inputs missing: {absent or 'none'}, unknown: {surplus or 'none'}; the manifest lists the names")
        cameras: int | None = None
        for spec in self.step_inputs:
            dtype, shape = _dtype_and_shape(inputs[spec.name])
            if dtype != spec.dtype:
                raise DataError(f"{self.path}: input {spec.name!r} must be {spec.dtype}, got {dtype}; convert it")
            cameras = _check_shape(spec, shape, cameras, self.path)
        for spec in (self.manifest.spec(name) for name in self.state_inputs):
            found = _dtype_and_shape(state[spec.name])
            if found != (spec.dtype, spec.shape):
                raise DataError(
                    f"{self.path}: {spec.name!r} must be {spec.dtype} of shape {spec.shape}, got {found[0]} of shape {found[1]}; "
                    "a state belongs to the graph that returned it, start from empty_state()"
                )

    def values(self, inputs: Mapping[str, Tensor], state: Mapping[str, OrtValue]) -> dict[str, OrtValue]:
        """One step: every output by name. Next state, and what an encoder hands on, stay on the session's device."""
        self.check(inputs, state)
        binding = self.session.io_binding()
        for spec in self.step_inputs:
            value = inputs[spec.name]
            binding.bind_ortvalue_input(spec.name, value if isinstance(value, OrtValue) else self._value(value))
        for name in self.state_inputs:
            binding.bind_ortvalue_input(name, state[name])
        for name in self.answers:
            binding.bind_output(name, self.device if self.manifest.part == "encoder" else "cpu")
        for name in self.state_outputs:
            binding.bind_output(name, self.device)
        self.session.run_with_iobinding(binding)
        return dict(zip((*self.answers, *self.state_outputs), binding.get_outputs(), strict=True))

    def __call__(self, inputs: Mapping[str, Tensor], state: Mapping[str, OrtValue]) -> tuple[dict[str, np.ndarray], dict[str, OrtValue]]:
        """One step: answers by name as numpy, and the next state, which stays on the device."""
        values = self.values(inputs, state)
        next_state = {s.input: values[s.output] for s in self.manifest.state}
        return {name: values[name].numpy() for name in self.answers}, next_state


def _dtype_and_shape(value: Tensor) -> tuple[str, tuple[int, ...]]:
    """numpy's name of the element type, and the shape."""
    if isinstance(value, OrtValue):
        return ORT_TYPES.get(value.data_type(), value.data_type()), tuple(value.shape())
    return str(value.dtype), value.shape


def _check_tensors(told: list[TensorSpec], real, path: Path) -> None:
    """The manifest must agree with the graph it travels in."""
    actual = {r.name: (ORT_TYPES.get(r.type, r.type), tuple(r.shape)) for r in real}
    for spec in told:
        if spec.name not in actual:
            raise DataError(f"{path}: the manifest names tensor {spec.name!r}, the graph has {', '.join(actual)}; export it again")
        if actual[spec.name] != (spec.dtype, tuple(spec.shape)):
            raise DataError(
                f"{path}: tensor {spec.name!r} is {actual[spec.name]} in the graph, ({spec.dtype!r}, {spec.shape}) in its manifest; "
                "export it again"
            )
    surplus = set(actual) - {spec.name for spec in told}
    if surplus:
        raise DataError(f"{path}: the graph has tensors that its manifest does not name: {', '.join(sorted(surplus))}; export it again")


def _check_shape(spec: TensorSpec, shape: tuple[int, ...], cameras: int | None, path: Path) -> int | None:
    """Compares one array's shape; returns the number of cameras seen so far."""
    agree = len(shape) == len(spec.shape)
    for want, got in zip(spec.shape, shape, strict=False):
        if isinstance(want, int):
            agree &= want == got
        else:
            cameras = got if cameras is None else cameras
            agree &= cameras == got
            if got < MIN_DYNAMIC_CAMERAS:
                raise DataError(
                    f"{path}: input {spec.name!r} has {got} cameras, a graph with a dynamic number takes {MIN_DYNAMIC_CAMERAS} or more; "
                    "add rows that are not alive, as StepPacker does"
                )
    if not agree:
        wanted = tuple(cameras if isinstance(want, str) and cameras else want for want in spec.shape)
        raise DataError(f"{path}: input {spec.name!r} must have shape {wanted}, got {tuple(shape)}; the manifest tells its meaning")
    return cameras


class SplitNetwork:
    """The two parts of a split graph, used like the whole one."""

    def __init__(self, encoder: OnnxNetwork, fusion: OnnxNetwork) -> None:
        handed = {spec.name: (spec.dtype, spec.shape) for spec in encoder.manifest.outputs}
        taken = {spec.name: (spec.dtype, spec.shape) for spec in fusion.manifest.inputs if spec.name in fusion.manifest.boundary}
        if encoder.manifest.hashes != fusion.manifest.hashes or handed != taken:
            raise DataError(f"{encoder.path} and {fusion.path}: parts of two different exports; export both again together")
        self.encoder, self.fusion = encoder, fusion
        self.path = fusion.path
        known = {spec.name: spec for spec in (*encoder.manifest.inputs, *fusion.manifest.inputs)}
        inputs = [spec for name, spec in known.items() if name not in fusion.manifest.boundary]
        self.manifest = replace(fusion.manifest, part="whole", inputs=inputs)
        self.encoder_s = 0.0
        """Seconds that the encoder took in the last step."""

    def empty_state(self) -> dict[str, OrtValue]:
        """See `OnnxNetwork`."""
        return self.fusion.empty_state()

    def state_of(self, arrays: Mapping[str, np.ndarray]) -> dict[str, OrtValue]:
        """See `OnnxNetwork`."""
        return self.fusion.state_of(arrays)

    def __call__(
        self, inputs: Mapping[str, np.ndarray], state: Mapping[str, OrtValue]
    ) -> tuple[dict[str, np.ndarray], dict[str, OrtValue]]:
        """See `OnnxNetwork`."""
        start = time.perf_counter()
        features = self.encoder.values({spec.name: inputs[spec.name] for spec in self.encoder.step_inputs if spec.name in inputs}, {})
        self.encoder_s = time.perf_counter() - start
        wanted = [spec.name for spec in self.fusion.step_inputs if spec.name not in features]
        return self.fusion({**{name: inputs[name] for name in wanted if name in inputs}, **features}, state)
