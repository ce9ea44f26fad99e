"""Which other pictures show the same things from a helpfully different place?"""

import numpy as np

from labeling.reconstruction.ground import PathGround, ground_depth
from labeling.reconstruction.settings import MatchSettings
from labeling.reconstruction.views import PinholeView
from scenes.geometry import NS_PER_S

SAMPLES_HW = (7, 9)
FREE_DEPTHS_M = (8.0, 20.0)
"""Depths at which pixels are taken to see something, besides the ground."""
ENOUGH = 2.0
"""Neighbours of full worth that a sample can use."""


def samples_world(view: PinholeView, ground: PathGround, far_m: float) -> np.ndarray:
    """(S, 3) points that the view may see: on the ground where its rays meet it soon, else at two depths."""
    height, width = view.camera.size_hw
    rows = np.linspace(0.12, 0.95, SAMPLES_HW[0]) * (height - 1)
    columns = np.linspace(0.04, 0.96, SAMPLES_HW[1]) * (width - 1)
    pick = np.ix_(rows.astype(int), columns.astype(int))
    on_ground = ground_depth(view, ground, 0.0, far_m)
    found = []
    for depth in FREE_DEPTHS_M:
        guess = np.where((on_ground > 0) & (on_ground < 25.0), on_ground, depth).astype(np.float32)
        found.append(view.points_world(guess)[pick].reshape(-1, 3))
    return np.concatenate(found)


def worth(view: PinholeView, other: PinholeView, points_world: np.ndarray, best_angle_rad: float) -> np.ndarray:
    """(S,) how much `other` helps at each point: seen, at a good angle, at a similar scale; 0 to 1."""
    pixels, z = other.project(points_world)
    height, width = other.camera.size_hw
    seen = (z > 0.5) & (pixels > 3).all(-1) & (pixels[..., 0] < width - 4) & (pixels[..., 1] < height - 4)
    mine, theirs = view.center_world - points_world, other.center_world - points_world
    cosine = (mine * theirs).sum(-1) / np.maximum(np.linalg.norm(mine, axis=-1) * np.linalg.norm(theirs, axis=-1), 1e-6)
    angle = np.arccos(np.clip(cosine, -1, 1))
    by_angle = np.exp(-0.5 * (np.log(np.maximum(angle, 1e-4) / best_angle_rad) / 1.0) ** 2)
    scale = (other.camera.focal_px * np.linalg.norm(mine, axis=-1)) / (
        view.camera.focal_px * np.maximum(np.linalg.norm(theirs, axis=-1), 0.1)
    )
    return seen * by_angle * np.exp(-0.5 * (np.log(np.maximum(scale, 1e-3)) / 0.5) ** 2)


def choose_neighbours(view: PinholeView, others: list[PinholeView], ground: PathGround, settings: MatchSettings) -> list[PinholeView]:
    """The best set of neighbours, greedily: each adds most to what the chosen ones do not serve well yet."""
    near = [
        other
        for other in others
        if other is not view
        and not (other.frame_index == view.frame_index and other.camera.parent.name == view.camera.parent.name)
        and abs(other.timestamp_ns - view.timestamp_ns) <= settings.reach_s * NS_PER_S
    ]
    if not near:
        return []
    points = samples_world(view, ground, settings.far_m)
    value = np.stack([worth(view, other, points, settings.best_angle_rad) for other in near])
    served, chosen = np.zeros(len(points)), []
    for _ in range(min(settings.neighbours, len(near))):
        gain = (np.minimum(np.sqrt(served + value), ENOUGH) - np.sqrt(np.minimum(served, ENOUGH**2))).sum(axis=1)
        gain[chosen] = -1
        best = int(np.argmax(gain))
        if gain[best] < 0.3:
            break
        chosen.append(best)
        served = served + value[best]
    return [near[k] for k in chosen]
