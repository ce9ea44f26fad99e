"""Which smooth curves run through noisy, partly wrong values at uneven times? Banded least squares with robust weights, all tracks at once.

The frames of all tracks lie one after another; the matrix couples no row to another track's, so one banded solve serves them all.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded

from labeling.tracks.rows import TrackRows

ROBUST_ROUNDS = 4
ROBUST_SCALE2 = 4.0
"""Squared distance in standard deviations at which an observation's weight has halved (Cauchy)."""
FACTORIAL = (1.0, 1.0, 2.0, 6.0)


@dataclass(frozen=True)
class Slopes:
    """Observed steps of paths between frame rows k and k + 1."""

    at: np.ndarray
    """(P,) int64: k."""
    step: np.ndarray
    """(P, 2): value at k + 1 minus value at k."""
    information: np.ndarray
    """(P,) inverse variance of it."""

    def and_also(self, other: "Slopes") -> "Slopes":
        """These and the others."""
        return Slopes(*(np.concatenate(pair) for pair in zip(vars(self).values(), vars(other).values(), strict=True)))

    @classmethod
    def none(cls) -> "Slopes":
        """No slopes."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros((0, 2)), np.zeros(0))


def difference_rows(span_s: np.ndarray, order: int) -> np.ndarray:
    """(P, order + 1) coefficients of divided differences: they estimate the derivative of that order from values at times `span_s`."""
    coefficients = np.empty(span_s.shape)
    for k in range(order + 1):
        others = [m for m in range(order + 1) if m != k]
        coefficients[:, k] = FACTORIAL[order] / np.prod(span_s[:, [k]] - span_s[:, others], axis=1)
    return coefficients


def roughness_band(time_s: np.ndarray, layout: TrackRows, scales: dict[int, np.ndarray]) -> np.ndarray:
    """(4, F) lower band of the matrix of  sum over orders of the integral of (derivative / scale)^2, for each track.

    `time_s` (F,) are the frame rows' times. `scales` maps the order of a derivative (1, 2 or 3) to what is normal for it (K,), in SI
    units times root seconds; infinite for tracks whose derivative of that order is free.
    """
    band = np.zeros((4, len(time_s)))
    for order, scale in scales.items():
        at = np.flatnonzero((layout.owner[order:] == layout.owner[:-order]) & np.isfinite(scale[layout.owner[order:]]))
        span_s = time_s[at[:, None] + np.arange(order + 1)]
        rows = difference_rows(span_s, order)
        weight = (span_s[:, -1] - span_s[:, 0]) / order / scale[layout.owner[at]] ** 2
        for a in range(order + 1):
            for b in range(a, order + 1):
                band[b - a, at + a] += weight * rows[:, a] * rows[:, b]
    return band


def robust_weight(distance2: np.ndarray) -> np.ndarray:
    """Cauchy weights of squared normalised distances."""
    return 1.0 / (1.0 + distance2 / ROBUST_SCALE2)


def smooth_plane(band: np.ndarray, slot: np.ndarray, observed: np.ndarray, information: np.ndarray, slopes: Slopes) -> np.ndarray:
    """The paths (F, 2) through points `observed` (D, 2) at frame rows `slot` (D,) with information matrices (D, 2, 2).

    `slopes` holds them to steps that were observed as such.
    """
    num = band.shape[1]
    path, weight = np.zeros((num, 2)), np.ones(len(slot))
    for turn in range(ROBUST_ROUNDS):
        if turn:
            weight = robust_weight(squared_distance(observed - path[slot], information))
        matrix, right = np.zeros((7, 2 * num)), np.empty((num, 2))
        matrix[0::2] = np.repeat(band, 2, axis=1)
        info = weight[:, None, None] * information
        pull = (info @ observed[:, :, None])[..., 0]
        for axis in range(2):
            matrix[0, axis::2] += np.bincount(slot, info[:, axis, axis], minlength=num)
            right[:, axis] = np.bincount(slot, pull[:, axis], minlength=num)
        matrix[1, ::2] += np.bincount(slot, info[:, 0, 1], minlength=num)
        _add_slopes(matrix, right, slopes)
        path = solveh_banded(matrix, right.reshape(-1), lower=True, check_finite=False, overwrite_ab=True).reshape(num, 2)
    return path


def squared_distance(offset: np.ndarray, information: np.ndarray) -> np.ndarray:
    """(D,) squared lengths of offsets (D, 2) in standard deviations of information matrices (D, 2, 2)."""
    x, y = offset.T
    return x * x * information[:, 0, 0] + 2 * x * y * information[:, 0, 1] + y * y * information[:, 1, 1]


def _add_slopes(matrix: np.ndarray, right: np.ndarray, slopes: Slopes) -> None:
    if not len(slopes.at):
        return
    for axis in range(2):
        np.add.at(matrix[0], 2 * slopes.at + axis, slopes.information)
        np.add.at(matrix[0], 2 * slopes.at + 2 + axis, slopes.information)
        np.add.at(matrix[2], 2 * slopes.at + axis, -slopes.information)
    np.add.at(right, slopes.at, -slopes.information[:, None] * slopes.step)
    np.add.at(right, slopes.at + 1, slopes.information[:, None] * slopes.step)


def smooth_line(band: np.ndarray, slot: np.ndarray, observed: np.ndarray, information: np.ndarray) -> np.ndarray:
    """The curves (F,) through values `observed` (D,) at frame rows `slot` (D,) with weights `information` (D,)."""
    num = band.shape[1]
    curve, weight = np.zeros(num), np.ones(len(slot))
    for turn in range(ROBUST_ROUNDS):
        if turn:
            weight = robust_weight((observed - curve[slot]) ** 2 * information)
        matrix = band.copy()
        matrix[0] += np.bincount(slot, weight * information, minlength=num)
        right = np.bincount(slot, weight * information * observed, minlength=num)
        curve = solveh_banded(matrix, right, lower=True, check_finite=False, overwrite_ab=True)
    return curve


def robust_places(layout: TrackRows, observed: np.ndarray, information: np.ndarray) -> np.ndarray:
    """(K, 2): for each track the one point that fits its observations (D, 2) with information matrices (D, 2, 2) best."""
    place, weight = np.zeros((len(layout), 2)), np.ones(len(observed))
    for turn in range(ROBUST_ROUNDS):
        if turn:
            weight = robust_weight(squared_distance(observed - place[layout.owner], information))
        info = weight[:, None, None] * information
        total, pull = layout.sums(info), layout.sums((info @ observed[:, :, None])[..., 0])
        det = total[:, 0, 0] * total[:, 1, 1] - total[:, 0, 1] ** 2
        place = np.stack(
            [total[:, 1, 1] * pull[:, 0] - total[:, 0, 1] * pull[:, 1], total[:, 0, 0] * pull[:, 1] - total[:, 0, 1] * pull[:, 0]], axis=1
        )
        place /= det[:, None]
    return place


def robust_values(layout: TrackRows, observed: np.ndarray, information: np.ndarray) -> np.ndarray:
    """(K,): the same for single values (D,) with weights (D,)."""
    value, weight = np.zeros(len(layout)), np.ones(len(observed))
    for turn in range(ROBUST_ROUNDS):
        if turn:
            weight = robust_weight((observed - value[layout.owner]) ** 2 * information)
        value = layout.sums(weight * information * observed) / layout.sums(weight * information)
    return value
