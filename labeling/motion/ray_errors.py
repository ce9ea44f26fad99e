"""How far does every sighting's ray miss its point, and how does that change with each unknown? All sightings at once.

The solver asks track by track; the answers are computed for all tracks together beforehand (`RayErrors.refresh`). A sighting's error is the
place of the point in a virtual camera that looks along the measured ray, so fisheye and distortion need nothing of their own.
"""

import numpy as np
from gtsam import CustomFactor, NonlinearFactorGraph, Values, noiseModel

from labeling.motion.sightings import Sightings
from labeling.motion.state import MotionState, capture_stamps, frame_stamps, with_scaled_steps
from labeling.motion.unknowns import Unknowns
from scenes.clips import Clip
from scenes.geometry import NS_PER_S, invert_rigid, rigid_from_parts, rotation_from_rotvec, rotvec_from_rotation, transform_points

CAUCHY = 2.0
"""Errors beyond so many standard deviations lose weight."""
STEEPEST = 3.0
"""Tangent of the largest angle between ray and point that is told apart."""


class RayErrors:
    """Errors and derivatives of S sightings at the solver's values."""

    def __init__(self, clip: Clip, sightings: Sightings, unknowns: Unknowns, like: MotionState, pixel_px: float) -> None:
        self.sightings, self.unknowns, self.like = sightings, unknowns, like
        self.focal = sightings.px_per_rad / (pixel_px * sightings.spread)
        self.look_from_cam = np.swapaxes(look_along(sightings.ray_cam), 1, 2)
        cameras = len(clip.rig)
        self.picture, self.picture_of = np.unique(sightings.frame * cameras + sightings.camera, return_inverse=True)
        self.frame_of_picture, self.camera_of_picture = np.divmod(self.picture, cameras)
        stamps = capture_stamps(clip)
        ego_from_capture = invert_rigid(clip.trajectory.at(frame_stamps(clip)))[:, None] @ clip.trajectory.at(stamps)
        self.ego_from_capture = ego_from_capture[self.frame_of_picture, self.camera_of_picture]
        self.twist = stored_twists(clip, stamps)[self.frame_of_picture, self.camera_of_picture]
        self.ego_from_cam = np.stack([camera.ego_from_cam for camera in clip.rig.cameras])[self.camera_of_picture]
        self.tracks = [_TrackColumns(sightings, unknowns, begin, end) for begin, end in _runs(sightings.track)]

    def add_to(self, graph: NonlinearFactorGraph) -> None:
        """One factor a track."""
        for columns in self.tracks:
            unit = noiseModel.Unit.Create(2 * (columns.end - columns.begin))
            graph.add(CustomFactor(unit, columns.keys, columns.error_function(self)))

    def refresh(self, values: Values) -> None:
        """Computes everything at these values; to be called before the solver may ask for errors or derivatives there."""
        self._evaluate(self.unknowns.state(values, self.like), self.unknowns.points(values))

    def _evaluate(self, state: MotionState, points_world: np.ndarray) -> None:
        moved = with_scaled_steps(self.ego_from_capture @ _exp(self.twist * state.clock_s[self.camera_of_picture][:, None]), state.scale)
        turn = rigid_from_parts(rotation_from_rotvec(state.rotvec_cam), np.zeros((len(state.clock_s), 3)))
        capture_from_cam = self.ego_from_cam @ turn[self.camera_of_picture]
        ego_from_cam = moved @ capture_from_cam
        world_from_cam = (state.world_from_ego[self.frame_of_picture] @ ego_from_cam)[self.picture_of]
        point_cam = transform_points(invert_rigid(world_from_cam), points_world[self.sightings.track])
        error, by_point_cam = self._project(point_cam)
        by_pose = np.concatenate([by_point_cam @ _cross(point_cam), -by_point_cam], axis=2)  # (S, 2, 6)
        cam_from_capture = adjoint(invert_rigid(capture_from_cam))
        growth = np.einsum("nji,nj->ni", moved[:, :3, :3], moved[:, :3, 3])
        self.by_ego = by_pose @ adjoint(invert_rigid(ego_from_cam))[self.picture_of]
        self.by_clock = by_pose @ (cam_from_capture @ self.twist[:, :, None])[self.picture_of]
        self.by_rotation = by_pose[:, :, :3]
        self.by_scale = by_pose @ (cam_from_capture[:, :, 3:] @ growth[:, :, None])[self.picture_of]
        self.by_point = by_point_cam @ np.swapaxes(world_from_cam[:, :3, :3], 1, 2)
        self._weigh(error)

    def _project(self, point_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Error (S, 2) in standard deviations and its derivative (S, 2, 3) by the point in the camera."""
        x, y, z = np.moveaxis(np.einsum("sij,sj->si", self.look_from_cam, point_cam), -1, 0)
        z = np.maximum(z, np.maximum(np.hypot(x, y) / STEEPEST, 1e-3))
        gain = (self.focal / z)[:, None]
        by_look = np.zeros((len(x), 2, 3))
        by_look[:, 0, 0] = by_look[:, 1, 1] = gain[:, 0]
        by_look[:, :, 2] = -gain * np.stack([x / z, y / z], axis=1)
        return gain * np.stack([x, y], axis=1), by_look @ self.look_from_cam

    def _weigh(self, error: np.ndarray) -> None:
        """Cauchy's loss: the root of each sighting's weight goes into errors and derivatives; the loss itself is kept for comparing."""
        square = (error**2).sum(axis=1) / CAUCHY**2
        root = 1 / np.sqrt(1 + square)
        loss = np.sqrt(np.log1p(square) / np.maximum(square, 1e-12))
        self.error, self.loss = error * root[:, None], error * np.where(square > 1e-12, loss, 1.0)[:, None]
        for name in ("by_ego", "by_clock", "by_rotation", "by_scale", "by_point"):
            setattr(self, name, getattr(self, name) * root[:, None, None])


class _TrackColumns:
    """The rows `begin` to `end` of one track and the unknowns that they depend on."""

    def __init__(self, sightings: Sightings, unknowns: Unknowns, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        rows = np.arange(end - begin)
        self.frames = _Blocks(sightings.frame[begin:end], rows, 6)
        self.clocks, self.rotations = (_Blocks(sightings.camera[begin:end], rows, width) for width in (1, 3))
        self.keys = [unknowns.ego[frame] for frame in self.frames.numbers]
        self.keys += [unknowns.clock[camera] for camera in self.clocks.numbers]
        self.keys += [unknowns.rotation[camera] for camera in self.rotations.numbers]
        self.keys += [unknowns.scale, unknowns.point[int(sightings.track[begin])]]

    def error_function(self, errors: RayErrors):
        """What the solver calls: the track's errors (2 m,) and, if it wants them, derivatives by each key."""

        def error(_, __: Values, jacobians: list[np.ndarray] | None) -> np.ndarray:
            rows = slice(self.begin, self.end)
            if jacobians is None:
                return errors.loss[rows].ravel()
            blocks = [
                *self.frames.filled(errors.by_ego[rows]),
                *self.clocks.filled(errors.by_clock[rows]),
                *self.rotations.filled(errors.by_rotation[rows]),
                errors.by_scale[rows].reshape(-1, 1),
                errors.by_point[rows].reshape(-1, 3),
            ]
            for place, block in enumerate(blocks):
                jacobians[place] = block
            return errors.error[rows].ravel()

        return error


class _Blocks:
    """A track's derivatives by several unknowns of one kind: each has zeros but in the rows that depend on it."""

    def __init__(self, of_row: np.ndarray, rows: np.ndarray, width: int) -> None:
        self.numbers = [int(number) for number in np.unique(of_row)]
        self.own = [rows[of_row == number] for number in self.numbers]
        self.full = [np.zeros((2 * len(rows), width)) for _ in self.numbers] if len(self.numbers) > 1 else []
        self.views = [full.reshape(len(rows), 2, width) for full in self.full]

    def filled(self, derivative: np.ndarray) -> list[np.ndarray]:
        """(2 m, width) for each unknown, from the derivatives (m, 2, width) of all rows; written over by the next call."""
        if not self.full:
            return [derivative.reshape(-1, derivative.shape[2])]
        for view, own in zip(self.views, self.own, strict=True):
            view[own] = derivative[own]
        return self.full


def _runs(track: np.ndarray) -> list[tuple[int, int]]:
    """(begin, end) of each run of equal numbers."""
    edges = (np.flatnonzero(np.diff(track)) + 1).tolist()
    return list(zip([0, *edges], [*edges, len(track)], strict=True)) if len(track) else []


def look_along(ray: np.ndarray) -> np.ndarray:
    """(S, 3, 3) rotations whose z axis is the ray (S, 3)."""
    helper = np.where(np.abs(ray[:, :1]) < 0.7, [[1.0, 0, 0]], [[0, 1.0, 0]])
    x = np.cross(helper, ray)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(ray, x), ray], axis=-1)


