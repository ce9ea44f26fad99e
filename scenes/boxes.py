"""What is a labelled or detected box? Columns, classes and frame changes of 3D boxes."""

from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np

from scenes.errors import DataError
from scenes.geometry import rotation_from_yaw, transform_points, wrap_angle, yaw_from_rotation


class Box3D(IntEnum):
    """Columns of a box row: centre (not bottom), full sizes, yaw about +z from +x to +y, velocity over ground."""

    X = 0
    Y = 1
    Z = 2
    LENGTH = 3
    WIDTH = 4
    HEIGHT = 5
    YAW = 6
    VX = 7
    VY = 8


BOX_UNITS = ("x_m", "y_m", "z_m", "length_m", "width_m", "height_m", "yaw_rad", "vx_mps", "vy_mps")
"""Column names on disk, in the order of `Box3D`."""

CLASS_NAMES = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)
"""The ten nuScenes detection classes; `class_id` indexes them."""

CENTRE_DISTANCES_M = (0.5, 1.0, 2.0)
"""How far off a centre may be for each column of `Boxes.within`."""

VEHICLE_CLASSES = ("car", "truck", "bus", "trailer", "construction_vehicle")
TWO_WHEELERS = ("motorcycle", "bicycle")
HEADLESS_CLASSES = ("traffic_cone", "barrier")
"""Things whose front cannot be told from their rear."""


def class_id_of(name: str, where: str) -> int:
    """Index of a class name; an unknown one is refused with `DataError` naming `where`."""
    if name not in CLASS_NAMES:
        raise DataError(f"{where}: unknown class {name!r}; expected one of {', '.join(CLASS_NAMES)}; map or drop it")
    return CLASS_NAMES.index(name)


@dataclass(frozen=True)
class Boxes:
    """M boxes of one frame, all in one frame of reference (the variable's name says which: `boxes_ego`, `boxes_world`)."""

    box: np.ndarray
    """(M, 9) float64, columns `Box3D`; a velocity may be NaN (unknown)."""
    class_id: np.ndarray
    """(M,) int64, index into `CLASS_NAMES`."""
    track_id: np.ndarray
    """(M,) int64, -1 where there is none."""
    score: np.ndarray
    """(M,) float64 in [0, 1]; 1 for truth."""
    visibility: np.ndarray
    """(M,) float64 in [0, 1]: the share of the object that the cameras see; NaN where unknown."""
    num_points: np.ndarray
    """(M,) int64: lidar points inside, -1 where unknown."""
    ignore: np.ndarray
    """(M,) bool: neither object nor background for training and evaluation."""
    provenance: np.ndarray
    """(M,) object array of str: where the box came from ("" if the layer's source says it all)."""
    within: np.ndarray
    """(M, 3) float64: calibrated probability that the centre is within each of `CENTRE_DISTANCES_M`; NaN where nobody said."""
    evidence: np.ndarray
    """(M,) object array of str: what the box was made from, "teacher+model@x"; "" where nobody said."""
    cameras: np.ndarray
    """(M,) object array of str: the cameras whose pictures it lies in, "front+left"; "" where nobody said."""

    def __len__(self) -> int:
        return len(self.box)

    @classmethod
    def make(
        cls,
        box,
        class_id,
        track_id=None,
        score=None,
        visibility=None,
        num_points=None,
        ignore=None,
        provenance=None,
        within=None,
        evidence=None,
        cameras=None,
    ):
        """Boxes from arrays, with defaults for what is not given (track -1, score 1, visibility NaN, ...)."""
        box = np.asarray(box, dtype=np.float64).reshape(-1, 9)
        m, thresholds = len(box), len(CENTRE_DISTANCES_M)

        def column(value, default, dtype):
            return np.full(m, default, dtype=dtype) if value is None else np.asarray(value, dtype=dtype).reshape(m)

        return cls(
            box,
            column(class_id, 0, np.int64),
            column(track_id, -1, np.int64),
            column(score, 1.0, np.float64),
            column(visibility, np.nan, np.float64),
            column(num_points, -1, np.int64),
            column(ignore, False, bool),
            column(provenance, "", object),
            np.full((m, thresholds), np.nan) if within is None else np.asarray(within, dtype=np.float64).reshape(m, thresholds),
            column(evidence, "", object),
            column(cameras, "", object),
        )

    @classmethod
    def empty(cls) -> "Boxes":
        """No boxes."""
        return cls.make(np.zeros((0, 9)), np.zeros(0))

    @classmethod
    def concatenate(cls, parts: "list[Boxes]") -> "Boxes":
        """All boxes of several sets, in order."""
        if not parts:
            return cls.empty()
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def select(self, index) -> "Boxes":
        """The boxes of a mask or an index array."""
        return Boxes(*(getattr(self, f.name)[index] for f in fields(self)))

    def transform(self, dst_from_src: np.ndarray) -> "Boxes":
        """The boxes of frame `src` in frame `dst`: centre, heading and velocity all turn."""
        return replace(self, box=transform_boxes(dst_from_src, self.box))

    def corners(self) -> np.ndarray:
        """(M, 8, 3), see `box_corners`."""
        return box_corners(self.box)


