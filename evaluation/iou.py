"""How much do two upright boxes overlap? Exact intersection over union in 3D and from above."""

import numpy as np

from scenes.boxes import Box3D

_EPS = 1e-9


def iou_3d(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) IoU of upright boxes: rows (A, 9) against rows (B, 9), columns `Box3D`, in one frame."""
    return _iou(a, b, with_height=True)


def iou_bev(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) IoU of the boxes' footprints."""
    return _iou(a, b, with_height=False)


def _iou(a: np.ndarray, b: np.ndarray, with_height: bool) -> np.ndarray:
    result = np.zeros((len(a), len(b)))
    half_diagonal_a, half_diagonal_b = (np.hypot(box[:, Box3D.LENGTH], box[:, Box3D.WIDTH]) / 2 for box in (a, b))
    distance = np.linalg.norm(a[:, None, :2] - b[None, :, :2], axis=-1)
    rows, columns = np.nonzero(distance < half_diagonal_a[:, None] + half_diagonal_b[None, :])
    if not len(rows):
        return result
    near_a, near_b = a[rows], b[columns]
    overlap = footprint_intersection(near_a, near_b)
    size_a, size_b = (box[:, Box3D.LENGTH] * box[:, Box3D.WIDTH] for box in (near_a, near_b))
    if with_height:
        overlap = overlap * _height_overlap(near_a, near_b)
        size_a, size_b = size_a * near_a[:, Box3D.HEIGHT], size_b * near_b[:, Box3D.HEIGHT]
    result[rows, columns] = overlap / np.maximum(size_a + size_b - overlap, _EPS)
    return result


def _height_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) metres of height that boxes share, row by row."""
    top = np.minimum(a[:, Box3D.Z] + a[:, Box3D.HEIGHT] / 2, b[:, Box3D.Z] + b[:, Box3D.HEIGHT] / 2)
    bottom = np.maximum(a[:, Box3D.Z] - a[:, Box3D.HEIGHT] / 2, b[:, Box3D.Z] - b[:, Box3D.HEIGHT] / 2)
    return np.maximum(top - bottom, 0.0)


def footprint_intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) square metres that the footprints of boxes (N, 9) and (N, 9) share, row by row.

    The intersection of two convex outlines is spanned by the corners of each inside the other and the crossings of
    their edges; sorted around their middle they give the area. Worked in the frame of `a`, near zero, for precision.
    """
    yaw = a[:, Box3D.YAW]
    offset = b[:, :2] - a[:, :2]
    center = np.stack(
        [np.cos(yaw) * offset[:, 0] + np.sin(yaw) * offset[:, 1], -np.sin(yaw) * offset[:, 0] + np.cos(yaw) * offset[:, 1]], 1
    )
    corners_a = _corners(np.zeros_like(center), a[:, 3:5], np.zeros(len(a)))
    corners_b = _corners(center, b[:, 3:5], b[:, Box3D.YAW] - yaw)
    inside_b = _inside(corners_a, center, b[:, 3:5], b[:, Box3D.YAW] - yaw)
    inside_a = _inside(corners_b, np.zeros_like(center), a[:, 3:5], np.zeros(len(a)))
    crossings, crosses = _crossings(corners_a, corners_b)
    points = np.concatenate([corners_a, corners_b, crossings], axis=1)
    return _hull_area(points, np.concatenate([inside_b, inside_a, crosses], axis=1))


def _corners(center: np.ndarray, size: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """(N, 4, 2) corners of rectangles, counterclockwise."""
    local = np.array([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]]) * size[:, None, :]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    return center[:, None] + np.stack([cos * local[..., 0] - sin * local[..., 1], sin * local[..., 0] + cos * local[..., 1]], axis=-1)


def _inside(points: np.ndarray, center: np.ndarray, size: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """(N, P) whether points (N, P, 2) lie in a rectangle, its border included."""
    offset = points - center[:, None]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    along, across = cos * offset[..., 0] + sin * offset[..., 1], -sin * offset[..., 0] + cos * offset[..., 1]
    return (np.abs(along) <= size[:, :1] / 2 + _EPS) & (np.abs(across) <= size[:, 1:2] / 2 + _EPS)


def _crossings(corners_a: np.ndarray, corners_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 16, 2) crossings of the edges of two quadrilaterals, and whether each exists (parallel edges have none)."""
    start_a, start_b = corners_a[:, :, None], corners_b[:, None, :]
    edge_a, edge_b = np.roll(corners_a, -1, axis=1)[:, :, None] - start_a, np.roll(corners_b, -1, axis=1)[:, None, :] - start_b
    gap = start_b - start_a
    turn = _cross(edge_a, edge_b)
    parallel = np.abs(turn) < _EPS
    safe = np.where(parallel, 1.0, turn)
    along_a, along_b = _cross(gap, edge_b) / safe, _cross(gap, edge_a) / safe
    exists = ~parallel & (along_a >= 0) & (along_a <= 1) & (along_b >= 0) & (along_b <= 1)
    points = start_a + along_a[..., None] * edge_a
    return points.reshape(len(corners_a), 16, 2), exists.reshape(len(corners_a), 16)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _hull_area(points: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(N,) area of the convex outlines spanned by the valid points of (N, P, 2), all of which lie on their outline."""
    count = valid.sum(axis=1)
    middle = (points * valid[..., None]).sum(axis=1) / np.maximum(count, 1)[:, None]
    offset = np.where(valid[..., None], points - middle[:, None], 0.0)
    angle = np.where(valid, np.arctan2(offset[..., 1], offset[..., 0]), np.inf)
    order = np.argsort(angle, axis=1)
    outline = np.take_along_axis(offset, order[..., None], axis=1)
    is_last = np.arange(points.shape[1])[None, :] >= (count - 1)[:, None]
    following = np.where(is_last[..., None], outline[:, :1], np.roll(outline, -1, axis=1))
    kept = np.arange(points.shape[1])[None, :] < count[:, None]
    area = (_cross(outline, following) * kept).sum(axis=1) / 2
    return np.where(count >= 3, np.maximum(area, 0.0), 0.0)
