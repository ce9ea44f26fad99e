"""How much do two upright boxes overlap, seen from above and in space?"""

import numpy as np

from scenes.boxes import Box3D


def ground_corners(box: np.ndarray) -> np.ndarray:
    """(M, 4, 2) corners of box rows (M, 9) seen from above, counterclockwise."""
    cos, sin = np.cos(box[:, Box3D.YAW]), np.sin(box[:, Box3D.YAW])
    sign = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2
    local = sign[None] * box[:, None, Box3D.LENGTH : Box3D.WIDTH + 1]
    x = cos[:, None] * local[..., 0] - sin[:, None] * local[..., 1]
    y = sin[:, None] * local[..., 0] + cos[:, None] * local[..., 1]
    return np.stack([x, y], axis=-1) + box[:, None, :2]


def _area_from_edges(quad: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """Green's sum (M,) over the parts of `quad`'s edges that lie inside `clip`; both (M, 4, 2), counterclockwise."""
    start, step = quad[:, :, None], (np.roll(quad, -1, axis=1) - quad)[:, :, None]
    corner = clip[:, None]
    side = (np.roll(clip, -1, axis=1) - clip)[:, None]
    inside = side[..., 0] * (start - corner)[..., 1] - side[..., 1] * (start - corner)[..., 0]
    slope = side[..., 0] * step[..., 1] - side[..., 1] * step[..., 0]
    flat = np.abs(slope) < 1e-12
    crossing = -inside / np.where(flat, 1.0, slope)
    enter = np.where(flat, np.where(inside >= 0, 0.0, 2.0), np.where(slope > 0, crossing, 0.0)).max(axis=-1).clip(0.0)
    leave = np.where(~flat & (slope < 0), crossing, 1.0).min(axis=-1).clip(max=1.0)
    a = start[:, :, 0] + enter[..., None] * step[:, :, 0]
    b = start[:, :, 0] + leave[..., None] * step[:, :, 0]
    return np.where(leave > enter, a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0], 0.0).sum(axis=1) / 2


def ground_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area (M,) in m2 shared by box rows a and b, pair by pair, seen from above.

    By Green's theorem it is the sum over a's edges inside b and b's edges inside a; b is shrunk by a millionth so that edges
    that coincide count once.
    """
    if not len(a):
        return np.zeros(0)
    origin = a[:, None, :2]
    quad_a, quad_b = ground_corners(a) - origin, ground_corners(b) - origin
    centre_b = b[:, None, :2] - origin
    quad_b = centre_b + (quad_b - centre_b) * (1 - 1e-6)
    return np.maximum(_area_from_edges(quad_a, quad_b) + _area_from_edges(quad_b, quad_a), 0.0)


def ground_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (M,) of box rows, pair by pair, seen from above."""
    shared = ground_overlap(a, b)
    area_a, area_b = (box[:, Box3D.LENGTH] * box[:, Box3D.WIDTH] for box in (a, b))
    return shared / np.maximum(area_a + area_b - shared, 1e-12)
