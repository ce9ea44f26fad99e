"""What do the triangles of a clip look like under its light, and where do those of the labelled objects stand?"""

from functools import lru_cache

import cv2
import numpy as np

from scenes.simulator.actors import Actor
from scenes.simulator.meshes import Mesh, Texture, merge
from scenes.simulator.textures import METERS_A_TILE, TILE_PX, texture_atlas
from scenes.simulator.weather import Light

LOOK_ROWS = 10
"""Rows of a look table: u, v of the first corner, their change to the second and to the third, red, green, blue, texture."""
LOOK_RGB = slice(6, 9)
ATLAS_ONE = 128
"""Texel value that leaves a colour as it is."""


class Fleet:
    """The triangles of all actors of a clip in their own frames, with everything about their look that never changes."""

    def __init__(self, actors: list[Actor], light: Light) -> None:
        meshes = [actor.body.mesh for actor in actors]
        mesh = merge(meshes)
        self.actor = np.repeat(np.arange(len(actors)), [len(m) for m in meshes])
        self.corners, self.normals = mesh.corners, mesh.normals()
        self.sun_direction = light.sun_direction.astype(np.float32)
        self.in_sun = np.ascontiguousarray((mesh.color * light.sun_rgb.astype(np.float32)).T)
        self.look = look_table(mesh, self.normals, light, sun=False)

    def placed(self, pick: np.ndarray, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World corners (T, 3, 3) and look table of the triangles `pick`; `poses` (A, 3) holds x, y, yaw of every actor."""
        x, y, yaw = poses.astype(np.float32).T
        actor = self.actor[pick]
        cos, sin = np.cos(yaw)[actor], np.sin(yaw)[actor]
        local = self.corners[pick]
        corners = np.empty_like(local)
        corners[..., 0] = cos[:, None] * local[..., 0] - sin[:, None] * local[..., 1] + x[actor, None]
        corners[..., 1] = sin[:, None] * local[..., 0] + cos[:, None] * local[..., 1] + y[actor, None]
        corners[..., 2] = local[..., 2]
        normals, sun = self.normals[pick], self.sun_direction
        facing = normals[:, 0] * (cos * sun[0] + sin * sun[1]) + normals[:, 1] * (cos * sun[1] - sin * sun[0]) + normals[:, 2] * sun[2]
        look = self.look.take(pick, axis=1)
        look[LOOK_RGB] += np.maximum(facing, 0) * self.in_sun.take(pick, axis=1)
        return corners, look


def look_table(mesh: Mesh, normals: np.ndarray, light: Light, sun: bool = True) -> np.ndarray:
    """(LOOK_ROWS, T) float32: texture coordinates in texels and colour under the sky, the mesh's own lamps and the sun.

    `sun` is for things already turned into the world; `Fleet.placed` adds it for the others.
    """
    shade = (0.72 + 0.34 * normals[:, 2:]) * light.ambient_rgb.astype(np.float32)
    if sun:
        facing = np.clip(normals @ light.sun_direction.astype(np.float32), 0, 1)
        shade = shade + facing[:, None] * light.sun_rgb.astype(np.float32)
    glow = mesh.glow[:, None] * np.float32(0.25 + 0.75 * light.lamps)
    scale = np.array([TILE_PX / METERS_A_TILE[t] for t in Texture], dtype=np.float32)[mesh.texture]
    uv = mesh.uv * scale[:, None, None]
    table = np.empty((LOOK_ROWS, len(mesh)), dtype=np.float32)
    table[0:2] = (uv[:, 0] + np.float32(64 * TILE_PX)).T  # never negative, so that the fraction's bits can be masked
    table[2:4] = (uv[:, 1] - uv[:, 0]).T
    table[4:6] = (uv[:, 2] - uv[:, 0]).T
    table[LOOK_RGB] = (mesh.color * (shade + glow)).T
    table[9] = mesh.texture
    return table


@lru_cache(maxsize=1)
def atlas_levels() -> np.ndarray:
    """(levels * tiles * TILE_PX * TILE_PX,) uint32: the atlas sharp, blurred, and nearly flat.

    Three bytes of a texel are red, green and blue, `ATLAS_ONE` a factor of 1; one word a texel makes looking it up cheap.
    """
    sharp = texture_atlas()
    levels = [sharp]
    for cells in (32, 8):
        small = [cv2.resize(tile, (cells, cells), interpolation=cv2.INTER_AREA) for tile in sharp]
        levels.append(np.stack([cv2.resize(tile, (TILE_PX, TILE_PX), interpolation=cv2.INTER_LINEAR) for tile in small]))
    rgb = np.clip(np.stack(levels) * ATLAS_ONE, 0, 255).astype(np.uint8)
    return np.concatenate([rgb, np.zeros((*rgb.shape[:-1], 1), np.uint8)], axis=-1).reshape(-1, 4).view(np.uint32).reshape(-1)
