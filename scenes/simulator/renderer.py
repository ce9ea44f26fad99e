"""What does each pixel see? Rays cast into triangle meshes with Open3D (the only file that touches it), then shaded."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from scenes.boxes import transform_boxes
from scenes.geometry import invert_rigid, transform_points
from scenes.open3d_loader import load_open3d
from scenes.simulator.rays import CameraRays
from scenes.simulator.sensor import Finish, noise_plane
from scenes.simulator.shading import SHADOW_CELL_M, SHADOW_CELLS, Hits, Shader
from scenes.simulator.surfaces import Fleet, look_table
from scenes.simulator.world import World, ego_solid, shadow_outlines, solids_of_boxes

BALLS = 3
"""An object is looked for in so many balls, side by side along its longest side."""


@dataclass(frozen=True)
class View:
    """One camera's picture and its exact truth."""

    image_rgb: np.ndarray
    """(H, W, 3) uint8."""
    depth_m: np.ndarray
    """(H / 4, W / 4) float32 along the ray; 0 for the sky."""
    instance: np.ndarray
    """(H / 4, W / 4) int32 track id, -1 for none."""
    visible_px: np.ndarray
    """(M,) pixels of the full picture that show each actor."""
    unhidden_px: np.ndarray
    """(M,) pixels that would show it if nothing else were there."""


class Moment:
    """All labelled objects as they stand at one instant, ready for rays."""

    def __init__(self, renderer: "Renderer", time_s: float) -> None:
        traffic = renderer.world.traffic
        self.world_from_ego = renderer.world.ego_at(time_s)
        self.boxes_world, self.rows = renderer.world.boxes_at(time_s)
        self.is_moving = ~traffic.is_static[self.rows]
        poses, _ = traffic.poses_at(time_s)
        row_of_actor = np.full(len(traffic.actors), -1, dtype=np.int64)
        row_of_actor[self.rows] = np.arange(len(self.rows))
        pick = np.flatnonzero(row_of_actor[renderer.fleet.actor] >= 0)
        corners, self.look = renderer.fleet.placed(pick, poses[1:])
        self.row_of_triangle = row_of_actor[renderer.fleet.actor[pick]]
        self.scene = renderer.new_scene(corners) if len(corners) else None
        self.balls_ego, self.radii_m = enclosing_balls(self.boxes_world.box)
        self.balls_ego = transform_points(invert_rigid(self.world_from_ego), self.balls_ego)
        self.shadow = renderer.moving_shadow(self)
        self.poses_ego = transform_boxes(invert_rigid(self.world_from_ego), self.boxes_world.box)[:, [0, 1, 6]]

    def local_rays(self, row: int, rays: CameraRays, ray: np.ndarray) -> np.ndarray:
        """(P, 6) float32 origins and directions of some rays of a camera in the frame of an object that stands on the ground."""
        x, y, yaw = self.poses_ego[row]
        cos, sin = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
        along, left = rays.origin_ego[0] - x, rays.origin_ego[1] - y
        table = np.empty((len(ray), 6), dtype=np.float32)
        table[:, :3] = cos * along + sin * left, cos * left - sin * along, rays.origin_ego[2]
        ahead, aside, table[:, 5] = rays.axes_ego.take(ray, axis=1)
        table[:, 3] = cos * ahead + sin * aside
        table[:, 4] = cos * aside - sin * ahead
        return table

    def __len__(self) -> int:
        return len(self.rows)


