"""What do all cameras see at one instant, with the labels drawn in?"""

from collections.abc import Sequence

import cv2
import numpy as np

from scenes.boxes import Boxes
from scenes.cameras import Camera
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, invert_rigid
from scenes.layers import LabelLayer
from scenes.show.layer_style import LayerStyle, box_labels, layer_styles
from scenes.show.outlines import boxes_at_capture
from scenes.show.paint import draw_boxes, draw_lanes, put_text
from scenes.show.palette import ALARM_RGB, GROUND_RGB, TEXT_RGB

TITLE_PX = 20
GAP_PX = 4


def camera_sheet(
    clip: Clip,
    frame: int,
    layers: Sequence[LabelLayer] = (),
    tile_width_px: int = 480,
    color_by: str | None = None,
    min_score: float = 0.0,
    labels: bool = False,
    lanes: bool = True,
) -> np.ndarray:
    """All cameras of frame `frame` in a grid, left to right as the driver would look round, with every layer's labels.

    Args:
        layers: one is coloured by class, several each in their own colour, all but the first dashed.
        tile_width_px: width of one camera's picture; the pictures are scaled, and the calibration with them.
        color_by: "class", "track" or "layer" instead of the rule above.
        min_score: boxes with less are left out.
        labels: write class, track and score at each box.
        lanes: draw the layers' map lines as well.

    Returns:
        (H, W, 3) uint8 RGB. Dead and unreadable pictures are dark tiles that say so.
    """
    styles = layer_styles(layers, color_by)
    cameras = driver_order(list(clip.rig.cameras))
    tiles = [_tile(clip, frame, camera, layers, styles, tile_width_px, min_score, labels, lanes) for camera in cameras]
    columns = min(len(tiles), -(-len(tiles) // (3 if len(tiles) > 8 else 2 if len(tiles) > 2 else 1)))
    sheet = _grid(tiles, columns, tile_width_px)
    return np.concatenate([_legend(clip, frame, styles, sheet.shape[1]), sheet])


def driver_order(cameras: list[Camera]) -> list[Camera]:
    """Cameras that look forwards from left to right, then those that look backwards from left to right."""

    def place(camera: Camera) -> tuple[bool, float]:
        axis_ego = camera.ego_from_cam[:3, 2]
        azimuth = float(np.arctan2(axis_ego[1], axis_ego[0]))
        behind = abs(azimuth) > np.deg2rad(100)
        return behind, (azimuth % (2 * np.pi)) if behind else -azimuth

    return sorted(cameras, key=place)


def _tile(
    clip: Clip,
    frame: int,
    camera: Camera,
    layers: Sequence[LabelLayer],
    styles: Sequence[LayerStyle],
    width_px: int,
    min_score: float,
    labels: bool,
    lanes: bool,
) -> np.ndarray:
    view = clip.frames[frame].views[camera.name]
    offset_s = (view.timestamp_ns - clip.frames[frame].timestamp_ns) / NS_PER_S
    height_px = max(1, round(camera.height_px * width_px / camera.width_px))
    try:
        image, problem = clip.image(frame, camera.name), ""
        method = cv2.INTER_AREA if image.shape[1] > width_px else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (width_px, height_px), interpolation=method))
    except DataError:
        image = np.full((height_px, width_px, 3), GROUND_RGB, dtype=np.uint8)
        problem = "picture not readable" if view.alive else "no picture"
    small = camera.resize(width_px, height_px)
    cam_from_world = small.cam_from_ego @ invert_rigid(view.world_from_ego_at_cam)
    for layer, style in zip(layers, styles, strict=True):
        if lanes:
            image = draw_lanes(image, small, cam_from_world, layer.lanes)
        boxes_ego = boxes_to_draw(clip, layer, frame, min_score)
        image = draw_boxes(
            image,
            small,
            clip.cam_from_ego_at_ref(frame, camera.name),
            boxes_at_capture(boxes_ego, offset_s),
            style.colors(boxes_ego),
            style.thickness_px,
            style.dashed,
            box_labels(boxes_ego) if labels else None,
        )
    title = np.full((TITLE_PX, width_px, 3), GROUND_RGB, dtype=np.uint8)
    put_text(title, f"{camera.name}   {offset_s * 1000:+.0f} ms", (5, 14), TEXT_RGB)
    if problem:
        put_text(image, problem, (width_px / 2 - 45, height_px / 2), ALARM_RGB, 0.5)
    return np.concatenate([title, image])


def boxes_to_draw(clip: Clip, layer: LabelLayer, frame: int, min_score: float) -> Boxes:
    """The layer's boxes of a frame in the ego frame with at least `min_score`; none where the frame was not labelled."""
    boxes_ego = clip.boxes_ego(layer, frame) or Boxes.empty()
    return boxes_ego.select(boxes_ego.score >= min_score)


def _grid(tiles: Sequence[np.ndarray], columns: int, width_px: int) -> np.ndarray:
    """Tiles of one width row by row, each row as high as its highest tile."""
    rows = []
    for first in range(0, len(tiles), columns):
        part = tiles[first : first + columns]
        height = max(tile.shape[0] for tile in part) + GAP_PX
        row = np.full((height, columns * (width_px + GAP_PX) - GAP_PX, 3), GROUND_RGB, dtype=np.uint8)
        for column, tile in enumerate(part):
            left = column * (width_px + GAP_PX)
            row[: tile.shape[0], left : left + width_px] = tile
        rows.append(row)
    return np.concatenate(rows)


def _legend(clip: Clip, frame: int, styles: Sequence[LayerStyle], width_px: int) -> np.ndarray:
    """One line on top: clip, frame, time and the layers with their colours."""
    line = np.full((TITLE_PX + 4, width_px, 3), GROUND_RGB, dtype=np.uint8)
    seconds = (clip.frames[frame].timestamp_ns - clip.frames[0].timestamp_ns) / NS_PER_S
    text = f"{clip.name}   frame {frame}   {seconds:.2f} s"
    put_text(line, text, (5, 16), TEXT_RGB, 0.45)
    left = 30 + cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0]
    for style in styles:
        text = f"{'- -' if style.dashed else '---'} {style.name}"
        put_text(line, text, (left, 16), style.color, 0.45)
        left += 25 + cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0]
    return line