def transform_boxes(dst_from_src: np.ndarray, box_src: np.ndarray) -> np.ndarray:
    """Box rows (M, 9) of frame `src` in frame `dst`; a box stays upright (roll and pitch of the frame are dropped)."""
    box_dst = np.array(box_src, dtype=np.float64)
    rotation = dst_from_src[:3, :3]
    box_dst[:, :3] = transform_points(dst_from_src, box_dst[:, :3])
    box_dst[:, Box3D.YAW] = wrap_angle(yaw_from_rotation(rotation @ rotation_from_yaw(box_src[:, Box3D.YAW])))
    velocity = np.concatenate([box_src[:, Box3D.VX : Box3D.VY + 1], np.zeros((len(box_src), 1))], axis=1)
    box_dst[:, Box3D.VX : Box3D.VY + 1] = (velocity @ rotation.T)[:, :2]
    return box_dst


def transform_each_box(dst_from_src: np.ndarray, box_src: np.ndarray) -> np.ndarray:
    """`transform_boxes` with a transform of its own (N, 4, 4) for each row (N, 9)."""
    rotation, box_dst = dst_from_src[:, :3, :3], box_src.copy()
    box_dst[:, :3] = (rotation @ box_src[:, :3, None])[..., 0] + dst_from_src[:, :3, 3]
    cos, sin = np.cos(box_src[:, Box3D.YAW]), np.sin(box_src[:, Box3D.YAW])
    heading = rotation[:, :2, 0] * cos[:, None] + rotation[:, :2, 1] * sin[:, None]
    box_dst[:, Box3D.YAW] = np.arctan2(heading[:, 1], heading[:, 0])
    box_dst[:, Box3D.VX :] = (rotation[:, :2, :2] @ box_src[:, Box3D.VX :, None])[..., 0]
    return box_dst


def box_corners(box: np.ndarray) -> np.ndarray:
    """Corners (M, 8, 3) of box rows (M, 9): 0-3 the bottom from front left counterclockwise (FL, RL, RR, FR), 4-7 the top.

    ::

        1 ----- 0        x (front) is to the right, y (left) up
        |       | -->
        2 ----- 3
    """
    sign = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2
    sign = np.concatenate([np.c_[sign, np.full(4, -0.5)], np.c_[sign, np.full(4, 0.5)]])
    local = sign[None] * box[:, None, Box3D.LENGTH : Box3D.HEIGHT + 1]
    turned = np.einsum("mij,mkj->mki", rotation_from_yaw(box[:, Box3D.YAW]), local)
    return turned + box[:, None, :3]


BOX_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
"""Pairs of corner indices that form a box's twelve edges."""
