"""Which numbers decide a reconstruction?"""

from dataclasses import asdict, dataclass, field

from scenes.errors import ConfigError


@dataclass(frozen=True)
class MatchSettings:
    """Depth of one picture from its neighbours in time and space."""

    width_px: int = 512
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
    texture: float = 1.0
    """Standard deviation of grey levels below which a window counts as blank."""
    small_step: float = 0.08
    """Cost of a change of one plane between neighbouring pixels ..."""
    large_step: float = 0.45
    """... and of a larger one."""
    ground_heights_m: tuple[float, ...] = tuple(round(0.08 * k, 2) for k in range(-6, 7))
    """Heights over the path's tangent planes at which a plane is swept as road."""
    ground_bonus: float = 0.03
    """How much better a free depth must correlate than the ground plane to be believed."""
    max_cost: float = 0.55
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
class FillSettings:
    """Depth of blank surfaces between matched pixels."""

    shrink: int = 2
    """Filling is done at 1/n of the size."""
    reach_px: float = 60.0
    """How far known depths reach over blank surface."""
    edge: float = 60.0
    """Difference of grey levels, summed over the colours, that counts as far as `reach_px`."""
    min_weight: float = 0.01
    """Share of the surroundings that must be known."""
    ground_share: float = 0.5
    """Share of known surroundings on the ground from which a pixel is ground."""
    misfit: float = 0.06
    """Largest relative misfit of the plane through the surroundings."""
    far_m: float = 60.0


@dataclass(frozen=True)
class RoadSettings:
    """The height of the ground near the path."""

    cell_m: float = 0.5
    reach_m: float = 30.0
    """The grid covers this far to each side of the path."""
    trusted_m: float = 8.0
    """Distance from the camera at which a point's weight has halved."""
    band_m: float = 0.6
    """Points farther from the expected ground are not ground."""
    stiffness: float = 30.0
    """Weight of the surface's curvature against the heights seen in one cell."""
    prior_weight: float = 0.02
    """Weight of the tangent planes of the path where nothing was seen."""
    min_points: int = 3
    """Points that make a cell known."""


@dataclass(frozen=True)
class CarveSettings:
    """Free and filled space."""

    cell_m: float = 0.5
    cell_height_m: float = 0.25
    """Edges of the cells of the world in which rays are counted."""
    stride: int = 4
    """Every n-th pixel, both ways, is a ray."""
    far_m: float = 35.0
    """Depths beyond this fill nothing (their rays still pass)."""
    margin: float = 0.05
    """The last share of a ray is not counted as passed."""
    filled_weight: float = 0.4
    """What a ray of a filled-in depth counts."""
    min_hits: float = 1.5
    """Rays that end in a cell before it can be filled."""
    hit_share: float = 0.2
    """Share of hits among hits and passes from which a cell is filled."""
    min_passes: float = 2.0
    """Rays that make a cell free."""
    ground_margin_m: float = 0.25
    """What lies this near above the ground belongs to it."""
    free_share: float = 0.5
    """Share of a voxel that must be free for it to be free."""
    box_margin_m: float = 0.4
    """Static matter this near to a box is the box."""


@dataclass(frozen=True)
class FusionSettings:
    """Points and mesh."""

    voxel_m: float = 0.15
    far_m: float = 40.0
    """Depths beyond this are not fused."""
    filled_far_m: float = 25.0
    """Nor are filled-in ones beyond this."""
    min_weight: float = 2.0
    """Pictures that must agree on a surface."""


@dataclass(frozen=True)
class ReconstructionSettings:
    """Everything that decides what a reconstruction looks like; part of the stage's hash."""

    every_s: float = 0.2
    """Depth is computed for pictures at least this far apart in time ..."""
    every_m: float = 0.5
    """... and on the path."""
    most_frames: int = 60
    """Frames with depth maps; those of a longer clip lie farther apart on the path (all are held in memory)."""
    moving_mps: float = 0.5
    """Labelled objects faster than this do not belong to the static scene."""
    mask_margin_m: float = 0.35
    """Moving boxes are enlarged by this before they are cut out of the pictures."""
    match: MatchSettings = field(default_factory=MatchSettings)
    consistency: ConsistencySettings = field(default_factory=ConsistencySettings)
    fill: FillSettings = field(default_factory=FillSettings)
    road: RoadSettings = field(default_factory=RoadSettings)
    carve: CarveSettings = field(default_factory=CarveSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)

    def __post_init__(self) -> None:
        if self.every_s < 0 or self.most_frames < 2 or self.match.neighbours < 1 or self.match.levels < 8:
            raise ConfigError(
                f"reconstruction: expected a non-negative pace, two frames, a neighbour and 8 planes at least, got {self.every_s:g} s, "
                f"{self.most_frames}, {self.match.neighbours} and {self.match.levels}; correct the settings"
            )

    def to_json(self) -> dict:
        """JSON values, for the hash and the layer's meta."""
        return asdict(self)
