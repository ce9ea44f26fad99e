"""Does the file compute what the network computes? Both stream the same steps over several rigs, each carrying its own state.

What is compared, and how, stands in `export.comparison`. Neither side is ever set right: from the first step to the last of a drive each
lives with what it remembered itself. That holds because no choice within the network hangs on the last bits (`fusion.gradual`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import nn

from export.comparison import Comparison, Verification
from export.onnx_graph import StepGraph, narrow_state, plain_name
from export.runner import OnnxNetwork, SplitNetwork
from export.synthetic import synthetic_steps, verification_rigs
from fusion.config import ModelConfig
from fusion.interface import StepInput, WorldState
from scenes.errors import DataError
from scenes.rigs import Rig

TOLERANCE = 1e-3


def step_input(inputs: dict[str, np.ndarray]) -> StepInput:
    """The same inputs for torch."""
    return StepInput(*(torch.from_numpy(inputs[plain_name(f.name)]) for f in fields(StepInput)))


def torch_outputs(graph: StepGraph, step: StepInput, state: WorldState) -> tuple[dict[str, np.ndarray], WorldState]:
    """One step in torch with the graph's output names."""
    answers, next_state = graph.named(step, state)
    names = [f"next_{plain_name(name)}" for name in next_state.tensors()]
    named = answers | dict(zip(names, narrow_state(next_state), strict=True))
    return {name: tensor.numpy() for name, tensor in named.items()}, next_state


class SideBySide:
    """torch and some networks on one drive, each with its own carried state; a comparison a network."""

    def __init__(self, graph: StepGraph, networks: Sequence[OnnxNetwork | SplitNetwork], comparisons: Sequence[Comparison]) -> None:
        self.graph, self.networks, self.comparisons = graph, networks, comparisons
        self.torch_state: WorldState = graph.model.empty_state(1, "cpu")  # type: ignore[operator]
        self.states = [network.empty_state() for network in networks]

    def step(self, inputs: dict[str, np.ndarray]) -> None:
        """The next step of the drive for everybody."""
        reference, self.torch_state = torch_outputs(self.graph, step_input(inputs), self.torch_state)
        for index, (network, comparison) in enumerate(zip(self.networks, self.comparisons, strict=True)):
            answers, self.states[index] = network(inputs, self.states[index])
            memory = {s.output: self.states[index][s.input].numpy() for s in network.manifest.state}
            comparison.add(reference, {**answers, **memory})

    def memory(self) -> tuple[WorldState, list[dict[str, np.ndarray]]]:
        """What everybody remembers, bit by bit."""
        return self.torch_state, [{name: value.numpy() for name, value in state.items()} for state in self.states]

    def remember(self, memory: tuple[WorldState, list[dict[str, np.ndarray]]]) -> None:
        """Goes on from what `memory` gave, as if there had been no break."""
        self.torch_state = memory[0]
        self.states = [network.state_of(arrays) for network, arrays in zip(self.networks, memory[1], strict=True)]


def compare_drive(
    graph: StepGraph,
    networks: Sequence[OnnxNetwork | SplitNetwork],
    comparisons: Sequence[Comparison],
    drive: Iterable[dict[str, np.ndarray]],
    name: str = "",
) -> None:
    """Streams one drive through torch and through every network."""
    together = SideBySide(graph, networks, comparisons)
    for comparison in comparisons:
        comparison.new_drive(name)
    for inputs in drive:
        together.step(inputs)


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
        compare_drive(graph, [network], [comparison], drive, f"{len(rig)} cameras, {fisheyes} fisheye")
    return comparison.found


def require(found: Verification, path: Path, tolerance: float = TOLERANCE, integer_tolerance: float = TOLERANCE) -> None:
    """Refuses a file that does not compute what the network computes with `DataError`."""
    if found.max_error > tolerance or found.mismatch_share > integer_tolerance:
        worst = found.to_json()
        raise DataError(
            f"{path}: onnxruntime differs from torch by {found.max_error:.3g} (relative, in {worst['worst_tensor']!r}; allowed "
            f"{tolerance:g}) and in {found.mismatch_share:.3g} of the integers; the file was not kept, try --sampler gather"
        )
