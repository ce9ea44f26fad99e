"""With which numbers is each kind of object tracked? Typed settings, one set per group of classes that may be confused."""

from dataclasses import asdict, dataclass, field, fields, replace

from scenes.boxes import CLASS_NAMES, VEHICLE_CLASSES
from scenes.errors import ConfigError


@dataclass(frozen=True)
class NoiseSettings:
    """How far a detection's centre lies from the truth (standard deviations): along the ray of sight and across it."""

    radial_m: float = 0.3
    """Along the ray, at range 0."""
    radial_per_m: float = 0.03
    """What each metre of range adds along the ray; cameras misjudge depth, lidar hardly does."""
    lateral_m: float = 0.2
    """Across the ray, at range 0."""
    lateral_per_m: float = 0.006
    """What each metre of range adds across the ray."""
    height_m: float = 0.2
    """Of the centre's z."""
    yaw_rad: float = 0.2
    """Of the heading, front and rear not told apart."""
    velocity_mps: float = 6.0
    """Of a velocity that the source gives, per axis. Weak networks say 0 for what they see for the first time: trust the positions more."""
    weak_factor: float = 1.5
    """All of these grow by up to this factor as the score falls to 0."""


@dataclass(frozen=True)
class MotionSettings:
    """How a kind of object moves."""

    speed_mps: float = 10.0
    """Standard deviation of the speed along the heading before anything is known."""
    side_speed_mps: float = 1.5
    """The same across the heading."""
    acceleration_mps2: float = 3.0
    """White acceleration noise of the linking filter (times the root of one second)."""
    smooth_acceleration_mps2: float = 1.5
    """Acceleration that the trajectory solve takes for normal."""
    smooth_jerk_mps3: float = 3.0
    """Change of acceleration per second that the solve takes for normal."""
    static_spread_m: float = 1.0
    """A track whose smoothed path stays within this distance may be called static ..."""
    static_speed_mps: float = 0.6
    """... if it also is slower than this on the whole."""
    pose_error: float = 0.0
    """Share of the ego vehicle's speed with which standing things may seem to move: how wrong the poses' scale is."""
    static_drift_mps: float = 0.0
    """Speed (root-second random walk) at which a static object may seem to drift as the ego poses do; 0 fixes it."""
    heading_speed_mps: float = 1.0
    """From this speed on the heading follows the path; 0 for things that never drive."""
    turn_radius_m: float = 4.0
    """Smallest radius of a curve that it can drive; 0 for what turns on the spot."""
    heading_slip_mps: float = 0.25
    """Sideways speed that a driving object's path may show; makes slow paths weak witnesses of the heading."""


@dataclass(frozen=True)
class LinkSettings:
    """Which detections may be the same object."""

    high_score: float = 0.2
    """Detections from here on are linked first; weaker ones only extend what is there already (the ByteTrack idea)."""
    low_score: float = 0.02
    """Weaker detections are not looked at."""
    birth_score: float = 0.05
    """From here on a detection that nobody claims starts a track."""
    gate_sigma: float = 4.0
    """Largest distance between prediction and detection in standard deviations."""
    gate_m: float = 6.0
    """The same in metres."""
    size_weight: float = 1.0
    """How much a size ratio of e^0.3 costs, in squared standard deviations."""
    yaw_weight: float = 0.5
    """How much a heading off by `yaw_rad` costs (front and rear not told apart)."""
    class_cost: float = 4.0
    """What a change of class within the group costs."""
    coast_s: float = 3.0
    """A track that is not seen lives on for this long in the filter ..."""
    coast_std_m: float = 2.5
    """... as long as its place is known better than this."""
    stitch_s: float = 5.0
    """Longest gap that the stitching closes."""
    standing_s: float = 5.0
    """The same for objects that stand before and after it in the same place."""
    stitch_sigma: float = 3.5
    """Largest distance of two ends in standard deviations (position and velocity together)."""
    stitch_std_m: float = 10.0
    """Ends are not compared where their common place is known less well than this: nearly anything would fit there."""
    stitch_score: float = 0.1
    """Mean of the three best detections that both chains need if the gap is longer than a second; missing ones count 0."""
    looks_weight: float = 1.0
    """How much the colours of two chains count in the stitching, where there are pictures; 0: they are not looked at."""


@dataclass(frozen=True)
class CompletionSettings:
    """How far labels reach beyond what was detected."""

    extend_s: float = 0.5
    """Each end of a well-founded track is carried on for this long, inside the view."""
    fill_s: float = 5.0
    """Gaps up to this length may be filled, as far as their boxes are probable enough."""
    fill_score: float = 1.0
    """Gaps with detections at least this strong on both sides are filled however improbable their boxes are."""
    bridge_s: float = 0.0
    """Holes up to this length are filled however improbable, so that a track does not flicker."""


