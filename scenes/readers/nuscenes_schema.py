"""What are the words of the nuScenes schema: tables, categories, visibility levels, attributes, tokens?"""

import hashlib

import numpy as np

from scenes.clips import Clip
from scenes.readers.classes import ClassMap

TABLE_NAMES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)

CLASS_MAP = ClassMap(
    classes={
        "movable_object.barrier": "barrier",
        "movable_object.trafficcone": "traffic_cone",
        "vehicle.bicycle": "bicycle",
        "vehicle.bus.bendy": "bus",
        "vehicle.bus.rigid": "bus",
        "vehicle.car": "car",
        "vehicle.construction": "construction_vehicle",
        "vehicle.motorcycle": "motorcycle",
        "vehicle.trailer": "trailer",
        "vehicle.truck": "truck",
        "human.pedestrian.adult": "pedestrian",
        "human.pedestrian.child": "pedestrian",
        "human.pedestrian.construction_worker": "pedestrian",
        "human.pedestrian.police_officer": "pedestrian",
    },
    dropped=frozenset(
        {
            "animal",
            "human.pedestrian.personal_mobility",
            "human.pedestrian.stroller",
            "human.pedestrian.wheelchair",
            "movable_object.debris",
            "movable_object.pushable_pullable",
            "static_object.bicycle_rack",
            "vehicle.emergency.ambulance",
            "vehicle.emergency.police",
        }
    ),
)
"""The official mapping of the 23 categories to the ten detection classes; the detection task does not use the others."""

CATEGORY_OF_CLASS = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction",
    "pedestrian": "human.pedestrian.adult",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}
"""The category written for each of our classes."""

TRACKED_CLASSES = ("bicycle", "bus", "car", "motorcycle", "pedestrian", "trailer", "truck")
"""The classes of the official tracking task."""

VISIBILITY_LEVELS = (("1", "v0-40", 0.0, 0.4), ("2", "v40-60", 0.4, 0.6), ("3", "v60-80", 0.6, 0.8), ("4", "v80-100", 0.8, 1.0))
"""Token, level, and the share of the object that is visible, from and to."""

ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
MOVING_MPS = 0.2
_STILL_AND_MOVING = {
    "bus": ("vehicle.stopped", "vehicle.moving"),
    "pedestrian": ("pedestrian.standing", "pedestrian.moving"),
    "motorcycle": ("cycle.without_rider", "cycle.with_rider"),
    "bicycle": ("cycle.without_rider", "cycle.with_rider"),
    "traffic_cone": ("", ""),
    "barrier": ("", ""),
}


def attribute_of(class_name: str, speed_mps: float) -> str:
    """The attribute name by the simplest rule: does it move faster than 0.2 m/s? Cones and barriers have none."""
    return _STILL_AND_MOVING.get(class_name, ("vehicle.parked", "vehicle.moving"))[int(speed_mps > MOVING_MPS)]


def visibility_share(token: str) -> float:
    """The middle of a visibility level's range; NaN for an unknown token."""
    for known, _, low, high in VISIBILITY_LEVELS:
        if token == known:
            return (low + high) / 2
    return float("nan")


def visibility_token(share: float) -> str:
    """The level that holds a share of visibility; an unknown share (NaN) counts as fully visible."""
    share = 1.0 if np.isnan(share) else share
    return next((token for token, _, _, high in VISIBILITY_LEVELS if share < high), VISIBILITY_LEVELS[-1][0])


def stable_token(*parts: object) -> str:
    """A token of 32 hexadecimal digits, always the same for the same parts."""
    return hashlib.md5("|".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def sample_token(clip: Clip, frame_index: int) -> str:
    """The token of a frame: the one it was imported with, else a stable one; "" for imported pictures between samples."""
    known = clip.info.get("sample_tokens")
    return str(known[frame_index]) if known else stable_token(clip.name, "sample", frame_index)
