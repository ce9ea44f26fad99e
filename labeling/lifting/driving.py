"""Which path did a moving body take, that fills all rectangles it was seen in? One joint solve of path, headings and size."""

from dataclasses import dataclass

import numpy as np

from labeling.lifting.bodies import bodies_of
from labeling.lifting.clearance import intrusion_terms
from labeling.lifting.fitting import LARGEST_STEP, ROBUST, Linear, Priors, edge_costs, linearise, misfit
from labeling.lifting.observations import Observations
from labeling.lifting.road import Road
from labeling.lifting.settings import LiftingSettings
from scenes.geometry import path_velocity, wrap_angle

ROUNDS = 20
SLIP_ALIKE_S = 0.3
"""Sideways speeds nearer in time than this are alike."""
TURNS_FROM_M = 1.0
"""From this distance driven on, the first guess of the heading is the course."""


@dataclass(frozen=True)
class DrivenFit:
    """One moving body over S consecutive frames."""

    path: np.ndarray
    """(S, 3) x, y, heading."""
    rest: np.ndarray
    """(4,) lift, log length, log width, log height: columns `P.LIFT` and on."""
    covariance: np.ndarray
    """(S, 3, 3) of the path's rows."""
    cost: float
    misfit: float

    def velocity(self, time_s: np.ndarray) -> np.ndarray:
        """(S, 2) m/s at the frames' times (S,)."""
        return path_velocity(self.path[:, :2], time_s)


def smoothness(time_s: np.ndarray, order: int, scale: float) -> np.ndarray:
    """(S, S) matrix of the integral of (derivative of that order / scale)^2, from divided differences at times (S,)."""
    rows = np.eye(len(time_s))
    for k in range(1, min(order, len(time_s)) + 1):
        rows = k * np.diff(rows, axis=0) / (time_s[k:] - time_s[:-k])[:, None]
    if len(time_s) <= order:
        return np.zeros((len(time_s), len(time_s)))
    width_s = (time_s[order:] - time_s[: len(time_s) - order]) / order
    return rows.T @ (rows * (width_s / scale**2)[:, None])


