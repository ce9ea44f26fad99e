"""How big is the network? `ModelConfig` and the variants `nano`, `edge`, `base`, `teacher`."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fusion.grid import BevGrid
from scenes.boxes import CLASS_NAMES
from scenes.errors import ConfigError


@dataclass(frozen=True)
class BackboneConfig:
    """What each camera's picture goes through."""

    name: str = "mobilenet_v2"
    """A torchvision backbone: see `perception.backbone.BACKBONES`."""
    pretrained: str | None = None
    """None, "imagenet" (torchvision downloads it), or the path of a state file."""
    freeze_bn: bool = True
    """Batch normalisation keeps its pretrained statistics (batches are small)."""
    frozen_stages: int = 0
    """How many of the first stages (strides 2, 4, ...) are not trained."""
    dropped_blocks: int = 0
    """How many of the last blocks are left away (torchvision's `features` counted from the end)."""
    neck_channels: int = 64
    """Channels of every feature level."""
    levels: tuple[int, ...] = (8, 16, 32)
    """Strides of the feature levels, finest first."""


@dataclass(frozen=True)
class DepthConfig:
    """Bins of the distance along the ray, spaced evenly in its logarithm; they live on the finest feature level."""

    bins: int = 32
    min_m: float = 1.5
    max_m: float = 60.0


@dataclass(frozen=True)
class BevConfig:
    """The dense bird's-eye branch."""

    channels: int = 64
    lift_channels: int = 48
    """Image channels carried to the cells."""
    encoder_channels: int = 96
    """Width of the half-resolution part of the encoder."""
    encoder_blocks: int = 2
    """Residual blocks at half resolution."""
    memory_channels: int = 32
    memory_maps: int = 1
    """How many past maps the state keeps (M)."""
    token_layers: int = 0
    """Transformer layers over coarse bird's-eye tokens with camera attention; 0 leaves them out."""
    token_stride: int = 4
    """Cells a token's side covers."""


