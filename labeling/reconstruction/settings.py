"""Which numbers decide a reconstruction?"""

from dataclasses import asdict, dataclass, field

from scenes.errors import ConfigError


@dataclass(frozen=True)
class MatchSettings:
    """Depth of one picture from its neighbours in time and space."""

    width_px: int = 704
    """Pictures wider than this are shrunk before matching (halved until they fit)."""
    max_field_rad: float = 1.75
    """A lens that sees more than this from left to right is cut into several pinhole views."""
    neighbours: int = 5
    """Pictures that each picture is compared with."""
    reach_s: float = 12.0
    """Neighbours lie at most this long before or after."""
    best_angle_rad: float = 0.10
    """Angle between the two lines of sight at which a neighbour is worth most."""
    levels: int = 112
    """Planes of the coarse sweep, even in inverse depth."""
    near_m: float = 2.2
    """The nearest plane ..."""
    far_m: float = 90.0
    """... and the farthest, along the camera's axis."""
    window_px: int = 7
    """Side of the window within which pictures are correlated."""
    texture: float = 2.5
    """Standard deviation of grey levels below which a window counts as blank."""
    small_step: float = 0.08
    """Cost of a change of one plane between neighbouring pixels ..."""
    large_step: float = 0.45
    """... and of a larger one."""
    ground_heights_m: tuple[float, ...] = tuple(round(0.08 * k, 2) for k in range(-6, 7))
    """Heights over the path's tangent planes at which a plane is swept as road."""
    ground_bonus: float = 0.03
    """How much better a free depth must correlate than the ground plane to be believed."""
    max_cost: float = 0.45
    """Depths whose windows correlate worse (1 minus correlation) are dropped."""


@dataclass(frozen=True)
class ConsistencySettings:
    """Which depths do other pictures confirm?"""

    views: int = 6
    """Other depth maps that are asked."""
    confirmations: int = 2
    """How many of them must agree."""
    relative: float = 0.04
    """Largest relative difference of depth."""
    reprojection_px: float = 1.5
    """Largest distance after the way there and back."""


@dataclass(frozen=True)
class RoadSettings:
    """The height of the ground near the path."""

    cell_m: float = 0.5
    reach_m: float = 30.0
    """The grid covers this far to each side of the path."""
    band_m: float = 0.6
    """Points farther from the expected ground are not ground."""
    stiffness: float = 30.0
    """Weight of the surface's curvature against the heights seen in one cell."""
    prior_weight: float = 0.02
    """Weight of the tangent planes of the path where nothing was seen."""
    min_points: int = 3
    """Points that make a cell known."""


@dataclass(frozen=True)
class FusionSettings:
    """Points, mesh and voxels."""

    tsdf_voxel_m: float = 0.15
    depth_max_m: float = 40.0
    """Depths beyond this are not fused."""
    cell_m: float = 0.25
    """Edge of the cells in which free and filled space is counted."""
    ray_stride: int = 3
    """Every n-th pixel, both ways, carves."""
    carve_m: float = 57.0
    """Cells farther from the camera are not touched."""
    min_hits: float = 3.0
    """Weight of depths that fill a cell."""
    hit_share: float = 0.25
    """Share of hits among hits and passes from which a cell is filled."""
    min_passes: float = 2.0
    """Rays that make a cell free."""
    ground_margin_m: float = 0.25
    """Points this near above the road surface belong to it."""


@dataclass(frozen=True)
class ReconstructionSettings:
    """Everything that decides what a reconstruction looks like; part of the stage's hash."""

    every_s: float = 0.2
    """Depth is computed for pictures at least this far apart in time ..."""
    every_m: float = 0.5
    """... and on the path."""
    moving_mps: float = 0.5
    """Labelled objects faster than this do not belong to the static scene."""
    mask_margin_m: float = 0.35
    """Moving boxes are enlarged by this before they are cut out of the pictures."""
    match: MatchSettings = field(default_factory=MatchSettings)
    consistency: ConsistencySettings = field(default_factory=ConsistencySettings)
    road: RoadSettings = field(default_factory=RoadSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)

    def __post_init__(self) -> None:
        if self.every_s < 0 or self.match.neighbours < 1 or self.match.levels < 8:
            raise ConfigError(
                f"reconstruction: expected a non-negative pace, a neighbour and 8 planes at least, got {self.every_s:g} s, "
                f"{self.match.neighbours} and {self.match.levels}; correct the settings"
            )

    def to_json(self) -> dict:
        """JSON values, for the hash and the layer's meta."""
        return asdict(self)
