"""Which frames does training see, in which order? B streams walk through clips; every step is a function of (seed, step).

Nothing here has a state that must be saved: to resume at step 1234, ask for step 1234. The world state that the network
carries from step to step belongs to the trainer.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fusion.config import ModelConfig
from fusion.interface import StepInput
from perception.augmentation import (
    AugmentConfig,
    RigChange,
    SceneChange,
    change_geometry,
    change_pictures,
    draw_rig_change,
    draw_scene_change,
)
from scenes.boxes import CLASS_NAMES, Boxes
from scenes.cameras import network_camera
from scenes.clips import Clip, find_clips
from scenes.errors import DataError, SurroundError
from scenes.geometry import NS_PER_S, invert_rigid
from scenes.layers import DEPTH_UNIT_M, LabelLayer, Occupancy, VoxelGrid
from scenes.packing import PackedFrame, pack_frame
from training.recipes import DataConfig, TrainConfig
from training.targets import FrameTargets, StepTargets, depth_at_cells, occupancy_on_grid, split_boxes


@dataclass
class StepBatch:
    """One time step of B streams."""

    step: int
    inputs: StepInput
    targets: StepTargets
    reset_B: torch.Tensor
    """float32, 1 where the stream has just begun a clip: the carried state must be forgotten."""
    frames: list[str]
    """Which clip and frame each stream shows, for messages."""


@dataclass(frozen=True)
class Visit:
    """One stream at one step: which frame of which clip, and how it is varied."""

    clip: int
    frame: int
    previous: int | None
    """The frame of the step before; None where the walk begins."""
    walk_seed: tuple[int, ...]
    """Seed of the changes that hold for the whole walk."""
    step_seed: tuple[int, ...]
    """Seed of the changes of this step alone."""


class WalkPlan:
    """Maps (stream, step) to a `Visit`: epochs over the clips in random order, rare classes repeated."""

    def __init__(self, lengths: list[int], repeats: np.ndarray, config: DataConfig, seed: int) -> None:
        self.lengths, self.repeats, self.config, self.seed = lengths, repeats, config, seed
        self._walks: dict[tuple[int, int], list[tuple[int, int | None, int]]] = {}
        self._orders: dict[int, np.ndarray] = {}

    def visit(self, stream: int, step: int) -> Visit:
        """The visit of a stream at a step."""
        steps = self.config.walk_steps
        phase = stream * steps // self.config.batch  # streams change clips at different steps
        walk, position = divmod(step + phase, steps)
        number = walk * self.config.batch + stream
        clip = self._clip_of(number)
        frame, previous, part = self._walk(number, clip)[position]
        return Visit(clip, frame, previous, (self.seed, 1, number, part), (self.seed, 2, stream, step))

    def _clip_of(self, number: int) -> int:
        """The clip of the walk with that running number."""
        epoch = 0
        while number >= len(self._order(epoch)):
            number -= len(self._order(epoch))
            epoch += 1
        return int(self._order(epoch)[number])

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            rng = np.random.default_rng((self.seed, 3, epoch))
            counts = np.floor(self.repeats + rng.random(len(self.repeats))).astype(np.int64)
            self._orders[epoch] = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        return self._orders[epoch]

    def _walk(self, number: int, clip: int) -> list[tuple[int, int | None, int]]:
        """(frame, previous frame, part) at each position; at the clip's end the walk begins again as its next part."""
        key = (number, clip)
        if key not in self._walks:
            if len(self._walks) > 4 * self.config.batch:
                self._walks.clear()
            rng = np.random.default_rng((self.seed, 4, number))
            walk: list[tuple[int, int | None, int]] = []
            frame, previous, part = self._start(rng, clip), None, 0
            while len(walk) < self.config.walk_steps:
                walk.append((frame, previous, part))
                previous, frame = frame, frame + int(rng.choice(self.config.strides))
                if frame >= self.lengths[clip]:
                    frame, previous, part = self._start(rng, clip), None, part + 1
            self._walks[key] = walk
        return self._walks[key]

    def _start(self, rng: np.random.Generator, clip: int) -> int:
        """Any frame of the first part that leaves room for a whole walk if the clip is long enough."""
        return int(rng.integers(max(1, self.lengths[clip] - self.config.walk_steps + 1)))


def repeat_factors(class_counts: np.ndarray, threshold: float) -> np.ndarray:
    """How often each clip is shown an epoch, (C,) >= 1, from its objects per class (C, K).

    As in LVIS (Gupta et al. 2019): max over its classes of sqrt(threshold / share of clips with the class).
    """
    present = class_counts > 0
    share = present.mean(axis=0) if len(present) else np.zeros(class_counts.shape[1])
    factor = np.maximum(1.0, np.sqrt(threshold / np.maximum(share, 1e-9)))
    return np.maximum(1.0, np.where(present, factor, 1.0).max(axis=1))