class DrivenSolve:
    """The joint solve of one track: `slot` (N,) is each observation's frame among `time_s` (S,), with `ego_from_world` (S, 4, 4)."""

    def __init__(
        self,
        observations: Observations,
        slot: np.ndarray,
        time_s: np.ndarray,
        weight: np.ndarray,
        priors: Priors,
        road: Road,
        settings: LiftingSettings,
        ego_from_world: np.ndarray,
    ) -> None:
        self.observations, self.slot, self.time_s, self.weight = observations, slot, time_s, weight
        self.priors, self.road, self.settings = priors, road, settings
        self.unit = bodies_of(observations.class_id)
        self.num = len(time_s)
        motion = settings.motion
        self.plane = smoothness(time_s, 2, motion.acceleration_mps2)
        self.plane += smoothness(time_s, 1, motion.speed_mps * np.sqrt(max(time_s[-1] - time_s[0], 0.5)))
        self.turn = smoothness(time_s, 2, motion.turn_radps2) + smoothness(time_s, 1, 1.0) + 1e-4 * np.eye(self.num)
        step_s = np.diff(time_s)
        self.slip_scale = float(priors.yaw_weight[0]) / (motion.slip_mps * step_s) * np.sqrt(np.minimum(step_s / SLIP_ALIKE_S, 1))
        self.columns = np.concatenate(
            [3 * slot[:, None] + np.arange(3), np.broadcast_to(3 * self.num + np.arange(4), (len(slot), 4))], axis=1
        )

        self.ego_from_world = ego_from_world[:, None]

    def intrusions(self, path: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(S,), (S, 3) normalised, how deep the body reaches into the ego vehicle, see `intrusion_terms`."""
        size = np.broadcast_to(np.exp(rest[1:3]), (self.num, 2))
        return intrusion_terms(path, size, self.ego_from_world, self.settings.judge)

    def bodies(self, state: np.ndarray) -> np.ndarray:
        """(N, 7) the body at each observation's capture time."""
        path, rest = state[: 3 * self.num].reshape(-1, 3), state[3 * self.num :]
        body = np.concatenate([path[self.slot], np.broadcast_to(rest, (len(self.slot), 4))], axis=1)
        body[:, :2] += path_velocity(path[:, :2], self.time_s)[self.slot] * self.observations.offset_s[:, None]
        return body

    def slip(self, path: np.ndarray) -> np.ndarray:
        """(S - 1,) normalised sideways motion of a path (S, 3)."""
        step, yaw = np.diff(path[:, :2], axis=0), path[:-1, 2]
        return self.slip_scale * (np.cos(yaw) * step[:, 1] - np.sin(yaw) * step[:, 0])

    def cost(self, state: np.ndarray, lift_spread: float) -> float:
        """Robust squared errors of observations and priors."""
        path, rest = state[: 3 * self.num].reshape(-1, 3), state[3 * self.num :]
        hidden = self.settings.reprojection.hidden_weight
        seen = edge_costs(self.observations, self.bodies(state), self.unit, self.road, self.weight, hidden).sum()
        smooth = sum(float(path[:, k] @ self.plane @ path[:, k]) for k in (0, 1)) + float(path[:, 2] @ self.turn @ path[:, 2])
        size = ((rest[1:] - self.priors.log_size[0]) / self.priors.log_spread[0]) ** 2
        seen += (self.intrusions(path, rest)[0] ** 2).sum()
        return float(seen + smooth + (self.slip(path) ** 2).sum() + size.sum() + (rest[0] / lift_spread) ** 2)

    def normal(self, state: np.ndarray, lift_spread: float) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (D,) and Gauss-Newton Hessian (D, D) of half the cost; D = 3 S + 4."""
        num, path, rest = self.num, state[: 3 * self.num].reshape(-1, 3), state[3 * self.num :]
        gradient, hessian = np.zeros(len(state)), np.zeros((len(state), len(state)))
        hidden = self.settings.reprojection.hidden_weight
        linear: Linear = linearise(self.observations, self.bodies(state), self.unit, self.road, self.weight, hidden)
        blocks = np.einsum("ne,nei,nej->nij", linear.weight, linear.slope, linear.slope)
        np.add.at(hessian, (self.columns[:, :, None], self.columns[:, None, :]), blocks)
        np.add.at(gradient, self.columns, np.einsum("ne,nei,ne->ni", linear.weight, linear.slope, linear.error))
        for k, matrix in ((0, self.plane), (1, self.plane), (2, self.turn)):
            at = np.arange(num) * 3 + k
            hessian[np.ix_(at, at)] += matrix
            gradient[at] += matrix @ path[:, k]
        self._add_slip(path, gradient, hessian)
        error, slope = self.intrusions(path, rest)
        columns = 3 * np.arange(num)[:, None] + np.arange(3)
        np.add.at(hessian, (columns[:, :, None], columns[:, None, :]), slope[:, :, None] * slope[:, None, :])
        np.add.at(gradient, columns, slope * error[:, None])
        at = 3 * num + np.arange(4)
        information = np.concatenate([[lift_spread**-2.0], self.priors.log_spread[0] ** -2.0])
        hessian[at, at] += information
        gradient[at] += information * (rest - np.concatenate([[0.0], self.priors.log_size[0]]))
        return gradient, hessian

    def _add_slip(self, path: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> None:
        if self.num < 2:
            return
        step, yaw, k = np.diff(path[:, :2], axis=0), path[:-1, 2], np.arange(self.num - 1)
        cos, sin = np.cos(yaw), np.sin(yaw)
        slope = np.stack([sin, -cos, -sin * step[:, 1] - cos * step[:, 0], -sin, cos], axis=1) * self.slip_scale[:, None]
        columns = 3 * k[:, None] + np.array([0, 1, 2, 3, 4])
        np.add.at(hessian, (columns[:, :, None], columns[:, None, :]), slope[:, :, None] * slope[:, None, :])
        np.add.at(gradient, columns, slope * self.slip(path)[:, None])

    def run(self, state: np.ndarray) -> DrivenFit:
        """From a first guess (D,) to the fit."""
        spread = float(np.hypot(self.road.spread(state[: 3 * self.num].reshape(-1, 3)[:, :2].mean(axis=0)[None])[0], 0.08))
        spread = max(spread, self.settings.road.clearance_m)
        damping, cost = 1e-2, self.cost(state, spread)
        limit = np.concatenate([np.tile(LARGEST_STEP[:3], self.num), LARGEST_STEP[3:]])
        gradient, hessian = self.normal(state, spread)
        for _ in range(ROUNDS):
            step = -np.linalg.solve(hessian + damping * np.diag(np.diagonal(hessian) + 1e-3), gradient)
            tried = state + np.clip(step, -limit, limit)
            tried_cost = self.cost(tried, spread)
            gain = cost - tried_cost
            if gain > 0:
                state, cost, damping = tried, tried_cost, max(damping / 5, 1e-5)
                if gain < 1e-3:
                    break
                gradient, hessian = self.normal(state, spread)
            else:
                damping *= 8
                if damping > 1e3:
                    break
        return self._fit(state, hessian, cost)

    def _fit(self, state: np.ndarray, hessian: np.ndarray, cost: float) -> DrivenFit:
        inverse = np.linalg.inv(hessian + 1e-6 * np.eye(len(state)))
        at = 3 * np.arange(self.num)[:, None] + np.arange(3)
        hidden = self.settings.reprojection.hidden_weight
        item = np.zeros(len(self.slot), dtype=np.int64)
        off = misfit(self.observations, item, self.bodies(state), self.unit, self.road, self.weight, hidden, 1)
        path = state[: 3 * self.num].reshape(-1, 3).copy()
        path[:, 2] = np.asarray(wrap_angle(path[:, 2])).reshape(-1)
        return DrivenFit(path, state[3 * self.num :].copy(), inverse[at[:, :, None], at[:, None, :]], cost, float(off[0]))


def first_path(
    place: np.ndarray, information: np.ndarray, slot: np.ndarray, time_s: np.ndarray, yaw: float, acceleration: float
) -> np.ndarray:
    """(S, 3) a first guess of the path from single places (N, 2) with information matrices (N, 2, 2); `yaw` if it hardly moves."""
    roughness = smoothness(time_s, 2, acceleration) + smoothness(time_s, 1, 20.0)
    num, xy, weight = len(time_s), np.zeros((len(time_s), 2)), np.ones(len(slot))
    for turn in range(4):
        if turn:
            off = place - xy[slot]
            weight = 1 / (1 + np.einsum("ni,nij,nj->n", off, information, off) / ROBUST**2)
        matrix, right = np.zeros((2 * num, 2 * num)), np.zeros(2 * num)
        for k in (0, 1):
            at = 2 * np.arange(num) + k
            matrix[np.ix_(at, at)] += roughness
        columns = 2 * slot[:, None] + np.arange(2)
        info = weight[:, None, None] * information
        np.add.at(matrix, (columns[:, :, None], columns[:, None, :]), info)
        np.add.at(right, columns, np.einsum("nij,nj->ni", info, place))
        xy = np.linalg.solve(matrix + 1e-9 * np.eye(2 * num), right).reshape(num, 2)
    velocity = path_velocity(xy, time_s)
    heading = np.full(num, yaw)
    if np.hypot(*(xy[-1] - xy[0])) > TURNS_FROM_M:
        speed = np.hypot(*velocity.T)
        course = np.arctan2(velocity[:, 1], velocity[:, 0])
        fast = speed > 0.3 * speed.max()
        heading = np.interp(time_s, time_s[fast], np.unwrap(course[fast]))
    return np.concatenate([xy, heading[:, None]], axis=1)
