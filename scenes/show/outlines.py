"""Where do 3D lines and boxes appear in a camera's picture, through its true lens and cut where the lens ends?"""

import itertools
from dataclasses import replace

import numpy as np

from scenes.boxes import BOX_EDGES, Box3D, Boxes
from scenes.cameras import MIN_DEPTH_M, Camera, Lens
from scenes.geometry import transform_points

POINTS_PER_EDGE = 17
"""A straight 3D edge is drawn as this many points: a fisheye bends it."""


def boxes_at_capture(boxes: Boxes, offset_s: float) -> Boxes:
    """The boxes moved by their own velocity (0 where unknown) from the reference time to `offset_s` after it."""
    box = boxes.box.copy()
    box[:, :2] += np.nan_to_num(box[:, Box3D.VX : Box3D.VY + 1]) * offset_s
    return replace(boxes, box=box)


def lens_holds(camera: Camera, points_cam: np.ndarray) -> np.ndarray:
    """Whether points (..., 3) have a trustworthy pixel, perhaps outside the image: in front, within the lens's largest angle."""
    radius, depth = np.hypot(points_cam[..., 0], points_cam[..., 1]), points_cam[..., 2]
    far_enough = depth > MIN_DEPTH_M if camera.lens is Lens.PINHOLE else np.hypot(radius, depth) > MIN_DEPTH_M
    return far_enough & (np.arctan2(radius, depth) <= camera.max_angle_rad)


def cut_at_lens(camera: Camera, starts_cam: np.ndarray, ends_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segments (S, 3), (S, 3) shortened to the part that the lens holds, and whether anything is left (S,).

    A segment with both ends outside counts as nothing, so give short ones.
    """
    start_ok, end_ok = lens_holds(camera, starts_cam), lens_holds(camera, ends_cam)
    good = np.where(start_ok[:, None], starts_cam, ends_cam)
    bad = np.where(start_ok[:, None], ends_cam, starts_cam)
    low, high = np.zeros(len(good)), np.ones(len(good))
    for _ in range(14):  # bisection to 1/16000 of the segment
        middle = (low + high) / 2
        ok = lens_holds(camera, good + middle[:, None] * (bad - good))
        low, high = np.where(ok, middle, low), np.where(ok, high, middle)
    limit = good + low[:, None] * (bad - good)
    starts = np.where(start_ok[:, None], starts_cam, limit)
    ends = np.where(end_ok[:, None], ends_cam, limit)
    return starts, ends, start_ok | end_ok


def image_segments(camera: Camera, starts_cam: np.ndarray, ends_cam: np.ndarray) -> np.ndarray:
    """Pixels (S', 2, 2) of short 3D segments (S, 3), (S, 3): start and end as u, v; parts that no lens sees are left out."""
    starts, ends, left = cut_at_lens(camera, starts_cam, ends_cam)
    pixels = np.stack([camera.project(starts[left])[0], camera.project(ends[left])[0]], axis=1)
    size = np.array([camera.width_px, camera.height_px])
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    return pixels[(high >= -0.5).all(axis=-1) & (low <= size - 0.5).all(axis=-1)]


def subdivide(points: np.ndarray, step_m: float, most: int = 400) -> np.ndarray:
    """A polyline (P, 3) with further points on it, at most `step_m` apart (and at most `most` a piece)."""
    pieces = []
    for start, end in itertools.pairwise(points):
        count = int(np.clip(np.ceil(np.linalg.norm(end - start) / step_m), 1, most))
        pieces.append(start + np.linspace(0, 1, count, endpoint=False)[:, None] * (end - start))
    return np.concatenate([*pieces, points[-1:]])


def box_edge_points(corners: np.ndarray, points_per_edge: int = POINTS_PER_EDGE) -> np.ndarray:
    """(M, 12, P, 3) points along the edges (in the order of `BOX_EDGES`) of corners (M, 8, 3)."""
    edges = np.array(BOX_EDGES)
    fraction = np.linspace(0, 1, points_per_edge)[:, None]
    start, end = corners[:, edges[:, 0], None], corners[:, edges[:, 1], None]
    return start + fraction * (end - start)


def box_rectangles(camera: Camera, cam_from_ego: np.ndarray, boxes_ego: Boxes, points_per_edge: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Rectangles (M, 4) u0, v0, u1, v1 in pixels around the visible part of each box, and whether there is one (M,).

    The rectangle holds every edge point that falls into the picture; edges that leave the picture are cut at its border.
    """
    if not len(boxes_ego):
        return np.zeros((0, 4)), np.zeros(0, dtype=bool)
    points_cam = transform_points(cam_from_ego, box_edge_points(boxes_ego.corners(), points_per_edge))
    pixels = camera.project(points_cam)[0].reshape(len(boxes_ego), -1, 2)
    held = lens_holds(camera, points_cam).reshape(len(boxes_ego), -1)
    size = np.array([camera.width_px, camera.height_px])
    low = np.where(held[..., None], pixels, np.inf).min(axis=1)
    high = np.where(held[..., None], pixels, -np.inf).max(axis=1)
    seen = held.any(axis=1) & (high > -0.5).all(axis=1) & (low < size - 0.5).all(axis=1)
    rectangle = np.concatenate([np.clip(low, -0.5, size - 0.5), np.clip(high, -0.5, size - 0.5)], axis=1)
    return np.where(seen[:, None], rectangle, 0.0), seen
