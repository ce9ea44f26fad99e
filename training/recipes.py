"""Which training runs do we know? Recipes: functions that return a complete, typed `TrainConfig`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fusion import config as variants
from fusion.config import ModelConfig
from perception.augmentation import AugmentConfig
from scenes.errors import ConfigError


def _require(good: bool, where: str, expected: str, got: object) -> None:
    if not good:
        raise ConfigError(f"{where}: expected {expected}, got {got}; correct the setting")


@dataclass(frozen=True)
class DataConfig:
    """What is learned from, and in which order it is walked through."""

    folders: tuple[Path, ...] = ()
    """Folders of clips (`--data`)."""
    val: tuple[Path, ...] = ()
    """Folders of clips for validation during training (`--val`)."""
    layers: str = "truth"
    """Label layers by priority, separated by commas; each clip gives the first that it has. `human,auto@a,truth`"""
    batch: int = 4
    """Streams walked in parallel, over all processes."""
    walk_steps: int = 10
    """A stream leaves its clip after this many steps, or at the clip's end."""
    strides: tuple[int, ...] = (1, 1, 1, 2)
    """Frame strides drawn from at every step: varied gaps in time."""
    min_visibility: float = 0.1
    """Objects of which the cameras see a smaller share are neither objects nor background."""
    min_points: int = 6
    """Objects with fewer visible pixels or lidar points than this likewise, where the number is known."""
    balance: float = 0.05
    """Clips with classes rarer than this share of the clips are repeated (square root of the ratio); 0 switches it off."""
    cache_gb: float = 3.0
    """Memory for decoded frames, over all workers."""
    workers: int = 1
    """Loader processes; 0 loads in the training process."""
    strict: bool = True
    """Stop at an unreadable picture; otherwise its camera counts as dead."""

    def __post_init__(self) -> None:
        _require(self.batch >= 1, "data.batch", "at least 1 stream", self.batch)
        _require(self.walk_steps >= 1, "data.walk_steps", "at least 1 step", self.walk_steps)
        _require(len(self.strides) > 0 and min(self.strides) >= 1, "data.strides", "positive strides", self.strides)
        _require(self.cache_gb >= 0 and self.workers >= 0, "data", "cache_gb and workers of at least 0", (self.cache_gb, self.workers))
        _require(bool(self.layer_names), "data.layers", "at least one layer name", repr(self.layers))

    @property
    def layer_names(self) -> list[str]:
        """The priority list."""
        return [name.strip() for name in self.layers.split(",") if name.strip()]


@dataclass(frozen=True)
class OptimConfig:
    """How weights move."""

    lr: float = 1.2e-3
    """Peak learning rate of AdamW."""
    backbone_lr: float = 0.4
    """The backbone's share of it."""
    weight_decay: float = 0.01
    """On matrices and kernels only."""
    steps: int = 3000
    """Optimiser steps of the whole run."""
    warmup_steps: int = 100
    """Linear warm-up; then a cosine down to `final_lr`."""
    final_lr: float = 0.02
    """Share of the peak rate at the end."""
    clip_norm: float = 5.0
    """Gradients longer than this are shortened; 0 leaves them."""
    accumulate: int = 1
    """Time steps whose gradients are summed for one optimiser step."""
    only: str = ""
    """A regular expression: parameters whose names it does not match stay as they are (`decoder.quality`); empty: all learn."""
    ema: float = 0.998
    """Decay of the averaged weights, which are the ones that are evaluated and shipped; 0 switches it off."""

    def __post_init__(self) -> None:
        _require(0 < self.lr < 1, "optim.lr", "a learning rate in (0, 1)", self.lr)
        _require(0 <= self.backbone_lr <= 10, "optim.backbone_lr", "a factor in [0, 10]", self.backbone_lr)
        _require(self.steps >= 1 and self.warmup_steps >= 0, "optim", "at least one step", (self.steps, self.warmup_steps))
        _require(self.accumulate >= 1, "optim.accumulate", "at least 1", self.accumulate)
        _require(0 <= self.ema < 1, "optim.ema", "a decay in [0, 1)", self.ema)


