"""What does one labeling job do to each clip? Its typed settings."""

from dataclasses import dataclass, field
from pathlib import Path

from labeling.lifting.settings import LiftingSettings
from labeling.motion.settings import MotionSettings, RefineMotion
from labeling.reconstruction.settings import ReconstructionSettings
from labeling.tracks.settings import TrackingSettings
from scenes.errors import ConfigError


@dataclass(frozen=True)
class LabelSettings:
    """What one labeling job does to each clip. A stage adds its settings here and to `labeling.command.label`."""

    layer: str
    """Name of the layer to write, `auto@...`."""
    teacher: Path | None = None
    """Checkpoint of the network that looks at the clips ..."""
    evidence: str | None = None
    """... and (or) the name of a layer that holds detections already."""
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    confidence: Path | None = None
    """Weights of the confidences: a JSON file of `labeling.confidence.fit` or a shipped name; None: the shipped ones for the evidence."""
    device: str = "cpu"
    both_ways: bool = True
    """Stream the clip through the network from both ends."""
    mirrored: bool = False
    """Show the network each clip in a mirror as well (twice the time)."""
    pictures: bool = True
    """Draw a small picture of each clip for the job's report."""
    reconstruct: bool = False
    """Reconstruct the static scene: points, mesh, road, occupancy and depth."""
    reconstruction: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    detector: Path | None = None
    """ONNX file of a 2D detector whose rectangles are lifted to objects in space (the cold start) ..."""
    boxes2d: Path | None = None
    """... and (or) a file of people's rectangles: COCO JSON or CVAT XML for images."""
    lidar: bool = False
    """Move detections along their ray onto the points of lidar sweeps, in frames that have one."""
    lifting: LiftingSettings = field(default_factory=LiftingSettings)
    refine_motion: RefineMotion = RefineMotion.OFF
    """Whether rough ego motion, clocks and camera rotations are refined from the pictures."""
    motion: MotionSettings = field(default_factory=MotionSettings)

    def __post_init__(self) -> None:
        if not self.layer.startswith("auto@") or len(self.layer) <= len("auto@") or "/" in self.layer:
            raise ConfigError(f"label: expected a layer name like auto@first, got {self.layer!r}; rename it")
        if not self.sources:
            raise ConfigError(
                "label: expected evidence to label from, got none; give --teacher CHECKPOINT, --detector ONNX, --boxes2d FILE or "
                "--evidence LAYER"
            )
        if self.evidence == self.layer:
            raise ConfigError(f"label: expected the evidence in another layer than the one to write, got {self.layer!r} twice; rename one")

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the kinds of evidence that this job uses."""
        return tuple(name for name in ("teacher", "evidence", "detector", "boxes2d") if getattr(self, name) is not None)
