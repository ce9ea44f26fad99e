"""Where does each camera see a 3D point? `Camera.project` of `scenes.cameras`, in torch, for all cameras at once.

Calibration is data at run time. Everything here is float32, also under autocast.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fusion.interface import StepInput
from scenes.cameras import MIN_DEPTH_M

Planes = Sequence[Tensor]
"""x, y and z of points as tensors of their own, (B or 1, ...) and broadcastable: runtimes are slow on a last axis of three, and what
only two axes decide is computed for those two."""


@dataclass
class Lenses:
    """The calibration of B x N cameras with what dead or broken ones held made harmless."""

    intrinsics_BN4: Tensor
    distortion_BN5: Tensor
    lens_BN: Tensor
    max_angle_BN: Tensor
    cam_from_ego_BN44: Tensor
    alive_BN: Tensor
    time_offset_BN: Tensor
    size_wh: tuple[int, int]
    """Width and height of the network's pictures."""


def read_lenses(step: StepInput) -> Lenses:
    """The step's cameras. Where `alive_BN` is 0 all numbers become zeros, so that not even a NaN gets through."""
    alive = step.alive_BN.float() > 0.5

    def living(value: Tensor) -> Tensor:
        mask = alive.reshape(*alive.shape, *([1] * (value.dim() - 2)))
        return torch.where(mask, value.float(), torch.zeros_like(value, dtype=torch.float32))

    height, width = step.images_BNHW3.shape[2:4]
    return Lenses(
        intrinsics_BN4=living(step.intrinsics_BN4),
        distortion_BN5=living(step.distortion_BN5),
        lens_BN=living(step.lens_BN),
        max_angle_BN=living(step.max_angle_BN),
        cam_from_ego_BN44=living(step.cam_from_ego_BN44),
        alive_BN=alive.float(),
        time_offset_BN=living(step.time_offset_BN),
        size_wh=(width, height),
    )


@dataclass
class Projection:
    """P points seen by N cameras."""

    across_BNP: Tensor
    """Pixels of the network image to the right of its middle."""
    twice_down_BNP: Tensor
    """Pixels below its middle, times two."""
    margin_BNP: Tensor
    """Pixels to the nearest border of the picture (upper and lower ones count twice) or to the largest angle that the camera sees, as
    pixels lie around the axis; negative outside."""
    visible_BNP: Tensor
    """bool: inside the picture of a living camera."""
    distance_BNP: Tensor
    """Metres from the camera's centre along the ray."""
    size_wh: tuple[int, int]
    """Width and height of the pictures."""

    @property
    def u_BNP(self) -> Tensor:
        """Column in pixels of the network image (0 is the centre of the first pixel)."""
        return column_of(self.across_BNP, self.size_wh)

    @property
    def v_BNP(self) -> Tensor:
        """Row in pixels."""
        return row_of(self.twice_down_BNP, self.size_wh)


