"""Does the file compute what the network computes? Both stream the same steps over several rigs, each carrying its own state.

Relative error of a tensor: the largest absolute difference over the largest absolute value of torch's tensor (box columns each for
themselves). Two rows whose scores agree to the last bits may swap places between two implementations of TopK without either being
wrong, so rows of detections and memory slots are paired by content before they are compared, integers (class, id, voxel state) are
compared within the pairs, and ids up to renaming that lasts for the whole drive; how often the order differed is reported.

Where the network itself has no answer, none can be compared: in a flat heatmap the hundredth peak is chosen by the last bits. A step
that differs is therefore asked again in torch with its calibration moved by 1e-5; if torch moves as far as onnxruntime, the step is
decided by ties: only its dense answers are held to the tolerance, and both sides go on from torch's state. Such steps are counted and
told; in a network that has learned they are rare, and a file with more than `MAX_TIED_SHARE` of them is refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

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
MAX_TIED_SHARE = 0.25
"""With more steps than this decided by ties, too little was compared for a file to be called verified."""


def step_input(inputs: dict[str, np.ndarray]) -> StepInput:
    """The same inputs for torch."""
    return StepInput(*(torch.from_numpy(inputs[plain_name(f.name)]) for f in fields(StepInput)))


@dataclass
class Verification:
    """What a comparison found."""

    error_by_step: list[float] = field(default_factory=list)
    """Largest relative error of any tensor, one entry a step, rigs one after the other."""
    dense_by_step: list[float] = field(default_factory=list)
    """The same of the outputs that no selection touches (voxels, flow, dense memory): where a drift would show."""
    error_by_tensor: dict[str, float] = field(default_factory=dict)
    integer_mismatches: int = 0
    """Classes, ids and voxel states that differ within paired rows."""
    integers_compared: int = 0
    tied_steps: int = 0
    """Steps decided by ties within torch itself; only their dense answers were compared."""
    reordered_steps: int = 0
    """Steps in which rows of equal score stood in another order."""
    rigs: list[str] = field(default_factory=list)

    @property
    def max_error(self) -> float:
        """The largest relative error; infinite if any number was not finite."""
        return max(self.error_by_step, default=0.0)

    @property
    def mismatch_share(self) -> float:
        """Share of integers that differ."""
        return self.integer_mismatches / max(self.integers_compared, 1)

    def to_json(self) -> dict:
        """For the manifest."""
        worst = max(self.error_by_tensor, key=lambda name: self.error_by_tensor[name], default="")
        return {
            "against": "torch",
            "steps": len(self.error_by_step),
            "rigs": self.rigs,
            "max_relative_error": float(f"{self.max_error:.3g}"),
            "worst_tensor": worst,
            "integer_mismatch_share": float(f"{self.mismatch_share:.3g}"),
            "reordered_steps": self.reordered_steps,
            "tied_steps": self.tied_steps,
        }


ROW_GROUPS = (
    ("boxes", ("boxes", "scores", "velocities"), ("classes", "ids")),
    ("next_box", ("next_box", "next_score", "next_query", "next_age"), ("next_id",)),
)
"""Tensors whose rows belong together: key that pairs them, numbers, integers."""
DENSE_OUTPUTS = ("occupancy", "occupancy_confidence", "flow", "next_bev", "next_bev_age", "next_valid")
BOX_TENSORS = ("boxes", "next_box")
ID_TENSORS = ("ids", "next_id")


class Comparison:
    """Compares the outputs of two implementations step by step."""

    def __init__(self) -> None:
        self.found = Verification()
        self._renamed: dict[int, int] = {}

    def new_drive(self, rig: str = "") -> None:
        """Ids begin anew."""
        self.found.rigs.append(rig)
        self._renamed = {}

    def add(self, reference: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
        """Takes in one step's outputs by name; returns its largest relative error."""
        aligned, reordered = align_rows(reference, other)
        worst = dense = 0.0
        for name, want in reference.items():
            got = aligned[name]
            if want.dtype.kind in "iu":
                self.found.integers_compared += want.size
                self.found.integer_mismatches += self._id_mismatches(want, got) if name in ID_TENSORS else int((want != got).sum())
                continue
            error = relative_error(want, got, name in BOX_TENSORS)
            worst = max(worst, error)
            dense = max(dense, error) if name in DENSE_OUTPUTS else dense
            self.found.error_by_tensor[name] = max(error, self.found.error_by_tensor.get(name, 0.0))
        self.found.reordered_steps += reordered
        self.found.error_by_step.append(worst)
        self.found.dense_by_step.append(dense)
        return worst

    def _id_mismatches(self, want: np.ndarray, got: np.ndarray) -> int:
        """Ids of objects born in the same step may be swapped; from then on the other name must be kept."""
        wrong = 0
        for ours, theirs in zip(want.reshape(-1).tolist(), got.reshape(-1).tolist(), strict=True):
            wrong += (ours < 0) != (theirs < 0) or (ours >= 0 and self._renamed.setdefault(theirs, ours) != ours)
        return wrong


