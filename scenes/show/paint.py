"""How are boxes, lanes and text painted into a camera's picture, exactly where the lens puts them?

Pictures are (H, W, 3) uint8 RGB; integer pixel coordinates are pixel centres, and lines keep a sixteenth of a pixel.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from scenes.boxes import CLASS_NAMES, Boxes
from scenes.cameras import Camera
from scenes.geometry import transform_points
from scenes.layers import Lane
from scenes.show.outlines import box_edge_points, image_segments, lens_holds, subdivide
from scenes.show.palette import CLASS_RGB, GROUND_RGB, LANE_RGB, TEXT_RGB, Rgb, track_color

SHIFT = 4
"""Binary digits of a pixel that cv2 keeps in line coordinates."""
FRONT_FACE = (0, 4, 7, 3)
"""Corner indices of the face that a box drives with."""


def box_colors(boxes: Boxes, color_by: str = "class") -> list[Rgb]:
    """One colour per box, by "class" or by "track" (boxes without a track keep their class's colour)."""
    by_class = [CLASS_RGB[CLASS_NAMES[k]] for k in boxes.class_id]
    if color_by == "class":
        return by_class
    return [track_color(int(t)) if t >= 0 else color for t, color in zip(boxes.track_id, by_class, strict=True)]


def draw_boxes(
    image_rgb: np.ndarray,
    camera: Camera,
    cam_from_ego: np.ndarray,
    boxes_ego: Boxes,
    colors: Sequence[Rgb] | None = None,
    thickness_px: int = 1,
    dashed: bool = False,
    labels: Sequence[str] | None = None,
) -> np.ndarray:
    """A copy of the picture with boxes as wire frames, the front face shaded; near boxes are painted over far ones.

    Args:
        image_rgb: (camera.height_px, camera.width_px, 3) uint8.
        camera: lens and size of this very picture (use `Camera.resize` for a scaled one).
        cam_from_ego: (4, 4), with ego motion between capture and reference folded in (`Clip.cam_from_ego_at_ref`).
        boxes_ego: in the ego frame at the reference time.
        colors: RGB per box; by class if None.
        labels: text per box, written at its top.
    """
    image = np.ascontiguousarray(image_rgb).copy()
    if not len(boxes_ego):
        return image
    colors = box_colors(boxes_ego) if colors is None else colors
    corners_cam = transform_points(cam_from_ego, boxes_ego.corners())
    edges_cam = box_edge_points(corners_cam)
    for row in np.argsort(-np.linalg.norm(corners_cam.mean(axis=1), axis=1)).tolist():
        points = edges_cam[row]
        starts, ends = points[:, :-1].reshape(-1, 3), points[:, 1:].reshape(-1, 3)
        if dashed:
            starts, ends = (side.reshape(-1, 2, 2, 3)[:, :, 0].reshape(-1, 3) for side in (starts, ends))
        segments = image_segments(camera, starts, ends)
        if not len(segments):
            continue
        red, green, blue = (int(value) for value in colors[row])
        color = (red, green, blue)
        _shade_front(image, camera, corners_cam[row], color)
        draw_segments(image, segments, color, thickness_px)
        if labels is not None and labels[row]:
            top = segments[..., 1].min()
            put_text(image, str(labels[row]), (float(segments[..., 0].min()), float(max(top - 3, 9))), color)
    return image


def _shade_front(image: np.ndarray, camera: Camera, corners_cam: np.ndarray, color: Rgb) -> None:
    face = corners_cam[list(FRONT_FACE)]
    outline = subdivide(np.concatenate([face, face[:1]]), max(float(np.ptp(face, axis=0).max()) / 8, 1e-3))
    outline = outline[lens_holds(camera, outline)]
    if len(outline) < 3:
        return
    polygon = camera.project(outline)[0]
    low = np.clip(np.floor(polygon.min(axis=0)).astype(int) - 1, 0, [camera.width_px, camera.height_px])
    high = np.clip(np.ceil(polygon.max(axis=0)).astype(int) + 2, 0, [camera.width_px, camera.height_px])
    if (high - low < 1).any():
        return
    part = image[low[1] : high[1], low[0] : high[0]]
    painted = part.copy()
    cv2.fillPoly(painted, [to_fixed(polygon - low)], color, cv2.LINE_AA, SHIFT)
    part[:] = cv2.addWeighted(painted, 0.3, part, 0.7, 0)


def draw_lanes(image_rgb: np.ndarray, camera: Camera, cam_from_world: np.ndarray, lanes: Sequence[Lane], far_m: float = 60.0) -> np.ndarray:
    """A copy of the picture with map polylines as far as `far_m` from the camera."""
    image = np.ascontiguousarray(image_rgb).copy()
    for lane in lanes:
        points_cam = transform_points(cam_from_world, subdivide(lane.points_world, 0.5))
        near = np.linalg.norm(points_cam, axis=1) < far_m
        near = near[:-1] & near[1:]
        draw_segments(image, image_segments(camera, points_cam[:-1][near], points_cam[1:][near]), LANE_RGB[lane.type], 1)
    return image


def to_fixed(pixels: np.ndarray) -> np.ndarray:
    """Pixels (..., 2) as the int32 fixed-point numbers that cv2 draws with `SHIFT`."""
    return np.round(np.clip(pixels, -30000, 30000) * (1 << SHIFT)).astype(np.int32)


def draw_segments(image: np.ndarray, segments_px: np.ndarray, color: Rgb, thickness_px: int = 1) -> None:
    """Paints segments (S, 2, 2) anti-aliased into the picture, in place."""
    if len(segments_px):
        cv2.polylines(image, list(to_fixed(segments_px)), False, color, thickness_px, cv2.LINE_AA, SHIFT)


def put_text(image: np.ndarray, text: str, left_bottom_px: tuple[float, float], color: Rgb = TEXT_RGB, scale: float = 0.4) -> None:
    """Writes one line on a dark ground, kept inside the picture, in place; signs outside ASCII become '?'."""
    text = text.encode("ascii", "replace").decode()
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    left = int(np.clip(round(left_bottom_px[0]), 1, max(image.shape[1] - width - 2, 1)))
    bottom = int(np.clip(round(left_bottom_px[1]), height + 2, max(image.shape[0] - below - 1, height + 2)))
    ground = image[bottom - height - 2 : bottom + below, left - 1 : left + width + 1]
    ground[:] = (ground * 0.35 + np.array(GROUND_RGB) * 0.65).astype(np.uint8)
    cv2.putText(image, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)