def column_of(across: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """The column of a pixel so far to the right of a picture's middle."""
    return across + (size_wh[0] - 1) / 2


def row_of(twice_down: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """The row of a pixel half so far below a picture's middle."""
    return twice_down * 0.5 + (size_wh[1] - 1) / 2


def project(planes_ego: Planes, lenses: Lenses, velocity_BP2: Tensor | None = None) -> Projection:
    """Pixels of ego points in every camera of their clip; the mathematics of `scenes.cameras.Camera.project`.

    `planes_ego` may have any number of axes, which become one axis of points. With a velocity (m/s over ground, ego axes; planes (B, P)
    only) every camera sees the point where it was at the camera's own instant. Both kinds of lenses bend by one polynomial: a fisheye by
    that of the angle to the axis, a pinhole by that of its tangent. What a lens chooses is weighed by 0 and 1: a runtime's Where takes
    longer than both products.
    """
    x, y, z = _points_in_cameras(planes_ego, lenses, velocity_BP2)
    fisheye = lenses.lens_BN[..., None] > 0.5
    of_fisheye = fisheye.float()
    radius2 = x * x + y * y + 1e-12
    radius, distance = torch.sqrt(radius2), torch.sqrt(radius2 + z * z)
    tangent = radius / torch.maximum(z + distance * of_fisheye, torch.where(fisheye, 1e-6, MIN_DEPTH_M))  # of half the angle for a fisheye
    off_axis = torch.atan(tangent) * (2.0 * of_fisheye) + tangent * (1.0 - of_fisheye)
    square, scale = off_axis * off_axis, off_axis / radius
    x, y = x * scale, y * scale
    bend = _bending(lenses.distortion_BN5, fisheye)
    scale = bend.radial(square) + (y * (2 * bend.p1) + x * (2 * bend.p2))

    fx, fy, cx, cy = (lenses.intrinsics_BN4[..., i : i + 1] for i in range(4))
    width, height = lenses.size_wh
    across = x * scale * fx + (square * (fx * bend.p2) + (cx - (width - 1) / 2))
    twice_down = y * scale * (2 * fy) + (square * (2 * fy * bend.p1) + (2 * cy - (height - 1)))
    margin = torch.minimum(0.5 * width - across.abs(), float(height) - twice_down.abs())
    margin = torch.minimum(margin, (_widest_tangent(lenses, fisheye) - tangent) * fx)
    ahead = (z > torch.where(fisheye, -1e9, MIN_DEPTH_M)) & (distance > torch.where(fisheye, MIN_DEPTH_M, -1.0))
    visible = ahead & (margin > 0)
    return Projection(across, twice_down, margin, visible, distance, lenses.size_wh)


def _widest_tangent(lenses: Lenses, fisheye: Tensor) -> Tensor:
    """(B, N, 1): of the largest angle that each camera sees, for a fisheye of half of it; -1 for a dead camera."""
    angle = (lenses.max_angle_BN[..., None] + 1e-6) * torch.where(fisheye, 0.5, 1.0)
    tangent = torch.where(angle < 1.57, torch.tan(angle.clamp(max=1.57)), 1e30)
    return torch.where(lenses.alive_BN[..., None] > 0.5, tangent, -1.0)


@dataclass
class _Bending:
    """Coefficients of a radial polynomial in squares, which serves both kinds of lenses, and of a pinhole's tangential part (else 0)."""

    k1: Tensor
    k2: Tensor
    k3: Tensor
    k4: Tensor
    p1: Tensor
    p2: Tensor

    def radial(self, square: Tensor) -> Tensor:
        """How much farther out (a factor) the lens shows what lies so far from the axis."""
        return square * (square * (square * (square * self.k4 + self.k3) + self.k2) + self.k1) + 1.0


def _bending(distortion: Tensor, fisheye: Tensor) -> _Bending:
    """Of `distortion` (B, N, 5) as `scenes.cameras` orders it; `fisheye` (B, N, 1, ...) has the shape that the coefficients get."""
    k1, k2, third, fourth, fifth = (distortion[..., i].reshape(fisheye.shape) for i in range(5))
    zero = torch.zeros_like(k1)
    pairs = ((third, fifth), (fourth, zero), (zero, third), (zero, fourth))
    return _Bending(k1, k2, *(torch.where(fisheye, of_fisheye, of_pinhole) for of_fisheye, of_pinhole in pairs))


def _points_in_cameras(planes_ego: Planes, lenses: Lenses, velocity_BP2: Tensor | None) -> Planes:
    """x, y, z (B, N, P) of points in every camera's frame, without a matrix product (it may run in half precision)."""
    px, py, pz = (plane.float()[:, None] for plane in planes_ego)
    if velocity_BP2 is not None:
        offset_s = lenses.time_offset_BN[..., None]
        px = px + velocity_BP2[:, None, :, 0].float() * offset_s
        py = py + velocity_BP2[:, None, :, 1].float() * offset_s
    matrix = lenses.cam_from_ego_BN44.reshape(*lenses.alive_BN.shape, 16, *[1] * (px.dim() - 2))

    def row(i: int) -> Tensor:
        r = [matrix[:, :, 4 * i + j] for j in range(4)]
        return ((r[0] * px + r[3]) + r[1] * py + r[2] * pz).flatten(2)

    return row(0), row(1), row(2)


MAX_ANGLE = 3.1
"""Radians: no ray is sought farther from a fisheye's axis."""
GEOMETRY_CHANNELS = 9
"""Numbers that describe a pixel's ray to the network, see `ray_geometry`."""


def ray_geometry(lenses: Lenses, stride: int) -> Float[Tensor, "B N 9 h w"]:
    """What calibration says of each feature pixel: ray direction in ego axes (3), nearness of the ground along it, log focal length,
    the camera's position in the ego frame (3; scaled by 1/3), and 1. All zeros for a dead camera.
    """
    rays_cam = _unproject_feature_pixels(lenses, stride)  # B N 3 h w
    rotation = lenses.cam_from_ego_BN44[..., :3, :3]
    translation = lenses.cam_from_ego_BN44[..., :3, 3]
    rays_ego = (rotation[..., None, None] * rays_cam[:, :, :, None]).sum(2)
    position = -(rotation * translation[..., None]).sum(2)[..., None, None]  # R^T t
    height = position[:, :, 2:3].clamp(min=0.3)
    nearness = (-rays_ego[:, :, 2:3] / height).clamp(0.0, 1.0)  # 1 / distance to flat ground, 0 above the horizon
    rows, columns = rays_cam.shape[-2:]
    focal = lenses.intrinsics_BN4[..., :1].clamp(min=1e-3) / lenses.size_wh[0]
    constant = torch.cat([focal.log(), position[..., 0, 0] / 3.0, torch.ones_like(focal)], dim=-1)
    constant = constant[..., None, None].expand(-1, -1, -1, rows, columns)
    geometry = torch.cat([rays_ego, nearness * 10.0, constant], dim=2)
    return geometry * lenses.alive_BN[..., None, None, None]


def ground_distance(geometry: Float[Tensor, "B N 9 h w"]) -> Float[Tensor, "B N 1 h w"]:
    """Metres along each feature pixel's ray to flat ground, from `ray_geometry`; 10 km for rays that never meet it."""
    return 10.0 / geometry[:, :, 3:4].clamp(min=1e-3)


def _unproject_feature_pixels(lenses: Lenses, stride: int) -> Tensor:
    """Unit rays (B, N, 3, h, w) in the cameras' frames through feature pixel centres: a few fixed-point steps, good for mild lenses."""
    width, height = lenses.size_wh
    device = lenses.intrinsics_BN4.device
    u = (torch.arange(width // stride, device=device, dtype=torch.float32) + 0.5) * stride - 0.5
    v = (torch.arange(height // stride, device=device, dtype=torch.float32) + 0.5) * stride - 0.5
    fx, fy, cx, cy = (lenses.intrinsics_BN4[..., i, None, None] for i in range(4))
    fisheye = lenses.lens_BN[..., None, None] > 0.5
    bend = _bending(lenses.distortion_BN5, fisheye)
    farthest = torch.where(fisheye, MAX_ANGLE * MAX_ANGLE, 1e12)
    xd, yd = (u - cx) / fx.clamp(min=1e-3), (v[:, None] - cy) / fy.clamp(min=1e-3)
    x, y = xd, yd  # where it looks: a direction times the angle to the axis for a fisheye, times the angle's tangent for a pinhole
    for _ in range(4):
        square = torch.minimum(x * x + y * y, farthest)
        radial = bend.radial(square).clamp(min=0.2)
        aslant = y * (2 * bend.p1) + x * (2 * bend.p2)
        x, y = (xd - x * aslant - square * bend.p2) / radial, (yd - y * aslant - square * bend.p1) / radial
    length = torch.sqrt(x * x + y * y + 1e-12)
    angle = length.clamp(max=MAX_ANGLE)
    norm = 1.0 / torch.sqrt(length * length + 1.0)
    side, ahead = torch.where(fisheye, torch.sin(angle) / length, norm), torch.where(fisheye, torch.cos(angle), norm)
    return torch.stack([x * side, y * side, ahead], dim=2)
