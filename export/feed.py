"""How do pictures that arrive camera by camera, late, twice or broken become the network's steps? numpy alone.

A step stands at a reference time; every camera gives it the picture taken nearest to that time. The feed never waits longer than
its deadline: a camera that has not delivered by then is not alive in that step, and its late picture is dropped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from export.manifest import MIN_DYNAMIC_CAMERAS
from export.poses import EgoPoses
from scenes.cameras import Camera, camera_arrays, network_camera
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, invert_rigid

ResizePlan = tuple[int, int, int, int]
"""Resized width, resized height, left, top: see `scenes.cameras.network_camera`."""


Bands = tuple[tuple[int, np.ndarray], ...]
"""For each target pixel of an axis: the first source pixel that it reads, and float32 weights from there on."""


@lru_cache(maxsize=64)
def _bands(source: int, target: int, area: bool) -> Bands:
    """Averages over what a target pixel covers (cv2.INTER_AREA), or bilinear with half-pixel centres (cv2.INTER_LINEAR)."""
    pixels = np.arange(source)[None]
    if area:
        edges = np.arange(target + 1) * (source / target)
        left, right = edges[:-1, None], edges[1:, None]
        weights = np.clip(np.minimum(right, pixels + 1) - np.maximum(left, pixels), 0, None)
        weights /= weights.sum(axis=1, keepdims=True)
    else:
        centre = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
        weights = np.clip(1 - np.abs(centre[:, None] - pixels), 0, None)
    bands = []
    for row in weights.astype(np.float32):
        used = np.flatnonzero(row > 1e-6)
        bands.append((int(used[0]), row[used[0] : used[-1] + 1]))
    return tuple(bands)


def _resample(values: np.ndarray, bands: Bands, first_row: int = 0) -> np.ndarray:
    """(target, K) float32 from (source, K) float32; row 0 of `values` is source pixel `first_row`."""
    result = np.empty((len(bands), values.shape[1]), dtype=np.float32)
    for row, (start, weights) in enumerate(bands):
        result[row] = weights @ values[start - first_row : start - first_row + len(weights)]
    return result


def resize_and_crop(image: np.ndarray, plan: ResizePlan, height_px: int) -> np.ndarray:
    """(height_px, W, 3) uint8 by the plan: the numpy twin of `scenes.packing.resize_and_crop`, within one grey level of it."""
    width, resized_height, _, top = plan
    if image.shape[:2] != (resized_height, width):
        area = image.shape[1] >= width
        rows = _bands(image.shape[0], resized_height, area)[max(top, 0) : max(top, 0) + height_px]
        first, last = rows[0][0], rows[-1][0] + len(rows[-1][1])  # rows that would be cut off are not even read
        shrunk = _resample(image[first:last].reshape(last - first, -1).astype(np.float32), rows, first)  # (h, source W * 3)
        across = np.ascontiguousarray(shrunk.reshape(len(rows), -1, 3).transpose(1, 0, 2)).reshape(image.shape[1], -1)
        shrunk = _resample(across, _bands(image.shape[1], width, area)).reshape(width, len(rows), 3).transpose(1, 0, 2)
        image = np.clip(np.rint(shrunk), 0, 255).astype(np.uint8)
    elif top > 0:
        image = image[top : top + height_px]
    if top >= 0:
        return image
    return np.concatenate([np.zeros((-top, *image.shape[1:]), dtype=image.dtype), image])


@dataclass(frozen=True)
class Picture:
    """One camera's delivery."""

    timestamp_ns: int
    """Capture time."""
    image: np.ndarray | None
    """(H, W, 3) uint8 RGB at the camera's own size; None: no picture."""
    world_from_ego_at_cam: np.ndarray
    """(4, 4) at the capture time."""


