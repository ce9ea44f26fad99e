"""What is a coloured triangle mesh, and how are simple solids made?"""

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

import numpy as np

from scenes.geometry import rotation_from_yaw


class Texture(IntEnum):
    """Tile of the texture atlas that multiplies a triangle's colour (painted in `textures.py`)."""

    PLAIN = 0
    PAINT = 1
    GLASS = 2
    BRICK = 3
    WINDOWS = 4
    OFFICE = 5
    PLASTER = 6
    LEAVES = 7
    CORRUGATED = 8
    CLOTH = 9
    STRIPES = 10
    BARK = 11


@dataclass(frozen=True)
class Mesh:
    """Triangles with their own corners (nothing is shared, so every face is flat)."""

    corners: np.ndarray
    """(T, 3, 3) float32 metres: triangle, corner, axis."""
    color: np.ndarray
    """(T, 3) float32 in [0, 1]."""
    texture: np.ndarray
    """(T,) uint8, `Texture`."""
    glow: np.ndarray
    """(T,) float32: light of its own (lamps); 0 for most."""
    uv: np.ndarray
    """(T, 3, 2) float32 metres on the surface, for the texture."""

    @classmethod
    def empty(cls) -> "Mesh":
        """No triangles."""
        return cls(np.zeros((0, 3, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros(0, np.uint8), np.zeros(0, np.float32),
                   np.zeros((0, 3, 2), np.float32))  # fmt: skip

    def __len__(self) -> int:
        return len(self.corners)

    def moved(self, x_m: float = 0.0, y_m: float = 0.0, z_m: float = 0.0, yaw_rad: float = 0.0) -> "Mesh":
        """The mesh turned about +z, then shifted; textures stick to it."""
        corners = self.corners
        if yaw_rad != 0.0:
            corners = corners @ rotation_from_yaw(yaw_rad).astype(np.float32).T
        return Mesh(corners + np.array([x_m, y_m, z_m], np.float32), self.color, self.texture, self.glow, self.uv)

    def scaled(self, factors) -> "Mesh":
        """The mesh stretched along its axes."""
        return replace(self, corners=self.corners * np.asarray(factors, np.float32))

    def normals(self) -> np.ndarray:
        """(T, 3) unit normals."""
        normal = cross(self.corners[:, 1] - self.corners[:, 0], self.corners[:, 2] - self.corners[:, 0])
        return (normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross products of rows (T, 3), without `np.cross`'s overhead."""
    return a[:, _NEXT] * b[:, _AFTER_NEXT] - a[:, _AFTER_NEXT] * b[:, _NEXT]


def merge(meshes: list[Mesh]) -> Mesh:
    """All triangles of several meshes, in order."""
    if not meshes:
        return Mesh.empty()
    return Mesh(*(np.concatenate([getattr(m, name) for m in meshes]) for name in ("corners", "color", "texture", "glow", "uv")))


def mesh_of(corners: np.ndarray, color, texture: Texture = Texture.PLAIN, glow: float = 0.0) -> Mesh:
    """A one-coloured convex mesh of triangles (T, 3, 3), turned to face outwards; textures lie along each face's main axis."""
    corners = np.array(corners, dtype=np.float32)
    normal = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    middles = corners.sum(axis=1)
    inward = np.einsum("ti,ti->t", middles - middles.sum(axis=0) / len(middles), normal) < 0
    if inward.any():
        corners[inward] = corners[inward, ::-1]
    axis = np.argmax(np.abs(normal) * _TOP_FIRST, axis=1)
    uv = corners[np.arange(len(corners))[:, None, None], np.arange(3)[None, :, None], _UV_AXES[axis][:, None]]
    return plain_mesh(corners, uv, color, texture, glow)


def plain_mesh(corners: np.ndarray, uv: np.ndarray, color, texture: Texture = Texture.PLAIN, glow: float = 0.0) -> Mesh:
    """A mesh of one colour from float32 triangles (T, 3, 3) with their texture coordinates (T, 3, 2), as they are."""
    colors = np.empty((len(corners), 3), dtype=np.float32)
    colors[:] = color
    return Mesh(corners, colors, np.full(len(corners), texture, np.uint8), np.full(len(corners), glow, np.float32), uv)


_NEXT, _AFTER_NEXT = np.array([1, 2, 0]), np.array([2, 0, 1])
_TOP_FIRST = np.array([1.0, 1.0, 1.001], np.float32)
_UV_AXES = np.array([(1, 2), (0, 2), (0, 1)])
"""The axes that a texture lies along on faces across x, y and z."""


def box(x0, x1, y0, y1, z0, z1, color, texture: Texture = Texture.PLAIN, glow: float = 0.0) -> Mesh:
    """An axis-aligned box, twelve triangles."""
    unit = _unit_box()
    low = np.array([min(x0, x1), min(y0, y1), min(z0, z1)], dtype=np.float32)
    size = np.array([abs(x1 - x0), abs(y1 - y0), abs(z1 - z0)], dtype=np.float32)
    corners = unit.corners * size + low
    return plain_mesh(corners, corners.reshape(-1)[_unit_box_uv()], color, texture, glow)


@lru_cache(maxsize=1)
def _unit_box() -> Mesh:
    bottom = [(0, 0), (1, 0), (1, 1), (0, 1)]
    return loft([(0, bottom), (1, bottom)], (1, 1, 1))


@lru_cache(maxsize=1)
def _unit_box_uv() -> np.ndarray:
    """(12, 3, 2) places of the texture coordinates among the flattened corners (the same for every box)."""
    axis = np.argmax(np.abs(_unit_box().normals()), axis=1)
    return np.arange(12)[:, None, None] * 9 + np.arange(3)[None, :, None] * 3 + _UV_AXES[axis][:, None]


def loft(sections, color, texture: Texture = Texture.PLAIN, glow: float = 0.0) -> Mesh:
    """The solid through horizontal sections [(z, [(x, y), ...]), ...] of equally many corners, closed at both ends."""
    rings = np.empty((len(sections), len(sections[0][1]), 3))
    for k, (z, ring) in enumerate(sections):
        rings[k, :, :2], rings[k, :, 2] = ring, z
    return mesh_of(_tube(rings), color, texture, glow)


def _tube(rings: np.ndarray) -> np.ndarray:
    """Triangles (T, 3, 3) of the closed solid through rings (K, P, 3)."""
    return rings.reshape(-1, 3)[_tube_triangles(*rings.shape[:2])]


@lru_cache(maxsize=64)
def _tube_triangles(num_rings: int, num_corners: int) -> np.ndarray:
    """(T, 3) corner indices: two triangles a side, a fan at both ends."""
    index = np.arange(num_rings * num_corners).reshape(num_rings, num_corners)
    turned = np.roll(index, -1, axis=1)
    low, high, low_next, high_next = index[:-1], index[1:], turned[:-1], turned[1:]
    sides = np.stack([np.stack([low, low_next, high_next], axis=2), np.stack([low, high_next, high], axis=2)])
    caps = [np.stack([np.full(num_corners - 2, ring[0]), ring[1:-1], ring[2:]], axis=1) for ring in (index[0], index[-1])]
    return np.concatenate([sides.reshape(-1, 3), *caps])


def profile(points_xz, width_m: float, color, texture: Texture = Texture.PLAIN, top_width: float = 1.0) -> Mesh:
    """A convex side view (P, 2) as x, z, extruded across `width_m`.

    `top_width` narrows it linearly towards its highest point, as cabins are.
    """
    points = np.asarray(points_xz, dtype=np.float64)
    low, high = points[:, 1].min(), points[:, 1].max()
    half = width_m / 2 * (1 + (top_width - 1) * (points[:, 1] - low) / max(high - low, 1e-6))
    rings = np.empty((2, len(points), 3))
    rings[..., 0], rings[..., 2] = points[:, 0], points[:, 1]
    rings[0, :, 1], rings[1, :, 1] = -half, half
    return mesh_of(_tube(rings), color, texture)


@lru_cache(maxsize=16)
def unit_circle(sides: int) -> np.ndarray:
    """(sides, 2) corners of a regular polygon in the unit circle."""
    angle = np.arange(sides) * 2 * np.pi / sides
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def cylinder(radius_m: float, z0: float, z1: float, color, sides: int = 8, top_radius_m: float | None = None,
             texture: Texture = Texture.PLAIN) -> Mesh:  # fmt: skip
    """An upright cylinder, cone (`top_radius_m` near 0) or frustum at the origin."""
    circle = unit_circle(sides)
    top = radius_m if top_radius_m is None else max(top_radius_m, 0.005)
    return loft([(z0, circle * radius_m), (z1, circle * top)], color, texture)


def wheel(radius_m: float, width_m: float, color=(0.06, 0.06, 0.065), sides: int = 10) -> Mesh:
    """A wheel that rolls along x, axle along y through the origin, with a lighter hub."""
    return _unit_wheel(color, sides).scaled((radius_m, width_m, radius_m))


@lru_cache(maxsize=8)
def _unit_wheel(color: tuple[float, float, float], sides: int) -> Mesh:
    tyre = _laid_down(cylinder(1.0, -0.5, 0.5, color, sides))
    hub = _laid_down(cylinder(0.55, -0.54, 0.54, (0.45, 0.46, 0.48), 6))
    return merge([tyre, hub])


def _laid_down(mesh: Mesh) -> Mesh:
    corners = mesh.corners[:, :, [0, 2, 1]][:, ::-1]
    return replace(mesh, corners=np.ascontiguousarray(corners), uv=np.ascontiguousarray(mesh.uv[:, ::-1]))


def ball(
    radius_xyz, color, texture: Texture = Texture.PLAIN, sides: int = 7, rings: int = 4, rng: np.random.Generator | None = None
) -> Mesh:
    """An ellipsoid at the origin; with `rng` a bumpy one, as crowns of trees are."""
    circle = unit_circle(sides) * np.array(radius_xyz[:2])
    sections = []
    for k in range(rings + 1):
        latitude = -math.pi / 2 + math.pi * k / rings
        bump = 1.0 if rng is None else rng.uniform(0.8, 1.12, (sides, 1))
        sections.append((radius_xyz[2] * math.sin(latitude), circle * (max(math.cos(latitude), 0.02) * bump)))
    return loft(sections, color, texture)


def fitted(mesh: Mesh, length_m: float, width_m: float, height_m: float) -> Mesh:
    """The mesh stretched so that it fills the box exactly: x in +-length/2, y in +-width/2, z from 0 to height."""
    low, high = mesh.corners.min(axis=(0, 1)), mesh.corners.max(axis=(0, 1))
    size = np.array([length_m, width_m, height_m], np.float32)
    corners = (mesh.corners - (low + high) / 2) * (size / (high - low)) + np.array([0, 0, height_m / 2], np.float32)
    return replace(mesh, corners=corners.astype(np.float32))
