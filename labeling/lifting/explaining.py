"""Does an object stand or drive, and where? Both explanations of a set of rectangles are tried, the simpler one has the advantage."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from labeling.lifting.clearance import few_poses
from labeling.lifting.driving import DrivenFit, DrivenSolve, first_path
from labeling.lifting.fitting import Fit, P, Priors, fit_standing, independent_weights, start_places
from labeling.lifting.image_boxes import KIND_OF_CLASS
from labeling.lifting.observations import Observations
from labeling.lifting.road import Road
from labeling.lifting.settings import LiftingSettings
from scenes.boxes import CLASS_NAMES, Box3D
from scenes.geometry import invert_rigid, path_velocity, wrap_angle

FIRST_LOOKS = 12
"""So many observations, evenly spread, are enough for a first guess."""
START_TURNS = np.arange(4) * np.pi / 4
LEAST_SHARE = 0.15
"""Classes with fewer votes among a track's rectangles are not considered."""
ONCOMING_FROM_M = 4.5
"""A vehicle that stands this far to the side of the oncoming traffic faces the other way ..."""
ALONG_COS = 0.7
"""... if it stands along the road at all (cosine)."""
FEWEST_TO_DRIVE = 4
SHORTEST_DRIVE_S = 0.4
LEAST_VELOCITY_STD_MPS = 0.5
"""See `velocity_std`."""
ALIKE_AT_MOST = 4.0
"""However many rectangles agree, their common error (outline, road, calibration) is that of this many independent ones."""


@dataclass(frozen=True)
class Explained:
    """One object explained over its S consecutive frames."""

    rows: np.ndarray
    """Observations it explains, ascending."""
    class_id: int
    frames: np.ndarray
    """(S,) int64."""
    box_world: np.ndarray
    """(S, 9) with velocities."""
    covariance: np.ndarray
    """(S, 2, 2) of the place."""
    body: np.ndarray
    """(7,) columns `P`: of its middle frame if it drives."""
    body_covariance: np.ndarray
    """(7, 7) of a standing explanation."""
    cost: float
    misfit: float
    is_static: bool
    velocity_std_mps: float = float("nan")
    """Per axis, of a driving explanation's velocities."""

    @property
    def kind(self) -> int:
        """See `KIND_OF_CLASS`."""
        return int(KIND_OF_CLASS[self.class_id])


@dataclass(frozen=True)
class Scene:
    """What all explanations share."""

    observations: Observations
    time_s: np.ndarray
    """(T,) reference times of the frames."""
    world_from_ego: np.ndarray
    """(T, 4, 4)."""
    road: Road
    road_yaw: float
    """Direction of the ego path, in the world."""
    settings: LiftingSettings
    keeps_clear: bool = True
    """Whether bodies must not stand where the ego vehicle was."""

    @cached_property
    def ego_from_world(self) -> np.ndarray:
        """(K, 4, 4) at a few of the ego path's poses, none where bodies need not keep clear of it."""
        return few_poses(self.world_from_ego)[: None if self.keeps_clear else 0]

    def priors(self, class_id: np.ndarray) -> Priors:
        """Of classes (B,)."""
        return Priors.of(class_id, self.road_yaw, self.ego_from_world, self.settings)

    def capture_s(self, rows: np.ndarray) -> np.ndarray:
        """(N,) capture times of observations."""
        return self.time_s[self.observations.frame[rows]] + self.observations.offset_s[rows]

    def weights(self, rows: np.ndarray, item: np.ndarray) -> np.ndarray:
        """(N,) of observations, see `independent_weights`."""
        return independent_weights(self.capture_s(rows), self.observations.camera[rows], item, self.settings.reprojection.alike_s)


