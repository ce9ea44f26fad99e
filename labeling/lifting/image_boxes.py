"""Which rectangles were found in the pictures of a clip, by whom?"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from labeling.stages import read_arrays, write_arrays
from scenes.boxes import CLASS_NAMES, VEHICLE_CLASSES
from scenes.detector2d import iou_matrix

KIND_OF_CLASS = np.array(
    [0 if n in VEHICLE_CLASSES else 1 if n == "pedestrian" else 2 if n in ("motorcycle", "bicycle") else 3 for n in CLASS_NAMES]
)
"""(K,) classes that detectors confuse are one kind: 0 vehicles, 1 people on foot, 2 two-wheelers, 3 fixtures."""
PEDESTRIAN = CLASS_NAMES.index("pedestrian")
SAME_IOU = 0.6
INSIDE_SHARE = 0.85
RIDER_SHARE = 0.3


@dataclass(frozen=True)
class ImageBoxes:
    """N rectangles in the pictures of a clip, sorted by frame."""

    frame: np.ndarray
    """(N,) int64."""
    camera: np.ndarray
    """(N,) int64, index into the rig's names."""
    box_xyxy_px: np.ndarray
    """(N, 4) float64 u0, v0, u1, v1; whole numbers are pixel centres."""
    class_id: np.ndarray
    """(N,) int64, index into `CLASS_NAMES`."""
    score: np.ndarray
    """(N,) float64, probability that there is such an object."""
    source: np.ndarray
    """(N,) str: who saw it (`yolox_nano.onnx`, `human:boxes.json`)."""

    def __len__(self) -> int:
        return len(self.frame)

    @classmethod
    def empty(cls) -> "ImageBoxes":
        """No rectangles."""
        whole = np.zeros(0, dtype=np.int64)
        return cls(whole, whole, np.zeros((0, 4)), whole, np.zeros(0), np.zeros(0, dtype="U1"))

    @classmethod
    def concatenate(cls, parts: "list[ImageBoxes]") -> "ImageBoxes":
        """All rectangles of several sets, sorted by frame and camera."""
        parts = [cls.empty(), *parts]
        whole = cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))
        return whole.select(np.lexsort((whole.camera, whole.frame)))

    def select(self, index: np.ndarray) -> "ImageBoxes":
        """The rectangles of a mask or an index array."""
        return ImageBoxes(*(getattr(self, f.name)[index] for f in fields(self)))

    def by_picture(self) -> list[np.ndarray]:
        """Indices of the rectangles of each picture that has any."""
        if not len(self):
            return []
        order = np.lexsort((self.camera, self.frame))
        key = self.frame[order] * (self.camera.max() + 1) + self.camera[order]
        return np.split(order, np.flatnonzero(np.diff(key)) + 1)

    @property
    def kind(self) -> np.ndarray:
        """(N,) see `KIND_OF_CLASS`."""
        return KIND_OF_CLASS[self.class_id]


def write_image_boxes(path: Path, boxes: ImageBoxes) -> None:
    """Keeps rectangles as npz, atomically."""
    write_arrays(path, {f.name: getattr(boxes, f.name) for f in fields(boxes)})


def read_image_boxes(path: Path) -> ImageBoxes:
    """The rectangles of `write_image_boxes`."""
    return ImageBoxes(**read_arrays(path))


def overlap_shares(box_xyxy: np.ndarray) -> np.ndarray:
    """(N, N) share of rectangle i's area that lies inside rectangle j."""
    low = np.maximum(box_xyxy[:, None, :2], box_xyxy[None, :, :2])
    high = np.minimum(box_xyxy[:, None, 2:], box_xyxy[None, :, 2:])
    area = np.prod(np.maximum(box_xyxy[:, 2:] - box_xyxy[:, :2], 1e-9), axis=1)
    return np.prod(np.maximum(high - low, 0), axis=-1) / area[:, None]


def single_boxes(boxes: ImageBoxes) -> ImageBoxes:
    """One rectangle an object: of each kind the stronger of two that overlap, riders joined with what they ride.

    A weak rectangle inside a stronger one of its kind is a part of the object, not another one.
    """
    keep = np.ones(len(boxes), dtype=bool)
    box = boxes.box_xyxy_px.copy()
    for rows in boxes.by_picture():
        keep[rows] = _singles(boxes.select(rows))
        _join_riders(boxes, box, rows, keep)
    return ImageBoxes(boxes.frame, boxes.camera, box, boxes.class_id, boxes.score, boxes.source).select(keep)


def _singles(here: ImageBoxes) -> np.ndarray:
    same_kind = here.kind[:, None] == here.kind[None]
    overlap, inside = iou_matrix(here.box_xyxy_px, here.box_xyxy_px), overlap_shares(here.box_xyxy_px)
    alive = np.ones(len(here), dtype=bool)
    for row in np.argsort(-here.score, kind="stable"):
        stronger = alive & same_kind[row] & (here.score > here.score[row])
        double = (overlap[row] > SAME_IOU) | ((inside[row] > INSIDE_SHARE) & (here.score > 1.5 * here.score[row]))
        alive[row] = not (stronger & double).any()
    return alive


def _join_riders(boxes: ImageBoxes, box: np.ndarray, rows: np.ndarray, keep: np.ndarray) -> None:
    """Whoever sits on a two-wheeler is part of it: the two-wheeler's rectangle grows, the person's goes."""
    rides = rows[keep[rows] & (boxes.kind[rows] == 2)]
    people = rows[keep[rows] & (boxes.class_id[rows] == PEDESTRIAN)]
    for ride in rides:
        for person in people:
            r, p = boxes.box_xyxy_px[ride], boxes.box_xyxy_px[person]
            middle = (p[0] + p[2]) / 2
            shared = min(r[2], p[2]) - max(r[0], p[0])
            over = r[0] < middle < r[2] and r[1] - 0.2 * (p[3] - p[1]) < p[3] < r[3] + 0.1 * (r[3] - r[1])
            if over and p[1] < r[1] and shared > RIDER_SHARE * (p[2] - p[0]):
                box[ride] = [min(r[0], p[0]), min(r[1], p[1]), max(r[2], p[2]), max(r[3], p[3])]
                keep[person] = False