@dataclass
class _Source:
    """A clip, its label layer, and how its cameras become network pictures."""

    clip: Clip
    layer: LabelLayer
    plans: list[tuple[int, int, int, int]]


@dataclass(frozen=True)
class _Stored:
    """A frame as it lies in the cache."""

    packed: PackedFrame
    depth: list[np.ndarray | None]
    boxes_ego: Boxes | None
    occupancy: Occupancy | None


class FrameCache:
    """Least recently used frames are dropped when `limit_bytes` is passed."""

    def __init__(self, limit_bytes: float) -> None:
        self.limit_bytes, self.used_bytes = limit_bytes, 0
        self._frames: OrderedDict[tuple[int, int], tuple[_Stored, int]] = OrderedDict()

    def get(self, key: tuple[int, int]) -> _Stored | None:
        """The frame of a (clip, frame) key, or None."""
        if key not in self._frames:
            return None
        self._frames.move_to_end(key)
        return self._frames[key][0]

    def put(self, key: tuple[int, int], stored: _Stored) -> None:
        """Keeps a frame, dropping old ones if needed."""
        size = stored.packed.images_NHW3.nbytes + sum(d.nbytes for d in stored.depth if d is not None) + 4096
        if stored.occupancy is not None:
            size += stored.occupancy.state.nbytes + stored.occupancy.flow_mps.nbytes
        self._frames[key] = (stored, size)
        self.used_bytes += size
        while self.used_bytes > self.limit_bytes and len(self._frames) > 1:
            self.used_bytes -= self._frames.popitem(last=False)[1][1]


