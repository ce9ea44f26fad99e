"""Does each camera look where its calibration says? Projected label boxes against the detections of a 2D detector.

For every camera the share of confident vehicle detections that meet a projected label box is counted, and the small turn of
the camera is estimated under which boxes and detections fit best: first by a search over a grid of yaw and pitch (mean over
detections of the best IoU), then by robust least squares on the edges of matched rectangles. Matches of one labelled object
over time count as one observation in the standard error.
"""

from dataclasses import dataclass

import numpy as np

from scenes.boxes import CLASS_NAMES, VEHICLE_CLASSES, Box3D, Boxes
from scenes.cameras import Camera
from scenes.check.findings import Agreement, Finding, broken
from scenes.clips import Clip
from scenes.detector2d import VEHICLES_OF_COCO, Detections2D, YoloxDetector, iou_matrix
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, rotation_from_rotvec, rotation_from_yaw, transform_points
from scenes.layers import LabelLayer
from scenes.show.outlines import box_rectangles, boxes_at_capture, lens_holds

MIN_SCORE = 0.6
MIN_HEIGHT_PX = 40.0
MEETS_IOU = 0.5
FAR_M = 120.0
SEARCH_DEG = 7.5
SEARCH_STEP_DEG = 1.5
SEARCH_DETECTIONS = 100
"""The search looks at no more detections than this; the estimate that follows takes all."""
SEARCH_COST_PER_RAD = 0.15
"""Of two turns that fit about as well the smaller one is taken (a row of parked cars fits itself, moved on by one)."""
FEWEST_DETECTIONS = 15
FEWEST_OBJECTS = 2
OFF_DEG = 1.0
"""A turn beyond this, and beyond `OFF_ERRORS` standard errors, is called wrong."""
OFF_ERRORS = 2.0
SPREAD_RAD = np.deg2rad(0.35)
"""How far a detection lies from the box of the same small object."""
BORDER_PX = 4.0
"""Rectangles nearer than this to the picture's border are cut: their centres say nothing."""
MATCH_IOU = 0.35
ROLL_PRIOR_RAD = np.deg2rad(1.0)
BODY = np.array(
    [
        (side * (0.5 - inset_x), other * (0.5 - inset_y), height)
        for height, roof_x, roof_y in ((-0.5, 0.0, 0.0), (0.0, 0.0, 0.0), (0.5, 0.2, 0.12))
        for inset_x, inset_y in ((roof_x + 0.12, roof_y), (roof_x, roof_y + 0.25))
        for side in (-1, 1)
        for other in (-1, 1)
    ]
)
"""(P, 3) points of a vehicle in a box of size 1: corners cut off, roof drawn in. Its outline fits a detection better than the
box's (mean IoU 0.61 against 0.57 in PandaSet's front camera), so the estimated turn is less biased. The share of detections
that meet a box is counted with the box itself."""
LEAST_GAIN = 0.025
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
    body_cam: np.ndarray
    """(M, P, 3) outline points of the bodies in candidate boxes, in the camera frame as calibrated."""
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
    detections, met, bodies, tracks, pairs = [], [], [], [], []
    for index in frame_indices:
        try:
            found = confident_vehicles(detector.detect(clip.image(index, name)))
        except DataError:
            continue
        boxes_ego = _vehicles_at_capture(clip, layer, index, name)
        cam_from_ego = clip.cam_from_ego_at_ref(index, name)
        rectangles, seen = box_rectangles(camera, cam_from_ego, boxes_ego)
        overlap = iou_matrix(found.box_xyxy_px, rectangles) * seen
        body_cam = transform_points(cam_from_ego, body_points(boxes_ego.box))
        candidates = np.flatnonzero(in_front(body_cam))
        pair_detection, pair_box = _pairs(camera, found.box_xyxy_px, body_cam[candidates])
        paired, pair_box = np.unique(pair_box, return_inverse=True)
        candidates = candidates[paired]
        pairs.append((pair_detection + sum(map(len, detections)), pair_box + sum(map(len, bodies))))
        met.append((overlap >= MEETS_IOU).any(axis=1))
        detections.append(found.box_xyxy_px)
        bodies.append(body_cam[candidates])
        tracks.append(boxes_ego.track_id[candidates])
    track_id = np.concatenate([*tracks, np.zeros(0, dtype=np.int64)])
    track_id = np.where(track_id < 0, -1 - np.arange(len(track_id)), track_id)
    return Evidence(
        camera,
        np.concatenate([*detections, np.zeros((0, 4))]),
        np.concatenate([*met, np.zeros(0, dtype=bool)]),
        np.concatenate([*bodies, np.zeros((0, len(BODY), 3))]),
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


def body_points(box: np.ndarray) -> np.ndarray:
    """(M, P, 3) points of `BODY` in boxes (M, 9)."""
    local = BODY * box[:, None, Box3D.LENGTH : Box3D.HEIGHT + 1]
    return np.einsum("mij,mpj->mpi", rotation_from_yaw(box[:, Box3D.YAW]), local) + box[:, None, :3]


def in_front(points_cam: np.ndarray) -> np.ndarray:
    """Which objects (M,) of points (M, P, 3) have nothing behind or beside the camera and are not too far away."""
    distance = np.linalg.norm(points_cam, axis=-1)
    return (points_cam[..., 2] > 0.15 * distance).all(axis=1) & (distance.min(axis=1, initial=np.inf) < FAR_M)


def _pairs(camera: Camera, found_xyxy: np.ndarray, body_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the detections (D, 4) and bodies (M, P, 3) of one frame that a small turn could bring together."""
    ray_found = camera.unproject((found_xyxy[:, :2] + found_xyxy[:, 2:]) / 2)
    center = body_cam.mean(axis=1)
    ray_box = center / np.maximum(np.linalg.norm(center, axis=1, keepdims=True), 1e-9)
    pixels = camera.project(body_cam)[0]
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
    """(M, 4) rectangles around the candidates' bodies after the turn `rotvec` (3,) of all points in the camera frame.

    Candidates that leave the lens get an empty rectangle.
    """
    camera = evidence.camera
    points = evidence.body_cam @ rotation_from_rotvec(rotvec).T
    pixels = camera.project(points)[0]
    limit = np.array([camera.width_px, camera.height_px]) - 0.5
    low, high = np.clip(pixels.min(axis=1), -0.5, limit), np.clip(pixels.max(axis=1), -0.5, limit)
    rectangles = np.concatenate([low, high], axis=1)
    rectangles[~lens_holds(camera, points).any(axis=1)] = 0
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
    """The turn (3,) over yaw and pitch under which detections fit best: on a coarse grid, then on a finer one around its best."""
    few = _thinned(evidence, SEARCH_DETECTIONS)

    def fit(rotvec: np.ndarray) -> float:
        return float(best_ious(few, rotvec).mean() - SEARCH_COST_PER_RAD * np.linalg.norm(rotvec))

    step = np.deg2rad(SEARCH_STEP_DEG)
    coarse = _turns(np.zeros(3), step, round(SEARCH_DEG / SEARCH_STEP_DEG))
    return max(_turns(max(coarse, key=fit), step / 2, 1), key=fit)


def _turns(around: np.ndarray, step_rad: float, count: int) -> list[np.ndarray]:
    """Turns (3,) with pitch and yaw up to `count` steps from those of `around`."""
    steps = step_rad * np.arange(-count, count + 1)
    return [around + np.array([pitch, yaw, 0.0]) for pitch in steps for yaw in steps]


@dataclass(frozen=True)
class Residuals:
    """How far detections lie from their boxes, P pairs, across and down the picture, as angles near the optical axis."""

    offset: np.ndarray
    """(P, 2) radians: detection minus box."""
    slope: np.ndarray
    """(P, 2, 3): change of the box's place with the turn."""
    sigma: np.ndarray
    """(P, 2) radians; infinite where the picture's border hides both edges."""
    group: np.ndarray
    """(P,) running number of the labelled object."""

    @property
    def num_objects(self) -> int:
        """How many labelled objects there are."""
        return int(self.group.max()) + 1 if len(self.group) else 0


def _thinned(evidence: Evidence, most: int) -> Evidence:
    """The evidence with at most `most` detections, evenly spread."""
    num = len(evidence.detection_xyxy)
    if num <= most:
        return evidence
    chosen = np.linspace(0, num - 1, most).round().astype(int)
    number = np.full(num, -1)
    number[chosen] = np.arange(most)
    keep = number[evidence.pair_detection] >= 0
    used, pair_box = np.unique(evidence.pair_box[keep], return_inverse=True)
    return Evidence(
        evidence.camera,
        evidence.detection_xyxy[chosen],
        evidence.met[chosen],
        evidence.body_cam[used],
        evidence.track_id[used],
        number[evidence.pair_detection[keep]],
        pair_box,
    )


def residuals(evidence: Evidence, rotvec: np.ndarray) -> Residuals:
    """Residuals of the pairs that are each other's best and overlap well, after the turn `rotvec` (3,).

    Where both edges of an axis are inside the picture their mean counts; where one is cut off the other one, trusted less,
    because label boxes are wider than what is seen of an object.
    """
    camera = evidence.camera
    overlap, rectangles = pair_ious(evidence, rotvec), turned_rectangles(evidence, rotvec)
    best_of_found, best_of_box = np.zeros(len(evidence.detection_xyxy)), np.zeros(len(rectangles))
    np.maximum.at(best_of_found, evidence.pair_detection, overlap)
    np.maximum.at(best_of_box, evidence.pair_box, overlap)
    mutual = (overlap == best_of_found[evidence.pair_detection]) & (overlap == best_of_box[evidence.pair_box])
    use = mutual & (overlap >= MATCH_IOU)
    found, boxes = evidence.detection_xyxy[evidence.pair_detection[use]], rectangles[evidence.pair_box[use]]
    inside = _edges_inside(camera, found) & _edges_inside(camera, boxes)  # (P, 4)
    low, high = inside[:, :2], inside[:, 2:]
    shift = found - boxes
    focal = np.array([camera.fx_px, camera.fy_px])
    offset = np.where(low & high, (shift[:, :2] + shift[:, 2:]) / 2, np.where(low, shift[:, :2], shift[:, 2:])) / focal
    size = np.maximum(found[:, 2:] - found[:, :2], boxes[:, 2:] - boxes[:, :2]) / focal
    sigma = np.where(low & high, np.hypot(SPREAD_RAD, 0.03 * size), np.hypot(SPREAD_RAD, 0.10 * size))
    sigma = np.where(low | high, sigma, np.inf)
    slope = _slopes(camera, (boxes[:, :2] + boxes[:, 2:]) / 2) / focal[:, None]
    keep = (low | high).any(axis=1)
    group = np.unique(evidence.track_id[evidence.pair_box[use]][keep], return_inverse=True)[1]
    return Residuals(offset[keep], slope[keep], sigma[keep], group)


def _edges_inside(camera: Camera, xyxy: np.ndarray) -> np.ndarray:
    """(P, 4): which edges are not the picture's border."""
    size = np.array([camera.width_px, camera.height_px])
    return np.concatenate([xyxy[:, :2] > BORDER_PX, xyxy[:, 2:] < size - 1 - BORDER_PX], axis=1)


def _slopes(camera: Camera, pixels: np.ndarray) -> np.ndarray:
    """(P, 2, 3) pixels per radian that the point seen at each pixel moves when it is turned about the camera's axes."""
    rays, step = camera.unproject(pixels), 1e-4
    turns = [rotation_from_rotvec(step * axis) for axis in np.eye(3)]
    return np.stack([(camera.project(rays @ turn.T)[0] - pixels) / step for turn in turns], axis=-1)


def _refine(evidence: Evidence, rotvec: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The turn (3,) after robust least squares on matched edges, its covariance (3, 3), and how many objects it stands on.

    Every object weighs the same however often it was seen; roll is held near zero unless the matches speak against it.
    """
    covariance, num_objects = np.full((3, 3), np.inf), 0
    prior = np.diag([0.0, 0.0, 1 / ROLL_PRIOR_RAD**2])
    for _ in range(8):
        found = residuals(evidence, rotvec)
        num_objects = found.num_objects
        if num_objects < FEWEST_OBJECTS:
            return rotvec, covariance, num_objects
        ratio = np.abs(found.offset) / found.sigma
        weight = np.minimum(1, 1.5 / np.maximum(ratio, 1e-9)) / found.sigma**2 / np.bincount(found.group)[found.group, None]
        normal = np.einsum("pa,pai,paj->ij", weight, found.slope, found.slope) + prior
        inverse = np.linalg.inv(normal + 1e-9 * np.trace(normal) * np.eye(3))
        step = inverse @ (np.einsum("pa,pai,pa->i", weight, found.slope, found.offset) - prior @ rotvec)
        left = found.offset - found.slope @ step
        by_object = np.zeros((num_objects, 3))
        np.add.at(by_object, found.group, np.einsum("pa,pai,pa->pi", weight, found.slope, left))
        covariance = inverse + inverse @ (by_object.T @ by_object) @ inverse
        rotvec = rotvec + step
        if np.linalg.norm(step) < np.deg2rad(0.01):
            break
    return rotvec, covariance, num_objects


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
