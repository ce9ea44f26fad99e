"""Where must a body stand so that its outline fills the rectangles it was seen in? Batched robust least squares on their edges.

Each body has seven numbers (`P`): place x, y, heading, height of its wheels above the road, logarithms of length, width, height.
Legend: N observations, B bodies.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from labeling.lifting.bodies import bodies_of
from labeling.lifting.clearance import intrusion_terms
from labeling.lifting.observations import EDGE_SIGN, Observations
from labeling.lifting.road import Road
from labeling.lifting.settings import JudgeSettings, LiftingSettings
from scenes.boxes import CLASS_NAMES


class P(IntEnum):
    """Columns of a body's numbers."""

    X = 0
    Y = 1
    YAW = 2
    LIFT = 3
    LENGTH = 4
    WIDTH = 5
    HEIGHT = 6


EDGE_AXIS = np.array([0, 1, 0, 1])
"""Whether an edge is a column (0) or a row (1)."""
POINT_STEP_M = 0.01
"""For the numeric derivative of the projection."""
LARGEST_STEP = np.array([4.0, 4.0, 0.5, 0.5, 0.2, 0.2, 0.2])
ROBUST = 2.5
"""Normalised edge error at which an edge's weight has halved (Cauchy)."""
YAW_PRIOR_RAD = 0.1
"""Standing vehicles lie along or across the road, this well, more often than not (Cauchy: others may lie as they like)."""
ROUNDS = 18
AT_BORDER = 0.5
CUT_WEIGHT = 0.02
"""An edge cut off by the picture's border says next to nothing as long as the body reaches that border within `AT_BORDER` deviations."""


@dataclass(frozen=True)
class Priors:
    """What is expected of B bodies before they are looked at."""

    log_size: np.ndarray
    """(B, 3)."""
    log_spread: np.ndarray
    """(B, 3)."""
    road_yaw: np.ndarray
    """(B,) direction of the road."""
    yaw_weight: np.ndarray
    """(B,) 1 where the heading prior counts, else 0."""
    ego_from_world: np.ndarray
    """(K, 4, 4) where the ego vehicle was."""
    judge: JudgeSettings

    @classmethod
    def of(cls, class_id: np.ndarray, road_yaw: float, ego_from_world: np.ndarray, settings: LiftingSettings) -> "Priors":
        """Of classes (B,)."""
        sizes = [settings.sizes[CLASS_NAMES[k]] for k in class_id.tolist()]
        means = np.array([size.mean_m for size in sizes]).reshape(-1, 3)
        spreads = np.array([size.spread for size in sizes]).reshape(-1, 3)
        drives = np.array([0.0 if CLASS_NAMES[k] in ("pedestrian", "traffic_cone") else 1.0 for k in class_id.tolist()])
        return cls(np.log(means), spreads, np.full(len(class_id), road_yaw), drives, ego_from_world, settings.judge)


@dataclass(frozen=True)
class Fit:
    """B bodies explained."""

    body: np.ndarray
    """(B, 7) columns `P`."""
    cost: np.ndarray
    """(B,) robust squared errors, observations and priors."""
    covariance: np.ndarray
    """(B, 7, 7)."""
    misfit: np.ndarray
    """(B,) root of the weighted mean squared normalised edge error."""

    def take(self, rows: np.ndarray) -> "Fit":
        """Those of an index array."""
        return Fit(self.body[rows], self.cost[rows], self.covariance[rows], self.misfit[rows])


def outline_points(body: np.ndarray, unit: np.ndarray, road: Road) -> np.ndarray:
    """Points (N, P, 3) in the world of bodies (N, 7) with unit shapes (N, P, 3)."""
    size = np.exp(body[:, None, P.LENGTH : P.HEIGHT + 1]) * unit
    cos, sin = np.cos(body[:, P.YAW])[:, None], np.sin(body[:, P.YAW])[:, None]
    z = road.height(body[:, :2]) + body[:, P.LIFT]
    x = body[:, None, P.X] + cos * size[..., 0] - sin * size[..., 1]
    y = body[:, None, P.Y] + sin * size[..., 0] + cos * size[..., 1]
    return np.stack([x, y, z[:, None] + size[..., 2]], axis=-1)


