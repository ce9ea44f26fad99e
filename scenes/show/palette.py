"""Which colour stands for which class, track, layer or voxel state? RGB, chosen to be told apart on a dark ground."""

import colorsys

import numpy as np

from scenes.boxes import CLASS_NAMES
from scenes.layers import OCCUPANCY_CLASS_OFFSET, OCCUPANCY_FREE, OCCUPANCY_OTHER, OCCUPANCY_ROAD, OCCUPANCY_UNKNOWN, LaneType

Rgb = tuple[int, int, int]

CLASS_RGB: dict[str, Rgb] = {
    "car": (90, 200, 250),
    "truck": (255, 159, 64),
    "bus": (255, 214, 64),
    "trailer": (201, 130, 90),
    "construction_vehicle": (214, 190, 40),
    "pedestrian": (255, 92, 138),
    "motorcycle": (190, 120, 255),
    "bicycle": (120, 230, 130),
    "traffic_cone": (255, 120, 40),
    "barrier": (170, 180, 190),
}
LAYER_RGB: tuple[Rgb, ...] = ((92, 224, 130), (255, 176, 59), (236, 100, 245), (84, 190, 255), (255, 96, 96))
"""When several layers are drawn together each has one colour, in the order asked for."""
LANE_RGB: dict[LaneType, Rgb] = {
    LaneType.DIVIDER: (235, 225, 150),
    LaneType.ROAD_EDGE: (215, 95, 85),
    LaneType.CENTRELINE: (95, 130, 175),
    LaneType.CROSSING: (150, 215, 215),
}
GROUND_RGB: Rgb = (18, 21, 27)
GRID_RGB: Rgb = (52, 58, 68)
TEXT_RGB: Rgb = (232, 236, 240)
EGO_RGB: Rgb = (245, 245, 245)
ALARM_RGB: Rgb = (255, 90, 80)


def track_color(track_id: int) -> Rgb:
    """A colour that is the same for a track in every frame; neighbouring ids differ most (golden ratio of hues)."""
    hue = (track_id * 0.618033988749895) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.62, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def occupancy_colors() -> np.ndarray:
    """(256, 3) uint8 RGB of every voxel state; unnamed states are grey."""
    table = np.full((256, 3), 110, dtype=np.uint8)
    table[OCCUPANCY_FREE] = GROUND_RGB
    table[OCCUPANCY_OTHER] = (142, 142, 160)
    table[OCCUPANCY_ROAD] = (66, 72, 84)
    for class_id, name in enumerate(CLASS_NAMES):
        table[OCCUPANCY_CLASS_OFFSET + class_id] = CLASS_RGB[name]
    table[OCCUPANCY_UNKNOWN] = (34, 30, 40)
    return table
