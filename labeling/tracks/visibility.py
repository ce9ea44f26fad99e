"""How much of each labelled object do nearer ones hide from the ego vehicle? A coarse z-buffer of boxes, all frames at once.

Every box is seen from the sensors' place as a rectangle in azimuth and elevation; nearer boxes' rectangles cover points of it.
"""

import numpy as np

from labeling.tracks.duplicates import pairs_in_frames
from scenes.boxes import Box3D

AZIMUTHS = np.linspace(-0.875, 0.875, 8)
ELEVATIONS = np.linspace(-0.8, 0.8, 4)
"""Points of a rectangle that are tested, as shares of its half width and half height."""


def view_rectangles(box_ego: np.ndarray, eye_height_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (N, 2) and half sizes (N, 2) of boxes (N, 9) in azimuth and elevation (radians), and their distances (N,) on the ground."""
    x, y = box_ego[:, 0], box_ego[:, 1]
    distance_m = np.maximum(np.hypot(x, y), 0.5)
    azimuth = np.arctan2(y, x)
    turned = box_ego[:, Box3D.YAW] - azimuth
    across_m = (np.abs(np.sin(turned)) * box_ego[:, Box3D.LENGTH] + np.abs(np.cos(turned)) * box_ego[:, Box3D.WIDTH]) / 2
    centre = np.stack([azimuth, (box_ego[:, Box3D.Z] - eye_height_m) / distance_m], axis=1)
    return centre, np.stack([np.arctan2(across_m, distance_m), box_ego[:, Box3D.HEIGHT] / 2 / distance_m], axis=1), distance_m


def hidden_shares(frame: np.ndarray, box_ego: np.ndarray, hides: np.ndarray, eye_height_m: float) -> np.ndarray:
    """(N,) share of each box (N, 9) of its `frame` (N,) that nearer boxes of the frame cover; only those of the mask `hides` (N,) do."""
    order = np.argsort(frame, kind="stable")
    i, j = (order[side] for side in pairs_in_frames(frame[order]))
    centre, half, distance_m = view_rectangles(box_ego, eye_height_m)
    swap = distance_m[i] > distance_m[j]
    near, far = np.where(swap, j, i), np.where(swap, i, j)
    apart = centre[near] - centre[far]
    apart[:, 0] = np.mod(apart[:, 0] + np.pi, 2 * np.pi) - np.pi
    meets = (np.abs(apart) < half[near] + half[far]).all(axis=1) & hides[near] & (distance_m[far] - distance_m[near] > 1.0)
    near, far, apart = near[meets], far[meets], apart[meets]
    covers = [
        np.abs(points[None] * half[far, axis, None] - apart[:, axis, None]) < half[near, axis, None]
        for axis, points in enumerate((AZIMUTHS, ELEVATIONS))
    ]
    bits = np.uint32(1) << np.arange(len(AZIMUTHS) * len(ELEVATIONS), dtype=np.uint32)
    inside = (covers[0][:, :, None] & covers[1][:, None, :]).reshape(len(far), len(bits))
    covered = np.zeros(len(frame), dtype=np.uint32)
    np.bitwise_or.at(covered, far, inside @ bits)
    return np.bitwise_count(covered) / len(bits)
