"""Which ego poses, clocks, camera rotations and scale explain all sightings best? Rig bundle adjustment with GTSAM.

Every picture has a pose of its own. What was seen ties pictures to points by the solver's projection factor, through a virtual camera
that looks along the measured ray, so that any lens is an ordinary one. A few hundred ties hold the pictures to the ego poses, through the
camera's clock and mount. Stored steps, the road under the wheels and the calibration are soft knowledge.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from labeling.motion.settings import PriorSettings
from labeling.motion.sightings import Sightings
from labeling.motion.state import MotionState, capture_stamps, frame_stamps, refined_cameras_at
from scenes.clips import Clip
from scenes.errors import ConfigError
from scenes.geometry import NS_PER_S, invert_rigid, rotvec_from_rotation, transform_points

if TYPE_CHECKING:
    import gtsam


@dataclass(frozen=True)
class RoadContacts:
    """Road points and the frame whose ego plane each should lie in, R rows."""

    track: np.ndarray
    """(R,) int64."""
    frame: np.ndarray
    """(R,) int64."""


@dataclass(frozen=True)
class Adjusted:
    """What the solver found."""

    state: MotionState
    points_world: np.ndarray
    """(P, 3)."""
    scale_sigma: float
    """Standard deviation of the log scale; 0 if it was not asked for."""
    iterations: int


def load_gtsam():
    """GTSAM, imported when it is needed; refused with the remedy where it is not installed."""
    try:
        import gtsam
    except ImportError as error:
        raise ConfigError(f"motion: GTSAM could not be imported ({error}); install it with `pip install gtsam`") from error
    return gtsam


def adjust(
    clip: Clip, state: MotionState, sightings: Sightings, points_world: np.ndarray, road: RoadContacts, priors: PriorSettings,
    iterations: int = 12, with_sigma: bool = False,
) -> Adjusted:  # fmt: skip
    """Solves for everything at once, from `state` and points (P, 3); renumbered sightings. The first frame's pose stays."""
    gtsam = load_gtsam()
    keys = _Keys(len(clip.rig))
    graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    used = np.unique(sightings.frame * keys.cameras + sightings.camera)
    _add_frames(graph, values, keys, clip, state, priors)
    _add_rig(graph, values, keys, state, priors)
    _add_pictures(graph, values, keys, clip, state, priors, used)
    _add_points(graph, values, keys, sightings, points_world, clip, priors)
    _add_road(graph, values, keys, road, priors)
    parameters = gtsam.LevenbergMarquardtParams()
    parameters.setMaxIterations(iterations)
    parameters.setRelativeErrorTol(1e-4)
    parameters.setLinearSolverType("MULTIFRONTAL_CHOLESKY")
    optimizer = gtsam.LevenbergMarquardtOptimizer(graph, values, parameters)
    found = optimizer.optimize()
    sigma = _scale_sigma(gtsam, graph, found, keys) if with_sigma else 0.0
    return Adjusted(*_read(found, keys, state, len(points_world)), sigma, optimizer.iterations())


class _Keys:
    """The solver's names of the unknowns."""

    def __init__(self, cameras: int) -> None:
        from gtsam import symbol

        self.cameras, self._symbol = cameras, symbol
        self.scale, self.height = symbol("s", 0), symbol("h", 0)

    def ego(self, frame: int) -> int:
        return self._symbol("x", int(frame))

    def picture(self, frame: int, camera: int) -> int:
        return self._symbol("v", int(frame) * self.cameras + int(camera))

    def clock(self, camera: int) -> int:
        return self._symbol("c", int(camera))

    def rotation(self, camera: int) -> int:
        return self._symbol("r", int(camera))

    def point(self, track: int) -> int:
        return self._symbol("p", int(track))


def _six(rotation_rad: float, translation_m: float) -> "gtsam.noiseModel.Diagonal":
    from gtsam import noiseModel

    return noiseModel.Diagonal.Sigmas(np.repeat([rotation_rad, translation_m], 3))


