"""How do points move between frames, and where was the ego vehicle at any instant?

Rigid transforms are 4x4 float64 matrices named `dst_from_src`; inner names cancel. Metres, radians, integer nanoseconds.
"""

from dataclasses import dataclass

import numpy as np

from scenes.errors import DataError

NS_PER_S = 1_000_000_000


def wrap_angle(angle_rad):
    """Angle(s) wrapped to (-pi, pi]."""
    wrapped = np.pi - np.mod(np.pi - np.asarray(angle_rad, dtype=np.float64), 2 * np.pi)
    return wrapped if wrapped.ndim else float(wrapped)


def transform_points(dst_from_src: np.ndarray, points_src: np.ndarray) -> np.ndarray:
    """Points (..., 3) of frame `src` in frame `dst`; `dst_from_src` is (4, 4) or broadcasts as (..., 4, 4)."""
    rotation, translation = dst_from_src[..., :3, :3], dst_from_src[..., :3, 3]
    return np.einsum("...ij,...j->...i", rotation, points_src) + translation


def invert_rigid(dst_from_src: np.ndarray) -> np.ndarray:
    """`src_from_dst` of rigid transform(s) (..., 4, 4), without a matrix inverse."""
    src_from_dst = np.zeros_like(dst_from_src)
    rotation = np.swapaxes(dst_from_src[..., :3, :3], -1, -2)
    src_from_dst[..., :3, :3] = rotation
    src_from_dst[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, dst_from_src[..., :3, 3])
    src_from_dst[..., 3, 3] = 1.0
    return src_from_dst


def rotation_from_quaternion(quaternion_wxyz: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4) in the order w, x, y, z (normalised here)."""
    quaternion = np.asarray(quaternion_wxyz, dtype=np.float64)
    w, x, y, z = np.moveaxis(quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Quaternions (..., 4) as w, x, y, z with w >= 0 of rotation matrices (..., 3, 3) (Shepperd's method)."""
    m = np.asarray(rotation, dtype=np.float64)
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    four_squares = np.stack([1 + trace] + [1 + 2 * m[..., i, i] - trace for i in range(3)], axis=-1)
    candidates = np.stack(
        [
            [four_squares[..., 0], m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]],
            [m[..., 2, 1] - m[..., 1, 2], four_squares[..., 1], m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0]],
            [m[..., 0, 2] - m[..., 2, 0], m[..., 0, 1] + m[..., 1, 0], four_squares[..., 2], m[..., 1, 2] + m[..., 2, 1]],
            [m[..., 1, 0] - m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1], four_squares[..., 3]],
        ]
    )  # (candidate, component, ...)
    best = np.argmax(four_squares, axis=-1)
    candidates = np.moveaxis(candidates, (0, 1), (-2, -1))
    quaternion = np.take_along_axis(candidates, best[..., None, None], axis=-2)[..., 0, :]
    quaternion = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    return np.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def rotation_from_yaw(yaw_rad) -> np.ndarray:
    """Rotation(s) (..., 3, 3) about +z, from +x towards +y."""
    yaw = np.asarray(yaw_rad, dtype=np.float64)
    rotation = np.zeros((*yaw.shape, 3, 3))
    rotation[..., 0, 0] = rotation[..., 1, 1] = np.cos(yaw)
    rotation[..., 1, 0] = np.sin(yaw)
    rotation[..., 0, 1] = -np.sin(yaw)
    rotation[..., 2, 2] = 1.0
    return rotation


