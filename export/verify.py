"""Does the file compute what the network computes? Both stream the same steps over several rigs, each carrying its own state.

Relative error of a tensor: the largest absolute difference over the largest absolute value of torch's tensor (box columns each for
themselves). Two rows whose scores agree to the last bits may swap places between two implementations of TopK without either being
wrong, so rows of detections and memory slots are paired by content before they are compared, integers (class, id, voxel state) are
compared within the pairs, and ids up to renaming that lasts for the whole drive; how often the order differed is reported.

Where the network itself has no answer, none can be compared: in a flat heatmap the hundredth peak is chosen by the last bits. A step
that differs is therefore asked again in torch with its calibration moved by 1e-5; if torch moves as far as onnxruntime, the step is
decided by ties: only its dense answers are held to the tolerance, and both sides go on from torch's state. Such steps are counted and
told; in a network that has learned they are rare.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from export.feed import Picture, StepPacker
from export.onnx_graph import StepGraph, narrow_state, plain_name
from export.runner import OnnxNetwork, SplitNetwork
from fusion.config import ModelConfig
from fusion.interface import StepInput, WorldState
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, Trajectory, invert_rigid, rigid_from_parts, rotation_from_yaw
from scenes.rigs import Rig, default_rig, ego_from_cam_looking, fisheye_camera, pinhole_camera

TOLERANCE = 1e-3
NUDGE = 1e-5
"""Relative change of the calibration, about what summing in another order does to the features."""


def five_camera_rig(height_px: int, width_px: int) -> Rig:
    """A small car: front fisheye, four pinholes at the corners of the roof."""
    size = (width_px, height_px)
    corners = {"front": 0, "left": 80, "rear": 180, "right": -80}
    pinholes = [
        pinhole_camera(name, np.deg2rad(90), *size, ego_from_cam_looking((1.0, 0.0, 1.6), np.deg2rad(yaw), 0.03), (-0.1, 0.02))
        for name, yaw in corners.items()
    ]
    wide = fisheye_camera("wide", np.deg2rad(170), *size, ego_from_cam_looking((2.0, 0.0, 1.0), 0.0, 0.15), (0.02, -0.004, 0.001))
    return Rig((wide, *pinholes))


def six_camera_rig(height_px: int, width_px: int) -> Rig:
    """Six pinholes all around, at the yaw angles of nuScenes."""
    size = (width_px, height_px)
    yaws = {"front": (0, 70), "front_left": (55, 70), "front_right": (-55, 70), "back": (180, 110), "back_left": (110, 70)}
    yaws["back_right"] = (-110, 70)
    return Rig(
        tuple(
            pinhole_camera(name, np.deg2rad(fov), *size, ego_from_cam_looking((1.0, 0.0, 1.5), np.deg2rad(yaw)))
            for name, (yaw, fov) in yaws.items()
        )
    )


def verification_rigs(input_hw: tuple[int, int], num_cameras: int | None = None) -> list[Rig]:
    """Rigs of 5, 6 and 8 cameras at network size (5 and 8 with a fisheye); those that fit a graph with a fixed number."""
    rigs = [five_camera_rig(*input_hw), six_camera_rig(*input_hw), default_rig(*input_hw)]
    if num_cameras is None:
        return rigs
    return [Rig(rig.cameras[:num_cameras]) for rig in rigs]


def synthetic_pictures(rig: Rig, seed: int) -> dict[str, np.ndarray]:
    """Random blotches of several sizes with noise: pictures that excite every filter."""
    generator = np.random.default_rng(seed)
    pictures = {}
    for camera in rig.cameras:
        height, width = camera.height_px, camera.width_px
        picture = generator.normal(0, 12, (height, width, 3))
        for cell in (4, 16, 48):
            rows, columns = -(-height // cell), -(-width // cell)
            coarse = generator.normal(0, 35, (rows, columns, 3))
            picture += np.kron(coarse, np.ones((cell, cell, 1)))[:height, :width]
        pictures[camera.name] = np.clip(picture + 110, 0, 255).astype(np.uint8)
    return pictures


def synthetic_steps(
    rig: Rig, config: ModelConfig, steps: int, seed: int = 0, num_rows: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Graph inputs of a drive at 8 m/s in a curve; cameras fire within 30 ms, the second is dead in every fourth step."""
    generator = np.random.default_rng(seed)
    seconds = np.arange(steps * 5 + 6) * 0.1
    heading = 0.1 * np.sin(seconds) + 0.05 * seconds
    path = np.stack([8 * seconds, 0.4 * seconds**1.5, 0.1 * np.sin(seconds)], axis=1)
    trajectory = Trajectory((seconds * NS_PER_S).astype(np.int64), rigid_from_parts(rotation_from_yaw(heading), path))
    packer = StepPacker(rig.cameras, config.input_hw, num_rows)
    references_ns = [round((0.2 + 0.5 * index) * NS_PER_S) for index in range(steps)]
    for index, reference_ns in enumerate(references_ns):
        pictures = {}
        for row, (name, image) in enumerate(synthetic_pictures(rig, seed * 1000 + index).items()):
            stamp = reference_ns + int(generator.integers(-30, 31)) * 1_000_000
            dead = index % 4 == 3 and row == 1
            pictures[name] = Picture(stamp, None if dead else image, trajectory.at(stamp))
        world_from_ego = trajectory.at(reference_ns)
        inputs, _ = packer.pack(reference_ns, pictures, world_from_ego)
        prev_from_world = invert_rigid(trajectory.at(references_ns[max(index - 1, 0)]))
        prev_from_ego = prev_from_world @ world_from_ego
        inputs["dt"] = np.array([0.5 if index else 0.0], dtype=np.float32)
        inputs["prev_from_ego"] = prev_from_ego[None].astype(np.float32)
        yield inputs