def _add_frames(graph, values, keys: _Keys, clip: Clip, state: MotionState, priors: PriorSettings) -> None:
    from gtsam import CustomFactor, Pose3, PriorFactorPose3

    from labeling.motion.factors import step_error

    for frame, world_from_ego in enumerate(state.world_from_ego):
        values.insert(keys.ego(frame), Pose3(world_from_ego))
    graph.add(PriorFactorPose3(keys.ego(0), Pose3(state.world_from_ego[0]), _six(1e-6, 1e-6)))
    stamps = frame_stamps(clip)
    stored = clip.trajectory.at(stamps)
    steps = invert_rigid(stored[:-1]) @ stored[1:]
    for frame, (a_from_b, seconds) in enumerate(zip(steps, np.diff(stamps) / NS_PER_S, strict=True)):
        names = (keys.ego(frame), keys.ego(frame + 1), keys.scale)
        translation_m = priors.step_translation_m * np.sqrt(seconds / 0.1) + priors.step_translation * np.linalg.norm(a_from_b[:3, 3])
        noise = _six(priors.step_rotation_rad_per_sqrt_s * np.sqrt(seconds), float(translation_m))
        graph.add(CustomFactor(noise, list(names), step_error(names, Pose3(a_from_b))))


def _add_rig(graph, values, keys: _Keys, state: MotionState, priors: PriorSettings) -> None:
    from gtsam import PriorFactorVector, noiseModel

    huber = noiseModel.mEstimator.Huber.Create(1.0)
    clock_noise = noiseModel.Robust.Create(huber, noiseModel.Isotropic.Sigma(1, priors.clock_s))
    for camera in range(keys.cameras):
        values.insert(keys.clock(camera), state.clock_s[camera : camera + 1])
        values.insert(keys.rotation(camera), state.rotvec_cam[camera])
        graph.add(PriorFactorVector(keys.clock(camera), np.zeros(1), clock_noise))
        graph.add(PriorFactorVector(keys.rotation(camera), np.zeros(3), noiseModel.Isotropic.Sigma(3, priors.rotation_rad)))
    values.insert(keys.scale, np.array([np.log(state.scale)]))
    values.insert(keys.height, np.zeros(1))
    graph.add(PriorFactorVector(keys.scale, np.zeros(1), noiseModel.Isotropic.Sigma(1, priors.scale)))
    graph.add(PriorFactorVector(keys.height, np.zeros(1), noiseModel.Isotropic.Sigma(1, priors.road_height_m)))


def stored_twists(clip: Clip, stamps_ns: np.ndarray, half_s: float = 0.05) -> np.ndarray:
    """(..., 6) stored angular and linear velocity in the ego frame at instants (...), a central difference."""
    half_ns = round(half_s * NS_PER_S)
    step = invert_rigid(clip.trajectory.at(stamps_ns - half_ns)) @ clip.trajectory.at(stamps_ns + half_ns)
    rotvec = rotvec_from_rotation(step[..., :3, :3])
    middle = np.swapaxes(step[..., :3, :3], -1, -2)  # half the turn would be exact; over 0.1 s the difference is below a millimetre
    velocity = np.einsum("...ij,...j->...i", (middle + np.eye(3)) / 2, step[..., :3, 3])
    return np.concatenate([rotvec, velocity], axis=-1) / (2 * half_s)


def _add_pictures(graph, values, keys: _Keys, clip: Clip, state: MotionState, priors: PriorSettings, used: np.ndarray) -> None:
    from gtsam import CustomFactor, Pose3

    from labeling.motion.factors import picture_tie

    cameras = refined_cameras_at(clip, state)
    stamps = capture_stamps(clip)
    ego_from_capture = invert_rigid(clip.trajectory.at(frame_stamps(clip)))[:, None] @ clip.trajectory.at(stamps)
    twists = stored_twists(clip, stamps)
    mounts = [Pose3(camera.ego_from_cam) for camera in clip.rig.cameras]
    noise = _six(priors.view_rotation_rad, priors.view_translation_m)
    for frame, camera in zip(*divmod(used, keys.cameras), strict=True):
        names = (keys.picture(frame, camera), keys.ego(frame), keys.clock(camera), keys.rotation(camera), keys.scale)
        values.insert(names[0], Pose3(cameras[frame, camera]))
        tie = picture_tie(names, Pose3(ego_from_capture[frame, camera]), twists[frame, camera], mounts[camera])
        graph.add(CustomFactor(noise, list(names), tie))


