"""Which chains are two objects after all? Wheels roll along the heading and must roll to turn: other moves are other objects."""

import numpy as np

from labeling.tracks.evidence import Evidence, folded_angle
from labeling.tracks.rows import TrackRows
from labeling.tracks.settings import GroupSettings
from scenes.boxes import Box3D

SIDE = 5
"""Detections on either side of a possible cut that are looked at."""
LEAST_SCORE = 1.5
"""Sum of their scores that both sides need."""
SPREAD_RAD = 0.6
"""Turn that needs no way: headings of detections are not better than that."""
SIDEWAYS_M, SIDEWAYS_PER_M = 1.0, 0.4
"""Way across the heading that curves explain, and what each metre along it adds."""
SIDEWAYS_SIGMA = 1.0
"""What noise explains besides, in standard deviations of one detection: neighbours' errors are alike, their means keep them."""


def _side_sums(layout: TrackRows, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, ...) twice: sums over up to `SIDE` rows of the track that end at each row, and over those that begin right after it."""
    total = np.concatenate([np.zeros((1, *value.shape[1:]), dtype=value.dtype), np.cumsum(value, axis=0)])
    row = np.arange(layout.total) + 1
    begin, end = layout.first[layout.owner], layout.end[layout.owner]
    return total[row] - total[np.maximum(row - SIDE, begin)], total[np.minimum(row + SIDE, end)] - total[row]


def _noise_across(layout: TrackRows, covariance: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """(R,) m: how far across the direction `axis` (R,) the detections around each row, with covariances (R, 2, 2), err: one sigma."""
    before, after = _side_sums(layout, covariance)
    num_before, num_after = _side_sums(layout, np.ones(layout.total))
    both = (before + after) / (num_before + num_after)[:, None, None]
    cos, sin = np.cos(axis), np.sin(axis)
    return np.sqrt(both[:, 0, 0] * sin * sin - 2 * both[:, 0, 1] * sin * cos + both[:, 1, 1] * cos * cos)


def split_chains(chains: list[np.ndarray], evidence: Evidence, settings: GroupSettings) -> list[np.ndarray]:
    """The chains, cut where the axis of the detections turns more than the way between them allows, or where they jump sideways."""
    if not chains or not np.isfinite(settings.motion.turn_radius_m) or settings.motion.turn_radius_m <= 0:
        return chains
    layout, rows = TrackRows.of_parts(chains), np.concatenate(chains)
    weight, box = evidence.score[rows], evidence.box_world[rows]
    weights = _side_sums(layout, weight)
    axes = [np.angle(side) / 2 for side in _side_sums(layout, weight * np.exp(2j * box[:, Box3D.YAW]))]
    places = [
        side / np.maximum(total, 1e-9)[:, None]
        for side, total in zip(_side_sums(layout, weight[:, None] * box[:, :2]), weights, strict=True)
    ]
    way, turn = places[1] - places[0], folded_angle(axes[1] - axes[0])
    axis = axes[0] + turn / 2
    along, across = np.cos(axis) * way[:, 0] + np.sin(axis) * way[:, 1], np.cos(axis) * way[:, 1] - np.sin(axis) * way[:, 0]
    turned = np.abs(turn) - SPREAD_RAD - np.hypot(*way.T) / settings.motion.turn_radius_m
    noise_m = _noise_across(layout, evidence.position_covariance(settings.noise, rows), axis)
    jumped = np.abs(across) - SIDEWAYS_M - SIDEWAYS_SIGMA * noise_m - SIDEWAYS_PER_M * np.abs(along)
    wrong = np.where(np.minimum(*weights) >= LEAST_SCORE, np.maximum(turned / SPREAD_RAD, jumped / SIDEWAYS_M), 0.0)
    worst = layout.largest(wrong)
    parts = []
    for k, chain in enumerate(chains):
        if worst[k] <= 0:
            parts.append(chain)
        else:
            cut = int(wrong[layout.first[k] : layout.end[k]].argmax()) + 1
            parts += [chain[:cut], chain[cut:]]
    return parts