def point_slopes(body: np.ndarray, unit: np.ndarray, road: Road) -> np.ndarray:
    """(N, E, 3, 7) how points (N, E, 3) of unit shapes move in the world with the numbers of their bodies (N, 7)."""
    size = np.exp(body[:, None, P.LENGTH : P.HEIGHT + 1]) * unit
    cos, sin = np.cos(body[:, P.YAW])[:, None], np.sin(body[:, P.YAW])[:, None]
    slope = np.zeros((*unit.shape, 7))
    slope[..., 0, P.X] = slope[..., 1, P.Y] = slope[..., 2, P.LIFT] = 1.0
    slope[..., 2, P.X : P.Y + 1] = road.slope_at(body[:, :2])[:, None]
    slope[..., 0, P.YAW], slope[..., 1, P.YAW] = -sin * size[..., 0] - cos * size[..., 1], cos * size[..., 0] - sin * size[..., 1]
    slope[..., 0, P.LENGTH], slope[..., 1, P.LENGTH] = cos * size[..., 0], sin * size[..., 0]
    slope[..., 0, P.WIDTH], slope[..., 1, P.WIDTH] = -sin * size[..., 1], cos * size[..., 1]
    slope[..., 2, P.HEIGHT] = size[..., 2]
    return slope


def predicted_edges(observations: Observations, points_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rectangles (N, 4) around points (N, P, 3) in each observation, cut at the borders, and which point made each edge (N, 4)."""
    pixels = observations.project(points_world)
    which = np.concatenate([pixels.argmin(axis=1), pixels.argmax(axis=1)], axis=1)
    edges = np.take_along_axis(pixels, which.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    return np.clip(edges, -0.5, np.tile(observations.limits_px(), 2)), which


@dataclass(frozen=True)
class Linear:
    """The edges' errors around the present bodies."""

    error: np.ndarray
    """(N, 4) normalised: predicted minus seen."""
    slope: np.ndarray
    """(N, 4, 7)."""
    weight: np.ndarray
    """(N, 4) of each squared error: hidden edges, robustness and the observation's own weight."""


def linearise(
    observations: Observations, body: np.ndarray, unit: np.ndarray, road: Road, weight: np.ndarray, hidden_weight: float
) -> Linear:
    """Errors, slopes and weights of bodies (N, 7), one an observation, each counted with `weight` (N,).

    An edge moves as the outline's point that makes it; an edge cut off by the picture's border does not move.
    """
    points_world = outline_points(body, unit, road)
    edges, which = predicted_edges(observations, points_world)
    error, count = edge_errors(observations, edges, weight, hidden_weight)
    made_by, made_of = (np.take_along_axis(values, which[:, :, None], axis=1) for values in (points_world, unit))
    moved = np.concatenate([made_by[:, :, None], made_by[:, :, None] + POINT_STEP_M * np.eye(3)], axis=2)  # (N, 4, 4, 3)
    pixels = np.take_along_axis(observations.project(moved), EDGE_AXIS[None, :, None, None], axis=3)[..., 0]  # (N, 4, 4)
    free = (pixels[..., 0] > -0.5) & (pixels[..., 0] < np.tile(observations.limits_px(), 2))
    by_point = (pixels[..., 1:] - pixels[..., :1]) / POINT_STEP_M * free[..., None] / observations.sigma_px[..., None]
    slope = np.einsum("nek,neki->nei", by_point, point_slopes(body, made_of, road))
    return Linear(error, slope, count / (1 + (error / ROBUST) ** 2))


def edge_errors(observations: Observations, edges: np.ndarray, weight: np.ndarray, hidden_weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Normalised errors (N, 4) of predicted rectangles (N, 4), and how much each edge counts (N, 4)."""
    error = (edges - observations.edges_px) / observations.sigma_px
    beyond = observations.is_hidden & (error * EDGE_SIGN > 0)
    at_border = observations.is_cut & (np.abs(error) < AT_BORDER)
    return error, np.where(beyond, hidden_weight, np.where(at_border, CUT_WEIGHT, 1.0)) * weight[:, None]


def edge_costs(observations: Observations, body: np.ndarray, unit: np.ndarray, road: Road, weight: np.ndarray, hidden: float) -> np.ndarray:
    """(N,) robust squared errors of bodies (N, 7)."""
    edges, _ = predicted_edges(observations, outline_points(body, unit, road))
    error, count = edge_errors(observations, edges, weight, hidden)
    return (count * ROBUST**2 * np.log1p((error / ROBUST) ** 2)).sum(axis=1)


def prior_terms(body: np.ndarray, priors: Priors, lift_spread: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cost (B,), gradient (B, 7) and Hessian (B, 7, 7) of the priors of bodies (B, 7)."""
    gradient, hessian, cost = np.zeros((len(body), 7)), np.zeros((len(body), 7, 7)), np.zeros(len(body))
    columns = np.arange(P.LENGTH, P.HEIGHT + 1)
    information = priors.log_spread**-2.0
    off = body[:, columns] - priors.log_size
    gradient[:, columns], hessian[:, columns, columns] = information * off, information
    gradient[:, P.LIFT], hessian[:, P.LIFT, P.LIFT] = body[:, P.LIFT] / lift_spread**2, lift_spread**-2.0
    cost += (information * off**2).sum(axis=1) + (body[:, P.LIFT] / lift_spread) ** 2
    angle = 2 * (body[:, P.YAW] - priors.road_yaw)
    askew = np.sin(angle) / (2 * YAW_PRIOR_RAD)
    slope = np.cos(angle) / YAW_PRIOR_RAD
    strength = priors.yaw_weight / (1 + askew**2)
    gradient[:, P.YAW] = strength * slope * askew
    hessian[:, P.YAW, P.YAW] = strength * slope**2 + 1e-3
    cost += priors.yaw_weight * np.log1p(askew**2)
    error, slope = intrusion_terms(body[:, :3], np.exp(body[:, P.LENGTH : P.HEIGHT]), priors.ego_from_world, priors.judge)
    gradient[:, :3] += slope * error[:, None]
    hessian[:, :3, :3] += slope[:, :, None] * slope[:, None, :]
    return cost + error**2, gradient, hessian


def fit_standing(
    observations: Observations,
    item: np.ndarray,
    start: np.ndarray,
    priors: Priors,
    road: Road,
    weight: np.ndarray,
    settings: LiftingSettings,
    rounds: int = ROUNDS,
) -> Fit:
    """B bodies (B, 7) that stand, each explaining the observations whose `item` (N,) it is; all at once by damped Gauss-Newton."""
    body, hidden = start.copy(), settings.reprojection.hidden_weight
    num, unit = len(body), bodies_of(observations.class_id)

    def lift_spread(at: np.ndarray) -> np.ndarray:
        return np.hypot(road.spread(at[:, :2]), settings.road.clearance_m)

    def total(at: np.ndarray, spread: np.ndarray) -> np.ndarray:
        seen = np.bincount(item, edge_costs(observations, at[item], unit, road, weight, hidden), minlength=num)
        return seen + prior_terms(at, priors, spread)[0]

    damping, hessian = np.full(num, 1e-2), np.zeros((num, 7, 7))
    spread = lift_spread(body)
    cost = total(body, spread)
    for _ in range(rounds):
        linear = linearise(observations, body[item], unit, road, weight, hidden)
        _, gradient, hessian = prior_terms(body, priors, spread)
        np.add.at(hessian, item, np.einsum("ne,nei,nej->nij", linear.weight, linear.slope, linear.slope))
        np.add.at(gradient, item, np.einsum("ne,nei,ne->ni", linear.weight, linear.slope, linear.error))
        diagonal = np.einsum("bii->bi", hessian)
        damped = hessian + (damping[:, None] * (diagonal + 1e-3))[:, :, None] * np.eye(7)
        step = -np.linalg.solve(damped, gradient[:, :, None])[..., 0]
        tried = body + np.clip(step, -LARGEST_STEP, LARGEST_STEP)
        tried_cost = total(tried, spread)
        better = tried_cost < cost
        body = np.where(better[:, None], tried, body)
        gain = np.where(better, cost - tried_cost, 0.0)
        cost = np.where(better, tried_cost, cost)
        damping = np.clip(np.where(better, damping / 5, damping * 6), 1e-4, 1e4)
        spread_now = lift_spread(body)
        if gain.max(initial=0.0) < 3e-4:
            break
        if not np.allclose(spread_now, spread, rtol=0.02):
            spread = spread_now
            cost = total(body, spread)
    return Fit(
        body, cost, np.linalg.inv(hessian + 1e-6 * np.eye(7)), misfit(observations, item, body[item], unit, road, weight, hidden, num)
    )


def misfit(
    observations: Observations,
    item: np.ndarray,
    body: np.ndarray,
    unit: np.ndarray,
    road: Road,
    weight: np.ndarray,
    hidden: float,
    num: int,
) -> np.ndarray:
    """(B,) root of the weighted mean squared normalised error of the edges; observations (N,) with bodies (N, 7)."""
    edges, _ = predicted_edges(observations, outline_points(body, unit, road))
    error, count = edge_errors(observations, edges, weight, hidden)
    squared = np.bincount(item, (count * np.minimum(error**2, 50.0)).sum(axis=1), minlength=num)
    return np.sqrt(squared / np.maximum(np.bincount(item, count.sum(axis=1), minlength=num), 1e-9))


def independent_weights(time_s: np.ndarray, camera: np.ndarray, item: np.ndarray, alike_s: float) -> np.ndarray:
    """(N,) how much each observation counts beside those of its item and camera that are near in time: these err alike."""
    weight = np.ones(len(time_s))
    order = np.lexsort((time_s, camera, item))
    same = np.flatnonzero((np.diff(item[order]) != 0) | (np.diff(camera[order]) != 0)) + 1
    for rows in np.split(order, same):
        apart = (time_s[rows][:, None] - time_s[rows][None]) / alike_s
        weight[rows] = 1 / np.exp(-(apart**2) / 2).sum(axis=1)
    return weight


def start_places(observations: Observations, priors: Priors) -> np.ndarray:
    """(N, 7) a first guess of the body in each observation: as far away as its height or width says, whichever is nearer."""
    edges = observations.edges_px
    middle = (edges[:, :2] + edges[:, 2:]) / 2
    top, bottom = np.stack([middle[:, 0], edges[:, 1]], -1), np.stack([middle[:, 0], edges[:, 3]], -1)
    left, right = np.stack([edges[:, 0], middle[:, 1]], -1), np.stack([edges[:, 2], middle[:, 1]], -1)
    angle = _angle_between(observations, top, bottom)
    across = _angle_between(observations, left, right)
    size = np.exp(priors.log_size)
    by_height = size[:, 2] / np.maximum(2 * np.tan(angle / 2), 1e-3)
    by_width = (size[:, 0] + size[:, 1]) / 2 / np.maximum(2 * np.tan(across / 2), 1e-3)
    upright_cut = observations.is_cut[:, 1] | observations.is_cut[:, 3]
    distance = np.where(upright_cut, np.minimum(by_height, by_width), by_height)
    centre, ray = observations.rays_world(middle)
    place = centre + np.clip(distance, 2.5, 150.0)[:, None] * ray
    body = np.zeros((len(observations), 7))
    body[:, :2], body[:, P.LENGTH :] = place[:, :2], priors.log_size
    body[:, P.YAW] = priors.road_yaw
    return body


def _angle_between(observations: Observations, a_px: np.ndarray, b_px: np.ndarray) -> np.ndarray:
    a, b = observations.rays_world(a_px)[1], observations.rays_world(b_px)[1]
    return np.arccos(np.clip((a * b).sum(axis=1), -1, 1))
