"""Which depths do other pictures confirm? Those that lead there and back to the same pixel at the same depth."""

import numpy as np

from labeling.reconstruction.neighbours import worth
from labeling.reconstruction.settings import ConsistencySettings
from labeling.reconstruction.sweep import DepthMap
from labeling.reconstruction.views import PinholeView


def confirmed(depth_map: DepthMap, others: list[DepthMap], settings: ConsistencySettings, best_angle_rad: float) -> np.ndarray:
    """(H, W) bool: known depths that at least `settings.confirmations` other depth maps agree with."""
    known = np.flatnonzero(depth_map.depth_m.reshape(-1))
    if not len(known):
        return np.zeros(depth_map.depth_m.shape, dtype=bool)
    view = depth_map.view
    points_world = view.points_world(depth_map.depth_m).reshape(-1, 3)[known]
    votes = np.zeros(len(known), dtype=np.int64)
    for other in witnesses(view, others, points_world, settings.views, best_angle_rad):
        votes += agrees(view, depth_map.depth_m.reshape(-1)[known], known, points_world, other, settings)
    result = np.zeros(depth_map.depth_m.size, dtype=bool)
    result[known] = votes >= settings.confirmations
    return result.reshape(depth_map.depth_m.shape)


def witnesses(view: PinholeView, others: list[DepthMap], points_world: np.ndarray, number: int, best_angle_rad: float) -> list[DepthMap]:
    """The depth maps of other pictures that see most of the points, from another place."""
    few = points_world[:: max(1, len(points_world) // 300)]
    candidates = [
        other
        for other in others
        if other.view is not view and (other.view.frame_index, other.view.camera.parent.name) != (view.frame_index, view.camera.parent.name)
    ]
    value = np.array([worth(view, other.view, few, best_angle_rad).sum() for other in candidates])
    return [candidates[k] for k in np.argsort(-value, kind="stable")[:number] if value[k] > 0.02 * len(few)]


def agrees(
    view: PinholeView, depth_m: np.ndarray, flat_pixel: np.ndarray, points_world: np.ndarray, other: DepthMap, settings: ConsistencySettings
) -> np.ndarray:
    """(P,) bool: which points the other map puts at the same place, measured in depth and in pixels of `view`."""
    pixels, z = other.view.project(points_world)
    place = np.where(z[:, None] > 0.1, pixels, -9.0).astype(np.float32)
    theirs = _sample(other.depth_m, place)
    close = (theirs > 0) & (np.abs(theirs - z) < settings.relative * z)
    column_row = np.stack([flat_pixel % view.grey.shape[1], flat_pixel // view.grey.shape[1]], axis=-1)
    camera = other.view.camera
    ray_xy = (place - np.array(camera.center_px)) / camera.focal_px
    back_pin = np.concatenate([ray_xy, np.ones_like(ray_xy[:, :1])], axis=1) * theirs[:, None]
    back_world = back_pin @ other.view.world_from_pin[:3, :3].T + other.view.center_world
    returned, _ = view.project(back_world)
    return close & (np.linalg.norm(returned - column_row, axis=-1) < settings.reprojection_px)


def _sample(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Nearest values (P,) of an image at pixels (P, 2); 0 outside."""
    found = np.zeros(len(pixels), dtype=np.float32)
    index = np.round(pixels).astype(np.int64)
    inside = (index >= 0).all(-1) & (index[:, 0] < image.shape[1]) & (index[:, 1] < image.shape[0])
    found[inside] = image[index[inside, 1], index[inside, 0]]
    return found
