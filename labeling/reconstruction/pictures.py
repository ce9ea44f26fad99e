"""What does a reconstruction look like? Depth beside the pictures, the road and the points from above."""

import cv2
import numpy as np

from labeling.reconstruction.road import RoadGrid
from labeling.reconstruction.scene import Reconstruction

ROW_PX = 1800


def depth_colors(depth_m: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB: near red, far blue by the logarithm from 2 to 60 m; unknown black."""
    share = np.clip(np.log(np.maximum(depth_m, 2.0) / 2.0) / np.log(30.0), 0, 1)
    colors = cv2.applyColorMap((255 * (1 - share)).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1].copy()
    colors[depth_m <= 0] = 0
    return colors


def depth_sheet(found: Reconstruction, exact: list[np.ndarray]) -> np.ndarray:
    """(H, ROW_PX, 3) uint8 RGB, a row for each view of the middle key frame: picture, confirmed depth, filled depth, true depth."""
    frames = sorted({depth_map.view.frame_index for depth_map in found.depth_maps})
    rows = []
    for depth_map, filled, true in zip(found.depth_maps, found.filled_m, exact, strict=True):
        if depth_map.view.frame_index == frames[len(frames) // 2]:
            picture = (depth_map.view.image_rgb * np.where(depth_map.view.usable, 1.0, 0.4)[..., None]).astype(np.uint8)
            thick = cv2.dilate(true.astype(np.float32), np.ones((3, 3), np.uint8))
            row = np.concatenate([picture, *(depth_colors(part) for part in (depth_map.depth_m, filled, thick))], axis=1)
            rows.append(cv2.resize(row, (ROW_PX, round(ROW_PX * row.shape[0] / row.shape[1])), interpolation=cv2.INTER_AREA))
    return np.concatenate(rows)


def road_picture(road: RoadGrid, scale: int = 4) -> np.ndarray:
    """(H, W, 3) uint8 RGB from above, x up: the ground's colours, what is taken for road, and heights (matched cells bright)."""
    marked = road.rgb.copy()
    marked[road.is_road] = marked[road.is_road] // 2 + np.array([0, 90, 0], dtype=np.uint8)
    shade = np.clip((road.height_world_m - np.median(road.height_world_m)) * 200 + 128, 0, 255).astype(np.uint8)
    heights = cv2.applyColorMap(shade, cv2.COLORMAP_JET)[:, :, ::-1].copy()
    heights[~road.known] //= 3
    picture = np.concatenate([part[::-1, ::-1] for part in (road.rgb, marked, heights)], axis=1)
    return cv2.resize(np.ascontiguousarray(picture), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)


def points_from_above(points_world: np.ndarray, rgb: np.ndarray, pixel_m: float = 0.1) -> np.ndarray:
    """(H, W, 3) uint8 RGB of points (P, 3) with colours (P, 3) in [0, 1] seen from above, x up; the highest point of a pixel is seen."""
    if not len(points_world):
        return np.zeros((1, 1, 3), dtype=np.uint8)
    low, high = np.quantile(points_world[:, :2], [0.005, 0.995], axis=0)
    size = np.ceil((high - low) / pixel_m).astype(int) + 1
    index = np.floor((points_world[:, :2] - low) / pixel_m).astype(int)
    inside = (index >= 0).all(-1) & (index < size).all(-1)
    order = np.argsort(points_world[inside, 2], kind="stable")
    picture = np.zeros((*size, 3), dtype=np.uint8)
    picture[index[inside][order, 0], index[inside][order, 1]] = (255 * rgb[inside][order]).astype(np.uint8)
    return np.ascontiguousarray(picture[::-1, ::-1])