class StreamDataset(Dataset):
    """Item `step` is the whole batch of that step (of this process's streams), or the `SurroundError` that forbids it."""

    def __init__(self, config: TrainConfig, rank: int = 0, world_size: int = 1) -> None:
        self.config, self.model = config, config.model
        if config.data.batch % world_size:
            raise DataError(f"data.batch: {config.data.batch} streams do not divide among {world_size} processes; choose a multiple")
        share = config.data.batch // world_size
        self.streams = range(rank * share, (rank + 1) * share)
        self.sources = open_sources(config.data, self.model)
        counts = np.stack([_class_counts(source.layer) for source in self.sources])
        repeats = repeat_factors(counts, config.data.balance)
        self.plan = WalkPlan([len(source.clip) for source in self.sources], repeats, config.data, config.run.seed)
        self.cache = FrameCache(config.data.cache_gb * 1e9 / max(1, config.data.workers))
        self.voxels = VoxelGrid()

    def __len__(self) -> int:
        return self.config.optim.steps * self.config.optim.accumulate

    def __getitem__(self, step: int) -> "StepBatch | SurroundError":
        cv2.setNumThreads(1)
        try:
            return self.batch(step)
        except SurroundError as error:  # raised again by `step_batches`: workers would bury it in a traceback
            return error

    def batch(self, step: int) -> StepBatch:
        """The batch of a step."""
        visits = [self.plan.visit(stream, step) for stream in self.streams]
        parts = [self._augmented(visit) for visit in visits]
        most = max(len(packed.alive_N) for packed, _ in parts)
        return StepBatch(
            step,
            StepInput.stack([_pad_cameras(packed, most) for packed, _ in parts]),
            FrameTargets.stack([replace(target, depth_NHW=_pad_rows(target.depth_NHW, most)) for _, target in parts]),
            torch.tensor([float(visit.previous is None) for visit in visits]),
            [f"{self.sources[visit.clip].clip.path}, frame {visit.frame}" for visit in visits],
        )

    def _augmented(self, visit: Visit) -> tuple[PackedFrame, FrameTargets]:
        source, stored = self.sources[visit.clip], self._stored(visit.clip, visit.frame)
        packed = _with_motion(stored.packed, source.clip, visit.frame, visit.previous)
        scene, rig = self._changes(visit, len(packed.alive_N))
        packed = change_pictures(change_geometry(packed, scene, rig), self.config.augment, np.random.default_rng((*visit.step_seed, 0)))
        return packed, self._targets(source, stored, scene, rig)

    def _changes(self, visit: Visit, num_cameras: int) -> tuple[SceneChange, RigChange]:
        augment: AugmentConfig = self.config.augment
        rng = np.random.default_rng(visit.walk_seed)
        scene = draw_scene_change(augment, rng)
        return scene, draw_rig_change(augment, rng, num_cameras, self.model.input_hw, scene.mirrored)

    def _targets(self, source: _Source, stored: _Stored, scene: SceneChange, rig: RigChange) -> FrameTargets:
        size, stride, data = self.model.input_hw, min(self.model.backbone.levels), self.config.data
        depth = np.zeros((len(stored.depth), size[0] // stride, size[1] // stride), dtype=np.float32)
        for row, image in enumerate(stored.depth):
            if image is not None:
                scale = DEPTH_UNIT_M * scene.scale
                depth[row] = depth_at_cells(image, source.plans[row], rig.affine_N4[row], size, stride, scale)
        boxes = stored.boxes_ego if stored.boxes_ego is not None else Boxes.empty()
        targets, ignored = split_boxes(boxes, scene, self.model.grid, data.min_visibility, data.min_points)
        state, flow = occupancy_on_grid(stored.occupancy, scene, self.voxels)
        return FrameTargets(stored.boxes_ego is not None, targets, ignored, depth, state, flow)

    def _stored(self, clip_index: int, frame_index: int) -> _Stored:
        stored = self.cache.get((clip_index, frame_index))
        if stored is None:
            source = self.sources[clip_index]
            stored = _read_frame(source, frame_index, self.model, self.config.data.strict)
            self.cache.put((clip_index, frame_index), stored)
        return stored


def open_sources(config: DataConfig, model: ModelConfig) -> list[_Source]:
    """Every clip below the folders with the first of its layers; a clip without any of them is refused."""
    if not config.folders:
        raise DataError("train: expected folders of clips, got none; add --data DIR")
    sources = []
    for path in find_clips(list(config.folders)):
        clip = Clip.open(path)
        plans = [network_camera(camera, *model.input_hw)[1] for camera in clip.rig.cameras]
        sources.append(_Source(clip, first_layer(clip, config.layer_names), plans))
    if not any(source.layer.boxes_world for source in sources):
        raise DataError(f"{config.folders[0]}: no frame of any clip is labelled in layer(s) {config.layers}; label or simulate first")
    return sources


def first_layer(clip: Clip, names: list[str]) -> LabelLayer:
    """The first of the named layers that the clip has."""
    for name in names:
        if name in clip.layer_names:
            return clip.layer(name)
    raise DataError(f"{clip.path}: none of the label layers {', '.join(names)}; it has {clip.layer_names or 'none'}")


def _class_counts(layer: LabelLayer) -> np.ndarray:
    ids = [boxes.class_id[~boxes.ignore] for boxes in layer.boxes_world.values()]
    return np.bincount(np.concatenate([np.zeros(0, dtype=np.int64), *ids]), minlength=len(CLASS_NAMES))


def _read_frame(source: _Source, frame_index: int, model: ModelConfig, strict: bool) -> _Stored:
    clip, layer = source.clip, source.layer
    depth: list[np.ndarray | None] = []
    for name in clip.rig.names:
        depth_m = layer.depth_m(frame_index, name)
        depth.append(None if depth_m is None else np.round(depth_m / DEPTH_UNIT_M).astype(np.uint16))
    return _Stored(
        pack_frame(clip, frame_index, model.input_hw, None, strict),
        depth,
        clip.boxes_ego(layer, frame_index),
        layer.occupancy(frame_index) if model.occupancy else None,
    )


def _with_motion(packed: PackedFrame, clip: Clip, frame_index: int, previous: int | None) -> PackedFrame:
    """The cached frame with time gap and ego motion since `previous`, as `pack_frame` would give it."""
    if previous is None:
        return packed
    now, before = clip.frames[frame_index], clip.frames[previous]
    prev_from_ego = invert_rigid(before.world_from_ego) @ now.world_from_ego
    dt = np.float32((now.timestamp_ns - before.timestamp_ns) / NS_PER_S)
    return replace(packed, dt=dt, prev_from_ego_44=prev_from_ego.astype(np.float32))


def _pad_cameras(packed: PackedFrame, num_cameras: int) -> PackedFrame:
    """Dead cameras added, so that rigs of different size share a batch."""
    missing = num_cameras - len(packed.alive_N)
    if missing == 0:
        return packed
    padded = {
        name: _pad_rows(getattr(packed, name), num_cameras)
        for name in ("images_NHW3", "distortion_N5", "lens_N", "max_angle_N", "alive_N", "time_offset_N")
    }
    plain = np.tile(np.array([[100.0, 100.0, 0.0, 0.0]], dtype=np.float32), (missing, 1))
    extrinsics = np.tile(np.eye(4, dtype=np.float32), (missing, 1, 1))
    return replace(
        packed,
        **padded,
        intrinsics_N4=np.concatenate([packed.intrinsics_N4, plain]),
        cam_from_ego_N44=np.concatenate([packed.cam_from_ego_N44, extrinsics]),
    )


def _pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), dtype=array.dtype)])


def step_batches(dataset: StreamDataset, first_step: int) -> Iterator[StepBatch]:
    """The batches from `first_step` on, loaded ahead by the configured workers; bad data is raised here."""
    workers = dataset.config.data.workers
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first_step, len(dataset)),  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker,
    )
    for item in loader:
        if isinstance(item, SurroundError):
            raise item
        yield item


def _start_worker(worker_index: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
