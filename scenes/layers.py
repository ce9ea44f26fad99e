"""What does one source say about a clip? A label layer: boxes with tracks, lanes, occupancy, dense image truth.

Layers of one clip live beside each other under `layers/<name>/` and are never overwritten silently. Names read `truth`,
`human`, `auto@<run>` or `model@<checkpoint>`. Boxes and lanes are stored in the clip's world frame.
"""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import cv2
import numpy as np

from scenes.atomic import atomic_folder, check_schema_version, read_json, write_json
from scenes.boxes import BOX_UNITS, CENTRE_DISTANCES_M, CLASS_NAMES, Boxes, class_id_of
from scenes.errors import DataError
from scenes.tables import read_table, write_table

LAYER_SCHEMA_VERSION = 1
DEPTH_UNIT_M = 1 / 256
"""One step of a 16-bit depth image, as far as 255.996 m; 0 is unknown or sky. Depth is the distance along the pixel's ray,
the same for every lens (not the z of the camera frame)."""

OCCUPANCY_FREE = 0
OCCUPANCY_OTHER = 1
"""Occupied by something static without a class of ours (building, tree, pole, fence)."""
OCCUPANCY_ROAD = 2
OCCUPANCY_CLASS_OFFSET = 3
"""Occupied by an object of class k: state 3 + k."""
OCCUPANCY_STATES = ("free", "other", "road", *CLASS_NAMES)
OCCUPANCY_UNKNOWN = 255


class LaneType(Enum):
    """What a polyline of the map is; `value` is the name on disk."""

    DIVIDER = "divider"
    ROAD_EDGE = "road_edge"
    CENTRELINE = "centreline"
    CROSSING = "crossing"


@dataclass(frozen=True)
class Lane:
    """One polyline of the road map, in the world frame."""

    lane_id: int
    type: LaneType
    points_world: np.ndarray
    """(P, 3) float64, P >= 2; a crossing is its closed outline."""


