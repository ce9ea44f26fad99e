"""Do two chains of detections look like one object? The log likelihood ratio of their colours, for the stitching."""

import numpy as np

from labeling.tracks.evidence import Evidence, Looks
from labeling.tracks.rows import TrackRows

GLIMPSES, REACH = 8, 30
"""So many detections, spread over the last or first so many, are looked at: right beside a gap something stands before the object."""
FEW = 2.0
"""With so many glimpses of the chain that was seen less, the ratio counts half."""
LIGHT, CHROMA = slice(0, 2), slice(2, 6)
"""Histograms of a look that tell lightness and colour."""
BIAS, LIGHT_WEIGHT, CHROMA_WEIGHT = 2.7, 3.7, 6.5
"""Log likelihood ratio of "one object" = BIAS - LIGHT_WEIGHT * distance in lightness - CHROMA_WEIGHT * distance in colour, fitted on
glimpses of simulated objects 0.5 to 2 s apart by `python -m benchmarks.appearance`."""
LIMITS = (-3.0, 2.0)
"""However alike, colours prove little (there are many white cars); however different, a shadow may have fallen."""


def likeness(chains: list[np.ndarray], i: np.ndarray, j: np.ndarray, evidence: Evidence, looks: Looks) -> np.ndarray:
    """(P,) log likelihood ratio that chain `i` (P,) goes on as chain `j` (P,), within `LIMITS`; 0 where a picture is missing."""
    ends, before = np.unique(i, return_inverse=True)
    starts, after = np.unique(j, return_inverse=True)
    parts = [spread(chains[k][-REACH:]) for k in ends.tolist()] + [spread(chains[k][:REACH]) for k in starts.tolist()]
    rows = np.concatenate(parts)
    mean, seen = mean_looks(looks(evidence.frame[rows], evidence.box_world[rows]), TrackRows.of_parts(parts))
    fewest = np.minimum(seen[: len(ends)][before], seen[len(ends) :][after])
    return log_ratio(mean[: len(ends)][before], mean[len(ends) :][after]) * fewest / (fewest + FEW)


def spread(rows: np.ndarray) -> np.ndarray:
    """At most `GLIMPSES` of the rows (N,), evenly spread from the first to the last."""
    if len(rows) <= GLIMPSES:
        return rows
    return rows[np.unique(np.linspace(0, len(rows) - 1, GLIMPSES).round().astype(int))]


def mean_looks(look: np.ndarray, layout: TrackRows) -> tuple[np.ndarray, np.ndarray]:
    """(C, 48) the looks (N, 48) of each chain's rows averaged as histograms, NaN for chains without any; and (C,) how many are known."""
    known = np.asarray(np.isfinite(look).all(axis=1))
    count = layout.sums(known.astype(float))
    share = np.where(known[:, None], look**2, 0.0)
    return np.sqrt(layout.sums(share) / np.maximum(count, 1)[:, None]) + np.where(count > 0, 0.0, np.nan)[:, None], count


def distances(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) distances in lightness and in colour of looks (P, 48): roots of one minus the Bhattacharyya coefficient, 0 to 1."""
    alike = (a * b).reshape(len(a), 6, -1).sum(axis=2)
    light, chroma = (np.sqrt(np.maximum(1 - alike[:, part].mean(axis=1), 0.0)) for part in (LIGHT, CHROMA))
    return light, chroma


def log_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P,) log likelihood ratio that looks (P, 48) are one object's; 0 where one of them is not known."""
    light, chroma = distances(a, b)
    ratio = BIAS - LIGHT_WEIGHT * light - CHROMA_WEIGHT * chroma
    return np.where(np.isfinite(ratio), np.clip(ratio, *LIMITS), 0.0)