@dataclass(frozen=True)
class QueryConfig:
    """Object queries and the Transformer over them."""

    channels: int = 96
    heads: int = 4
    feedforward: int = 192
    new_queries: int = 100
    memory_slots: int = 64
    num_layers: int = 2
    points: int = 5
    """Sampled 3D points a query and layer."""
    suppression_radius_m: tuple[float, ...] = (1.5, 2.0, 2.0, 2.0, 2.0, 0.6, 0.8, 0.8, 0.4, 0.8)
    """A new query this near to a well scored remembered object of its class gives way; one radius a class."""
    suppression_score: float = 0.2
    birth_score: float = 0.25
    """From this score on a new object gets an id."""
    keep_score: float = 0.05
    """Remembered objects below this score are being forgotten: nobody sees them any more; below half of it they are gone."""
    score_decay: float = 0.6
    """A slot's score is the larger of its new score and this share a second of its old one."""
    quality_power: float = 0.5
    """Exponent of the quality estimate in the final score."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the network's shape. Two networks with equal configs have equal weight names and shapes."""

    name: str = "nano"
    input_hw: tuple[int, int] = (96, 256)
    """Rows and columns of the network's pictures; multiples of the coarsest stride."""
    class_names: tuple[str, ...] = CLASS_NAMES
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    grid: BevGrid = field(default_factory=BevGrid)
    bev: BevConfig = field(default_factory=BevConfig)
    query: QueryConfig = field(default_factory=QueryConfig)
    occupancy: bool = True
    """Predict voxels and flow on the default `scenes.layers.VoxelGrid`."""
    sampler: str = "auto"
    """How images are sampled, always with the same numbers: "gridsample"; "gather" for runtimes whose GridSample is not to be
    trusted; "bag", fastest on a processor but not exportable; "auto" takes "bag" on a processor, else "gridsample"."""

    def __post_init__(self) -> None:
        height, width = self.input_hw
        coarsest = max(self.backbone.levels)
        if height % coarsest or width % coarsest or height < coarsest or width < coarsest:
            raise ConfigError(f"input_hw: expected multiples of {coarsest}, got {height}x{width}; round them")
        if self.query.channels % self.query.heads:
            raise ConfigError(f"query.channels: {self.query.channels} is not a multiple of {self.query.heads} heads; change one")
        if len(self.query.suppression_radius_m) != len(self.class_names):
            raise ConfigError(
                f"query.suppression_radius_m: expected {len(self.class_names)} radii, one a class, "
                f"got {len(self.query.suppression_radius_m)}; add the missing ones"
            )
        if self.sampler not in ("auto", "gridsample", "gather", "bag"):
            raise ConfigError(f"sampler: expected auto, gridsample, gather or bag, got {self.sampler!r}; choose one")
        if self.query.new_queries >= self.grid.cells_x * self.grid.cells_y:
            raise ConfigError(
                f"query.new_queries: expected fewer than the grid's {self.grid.cells_x}x{self.grid.cells_y} cells, "
                f"got {self.query.new_queries}; lower it"
            )
        if self.bev.token_layers and (self.grid.cells_x % self.bev.token_stride or self.grid.cells_y % self.bev.token_stride):
            raise ConfigError(f"bev.token_stride: {self.bev.token_stride} does not divide the grid {self.grid.shape}; choose a divisor")

    @property
    def num_layers(self) -> int:
        """Decoder layers; a deployed graph may use fewer."""
        return self.query.num_layers

    def unpretrained(self) -> "ModelConfig":
        """The same network for whoever fills its weights himself: nothing is loaded or downloaded for the backbone."""
        return replace(self, backbone=replace(self.backbone, pretrained=None))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The config written by `to_dict`; an unknown or missing field is refused with `ConfigError`."""
        parts = {"backbone": BackboneConfig, "depth": DepthConfig, "grid": BevGrid, "bev": BevConfig, "query": QueryConfig}
        try:
            made = {key: parts[key](**_tuples(value)) if key in parts else value for key, value in values.items()}
            return cls(**_tuples(made))
        except TypeError as error:
            raise ConfigError(f"model config: {error}; it was written by another version of surround4d, train or convert again") from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON gives lists where the config has tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def nano() -> ModelConfig:
    """Under 3 M parameters, eight pictures of 96x256: trains on a laptop's processor.

    The shipped checkpoint was trained with exactly this config: names and shapes of its weights must stay.
    """
    return ModelConfig(
        backbone=BackboneConfig(frozen_stages=2, dropped_blocks=2, neck_channels=48, levels=(4, 8, 16, 32)),
        grid=BevGrid(min_x_m=-32.0, min_y_m=-32.0, cells_x=64, cells_y=64),
        bev=BevConfig(lift_channels=48, encoder_channels=80),
    )


def edge() -> ModelConfig:
    """MobileNetV2 at 256x704, cells of 0.8 m over 102 m: for embedded graphics processors.

    Of the backbones tried (RESULTS.d/export_history.md) the one that is fast on processors too, and nano's, which stays accurate in
    int8 without being trained for it; `--model.backbone.name resnet34` trades four times the work for one more point on ImageNet.
    """
    return ModelConfig(
        name="edge",
        input_hw=(256, 704),
        backbone=BackboneConfig(name="mobilenet_v2", neck_channels=96),
        depth=DepthConfig(bins=48, max_m=70.0),
        grid=BevGrid(-51.2, -51.2, 0.8, 128, 128, (-0.2, 0.4, 1.0, 1.8, 3.0)),
        bev=BevConfig(
            channels=96, lift_channels=64, encoder_channels=160, encoder_blocks=3, memory_channels=64, memory_maps=2, token_layers=1
        ),
        query=QueryConfig(channels=192, heads=8, feedforward=512, new_queries=300, memory_slots=200, num_layers=3, points=8),
    )


def base() -> ModelConfig:
    """ResNet-50 at 256x704: the reference network."""
    small = edge()
    return replace(
        small,
        name="base",
        backbone=BackboneConfig(name="resnet50", neck_channels=192),
        depth=DepthConfig(bins=64, max_m=70.0),
        bev=replace(small.bev, channels=192, lift_channels=96, encoder_channels=256, encoder_blocks=4, memory_maps=4, token_layers=2),
        query=replace(small.query, channels=256, feedforward=768, new_queries=400, memory_slots=256, num_layers=4),
    )


def teacher() -> ModelConfig:
    """ConvNeXt at 384x1056, cells of 0.5 m: too slow to drive, good enough to label."""
    big = base()
    return replace(
        big,
        name="teacher",
        input_hw=(384, 1056),
        backbone=BackboneConfig(name="convnext_tiny", neck_channels=256),
        depth=DepthConfig(bins=80, max_m=80.0),
        grid=BevGrid(-52.0, -52.0, 0.5, 208, 208, (-0.2, 0.3, 0.8, 1.4, 2.2, 3.2)),
        bev=replace(big.bev, channels=256, lift_channels=128, encoder_channels=320, token_layers=2, token_stride=8),
        query=replace(big.query, new_queries=600, memory_slots=400, num_layers=6, points=12),
    )


VARIANTS = {"nano": nano, "edge": edge, "base": base, "teacher": teacher}
"""Variant name to the function that returns its config."""
