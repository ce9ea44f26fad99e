"""Where does each camera see a 3D point? `Camera.project` of `scenes.cameras`, in torch, for all cameras at once.

Calibration is data at run time. Everything here is float32, also under autocast.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fusion.interface import StepInput
from scenes.cameras import MIN_DEPTH_M


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

    u_BNP: Tensor
    """Column in pixels of the network image (0 is the centre of the first pixel)."""
    v_BNP: Tensor
    margin_BNP: Tensor
    """Pixels to the nearest border of the picture, upper and lower ones count twice; negative outside."""
    visible_BNP: Tensor
    """bool: inside the picture of a living camera."""
    distance_BNP: Tensor
    """Metres from the camera's centre along the ray."""


def project(points_ego: Float[Tensor, "B P 3"], lenses: Lenses, velocity_BP2: Tensor | None = None) -> Projection:
    """Pixels of ego points in every camera of their clip; the mathematics of `scenes.cameras.Camera.project`.

    With a velocity (m/s over ground, ego axes) every camera sees the point where it was at the camera's own instant.
    """
    x, y, z = _points_in_cameras(points_ego.float(), lenses, velocity_BP2)
    radius2 = x * x + y * y
    radius, distance = torch.sqrt(radius2 + 1e-18), torch.sqrt(radius2 + z * z + 1e-12)
    angle = torch.atan2(radius, z)  # shorter forms lose a bit where runtimes differ most
    k1, k2, k3, k4, k5 = (lenses.distortion_BN5[..., i : i + 1] for i in range(5))
    fisheye = lenses.lens_BN[..., None] > 0.5

    a2 = angle * angle
    fisheye_scale = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4)))) / radius

    inverse_depth = 1.0 / z.clamp(min=MIN_DEPTH_M)
    r2 = radius2 * inverse_depth * inverse_depth
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k5)) + (2 * k3 * y + 2 * k4 * x) * inverse_depth
    scale = torch.where(fisheye, fisheye_scale, radial * inverse_depth)

    fx, fy, cx, cy = (lenses.intrinsics_BN4[..., i : i + 1] for i in range(4))
    u = fx * x * scale + torch.where(fisheye, 0.0, fx * k4) * r2 + cx
    v = fy * y * scale + torch.where(fisheye, 0.0, fy * k3) * r2 + cy

    width, height = lenses.size_wh
    margin = torch.minimum(torch.minimum(u + 0.5, width - 0.5 - u), torch.minimum(v + 0.5, height - 0.5 - v) * 2.0)
    widest = torch.where(lenses.alive_BN > 0.5, lenses.max_angle_BN + 1e-6, -1.0)[..., None]
    visible = (torch.where(fisheye, distance, z) > MIN_DEPTH_M) & (margin > 0) & (angle <= widest)
    return Projection(u, v, margin, visible, distance)


def _points_in_cameras(points_ego: Tensor, lenses: Lenses, velocity_BP2: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """x, y, z (B, N, P) of points (B, P, 3) in every camera's frame, without a matrix product (it may run in half precision)."""
    px, py, pz = (points_ego[:, None, :, i] for i in range(3))
    if velocity_BP2 is not None:
        offset_s = lenses.time_offset_BN[..., None]
        px = px + velocity_BP2[:, None, :, 0].float() * offset_s
        py = py + velocity_BP2[:, None, :, 1].float() * offset_s

    def row(i: int) -> Tensor:
        r = lenses.cam_from_ego_BN44[:, :, i, :, None]
        return r[:, :, 0] * px + r[:, :, 1] * py + r[:, :, 2] * pz + r[:, :, 3]

    return row(0), row(1), row(2)


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
    k1, k2, k3, k4, k5 = (lenses.distortion_BN5[..., i, None, None] for i in range(5))
    xd = ((u - cx) / fx.clamp(min=1e-3)).expand(-1, -1, len(v), -1)
    yd = ((v[:, None] - cy) / fy.clamp(min=1e-3)).expand(-1, -1, -1, len(u))

    distorted = torch.sqrt(xd * xd + yd * yd + 1e-12)
    angle = distorted.clamp(max=3.1)
    x, y = xd, yd
    for _ in range(4):
        a2 = angle * angle
        angle = (distorted / (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4)))).clamp(min=0.2)).clamp(max=3.1)
        r2 = x * x + y * y
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k5))).clamp(min=0.2)
        x_new = (xd - 2 * k3 * x * y - k4 * (r2 + 2 * x * x)) / radial
        y = (yd - k3 * (r2 + 2 * y * y) - 2 * k4 * x * y) / radial
        x = x_new
    sine = torch.sin(angle) / distorted
    norm = 1.0 / torch.sqrt(x * x + y * y + 1)
    pinhole = torch.stack([x * norm, y * norm, norm], dim=2)
    fisheye = torch.stack([xd * sine, yd * sine, torch.cos(angle)], dim=2)
    return torch.where(lenses.lens_BN[..., None, None, None] > 0.5, fisheye, pinhole)
