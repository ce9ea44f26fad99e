"""With which numbers is ego motion refined from pictures?"""

from dataclasses import asdict, dataclass, field, replace
from enum import Enum

from scenes.errors import ConfigError


class RefineMotion(Enum):
    """Whether a clip's ego motion is refined; the value is the word on the command line."""

    AUTO = "auto"
    """Refine, and keep the stored motion where the pictures do not contradict it."""
    ON = "on"
    """Always work with the refined motion."""
    OFF = "off"
    """Take the stored motion as it is."""


@dataclass(frozen=True)
class FeatureSettings:
    """Which corners are followed, and how far."""

    corners_per_camera: int = 350
    """Corners alive in one picture."""
    min_distance_px: float = 7.0
    """Between corners, in a picture 528 pixels wide; grows with the width."""
    quality: float = 0.01
    """Weakest corner, relative to the strongest of its part of the picture."""
    window_px: int = 13
    """Side of the patch that is followed."""
    sharp_sigma_px: float = 0.08
    """A patch whose place follows from noise and slopes this exactly is a sharp corner; others count less, and ..."""
    most_sigma_px: float = 0.12
    """... those that are known less exactly than this are given up."""
    forth_back_px: float = 0.2
    """A patch followed forth and back must return this near."""
    horizon_clearance_rad: float = 0.03
    """Rays pointing down more than this meet the road: what they see is not behind it."""
    max_width_px: int = 1024
    """Wider pictures are halved until they fit."""
    longest_step_s: float = 0.3
    """Between frames; flow does not bridge more, such a clip's motion is taken as it is."""
    longest_frames: int = 60
    """A corner is given up after this many frames; its place may be found anew."""

    def __post_init__(self) -> None:
        if self.corners_per_camera < 8 or self.window_px < 5 or self.longest_frames < 2:
            raise ConfigError(
                "motion: expected at least 8 corners a camera, a window of 5 pixels and tracks of 2 frames, got "
                f"{self.corners_per_camera}, {self.window_px}, {self.longest_frames}; correct the feature settings"
            )


@dataclass(frozen=True)
class CrossingSettings:
    """How points pass from one camera to the next."""

    patch_px: int = 15
    """Side of the template, turned and scaled as the other camera should see it."""
    search_px: int = 14
    """How far from the predicted place it is searched, in a picture 528 pixels wide; grows with the width."""
    min_correlation: float = 0.8
    """Normalised correlation of a match ..."""
    min_lead: float = 0.06
    """... and its lead over the second best place."""
    max_angle_rad: float = 0.6
    """Between the two rays to the point: beyond it a surface looks too different."""
    max_scale: float = 1.8
    """Ratio of the two scales, likewise."""
    pairs_per_frame: int = 60
    """Templates tried a pair of cameras and frame."""


@dataclass(frozen=True)
class PriorSettings:
    """How much is believed of the stored motion and calibration before a picture is looked at (one standard deviation each)."""

    drift_rad_per_s: float = 0.0017
    """Turning that the stored motion has too much all the time: 0.1 degrees in a second ..."""
    step_rotation_rad_per_sqrt_s: float = 0.0004
    """... and its noise beside that, a random walk: 0.02 degrees in a second."""
    step_translation: float = 0.003
    """Noise of a stored step, relative to its length, beside the scale ..."""
    step_translation_m: float = 0.004
    """... and its floor, for a tenth of a second; errors of three times as much and more count linearly (Huber)."""
    scale: float = 0.03
    """Common relative error of all stored step lengths."""
    clock_s: float = 0.002
    """Camera clocks: most are right, some are far off, so larger errors count linearly (Huber)."""
    rotation_rad: float = 0.0009
    """Rotation of a camera against its calibration: 0.05 degrees for most, and larger errors count linearly (Huber)."""
    road_height_m: float = 0.005
    """Common error of the cameras' height over the road."""
    road_point_m: float = 0.03
    """A point of the road's surface against the plane under the vehicle."""
    pixel_px: float = 0.25
    """Where a sharp corner is found."""

    def of_a_standing_vehicle(self) -> "PriorSettings":
        """The same with scale and clocks held: without a way there is nothing to learn them from but noise."""
        return replace(self, scale=1e-5, clock_s=1e-5)


@dataclass(frozen=True)
class DecisionSettings:
    """When is stored motion rough, and when is a clip unusable?"""

    quarantine_px: float = 1.0
    """A clip whose median reprojection error stays above this is quarantined."""
    rough_scale: float = 0.005
    """Stored motion is rough from this error of its scale on, if it is `sure_sigmas` standard deviations as well, ..."""
    rough_rotation_rad_per_s: float = 0.0005
    """... this drift (0.3 degrees in 10 s), ..."""
    rough_clock_s: float = 0.006
    """... or this clock offset of one camera, both beyond their own uncertainty likewise."""
    sure_sigmas: float = 2.0
    """Standard deviations (of corners that err independently) beyond which a finding is believed."""
    least_gain: float = 0.07
    """Share of the pictures' robust squared errors that refined motion must explain away before `auto` takes it: what exact motion
    leaves unexplained also falls a little (by 4 and 5 % on two clips), since something always fits the noise (rough motion: 9 to 81 %)."""
    min_tracks: int = 60
    """Fewer static points say nothing: the stored motion is kept."""


@dataclass(frozen=True)
class MotionSettings:
    """Everything that decides a refinement."""

    features: FeatureSettings = field(default_factory=FeatureSettings)
    crossing: CrossingSettings = field(default_factory=CrossingSettings)
    priors: PriorSettings = field(default_factory=PriorSettings)
    decision: DecisionSettings = field(default_factory=DecisionSettings)
    rounds: int = 2
    """Matching between cameras and solving, so many times: better motion finds more matches."""
    max_tracks: int = 2600
    """Points in the adjustment."""
    use_crossings: bool = True
    """Follow points from camera to camera (the rig's baselines give the scale and the clocks)."""
    use_road: bool = True
    """Hold road points to the plane under the vehicle (the cameras' height gives the scale)."""

    def to_json(self) -> dict:
        """The settings as JSON values."""
        return asdict(self)
