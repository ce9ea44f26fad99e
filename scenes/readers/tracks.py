"""How fast did a labelled object move, and which number does its track carry?"""

import numpy as np

from scenes.boxes import Box3D

MAX_GAP_S = 1.5
"""Two labels further apart give no velocity; a difference over both neighbours may span twice that (as nuScenes' devkit has it)."""


def track_numbers(names: list[str]) -> np.ndarray:
    """(K,) int64 numbers of track names, counted by first appearance; the same recording gives the same numbers."""
    order: dict[str, int] = {}
    return np.array([order.setdefault(name, len(order)) for name in names], dtype=np.int64)


def track_velocities(track_id: np.ndarray, time_s: np.ndarray, position_world: np.ndarray, max_gap_s: float = MAX_GAP_S) -> np.ndarray:
    """Velocities (K, D) in m/s over ground of K labels by differences along their tracks, in the order given.

    A label between two others takes the difference over both, an end the difference to its one neighbour; NaN where the
    track has one label or the time between is longer than `max_gap_s` (twice that over both neighbours).
    """
    velocity = np.full(position_world.shape, np.nan)
    order = np.lexsort((time_s, track_id))
    same = track_id[order][1:] == track_id[order][:-1]
    has_previous, has_next = np.r_[False, same], np.r_[same, False]
    at = np.arange(len(order))
    first, last = order[at - has_previous], order[np.minimum(at + has_next, len(order) - 1)]
    gap_s = time_s[last] - time_s[first]
    known = (gap_s > 0) & (gap_s <= np.where(has_previous & has_next, 2 * max_gap_s, max_gap_s))
    difference = position_world[last] - position_world[first]
    velocity[order[known]] = difference[known] / gap_s[known, None]
    return velocity


def count_points_inside(box: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(M,) how many of the points (P, 3) lie inside each box row (M, 9); both in the same frame."""
    counts = np.zeros(len(box), dtype=np.int64)
    by_x = points[np.argsort(points[:, 0])]
    for row, (x, y, z, length, width, height, yaw) in enumerate(box[:, : Box3D.YAW + 1]):
        reach = np.hypot(length, width) / 2
        near = by_x[np.searchsorted(by_x[:, 0], x - reach) : np.searchsorted(by_x[:, 0], x + reach, side="right")] - (x, y, z)
        along = near[:, 0] * np.cos(yaw) + near[:, 1] * np.sin(yaw)
        across = near[:, 1] * np.cos(yaw) - near[:, 0] * np.sin(yaw)
        inside = (np.abs(along) <= length / 2) & (np.abs(across) <= width / 2) & (np.abs(near[:, 2]) <= height / 2)
        counts[row] = inside.sum()
    return counts
