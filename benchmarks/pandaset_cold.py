"""How good are labels made of real pictures alone? PandaSet 002, YOLOX-nano, no 3D label: found, false, place, heading, velocity, time.

python -m benchmarks.pandaset_cold ../shared/realdata/pandaset ../shared/weights/yolox_nano.onnx

Truth are the cuboids of vehicles (car, truck, bus, trailer, construction vehicle) within 30 m of the ego vehicle that a camera sees: at
least 30 % of the cuboid's outline lies inside one picture and in front of all other cuboids (painted from far to near), and at least
5 lidar points lie in it in the nearest of the three sweeps (walls and fences are no cuboids). A label is right if its centre is within 2 m
of such a cuboid, one to one in each frame. Labels on cuboids that are not asked for (hidden, ignored) count neither way. Labels written as
`ignore` are left out. A second column asks for all that a camera sees by 5 % and that has one lidar point. Cuboids and lidar are looked at
here only, after the labels are written.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from scipy.optimize import linear_sum_assignment

from labeling.clip_labels import label_clip
from labeling.lifting.image_boxes import read_image_boxes
from labeling.lifting.observations import pixels_of
from labeling.settings import LabelSettings
from scenes.boxes import CENTRE_DISTANCES_M, CLASS_NAMES, VEHICLE_CLASSES, Box3D, Boxes
from scenes.clips import Clip, find_clips, sweep_path
from scenes.detector2d import iou_matrix
from scenes.geometry import transform_points, wrap_angle
from scenes.layers import LabelLayer
from scenes.readers.command import import_dataset
from scenes.show.bev import bev_view
from scenes.show.outlines import box_rectangles
from scenes.show.sheet import camera_sheet

RANGE_M = 30.0
RIGHT_M = 2.0
LEAST_SHARE = 0.3
LEAST_POINTS = 5
WIDE_SHARE = 0.05
WIDE_POINTS = 1
"""A second column asks for everything of which a camera sees this little and that has a single lidar point."""
MOVING_MPS = 1.0
PAINT_STEP = 4
"""The cuboids are painted into pictures this many times smaller."""
VEHICLES = [CLASS_NAMES.index(name) for name in VEHICLE_CLASSES]


@dataclass(frozen=True)
class FrameTruth:
    """The vehicles of one frame, in the ego frame."""

    boxes_ego: Boxes
    asked: np.ndarray
    """(M,) bool: to be found."""


def seen_shares(clip: Clip, frame: int, boxes_ego: Boxes) -> np.ndarray:
    """(M,) the largest share of each cuboid's outline that one camera sees, behind no other cuboid."""
    best = np.zeros(len(boxes_ego))
    for name in clip.rig.names:
        camera = clip.rig[name]
        corners_cam = transform_points(clip.cam_from_ego_at_ref(frame, name), boxes_ego.corners())
        painted = np.full((camera.height_px // PAINT_STEP, camera.width_px // PAINT_STEP), -1, dtype=np.int32)
        whole = np.full(len(boxes_ego), np.inf)
        for k in np.argsort(-np.linalg.norm(corners_cam.mean(axis=1), axis=1)):
            if corners_cam[k, :, 2].max() < 0.5:
                continue
            hull = cv2.convexHull((pixels_of(camera, corners_cam[k]) / PAINT_STEP).clip(-4000, 4000).astype(np.float32))
            whole[k] = max(cv2.contourArea(hull), 1.0)
            mask = np.zeros(painted.shape, dtype=np.uint8)
            cv2.fillConvexPoly(mask, hull.round().astype(np.int32), 1)
            painted[mask > 0] = k
        count = np.bincount(painted[painted >= 0], minlength=len(boxes_ego))
        best = np.maximum(best, np.minimum(count / whole, 1.0))
    return best


def read_truth(clip: Clip, least_share: float = LEAST_SHARE, least_points: int = LEAST_POINTS) -> dict[int, FrameTruth]:
    """The vehicles of every frame, and which of them a camera sees."""
    layer = clip.layer("truth")
    swept = sorted(int(path.stem) for path in (clip.path / "lidar").glob("*.npz"))
    points = {f: dict(zip(layer.boxes_world[f].track_id.tolist(), layer.boxes_world[f].num_points.tolist(), strict=True)) for f in swept}
    truth = {}
    for frame in range(len(clip)):
        boxes_ego = clip.boxes_ego(layer, frame) or Boxes.empty()
        boxes_ego = boxes_ego.select(np.isin(boxes_ego.class_id, VEHICLES))
        near = sorted(swept, key=lambda f: abs(f - frame))
        counts = [next((points[f][t] for f in near if t in points[f]), least_points) for t in boxes_ego.track_id.tolist()]
        asked = (seen_shares(clip, frame, boxes_ego) >= least_share) & (np.array(counts) >= least_points) & ~boxes_ego.ignore
        truth[frame] = FrameTruth(boxes_ego, asked & (np.hypot(*boxes_ego.box[:, :2].T) < RANGE_M))
    return truth


def pairs_of(found: Boxes, truth: FrameTruth) -> list[tuple[int, int]]:
    """Rows of true and found boxes that are one, asked ones first, then nearest."""
    apart = np.linalg.norm(truth.boxes_ego.box[:, None, :2] - found.box[None, :, :2], axis=-1)
    gain = np.where(apart < RIGHT_M, 1 + RIGHT_M - apart + 10 * truth.asked[:, None], 0.0)
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(-gain), strict=True) if gain[i, j] > 0]