def _cross(vector: np.ndarray) -> np.ndarray:
    """(S, 3, 3) matrices of the cross product with vectors (S, 3)."""
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([np.stack(row, axis=-1) for row in ([zero, -z, y], [z, zero, -x], [-y, x, zero])], axis=-2)


def adjoint(a_from_b: np.ndarray) -> np.ndarray:
    """(..., 6, 6): twists (rotation, translation) of frame b in frame a."""
    rotation, flat = a_from_b[..., :3, :3], a_from_b[..., :3, 3].reshape(-1, 3)
    matrix = np.zeros((*a_from_b.shape[:-2], 6, 6))
    matrix[..., :3, :3] = matrix[..., 3:, 3:] = rotation
    matrix[..., 3:, :3] = _cross(flat).reshape(rotation.shape) @ rotation
    return matrix


def _exp(twist: np.ndarray) -> np.ndarray:
    """Motions (S, 4, 4) of small twists (S, 6): exact turning, the way along the middle heading."""
    rotation, half = rotation_from_rotvec(twist[:, :3]), rotation_from_rotvec(twist[:, :3] / 2)
    return rigid_from_parts(rotation, np.einsum("sij,sj->si", half, twist[:, 3:]))


def stored_twists(clip: Clip, stamps_ns: np.ndarray, half_s: float = 0.05) -> np.ndarray:
    """(..., 6) stored angular and linear velocity in the ego frame at instants (...), a central difference."""
    half_ns = round(half_s * NS_PER_S)
    step = invert_rigid(clip.trajectory.at(stamps_ns - half_ns)) @ clip.trajectory.at(stamps_ns + half_ns)
    rotvec = rotvec_from_rotation(step[..., :3, :3])
    half_back = rotation_from_rotvec(-rotvec / 2)
    velocity = np.einsum("...ij,...j->...i", half_back, step[..., :3, 3])
    return np.concatenate([rotvec, velocity], axis=-1) / (2 * half_s)
