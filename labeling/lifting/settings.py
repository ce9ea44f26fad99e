"""What does the cold start take for granted about cars, roads and detectors? Typed settings; every number is a physical one."""

from dataclasses import asdict, dataclass, field, fields

from scenes.boxes import CLASS_NAMES
from scenes.errors import ConfigError


@dataclass(frozen=True)
class SizePrior:
    """How large things of one class are."""

    mean_m: tuple[float, float, float]
    """Length, width, height."""
    spread: tuple[float, float, float]
    """Standard deviations of their logarithms."""


def size_priors() -> dict[str, SizePrior]:
    """Sizes as vehicle and anthropometric tables give them; trucks range from pick-ups and vans to lorries."""
    return {
        "car": SizePrior((4.6, 1.87, 1.6), (0.09, 0.06, 0.09)),
        "truck": SizePrior((6.0, 2.15, 2.3), (0.22, 0.12, 0.22)),
        "bus": SizePrior((11.5, 2.7, 3.2), (0.2, 0.08, 0.1)),
        "trailer": SizePrior((8.0, 2.4, 3.0), (0.4, 0.15, 0.3)),
        "construction_vehicle": SizePrior((6.5, 2.6, 3.0), (0.3, 0.2, 0.2)),
        "pedestrian": SizePrior((0.7, 0.7, 1.72), (0.15, 0.15, 0.07)),
        "motorcycle": SizePrior((2.1, 0.8, 1.5), (0.12, 0.15, 0.12)),
        "bicycle": SizePrior((1.75, 0.65, 1.6), (0.12, 0.15, 0.12)),
        "traffic_cone": SizePrior((0.4, 0.4, 0.75), (0.2, 0.2, 0.2)),
        "barrier": SizePrior((2.0, 0.6, 1.0), (0.4, 0.3, 0.15)),
    }


@dataclass(frozen=True)
class DetectorSettings:
    """How the pictures are searched."""

    score: float = 0.15
    """Weaker rectangles are not kept."""
    tiles: int = 3
    """Overlapping square parts that are looked at besides the whole picture, where it is wider than high by a third or more."""
    tile_from_px: int = 320
    """Pictures less high than this are only looked at whole."""
    threads: int = 1
    """Threads within one picture; pictures are spread over `workers`."""
    workers: int = 2
    """Pictures looked at side by side."""


@dataclass(frozen=True)
class LinkingSettings:
    """Which rectangles of one camera follow each other."""

    high_score: float = 0.35
    """From here on a rectangle may start a track; weaker ones only extend one."""
    least_iou: float = 0.3
    """With the rectangle expected from the motion so far."""
    most_growth: float = 1.5
    """Largest factor between the sides of the expected rectangle and the found one."""
    coast_s: float = 0.5
    """How long a track lives on unseen."""
    far_apart_s: float = 0.3
    """Pictures farther apart are linked by where their objects stand, not by overlapping rectangles."""
    fewest: int = 3
    """Tracks of fewer rectangles are dropped, unless the clip has too few frames for more."""


@dataclass(frozen=True)
class ReprojectionSettings:
    """How well a rectangle's edges are known."""

    edge_px: float = 1.2
    """Of an edge, in pixels, for the smallest rectangles ..."""
    edge_share: float = 0.05
    """... and as a share of the rectangle's height (half its width, if that is more)."""
    alike_s: float = 0.3
    """Detections nearer in time than this err alike, so that they count together as about one."""
    border_px: float = 6.0
    """An edge nearer than this to the picture's border is cut off and only says that the object reaches there."""
    hidden_weight: float = 0.05
    """Weight of an edge behind which something nearer stands, where the object reaches farther."""


@dataclass(frozen=True)
class MotionPriors:
    """How a lifted object may move, per group of classes."""

    acceleration_mps2: float = 1.5
    """Normal acceleration (times root seconds)."""
    slip_mps: float = 0.2
    """Sideways speed."""
    turn_radps2: float = 0.5
    """Normal change of the turn rate (times root seconds)."""
    speed_mps: float = 10.0
    """Spread of speeds before anything is known."""
    moves_chi2: float = 12.0
    """How much better (squared standard deviations) a moving explanation must be."""
    moves_m: float = 1.0
    """Least distance between the ends of a moving path, and ..."""
    moves_sigma: float = 2.0
    """... how many of its standard deviations come on top; that is not asked for where standing is out of the question: ..."""
    refuted_misfit: float = 1.5
    """... where the edges are off by so many standard deviations (root mean square), and by less than half of that if it moves."""


