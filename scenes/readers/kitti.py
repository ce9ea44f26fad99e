"""How do the rows of KITTI's tracking label and result files become boxes, and the other way round?

KITTI boxes lie in the camera frame (x right, y down, z forward), their y is the bottom's, `ry` turns about y. The "ego" frame here is the
camera's place with our axes (x forward, y left, z up).
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from scenes.boxes import Box3D
from scenes.errors import DataError
from scenes.geometry import wrap_angle

NUM_COLUMNS = (17, 18)
"""frame id type truncation occlusion alpha x1 y1 x2 y2 h w l x y z ry, and a score in result files."""


@dataclass(frozen=True)
class KittiRows:
    """N rows of a label or result file, in file order."""

    kind: np.ndarray
    """(N,) object array of str, lower case."""
    frame: np.ndarray
    """(N,) int64."""
    track_id: np.ndarray
    """(N,) int64, -1 for regions."""
    truncation: np.ndarray
    """(N,)."""
    occlusion: np.ndarray
    """(N,)."""
    rectangle_px: np.ndarray
    """(N, 4) x1, y1, x2, y2 in the picture."""
    box_ego: np.ndarray
    """(N, 9) columns `Box3D`, velocities unknown (NaN)."""
    score: np.ndarray
    """(N,) NaN where the file has none."""

    def __len__(self) -> int:
        return len(self.frame)

    def select(self, index: np.ndarray) -> "KittiRows":
        """The rows of a mask or an index array."""
        return KittiRows(*(getattr(self, column.name)[index] for column in fields(self)))


def ego_boxes_from_kitti(rows: np.ndarray) -> np.ndarray:
    """(D, 9) boxes in our camera-placed ego frame of KITTI rows (D, 7): h, w, l, x, y, z, ry. Velocities are unknown (NaN)."""
    height, width, length, x, y, z, ry = rows.T
    box = np.full((len(rows), 9), np.nan)
    box[:, :3] = np.stack([z, -x, height / 2 - y], axis=-1)
    box[:, Box3D.LENGTH : Box3D.HEIGHT + 1] = np.stack([length, width, height], axis=-1)
    box[:, Box3D.YAW] = wrap_angle(-ry - np.pi / 2)
    return box


def kitti_from_ego_boxes(box_ego: np.ndarray) -> np.ndarray:
    """(D, 7) h, w, l, x, y, z, ry: the inverse of `ego_boxes_from_kitti`."""
    x, y, z, length, width, height, yaw = box_ego[:, :7].T
    return np.stack([height, width, length, -y, height / 2 - z, x, np.asarray(wrap_angle(-yaw - np.pi / 2)).reshape(-1)], axis=-1)


def read_kitti_rows(path: Path) -> KittiRows:
    """The rows of a label or result file; a broken one is named (`DataError`)."""
    if not path.is_file():
        raise DataError(f"{path}: missing; expected a KITTI tracking file, check the path")
    kinds, numbers = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) not in NUM_COLUMNS:
            raise DataError(f"{path}, line {number}: expected 17 or 18 columns, got {len(words)}; restore the file")
        try:
            values = [float(word) for word in words[:2] + words[3:]]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: expected numbers around the type, got {line[:60]!r}; restore the file") from error
        kinds.append(words[2].lower())
        numbers.append(values if len(words) == max(NUM_COLUMNS) else [*values, np.nan])
    table = np.array(numbers, dtype=np.float64).reshape(-1, max(NUM_COLUMNS) - 1)
    frame, track_id, truncation, occlusion = table[:, :4].T
    box_ego = ego_boxes_from_kitti(table[:, 9:16])
    kind = np.array(kinds, dtype=object)
    return KittiRows(kind, frame.astype(np.int64), track_id.astype(np.int64), truncation, occlusion, table[:, 5:9], box_ego, table[:, 16])