def flat_chains(chains: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All rows (N,) of some chains and which chain each belongs to (N,)."""
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *chains])
    return rows, np.repeat(np.arange(len(chains)), [len(chain) for chain in chains])


def class_votes(scene: Scene, chain: np.ndarray) -> np.ndarray:
    """(K,) shares of the classes among a chain's rectangles, by score."""
    votes = np.bincount(scene.observations.class_id[chain], weights=scene.observations.score[chain], minlength=len(CLASS_NAMES))
    return votes / votes.sum()


def stand_as_any(scene: Scene, chains: list[np.ndarray]) -> tuple[Fit, np.ndarray]:
    """All chains explained as standing bodies, each of the class that explains it best, votes counted; and these classes (B,)."""
    votes = [class_votes(scene, chain) for chain in chains]
    tried = [(k, int(c)) for k, share in enumerate(votes) for c in np.flatnonzero((share >= LEAST_SHARE) | (share == share.max()))]
    owner, class_id = np.array(tried).T
    doubled = [chains[k] for k in owner]
    fit = stand(scene, doubled, class_id, first_bodies(scene, doubled, class_id))
    odds = np.array([votes[k][c] for k, c in tried])
    best = [int(mine[np.argmin((fit.cost - 2 * np.log(odds))[mine])]) for mine in (np.flatnonzero(owner == k) for k in range(len(chains)))]
    return fit.take(np.array(best)), class_id[best]


def with_class(observations: Observations, rows: np.ndarray, class_id: np.ndarray) -> Observations:
    """Observations (N,) as of one object's class (N,) each."""
    taken = observations.take(rows)
    return Observations(**{**vars(taken), "class_id": class_id})


def first_bodies(scene: Scene, chains: list[np.ndarray], class_id: np.ndarray) -> np.ndarray:
    """(B, 7) a first guess of each chain as a standing body: the best of four headings, seen in a dozen rectangles."""
    few = [chain[np.linspace(0, len(chain) - 1, min(len(chain), FIRST_LOOKS)).round().astype(int)] for chain in chains]
    rows, item = flat_chains(few)
    observations = with_class(scene.observations, rows, class_id[item])
    place = start_places(observations, scene.priors(class_id[item]))
    middle = np.stack([np.median(place[item == k], axis=0) for k in range(len(chains))])
    weight, priors = scene.weights(rows, item), scene.priors(class_id)
    fits = []
    for turn in START_TURNS:
        start = middle.copy()
        start[:, P.YAW] = scene.road_yaw + turn
        fits.append(fit_standing(observations, item, start, priors, scene.road, weight, scene.settings, rounds=8))
    best = np.argmin([fit.cost for fit in fits], axis=0)
    return np.stack([fits[b].body[k] for k, b in enumerate(best)])


def stand(scene: Scene, chains: list[np.ndarray], class_id: np.ndarray, start: np.ndarray) -> Fit:
    """All chains explained as standing bodies, from first guesses (B, 7)."""
    rows, item = flat_chains(chains)
    observations = with_class(scene.observations, rows, class_id[item])
    return fit_standing(observations, item, start, scene.priors(class_id), scene.road, scene.weights(rows, item), scene.settings)


def single_places(scene: Scene, chain: np.ndarray, class_id: int, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, 2) of a body of known size and heading in each rectangle alone, and their information matrices (N, 2, 2)."""
    num = len(chain)
    classes = np.full(num, class_id)
    observations = with_class(scene.observations, chain, classes)
    priors = scene.priors(classes)
    start = start_places(observations, priors)
    start[:, P.YAW], start[:, P.LENGTH :] = body[P.YAW], body[P.LENGTH :]
    known = replace(priors, log_size=start[:, P.LENGTH :], log_spread=np.full((num, 3), 0.05), road_yaw=np.full(num, body[P.YAW]))
    fit = fit_standing(observations, np.arange(num), start, known, scene.road, np.ones(num), scene.settings, rounds=8)
    covariance = fit.covariance[:, :2, :2] + 0.05**2 * np.eye(2)
    return fit.body[:, :2], np.linalg.inv(covariance)


def drive(scene: Scene, chain: np.ndarray, class_id: int, body: np.ndarray) -> tuple[np.ndarray, DrivenFit] | None:
    """A chain explained as a driving body: frames (S,) and fit; None where there is too little to tell."""
    frame = scene.observations.frame[chain]
    frames = np.arange(frame.min(), frame.max() + 1)
    time_s = scene.time_s[frames]
    if len(chain) < FEWEST_TO_DRIVE or time_s[-1] - time_s[0] < SHORTEST_DRIVE_S:
        return None
    slot = frame - frames[0]
    place, information = single_places(scene, chain, class_id, body)
    alike = scene.weights(chain, np.zeros(len(chain), dtype=np.int64))
    motion = scene.settings.motion
    path = first_path(place, information * alike[:, None, None], slot, time_s, float(body[P.YAW]), motion.acceleration_mps2)
    observations = with_class(scene.observations, chain, np.full(len(chain), class_id))
    priors, ego_from_world = scene.priors(np.array([class_id])), invert_rigid(scene.world_from_ego[frames])
    solve = DrivenSolve(observations, slot, time_s, alike, priors, scene.road, scene.settings, ego_from_world)
    return frames, solve.run(np.concatenate([path.reshape(-1), body[P.LIFT :]]))


def explain(scene: Scene, chain: np.ndarray, class_id: int, standing: Fit, k: int) -> Explained:
    """The better of the two explanations of a chain, whose standing one is row `k` of `standing`."""
    motion = scene.settings.motion
    driven = drive(scene, chain, class_id, standing.body[k]) if standing.cost[k] > motion.moves_chi2 else None
    if driven is not None:
        frames, fit = driven
        apart = fit.path[-1, :2] - fit.path[0, :2]
        moved_m = float(np.hypot(*apart))
        unsure = _honest(scene, chain, fit.covariance[[0, -1], :2, :2]).sum(axis=0)
        unsure_m = float(np.sqrt(apart @ unsure @ apart)) / max(moved_m, 1e-6)
        sure = moved_m > motion.moves_m + motion.moves_sigma * unsure_m
        refuted = float(standing.misfit[k]) > motion.refuted_misfit and fit.misfit < 0.5 * float(standing.misfit[k])
        if (sure or (refuted and moved_m > motion.moves_m)) and float(standing.cost[k]) - fit.cost > motion.moves_chi2:
            return _explained_driving(scene, chain, class_id, frames, fit)
    return explained_standing(scene, chain, class_id, standing, k)


def explained_standing(scene: Scene, chain: np.ndarray, class_id: int, standing: Fit, k: int) -> Explained:
    """A chain as row `k` of standing bodies."""
    frame = scene.observations.frame[chain]
    frames = np.arange(frame.min(), frame.max() + 1)
    body = faced(scene, standing.body[k], class_id)
    box = np.repeat(_box_of(scene, body)[None], len(frames), axis=0)
    covariance = _honest(scene, chain, standing.covariance[k][None, :2, :2])
    return Explained(
        chain,
        class_id,
        frames,
        box,
        np.repeat(covariance, len(frames), axis=0),
        body,
        standing.covariance[k],
        float(standing.cost[k]),
        float(standing.misfit[k]),
        True,
    )


def faced(scene: Scene, body: np.ndarray, class_id: int) -> np.ndarray:
    """A standing body (7,) with its front where the traffic of its side of the road has it: edges do not tell front and rear apart."""
    body = body.copy()
    along = np.array([np.cos(scene.road_yaw), np.sin(scene.road_yaw)])
    offset = body[:2] - scene.world_from_ego[:, :2, 3]
    nearest = offset[np.argmin(np.hypot(*offset.T))]
    left_m = float(along[0] * nearest[1] - along[1] * nearest[0])
    oncoming = left_m > ONCOMING_FROM_M if scene.settings.drives_on == "right" else left_m < -ONCOMING_FROM_M
    ahead = np.cos(body[P.YAW] - scene.road_yaw)
    if KIND_OF_CLASS[class_id] == 0 and abs(ahead) > ALONG_COS and (ahead > 0) == oncoming:
        body[P.YAW] = float(wrap_angle(body[P.YAW] + np.pi))
    return body


def _explained_driving(scene: Scene, chain: np.ndarray, class_id: int, frames: np.ndarray, fit: DrivenFit) -> Explained:
    bodies = np.concatenate([fit.path, np.broadcast_to(fit.rest, (len(frames), 4))], axis=1)
    box = np.stack([_box_of(scene, body) for body in bodies])
    box[:, Box3D.VX :] = path_velocity(fit.path[:, :2], scene.time_s[frames])
    covariance = _honest(scene, chain, fit.covariance[:, :2, :2])
    span_s = max(float(scene.time_s[frames[-1]] - scene.time_s[frames[0]]), 1e-3)
    std_mps = velocity_std(covariance[[0, -1]], span_s)
    body, unknown = bodies[len(bodies) // 2], np.zeros((7, 7))
    return Explained(chain, class_id, frames, box, covariance, body, unknown, fit.cost, fit.misfit, False, std_mps)


def velocity_std(covariance: np.ndarray, span_s: float) -> float:
    """m/s per axis of a path whose ends have covariances (2, 2, 2): what both ends may be off, over the time between them.

    Never less than `LEAST_VELOCITY_STD_MPS`: within its path an object may be faster and slower than on the whole.
    """
    off2_m2 = float(np.trace(covariance.sum(axis=0))) / 2
    return max(np.sqrt(off2_m2) / span_s, LEAST_VELOCITY_STD_MPS)


def _honest(scene: Scene, chain: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    independent = scene.weights(chain, np.zeros(len(chain), dtype=np.int64)).sum()
    return covariance * max(1.0, independent / ALIKE_AT_MOST) + 0.05**2 * np.eye(2)


def _box_of(scene: Scene, body: np.ndarray) -> np.ndarray:
    size = np.exp(body[P.LENGTH :])
    z = float(scene.road.height(body[None, :2])[0]) + body[P.LIFT] + size[2] / 2
    return np.array([body[P.X], body[P.Y], z, *size, float(wrap_angle(body[P.YAW])), 0.0, 0.0])