def _add_points(graph, values, keys: _Keys, sightings: Sightings, points_world: np.ndarray, clip: Clip, priors: PriorSettings) -> None:
    """One projection factor a sighting: a camera turned onto the ray measures (0, 0) with the lens's resolution there."""
    from gtsam import Cal3_S2, GenericProjectionFactorCal3_S2, Pose3, PriorFactorPoint3, Rot3, noiseModel

    robust, first = noiseModel.mEstimator.Cauchy.Create(2.0), np.unique(sightings.track, return_index=True)[1]
    lens, origin = Cal3_S2(1.0, 1.0, 0.0, 0.0, 0.0), np.zeros(2)
    noise = {}
    steps = np.round(np.log(priors.pixel_px / sightings.px_per_rad) / 0.05).astype(int)  # a noise model a 5 % of resolution
    for step in np.unique(steps):
        noise[int(step)] = noiseModel.Robust.Create(robust, noiseModel.Isotropic.Sigma(2, float(np.exp(0.05 * step))))
    cam_from_look = _look_along(sightings.ray_cam)
    for row in range(len(sightings)):
        picture = keys.picture(sightings.frame[row], sightings.camera[row])
        body = Pose3(Rot3(cam_from_look[row]), np.zeros(3))
        point = keys.point(sightings.track[row])
        graph.add(GenericProjectionFactorCal3_S2(origin, noise[int(steps[row])], picture, point, lens, False, False, body))
    for track, row in enumerate(first):
        point = points_world[track]
        frame = clip.frames[int(sightings.frame[row])]
        far_m = float(np.linalg.norm(point - frame.world_from_ego[:3, 3]))
        values.insert(keys.point(track), point)
        graph.add(PriorFactorPoint3(keys.point(track), point, noiseModel.Isotropic.Sigma(3, max(far_m, 1.0))))


def _look_along(ray: np.ndarray) -> np.ndarray:
    """(S, 3, 3) rotations whose z axis is the ray (S, 3)."""
    helper = np.where(np.abs(ray[:, :1]) < 0.7, [[1.0, 0, 0]], [[0, 1.0, 0]])
    x = np.cross(helper, ray)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(ray, x), ray], axis=-1)


def _add_road(graph, values, keys: _Keys, road: RoadContacts, priors: PriorSettings) -> None:
    from gtsam import CustomFactor, noiseModel

    from labeling.motion.factors import road_error

    robust = noiseModel.mEstimator.Cauchy.Create(1.0)
    noise = noiseModel.Robust.Create(robust, noiseModel.Isotropic.Sigma(1, priors.road_point_m))
    for track, frame in zip(road.track, road.frame, strict=True):
        names = (keys.ego(frame), keys.point(track), keys.height)
        graph.add(CustomFactor(noise, list(names), road_error(names)))


def _scale_sigma(gtsam, graph, values, keys: _Keys) -> float:
    try:
        return float(np.sqrt(gtsam.Marginals(graph, values).marginalCovariance(keys.scale)[0, 0]))
    except RuntimeError:  # a point without parallax makes the exact covariance singular; the estimate itself is damped
        return float("nan")


def _read(values, keys: _Keys, state: MotionState, num_points: int) -> tuple[MotionState, np.ndarray]:
    frames = range(len(state.world_from_ego))
    found = replace(
        state,
        world_from_ego=np.stack([values.atPose3(keys.ego(frame)).matrix() for frame in frames]),
        scale=float(np.exp(values.atVector(keys.scale)[0])),
        clock_s=np.array([values.atVector(keys.clock(camera))[0] for camera in range(keys.cameras)]),
        rotvec_cam=np.stack([values.atVector(keys.rotation(camera)) for camera in range(keys.cameras)]),
    )
    return found, np.stack([values.atPoint3(keys.point(track)) for track in range(num_points)])


def road_contacts(clip: Clip, state: MotionState, sightings: Sightings, points_world: np.ndarray, parallax: np.ndarray,
                  within_m: float = 9.0, height_m: float = 0.25, most: int = 600) -> RoadContacts:  # fmt: skip
    """Points that lie near the plane under the vehicle where they were seen best, each with that frame; at most `most`, best founded."""
    ego = invert_rigid(state.world_from_ego)[sightings.frame]
    points_ego = transform_points(ego, points_world[sightings.track])
    distance = np.hypot(points_ego[:, 0], points_ego[:, 1])
    order = np.lexsort((distance, sightings.track))
    track, row = np.unique(sightings.track[order], return_index=True)
    row = order[row]
    near = (distance[row] < within_m) & (np.abs(points_ego[row, 2]) < height_m) & (parallax[track] > 1e-4)
    track, row = track[near], row[near]
    best = np.argsort(-parallax[track], kind="stable")[:most]
    return RoadContacts(track[best], sightings.frame[row[best]])