@dataclass(frozen=True)
class VoxelGrid:
    """A grid of voxels in the ego frame; index (i, j, k) grows with x, y, z."""

    min_ego_m: tuple[float, float, float] = (-40.0, -40.0, -1.0)
    voxel_m: tuple[float, float, float] = (1.0, 1.0, 0.5)
    shape: tuple[int, int, int] = (80, 80, 8)

    def centers_ego(self) -> np.ndarray:
        """(X, Y, Z, 3) voxel centres."""
        axes = [low + (np.arange(n) + 0.5) * size for low, n, size in zip(self.min_ego_m, self.shape, self.voxel_m, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)

    def index_of(self, points_ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integer indices (..., 3) of points (..., 3), and whether each lies inside the grid (...)."""
        index = np.floor((points_ego - np.array(self.min_ego_m)) / np.array(self.voxel_m)).astype(np.int64)
        return index, np.all((index >= 0) & (index < np.array(self.shape)), axis=-1)


@dataclass(frozen=True)
class Occupancy:
    """Voxels of one frame, in its ego frame at the reference time."""

    grid: VoxelGrid
    state: np.ndarray
    """(X, Y, Z) uint8: see `OCCUPANCY_STATES`, or `OCCUPANCY_UNKNOWN` where nothing was observed."""
    flow_mps: np.ndarray
    """(X, Y, Z, 2) float32: velocity over ground of what fills the voxel, in ego axes; zero where static."""


@dataclass
class LabelLayer:
    """What one source says about a clip. `boxes_world[i]` belongs to frame i; frames without entry were not labelled."""

    name: str
    boxes_world: dict[int, Boxes] = field(default_factory=dict)
    """Frame index to boxes in the world frame; a labelled frame without objects holds an empty `Boxes`."""
    lanes: list[Lane] = field(default_factory=list)
    meta: dict = field(default_factory=dict)
    """JSON values: who made it, with which settings (`created_by`, `config`, ...)."""
    path: Path | None = None
    """Folder it was read from; occupancy, depth and instances are read from there on demand."""

    @property
    def source(self) -> str:
        """`truth`, `human`, `auto` or `model`: the part of the name before `@`."""
        return self.name.split("@")[0]

    def occupancy(self, frame_index: int) -> Occupancy | None:
        """The frame's voxels, or None if the layer has none for it."""
        path = self._file("occupancy", f"{frame_index:06d}.npz")
        if path is None:
            return None
        try:
            with np.load(path, allow_pickle=False) as values:
                grid = VoxelGrid(tuple(values["min_ego_m"].tolist()), tuple(values["voxel_m"].tolist()), values["state"].shape)
                flow = np.zeros((*values["state"].shape, 2), dtype=np.float32)
                flow.reshape(-1, 2)[values["flow_index"]] = values["flow_value"].astype(np.float32)
                return Occupancy(grid, values["state"], flow)
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{path}: not readable as occupancy ({error}); write the layer again") from error

    def depth_m(self, frame_index: int, camera: str) -> np.ndarray | None:
        """(H, W) float32 metres along each pixel's ray; 0 unknown or sky. None if absent."""
        image = self._image("depth", camera, frame_index)
        return None if image is None else image.astype(np.float32) * DEPTH_UNIT_M

    def instances(self, frame_index: int, camera: str) -> np.ndarray | None:
        """(H, W) int32: track id of the object seen in each pixel, -1 for none. None if absent."""
        image = self._image("instances", camera, frame_index)
        return None if image is None else image.astype(np.int32) - 1

    def _file(self, *parts: str) -> Path | None:
        path = self.path.joinpath(*parts) if self.path else None
        return path if path is not None and path.is_file() else None

    def _image(self, kind: str, camera: str, frame_index: int) -> np.ndarray | None:
        path = self._file(kind, camera, f"{frame_index:06d}.png")
        if path is None:
            return None
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None or image.dtype != np.uint16 or image.ndim != 2:
            raise DataError(f"{path}: expected a 16-bit grey PNG, got something else; write the layer again")
        return image


BOX_TABLE_COLUMNS = ("frame_index", "track_id", "class", *BOX_UNITS, "score", "visibility", "num_points", "ignore", "provenance")
WITHIN_COLUMNS = tuple(f"probability_within_{distance:g}_m".replace(".", "_") for distance in CENTRE_DISTANCES_M)
"""Columns that only layers of the labeler have, as have `evidence` and `cameras`; readers take them for unknown where they are absent."""


def write_layer_files(folder: Path, layer: LabelLayer) -> None:
    """Writes `layer.json`, `boxes.parquet` and `lanes.parquet` of a layer into an existing folder (see `write_layer`)."""
    indices = sorted(layer.boxes_world)
    boxes = Boxes.concatenate([layer.boxes_world[i] for i in indices])
    frame_index = np.repeat(np.array(indices, dtype=np.int64), [len(layer.boxes_world[i]) for i in indices])
    write_table(
        folder / "boxes.parquet",
        {
            "frame_index": frame_index,
            "track_id": boxes.track_id,
            "class": np.array([CLASS_NAMES[k] for k in boxes.class_id], dtype=str),
            **{name: boxes.box[:, column] for column, name in enumerate(BOX_UNITS)},
            "score": boxes.score,
            "visibility": boxes.visibility,
            "num_points": boxes.num_points,
            "ignore": boxes.ignore,
            "provenance": boxes.provenance.astype(str),
            **_optional_columns(boxes),
        },
    )
    write_table(
        folder / "lanes.parquet",
        {
            "lane_id": np.array([lane.lane_id for lane in layer.lanes], dtype=np.int64),
            "type": np.array([lane.type.value for lane in layer.lanes], dtype=str),
            **{f"{axis}_m": [lane.points_world[:, k].tolist() for lane in layer.lanes] for k, axis in enumerate("xyz")},
        },
    )
    write_json(
        folder / "layer.json",
        {"schema_version": LAYER_SCHEMA_VERSION, "name": layer.name, "labelled_frames": indices, "meta": layer.meta},
    )


def _optional_columns(boxes: Boxes) -> dict[str, np.ndarray]:
    columns = {name: boxes.within[:, k] for k, name in enumerate(WITHIN_COLUMNS)} if np.isfinite(boxes.within).any() else {}
    texts = {name: getattr(boxes, name).astype(str) for name in ("evidence", "cameras")}
    return {**columns, **{name: values for name, values in texts.items() if (values != "").any()}}


def _within(columns: dict[str, np.ndarray], path: Path) -> np.ndarray | None:
    if any(name not in columns for name in WITHIN_COLUMNS):
        return None
    within = np.stack([columns[name] for name in WITHIN_COLUMNS], axis=1).astype(np.float64)
    wrong = ~(np.isnan(within) | ((within >= 0) & (within <= 1))).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{path}, row {row}: expected probabilities from 0 to 1, got {within[row].tolist()}; correct or drop the row")
    return within


def write_occupancy(folder: Path, frame_index: int, occupancy: Occupancy) -> None:
    """Adds one frame's voxels to a layer folder that is being written; flow is kept only where it is not zero."""
    moving = np.flatnonzero((occupancy.flow_mps != 0).any(axis=-1).reshape(-1))
    path = folder / "occupancy" / f"{frame_index:06d}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        min_ego_m=np.array(occupancy.grid.min_ego_m),
        voxel_m=np.array(occupancy.grid.voxel_m),
        state=occupancy.state,
        flow_index=moving,
        flow_value=occupancy.flow_mps.reshape(-1, 2)[moving].astype(np.float16),
    )


def write_image16(folder: Path, kind: str, camera: str, frame_index: int, image: np.ndarray) -> None:
    """Adds one 16-bit PNG (`kind` is "depth" or "instances", already in storage units) to a layer folder being written."""
    path = folder / kind / camera / f"{frame_index:06d}.png"
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    if not cv2.imwrite(str(path), image.astype(np.uint16), [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise DataError(f"{path}: could not be written; free space or choose another folder")


def write_layer(clip_path: Path, layer: LabelLayer, replace: bool = False) -> Path:
    """Writes boxes, lanes and meta of a layer into a clip, atomically; an existing layer is refused unless `replace`."""
    path = Path(clip_path) / "layers" / layer.name
    with atomic_folder(path, replace=replace) as temporary:
        write_layer_files(temporary, layer)
    return path


def read_layer(path: Path) -> LabelLayer:
    """The layer of one folder, validated: a broken row is named in the error."""
    path = Path(path)
    header = read_json(path / "layer.json")
    check_schema_version(header, path / "layer.json", LAYER_SCHEMA_VERSION)
    table_path = path / "boxes.parquet"
    columns = read_table(table_path, BOX_TABLE_COLUMNS)
    box = np.stack([columns[name] for name in BOX_UNITS], axis=1).astype(np.float64)
    _check_boxes(table_path, box, columns["score"])
    class_id = np.array([class_id_of(name, f"{table_path}, row {row}") for row, name in enumerate(columns["class"])], dtype=np.int64)
    given = {name: columns[name] for name in ("track_id", "score", "visibility", "num_points", "ignore", "provenance")}
    optional = {name: columns[name] for name in ("evidence", "cameras") if name in columns}
    boxes = Boxes.make(box, class_id, **given, within=_within(columns, table_path), **optional)
    labelled = header.get("labelled_frames", np.unique(columns["frame_index"]).tolist())
    unlisted = np.setdiff1d(columns["frame_index"], labelled)
    if len(unlisted):
        raise DataError(
            f"{table_path}: expected boxes of the frames that layer.json lists as labelled, got some of frame {unlisted[0]}; "
            "list it or drop them"
        )
    order = {int(i): np.flatnonzero(columns["frame_index"] == i) for i in labelled}
    return LabelLayer(
        name=str(header.get("name", path.name)),
        boxes_world={i: boxes.select(rows) for i, rows in order.items()},
        lanes=_read_lanes(path / "lanes.parquet"),
        meta=header.get("meta", {}),
        path=path,
    )


def _check_boxes(path: Path, box: np.ndarray, score: np.ndarray) -> None:
    bad = ~np.isfinite(box[:, :7]).all(axis=1) | (box[:, 3:6] <= 0).any(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{path}, row {row}: expected a finite box with positive sizes, got {box[row].tolist()}; correct or drop the row")
    wrong = ~((score >= 0) & (score <= 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{path}, row {row}: expected a score from 0 to 1, got {score[row]}; correct or drop the row")


def _read_lanes(path: Path) -> list[Lane]:
    if not path.is_file():
        return []
    columns = read_table(path, ("lane_id", "type", "x_m", "y_m", "z_m"))
    lanes = []
    for row, (lane_id, name, *axes) in enumerate(zip(*(columns[c] for c in ("lane_id", "type", "x_m", "y_m", "z_m")), strict=True)):
        points = np.stack([np.asarray(axis, dtype=np.float64) for axis in axes], axis=1)
        if len(points) < 2 or not np.isfinite(points).all():
            raise DataError(f"{path}, row {row}: expected at least two finite points, got {len(points)}; correct or drop the row")
        if name not in [kind.value for kind in LaneType]:
            known = ", ".join(kind.value for kind in LaneType)
            raise DataError(f"{path}, row {row}: unknown lane type {name!r}; expected one of {known}; map or drop it")
        lanes.append(Lane(int(lane_id), LaneType(name), points))
    return lanes
