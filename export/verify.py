"""Does the file compute what the network computes? Both stream the same steps over several rigs, each carrying its own state.

What is compared, and how, stands in `export.comparison`. `SideBySide` never sets anybody right: from the first step of a drive to the last
each side lives with what it remembered itself. Where the network has no answer, none can be compared: a score within the last bits of
the least that is remembered, two cells of the heatmap equally high. In `verify` a step that differs is therefore asked again in torch: from
the file's own memory, where all answers must agree; or, if they do not, with its calibration moved by 1e-5: if torch moves as far, the
step is decided by a tie and only its dense answers are held to the tolerance. Both then go on from torch's state. Such steps are rare
and counted; a file with more than `MAX_TIED_SHARE` of them is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from onnxruntime import OrtValue
from torch import nn

from export.comparison import Comparison, Verification, dense_only, step_error
from export.manifest import Manifest
from export.onnx_graph import StepGraph, narrow_state, plain_name
from export.runner import OnnxNetwork, SplitNetwork
from export.synthetic import synthetic_steps, verification_rigs
from fusion.config import ModelConfig
from fusion.interface import StepInput, WorldState
from scenes.errors import DataError
from scenes.rigs import Rig

TOLERANCE = 1e-3
NUDGE = 1e-5
"""Relative change of the calibration, about what summing in another order does to the features."""
MAX_TIED_SHARE = 0.07
"""With more steps than this decided by ties (1 of 15), too little was compared for a file to be called verified."""


def step_input(inputs: dict[str, np.ndarray]) -> StepInput:
    """The same inputs for torch."""
    return StepInput(*(torch.from_numpy(inputs[plain_name(f.name)]) for f in fields(StepInput)))


def torch_outputs(graph: StepGraph, step: StepInput, state: WorldState) -> tuple[dict[str, np.ndarray], WorldState]:
    """One step in torch with the graph's output names."""
    answers, next_state = graph.named(step, state)
    names = [f"next_{plain_name(name)}" for name in next_state.tensors()]
    named = answers | dict(zip(names, narrow_state(next_state), strict=True))
    return {name: tensor.numpy() for name, tensor in named.items()}, next_state


def is_tied(graph: StepGraph, inputs: dict[str, np.ndarray], state: WorldState, reference: dict[str, np.ndarray], error: float) -> bool:
    """Does torch itself differ from `reference` by a comparable error when the calibration is nudged?"""
    for sign in (1.0, -1.0):
        nudged = {**inputs, "intrinsics": inputs["intrinsics"] * np.float32(1 + sign * NUDGE)}
        if step_error(reference, torch_outputs(graph, step_input(nudged), state)[0]) > 0.1 * error:
            return True
    return False


def state_for_torch(state: Mapping[str, OrtValue]) -> WorldState:
    """A network's state as torch takes it."""
    arrays = (torch.from_numpy(state[f"state_{plain_name(f.name)}"].numpy()) for f in fields(WorldState))
    return WorldState(*(array.long() if array.dtype == torch.int32 else array for array in arrays))


class Streaming(Protocol):
    """What drives beside torch: a file whole or in parts (`export.session`), or whatever takes and gives the same arrays and state."""

    manifest: Manifest

    def empty_state(self) -> dict[str, OrtValue]:
        """The memory before the first step."""
        ...

    def state_of(self, arrays: Mapping[str, np.ndarray]) -> dict[str, OrtValue]:
        """A memory made from arrays by input name."""
        ...

    def __call__(
        self, inputs: Mapping[str, np.ndarray], state: Mapping[str, OrtValue], /
    ) -> tuple[dict[str, np.ndarray], dict[str, OrtValue]]:
        """One step: answers by name, and the next memory."""
        ...


