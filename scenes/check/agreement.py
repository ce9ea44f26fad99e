"""Does each camera look where its calibration says? Projected label boxes against the detections of a 2D detector.

For every camera the share of confident vehicle detections that meet a projected label box is counted, and the small turn of
the camera is estimated under which boxes and detections fit best: first by a search over a grid of yaw and pitch (mean over
detections of the best IoU), then by robust least squares on the directions of matched centres. Matches of one labelled object
over time count as one observation in the standard error.
"""

from dataclasses import dataclass

import numpy as np

from scenes.boxes import CLASS_NAMES, VEHICLE_CLASSES, Boxes
from scenes.cameras import Camera
from scenes.check.findings import Agreement, Finding, broken
from scenes.clips import Clip
from scenes.detector2d import VEHICLES_OF_COCO, Detections2D, YoloxDetector, iou_matrix
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, rotation_from_rotvec, transform_points
from scenes.layers import LabelLayer
from scenes.show.outlines import box_rectangles, boxes_at_capture, lens_holds

MIN_SCORE = 0.6
MIN_HEIGHT_PX = 40.0
MEETS_IOU = 0.5
FAR_M = 120.0
SEARCH_DEG = 8.0
SEARCH_STEP_DEG = 1.0
FEWEST_DETECTIONS = 15
FEWEST_OBJECTS = 3
OFF_DEG = 1.0
"""A turn beyond this, and beyond `OFF_ERRORS` standard errors, is called wrong."""
OFF_ERRORS = 4.0
SPREAD_RAD = np.deg2rad(0.4)
"""Residuals beyond this count less (Huber)."""
BORDER_PX = 4.0
"""Rectangles nearer than this to the picture's border are cut: their centres say nothing."""
MATCH_IOU = 0.35
ROLL_PRIOR_RAD = np.deg2rad(1.0)
LEAST_GAIN = 0.02
"""A turn that raises the mean overlap by less is no proof."""
PAIR_CENTER_RAD = np.deg2rad(SEARCH_DEG * 1.42 + 3)
PAIR_AREA_RATIO = 6.0
"""Detection and box farther apart, or more different in size, are no pair whatever the turn."""


@dataclass(frozen=True)
class Evidence:
    """What one camera gives to compare: detections and label boxes of several frames, and which pairs share a frame."""

    camera: Camera
    detection_xyxy: np.ndarray
    """(D, 4) pixels."""
    met: np.ndarray
    """(D,) bool: meets a projected box as calibrated."""
    corners_cam: np.ndarray
    """(M, 8, 3) corners of candidate boxes, in the camera frame as calibrated."""
    track_id: np.ndarray
    """(M,) object that each candidate belongs to; negative numbers are all different."""
    pair_detection: np.ndarray
    """(K,) detection of each pair."""
    pair_box: np.ndarray
    """(K,) candidate of each pair."""


def check_agreement(clip: Clip, layer: LabelLayer, detector: YoloxDetector, most_frames: int) -> tuple[dict[str, Agreement], list[Finding]]:
    """The agreement of every camera over at most `most_frames` evenly spread labelled frames, and the cameras that are off."""
    labelled = [index for index in sorted(layer.boxes_world) if 0 <= index < len(clip)]
    if len(labelled) > most_frames:
        labelled = [labelled[i] for i in np.linspace(0, len(labelled) - 1, most_frames).round().astype(int)]
    agreements = {name: judge(gather(clip, layer, detector, name, labelled)) for name in clip.rig.names}
    findings = [_finding(clip, name, agreement) for name, agreement in agreements.items() if agreement.is_off]
    return agreements, findings


