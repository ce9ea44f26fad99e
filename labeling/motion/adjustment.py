"""Which ego poses, clocks, camera rotations and scale explain all sightings best? Rig bundle adjustment with GTSAM.

A picture's place follows from its frame's ego pose, the stored motion to its capture time, its camera's clock and mount. What was seen
ties it to points (`ray_errors`); stored steps, the road under the wheels and the calibration are soft knowledge (`factors`).
"""

from dataclasses import dataclass

import numpy as np

from labeling.motion.settings import PriorSettings
from labeling.motion.sightings import Sightings
from labeling.motion.state import MotionState, frame_stamps
from scenes.clips import Clip
from scenes.errors import ConfigError
from scenes.geometry import NS_PER_S, invert_rigid, transform_points

SMALL_GAIN = 2e-5
"""The solution stands when a step makes the cost smaller by less than this share."""


@dataclass(frozen=True)
class RoadContacts:
    """Road points and the frame whose ego plane each should lie in, R rows."""

    track: np.ndarray
    """(R,) int64."""
    frame: np.ndarray
    """(R,) int64."""


@dataclass(frozen=True)
class Sigmas:
    """How well a solution is known (standard deviations); NaN if it was not asked for, or if the problem is singular."""

    scale: float
    """Of the log scale."""
    turn_rad: float
    """Of the last pose's rotation against the first one's."""
    clock_s: np.ndarray
    """(N,)."""

    @staticmethod
    def unknown(cameras: int) -> "Sigmas":
        """Nothing is known."""
        return Sigmas(float("nan"), float("nan"), np.full(cameras, np.nan))


@dataclass(frozen=True)
class Adjusted:
    """What the solver found."""

    state: MotionState
    points_world: np.ndarray
    """(P, 3)."""
    sigmas: "Sigmas"
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
    """Solves for everything at once.

    Args:
        clip: The stored motion, clocks and rig.
        state: Where to start; the first frame's pose stays as it is.
        sightings: Renumbered rows.
        points_world: (P, 3) where to start.
        road: Points that lie on the road.
        priors: How much is believed beforehand.
        iterations: At most.
        with_sigma: Also ask how well it is known (costs about one iteration).
    """
    gtsam = load_gtsam()
    from labeling.motion.ray_errors import RayErrors
    from labeling.motion.unknowns import Unknowns

    unknowns = Unknowns(len(clip), len(clip.rig), len(points_world))
    graph, values = gtsam.NonlinearFactorGraph(), unknowns.start(state, points_world)
    _add_steps(graph, unknowns, clip, state, priors)
    _add_rig(graph, unknowns, priors)
    _add_distances(graph, unknowns, sightings, points_world, state)
    _add_road(graph, unknowns, road, priors)
    errors = RayErrors(clip, sightings, unknowns, state, priors.pixel_px)
    errors.add_to(graph)
    values, used = _descend(graph, values, errors, unknowns, iterations)
    sigmas = _sigmas(gtsam, graph, values, unknowns) if with_sigma else Sigmas.unknown(len(clip.rig))
    return Adjusted(unknowns.state(values, state), unknowns.points(values), sigmas, used)


def _descend(graph, values, errors, unknowns, iterations: int):
    """Gauss-Newton with shorter steps where a full one makes it worse; the solver linearises, eliminates (points first) and retracts.

    The solver's own optimizers copy all values into every error function written in Python, which costs five times the rest.
    """
    import gtsam

    ordering = gtsam.Ordering()
    for key in (*unknowns.point, *unknowns.ego, *unknowns.clock, *unknowns.rotation, unknowns.height, unknowns.drift, unknowns.scale):
        ordering.push_back(key)
    errors.refresh(values)
    cost = graph.error(values)
    for iteration in range(iterations):
        try:
            step = graph.linearize(values).optimize(ordering)
        except RuntimeError:  # something is not determined, even with what is known beforehand: what was found until now stands
            return values, iteration
        share, better = 1.0, None
        while share > 0.02:
            trial = values.retract(step.scale(share))
            errors.refresh(trial)
            trial_cost = graph.error(trial)
            if trial_cost < cost:
                better = trial
                break
            share *= 0.3
        if better is None:
            errors.refresh(values)
            return values, iteration
        gain, values, cost = (cost - trial_cost) / max(trial_cost, 1e-12), better, trial_cost
        if gain < SMALL_GAIN and share == 1.0:
            return values, iteration + 1
    return values, iterations


def _six(rotation_rad: float, translation_m: float):
    from gtsam import noiseModel

    return noiseModel.Diagonal.Sigmas(np.repeat([rotation_rad, translation_m], 3))