@dataclass(frozen=True)
class ConfidenceSettings:
    """A logistic model: probability that a box is right, from what was detected around it (see `labeling.tracks.confidence`).

    The defaults were fitted (`python -m labeling.tracks.calibration`) on the vehicles of two simulated clips seen by an early `nano`;
    a true detection of such a network scores far less than its probability. Fit them again for another source of detections.
    """

    bias: float = 1.8
    """Log odds where every feature is 0."""
    local_weight: float = 0.58
    """Weight of the log odds of the mean score nearby in time, frames without detection counting 0."""
    side_weight: float = 0.21
    """Weight of the log odds of the better detection before or after, whichever side is worse (the seconds around a gap's ends)."""
    own_weight: float = 0.2
    """Weight of the log odds of the box's own detection."""
    best_weight: float = 0.7
    """Weight of the log odds of the mean of the track's best detections (a quarter of them, at least three)."""
    length_weight: float = 0.0
    """Weight of log(1 + number of detections)."""
    unseen_weight: float = -0.2
    """Weight of the root of the seconds to the nearest detection."""
    moving_weight: float = 0.0
    """Weight of 1 for tracks that move: poles do not."""
    range_weight: float = 0.0
    """Weight of the distance from the sensors in units of 10 m."""
    hidden_weight: float = 0.0
    """Weight of the share of the box that nearer boxes hide from the sensors."""
    keep_share: float = 0.2
    """Boxes with less than this share of the probability of their track's best box are left out: tails and long gaps."""
    label_probability: float = 0.5
    """Boxes from here on are labels."""
    ignore_probability: float = 0.15
    """Boxes from here up to `label_probability` are written as `ignore`; weaker ones are dropped."""


@dataclass(frozen=True)
class GroupSettings:
    """Everything about one group of classes that a detector may confuse with each other."""

    classes: tuple[str, ...]
    noise: NoiseSettings = NoiseSettings()
    motion: MotionSettings = MotionSettings()
    link: LinkSettings = LinkSettings()
    completion: CompletionSettings = CompletionSettings()
    confidence: ConfidenceSettings = ConfidenceSettings()
    duplicate_iou: float = 0.2
    """Two detections of one frame, or two tracks while both live, that overlap more (from above) are one object."""
    keep_near_face: float = 1.0
    """1: when a detection's size is replaced by its track's, the side facing the sensor stays where it was; 0: the centre stays."""
    keep_bottom: float = 1.0
    """The same for the height: 1: the bottom stays where it was (cameras see where things stand); 0: the centre does."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in CLASS_NAMES]
        if unknown or not self.classes:
            raise ConfigError(
                f"tracking group: expected classes out of {', '.join(CLASS_NAMES)}, got {list(self.classes)}; correct the names"
            )
        for part in (self.noise, self.motion, self.link, self.completion, self.confidence):
            for entry in fields(part):
                value = getattr(part, entry.name)
                if value != value or (value < 0 and not entry.name.endswith(("bias", "weight"))):
                    raise ConfigError(f"tracking of {self.classes[0]}: expected {entry.name} >= 0, got {value}; correct the setting")

    @property
    def class_ids(self) -> tuple[int, ...]:
        """Indices into `CLASS_NAMES`."""
        return tuple(CLASS_NAMES.index(name) for name in self.classes)


def vehicles() -> GroupSettings:
    """Cars, trucks, buses, trailers and building machines as a camera network sees them."""
    return GroupSettings(VEHICLE_CLASSES)


def two_wheelers() -> GroupSettings:
    """Motorcycles and bicycles."""
    motion = MotionSettings(speed_mps=6.0, static_spread_m=0.7, smooth_acceleration_mps2=1.2)
    return GroupSettings(("motorcycle", "bicycle"), motion=motion, link=LinkSettings(gate_m=4.0, stitch_s=3.0), duplicate_iou=0.15)


def pedestrians() -> GroupSettings:
    """People on foot."""
    motion = MotionSettings(
        speed_mps=1.5,
        side_speed_mps=1.5,
        acceleration_mps2=1.0,
        smooth_acceleration_mps2=0.6,
        static_spread_m=0.5,
        static_speed_mps=0.25,
        heading_speed_mps=0.5,
        turn_radius_m=0.0,
        heading_slip_mps=0.3,
    )
    link = LinkSettings(gate_m=2.5, stitch_s=2.0, yaw_weight=0.0)
    return GroupSettings(("pedestrian",), motion=motion, link=link, duplicate_iou=0.1)


def fixtures(name: str) -> GroupSettings:
    """Cones or barriers: they stand."""
    motion = MotionSettings(
        speed_mps=0.05, side_speed_mps=0.05, acceleration_mps2=0.05, static_spread_m=3.0, static_speed_mps=2.0, heading_speed_mps=0.0
    )
    return GroupSettings((name,), motion=motion, link=LinkSettings(gate_m=2.5), duplicate_iou=0.1)


@dataclass(frozen=True)
class TrackingSettings:
    """The settings of all groups."""

    groups: tuple[GroupSettings, ...] = field(
        default_factory=lambda: (vehicles(), two_wheelers(), pedestrians(), fixtures("traffic_cone"), fixtures("barrier"))
    )

    eye_height_m: float = 1.6
    """Height of the sensors over the ego frame's origin: who hides whom."""

    def __post_init__(self) -> None:
        names = [name for group in self.groups for name in group.classes]
        if len(set(names)) != len(names):
            raise ConfigError(f"tracking groups: expected each class in one group, got {names}; correct the groups")

    def with_probabilities(self, label_probability: float, ignore_probability: float) -> "TrackingSettings":
        """The same settings with other limits between label, ignore and nothing."""
        if not 0 <= ignore_probability <= label_probability <= 1:
            raise ConfigError(
                f"label limits: expected 0 <= ignore <= label <= 1, got ignore {ignore_probability} and label {label_probability}; "
                "correct the two"
            )
        changed = {"label_probability": label_probability, "ignore_probability": ignore_probability}
        return replace(self, groups=tuple(replace(g, confidence=replace(g.confidence, **changed)) for g in self.groups))

    def to_json(self) -> dict:
        """The settings as JSON values; what the stage hash is made of."""
        return asdict(self)
