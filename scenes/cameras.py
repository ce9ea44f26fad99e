"""Where in its image does a camera see a 3D point, and which way does a pixel look?

Two lens models: `pinhole` with Brown-Conrady distortion (k1, k2, p1, p2, k3; OpenCV's order) and `fisheye`, the
Kannala-Brandt equidistant polynomial (k1..k4). `fusion` repeats `project` in torch; a test holds the two together.
"""

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property

import numpy as np

from scenes.errors import DataError
from scenes.geometry import invert_rigid, validate_rigid

MIN_DEPTH_M = 0.1
"""Points of a pinhole camera nearer than this along its axis are never visible."""
CONVERGED = 1e-12
"""Radians or normalised image units: iterations of `unproject` stop once no pixel moves farther."""


class Lens(Enum):
    """The lens model; `value` is the name on disk."""

    PINHOLE = "pinhole"
    FISHEYE = "fisheye"


@dataclass(frozen=True)
class Camera:
    """One calibrated camera of a rig. `cam`: x right, y down, z forward; pixel (0, 0) is the CENTRE of the first pixel."""

    name: str
    lens: Lens
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    width_px: int
    height_px: int
    ego_from_cam: np.ndarray = field(repr=False)
    """(4, 4) float64."""
    distortion: tuple[float, ...] = ()
    """Pinhole: k1, k2, p1, p2, k3. Fisheye: k1, k2, k3, k4. Missing ones are zero."""

    def __post_init__(self) -> None:
        where = f"camera {self.name!r}"
        object.__setattr__(self, "ego_from_cam", validate_rigid(self.ego_from_cam, f"{where}, ego_from_cam"))
        numbers = (self.fx_px, self.fy_px, self.cx_px, self.cy_px, *self.distortion)
        if not np.isfinite(numbers).all() or self.fx_px <= 0 or self.fy_px <= 0:
            raise DataError(f"{where}: expected finite intrinsics with a positive focal length, got {numbers}; recalibrate")
        if self.width_px < 1 or self.height_px < 1:
            raise DataError(f"{where}: expected a positive image size, got {self.width_px}x{self.height_px}; correct the rig")
        most = 5 if self.lens is Lens.PINHOLE else 4
        if len(self.distortion) > most:
            raise DataError(f"{where}: expected at most {most} distortion numbers, got {len(self.distortion)}; refit the lens")
        object.__setattr__(self, "distortion", tuple(map(float, self.distortion)) + (0.0,) * (most - len(self.distortion)))

    @cached_property
    def cam_from_ego(self) -> np.ndarray:
        """(4, 4)."""
        return invert_rigid(self.ego_from_cam)

    @cached_property
    def max_angle_rad(self) -> float:
        """Largest angle from the axis the image can hold; beyond it the distortion polynomial may fold back."""
        u, v = np.linspace(-0.5, self.width_px - 0.5, 17), np.linspace(-0.5, self.height_px - 0.5, 17)
        edge = np.concatenate(
            [np.stack([u, np.full(17, e)], -1) for e in (v[0], v[-1])] + [np.stack([np.full(17, e), v], -1) for e in (u[0], u[-1])]
        )
        return float(np.arccos(np.clip(self.unproject(edge)[:, 2], -1, 1)).max())

    def project(self, points_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (..., 2) as u, v of points (..., 3) in the camera frame, and whether each lies inside the image (...)."""
        x, y, z = np.moveaxis(np.asarray(points_cam, dtype=np.float64), -1, 0)
        radius = np.hypot(x, y)
        angle = np.arctan2(radius, z)
        if self.lens is Lens.FISHEYE:
            ok = np.hypot(radius, z) > MIN_DEPTH_M
            k1, k2, k3, k4 = self.distortion
            a2 = angle**2
            distorted = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
            scale = np.where(radius > 1e-9, distorted / np.maximum(radius, 1e-9), 1 / np.maximum(np.abs(z), 1e-9))
            xd, yd = scale * x, scale * y
        else:
            ok = z > MIN_DEPTH_M
            depth = np.where(ok, z, 1.0)
            xd, yd = self._distort_pinhole(x / depth, y / depth)
        pixels = np.stack([self.fx_px * xd + self.cx_px, self.fy_px * yd + self.cy_px], axis=-1)
        inside = (pixels > -0.5).all(-1) & (pixels < np.array([self.width_px, self.height_px]) - 0.5).all(-1)
        return pixels, ok & inside & (angle <= self.max_angle_rad + 1e-6)

    def _distort_pinhole(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k1, k2, p1, p2, k3 = self.distortion
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        return (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        )

    def unproject(self, pixels: np.ndarray) -> np.ndarray:
        """Unit rays (..., 3) in the camera frame through pixels (..., 2): the inverse of `project` (Newton / fixed point)."""
        pixels = np.asarray(pixels, dtype=np.float64)
        xd = (pixels[..., 0] - self.cx_px) / self.fx_px
        yd = (pixels[..., 1] - self.cy_px) / self.fy_px
        if self.lens is Lens.FISHEYE:
            rays = self._rays_fisheye(xd, yd)
        else:
            x, y = self._undistort_pinhole(xd, yd)
            rays = np.stack([x, y, np.ones_like(x)], axis=-1)
        return rays / np.linalg.norm(rays, axis=-1, keepdims=True)

    def _rays_fisheye(self, xd: np.ndarray, yd: np.ndarray) -> np.ndarray:
        k1, k2, k3, k4 = self.distortion
        distorted = np.hypot(xd, yd)
        angle = np.minimum(distorted, np.pi)
        for _ in range(20):
            a2 = angle**2
            value = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4)))) - distorted
            slope = 1 + a2 * (3 * k1 + a2 * (5 * k2 + a2 * (7 * k3 + a2 * 9 * k4)))
            before, angle = angle, np.clip(angle - value / np.where(np.abs(slope) > 1e-3, slope, 1e-3), 0, np.pi)
            if np.abs(angle - before).max(initial=0.0) < CONVERGED:
                break
        scale = np.where(distorted > 1e-9, np.sin(angle) / np.maximum(distorted, 1e-9), 1.0)
        return np.stack([scale * xd, scale * yd, np.cos(angle)], axis=-1)

    def _undistort_pinhole(self, xd: np.ndarray, yd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = xd.copy(), yd.copy()
        step = 1e-6
        for _ in range(12):  # Newton with a numeric Jacobian: converges where the fixed point of OpenCV does not
            fx, fy = self._distort_pinhole(x, y)
            ax, ay = self._distort_pinhole(x + step, y)
            bx, by = self._distort_pinhole(x, y + step)
            jxx, jyx, jxy, jyy = (ax - fx) / step, (ay - fy) / step, (bx - fx) / step, (by - fy) / step
            det = jxx * jyy - jxy * jyx
            det = np.where(np.abs(det) > 1e-6, det, 1e-6)
            ex, ey = fx - xd, fy - yd
            dx, dy = np.clip((jyy * ex - jxy * ey) / det, -1, 1), np.clip((jxx * ey - jyx * ex) / det, -1, 1)
            x, y = x - dx, y - dy
            if max(np.abs(dx).max(initial=0.0), np.abs(dy).max(initial=0.0)) < CONVERGED:
                break
        return x, y

    def resize(self, width_px: int, height_px: int) -> "Camera":
        """The camera of the same image scaled to a new size; half-pixel exact: c becomes (c + 0.5) * s - 0.5."""
        sx, sy = width_px / self.width_px, height_px / self.height_px
        return replace(
            self,
            fx_px=self.fx_px * sx,
            fy_px=self.fy_px * sy,
            cx_px=(self.cx_px + 0.5) * sx - 0.5,
            cy_px=(self.cy_px + 0.5) * sy - 0.5,
            width_px=width_px,
            height_px=height_px,
        )

    def crop(self, left_px: int, top_px: int, width_px: int, height_px: int) -> "Camera":
        """The camera of a cut-out that starts at column `left_px`, row `top_px`; may reach outside the image."""
        return replace(self, cx_px=self.cx_px - left_px, cy_px=self.cy_px - top_px, width_px=width_px, height_px=height_px)

    def to_json(self) -> dict:
        """The camera as JSON values; `from_json` reads them back exactly."""
        return {
            "name": self.name,
            "lens": self.lens.value,
            "fx_px": self.fx_px,
            "fy_px": self.fy_px,
            "cx_px": self.cx_px,
            "cy_px": self.cy_px,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "distortion": list(self.distortion),
            "ego_from_cam": self.ego_from_cam.tolist(),
        }

    @classmethod
    def from_json(cls, values: dict, where: str) -> "Camera":
        """The camera written by `to_json`; `where` names the file in errors."""
        try:
            return cls(
                name=str(values["name"]),
                lens=Lens(values["lens"]),
                fx_px=float(values["fx_px"]),
                fy_px=float(values["fy_px"]),
                cx_px=float(values["cx_px"]),
                cy_px=float(values["cy_px"]),
                width_px=int(values["width_px"]),
                height_px=int(values["height_px"]),
                distortion=tuple(values["distortion"]),
                ego_from_cam=np.array(values["ego_from_cam"], dtype=np.float64),
            )
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"{where}: camera {values.get('name', '?')!r} has a missing or unreadable field ({error!r}); recalibrate it"
            ) from error


def network_camera(camera: Camera, height_px: int, width_px: int) -> tuple[Camera, tuple[int, int, int, int]]:
    """The camera after the network's resize-and-crop, and (resized width, resized height, left, top) that does it.

    The image is scaled to the network's width keeping its aspect; surplus rows are cut from the top (sky), missing
    ones are padded with black at the top.
    """
    resized_height = max(1, round(camera.height_px * width_px / camera.width_px))
    top = resized_height - height_px
    scaled = camera.resize(width_px, resized_height)
    return scaled.crop(0, top, width_px, height_px), (width_px, resized_height, 0, top)


def camera_arrays(cameras: list[Camera]) -> dict[str, np.ndarray]:
    """`intrinsics_N4`, `distortion_N5`, `lens_N`, `max_angle_N` of cameras at network size, float32."""
    distortion = np.zeros((len(cameras), 5), dtype=np.float32)
    for row, camera in enumerate(cameras):
        distortion[row, : len(camera.distortion)] = camera.distortion
    return {
        "intrinsics_N4": np.array([[c.fx_px, c.fy_px, c.cx_px, c.cy_px] for c in cameras], dtype=np.float32),
        "distortion_N5": distortion,
        "lens_N": np.array([float(c.lens is Lens.FISHEYE) for c in cameras], dtype=np.float32),
        "max_angle_N": np.array([c.max_angle_rad for c in cameras], dtype=np.float32),
    }