@dataclass(frozen=True)
class RoadSettings:
    """The road surface around the ego path."""

    wheel_m: float = 0.05
    """Roughness of the ego path as a measurement of the road."""
    slope: float = 0.05
    """Spread of the slope of the whole place against the ego vehicle's own plane."""
    bump_m: float = 0.25
    """Spread of heights beside that plane ..."""
    reach_m: float = 25.0
    """... which change over this distance."""
    clearance_m: float = 0.08
    """What an object's wheels may stand above or below the surface found."""
    rounds: int = 2
    """How often objects and surface are fitted to each other."""


@dataclass(frozen=True)
class MergeSettings:
    """Which tracks of several cameras or times are one object."""

    sigma: float = 5.0
    """Largest mean distance in standard deviations at which a joint explanation is tried."""
    reach_m: float = 4.0
    """Largest distance in metres, and ..."""
    reach_per_m: float = 0.12
    """... what each metre of range adds."""
    gap_s: float = 5.0
    """Longest time between the end of one and the start of the other."""
    worse_chi2: float = 8.0
    """How much worse (squared standard deviations) two tracks may be explained together than apart, for every merged pair."""


@dataclass(frozen=True)
class JudgeSettings:
    """What is left of the lifted tracks, and how sure they are."""

    farthest_m: float = 80.0
    """Objects farther away are not lifted."""
    ego_front_m: float = 3.7
    """The ego vehicle reaches this far ahead of the frame's origin ..."""
    ego_rear_m: float = 1.0
    """... this far behind it, and ..."""
    ego_half_width_m: float = 0.95
    """... this far to each side: nothing else can be there, and what seems to be is a piece of it."""
    misfit: float = 3.0
    """Root mean squared normalised edge error beyond which a track is no object of its class."""
    bias: float = -0.5
    """Log odds that a track is an object where every feature is 0."""
    score_weight: float = 1.0
    """Weight of the log odds of the mean of its best third of detector scores."""
    length_weight: float = 1.0
    """Weight of log(1 + twice the seconds seen)."""
    misfit_weight: float = -0.5
    """Weight of the misfit."""
    range_weight: float = 0.0
    """Weight of the distance in units of 10 m."""
    spread_factor: float = 1.0
    """How much larger position errors are than the fit believes."""


@dataclass(frozen=True)
class LiftingSettings:
    """Everything about the cold start."""

    detector: DetectorSettings = DetectorSettings()
    linking: LinkingSettings = LinkingSettings()
    reprojection: ReprojectionSettings = ReprojectionSettings()
    road: RoadSettings = RoadSettings()
    motion: MotionPriors = MotionPriors()
    merge: MergeSettings = MergeSettings()
    judge: JudgeSettings = JudgeSettings()
    sizes: dict[str, SizePrior] = field(default_factory=size_priors)
    drives_on: str = "right"
    """Side of the road that traffic keeps to: a parked vehicle beyond the oncoming lane faces the other way. `right` or `left`."""

    def __post_init__(self) -> None:
        if self.drives_on not in ("right", "left"):
            raise ConfigError(f"lifting: expected drives_on right or left, got {self.drives_on!r}; correct it")
        missing = [name for name in CLASS_NAMES if name not in self.sizes]
        if missing:
            raise ConfigError(f"lifting: expected a size of every class, got none for {', '.join(missing)}; add them")
        for part in (self.detector, self.linking, self.reprojection, self.road, self.motion, self.merge, self.judge):
            for entry in fields(part):
                value = getattr(part, entry.name)
                if value != value or (value < 0 and not entry.name.endswith(("bias", "weight"))):
                    raise ConfigError(f"lifting: expected {entry.name} >= 0, got {value}; correct the setting")

    def to_json(self) -> dict:
        """The settings as JSON values; what stage hashes are made of."""
        return asdict(self)
