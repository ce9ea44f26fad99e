"""What lies where around the car, seen from above?"""

from collections.abc import Sequence

import cv2
import numpy as np

from scenes.boxes import Box3D, Boxes
from scenes.clips import Clip
from scenes.geometry import NS_PER_S, invert_rigid, transform_points
from scenes.layers import LabelLayer
from scenes.show.layer_style import LayerStyle, box_labels, layer_styles
from scenes.show.outlines import subdivide
from scenes.show.paint import SHIFT, draw_segments, put_text, to_fixed
from scenes.show.palette import EGO_RGB, GRID_RGB, GROUND_RGB, LANE_RGB, TEXT_RGB, Rgb
from scenes.show.sheet import boxes_to_draw

EGO_LENGTH_M, EGO_WIDTH_M, EGO_CENTER_X_M = 4.8, 1.9, 1.4
"""A passenger car around its origin, the middle of the rear axle on the ground."""
CROSS_M = 0.8
"""Boxes without any extent worth drawing are still this wide a mark."""


def bev_view(
    clip: Clip,
    frame: int,
    layers: Sequence[LabelLayer] = (),
    size_px: int = 720,
    range_m: float = 50.0,
    color_by: str | None = None,
    min_score: float = 0.0,
    labels: bool = False,
    trail_s: float = 2.0,
) -> np.ndarray:
    """The frame from above in its ego frame, forward up, left to the left: lanes, boxes with heading, velocity (1 s long), ego, rings.

    Args:
        layers: one is coloured by class, several each in their own colour, all but the first dashed; drawn over each other.
        size_px: the picture is a square of this size.
        range_m: half its side in metres.
        trail_s: how far back the path of each track is drawn.

    Returns:
        (size_px, size_px, 3) uint8 RGB.
    """
    image = np.full((size_px, size_px, 3), GROUND_RGB, dtype=np.uint8)
    styles = layer_styles(layers, color_by)
    ego_from_world = invert_rigid(clip.frames[frame].world_from_ego)
    _draw_rings(image, range_m)
    for layer in layers:
        for lane in layer.lanes:
            _draw_line(image, transform_points(ego_from_world, lane.points_world), LANE_RGB[lane.type], range_m)
    _draw_ego(image, range_m)
    for layer, style in zip(layers, styles, strict=True):
        boxes_ego = boxes_to_draw(clip, layer, frame, min_score)
        _draw_trails(image, clip, frame, layer, style, boxes_ego, range_m, trail_s)
        draw_boxes_from_above(image, boxes_ego, style.colors(boxes_ego), range_m, style.dashed, box_labels(boxes_ego) if labels else None)
    _draw_legend(image, clip, frame, styles)
    return image


def pixels_from_above(points_ego: np.ndarray, size_px: int, range_m: float) -> np.ndarray:
    """Pixels (..., 2) of points (..., 2 or 3): x goes up, y to the left, the origin lies at the middle between pixel centres."""
    scale = size_px / (2 * range_m)
    middle = (size_px - 1) / 2
    return np.stack([middle - points_ego[..., 1] * scale, middle - points_ego[..., 0] * scale], axis=-1)


def draw_boxes_from_above(
    image: np.ndarray, boxes_ego: Boxes, colors: Sequence[Rgb], range_m: float, dashed: bool = False, labels: Sequence[str] | None = None
) -> None:
    """Paints boxes into a picture from above, in place: outline, thick front edge, line from centre to front, velocity arrow."""
    size = image.shape[0]
    corners = boxes_ego.corners()[:, :4]
    for row, color in enumerate(colors):
        outline = np.concatenate([corners[row], corners[row, :1]])
        step = max(float(boxes_ego.box[row, Box3D.LENGTH]), CROSS_M) / (9 if dashed else 1)
        points = pixels_from_above(subdivide(outline, step), size, range_m)
        pieces = np.stack([points[:-1], points[1:]], axis=1)
        draw_segments(image, pieces[::2] if dashed else pieces, color, 1)
        front = (corners[row, 0] + corners[row, 3]) / 2
        center = boxes_ego.box[row, :3]
        draw_segments(image, pixels_from_above(np.stack([corners[row, [0, 3]], np.stack([center, front])]), size, range_m), color, 2)
        velocity = np.nan_to_num(boxes_ego.box[row, Box3D.VX : Box3D.VY + 1])
        if np.linalg.norm(velocity) > 0.3:
            ends = pixels_from_above(np.stack([center[:2], center[:2] + velocity]), size, range_m)
            tip = min(6 / max(float(np.linalg.norm(ends[1] - ends[0])), 1e-6), 0.5)
            start, end = (tuple(int(v) for v in point) for point in to_fixed(ends))
            cv2.arrowedLine(image, start, end, TEXT_RGB, 1, cv2.LINE_AA, SHIFT, tip)
        if labels is not None and labels[row]:
            left, bottom = pixels_from_above(center, size, range_m)
            if 0 <= left < size and 0 <= bottom < size:
                put_text(image, labels[row], (float(left) + 6, float(bottom) - 4), color, 0.34)


