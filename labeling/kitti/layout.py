"""How do published KITTI tracks compare with ours? Reads the tracking layout (detections, calib, poses), writes result files per class.

Boxes and frames as in `scenes.readers.kitti`. Time stamps are not part of the layout: frames are 0.1 s apart.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from labeling.kitti.scale import estimated_pose_scale, scaled_poses, with_poses
from labeling.kitti.settings import KittiClass
from labeling.tracks.evidence import Evidence, InView
from labeling.tracks.settings import TrackingSettings
from labeling.tracks.tracking import SolvedGroup, TrackLabels, label_group, link_clip, solve_groups
from scenes.atomic import atomic_file
from scenes.boxes import CLASS_NAMES, box_corners, transform_each_box
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, invert_rigid, rigid_from_parts, wrap_angle
from scenes.readers.kitti import ego_boxes_from_kitti, kitti_from_ego_boxes
from scenes.rigs import CAM_AXES_IN_EGO

FRAME_NS = NS_PER_S // 10
IMAGE_WIDTH_PX, IMAGE_HEIGHT_PX = 1242, 375
DETECTION_COLUMNS = 15


@dataclass(frozen=True)
class KittiSequence:
    """One sequence of the layout."""

    name: str
    world_from_ego: np.ndarray
    """(T, 4, 4) visual poses in our axes."""
    img_from_cam: np.ndarray
    """(3, 4) projection matrix P2."""


def read_matrix_rows(path: Path, num_columns: int, separator: str | None = None) -> np.ndarray:
    """(R, C) numbers of a text file; a wrong row is named."""
    if not path.is_file():
        raise DataError(f"{path}: missing; is this the KITTI tracking layout (detections, calib, orbslam3)?")
    rows = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = [float(value) for value in line.split(separator)]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: expected numbers, got {line[:60]!r}; restore the file") from error
        if len(values) != num_columns or not np.isfinite(values).all():
            raise DataError(f"{path}, line {number}: expected {num_columns} finite numbers, got {len(values)}; restore the file")
        rows.append(values)
    return np.array(rows, dtype=np.float64).reshape(-1, num_columns)


def read_sequence(root: Path, name: str) -> KittiSequence:
    """Poses and calibration of one sequence."""
    path = root / "orbslam3" / f"{name}.txt"
    poses = read_matrix_rows(path, 12).reshape(-1, 3, 4)
    if not len(poses):
        raise DataError(f"{path}: expected a row a frame, got an empty file; restore it")
    bent = np.abs(np.linalg.det(poses[:, :, :3]) - 1) > 0.02
    if bent.any():
        raise DataError(f"{path}, row {int(bent.argmax()) + 1}: expected a pose (rotation and place), got no rotation; restore the file")
    first_from_cam = rigid_from_parts(poses[:, :, :3], poses[:, :, 3])
    world_from_first = rigid_from_parts(CAM_AXES_IN_EGO, np.zeros(3))  # the first camera's place with our axes
    cam_from_ego = invert_rigid(rigid_from_parts(CAM_AXES_IN_EGO, np.zeros(3)))
    world_from_ego = world_from_first @ first_from_cam @ cam_from_ego
    return KittiSequence(name, world_from_ego, _read_projection(root / "calib" / f"{name}.txt"))


def _read_projection(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: missing; is this the KITTI tracking layout (detections, calib, orbslam3)?")
    for line in path.read_text(errors="replace").splitlines():
        key, *values = line.replace(":", " ").split() or [""]
        try:
            if key == "P2" and len(values) == 12:
                return np.array(values, dtype=np.float64).reshape(3, 4)
        except ValueError:
            break
    raise DataError(f"{path}: expected a row P2 with 12 numbers, got none; restore the file")


def read_evidence(root: Path, sequence: KittiSequence, kind: KittiClass, pose_scale: float = 1.0) -> Evidence:
    """A class's detections of a sequence, in the world of its (scaled) poses; raw scores become probabilities."""
    path = root / "detections" / kind.name / f"{sequence.name}.txt"
    rows = read_matrix_rows(path, DETECTION_COLUMNS, ",")
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    frame = rows[:, 0].astype(np.int64)
    if len(frame) and (frame[0] < 0 or frame[-1] >= len(sequence.world_from_ego)):
        raise DataError(
            f"{path}: expected frames 0 to {len(sequence.world_from_ego) - 1} as in the poses, got {frame[0]} to {frame[-1]}; "
            "take detections and poses of the same sequence"
        )
    world_from_ego = scaled_poses(sequence.world_from_ego, pose_scale)
    box_ego = ego_boxes_from_kitti(rows[:, 7:14])
    box_world = transform_each_box(world_from_ego[frame], box_ego)
    score = 1 / (1 + np.exp(-(kind.score_bias + kind.score_slope * rows[:, 6])))
    stamps = np.arange(len(world_from_ego), dtype=np.int64) * FRAME_NS
    return Evidence(stamps, world_from_ego, frame, box_world, np.full(len(rows), CLASS_NAMES.index(kind.class_name)), score)


