"""How does a car drive with a graph, its cameras firing whenever they like? `LiveRunner`: pictures and poses in, steps out.

numpy and onnxruntime alone. Nothing that a camera does stops it: what cannot be used is counted and dropped (`export.feed`), a step that
cannot be computed is skipped, and the state stays that of the last good one (`export.runner`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from export.feed import ResizePlan, StepFeed, StepPacker, resize_and_crop
from export.runner import OnnxNetwork, SplitNetwork, StepResult, StreamRunner
from scenes.cameras import Camera
from scenes.errors import DataError


@dataclass
class LiveStep:
    """One step of the drive."""

    result: StepResult
    notes: list[str]
    """A sentence for every camera that was not alive in it."""
    preprocess_s: float
    """Seconds for resizing and packing its pictures."""


class LiveRunner:
    """Feed, packer and runner in one: push what arrives, poll after each push and whenever a deadline may have passed."""

    def __init__(
        self,
        network: OnnxNetwork | SplitNetwork,
        cameras: Sequence[Camera],
        period_s: float,
        deadline_s: float,
        resize: Callable[[np.ndarray, ResizePlan, int], np.ndarray] = resize_and_crop,
    ) -> None:
        manifest = network.manifest
        self.packer = StepPacker(cameras, manifest.input_hw, manifest.num_cameras, resize)
        self.runner = StreamRunner(network)
        self.feed = StepFeed(tuple(camera.name for camera in cameras), period_s, deadline_s, manifest.thresholds["max_gap_s"])
        self.last_refusal = ""
        """Why the last step that could not be computed was skipped."""

    def push_pose(self, timestamp_ns: int, world_from_ego: np.ndarray) -> None:
        """See `StepFeed.push_pose`."""
        self.feed.push_pose(timestamp_ns, world_from_ego)

    def push_image(self, camera: str, timestamp_ns: int, image: np.ndarray | None) -> None:
        """A picture (H, W, 3) uint8 RGB taken at `timestamp_ns`; kept, not copied, until its step. See `StepFeed.push`."""
        self.feed.push(camera, timestamp_ns, image)

    def poll(self, now_ns: int) -> LiveStep | None:
        """The next step if it is complete or due at `now_ns`, computed; None where there is none, or where it had to be skipped."""
        ready = self.feed.poll(now_ns)
        if ready is None:
            return None
        if ready.clock_jumped:
            self.runner.reset()
        start = time.perf_counter()
        inputs, notes = self.packer.pack(ready.reference_ns, ready.pictures, ready.world_from_ego)
        preprocess_s = time.perf_counter() - start
        try:
            return LiveStep(self.runner.step(ready.reference_ns, inputs, ready.world_from_ego), notes, preprocess_s)
        except DataError as error:
            self.last_refusal = str(error)
            return None

    def counters(self) -> dict[str, int]:
        """What was accepted, dropped, refused and reset so far, by name."""
        told = {**vars(self.feed.counters), **vars(self.runner.counters)}
        return {name: value for name, value in told.items() if isinstance(value, int)}