def _add_steps(graph, unknowns, clip: Clip, state: MotionState, priors: PriorSettings) -> None:
    from gtsam import CustomFactor, Pose3, PriorFactorPose3, noiseModel

    from labeling.motion.factors import step_error

    graph.add(PriorFactorPose3(unknowns.ego[0], Pose3(state.world_from_ego[0]), _six(1e-6, 1e-6)))
    stamps = frame_stamps(clip)
    stored = clip.trajectory.at(stamps)
    steps = invert_rigid(stored[:-1]) @ stored[1:]
    for frame, (a_from_b, seconds) in enumerate(zip(steps, np.diff(stamps) / NS_PER_S, strict=True)):
        keys = (unknowns.ego[frame], unknowns.ego[frame + 1], unknowns.scale, unknowns.drift)
        translation_m = priors.step_translation_m * np.sqrt(seconds / 0.1) + priors.step_translation * np.linalg.norm(a_from_b[:3, 3])
        usual = _six(priors.step_rotation_rad_per_sqrt_s * np.sqrt(seconds), float(translation_m))
        noise = noiseModel.Robust.Create(noiseModel.mEstimator.Huber.Create(3.0), usual)
        graph.add(CustomFactor(noise, list(keys), step_error(keys, Pose3(a_from_b), float(seconds))))


def _add_rig(graph, unknowns, priors: PriorSettings) -> None:
    from gtsam import PriorFactorVector, noiseModel

    huber = noiseModel.mEstimator.Huber.Create(1.0)
    clock_noise = noiseModel.Robust.Create(huber, noiseModel.Isotropic.Sigma(1, priors.clock_s))
    mount_noise = noiseModel.Robust.Create(huber, noiseModel.Isotropic.Sigma(3, priors.rotation_rad))
    for clock, rotation in zip(unknowns.clock, unknowns.rotation, strict=True):
        graph.add(PriorFactorVector(clock, np.zeros(1), clock_noise))
        graph.add(PriorFactorVector(rotation, np.zeros(3), mount_noise))
    graph.add(PriorFactorVector(unknowns.scale, np.zeros(1), noiseModel.Isotropic.Sigma(1, priors.scale)))
    graph.add(PriorFactorVector(unknowns.drift, np.zeros(3), noiseModel.Isotropic.Sigma(3, priors.drift_rad_per_s)))
    graph.add(PriorFactorVector(unknowns.height, np.zeros(1), noiseModel.Isotropic.Sigma(1, priors.road_height_m)))


def _add_distances(graph, unknowns, sightings: Sightings, points_world: np.ndarray, state: MotionState) -> None:
    """A point may be wrong by as much as it is far: holds those that were seen from one direction only."""
    from gtsam import PriorFactorPoint3, noiseModel

    first = np.unique(sightings.track, return_index=True)[1]
    far_m = np.linalg.norm(points_world - state.world_from_ego[sightings.frame[first], :3, 3], axis=1)
    for key, point, sigma in zip(unknowns.point, points_world, np.maximum(far_m, 1.0), strict=True):
        graph.add(PriorFactorPoint3(key, point, noiseModel.Isotropic.Sigma(3, float(sigma))))


def _add_road(graph, unknowns, road: RoadContacts, priors: PriorSettings) -> None:
    from gtsam import CustomFactor, noiseModel

    from labeling.motion.factors import road_error

    robust = noiseModel.mEstimator.Cauchy.Create(1.0)
    noise = noiseModel.Robust.Create(robust, noiseModel.Isotropic.Sigma(1, priors.road_point_m))
    for track, frame in zip(road.track, road.frame, strict=True):
        keys = (unknowns.ego[int(frame)], unknowns.point[int(track)], unknowns.height)
        graph.add(CustomFactor(noise, list(keys), road_error(keys)))


def _sigmas(gtsam, graph, values, unknowns) -> Sigmas:
    try:
        marginals = gtsam.Marginals(graph, values)
        turn = marginals.marginalCovariance(unknowns.ego[-1])[:3, :3]
        clocks = [marginals.marginalCovariance(key)[0, 0] for key in unknowns.clock]
        scale = marginals.marginalCovariance(unknowns.scale)[0, 0]
        return Sigmas(float(np.sqrt(scale)), float(np.sqrt(np.trace(turn))), np.sqrt(np.array(clocks)))
    except RuntimeError:  # singular: the clip does not tell
        return Sigmas.unknown(len(unknowns.clock))


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