def step_error(reference: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Largest relative error of the floating tensors of one step, rows paired."""
    aligned, _ = align_rows(reference, other)
    floating = [name for name, want in reference.items() if want.dtype.kind == "f"]
    return max(relative_error(reference[name], aligned[name], name in BOX_TENSORS) for name in floating)


def dense_only(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs that no selection touches."""
    return {name: value for name, value in outputs.items() if name in DENSE_OUTPUTS}


def is_tied(graph: StepGraph, inputs: dict[str, np.ndarray], state: WorldState, reference: dict[str, np.ndarray], error: float) -> bool:
    """Does torch itself differ from `reference` by a comparable error when the calibration is nudged?"""
    for sign in (1.0, -1.0):
        nudged = {**inputs, "intrinsics": inputs["intrinsics"] * np.float32(1 + sign * NUDGE)}
        if step_error(reference, torch_outputs(graph, step_input(nudged), state)[0]) > 0.1 * error:
            return True
    return False


def relative_error(want: np.ndarray, got: np.ndarray, by_column: bool = False) -> float:
    """Largest absolute difference over the largest absolute value (per last-axis column if asked); infinite for NaN."""
    want, got = want.astype(np.float64), got.astype(np.float64)
    if not np.isfinite(got).all() or not np.isfinite(want).all():
        return float("inf")
    if want.size == 0:
        return 0.0
    axes = tuple(range(want.ndim - 1)) if by_column else None
    difference = np.abs(want - got)
    if by_column:  # the yaw of column 6 is a circle
        turn = difference[..., 6]
        difference[..., 6] = np.minimum(turn, np.abs(2 * np.pi - turn))
    scale = np.maximum(np.abs(want).max(axis=axes), 1e-3)
    return float((difference.max(axis=axes) / scale).max())


def align_rows(reference: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], bool]:
    """`other` with the rows of every group in the order of `reference` where the two differ only in order."""
    aligned, reordered = dict(other), False
    for key, numbers, integers in ROW_GROUPS:
        if key not in reference or np.allclose(reference[key], other[key], rtol=1e-3, atol=1e-3):
            continue
        features = [np.concatenate([side[n][0].reshape(side[n].shape[1], -1) for n in numbers[:2]], axis=1) for side in (reference, other)]
        distance = np.abs(features[0][:, None] - features[1][None]).max(axis=-1)
        rows, columns = linear_sum_assignment(np.nan_to_num(distance, nan=1e9, posinf=1e9))
        order = columns[np.argsort(rows)]
        for name in {*numbers, *integers} & set(other):
            aligned[name] = other[name][:, order]
        reordered |= bool((order != np.arange(len(order))).any())
    return aligned, reordered


def torch_outputs(graph: StepGraph, step: StepInput, state: WorldState) -> tuple[dict[str, np.ndarray], WorldState]:
    """One step in torch with the graph's output names."""
    answers, next_state = graph.named(step, state)
    names = [f"next_{plain_name(name)}" for name in next_state.tensors()]
    named = answers | dict(zip(names, narrow_state(next_state), strict=True))
    return {name: tensor.numpy() for name, tensor in named.items()}, next_state


def compare_drive(
    graph: StepGraph,
    networks: Sequence[OnnxNetwork | SplitNetwork],
    comparisons: Sequence[Comparison],
    drive: Iterable[dict[str, np.ndarray]],
    name: str = "",
) -> None:
    """Streams one drive through torch and through every network, each with its own carried state; a comparison a network."""
    torch_state: WorldState = graph.model.empty_state(1, "cpu")  # type: ignore[operator]
    states = [network.empty_state() for network in networks]
    for comparison in comparisons:
        comparison.new_drive(name)
    for inputs in drive:
        reference, next_state = torch_outputs(graph, step_input(inputs), torch_state)
        for index, (network, comparison) in enumerate(zip(networks, comparisons, strict=True)):
            answers, states[index] = network(inputs, states[index])
            pairs = network.manifest.state
            got = {**answers, **{s.output: states[index][s.input].numpy() for s in pairs}}
            error = step_error(reference, got)
            if error > TOLERANCE and is_tied(graph, inputs, torch_state, reference, error):
                comparison.found.tied_steps += 1
                comparison.add(dense_only(reference), dense_only(got))
                states[index] = network.state_of({s.input: reference[s.output] for s in pairs})
            else:
                comparison.add(reference, got)
        torch_state = next_state


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
    """Refuses a file that does not compute what the network computes, or of which too little could be compared, with `DataError`."""
    if found.max_error > tolerance or found.mismatch_share > integer_tolerance:
        worst = found.to_json()
        raise DataError(
            f"{path}: onnxruntime differs from torch by {found.max_error:.3g} (relative, in {worst['worst_tensor']!r}; allowed "
            f"{tolerance:g}) and in {found.mismatch_share:.3g} of the integers; the file was not kept, try --sampler gather"
        )
    steps = len(found.error_by_step)
    if found.tied_steps > MAX_TIED_SHARE * steps:
        raise DataError(
            f"{path}: {found.tied_steps} of {steps} steps are decided by ties within the network (torch itself chooses other objects "
            f"when its calibration moves by {NUDGE:g}), at most {MAX_TIED_SHARE:.0%} may be; the file was not kept: train the network "
            "further, or export with --steps 20 or more"
        )
