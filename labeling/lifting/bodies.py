"""What outline does an object of a class show? Points of its body in a box of size 1, whose projection a rectangle should enclose."""

import numpy as np

from scenes.boxes import CLASS_NAMES


def _mirrored(points: list[tuple[float, float, float]]) -> np.ndarray:
    """Points (P, 3) at the left side and again at the right."""
    left = np.array(points)
    return np.concatenate([left, left * np.array([1, -1, 1])])


CAR_BODY = _mirrored(
    [
        (0.31, 0.46, 0.0),  # tyres
        (-0.31, 0.46, 0.0),
        (0.5, 0.3, 0.14),  # lower edges of the bumpers
        (-0.5, 0.3, 0.17),
        (0.49, 0.36, 0.42),
        (-0.49, 0.38, 0.48),
        (0.42, 0.48, 0.35),  # corners of the wings
        (-0.42, 0.48, 0.4),
        (0.31, 0.5, 0.4),
        (-0.31, 0.5, 0.45),
        (0.1, 0.36, 0.95),  # roof, lower at its sides
        (-0.3, 0.36, 0.95),
        (-0.1, 0.0, 1.0),
        (-0.42, 0.36, 0.85),
        (0.3, 0.42, 0.6),  # bonnet
    ]
)
BLOCK_BODY = _mirrored(
    [
        (x, y, z)
        for front in (1, -1)
        for x, y, z in (
            (0.32 * front, 0.47, 0.0),
            (0.5 * front, 0.44, 0.12),
            (0.5 * front, 0.44, 0.5),
            (0.46 * front, 0.5, 0.12),
            (0.46 * front, 0.5, 0.5),
            (0.45 * front, 0.45, 1.0),
        )
    ]
)
PERSON_BODY = np.array(
    [(r * np.cos(a), r * np.sin(a), z) for z, r in ((0.0, 0.3), (0.35, 0.38), (0.6, 0.42), (1.0, 0.12)) for a in np.arange(6) * np.pi / 3]
)
RIDER_BODY = _mirrored(
    [
        (0.5, 0.05, 0.2),  # wheels
        (-0.5, 0.05, 0.2),
        (0.33, 0.04, 0.0),
        (-0.33, 0.04, 0.0),
        (0.15, 0.5, 0.6),  # hands, shoulders, head
        (-0.1, 0.4, 0.8),
        (-0.05, 0.1, 1.0),
    ]
)
_BODY_OF_CLASS = {"car": CAR_BODY, "pedestrian": PERSON_BODY, "motorcycle": RIDER_BODY, "bicycle": RIDER_BODY}


def body_of(class_id: int) -> np.ndarray:
    """(P, 3) x forward and y left in [-0.5, 0.5], z from 0 at the wheels to 1, of a class."""
    return _BODY_OF_CLASS.get(CLASS_NAMES[class_id], BLOCK_BODY)


MOST_POINTS = max(len(body) for body in (CAR_BODY, BLOCK_BODY, PERSON_BODY, RIDER_BODY))


def bodies_of(class_id: np.ndarray) -> np.ndarray:
    """(N, P, 3) the bodies of several objects; shorter ones repeat their first point."""
    table = np.stack([np.concatenate([b, np.repeat(b[:1], MOST_POINTS - len(b), axis=0)]) for b in map(body_of, range(len(CLASS_NAMES)))])
    return table[class_id]