def gather(clip: Clip, layer: LabelLayer, detector: YoloxDetector, name: str, frame_indices: list[int]) -> Evidence:
    """Runs the detector on one camera's pictures and collects what can be compared. Unreadable pictures are left out."""
    camera = clip.rig[name]
    detections, met, corners, tracks, pairs = [], [], [], [], []
    for index in frame_indices:
        try:
            found = confident_vehicles(detector.detect(clip.image(index, name)))
        except DataError:
            continue
        boxes_ego = _vehicles_at_capture(clip, layer, index, name)
        cam_from_ego = clip.cam_from_ego_at_ref(index, name)
        rectangles, seen = box_rectangles(camera, cam_from_ego, boxes_ego)
        overlap = iou_matrix(found.box_xyxy_px, rectangles) * seen
        corners_cam = transform_points(cam_from_ego, boxes_ego.corners())
        near = in_front(corners_cam)
        pair_detection, pair_box = _pairs(camera, found.box_xyxy_px, corners_cam[near])
        pairs.append((pair_detection + sum(map(len, detections)), pair_box + sum(map(len, corners))))
        met.append((overlap >= MEETS_IOU).any(axis=1))
        detections.append(found.box_xyxy_px)
        corners.append(corners_cam[near])
        tracks.append(boxes_ego.track_id[near])
    track_id = np.concatenate([*tracks, np.zeros(0, dtype=np.int64)])
    track_id = np.where(track_id < 0, -1 - np.arange(len(track_id)), track_id)
    return Evidence(
        camera,
        np.concatenate([*detections, np.zeros((0, 4))]),
        np.concatenate([*met, np.zeros(0, dtype=bool)]),
        np.concatenate([*corners, np.zeros((0, 8, 3))]),
        track_id,
        np.concatenate([*(p[0] for p in pairs), np.zeros(0, dtype=np.int64)]),
        np.concatenate([*(p[1] for p in pairs), np.zeros(0, dtype=np.int64)]),
    )


def confident_vehicles(found: Detections2D) -> Detections2D:
    """Cars, buses and trucks that the detector is sure of and that are high enough to be measured."""
    height = found.box_xyxy_px[:, 3] - found.box_xyxy_px[:, 1]
    vehicle = np.isin(found.label_coco, VEHICLES_OF_COCO)
    return found.select(vehicle & (found.score >= MIN_SCORE) & (height > MIN_HEIGHT_PX))


def _vehicles_at_capture(clip: Clip, layer: LabelLayer, index: int, name: str) -> Boxes:
    boxes_ego = clip.boxes_ego(layer, index) or Boxes.empty()
    boxes_ego = boxes_ego.select(np.isin(boxes_ego.class_id, [CLASS_NAMES.index(c) for c in VEHICLE_CLASSES]))
    frame = clip.frames[index]
    return boxes_at_capture(boxes_ego, (frame.views[name].timestamp_ns - frame.timestamp_ns) / NS_PER_S)


def in_front(corners_cam: np.ndarray) -> np.ndarray:
    """Which boxes (M,) of corners (M, 8, 3) have no corner behind or beside the camera and are not too far away."""
    distance = np.linalg.norm(corners_cam, axis=-1)
    return (corners_cam[..., 2] > 0.15 * distance).all(axis=1) & (distance.min(axis=1, initial=np.inf) < FAR_M)


