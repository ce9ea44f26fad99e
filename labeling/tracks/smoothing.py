"""Which smooth curve runs through noisy, partly wrong values at uneven times? Banded least squares with robust weights."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded

ROBUST_ROUNDS = 4
ROBUST_SCALE2 = 4.0
"""Squared distance in standard deviations at which an observation's weight has halved (Cauchy)."""
FACTORIAL = (1.0, 1.0, 2.0, 6.0)


@dataclass(frozen=True)
class Slopes:
    """Observed steps of a path between frames k and k + 1."""

    at: np.ndarray
    """(P,) int64: k."""
    step: np.ndarray
    """(P, 2): value at k + 1 minus value at k."""
    information: np.ndarray
    """(P,) inverse variance of it."""

    def and_also(self, other: "Slopes") -> "Slopes":
        """These and the others."""
        return Slopes(*(np.concatenate(pair) for pair in zip(vars(self).values(), vars(other).values(), strict=True)))


def difference_rows(time_s: np.ndarray, order: int) -> np.ndarray:
    """(T - order, order + 1) coefficients of the divided differences that estimate the derivative of that order."""
    num = max(len(time_s) - order, 0)
    span = np.stack([time_s[k : k + num] for k in range(order + 1)], axis=1)
    coefficients = np.empty((num, order + 1))
    for k in range(order + 1):
        others = [m for m in range(order + 1) if m != k]
        coefficients[:, k] = FACTORIAL[order] / np.prod(span[:, [k]] - span[:, others], axis=1)
    return coefficients


def roughness_band(time_s: np.ndarray, scales: dict[int, float]) -> np.ndarray:
    """(4, T) lower band of the matrix of  sum over orders of the integral of (derivative / scale)^2.

    `scales` maps the order of a derivative (1, 2 or 3) to what is normal for it, in SI units times root seconds.
    """
    band = np.zeros((4, len(time_s)))
    for order, scale in scales.items():
        rows = difference_rows(time_s, order)
        if not len(rows):
            continue
        width_s = (time_s[order:] - time_s[: len(time_s) - order]) / order
        weight = width_s / scale**2
        for a in range(order + 1):
            for b in range(a, order + 1):
                band[b - a, a : a + len(rows)] += weight * rows[:, a] * rows[:, b]
    return band


def robust_weight(distance2: np.ndarray) -> np.ndarray:
    """Cauchy weights of squared normalised distances."""
    return 1.0 / (1.0 + distance2 / ROBUST_SCALE2)


def smooth_plane(
    band: np.ndarray,
    slot: np.ndarray,
    observed: np.ndarray,
    information: np.ndarray,
    slopes: Slopes | None = None,
) -> np.ndarray:
    """The path (T, 2) through points `observed` (D, 2) at frames `slot` (D,) with information matrices (D, 2, 2).

    `slopes` holds it to steps that were observed as such.
    """
    num = band.shape[1]
    path, weight = np.zeros((num, 2)), np.ones(len(slot))
    for turn in range(ROBUST_ROUNDS):
        if turn:
            offset = observed - path[slot]
            weight = robust_weight(np.einsum("di,dij,dj->d", offset, information, offset))
        matrix = np.zeros((7, 2 * num))
        matrix[0::2] = np.repeat(band, 2, axis=1)
        right = np.zeros((num, 2))
        info = weight[:, None, None] * information
        for axis in range(2):
            np.add.at(matrix[0], 2 * slot + axis, info[:, axis, axis])
        np.add.at(matrix[1], 2 * slot, info[:, 0, 1])
        np.add.at(right, slot, np.einsum("dij,dj->di", info, observed))
        if slopes is not None:
            _add_slopes(matrix, right, slopes)
        path = solveh_banded(matrix, right.reshape(-1), lower=True, check_finite=False).reshape(num, 2)
    return path


def _add_slopes(matrix: np.ndarray, right: np.ndarray, slopes: Slopes) -> None:
    for axis in range(2):
        np.add.at(matrix[0], 2 * slopes.at + axis, slopes.information)
        np.add.at(matrix[0], 2 * slopes.at + 2 + axis, slopes.information)
        np.add.at(matrix[2], 2 * slopes.at + axis, -slopes.information)
    np.add.at(right, slopes.at, -slopes.information[:, None] * slopes.step)
    np.add.at(right, slopes.at + 1, slopes.information[:, None] * slopes.step)


def smooth_line(band: np.ndarray, slot: np.ndarray, observed: np.ndarray, information: np.ndarray) -> np.ndarray:
    """The curve (T,) through values `observed` (D,) at frames `slot` (D,) with weights `information` (D,)."""
    num = band.shape[1]
    curve, weight = np.zeros(num), np.ones(len(slot))
    for turn in range(ROBUST_ROUNDS):
        if turn:
            weight = robust_weight((observed - curve[slot]) ** 2 * information)
        matrix = band.copy()
        matrix[0] += np.bincount(slot, weight * information, minlength=num)
        right = np.bincount(slot, weight * information * observed, minlength=num)
        curve = solveh_banded(matrix, right, lower=True, check_finite=False)
    return curve
