"""What does each pixel see? Rays cast into triangle meshes with Open3D (the only file that touches it), then shaded."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from scenes.open3d_loader import load_open3d
from scenes.simulator.actors import Actor
from scenes.simulator.ground import CELL_M, MIP_STEPS
from scenes.simulator.meshes import Mesh, Texture, merge
from scenes.simulator.rays import CameraRays
from scenes.simulator.textures import METERS_A_TILE, TILE_PX, texture_atlas
from scenes.simulator.weather import SKY_COLUMNS, Light, rain_streaks, vignette
from scenes.simulator.world import World, ego_solid, shadow_outline, solid_of_box

GROUND_REACH_M = 600.0
SHADOW_CELL_M, SHADOW_CELLS = 0.2, 500
"""Raster around the ego vehicle in which moving shadows are drawn."""
SMOOTHING_PX = 0.45
"""Standard deviation of the lens blur."""


@dataclass(frozen=True)
class Surface:
    """What the triangles of a scene look like under the clip's light; row = triangle."""

    rgb: np.ndarray
    """(T, 3) float32, lit."""
    texture: np.ndarray
    """(T,) uint8."""
    uv: np.ndarray
    """(T, 3, 2) float32 in texels of the finest atlas level."""
    instance: np.ndarray
    """(T,) int32: track id, -1 for none."""


@dataclass(frozen=True)
class Hits:
    """First hits of N rays."""

    distance_m: np.ndarray
    """(N,) float32, inf for the sky."""
    triangle: np.ndarray
    """(N,) int64 row of the joint surface table, -1 where not on a mesh."""
    barycentric: np.ndarray
    """(N, 2) float32."""


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


SURFACE_FIELDS = ("rgb", "texture", "uv", "instance")


class Fleet:
    """The triangles of all actors of a clip in their own frames, with everything about their look that never changes."""

    def __init__(self, actors: list[Actor], light: Light) -> None:
        meshes = [actor.body.mesh for actor in actors]
        mesh = merge(meshes)
        self.actor = np.repeat(np.arange(len(actors)), [len(m) for m in meshes])
        self.corners, self.normals = mesh.corners, mesh.normals()
        self.sun_direction = light.sun_direction
        self.in_sun = mesh.color * light.sun_rgb.astype(np.float32)
        track_ids = np.array([actor.track_id for actor in actors], dtype=np.int32)
        self.look = lit_surface(mesh, self.normals, light, track_ids[self.actor], sun=False)

    def placed(self, pick: np.ndarray, poses: np.ndarray) -> tuple[np.ndarray, Surface]:
        """World corners (T, 3, 3) and look of the triangles `pick`; `poses` (A, 3) holds x, y, yaw of every actor."""
        x, y, yaw = poses[self.actor[pick]].T.astype(np.float32)
        cos, sin = np.cos(yaw), np.sin(yaw)
        local = self.corners[pick]
        corners = np.empty_like(local)
        corners[..., 0] = cos[:, None] * local[..., 0] - sin[:, None] * local[..., 1] + x[:, None]
        corners[..., 1] = sin[:, None] * local[..., 0] + cos[:, None] * local[..., 1] + y[:, None]
        corners[..., 2] = local[..., 2]
        normals, sun = self.normals[pick], self.sun_direction.astype(np.float32)
        facing = normals[:, 0] * (cos * sun[0] + sin * sun[1]) + normals[:, 1] * (cos * sun[1] - sin * sun[0]) + normals[:, 2] * sun[2]
        rgb = self.look.rgb[pick] + np.clip(facing, 0, 1)[:, None] * self.in_sun[pick]
        return corners, Surface(rgb, self.look.texture[pick], self.look.uv[pick], self.look.instance[pick])