def _pairs(camera: Camera, found_xyxy: np.ndarray, corners_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the detections (D, 4) and boxes (M, 8, 3) of one frame that a small turn could bring together."""
    ray_found = camera.unproject((found_xyxy[:, :2] + found_xyxy[:, 2:]) / 2)
    center = corners_cam.mean(axis=1)
    ray_box = center / np.maximum(np.linalg.norm(center, axis=1, keepdims=True), 1e-9)
    pixels = camera.project(corners_cam)[0]
    area_box = np.prod(np.ptp(pixels, axis=1), axis=1) if len(pixels) else np.zeros(0)
    area_found = np.prod(found_xyxy[:, 2:] - found_xyxy[:, :2], axis=1)
    close = np.arccos(np.clip(ray_found @ ray_box.T, -1, 1)) < PAIR_CENTER_RAD
    ratio = area_found[:, None] / np.maximum(area_box[None], 1e-9)
    rows, columns = np.nonzero(close & (ratio < PAIR_AREA_RATIO) & (ratio > 1 / PAIR_AREA_RATIO))
    return rows, columns


def judge(evidence: Evidence) -> Agreement:
    """Counts the meetings and estimates the turn that the camera needs."""
    num, num_met = len(evidence.detection_xyxy), int(evidence.met.sum())
    if num < FEWEST_DETECTIONS or not len(evidence.pair_box):
        return Agreement(num, num_met, 0)
    fits_before = best_ious(evidence, np.zeros(3)).mean()
    rotvec, covariance, num_objects = _refine(evidence, _search(evidence))
    if num_objects < FEWEST_OBJECTS:
        return Agreement(num, num_met, num_objects, mean_iou=float(fits_before))
    fits_after = best_ious(evidence, rotvec).mean()
    angle = np.linalg.norm(rotvec)
    direction = rotvec / max(angle, 1e-9)
    error = np.sqrt(direction @ covariance @ direction)
    left, up, clockwise = np.rad2deg([rotvec[1], -rotvec[0], -rotvec[2]])  # the boxes turn one way, the camera the other
    return Agreement(
        num_detections=num,
        num_met=num_met,
        num_objects=num_objects,
        turn_deg=(float(left), float(up), float(clockwise)),
        error_deg=float(np.rad2deg(error)),
        mean_iou=float(fits_before),
        mean_iou_turned=float(fits_after),
        is_off=bool(angle > np.deg2rad(OFF_DEG) and angle > OFF_ERRORS * error and fits_after - fits_before > LEAST_GAIN),
    )


def turned_rectangles(evidence: Evidence, rotvec: np.ndarray) -> np.ndarray:
    """(M, 4) rectangles around the candidates' corners after the turn `rotvec` (3,) of all points in the camera frame.

    Candidates that leave the lens get an empty rectangle.
    """
    camera = evidence.camera
    corners = evidence.corners_cam @ rotation_from_rotvec(rotvec).T
    pixels = camera.project(corners)[0]
    limit = np.array([camera.width_px, camera.height_px]) - 0.5
    low, high = np.clip(pixels.min(axis=1), -0.5, limit), np.clip(pixels.max(axis=1), -0.5, limit)
    rectangles = np.concatenate([low, high], axis=1)
    rectangles[~lens_holds(camera, corners).any(axis=1)] = 0
    return rectangles


def pair_ious(evidence: Evidence, rotvec: np.ndarray) -> np.ndarray:
    """(K,) overlap of every pair's detection and turned box."""
    a, b = evidence.detection_xyxy[evidence.pair_detection], turned_rectangles(evidence, rotvec)[evidence.pair_box]
    overlap = np.prod(np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0), axis=1)
    union = np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[:, 2:] - b[:, :2], axis=1) - overlap
    return overlap / np.maximum(union, 1e-9)


def best_ious(evidence: Evidence, rotvec: np.ndarray) -> np.ndarray:
    """(D,) the best overlap that each detection finds among the turned boxes."""
    best = np.zeros(len(evidence.detection_xyxy))
    np.maximum.at(best, evidence.pair_detection, pair_ious(evidence, rotvec))
    return best


def _search(evidence: Evidence) -> np.ndarray:
    """The turn (3,) of a grid over yaw and pitch under which detections fit best."""
    steps = np.deg2rad(np.arange(-SEARCH_DEG, SEARCH_DEG + 1e-9, SEARCH_STEP_DEG))
    grid = [np.array([pitch, yaw, 0.0]) for pitch in steps for yaw in steps]
    return max(grid, key=lambda rotvec: best_ious(evidence, rotvec).mean())