def _draw_rings(image: np.ndarray, range_m: float) -> None:
    size = image.shape[0]
    step = next(s for s in (5, 10, 20, 50, 100, 200, 500, 10**9) if range_m / s <= 6)
    middle = round((size - 1) / 2 * (1 << SHIFT))
    for radius_m in range(step, int(range_m * 1.5), step):
        radius = round(radius_m * size / (2 * range_m) * (1 << SHIFT))
        cv2.circle(image, (middle, middle), radius, GRID_RGB, 1, cv2.LINE_AA, SHIFT)
        if radius_m <= range_m:
            left, bottom = pixels_from_above(np.array([radius_m * 0.7071, -radius_m * 0.7071]), size, range_m)
            put_text(image, f"{radius_m} m", (float(left), float(bottom)), (130, 138, 150), 0.34)


def _draw_line(image: np.ndarray, points_ego: np.ndarray, color: Rgb, range_m: float) -> None:
    pixels = pixels_from_above(subdivide(points_ego, 5.0), image.shape[0], range_m)
    near = (np.abs(pixels - image.shape[0] / 2) < 2 * image.shape[0]).all(axis=1)
    pieces = np.stack([pixels[:-1], pixels[1:]], axis=1)[near[:-1] & near[1:]]
    draw_segments(image, pieces, color, 1)


def _draw_ego(image: np.ndarray, range_m: float) -> None:
    ego = Boxes.make([[EGO_CENTER_X_M, 0, 0, EGO_LENGTH_M, EGO_WIDTH_M, 1.5, 0, 0, 0]], [0])
    corners = pixels_from_above(ego.corners()[0, :4], image.shape[0], range_m)
    cv2.fillPoly(image, [to_fixed(corners)], (70, 76, 86), cv2.LINE_AA, SHIFT)
    draw_boxes_from_above(image, ego, [EGO_RGB], range_m)


def _draw_trails(image, clip: Clip, frame: int, layer: LabelLayer, style: LayerStyle, boxes_ego: Boxes, range_m: float, trail_s: float):
    """The centres that each track of the frame had during the last `trail_s`, dim."""
    ego_from_world = invert_rigid(clip.frames[frame].world_from_ego)
    first_ns = clip.frames[frame].timestamp_ns - trail_s * NS_PER_S
    past = [i for i in range(frame + 1) if clip.frames[i].timestamp_ns >= first_ns and i in layer.boxes_world]
    colors = style.colors(boxes_ego)
    for track, (r, g, b) in zip(boxes_ego.track_id, colors, strict=True):
        if track < 0:
            continue
        rows = [layer.boxes_world[i].box[layer.boxes_world[i].track_id == track] for i in past]
        centers_world = np.array([row[0, :3] for row in rows if len(row)])
        if len(centers_world) > 1 and np.ptp(centers_world[:, :2], axis=0).max() > 0.5:
            _draw_line(image, transform_points(ego_from_world, centers_world), (r // 2, g // 2, b // 2), range_m)


def _draw_legend(image: np.ndarray, clip: Clip, frame: int, styles: Sequence[LayerStyle]) -> None:
    seconds = (clip.frames[frame].timestamp_ns - clip.frames[0].timestamp_ns) / NS_PER_S
    put_text(image, f"{clip.name}   frame {frame}   {seconds:.2f} s", (5, 15), TEXT_RGB, 0.42)
    for row, style in enumerate(styles):
        put_text(image, f"{'- -' if style.dashed else '---'} {style.name}", (5, 32 + 16 * row), style.color, 0.42)
