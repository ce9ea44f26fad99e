"""Does a body stand where the ego vehicle was? Two vehicles are never in one place, and the ego vehicle's place is known best of all."""

import numpy as np

from labeling.lifting.settings import JudgeSettings
from scenes.geometry import invert_rigid

TOUCH_M = 0.1
"""An overlap this deep costs one squared standard deviation."""
NEAR_M = 12.0
"""Bodies farther away are not looked at."""
MOST_POSES = 20
AROUND = np.array([(x, y) for x in (-0.5, 0.0, 0.5) for y in (-0.5, 0.0, 0.5) if (x, y) != (0.0, 0.0)])
"""(8, 2) points around a footprint of size 1."""
STEPS = (0.02, 0.02, 0.01)


def few_poses(world_from_ego: np.ndarray) -> np.ndarray:
    """(K, 4, 4) `ego_from_world` at a few poses (T, 4, 4) of the ego path."""
    chosen = np.linspace(0, len(world_from_ego) - 1, min(MOST_POSES, len(world_from_ego))).round().astype(int)
    return invert_rigid(world_from_ego[np.unique(chosen)])


def intrusion(place: np.ndarray, size: np.ndarray, ego_from_world: np.ndarray, judge: JudgeSettings) -> np.ndarray:
    """(B,) how deep (m) footprints x, y, yaw (B, 3) of length and width (B, 2) reach into the ego vehicle at any of K poses.

    `ego_from_world` is (K, 4, 4) for all or (B, K, 4, 4) for each.
    """
    poses = np.broadcast_to(ego_from_world, (len(place), *ego_from_world.shape[-3:]))
    cos, sin = np.cos(place[:, 2, None]), np.sin(place[:, 2, None])
    along, across = AROUND[:, 0] * size[:, :1], AROUND[:, 1] * size[:, 1:]
    points_world = place[:, None, :2] + np.stack([cos * along - sin * across, sin * along + cos * across], axis=-1)
    points_ego = np.einsum("bkij,bpj->bkpi", poses[..., :2, :2], points_world) + poses[..., None, :2, 3]
    ahead = np.minimum(judge.ego_front_m - points_ego[..., 0], points_ego[..., 0] + judge.ego_rear_m)
    depth = np.minimum(ahead, judge.ego_half_width_m - np.abs(points_ego[..., 1]))
    return np.maximum(depth.max(axis=(1, 2)), 0.0)


def intrusion_terms(
    place: np.ndarray, size: np.ndarray, ego_from_world: np.ndarray, judge: JudgeSettings, with_slopes: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised intrusions (B,) and their slopes (B, 3) with x, y and yaw; zero for whatever is not near."""
    error, slope = np.zeros(len(place)), np.zeros((len(place), 3))
    if not ego_from_world.shape[-3]:
        return error, slope
    poses = np.broadcast_to(ego_from_world, (len(place), *ego_from_world.shape[-3:]))
    middle_ego = np.einsum("bkij,bj->bki", poses[..., :2, :2], place[:, :2]) + poses[..., :2, 3]
    near = np.flatnonzero(np.hypot(*np.moveaxis(middle_ego, -1, 0)).min(axis=1) < NEAR_M)
    if not len(near):
        return error, slope
    error[near] = intrusion(place[near], size[near], poses[near], judge) / TOUCH_M
    hit = near[error[near] > 0]
    if with_slopes and len(hit):
        for k, step in enumerate(STEPS):
            moved = place[hit].copy()
            moved[:, k] += step
            slope[hit, k] = (intrusion(moved, size[hit], poses[hit], judge) / TOUCH_M - error[hit]) / step
    return error, slope
