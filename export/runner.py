"""How does a car run an exported graph? numpy and onnxruntime alone: no torch, no OpenCV, no onnx.

`OnnxNetwork` (from `export.session`) is the graph tensor for tensor with explicit state; `StreamRunner` keeps the state over a drive,
resets it when the drive changes or the clock jumps, and lets no broken input poison it. `export.feed` assembles its steps from cameras
that fire whenever they like, and `export.live` is all three in one.
"""

import time
from dataclasses import dataclass, field

import numpy as np
import onnxruntime

from export.session import OnnxNetwork, SplitNetwork, available_providers, initial_state, open_session
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, invert_rigid

__all__ = ["OnnxNetwork", "SplitNetwork", "StepResult", "StreamCounters", "StreamRunner"]
__all__ += ["available_providers", "initial_state", "open_session"]


@dataclass
class StepResult:
    """What one step found, in the ego frame at `reference_ns`; only boxes that reach the manifest's score threshold."""

    reference_ns: int
    box_ego: np.ndarray
    """(M, 9) float32, columns x, y, z, length, width, height (m), yaw (rad), vx, vy (m/s)."""
    score: np.ndarray
    class_id: np.ndarray
    track_id: np.ndarray
    raw: dict[str, np.ndarray]
    """Every output of the graph by name."""
    network_s: float
    readout_s: float
    reset: str
    """Why the state was emptied before this step, or ""."""


@dataclass
class StreamCounters:
    """What went wrong on the way, counted."""

    steps: int = 0
    resets: int = 0
    refused_steps: int = 0
    poisoned_states: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str) -> None:
        """One more of `reason`."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


class StreamRunner:
    """Runs a graph over a drive: keeps the state, resets it on a change of drive or a jump of the clock."""

    def __init__(self, network: OnnxNetwork | SplitNetwork, score_threshold: float | None = None, max_gap_s: float | None = None) -> None:
        thresholds = network.manifest.thresholds
        self.network = network
        self.score_threshold = thresholds["score"] if score_threshold is None else score_threshold
        self.max_gap_s = thresholds["max_gap_s"] if max_gap_s is None else max_gap_s
        self.counters = StreamCounters()
        self._state = network.empty_state()
        self._clip: str | None = None
        self._last_ns: int | None = None
        self._world_from_ego_at_last: np.ndarray | None = None

    def reset(self) -> None:
        """Forgets everything: the next step starts a drive."""
        self._state = self.network.empty_state()
        self._last_ns = self._world_from_ego_at_last = None

    def step(self, reference_ns: int, inputs: dict[str, np.ndarray], world_from_ego: np.ndarray, clip: str = "") -> StepResult:
        """One step at `reference_ns`.

        Args:
            inputs: the graph's step inputs without `dt` and `prev_from_ego`, which are made here from clock and poses.
            world_from_ego: (4, 4) at the reference time.
            clip: name of the drive; another name than at the step before resets the state.

        Raises:
            DataError: wrong shapes or an impossible pose; the state is as before the call.
        """
        world_from_ego = np.asarray(world_from_ego)
        if world_from_ego.shape != (4, 4) or not np.isfinite(world_from_ego).all():
            self.counters.refused_steps += 1
            raise DataError(
                f"step at {reference_ns} ns: expected a finite 4x4 world_from_ego, got {world_from_ego.tolist()}; skip the step"
            )
        for name in ("cam_from_ego", "time_offset", "intrinsics", "distortion", "lens", "max_angle", "alive"):
            if name in inputs and not np.isfinite(inputs[name]).all():
                self.counters.refused_steps += 1
                raise DataError(f"step at {reference_ns} ns: {name} holds NaN or infinity; mark the camera as not alive with zeros instead")
        reset = self._reset_reason(reference_ns, clip)
        if reset:
            self.reset()
            self.counters.resets += self._clip is not None
            self.counters.count(reset)
        dt_s, prev_from_ego = 0.0, np.eye(4)
        if self._last_ns is not None and self._world_from_ego_at_last is not None:
            dt_s = (reference_ns - self._last_ns) / NS_PER_S
            prev_from_world = invert_rigid(self._world_from_ego_at_last)
            prev_from_ego = prev_from_world @ world_from_ego
        full = {**inputs, "dt": np.array([dt_s], np.float32), "prev_from_ego": prev_from_ego[None].astype(np.float32)}
        start = time.perf_counter()
        raw, next_state = self.network(full, self._state)
        network_s = time.perf_counter() - start
        self._clip, self._last_ns, self._world_from_ego_at_last = clip, reference_ns, np.array(world_from_ego, dtype=np.float64)
        self.counters.steps += 1
        self._adopt(next_state, raw)
        return self._read_out(reference_ns, raw, network_s, reset)

    def _reset_reason(self, reference_ns: int, clip: str) -> str:
        if self._last_ns is None:
            return "first step"
        if clip != self._clip:
            return "another clip"
        gap_s = (reference_ns - self._last_ns) / NS_PER_S
        if gap_s <= 0:
            return "the clock stood still or ran backwards"
        return f"a gap longer than {self.max_gap_s:g} s" if gap_s > self.max_gap_s else ""

    def _adopt(self, next_state: dict[str, onnxruntime.OrtValue], raw: dict[str, np.ndarray]) -> None:
        """Keeps the new state only if it is finite: a poisoned memory would never recover."""
        finite = np.isfinite(raw["scores"]).all() and all(_is_finite(value) for value in next_state.values())
        self._state = next_state if finite else self.network.empty_state()
        self.counters.poisoned_states += not finite

    def _read_out(self, reference_ns: int, raw: dict[str, np.ndarray], network_s: float, reset: str) -> StepResult:
        start = time.perf_counter()
        score = raw["scores"][0]
        keep = np.isfinite(score) & (score >= self.score_threshold) & np.isfinite(raw["boxes"][0]).all(axis=1)
        found = {name: raw[name][0][keep] for name in ("boxes", "scores", "classes", "ids")}
        return StepResult(
            reference_ns,
            found["boxes"],
            found["scores"],
            found["classes"],
            found["ids"],
            raw,
            network_s,
            time.perf_counter() - start,
            reset,
        )


def _is_finite(value: onnxruntime.OrtValue) -> bool:
    array = value.numpy()
    return array.dtype.kind != "f" or bool(np.isfinite(np.sum(array, dtype=np.float64)))
