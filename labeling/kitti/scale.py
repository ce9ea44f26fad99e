"""Are the ego poses too long or too short? Parked cars tell: at the right scale they stand still in the world."""

from dataclasses import replace

import numpy as np

from labeling.tracks.evidence import Evidence
from labeling.tracks.tracking import Linked

STRONG_SCORE = 0.5
"""Detections from here on are looked at."""
FEWEST_TRACKS = 3
FEWEST_DETECTIONS = 8
MIN_TRAVEL_M = 5.0
"""A track counts if the ego vehicle moved at least this far while it was seen."""
MAX_DISTANCE_M = 35.0
MAX_CHANGE = 0.1
MAX_SPREAD_M = 0.35
"""A standing object's places must agree to this at the best scale (root mean square)."""


def scaled_poses(world_from_ego: np.ndarray, scale: float) -> np.ndarray:
    """Poses (T, 4, 4) with their translations relative to the first one multiplied."""
    scaled = world_from_ego.copy()
    scaled[:, :3, 3] = world_from_ego[:1, :3, 3] + scale * (world_from_ego[:, :3, 3] - world_from_ego[:1, :3, 3])
    return scaled


def with_poses(linked: Linked, world_from_ego: np.ndarray) -> Linked:
    """The same detections around the ego vehicle, in the world of poses (T, 4, 4) that turn like the old ones but stand elsewhere."""
    evidence = linked.evidence
    box_world = evidence.box_world.copy()
    box_world[:, :3] += (world_from_ego - evidence.world_from_ego)[evidence.frame, :3, 3]
    return replace(linked, evidence=replace(evidence, world_from_ego=world_from_ego, box_world=box_world))


def track_scale(evidence: Evidence, chain: np.ndarray) -> tuple[float, float, float] | None:
    """(scale, spread in m, weight) at which one track's object stands stillest; None if the ego moved too little or was too far.

    In the world the object is at  scale * ego + arm : the scale that makes this constant is a least-squares fit; a first one is
    robust against single outliers by dropping those beyond three times the median residual.
    """
    if len(chain) < FEWEST_DETECTIONS:
        return None
    rows = chain[evidence.sight(chain)[0] < MAX_DISTANCE_M]
    ego = evidence.world_from_ego[evidence.frame[rows], :2, 3]
    if len(rows) < FEWEST_DETECTIONS or np.linalg.norm(ego[-1] - ego[0]) < MIN_TRAVEL_M:
        return None
    arm = evidence.box_world[rows, :2] - ego
    for _ in range(2):
        ego_c, arm_c = ego - ego.mean(axis=0), arm - arm.mean(axis=0)
        scale = float(-(arm_c * ego_c).sum() / (ego_c**2).sum())
        residual = np.linalg.norm(arm_c + scale * ego_c, axis=1)
        keep = residual <= 3 * np.median(residual) + 0.05
        ego, arm = ego[keep], arm[keep]
    spread_m = float(np.sqrt((residual**2).mean()))
    return scale, spread_m, float((ego_c**2).sum())


def estimated_pose_scale(linked: list[Linked]) -> float:
    """What the poses' translations must be multiplied with: the weighted median over standing objects; 1 where too few are seen."""
    found = []
    for group in linked:
        strong = (chain[group.evidence.score[chain] >= STRONG_SCORE] for chain in group.chains)
        found += [estimate for chain in strong if (estimate := track_scale(group.evidence, chain)) is not None]
    good = np.array([(s, w) for s, spread, w in found if abs(s - 1) < MAX_CHANGE and spread < MAX_SPREAD_M]).reshape(-1, 2)
    if len(good) < FEWEST_TRACKS:
        return 1.0
    for _ in range(3):  # objects that moved a little lie apart from the crowd
        near = good[np.abs(good[:, 0] - np.median(good[:, 0])) < 0.02]
        good = near if len(near) >= FEWEST_TRACKS else good
    order = np.argsort(good[:, 0])
    share = np.cumsum(np.minimum(good[order, 1], np.median(good[:, 1]) * 2))
    return float(good[order[(share >= share[-1] / 2).argmax()], 0])
