"""What did a check find? Findings with a severity, figures per camera, one report a clip."""

from dataclasses import asdict, dataclass, field
from enum import Enum


class Severity(Enum):
    """How bad a finding is; `value` is the word in tables and JSON."""

    BROKEN = "broken"
    """Training or labeling on this clip would go wrong: exit status 2."""
    WARNING = "warning"
    """Worth a look."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    severity: Severity
    part: str
    """"files", "clocks", "poses", "labels" or "calibration"."""
    text: str
    """One sentence: what, where, expected, got, what to do."""
    camera: str = ""
    """The camera it is about, if it is about one."""

    def to_json(self) -> dict:
        """JSON values."""
        return {**asdict(self), "severity": self.severity.value}


def broken(part: str, text: str, camera: str = "") -> Finding:
    """A finding that makes the clip unfit."""
    return Finding(Severity.BROKEN, part, text, camera)


def warning(part: str, text: str, camera: str = "") -> Finding:
    """A finding worth a look."""
    return Finding(Severity.WARNING, part, text, camera)


@dataclass(frozen=True)
class Agreement:
    """How projected label boxes and 2D detections of one camera fit together."""

    num_detections: int
    """Confident vehicle detections that were high enough."""
    num_met: int
    """Those that meet a projected box at the wanted IoU."""
    num_objects: int
    """Different labelled objects among the matches: what the estimate below stands on."""
    turn_deg: tuple[float, float, float] | None = None
    """How the camera must be turned to fit best: to the left, upwards, clockwise as it looks. None: too few to judge."""
    error_deg: float = 0.0
    """Standard error of the turn."""
    mean_iou: float = 0.0
    """Mean over detections of the best IoU, as calibrated."""
    mean_iou_turned: float = 0.0
    """The same after the turn."""
    is_off: bool = False
    """Whether the extrinsic is wrong beyond doubt."""

    @property
    def share(self) -> float:
        """Share of detections that meet a box; NaN without detections."""
        return self.num_met / self.num_detections if self.num_detections else float("nan")

    @property
    def angle_deg(self) -> float:
        """Size of the turn; NaN if there was too little to judge."""
        return float("nan") if self.turn_deg is None else sum(angle * angle for angle in self.turn_deg) ** 0.5

    def to_json(self) -> dict:
        """JSON values; the share is None without detections."""
        return {**asdict(self), "share": self.share if self.num_detections else None}


@dataclass
class CameraReport:
    """What was measured of one camera."""

    camera: str
    num_pictures: int = 0
    num_readable: int = 0
    offset_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Capture time minus reference time: smallest, median, largest."""
    agreement: Agreement | None = None

    def to_json(self) -> dict:
        """JSON values."""
        return {**asdict(self), "agreement": self.agreement.to_json() if self.agreement else None}


@dataclass
class ClipReport:
    """All that was found out about one clip."""

    path: str
    name: str = ""
    num_frames: int = 0
    duration_s: float = 0.0
    cameras: list[CameraReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    static_drift_mps: float | None = None
    """Median speed at which objects that stand still drift through the world; None without such objects."""

    @property
    def is_broken(self) -> bool:
        """Whether any finding makes the clip unfit."""
        return any(finding.severity is Severity.BROKEN for finding in self.findings)

    @property
    def overall(self) -> Agreement | None:
        """Detections of all cameras together; None where nothing was compared."""
        parts = [camera.agreement for camera in self.cameras if camera.agreement is not None]
        if not parts:
            return None
        return Agreement(sum(p.num_detections for p in parts), sum(p.num_met for p in parts), sum(p.num_objects for p in parts))

    def to_json(self) -> dict:
        """JSON values."""
        overall = self.overall
        return {
            "path": self.path,
            "name": self.name,
            "num_frames": self.num_frames,
            "duration_s": self.duration_s,
            "is_broken": self.is_broken,
            "static_drift_mps": self.static_drift_mps,
            "num_detections": overall.num_detections if overall else None,
            "num_met": overall.num_met if overall else None,
            "share": overall.share if overall and overall.num_detections else None,
            "cameras": [camera.to_json() for camera in self.cameras],
            "findings": [finding.to_json() for finding in self.findings],
        }