def measure(clip: Clip, truth: dict[int, FrameTruth], layer: LabelLayer) -> dict[str, float]:
    """Recall, precision and the median errors of a layer's labels."""
    hits = misses = false = 0
    rows: list[tuple[float, float, float, float]] = []
    said: list[np.ndarray] = []
    apart_m: list[float] = []
    for frame, here in truth.items():
        found = clip.boxes_ego(layer, frame) or Boxes.empty()
        found = found.select(np.isin(found.class_id, VEHICLES) & ~found.ignore)
        pairs = pairs_of(found, here)
        asked = [(i, j) for i, j in pairs if here.asked[i]]
        free = np.setdiff1d(np.arange(len(found)), [j for _, j in pairs])
        free = free[np.hypot(*found.box[free, :2].T) < RANGE_M]
        hits, misses, false = hits + len(asked), misses + int(here.asked.sum()) - len(asked), false + len(free)
        errors = [_errors(here.boxes_ego.box[i], found.box[j]) for i, j in asked]
        rows += errors
        said += [found.within[j] for j in (*(j for _, j in asked), *free.tolist())]
        apart_m += [error[0] for error in errors] + [np.inf] * len(free)
    error = np.array(rows).reshape(-1, 4)
    moving = error[:, 3] > MOVING_MPS
    within, distance_m = np.array(said).reshape(-1, len(CENTRE_DISTANCES_M)), np.array(apart_m)
    calibration = [calibration_error(within[:, k], (distance_m < limit).astype(float)) for k, limit in enumerate(CENTRE_DISTANCES_M)]
    return {
        "recall": hits / max(hits + misses, 1),
        "precision": hits / max(hits + false, 1),
        "centre_m": float(np.median(error[:, 0])),
        "centre_p95_m": float(np.percentile(error[:, 0], 95)),
        "moving_heading_deg": float(np.rad2deg(np.median(error[moving, 1]))),
        "moving_velocity_mps": float(np.median(error[moving, 2])),
        "standing_heading_deg": float(np.rad2deg(np.median(np.minimum(error[~moving, 1], np.pi - error[~moving, 1])))),
        **{f"calibration_{limit:g}_m": error for limit, error in zip(CENTRE_DISTANCES_M, calibration, strict=True)},
        "asked": float(hits + misses),
        "asked_moving_found": float(moving.sum()),
    }


def _errors(true: np.ndarray, found: np.ndarray) -> tuple[float, float, float, float]:
    """Centre, heading and velocity error, and the true speed."""
    velocity = slice(Box3D.VX, Box3D.VY + 1)
    turn = abs(float(wrap_angle(found[Box3D.YAW] - true[Box3D.YAW])))
    return (
        float(np.hypot(*(found[:2] - true[:2]))),
        turn,
        float(np.hypot(*(found[velocity] - true[velocity]))),
        float(np.hypot(*true[velocity])),
    )


