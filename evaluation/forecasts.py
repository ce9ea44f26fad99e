"""How well is the future of other road users foreseen? Displacement errors and miss rate over several modes."""

from dataclasses import dataclass

import numpy as np

MISS_M = 2.0


@dataclass(frozen=True)
class ForecastMetrics:
    """Means over agents; NaN without any."""

    num_agents: int
    min_ade_m: float
    """Mean distance over time of the mode that is best in that."""
    min_fde_m: float
    """Distance at the last known time of the mode that is best in that."""
    miss_rate: float
    """Share of agents for whom every mode is farther than 2 m away at the last known time."""


def forecast_metrics(
    modes: np.ndarray, probability: np.ndarray, truth: np.ndarray, valid: np.ndarray, num_modes: int = 6, miss_m: float = MISS_M
) -> ForecastMetrics:
    """Metrics of the `num_modes` likeliest modes.

    `modes` (A, K, T, 2) metres, `probability` (A, K), `truth` (A, T, 2), `valid` (A, T) bool: where the truth is known.
    Agents of whom nothing is known are left out. Sources: nuScenes prediction and Argoverse forecasting challenges.
    """
    known = valid.any(axis=1)
    modes, probability, truth, valid = modes[known], probability[known], truth[known], valid[known]
    if not len(modes):
        return ForecastMetrics(0, float("nan"), float("nan"), float("nan"))
    likeliest = np.argsort(-probability, axis=1, kind="stable")[:, :num_modes]
    modes = np.take_along_axis(modes, likeliest[:, :, None, None], axis=1)
    gap_m = np.linalg.norm(np.where(valid[:, None, :, None], modes - truth[:, None], 0.0), axis=-1)
    average_m = gap_m.sum(axis=2) / valid.sum(axis=1)[:, None]
    last = valid.shape[1] - 1 - np.argmax(valid[:, ::-1], axis=1)
    final_m = np.take_along_axis(gap_m, last[:, None, None], axis=2)[:, :, 0]
    return ForecastMetrics(
        num_agents=len(modes),
        min_ade_m=float(average_m.min(axis=1).mean()),
        min_fde_m=float(final_m.min(axis=1).mean()),
        miss_rate=float((final_m.min(axis=1) > miss_m).mean()),
    )
