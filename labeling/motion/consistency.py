"""Which crossings show a fixed point, and which a thing that drives? And how late does each camera fire, roughly?

A car on a parallel course looks like a fixed point at another distance to each camera alone; a second camera sees it elsewhere. A wrong
clock also moves what the second camera should see, but all points alike: by the vehicle's way in one and the same time. So each pair of
cameras votes on the time between their clocks, and what does not agree with the vote is dropped, with its track.
"""

from dataclasses import dataclass, replace

import numpy as np

from labeling.motion.sightings import Sightings
from labeling.motion.state import MotionState, refined_cameras_at
from scenes.clips import Clip
from scenes.geometry import invert_rigid, transform_points

STEP_S = 0.01
"""Over which time the way of a point through a picture is measured."""
SURE_S = 0.012
"""Points that tell a clock less exactly than this are not heard."""
WIDEST_S = 0.06
"""Larger clock offsets are not looked for."""
FEWEST_VOTES, LEAST_SHARE = 12, 0.3
"""A pair of cameras is heard if so many of its crossings, and such a share of them, agree."""


@dataclass(frozen=True)
class Crossings:
    """Sightings of points by another camera than the one that followed them, M rows."""

    sightings: Sightings
    source: np.ndarray
    """(M,) the camera that followed the point."""
    offset_px: np.ndarray
    """(M, 2) seen minus expected place."""
    way_px_per_s: np.ndarray
    """(M, 2) how the expected place moves if the camera fires later."""
    sigma_px: np.ndarray
    """(M,) how well the expected place is known, the point's distance being known so well."""


def measure_crossings(
    clip: Clip, state: MotionState, seen: Sightings, points_world: np.ndarray, source: np.ndarray, doubt_world: np.ndarray
) -> Crossings:  # fmt: skip
    """Compares crossings with where a state expects the points.

    Args:
        clip: The stored clip.
        state: Where the cameras are thought to be.
        seen: The crossings.
        points_world: (P, 3).
        source: (P,) the camera that followed each point.
        doubt_world: (P, 3) one standard deviation of each point, along the ray that it was seen on.
    """
    now, later = (_expected(clip, replace(state, clock_s=state.clock_s + shift_s), seen, points_world) for shift_s in (0.0, STEP_S))
    moved = _expected(clip, state, seen, points_world + doubt_world)
    sigma_px = np.sqrt(1 + ((moved - now) ** 2).sum(axis=1))
    return Crossings(seen, source[seen.track], seen.pixel_px - now, (later - now) / STEP_S, sigma_px)


def _expected(clip: Clip, state: MotionState, seen: Sightings, points_world: np.ndarray) -> np.ndarray:
    cameras_at = refined_cameras_at(clip, state)
    points_cam = transform_points(invert_rigid(cameras_at[seen.frame, seen.camera]), points_world[seen.track])
    place = np.zeros((len(seen), 2))
    for index, camera in enumerate(clip.rig.cameras):
        own = seen.camera == index
        place[own] = camera.project(points_cam[own])[0]
    return place


def doubts(sightings: Sightings, points_world: np.ndarray, parallax: np.ndarray, cameras_at: np.ndarray) -> np.ndarray:
    """(P, 3) one standard deviation of triangulated points along their first rays, for corners known to half a pixel."""
    first = np.unique(sightings.track, return_index=True)[1]
    count = np.bincount(sightings.track)
    along = points_world - cameras_at[sightings.frame[first], sightings.camera[first], :3, 3]
    share = 0.5 / sightings.px_per_rad[first] / np.sqrt(np.maximum(parallax * count, 1e-12))
    return along * np.minimum(share, 0.5)[:, None]


def vote_on_clocks(crossings: Crossings, cameras: int) -> np.ndarray:
    """(N,) seconds to add to each camera's clock, most of them zero or nearly so; zeros where nobody votes."""
    speed2 = np.maximum((crossings.way_px_per_s**2).sum(axis=1), 1e-9)
    between_s = (crossings.offset_px * crossings.way_px_per_s).sum(axis=1) / speed2
    sigma_s = np.maximum(0.002, crossings.sigma_px / np.sqrt(speed2))
    heard = sigma_s < SURE_S
    first, second = crossings.source, crossings.sightings.camera
    pairs: list[tuple[int, int, float, float]] = []
    for a in range(cameras):
        for b in range(a + 1, cameras):
            there, back = heard & (first == a) & (second == b), heard & (first == b) & (second == a)
            votes = np.concatenate([between_s[there], -between_s[back]])
            opinion = _mode(votes, np.concatenate([sigma_s[there], sigma_s[back]]))
            if opinion is not None:
                pairs.append((a, b, *opinion))
    return _clocks_of_pairs(pairs, cameras)


def _mode(votes_s: np.ndarray, sigma_s: np.ndarray) -> tuple[float, float] | None:
    """Where most votes lie, and how many; None if they do not agree."""
    if len(votes_s) < FEWEST_VOTES:
        return None
    grid = np.arange(-WIDEST_S, WIDEST_S + 1e-9, 0.001)
    score = np.exp(-0.5 * ((grid[:, None] - votes_s) / sigma_s) ** 2).sum(axis=1)
    best = grid[int(score.argmax())]
    near = np.abs(votes_s - best) < 2 * sigma_s
    if near.sum() < FEWEST_VOTES or near.mean() < LEAST_SHARE:
        return None
    return float(np.average(votes_s[near], weights=1 / sigma_s[near] ** 2)), float(near.sum())


def _clocks_of_pairs(pairs: list[tuple[int, int, float, float]], cameras: int) -> np.ndarray:
    """Clocks whose differences meet the pairs' opinions, as few of them off zero as possible (least absolute deviations)."""
    rows, right, weight = [np.eye(cameras)], [np.zeros(cameras)], [np.full(cameras, 30.0)]
    for a, b, between_s, votes in pairs:
        row = np.zeros((1, cameras))
        row[0, b], row[0, a] = 1.0, -1.0
        rows.append(row)
        right.append(np.array([between_s]))
        weight.append(np.array([min(votes, 60.0)]))
    matrix, target, base = np.concatenate(rows), np.concatenate(right), np.concatenate(weight)
    clocks, share = np.zeros(cameras), np.ones(len(base))
    for _ in range(30):
        scaled = (base * share)[:, None] * matrix
        clocks = np.linalg.solve(matrix.T @ scaled, scaled.T @ target)
        share = 1 / np.maximum(np.abs(matrix @ clocks - target), 3e-4)
        share /= share.max()
    return clocks


def agreeing(crossings: Crossings, clocks_s: np.ndarray, limit_px: float) -> np.ndarray:
    """(M,) whether a crossing lies where the voted clocks expect it."""
    between_s = clocks_s[crossings.sightings.camera] - clocks_s[crossings.source]
    left = crossings.offset_px - crossings.way_px_per_s * between_s[:, None]
    return np.linalg.norm(left, axis=1) < limit_px + 2 * (crossings.sigma_px - 1)
