"""What does an occupancy grid look like, from above or obliquely from behind?"""

import cv2
import numpy as np

from scenes.layers import OCCUPANCY_FREE, OCCUPANCY_OTHER, OCCUPANCY_ROAD, OCCUPANCY_STATES, OCCUPANCY_UNKNOWN, Occupancy
from scenes.show.paint import put_text
from scenes.show.palette import EGO_RGB, GROUND_RGB, Rgb, occupancy_colors

FACES = (
    (((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)), (0, 0, 1), 1.0),
    (((0, 0, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1)), (-1, 0, 0), 0.72),
    (((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)), (0, -1, 0), 0.55),
    (((0, 1, 0), (1, 1, 0), (1, 1, 1), (0, 1, 1)), (0, 1, 0), 0.55),
)
"""Voxel faces that an observer behind and above sees: corners, the neighbour that would hide it, brightness."""


def occupancy_view(occupancy: Occupancy, size_px: int = 720, oblique: bool = True) -> np.ndarray:
    """(size_px, size_px, 3) uint8 RGB of the voxels, forward up: drawn as shaded cubes from behind and above, or flat from above.

    Voxels are coloured by state (`OCCUPANCY_STATES`); unknown ones are left out of the oblique picture and dark in the flat one.
    """
    image = _oblique(occupancy, size_px) if oblique else _flat(occupancy, size_px)
    _legend(image, occupancy)
    return image


def _occupied(state: np.ndarray) -> np.ndarray:
    return (state != OCCUPANCY_FREE) & (state != OCCUPANCY_UNKNOWN)


def _flat(occupancy: Occupancy, size_px: int) -> np.ndarray:
    """The highest occupied voxel of each column, brighter the higher it is; objects before static matter."""
    state, depth = occupancy.state, occupancy.state.shape[2]
    occupied = _occupied(state)
    objects = occupied & (state != OCCUPANCY_ROAD) & (state != OCCUPANCY_OTHER)
    priority = np.where(occupied, np.arange(depth) + depth * objects, -1)
    top = priority.argmax(axis=2)
    shown = np.take_along_axis(state, top[..., None], axis=2)[..., 0]
    shown = np.where(occupied.any(axis=2), shown, np.where((state == OCCUPANCY_UNKNOWN).all(axis=2), OCCUPANCY_UNKNOWN, OCCUPANCY_FREE))
    light = np.where(occupied.any(axis=2), 0.65 + 0.35 * top / max(depth - 1, 1), 1.0)
    seen = (occupancy_colors()[shown] * light[..., None]).astype(np.uint8)
    grid = occupancy.grid
    scale = size_px / max(n * v for n, v in zip(grid.shape[:2], grid.voxel_m[:2], strict=True))
    height, width = (max(1, round(n * v * scale)) for n, v in zip(grid.shape[:2], grid.voxel_m[:2], strict=True))
    picture = np.full((size_px, size_px, 3), GROUND_RGB, dtype=np.uint8)
    top_px, left_px = (size_px - height) // 2, (size_px - width) // 2
    small = cv2.resize(np.ascontiguousarray(seen[::-1, ::-1]), (width, height), interpolation=cv2.INTER_NEAREST)
    picture[top_px : top_px + height, left_px : left_px + width] = small
    return picture


def _oblique(occupancy: Occupancy, size_px: int) -> np.ndarray:
    """Painter's algorithm: visible faces of occupied voxels, far before near, in a perspective from behind and above."""
    occupied = np.pad(_occupied(occupancy.state), 1)
    inner = occupied[1:-1, 1:-1, 1:-1]
    polygons, colors, nearness = [], [], []
    for corners, (dx, dy, dz), light in FACES:
        x, y, z = occupied.shape
        hidden = occupied[1 + dx : x - 1 + dx, 1 + dy : y - 1 + dy, 1 + dz : z - 1 + dz]
        index = np.argwhere(inner & ~hidden)
        state = occupancy.state[tuple(index.T)]
        points = np.array(occupancy.grid.min_ego_m) + (index[:, None] + np.array(corners)) * np.array(occupancy.grid.voxel_m)
        pixels, distance = _look_from_behind(points, occupancy, size_px)
        polygons.append(pixels)
        colors.append(occupancy_colors()[state] * light)
        nearness.append(distance.mean(axis=1))
    picture = np.full((size_px, size_px, 3), GROUND_RGB, dtype=np.uint8)
    pixels, shade, far = np.concatenate(polygons), np.concatenate(colors), np.concatenate(nearness)
    for row in np.argsort(-far):
        if far[row] > 0:
            color = tuple(int(c) for c in shade[row])
            cv2.fillConvexPoly(picture, np.round(pixels[row] * 16).astype(np.int32), color, cv2.LINE_AA, 4)
    _mark_ego(picture, occupancy)
    return picture


def _look_from_behind(points_ego: np.ndarray, occupancy: Occupancy, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (..., 2) and distance along the axis (...) of an observer above the rear end of the grid who looks at its middle."""
    grid = occupancy.grid
    extent = grid.shape[0] * grid.voxel_m[0]
    middle = np.array([low + n * v / 2 for low, n, v in zip(grid.min_ego_m, grid.shape, grid.voxel_m, strict=True)])
    eye = middle + np.array([-1.05 * extent, 0.0, 0.95 * extent])
    forward = (middle - eye) / np.linalg.norm(middle - eye)
    right = np.array([0.0, -1.0, 0.0])
    down = np.cross(forward, right)
    offset = points_ego - eye
    depth = offset @ forward
    focal = 1.12 * size_px
    safe = np.maximum(depth, 1e-3)
    middle_px = (size_px - 1) / 2
    return np.stack([middle_px + focal * (offset @ right) / safe, middle_px + focal * (offset @ down) / safe], axis=-1), depth


def _mark_ego(picture: np.ndarray, occupancy: Occupancy) -> None:
    arrow = np.array([[3.5, 0.0, 0.3], [-1.0, 1.1, 0.3], [0.0, 0.0, 0.3], [-1.0, -1.1, 0.3]])
    pixels, _ = _look_from_behind(arrow, occupancy, picture.shape[0])
    cv2.fillPoly(picture, [np.round(pixels * 16).astype(np.int32)], EGO_RGB, cv2.LINE_AA, 4)


def _legend(picture: np.ndarray, occupancy: Occupancy) -> None:
    table = occupancy_colors()
    bottom = 16
    for state in np.unique(occupancy.state[_occupied(occupancy.state)]):
        color: Rgb = (int(table[state][0]), int(table[state][1]), int(table[state][2]))
        name = OCCUPANCY_STATES[state] if state < len(OCCUPANCY_STATES) else f"state {state}"
        cv2.rectangle(picture, (6, bottom - 9), (15, bottom), color, -1)
        put_text(picture, name, (20, bottom), scale=0.38)
        bottom += 15