def step_input(inputs: dict[str, np.ndarray]) -> StepInput:
    """The same inputs for torch."""
    return StepInput(*(torch.from_numpy(inputs[plain_name(f.name)]) for f in fields(StepInput)))


@dataclass
class Verification:
    """What a comparison found."""

    error_by_step: list[float] = field(default_factory=list)
    """Largest relative error of any tensor, one entry a step, rigs one after the other."""
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
        worst = 0.0
        for name, want in reference.items():
            got = aligned[name]
            if want.dtype.kind in "iu":
                self.found.integers_compared += want.size
                self.found.integer_mismatches += self._id_mismatches(want, got) if name in ID_TENSORS else int((want != got).sum())
                continue
            error = relative_error(want, got, name in BOX_TENSORS)
            worst = max(worst, error)
            self.found.error_by_tensor[name] = max(error, self.found.error_by_tensor.get(name, 0.0))
        self.found.reordered_steps += reordered
        self.found.error_by_step.append(worst)
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


def is_tied(graph: "StepGraph", inputs: dict[str, np.ndarray], state: WorldState, reference: dict[str, np.ndarray], error: float) -> bool:
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


def verify(
    path: Path,
    model: nn.Module,
    config: ModelConfig,
    rigs: list[Rig] | None = None,
    steps: int = 5,
    seed: int = 0,
    network: OnnxNetwork | SplitNetwork | None = None,
) -> Verification:
    """Streams `steps` synthetic steps of every rig through torch and through the file, each with its own carried state."""
    network = network or OnnxNetwork(path)
    graph = StepGraph(model).eval()
    rigs = rigs or verification_rigs(config.input_hw, network.manifest.num_cameras)
    comparison = Comparison()
    for number, rig in enumerate(rigs):
        fisheyes = sum(camera.lens.value == "fisheye" for camera in rig.cameras)
        comparison.new_drive(f"{len(rig)} cameras, {fisheyes} fisheye")
        torch_state, onnx_state = model.empty_state(1, "cpu"), network.empty_state()  # type: ignore[operator]
        for inputs in synthetic_steps(rig, config, steps, seed + number, network.manifest.num_cameras):
            reference, next_state = torch_outputs(graph, step_input(inputs), torch_state)
            answers, onnx_state = network(inputs, onnx_state)
            got = {**answers, **{s.output: onnx_state[s.input].numpy() for s in network.manifest.state}}
            error = step_error(reference, got)
            if error > TOLERANCE and is_tied(graph, inputs, torch_state, reference, error):
                comparison.found.tied_steps += 1
                comparison.add(dense_only(reference), dense_only(got))
                onnx_state = network.state_of({s.input: reference[s.output] for s in network.manifest.state})
            else:
                comparison.add(reference, got)
            torch_state = next_state
    return comparison.found


def require(found: Verification, path: Path, tolerance: float = TOLERANCE, integer_tolerance: float = TOLERANCE) -> None:
    """Refuses a file that does not compute what the network computes, with `DataError`."""
    if found.max_error > tolerance or found.mismatch_share > integer_tolerance:
        worst = found.to_json()
        raise DataError(
            f"{path}: onnxruntime differs from torch by {found.max_error:.3g} (relative, in {worst['worst_tensor']!r}; allowed "
            f"{tolerance:g}) and in {found.mismatch_share:.3g} of the integers; the file was not kept, try --sampler gather"
        )