class Renderer:
    """Casts the rays of a clip; `threads` changes the speed, never the result."""

    def __init__(self, world: World, cameras: list[CameraRays], rng: np.random.Generator, threads: int = 1) -> None:
        self.o3d = load_open3d()
        self.world, self.threads = world, threads
        self.rng = rng
        self.fleet = Fleet(world.traffic.actors, world.light)
        static = world.scenery.mesh()
        self.static_look = look_table(static, static.normals(), world.light)
        self.static_scene = self.new_scene(static.corners)
        self.alone: dict[int, Any] = {}
        self.shader = Shader(world, cameras)
        noise = noise_plane(cameras[0].camera.height_px, cameras[0].camera.width_px, world.light, rng)
        self.finish = {r.camera.name: Finish(r.camera.height_px, r.camera.width_px, world.light, noise, rng) for r in cameras}

    def new_scene(self, corners: np.ndarray):
        """A ray casting scene of triangles (T, 3, 3); built by one thread, so that it is always the same."""
        scene = self.o3d.t.geometry.RaycastingScene(nthreads=1)
        if not len(corners):
            corners = np.full((1, 3, 3), -1e4, dtype=np.float32)  # Open3D wants at least one triangle; nothing sees this one
        indices = np.arange(3 * len(corners), dtype=np.uint32).reshape(-1, 3)
        scene.add_triangles(self.o3d.core.Tensor.from_numpy(np.ascontiguousarray(corners.reshape(-1, 3), np.float32)),
                            self.o3d.core.Tensor.from_numpy(indices))  # fmt: skip
        return scene

    def moving_shadow(self, moment: Moment) -> np.ndarray:
        """(SHADOW_CELLS, SHADOW_CELLS) float32 around the ego vehicle: share of the light left where a mover or it hides the sun."""
        low = moment.world_from_ego[:2, 3] - SHADOW_CELL_M * SHADOW_CELLS / 2
        solids = [ego_solid(moment.world_from_ego), *solids_of_boxes(moment.boxes_world.box[moment.is_moving])]
        dark = np.zeros((SHADOW_CELLS, SHADOW_CELLS), dtype=np.uint8)
        for outline in shadow_outlines(solids, self.world.light):
            cv2.fillConvexPoly(dark, np.round((outline - low) * (16 / SHADOW_CELL_M)).astype(np.int32), 235, cv2.LINE_8, 4)
        light = self.world.light
        sun = light.sun_rgb * light.sun_direction[2]
        darkest = max(float(np.mean(sun / (sun + light.ambient_rgb))), 0.35)  # vehicles darken the ground even under clouds
        return 1 - np.float32(darkest / 255) * cv2.GaussianBlur(dark, (5, 5), 0)

    def render(self, rays: CameraRays, moment: Moment) -> View:
        """The picture of one camera at one instant, with its truth."""
        table = ray_table(rays, moment.world_from_ego)
        distance, triangle, barycentric = self._first_hits(self.static_scene, table)
        on_scenery = distance < rays.ground_m
        distance = np.minimum(distance, rays.ground_m)
        actors, unhidden = self._meet_actors(rays, moment, table)
        actors = actors.part(actors.distance_m < distance[actors.ray])
        distance[actors.ray] = actors.distance_m
        on_scenery[actors.ray] = False
        n = rays.num_pixels
        ray = np.flatnonzero(on_scenery[:n])
        scenery = Hits(ray, distance[ray], triangle[ray], barycentric[ray])
        first_truth = int(np.searchsorted(actors.ray, n))
        in_picture, in_truth = actors.part(slice(first_truth)), actors.part(slice(first_truth, None))
        meshes = [(self.static_look, scenery), (moment.look, in_picture)]
        planes = self.shader.shade(rays, moment.world_from_ego, moment.shadow, meshes)
        instance = np.full(len(distance) - n, -1, dtype=np.int32)
        instance[in_truth.ray - n] = moment.boxes_world.track_id[moment.row_of_triangle[in_truth.triangle]]
        return View(
            image_rgb=self.finish[rays.camera.name].apply(planes, self.rng),
            depth_m=np.where(np.isfinite(distance[n:]), distance[n:], 0.0).reshape(rays.truth_hw),
            instance=instance.reshape(rays.truth_hw),
            visible_px=np.bincount(moment.row_of_triangle[in_picture.triangle], minlength=len(moment)),
            unhidden_px=unhidden,
        )

    def _meet_actors(self, rays: CameraRays, moment: Moment, table: np.ndarray) -> tuple[Hits, np.ndarray]:
        """Where rays meet labelled objects, the scenery left aside; and the picture rays that would end on each were it alone (M,)."""
        if moment.scene is None:
            return Hits(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros((0, 2), np.float32)), np.zeros(
                len(moment), dtype=np.int64
            )
        seen = rays.candidates(moment.balls_ego, moment.radii_m)
        ray = np.flatnonzero(np.any(seen, axis=0)[rays.tile])
        distance, triangle, barycentric = self._first_hits(moment.scene, table.take(ray, axis=0))
        hits = Hits(ray, distance, triangle, barycentric).part(np.flatnonzero(np.isfinite(distance)))
        in_picture = hits.part(slice(int(np.searchsorted(hits.ray, rays.num_pixels))))
        return hits, self._count_alone(rays, moment, in_picture, seen)

    def _first_hits(self, scene, table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distance (N,), inf where a ray meets nothing; triangle (N,) and barycentric (N, 2), of meaning only where it does."""
        answer = scene.cast_rays(self.o3d.core.Tensor.from_numpy(table), nthreads=self.threads)
        return answer["t_hit"].numpy(), answer["primitive_ids"].numpy(), answer["primitive_uvs"].numpy()

    def _count_alone(self, rays: CameraRays, moment: Moment, hits: Hits, seen: np.ndarray) -> np.ndarray:
        """(M,) picture rays that meet each actor, whatever else they meet: those that meet it first, and those it hides from."""
        first = moment.row_of_triangle[hits.triangle]
        count = np.bincount(first, minlength=len(moment))
        tile = rays.tile[hits.ray]
        several = seen.sum(axis=0)[tile] > 1
        ray, first, tile = hits.ray[several], first[several], tile[several]
        for row in np.flatnonzero(seen[:, tile].any(axis=1)) if len(ray) else ():
            behind = ray[seen[row, tile] & (first != row)]
            if len(behind):
                local = moment.local_rays(int(row), rays, behind)
                meets = self.fleet_scene(int(moment.rows[row])).test_occlusions(
                    self.o3d.core.Tensor.from_numpy(local), nthreads=self.threads
                )
                count[row] += np.count_nonzero(meets.numpy())
        return count

    def fleet_scene(self, actor: int):
        """The ray casting scene of one actor alone, in its own frame."""
        if actor not in self.alone:
            self.alone[actor] = self.new_scene(self.fleet.corners[self.fleet.actor == actor])
        return self.alone[actor]


def ray_table(rays: CameraRays, world_from_ego: np.ndarray) -> np.ndarray:
    """(N, 6) float32 origins and directions in the world, as Open3D wants them; the ego vehicle stands level."""
    table = np.empty((len(rays.rays_ego), 6), dtype=np.float32)
    table[:, :3] = transform_points(world_from_ego, rays.origin_ego)
    (cos, _), (sin, _) = world_from_ego[:2, :2].astype(np.float32)
    x, y, z = rays.axes_ego
    np.subtract(cos * x, sin * y, out=table[:, 3])
    np.add(sin * x, cos * y, out=table[:, 4])
    table[:, 5] = z
    return table


def enclosing_balls(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (M, BALLS, 3) and radii (M,) of balls that together hold each box (M, 9), in the boxes' frame."""
    size = box[:, 3:6]
    longest = size.argmax(axis=1)
    cos, sin, zero = np.cos(box[:, 6]), np.sin(box[:, 6]), np.zeros(len(box))
    axes = np.stack([np.stack([cos, sin, zero], 1), np.stack([-sin, cos, zero], 1), np.stack([zero, zero, zero + 1], 1)], axis=1)
    row = np.arange(len(box))
    share = (np.arange(BALLS) + 0.5) / BALLS - 0.5
    centers = box[:, None, :3] + (share[:, None] * size[row, longest][:, None, None]) * axes[row, longest][:, None]
    piece = size.copy()
    piece[row, longest] /= BALLS
    return centers, np.linalg.norm(piece, axis=1) / 2 + 0.01