@dataclass(frozen=True)
class LossConfig:
    """How much each part of the loss counts."""

    heatmap: float = 1.0
    """Dense centre heatmap, focal."""
    dense_box: float = 0.25
    """Boxes at the cells of true centres, L1."""
    classes: float = 1.0
    """Class of each query, focal, every layer."""
    box: float = 0.25
    """Box of each matched query, L1, every layer."""
    quality: float = 0.3
    """Localisation quality of each matched query."""
    denoising: float = 0.5
    """Weight of class and box losses on denoising queries."""
    depth: float = 1.5
    """Depth bins per camera."""
    occupancy: float = 1.0
    """Cross-entropy over voxel states."""
    flow: float = 0.02
    """Voxel velocity, L1, on moving objects' voxels and their standing neighbours."""
    velocity: float = 0.2
    """Weight of the two velocity codes within box losses."""
    size: float = 1.0
    """Weight of the three log-size codes within box losses."""
    heading: float = 1.0
    """Weight of the box's axis (sine and cosine of the doubled yaw) within box losses."""
    facing: float = 0.5
    """Which end of the box is the front, cross-entropy, every layer and the dense head (there times `dense_box` as well)."""
    denoising_groups: int = 2
    """Noised copies of each true box."""
    denoising_shift: float = 0.5
    """Centre noise as a share of the box's size, at most."""
    denoising_class: float = 0.2
    """Probability that a denoising query is shown a wrong class."""
    denoising_turned: float = 0.3
    """Probability that a denoising query is shown the wrong way round."""
    track_bonus: float = 2.0
    """How much cheaper the match of a remembered object with its own track is."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _require(value >= 0, f"loss.{name}", "a number of at least 0", value)


@dataclass(frozen=True)
class MemoryConfig:
    """How the carried memory is spoilt in training, so that a deployed network lives with a memory that is not perfect."""

    forget: float = 0.1
    """Probability that a remembered object is forgotten at a step: it must be found again, and a chance difference between two
    memories must not last."""
    place_m: float = 0.1
    """Standard deviation of an error of each remembered centre, in x and y."""
    velocity_mps: float = 0.2
    """Standard deviation of an error of each remembered velocity component."""
    embedding: float = 0.02
    """Standard deviation of an error of each number of a remembered embedding (these are of the order of 1)."""

    def __post_init__(self) -> None:
        _require(0 <= self.forget < 1, "memory.forget", "a probability in [0, 1)", self.forget)
        for name in ("place_m", "velocity_mps", "embedding"):
            _require(getattr(self, name) >= 0, f"memory.{name}", "a number of at least 0", getattr(self, name))


@dataclass(frozen=True)
class RunConfig:
    """Where and how the run is done."""

    out: Path = Path("run")
    """The run's folder (`--out`): checkpoint, log, TensorBoard."""
    init: str = ""
    """A checkpoint (name or path) whose matching weights the run starts from (`--init`)."""
    seed: int = 0
    """Fixes weights, order, augmentation and noise."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: the GPU if there is one."""
    threads: int = 0
    """Threads of torch on the CPU; 0 leaves torch's choice."""
    precision: str = "auto"
    """`float32`, `bfloat16`, or `auto`: bfloat16 on a GPU only."""
    save_every: int = 200
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between lines of the log."""
    val_every: int = 0
    """Steps between validations; 0 validates at the end only, if there are validation clips."""
    val_clips: int = 8
    """At most this many clips a validation."""
    stop_after: int = 0
    """Stop after this many steps of this process, saving a checkpoint (0: go on to the end)."""

    def __post_init__(self) -> None:
        _require(self.precision in ("auto", "float32", "bfloat16"), "run.precision", "auto, float32 or bfloat16", self.precision)
        _require(self.save_every >= 1 and self.log_every >= 1, "run", "save_every and log_every of at least 1", self.save_every)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    run: RunConfig = field(default_factory=RunConfig)


def nano() -> TrainConfig:
    """Trains on two processor cores in under an hour; `python -m engine.shipped` makes the shipped checkpoint with it."""
    return TrainConfig(
        model=variants.nano(),
        data=DataConfig(batch=2),
        optim=OptimConfig(lr=1e-3, steps=8000),
        loss=LossConfig(velocity=0.3),
        augment=AugmentConfig(mirror=0.2, yaw_rad=0.1, zoom=0.03),
    )


def _from_imagenet(model: ModelConfig) -> ModelConfig:
    """Frozen batch normalisation needs statistics of pictures; a path in `--model.backbone.pretrained` takes them from a file instead."""
    return replace(model, backbone=replace(model.backbone, pretrained="imagenet"))


def edge() -> TrainConfig:
    """One GPU, half a day; starts, like the larger ones, from torchvision's ImageNet weights."""
    return TrainConfig(
        model=_from_imagenet(variants.edge()),
        data=DataConfig(batch=16, workers=12, cache_gb=40.0, walk_steps=16),
        optim=OptimConfig(lr=4e-4, steps=40_000, warmup_steps=500, ema=0.9995),
        augment=AugmentConfig(yaw_rad=0.4, scale=0.05),
    )


def base() -> TrainConfig:
    """The reference network; several GPUs under torchrun."""
    return TrainConfig(
        model=_from_imagenet(variants.base()),
        data=DataConfig(batch=16, workers=12, cache_gb=40.0, walk_steps=16),
        optim=OptimConfig(lr=4e-4, backbone_lr=0.25, steps=80_000, warmup_steps=500, ema=0.9995),
        augment=AugmentConfig(yaw_rad=0.4, scale=0.05),
    )


def teacher() -> TrainConfig:
    """The network that labels: large pictures, all the time it needs."""
    return TrainConfig(
        model=_from_imagenet(variants.teacher()),
        data=DataConfig(batch=8, workers=12, cache_gb=60.0, walk_steps=20),
        optim=OptimConfig(lr=2e-4, backbone_lr=0.25, steps=100_000, warmup_steps=1000, ema=0.9998),
        augment=AugmentConfig(yaw_rad=0.4, scale=0.05),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {"nano": nano, "edge": edge, "base": base, "teacher": teacher}
"""Recipe name to the function that returns it."""


def recipe(name: str) -> TrainConfig:
    """The recipe of that name; an unknown one is refused with the known ones."""
    if name not in RECIPES:
        raise ConfigError(f"train: no recipe {name!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The config as JSON values, for logs and checkpoints."""
    return _plain(asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
