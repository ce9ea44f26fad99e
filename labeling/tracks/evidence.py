"""What was detected in a clip, all frames together, before anybody knows which detections are one object?"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from labeling.tracks.settings import NoiseSettings
from scenes.boxes import Box3D, Boxes
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, invert_rigid, transform_points
from scenes.layers import LabelLayer

InView = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(frame indices (M,), points_world (M, 3)) to (M,) bool: whether the sensors could see an object there and then."""

Looks = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(frame indices (M,), box_world (M, 9)) to looks (M, 48) as `labeling.appearance` describes them; NaN rows for what no picture shows."""


@dataclass(frozen=True)
class Evidence:
    """N detections of a clip with T frames, sorted by frame, in the world frame."""

    timestamps_ns: np.ndarray
    """(T,) int64 reference times."""
    world_from_ego: np.ndarray
    """(T, 4, 4); where the sensors were."""
    frame: np.ndarray
    """(N,) int64 frame index, ascending."""
    box_world: np.ndarray
    """(N, 9) columns `Box3D`; velocities may be NaN."""
    class_id: np.ndarray
    """(N,) int64."""
    score: np.ndarray
    """(N,) float64, the probability that the detection is an object."""
    covariance: np.ndarray | None = None
    """(N, 2, 2) of the centre on the ground, where the source knows it; NaN rows and None: the settings say it."""
    velocity_std_mps: np.ndarray | None = None
    """(N,) standard deviation per axis of the velocity, where the source knows it; NaN rows and None: the settings say it."""
    source: np.ndarray | None = None
    """(N,) object array of str: who says so ("" or None where there is one source only)."""

    def __post_init__(self) -> None:
        if len(self.frame) and (self.frame.min() < 0 or self.frame.max() >= len(self.timestamps_ns)):
            raise DataError(
                f"evidence: expected frames 0 to {len(self.timestamps_ns) - 1}, got {self.frame.min()} to {self.frame.max()}; "
                "it belongs to another clip, make it again"
            )
        if (np.diff(self.frame) < 0).any():
            raise DataError("evidence: expected detections sorted by frame, got them in disorder; sort them")
        if (np.diff(self.timestamps_ns) <= 0).any():
            raise DataError("evidence: expected growing time stamps, got a clock that stands or runs backwards; sort the frames")
        usable = np.isfinite(self.box_world[:, :7]).all(1) & (self.box_world[:, 3:6] > 0).all(1) & np.isfinite(self.score)
        if not usable.all():
            row = int(np.argmin(usable))
            raise DataError(
                f"evidence, detection {row} (frame {self.frame[row]}): expected a finite box of positive size with a finite score, "
                f"got {self.box_world[row].tolist()}, score {self.score[row]}; drop it"
            )

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def time_s(self) -> np.ndarray:
        """(T,) seconds since the first frame."""
        return (self.timestamps_ns - self.timestamps_ns[0]) / NS_PER_S

    def select(self, index: np.ndarray) -> "Evidence":
        """The detections of a mask or ascending index array."""
        kept = {name: column[index] for name, column in self.columns().items()}
        return Evidence(self.timestamps_ns, self.world_from_ego, **kept)

    @classmethod
    def concatenate(cls, parts: "list[Evidence]") -> "Evidence":
        """The detections of several evidences of one clip, sorted by frame."""
        columns: dict[str, np.ndarray] = {}
        names = [name for name in parts[0].columns() if all(name in part.columns() for part in parts)]
        for name in names:
            columns[name] = np.concatenate([part.columns()[name] for part in parts])
        order = np.argsort(columns["frame"], kind="stable")
        return cls(parts[0].timestamps_ns, parts[0].world_from_ego, **{name: column[order] for name, column in columns.items()})

    def columns(self) -> dict[str, np.ndarray]:
        """What there is of each detection, by name."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("timestamps_ns", "world_from_ego")}
        return {name: column for name, column in given.items() if column is not None}

    def rows_by_frame(self) -> list[np.ndarray]:
        """For each frame the indices of its detections."""
        return np.split(np.arange(len(self)), np.searchsorted(self.frame, np.arange(1, len(self.timestamps_ns))))

    def sight(self, rows: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Distance (N,) and unit direction (N, 2) on the ground from the ego vehicle to each detection (or to `rows` of them)."""
        offset = self.box_world[rows, :2] - self.world_from_ego[self.frame[rows], :2, 3]
        distance_m = np.hypot(*offset.T)
        return distance_m, offset / np.maximum(distance_m, 1e-6)[:, None]

    def position_covariance(self, noise: NoiseSettings, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(N, 2, 2): long along the ray of sight, short across it, larger for weak scores; or of `rows` only.

        Where the source knows its own covariance that one stands.
        """
        distance_m, along = self.sight(rows)
        weak = 1 + (noise.weak_factor - 1) * (1 - np.clip(self.score[rows], 0, 1))
        radial = ((noise.radial_m + noise.radial_per_m * distance_m) * weak) ** 2
        lateral = ((noise.lateral_m + noise.lateral_per_m * distance_m) * weak) ** 2
        outer = along[:, :, None] * along[:, None, :]
        assumed = lateral[:, None, None] * np.eye(2) + (radial - lateral)[:, None, None] * outer
        if self.covariance is None:
            return assumed
        given = self.covariance[rows]
        return np.where(np.all(np.isfinite(given), axis=(1, 2), keepdims=True), given, assumed)


def velocity_stds(evidence: Evidence, noise: NoiseSettings, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """(N,) m/s per axis, of all detections or of `rows`: how far a source's velocity is to be trusted."""
    usual = np.full(len(evidence.score[rows]), noise.velocity_mps)
    if evidence.velocity_std_mps is None:
        return usual
    given = evidence.velocity_std_mps[rows]
    return np.where(np.isfinite(given), given, usual)


def evidence_from_layer(clip: Clip, layer: LabelLayer, source: str = "") -> Evidence:
    """A layer's boxes as evidence; ignored ones are left out, its track ids are not looked at. `source` names where it came from."""
    outside = sorted(i for i in layer.boxes_world if not 0 <= i < len(clip))
    if outside:
        raise DataError(
            f"{clip.path}: layer {layer.name!r} labels frame {outside[0]}, but the clip ends with frame {len(clip) - 1}; "
            "it belongs to another clip, make it again"
        )
    indices = sorted(layer.boxes_world)
    boxes_world = Boxes.concatenate([layer.boxes_world[i] for i in indices])
    frame = np.repeat(np.array(indices, dtype=np.int64), [len(layer.boxes_world[i]) for i in indices])
    keep = ~boxes_world.ignore
    boxes_world = boxes_world.select(keep)
    return Evidence(
        np.array([f.timestamp_ns for f in clip.frames], dtype=np.int64),
        np.stack([f.world_from_ego for f in clip.frames]),
        frame[keep],
        boxes_world.box,
        boxes_world.class_id,
        np.clip(boxes_world.score, 0.0, 1.0),
        source=np.full(int(keep.sum()), source, dtype=object),
    )


def rig_in_view(clip: Clip) -> InView:
    """Whether a point lies in the picture of any live camera of a frame."""

    def in_view(frames: np.ndarray, points_world: np.ndarray) -> np.ndarray:
        seen = np.zeros(len(points_world), dtype=bool)
        for index in np.unique(frames).tolist():
            rows, frame = np.flatnonzero(frames == index), clip.frames[index]
            points_ego = transform_points(invert_rigid(frame.world_from_ego), points_world[rows])
            for name, view in frame.views.items():
                if view.alive:
                    points_cam = transform_points(clip.cam_from_ego_at_ref(index, name), points_ego)
                    seen[rows] |= clip.rig[name].project(points_cam)[1]
        return seen

    return in_view


def everywhere(frames: np.ndarray, points_world: np.ndarray) -> np.ndarray:
    """An `InView` for sensors that see all around."""
    return np.ones(len(points_world), dtype=bool)


def folded_angle(angle_rad: np.ndarray) -> np.ndarray:
    """Angles modulo half a turn, in [-pi/2, pi/2): front and rear not told apart."""
    return np.mod(np.asarray(angle_rad) + np.pi / 2, np.pi) - np.pi / 2


SIZE_COLUMNS = slice(Box3D.LENGTH, Box3D.HEIGHT + 1)