class StepPacker:
    """Makes the graph's inputs of one step from pictures and calibration; a broken picture only kills its own camera."""

    def __init__(
        self,
        cameras: Sequence[Camera],
        input_hw: tuple[int, int],
        num_cameras: int | None = None,
        resize: Callable[[np.ndarray, ResizePlan, int], np.ndarray] = resize_and_crop,
    ) -> None:
        if num_cameras is not None and len(cameras) > num_cameras:
            raise DataError(f"rig: {len(cameras)} cameras, the graph takes {num_cameras}; leave some out or export with dynamic cameras")
        self.cameras = tuple(cameras)
        self.input_hw = input_hw
        self.num_rows = num_cameras or max(len(cameras), MIN_DYNAMIC_CAMERAS)  # surplus rows are never alive
        self._resize = resize
        prepared = [network_camera(camera, *input_hw) for camera in cameras]
        self._plans = {camera.name: plan for camera, (_, plan) in zip(cameras, prepared, strict=True)}
        padded = [camera for camera, _ in prepared] + [prepared[0][0]] * (self.num_rows - len(cameras))
        arrays = camera_arrays(padded)
        self._calibration = {
            "intrinsics": arrays["intrinsics_N4"][None],
            "distortion": arrays["distortion_N5"][None],
            "lens": arrays["lens_N"][None],
            "max_angle": arrays["max_angle_N"][None],
        }

    def pack(
        self, reference_ns: int, pictures: Mapping[str, Picture], world_from_ego: np.ndarray
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        """The inputs of a step (without `dt` and `prev_from_ego`), and a sentence for every camera that is not alive in it."""
        images = np.zeros((1, self.num_rows, *self.input_hw, 3), dtype=np.uint8)
        alive = np.zeros((1, self.num_rows), dtype=np.float32)
        offset = np.zeros((1, self.num_rows), dtype=np.float32)
        cam_from_ego = np.tile(np.eye(4, dtype=np.float32), (1, self.num_rows, 1, 1))
        notes = []
        for row, camera in enumerate(self.cameras):
            cam_from_ego[0, row] = camera.cam_from_ego
            picture = pictures.get(camera.name)
            problem = self._problem(camera, picture)
            if problem or picture is None or picture.image is None:
                notes.append(f"camera {camera.name!r}: {problem}")
                continue
            cam_from_ego[0, row] = camera.cam_from_ego @ invert_rigid(picture.world_from_ego_at_cam) @ world_from_ego
            offset[0, row] = (picture.timestamp_ns - reference_ns) / NS_PER_S
            images[0, row] = self._resize(picture.image, self._plans[camera.name], self.input_hw[0])
            alive[0, row] = 1.0
        step = {"images": images, "cam_from_ego": cam_from_ego, "alive": alive, "time_offset": offset, **self._calibration}
        return step, notes

    @staticmethod
    def _problem(camera: Camera, picture: Picture | None) -> str:
        if picture is None or picture.image is None:
            return "no picture"
        image, pose = np.asarray(picture.image), np.asarray(picture.world_from_ego_at_cam)
        if image.dtype != np.uint8:
            return f"expected uint8 pixels, got {image.dtype}"
        if image.shape != (camera.height_px, camera.width_px, 3):
            return f"expected {(camera.height_px, camera.width_px, 3)} pixels, got {image.shape}"
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            return "its ego pose is not finite"
        return ""


@dataclass
class ReadyStep:
    """A step that is complete, or whose deadline has passed."""

    reference_ns: int
    pictures: dict[str, Picture]
    world_from_ego: np.ndarray
    clock_jumped: bool


@dataclass
class FeedCounters:
    """What the feed threw away."""

    accepted: int = 0
    late: int = 0
    stray: int = 0
    replaced: int = 0
    unknown_camera: int = 0
    bad_pose: int = 0
    bad_stamp: int = 0
    incomplete_steps: int = 0
    steps_without_pose: int = 0
    """Steps that had pictures, but no ego pose within `StepFeed.max_gap_s` by their deadline."""


def _is_stamp(value) -> bool:
    """A time stamp is a whole number of nanoseconds; NaN, None and text are not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


@dataclass
class StepFeed:
    """Collects pictures as they arrive and hands out steps at a fixed rate.

    Reference times are `start + k * period`. `push` pictures and poses, `poll` with the current time after each: it returns a
    step as soon as every camera has delivered for it, or once `now` is `deadline_s` past its reference time.
    """

    camera_names: tuple[str, ...]
    period_s: float
    deadline_s: float
    max_gap_s: float = 2.0
    """Pictures of more than half of the cameras further than this from the step being assembled mean that the clock jumped:
    the feed starts anew there. A single camera with a broken clock is merely dropped. Ego poses further than this from a step say nothing
    about it: a step without a nearer one is left out."""
    counters: FeedCounters = field(default_factory=FeedCounters)
    _reference_ns: int | None = None
    _pending: dict[str, list[Picture]] = field(default_factory=dict)
    _jumped: bool = False
    _strayed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._ego = EgoPoses(self.max_gap_s)

    def push_pose(self, timestamp_ns: int, world_from_ego: np.ndarray) -> None:
        """An ego pose; what is no rigid transform or not newer than the last one is counted and dropped, see `EgoPoses.push`."""
        if not _is_stamp(timestamp_ns):
            self.counters.bad_stamp += 1
            return
        self.counters.bad_pose += not self._ego.push(timestamp_ns, world_from_ego)

    def push(self, camera: str, timestamp_ns: int, image: np.ndarray | None) -> None:
        """A picture of one camera, taken at `timestamp_ns`. Nothing is raised: what cannot be used is counted and dropped."""
        if camera not in self.camera_names:
            self.counters.unknown_camera += 1
            return
        if not _is_stamp(timestamp_ns):
            self.counters.bad_stamp += 1
            return
        if self._reference_ns is None:
            self._reference_ns = int(timestamp_ns)
        period_ns = self.period_s * NS_PER_S
        if abs(timestamp_ns - self._reference_ns) > self.max_gap_s * NS_PER_S + period_ns:
            self._strayed.add(camera)
            if 2 * len(self._strayed) <= len(self.camera_names):
                self.counters.stray += 1
                return
            self._reference_ns, self._pending, self._jumped = int(timestamp_ns), {}, True
        self._strayed.discard(camera)
        if timestamp_ns < self._reference_ns - period_ns / 2:
            self.counters.late += 1
            return
        self._pending.setdefault(camera, []).append(Picture(int(timestamp_ns), image, np.eye(4)))
        if len(self._pending[camera]) > 8:
            del self._pending[camera][0]
            self.counters.replaced += 1
        self.counters.accepted += 1

    def poll(self, now_ns: int) -> ReadyStep | None:
        """The next step if it is complete or due at `now_ns`.

        None if it is better to wait, if no pose is known yet, or if the step is due and has no picture or no pose near it.
        """
        if self._reference_ns is None or not len(self._ego):
            return None
        reference_ns, half_ns = self._reference_ns, self.period_s * NS_PER_S / 2
        chosen = {}
        for name in self.camera_names:
            near = [p for p in self._pending.get(name, []) if abs(p.timestamp_ns - reference_ns) <= half_ns]
            if near:
                chosen[name] = min(near, key=lambda p: abs(p.timestamp_ns - reference_ns))
        due = now_ns >= reference_ns + self.deadline_s * NS_PER_S
        if len(chosen) < len(self.camera_names) and not due:
            return None
        path = self._ego.around(reference_ns)
        if path is None and not due:
            return None
        self._advance(now_ns)
        if not chosen:
            return None
        if path is None:
            self.counters.steps_without_pose += 1
            return None
        self.counters.incomplete_steps += len(chosen) < len(self.camera_names)
        pictures = {n: Picture(p.timestamp_ns, p.image, path.at(p.timestamp_ns)) for n, p in chosen.items()}
        jumped, self._jumped = self._jumped, False
        return ReadyStep(reference_ns, pictures, path.at(reference_ns), jumped)

    def _advance(self, now_ns: int) -> None:
        """Moves on to the next reference time and forgets the pictures before it; skips what can no longer be met."""
        assert self._reference_ns is not None
        period_ns = round(self.period_s * NS_PER_S)
        self._reference_ns += period_ns
        overdue = now_ns - self._reference_ns - round(self.deadline_s * NS_PER_S)
        has_next = any(abs(p.timestamp_ns - self._reference_ns) <= period_ns / 2 for queue in self._pending.values() for p in queue)
        if overdue > 0 and not has_next:
            self._reference_ns += period_ns * (overdue // period_ns + 1)
        oldest = self._reference_ns - period_ns / 2
        self._pending = {name: [p for p in queue if p.timestamp_ns >= oldest] for name, queue in self._pending.items()}
