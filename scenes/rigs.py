"""Which cameras does the vehicle carry, and where?"""

from dataclasses import dataclass

import numpy as np

from scenes.cameras import Camera, Lens
from scenes.errors import DataError
from scenes.geometry import rigid_from_parts, rotation_from_yaw

CAM_AXES_IN_EGO = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Rotation ego_from_cam of a camera that looks along ego +x."""


@dataclass(frozen=True)
class Rig:
    """Any number of cameras with distinct names."""

    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        names = self.names
        if not names or len(set(names)) != len(names):
            raise DataError(f"rig: expected at least one camera and distinct names, got {list(names)}; correct the calibration")

    @property
    def names(self) -> tuple[str, ...]:
        """Camera names in order."""
        return tuple(camera.name for camera in self.cameras)

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, name: str) -> Camera:
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise DataError(f"rig: no camera {name!r}; it has {list(self.names)}")

    def to_json(self) -> list[dict]:
        """All cameras as JSON values."""
        return [camera.to_json() for camera in self.cameras]

    @classmethod
    def from_json(cls, values: list[dict], where: str) -> "Rig":
        """The rig written by `to_json`; `where` names the file in errors."""
        return cls(tuple(Camera.from_json(value, where) for value in values))


def ego_from_cam_looking(position_ego_m, yaw_rad: float, pitch_down_rad: float = 0.0) -> np.ndarray:
    """`ego_from_cam` (4, 4) of a camera at `position_ego_m`, turned `yaw_rad` to the left, tilted down."""
    cos, sin = np.cos(pitch_down_rad), np.sin(pitch_down_rad)
    tilt = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])  # about ego y: +x goes down for positive angles
    return rigid_from_parts(rotation_from_yaw(yaw_rad) @ tilt @ CAM_AXES_IN_EGO, position_ego_m)


def pinhole_camera(name: str, hfov_rad: float, width_px: int, height_px: int, ego_from_cam: np.ndarray, distortion=()) -> Camera:
    """A centred pinhole camera with square pixels and the given horizontal field of view (before distortion)."""
    focal = width_px / (2 * np.tan(hfov_rad / 2))
    centre_u, centre_v = (width_px - 1) / 2, (height_px - 1) / 2
    return Camera(name, Lens.PINHOLE, focal, focal, centre_u, centre_v, width_px, height_px, ego_from_cam, tuple(distortion))


def fisheye_camera(name: str, hfov_rad: float, width_px: int, height_px: int, ego_from_cam: np.ndarray, distortion=()) -> Camera:
    """A centred equidistant fisheye whose image is `hfov_rad` wide (before distortion)."""
    focal = width_px / hfov_rad
    centre_u, centre_v = (width_px - 1) / 2, (height_px - 1) / 2
    return Camera(name, Lens.FISHEYE, focal, focal, centre_u, centre_v, width_px, height_px, ego_from_cam, tuple(distortion))


def default_rig(height_px: int = 256, width_px: int = 704) -> Rig:
    """Eight cameras: front main, narrow and fisheye, two side-forward, two side-rear, rear. Ego origin: rear axle on the ground."""

    def look(x, y, z, yaw_deg, pitch_deg=2.0):
        return ego_from_cam_looking((x, y, z), np.deg2rad(yaw_deg), np.deg2rad(pitch_deg))

    size = (width_px, height_px)
    mild = (-0.12, 0.04, 0.0005, -0.0003, 0.0)
    return Rig(
        (
            pinhole_camera("front", np.deg2rad(70), *size, look(1.75, 0.0, 1.52, 0), mild),
            pinhole_camera("front_narrow", np.deg2rad(35), *size, look(1.75, 0.1, 1.52, 0, 1.0)),
            fisheye_camera("front_fisheye", np.deg2rad(150), *size, look(1.9, -0.1, 1.4, 0, 6.0), (0.01, -0.004, 0.001, 0.0)),
            pinhole_camera("left_forward", np.deg2rad(85), *size, look(1.3, 0.85, 1.48, 62), mild),
            pinhole_camera("right_forward", np.deg2rad(85), *size, look(1.3, -0.85, 1.48, -62), mild),
            pinhole_camera("left_rear", np.deg2rad(80), *size, look(1.9, 0.95, 1.0, 128), mild),
            pinhole_camera("right_rear", np.deg2rad(80), *size, look(1.9, -0.95, 1.0, -128), mild),
            pinhole_camera("rear", np.deg2rad(85), *size, look(-0.9, 0.0, 1.2, 180, 5.0), mild),
        )
    )