def _matches(evidence: Evidence, rotvec: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rays (P, 3) of the detections' centres and of their boxes' centres after the turn, and the boxes' object ids (P,).

    Only pairs that are each other's best, overlap well and are not cut by the picture's border.
    """
    overlap, rectangles = pair_ious(evidence, rotvec), turned_rectangles(evidence, rotvec)
    size = np.array([evidence.camera.width_px, evidence.camera.height_px])

    def whole(xyxy: np.ndarray) -> np.ndarray:
        return np.asarray((xyxy[:, :2] > BORDER_PX).all(axis=1) & (xyxy[:, 2:] < size - BORDER_PX).all(axis=1))

    best_of_box = np.zeros(len(rectangles))
    np.maximum.at(best_of_box, evidence.pair_box, overlap)
    mutual = (overlap == best_ious(evidence, rotvec)[evidence.pair_detection]) & (overlap == best_of_box[evidence.pair_box])
    found, boxes = evidence.detection_xyxy[evidence.pair_detection], rectangles[evidence.pair_box]
    use = mutual & (overlap >= MATCH_IOU) & whole(found) & whole(boxes)
    rays = [evidence.camera.unproject((xyxy[use, :2] + xyxy[use, 2:]) / 2) for xyxy in (found, boxes)]
    return rays[0], rays[1], evidence.track_id[evidence.pair_box[use]]


def _refine(evidence: Evidence, rotvec: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The turn (3,) after robust least squares on matched rays, its covariance (3, 3), and how many objects it stands on.

    Every object weighs the same however often it was seen; roll is held near zero unless the matches speak against it.
    """
    covariance, num_objects = np.full((3, 3), np.inf), 0
    for _ in range(8):
        ray_found, ray_box, track = _matches(evidence, rotvec)
        objects, group = np.unique(track, return_inverse=True)
        num_objects = len(objects)
        if num_objects < FEWEST_OBJECTS:
            return rotvec, covariance, num_objects
        residual = ray_found - ray_box
        size = np.linalg.norm(residual, axis=1)
        weight = np.minimum(1, SPREAD_RAD / np.maximum(size, 1e-9)) / np.bincount(group)[group] / SPREAD_RAD**2
        slope = -_cross_matrices(ray_box)  # d(rotvec x ray)/d(rotvec)
        gradient = np.einsum("p,pij,pi->pj", weight, slope, residual)
        normal = np.einsum("p,pij,pik->jk", weight, slope, slope) + np.diag([0.0, 0.0, 1 / ROLL_PRIOR_RAD**2])
        inverse = np.linalg.inv(normal + 1e-6 * np.trace(normal) * np.eye(3))
        step = inverse @ (gradient.sum(axis=0) - np.array([0.0, 0.0, rotvec[2] / ROLL_PRIOR_RAD**2]))
        rotvec = rotvec + step
        by_object = np.zeros((num_objects, 3))
        np.add.at(by_object, group, gradient - np.einsum("p,pij,pik,k->pj", weight, slope, slope, step))
        spread = by_object.T @ by_object * num_objects / (num_objects - 1)
        covariance = inverse @ spread @ inverse + np.eye(3) * np.deg2rad(0.05) ** 2
        if np.linalg.norm(step) < np.deg2rad(0.01):
            break
    return rotvec, covariance, num_objects


def _cross_matrices(vectors: np.ndarray) -> np.ndarray:
    """(P, 3, 3) matrices whose product with x is vector (P, 3) cross x."""
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    return np.stack([np.stack(row, axis=-1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))], axis=-2)


def _finding(clip: Clip, name: str, agreement: Agreement) -> Finding:
    text = (
        f"{clip.path / 'clip.json'}, camera {name!r}: its extrinsic looks turned by {agreement.angle_deg:.1f} degrees "
        f"(+-{agreement.error_deg:.1f}): {agreement.share:.0%} of {agreement.num_detections} detections meet a label box, and they fit "
        f"best after the camera is turned {describe_turn(agreement)}; recalibrate it or correct its ego_from_cam"
    )
    return broken("calibration", text, name)


def describe_turn(agreement: Agreement) -> str:
    """The estimated turn in words for people, largest part first; "" if there was too little to judge."""
    if agreement.turn_deg is None:
        return ""
    words = (("left", "right"), ("up", "down"), ("clockwise", "counterclockwise"))
    parts = sorted(zip(agreement.turn_deg, words, strict=True), key=lambda part: -abs(part[0]))
    said = [f"{abs(angle):.1f} degrees {names[0] if angle > 0 else names[1]}" for angle, names in parts if abs(angle) >= 0.15]
    return " and ".join(said) or "not at all"