def projected_rectangle(img_from_cam: np.ndarray, box_ego: np.ndarray) -> np.ndarray:
    """(D, 4) x1, y1, x2, y2 in pixels, inside the image: the rectangle around each box's visible corners."""
    corners_cam = box_corners(box_ego) @ CAM_AXES_IN_EGO
    corners_cam[..., 2] = np.maximum(corners_cam[..., 2], 0.1)
    pixels = corners_cam @ img_from_cam[:, :3].T + img_from_cam[:, 3]
    pixels = pixels[..., :2] / pixels[..., 2:]
    low = np.clip(pixels.min(axis=1), 0, [IMAGE_WIDTH_PX, IMAGE_HEIGHT_PX])
    high = np.clip(pixels.max(axis=1), 0, [IMAGE_WIDTH_PX, IMAGE_HEIGHT_PX])
    return np.concatenate([low, high], axis=1)


def camera_in_view(sequence: KittiSequence, world_from_ego: np.ndarray) -> InView:
    """Whether a point lies in the left colour camera's picture."""

    def in_view(frames: np.ndarray, points_world: np.ndarray) -> np.ndarray:
        offset_world = points_world - world_from_ego[frames, :3, 3]
        points_cam = np.einsum("nji,nj->ni", world_from_ego[frames, :3, :3], offset_world) @ CAM_AXES_IN_EGO
        pixels = points_cam @ sequence.img_from_cam[:, :3].T + sequence.img_from_cam[:, 3]
        u = pixels[:, 0] / np.maximum(pixels[:, 2], 0.1)
        return (points_cam[:, 2] > 1.0) & (u > 0) & (u < IMAGE_WIDTH_PX)

    return in_view


def label_sequence(root: Path, name: str, kinds: tuple[KittiClass, ...]) -> tuple[dict[str, list[TrackLabels]], KittiSequence]:
    """Tracks of each class of one sequence, in the world of its poses at the scale at which parked cars stand still."""
    sequence = read_sequence(root, name)
    return track_sequence(sequence, [read_evidence(root, sequence, kind) for kind in kinds], kinds)


def track_sequence(
    sequence: KittiSequence, evidences: list[Evidence], kinds: tuple[KittiClass, ...]
) -> tuple[dict[str, list[TrackLabels]], KittiSequence]:
    """The tracking of `label_sequence` apart from reading files; `evidences` holds each class's detections."""
    groups, sequence = solve_sequence(sequence, evidences, kinds)
    in_view = camera_in_view(sequence, sequence.world_from_ego)
    found = [sorted(label_group(group, in_view), key=lambda track: -track.probability) for group in groups]
    return {kind.name: tracks for kind, tracks in zip(kinds, found, strict=True)}, sequence


def solve_sequence(
    sequence: KittiSequence, evidences: list[Evidence], kinds: tuple[KittiClass, ...]
) -> tuple[list[SolvedGroup], KittiSequence]:
    """The trajectories of each class, and the sequence with the poses they are solved in.

    Detections are linked in the world of the poses as given; chains of strong ones tell the poses' scale, and everything after
    that happens in the world of the right scale.
    """
    linked = link_clip(Evidence.concatenate(evidences), TrackingSettings(tuple(kind.settings for kind in kinds)))
    world_from_ego = scaled_poses(sequence.world_from_ego, estimated_pose_scale(linked))
    solved = solve_groups([with_poses(group, world_from_ego).stitched() for group in linked], eye_height_m=0.0)
    return solved, replace(sequence, world_from_ego=world_from_ego)


def result_lines(sequence: KittiSequence, kind: KittiClass, tracks: list[TrackLabels]) -> list[str]:
    """KITTI result rows of a class's tracks, sorted by frame; every box carries its track's probability as score."""
    if not tracks:
        return []
    frames = np.concatenate([track.frames for track in tracks])
    box_world = np.concatenate([track.box_world for track in tracks])
    track_ids = np.repeat(np.arange(len(tracks)), [len(track.frames) for track in tracks])
    box_ego = transform_each_box(invert_rigid(sequence.world_from_ego)[frames], box_world)
    rows, rectangle = kitti_from_ego_boxes(box_ego), projected_rectangle(sequence.img_from_cam, box_ego)
    alpha = wrap_angle(rows[:, 6] - np.arctan2(rows[:, 3], rows[:, 5]))
    score = np.array([track.probability for track in tracks])[track_ids]
    numbers = np.column_stack([alpha, rectangle, rows, score])
    text = " ".join(["%.4f"] * numbers.shape[1])
    return [
        f"{frames[k]} {track_ids[k]} {kind.name} 0 0 " + text % tuple(numbers[k].tolist()) for k in np.lexsort((track_ids, frames)).tolist()
    ]


def sequence_names(root: Path) -> list[str]:
    """Sequences that have poses or detections, sorted; none at all is refused."""
    names = {path.stem for pattern in ("orbslam3/*.txt", "detections/*/*.txt") for path in root.glob(pattern)}
    if not names:
        raise DataError(
            f"{root}: expected the KITTI tracking layout with orbslam3/*.txt and detections/*/*.txt, got neither; check the path"
        )
    return sorted(names)


def write_results(out: Path, sequence: KittiSequence, kind: KittiClass, tracks: list[TrackLabels]) -> None:
    """`out/<class>/<sequence>.txt`, atomically."""
    lines = result_lines(sequence, kind, tracks)
    with atomic_file(out / kind.name / f"{sequence.name}.txt") as temporary:
        temporary.write_text("".join(line + "\n" for line in lines))