class SideBySide:
    """torch and some networks on one drive, each with its own carried state; a comparison a network."""

    def __init__(self, graph: StepGraph, networks: Sequence[Streaming], comparisons: Sequence[Comparison]) -> None:
        self.graph, self.networks, self.comparisons = graph, networks, comparisons
        self.torch_state: WorldState = graph.model.empty_state(1, "cpu")  # type: ignore[operator]
        self.states = [network.empty_state() for network in networks]

    def step(self, inputs: dict[str, np.ndarray], forgive_ties: bool = False, same_memory: bool = False) -> None:
        """The next step of the drive for everybody; with `same_memory` all go on from torch's after it."""
        before, step = self.torch_state, step_input(inputs)
        reference, self.torch_state = torch_outputs(self.graph, step, before)
        for index, (network, comparison) in enumerate(zip(self.networks, self.comparisons, strict=True)):
            own, pairs = self.states[index], network.manifest.state
            answers, self.states[index] = network(inputs, own)
            got = {**answers, **{s.output: self.states[index][s.input].numpy() for s in pairs}}
            decided = forgive_ties and self._add_tied(comparison, inputs, before, own, reference, got)
            if not decided:
                comparison.add(reference, got)
            if decided or same_memory:
                self.states[index] = network.state_of({s.input: reference[s.output] for s in pairs})

    def _add_tied(
        self,
        comparison: Comparison,
        inputs: dict[str, np.ndarray],
        before: WorldState,
        own: Mapping[str, OrtValue],
        reference: dict[str, np.ndarray],
        got: dict[str, np.ndarray],
    ) -> bool:
        """Counts a step that differs as tied, and says so, if ties decided it."""
        error = step_error(reference, got)
        if error <= TOLERANCE:
            return False
        from_own, _ = torch_outputs(self.graph, step_input(inputs), state_for_torch(own))
        if step_error(from_own, got) <= TOLERANCE:  # the same step from the same memory: two memories that differ a little decided
            comparison.add_tied(from_own, got)
        elif is_tied(self.graph, inputs, before, reference, error):
            comparison.add_tied(dense_only(reference), dense_only(got))
        else:
            return False
        return True

    def memory(self) -> tuple[WorldState, list[dict[str, np.ndarray]]]:
        """What everybody remembers, bit by bit."""
        return self.torch_state, [{name: value.numpy() for name, value in state.items()} for state in self.states]

    def remember(self, memory: tuple[WorldState, list[dict[str, np.ndarray]]]) -> None:
        """Goes on from what `memory` gave, as if there had been no break."""
        self.torch_state = memory[0]
        self.states = [network.state_of(arrays) for network, arrays in zip(self.networks, memory[1], strict=True)]


def compare_drive(
    graph: StepGraph,
    networks: Sequence[Streaming],
    comparisons: Sequence[Comparison],
    drive: Iterable[dict[str, np.ndarray]],
    name: str = "",
    forgive_ties: bool = False,
) -> None:
    """Streams one drive through torch and through every network."""
    together = SideBySide(graph, networks, comparisons)
    for comparison in comparisons:
        comparison.new_drive(name)
    for inputs in drive:
        together.step(inputs, forgive_ties)


def verify(
    path: Path,
    model: nn.Module,
    config: ModelConfig,
    rigs: list[Rig] | None = None,
    steps: int = 5,
    seed: int = 0,
    network: OnnxNetwork | SplitNetwork | None = None,
) -> Verification:
    """Streams `steps` synthetic steps of every rig through torch and through the file."""
    network = network or OnnxNetwork(path)
    num_cameras = network.manifest.num_cameras
    graph, comparison = StepGraph(model).eval(), Comparison()
    for number, rig in enumerate(rigs or verification_rigs(config.input_hw, num_cameras)):
        fisheyes = sum(camera.lens.value == "fisheye" for camera in rig.cameras)
        drive = synthetic_steps(rig, config, steps, seed + number, num_cameras)
        compare_drive(graph, [network], [comparison], drive, f"{len(rig)} cameras, {fisheyes} fisheye", forgive_ties=True)
    return comparison.found


def require(found: Verification, path: Path, tolerance: float = TOLERANCE, integer_tolerance: float = TOLERANCE) -> None:
    """Refuses a file that does not compute what the network computes, or of which too little could be compared, with `DataError`."""
    if found.max_error > tolerance or found.mismatch_share > integer_tolerance:
        worst = found.to_json()
        raise DataError(
            f"{path}: onnxruntime differs from torch by {found.max_error:.3g} (relative, in {worst['worst_tensor']!r}; allowed "
            f"{tolerance:g}) and in {found.mismatch_share:.3g} of the integers; the file was not kept, try --sampler gather"
        )
    steps = len(found.errors)
    if len(found.tied_steps) > MAX_TIED_SHARE * steps:
        raise DataError(
            f"{path}: {len(found.tied_steps)} of {steps} steps are decided by ties within the network (torch itself chooses other objects "
            f"when its calibration moves by {NUDGE:g}), at most {MAX_TIED_SHARE:.0%} may be; the file was not kept: train the network "
            "further, or export with --steps 20 or more"
        )