def yaw_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Yaw(s) in (-pi, pi] of the turned x axis, seen from above."""
    return np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])


def rigid_from_parts(rotation: np.ndarray, translation_m: np.ndarray) -> np.ndarray:
    """Transform(s) (..., 4, 4) of rotation(s) (..., 3, 3) and translation(s) (..., 3)."""
    rotation, translation_m = np.asarray(rotation, dtype=np.float64), np.asarray(translation_m, dtype=np.float64)
    matrix = np.zeros((*rotation.shape[:-2], 4, 4))
    matrix[..., :3, :3] = rotation
    matrix[..., :3, 3] = translation_m
    matrix[..., 3, 3] = 1.0
    return matrix


def rigid_from_pose(pose_xyz_wxyz: np.ndarray) -> np.ndarray:
    """Transform(s) (..., 4, 4) of rows (..., 7): x, y, z in metres, quaternion w, x, y, z."""
    pose = np.asarray(pose_xyz_wxyz, dtype=np.float64)
    return rigid_from_parts(rotation_from_quaternion(pose[..., 3:]), pose[..., :3])


def pose_from_rigid(dst_from_src: np.ndarray) -> np.ndarray:
    """Rows (..., 7): x, y, z in metres, quaternion w, x, y, z of transform(s) (..., 4, 4)."""
    return np.concatenate([dst_from_src[..., :3, 3], quaternion_from_rotation(dst_from_src[..., :3, :3])], axis=-1)


def validate_rigid(matrix: np.ndarray, where: str, tolerance: float = 1e-3) -> np.ndarray:
    """The float64 copy of one transform (4, 4), refused with `DataError` naming `where` if it is not rigid."""
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise DataError(f"{where}: expected a 4x4 transform, got shape {matrix.shape}; correct the calibration or pose")
    if not np.isfinite(matrix).all():
        raise DataError(f"{where}: expected finite numbers in the transform, got NaN or infinity; correct or drop this pose")
    error = np.abs(matrix[:3, :3] @ matrix[:3, :3].T - np.eye(3)).max()
    if error > tolerance or np.linalg.det(matrix[:3, :3]) < 0:
        raise DataError(
            f"{where}: expected an orthonormal right-handed rotation, got one off by {error:.3g} "
            f"(determinant {np.linalg.det(matrix[:3, :3]):.3g}); correct or drop this pose"
        )
    return matrix


def rotation_from_rotvec(rotvec_rad: np.ndarray) -> np.ndarray:
    """Rotation(s) (..., 3, 3) of rotation vector(s) (..., 3) (Rodrigues' formula)."""
    rotvec = np.asarray(rotvec_rad, dtype=np.float64)
    angle = np.linalg.norm(rotvec, axis=-1, keepdims=True)
    half = np.sinc(angle / (2 * np.pi)) / 2
    return rotation_from_quaternion(np.concatenate([np.cos(angle / 2), half * rotvec], axis=-1))


def rotvec_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Rotation vector(s) (..., 3) with length in [0, pi] of rotation(s) (..., 3, 3)."""
    quaternion = quaternion_from_rotation(rotation)
    sine = np.linalg.norm(quaternion[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, quaternion[..., :1])
    return quaternion[..., 1:] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)


def interpolate_rigid(world_from_a: np.ndarray, world_from_b: np.ndarray, fraction) -> np.ndarray:
    """The pose(s) (..., 4, 4) between a (fraction 0) and b (fraction 1): geodesic rotation, straight translation."""
    fraction = np.asarray(fraction, dtype=np.float64)[..., None]
    a_from_b = np.swapaxes(world_from_a[..., :3, :3], -1, -2) @ world_from_b[..., :3, :3]
    rotation = world_from_a[..., :3, :3] @ rotation_from_rotvec(fraction * rotvec_from_rotation(a_from_b))
    return rigid_from_parts(rotation, (1 - fraction) * world_from_a[..., :3, 3] + fraction * world_from_b[..., :3, 3])


def path_velocity(path: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    """(T, K) per second of a path (T, K) at growing times (T,), differences over the neighbours; a single place stands."""
    return np.gradient(path, time_s, axis=0) if len(path) > 1 else np.zeros_like(path)


def ground_speeds(world_from_ego: np.ndarray, timestamps_ns: np.ndarray) -> np.ndarray:
    """(T,) m/s on the ground of poses (T, 4, 4) at growing instants (T,) int64."""
    return np.hypot(*path_velocity(world_from_ego[:, :2, 3], (timestamps_ns - timestamps_ns[:1]) / NS_PER_S).T)


@dataclass(frozen=True)
class Trajectory:
    """The ego vehicle's path: poses at strictly growing instants, interpolated on SE(3) between them."""

    timestamps_ns: np.ndarray
    """(T,) int64."""
    world_from_ego: np.ndarray
    """(T, 4, 4) float64."""

    def __post_init__(self) -> None:
        if len(self.timestamps_ns) == 0 or len(self.timestamps_ns) != len(self.world_from_ego):
            raise DataError(
                f"ego trajectory: expected as many poses as time stamps and at least one, got {len(self.world_from_ego)} "
                f"poses and {len(self.timestamps_ns)} time stamps; write one pose a time stamp"
            )
        if (np.diff(self.timestamps_ns) <= 0).any():
            row = int(np.argmax(np.diff(self.timestamps_ns) <= 0)) + 1
            raise DataError(f"ego trajectory, row {row}: the clock runs backwards or stands still; sort the poses, drop doubles")

    def at(self, timestamp_ns) -> np.ndarray:
        """`world_from_ego` at instant(s) (...): interpolated inside, moved on with the end's velocity outside."""
        times = np.asarray(timestamp_ns, dtype=np.int64)
        if len(self.timestamps_ns) == 1:
            return np.broadcast_to(self.world_from_ego[0], (*times.shape, 4, 4)).copy()
        left = np.clip(np.searchsorted(self.timestamps_ns, times, side="right") - 1, 0, len(self.timestamps_ns) - 2)
        span = self.timestamps_ns[left + 1] - self.timestamps_ns[left]
        fraction = (times - self.timestamps_ns[left]) / span
        return interpolate_rigid(self.world_from_ego[left], self.world_from_ego[left + 1], fraction)

    def velocity_at(self, timestamp_ns: int) -> np.ndarray:
        """Ego velocity (3,) in m/s in the world frame, a central difference over 0.1 s."""
        half = NS_PER_S // 20
        before, after = self.at(timestamp_ns - half), self.at(timestamp_ns + half)
        return (after[:3, 3] - before[:3, 3]) * (NS_PER_S / (2 * half))
