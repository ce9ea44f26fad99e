"""Where would the ground be if nobody had looked? On the planes that the ego vehicle's wheels stood on."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from labeling.reconstruction.views import PinholeView
from scenes.clips import Clip


@dataclass(frozen=True)
class PathGround:
    """The ground near the ego path: at each place the tangent plane of the nearest pose."""

    origins_world: np.ndarray
    """(P, 3) points of the path on the ground."""
    normals_world: np.ndarray
    """(P, 3) upward unit normals of the ground there."""
    tree: KDTree

    def height(self, xy_world: np.ndarray) -> np.ndarray:
        """Expected z (...) at places (..., 2)."""
        nearest = self.tree.query(np.nan_to_num(xy_world).reshape(-1, 2))[1].reshape(xy_world.shape[:-1])
        origin, normal = self.origins_world[nearest], self.normals_world[nearest]
        return origin[..., 2] - ((xy_world - origin[..., :2]) * normal[..., :2]).sum(-1) / normal[..., 2]

    def distance(self, xy_world: np.ndarray) -> np.ndarray:
        """Distance (...) of places (..., 2) from the path."""
        return self.tree.query(xy_world.reshape(-1, 2))[0].reshape(xy_world.shape[:-1])


def path_ground(clip: Clip, offset_m: float = 0.0) -> PathGround:
    """The ground below the clip's path; `offset_m` is how high the ground lies over the ego frame's origin."""
    poses = np.concatenate([[frame.world_from_ego for frame in clip.frames], clip.trajectory.world_from_ego])
    keep = [0]
    for row in range(1, len(poses)):
        if np.linalg.norm(poses[row, :2, 3] - poses[keep[-1], :2, 3]) > 0.5:
            keep.append(row)
    origins, normals = poses[keep, :3, 3] + offset_m * poses[keep, :3, 2], poses[keep, :3, 2]
    return PathGround(origins, normals, KDTree(origins[:, :2]))


def ground_depth(view: PinholeView, ground: PathGround, height_m: float, far_m: float) -> np.ndarray:
    """(H, W) float32 depth along the axis at which each pixel's ray meets the ground raised by `height_m`; 0 where it does not."""
    rays_world = view.camera.rays @ view.world_from_pin[:3, :3].T.astype(np.float32)
    pose = view.world_from_ego_at_cam
    origin, normal = pose[:3, 3] + height_m * pose[:3, 2], pose[:3, 2]
    depth = _meet(rays_world, view.center_world, origin, normal, far_m)
    points = rays_world * depth[..., None] + view.center_world
    nearest = ground.tree.query(points[::4, ::4, :2].reshape(-1, 2))[1].reshape(points[::4, ::4].shape[:2])
    nearest = np.repeat(np.repeat(nearest, 4, axis=0), 4, axis=1)[: points.shape[0], : points.shape[1]]
    origin = ground.origins_world[nearest] + height_m * ground.normals_world[nearest]
    return _meet(rays_world, view.center_world, origin, ground.normals_world[nearest], far_m)


def _meet(rays_world: np.ndarray, center: np.ndarray, origin: np.ndarray, normal: np.ndarray, far_m: float) -> np.ndarray:
    down = (rays_world * normal).sum(-1)
    room = ((origin - center) * normal).sum(-1)
    depth = np.where(down < -1e-4, room / np.minimum(down, -1e-4), 0.0)
    return np.where((depth > 0) & (depth < far_m), depth, 0.0).astype(np.float32)