class Moment:
    """All labelled objects as they stand at one instant, ready for rays."""

    def __init__(self, renderer: "Renderer", time_s: float) -> None:
        traffic = renderer.world.traffic
        self.world_from_ego = renderer.world.ego_at(time_s)
        self.boxes_world, self.rows = renderer.world.boxes_at(time_s)
        self.is_moving = np.array([not traffic.actors[int(row)].is_static for row in self.rows], dtype=bool)
        poses, _ = traffic.poses_at(time_s)
        here = np.zeros(len(traffic.actors), dtype=bool)
        here[self.rows] = True
        pick = np.flatnonzero(here[renderer.fleet.actor])
        corners, surface = renderer.fleet.placed(pick, poses[1:])
        self.surface = Surface(*(np.concatenate([getattr(s, n) for s in (renderer.static_surface, surface)]) for n in SURFACE_FIELDS))
        self.row_of_triangle = np.searchsorted(self.rows, renderer.fleet.actor[pick])
        self.scene = renderer.new_scene(corners) if len(corners) else None
        self.centers_world = self.boxes_world.box[:, :3]
        self.radii_m = np.linalg.norm(self.boxes_world.box[:, 3:6], axis=1) / 2 + 0.01
        self.shadow = renderer.moving_shadow(self)

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
        self.static_surface = lit_surface(static, static.normals(), world.light, np.full(len(static), -1, dtype=np.int32))
        self.static_scene = self.new_scene(static.corners)
        self.num_static = len(static)
        self.atlas = _atlas_levels()
        self.finish = {rays.camera.name: Finish(rays, world.light, rng) for rays in cameras}

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
        """(SHADOW_CELLS, SHADOW_CELLS) uint8 around the ego vehicle, 255 where a mover or the ego vehicle hides the sun."""
        low = moment.world_from_ego[:2, 3] - SHADOW_CELL_M * SHADOW_CELLS / 2
        solids = [ego_solid(moment.world_from_ego)]
        solids += [solid_of_box(box[0], box[1], box[6], box[3:6]) for box in moment.boxes_world.box[moment.is_moving]]
        dark = np.zeros((SHADOW_CELLS, SHADOW_CELLS), dtype=np.uint8)
        for solid in solids:
            outline = (shadow_outline(solid, self.world.light) - low) / SHADOW_CELL_M
            cv2.fillConvexPoly(dark, np.round(outline * 16).astype(np.int32), 235, cv2.LINE_8, 4)
        return cv2.GaussianBlur(dark, (5, 5), 0)

    def render(self, rays: CameraRays, moment: Moment) -> View:
        """The picture of one camera at one instant, with its truth."""
        directions_world = rays.rays_ego @ moment.world_from_ego[:3, :3].T.astype(np.float32)
        origin_world = (moment.world_from_ego[:3, :3] @ rays.origin_ego + moment.world_from_ego[:3, 3]).astype(np.float32)
        ray_table = np.empty((len(directions_world), 6), dtype=np.float32)
        ray_table[:, :3], ray_table[:, 3:] = origin_world, directions_world
        hits, unhidden = self._cast(rays, moment, ray_table)
        ground = ground_distance(ray_table)
        on_ground = ground < hits.distance_m
        distance = np.where(on_ground, ground, hits.distance_m)
        triangle = np.where(on_ground, -1, hits.triangle)
        instance = np.where(triangle >= 0, moment.surface.instance[triangle], -1)
        n = rays.num_pixels
        image = self._shade(rays, moment, ray_table[:n], distance[:n], on_ground[:n], triangle[:n], hits.barycentric[:n])
        depth = np.where(np.isfinite(distance[n:]), distance[n:], 0.0)
        return View(
            image_rgb=image,
            depth_m=depth.reshape(rays.truth_hw),
            instance=instance[n:].reshape(rays.truth_hw),
            visible_px=_count_rows(moment, triangle[:n], self.num_static),
            unhidden_px=unhidden,
        )

    def _cast(self, rays: CameraRays, moment: Moment, ray_table: np.ndarray) -> tuple[Hits, np.ndarray]:
        """First hits on meshes, and the pixels each actor would cover alone."""
        distance, triangle, barycentric = self._first_hits(self.static_scene, ray_table)
        unhidden = np.zeros(len(moment), dtype=np.int64)
        if moment.scene is None:
            return Hits(distance, triangle, barycentric), unhidden
        ego_from_world = np.linalg.inv(moment.world_from_ego)
        centers_ego = moment.centers_world @ ego_from_world[:3, :3].T + ego_from_world[:3, 3]
        candidates = rays.tiles_seeing(centers_ego, moment.radii_m).sum(axis=1)[rays.tile]
        index = np.flatnonzero(candidates)
        near, near_triangle, near_barycentric = self._first_hits(moment.scene, ray_table[index])
        unhidden = self._count_alone(moment, ray_table, index, near_triangle, candidates, rays.num_pixels)
        closer = near < distance[index]
        chosen = index[closer]
        distance[chosen] = near[closer]
        triangle[chosen] = near_triangle[closer] + self.num_static
        barycentric[chosen] = near_barycentric[closer]
        return Hits(distance, triangle, barycentric), unhidden

    def _first_hits(self, scene, ray_table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        answer = scene.cast_rays(self.o3d.core.Tensor.from_numpy(np.ascontiguousarray(ray_table)), nthreads=self.threads)
        distance = answer["t_hit"].numpy()
        triangle = np.where(np.isfinite(distance), answer["primitive_ids"].numpy().astype(np.int64), -1)
        return distance.copy(), triangle, answer["primitive_uvs"].numpy().copy()

    def _count_alone(self, moment: Moment, ray_table, index, triangle, candidates, num_pixels: int) -> np.ndarray:
        """(M,) picture rays that meet each actor, whatever else they meet; only rays with several candidates are traced through."""
        hit = (triangle >= 0) & (index < num_pixels)
        several = hit & (candidates[index] > 1)
        count = np.bincount(moment.row_of_triangle[triangle[hit & ~several]], minlength=len(moment))
        if several.any():
            through = self.o3d.core.Tensor.from_numpy(ray_table[index[several]])
            answer = moment.scene.list_intersections(through, nthreads=self.threads)  # pyright: ignore[reportOptionalMemberAccess]
            ray = answer["ray_ids"].numpy().astype(np.int64)
            row = moment.row_of_triangle[answer["primitive_ids"].numpy().astype(np.int64)]
            meets = np.zeros((int(several.sum()), len(moment)), dtype=bool)
            meets[ray, row] = True
            count = count + meets.sum(axis=0)
        return count

    def _shade(self, rays: CameraRays, moment: Moment, ray_table, distance, on_ground, triangle, barycentric) -> np.ndarray:
        """(H, W, 3) uint8 picture from the first hits of the picture rays."""
        light, shape = self.world.light, (rays.camera.height_px, rays.camera.width_px)
        near = np.minimum(distance, GROUND_REACH_M)
        points_world = ray_table[:, :2] + near[:, None] * ray_table[:, 3:5]
        rgb = self._sky(rays, moment).reshape(-1, 3)
        ground = self._ground(points_world.reshape(*shape, 2), near.reshape(shape), ray_table[:, 5].reshape(shape), moment, rays)
        np.copyto(rgb, ground.reshape(-1, 3), where=on_ground[:, None])
        on_mesh = np.flatnonzero(triangle >= 0)
        rgb[on_mesh] = self._mesh_color(moment.surface, triangle[on_mesh], barycentric[on_mesh], near[on_mesh], rays)
        if light.lamps > 0:
            solid = np.isfinite(distance)
            rgb *= self._lamp_gain(rays, points_world, near, on_ground, solid)[:, None]
        haze_rgb = light.horizon_rgb.astype(np.float32)
        rgb -= haze_rgb
        rgb *= np.exp(near * np.float32(-light.haze_per_m))[:, None]
        rgb += haze_rgb
        return self.finish[rays.camera.name].apply(rgb.reshape(*shape, 3), self.rng)

    def _sky(self, rays: CameraRays, moment: Moment) -> np.ndarray:
        yaw = np.arctan2(moment.world_from_ego[1, 0], moment.world_from_ego[0, 0])
        column = (rays.sky_column + np.float32(yaw / (2 * np.pi) * SKY_COLUMNS)) % SKY_COLUMNS
        shape = (rays.camera.height_px, rays.camera.width_px)
        return cv2.remap(
            self.world.sky, column.reshape(shape), rays.sky_row.reshape(shape), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )

    def _ground(self, points_world, distance, slope, moment: Moment, rays: CameraRays) -> np.ndarray:
        """(H, W, 3) float32 colour of the ground under every pixel (used only where the ground is seen)."""
        texture = self.world.ground
        cells = (points_world - texture.origin_world.astype(np.float32)) / np.float32(CELL_M)
        footprint = distance / rays.camera.fx_px / np.sqrt(np.clip(-slope, 1e-3, 1)) / CELL_M
        farthest = footprint.max()
        result = np.zeros((*distance.shape, 3), dtype=np.uint8)
        for step, mip, low in zip(MIP_STEPS, texture.mips, (0.0, 2.5, 10.0), strict=True):
            if low > farthest:
                continue
            look = cv2.remap(mip, cells / np.float32(2**step), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore[reportArgumentType, reportCallIssue]
            np.copyto(result, look, where=(footprint >= low)[:, :, None])
        corner = moment.world_from_ego[:2, 3] - SHADOW_CELL_M * SHADOW_CELLS / 2
        place = (points_world - corner.astype(np.float32)) / np.float32(SHADOW_CELL_M)
        dark = cv2.remap(moment.shadow, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)  # pyright: ignore[reportArgumentType, reportCallIssue]
        light = self.world.light
        sun = light.sun_rgb * light.sun_direction[2]
        share = float(np.mean(sun / (sun + light.ambient_rgb)))
        darkest = max(share, 0.35)  # under a clouded sky vehicles still darken the ground beneath them
        gain = (1 - darkest / 255 * dark.astype(np.float32)) / 255
        return result * gain[:, :, None]

    def _mesh_color(self, surface: Surface, triangle, barycentric, distance, rays: CameraRays) -> np.ndarray:
        first, second = barycentric[:, :1], barycentric[:, 1:]
        corners = surface.uv[triangle]
        uv = corners[:, 0] * (1 - first - second) + corners[:, 1] * first + corners[:, 2] * second
        texel = uv.astype(np.int32) & (TILE_PX - 1)
        footprint = distance * np.float32(TILE_PX / 3.0 / rays.camera.fx_px)
        level = (footprint > 3).astype(np.int32) + (footprint > 12)
        factor = self.atlas[((level * len(Texture) + surface.texture[triangle]) * TILE_PX + texel[:, 1]) * TILE_PX + texel[:, 0]]
        return surface.rgb[triangle] * (factor * np.float32(1 / 128))

    def _lamp_gain(self, rays: CameraRays, points_world, distance, on_ground, solid) -> np.ndarray:
        """(N,) factor by which street lamps (not on the ground, where they are painted) and head lamps brighten things."""
        light = self.world.light
        level = np.float32(light.ambient_rgb.mean() + 0.15)
        picture = rays.rays_ego[: len(points_world)]
        ahead = rays.origin_ego[0] + distance * picture[:, 0] - 3.5
        aside = rays.origin_ego[1] + distance * picture[:, 1]
        beam = np.exp(-((aside / (0.28 * np.abs(ahead) + 1.6)) ** 2)) * (ahead > 0) / (1 + (ahead / 22) ** 2)
        high = rays.origin_ego[2] + distance * picture[:, 2]
        beam = beam * np.exp(-(np.maximum(high - 0.4 - 0.01 * ahead, 0) ** 2) / 2) * light.lamps * 0.75
        shape = (rays.camera.height_px, rays.camera.width_px, 2)
        texture = self.world.ground
        cells = (points_world - texture.origin_world.astype(np.float32)) / np.float32(CELL_M * 8)
        lamps = cv2.remap(texture.lamp_light, cells.reshape(shape), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)  # pyright: ignore[reportArgumentType, reportCallIssue]
        standing = np.where(on_ground, 0.0, lamps.reshape(-1, 3).mean(axis=1))
        return np.where(solid, 1 + (beam + standing) / level, 1.0).astype(np.float32)


class Finish:
    """What a camera's lens, sensor and the rain do to the picture; its gain and noise stay the same for a clip."""

    def __init__(self, rays: CameraRays, light: Light, rng: np.random.Generator) -> None:
        height, width = rays.camera.height_px, rays.camera.width_px
        self.light = light
        self.gain = light.exposure * rng.uniform(0.94, 1.06) * rng.uniform(0.98, 1.02, 3).astype(np.float32)
        self.gain = (self.gain * vignette(height, width, float(rng.uniform(0.1, 0.3)))).astype(np.float32)
        self.noise = rng.standard_normal((height + 32, width + 32, 3), dtype=np.float32) * np.float32(light.noise)
        self.streaks = [rain_streaks(rng, height, width) for _ in range(3)] if light.wet else []

    def apply(self, rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 from display brightness."""
        height, width = rgb.shape[:2]
        image = cv2.GaussianBlur(rgb, (3, 3), SMOOTHING_PX) * self.gain
        top, left = rng.integers(0, 32, 2)
        image += self.noise[top : top + height, left : left + width]
        if self.streaks:
            image += self.streaks[int(rng.integers(len(self.streaks)))]
        return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def ground_distance(ray_table: np.ndarray) -> np.ndarray:
    """(N,) float32 distance at which rays (N, 6) meet the plane z = 0; inf where they do not or only beyond `GROUND_REACH_M`."""
    down = np.minimum(ray_table[:, 5], -1e-6)
    distance = -ray_table[:, 2] / down
    return np.where((ray_table[:, 5] < 0) & (distance < GROUND_REACH_M), distance, np.float32(np.inf)).astype(np.float32)


def lit_surface(mesh: Mesh, normals: np.ndarray, light: Light, instance: np.ndarray, sun: bool = True) -> Surface:
    """The look of a mesh under the sky, its own lamps and (if `sun`, for things already turned into the world) the sun."""
    shade = (0.72 + 0.34 * normals[:, 2:]) * light.ambient_rgb.astype(np.float32)
    if sun:
        facing = np.clip(normals @ light.sun_direction.astype(np.float32), 0, 1)
        shade = shade + facing[:, None] * light.sun_rgb.astype(np.float32)
    glow = mesh.glow[:, None] * np.float32(0.25 + 0.75 * light.lamps)
    scale = np.array([TILE_PX / METERS_A_TILE[t] for t in Texture], dtype=np.float32)[mesh.texture]
    uv = mesh.uv * scale[:, None, None] + np.float32(64 * TILE_PX)
    return Surface(mesh.color * (shade + glow), mesh.texture, uv, instance)


@lru_cache(maxsize=1)
def _atlas_levels() -> np.ndarray:
    """(levels * tiles * TILE_PX * TILE_PX, 3) uint8: the atlas sharp, blurred, and nearly flat; 128 is a factor of 1."""
    sharp = texture_atlas()
    levels = [sharp]
    for cells in (32, 8):
        small = [cv2.resize(tile, (cells, cells), interpolation=cv2.INTER_AREA) for tile in sharp]
        levels.append(np.stack([cv2.resize(tile, (TILE_PX, TILE_PX), interpolation=cv2.INTER_LINEAR) for tile in small]))
    return np.clip(np.stack(levels) * 128, 0, 255).astype(np.uint8).reshape(-1, 3)


def _count_rows(moment: Moment, triangle: np.ndarray, num_static: int) -> np.ndarray:
    """(M,) rays that end on each actor."""
    seen = triangle[triangle >= num_static] - num_static
    return np.bincount(moment.row_of_triangle[seen], minlength=len(moment)) if len(moment) else np.zeros(0, np.int64)