def calibration_error(score: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Mean gap between probability and share of right boxes over bins of equal count."""
    parts = np.array_split(np.argsort(score, kind="stable"), bins)
    return float(sum(len(p) * abs(score[p].mean() - right[p].mean()) for p in parts if len(p)) / max(len(score), 1))


def detector_recall(clip: Clip, truth: dict[int, FrameTruth], boxes_path: Path, least_iou: float = 0.4) -> float:
    """The share of asked vehicles whose projected cuboid some rectangle of the detector meets, in any camera, frame by frame."""
    found = read_image_boxes(boxes_path)
    met = asked = 0
    for frame, here in truth.items():
        hit = np.zeros(len(here.boxes_ego), dtype=bool)
        for number, name in enumerate(clip.rig.names):
            rectangles, seen = box_rectangles(clip.rig[name], clip.cam_from_ego_at_ref(frame, name), here.boxes_ego)
            mine = found.box_xyxy_px[(found.frame == frame) & (found.camera == number) & (found.kind == 0)]
            hit |= seen & (iou_matrix(rectangles, mine) > least_iou).any(axis=1)
        met, asked = met + int((hit & here.asked).sum()), asked + int(here.asked.sum())
    return met / max(asked, 1)


def main(
    source: tyro.conf.Positional[Path],
    detector: tyro.conf.Positional[Path],
    out: Path = Path("out/benchmarks/pandaset_cold"),
    frames: tuple[int, ...] = (5, 25, 45),
    lidar: bool = False,
) -> None:
    """Prints the table and the wall time of every stage, and draws a sheet of some frames.

    Args:
        source: The PandaSet folder.
        detector: ONNX file of the 2D detector.
        out: Where the clip, its labels and the pictures go.
        frames: Frames to draw.
        lidar: Also take distances from the clip's few sweeps (`label --lidar`), and measure those frames apart.
    """
    shutil.rmtree(out, ignore_errors=True)
    import_dataset("pandaset", source, out / "clips")
    path = find_clips(out / "clips")[0]
    begun_s = time.process_time()
    results = label_clip(path, LabelSettings("auto@cold", detector=detector, lidar=lidar))
    worked_s = time.process_time() - begun_s
    clip = Clip.open(path)
    layer = clip.layer("auto@cold")
    boxes_path = path / next(result.artefact for result in results if result.name == "boxes2d")
    truths = [read_truth(clip), read_truth(clip, WIDE_SHARE, WIDE_POINTS)]
    print(f"{'':22s} seen by {LEAST_SHARE:.0%}   by {WIDE_SHARE:.0%}")
    for rows in zip(*(measure(clip, truth, layer).items() for truth in truths), strict=True):
        print(f"{rows[0][0]:22s}" + "".join(f" {value:10.3f}" for _, value in rows))
    swept = {frame: here for frame, here in truths[0].items() if sweep_path(clip.path, frame).is_file()}
    figures = measure(clip, swept, layer)
    print(
        f"frames with a sweep: recall {figures['recall']:.3f}, centre {figures['centre_m']:.3f} m (95 %: {figures['centre_p95_m']:.3f} m)"
    )
    alone = [detector_recall(clip, truth, boxes_path) for truth in truths]
    print(
        f"{'detector alone':22s}" + "".join(f" {value:10.3f}" for value in alone) + "  (IoU 0.4 with the projected cuboid, single frames)"
    )
    seconds = sum(result.seconds for result in results)
    length_s = len(clip) * 0.1
    print(", ".join(f"{result.name} {result.seconds:.1f} s" for result in results))
    print(f"together {seconds:.1f} s for {length_s:.1f} s of six cameras: {seconds / length_s:.1f} x real time")
    print(f"processor time of all threads {worked_s:.1f} s: {worked_s / length_s:.1f} x real time on one core that does nothing else")
    draw(clip, [layer, clip.layer("truth")], frames, out)


def draw(clip: Clip, layers: list[LabelLayer], frames: tuple[int, ...], out: Path) -> None:
    """All cameras and the view from above of some frames, the labels solid and the truth dashed."""
    vehicles = [
        LabelLayer(layer.name, {i: b.select(np.isin(b.class_id, VEHICLES) & ~b.ignore) for i, b in layer.boxes_world.items()})
        for layer in layers
    ]
    for frame in frames:
        sheet = camera_sheet(clip, frame, vehicles, tile_width_px=640)
        above = bev_view(clip, frame, vehicles, size_px=900, range_m=35.0)
        for name, picture in ((f"cameras_{frame}.png", sheet), (f"above_{frame}.png", above)):
            cv2.imwrite(str(out / name), np.ascontiguousarray(picture[:, :, ::-1]))
    print(f"drawn: {out}/cameras_*.png, {out}/above_*.png")


if __name__ == "__main__":
    tyro.cli(main)
