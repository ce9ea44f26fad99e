"""Which detections of several sources are one look at one object? Near within their uncertainties; they become one, better known."""

import numpy as np

from labeling.tracks.association import REFUSED, assign
from labeling.tracks.evidence import SIZE_COLUMNS, Evidence, folded_angle
from labeling.tracks.settings import GroupSettings, TrackingSettings
from scenes.boxes import Box3D

SAME_SIGMA = 3.0
SAME_M = 5.0


def joined_sources(evidence: Evidence, tracking: TrackingSettings) -> Evidence:
    """The evidence with detections of different sources paired frame by frame within each group of classes, one to one.

    A pair becomes one detection: place by covariance, size and heading by score, the stronger one's class and velocity, and the
    probability that not both are wrong. Detections of one source are never paired with each other.
    """
    sources = np.unique(evidence.source.astype(str)) if evidence.source is not None else np.zeros(0, dtype=str)
    for other in sources[1:]:
        for group in tracking.groups:
            evidence = _join(evidence, str(other), group)
    return evidence


def _join(evidence: Evidence, other: str, group: GroupSettings) -> Evidence:
    """Pairs the detections of one source with those of the sources that come before it by name."""
    assert evidence.source is not None
    mine = np.isin(evidence.class_id, group.class_ids)
    second = mine & (evidence.source == other)
    first = mine & (evidence.source < other)
    covariance = evidence.position_covariance(group.noise)
    pairs: list[tuple[int, int]] = []
    for frame in np.unique(evidence.frame[second]).tolist():
        a, b = np.flatnonzero(first & (evidence.frame == frame)), np.flatnonzero(second & (evidence.frame == frame))
        if len(a) and len(b):
            i, j = assign(_distances(evidence, covariance, a, b))
            pairs += list(zip(a[i].tolist(), b[j].tolist(), strict=True))
    if not pairs:
        return evidence
    a, b = np.array(pairs).T
    return _fused(evidence, covariance, a, b)


def _distances(evidence: Evidence, covariance: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) distances in standard deviations, `REFUSED` beyond `SAME_SIGMA` or `SAME_M`."""
    off = evidence.box_world[a][:, None, :2] - evidence.box_world[b][None, :, :2]
    joint = covariance[a][:, None] + covariance[b][None]
    sigma = np.sqrt(np.einsum("abi,abij,abj->ab", off, np.linalg.inv(joint), off))
    return np.where((sigma < SAME_SIGMA) & (np.hypot(off[..., 0], off[..., 1]) < SAME_M), sigma, REFUSED)


def _fused(evidence: Evidence, covariance: np.ndarray, a: np.ndarray, b: np.ndarray) -> Evidence:
    columns = {name: column.copy() for name, column in evidence.columns().items()}
    box, score, source = columns["box_world"], columns["score"], columns["source"]
    information = [np.linalg.inv(covariance[rows]) for rows in (a, b)]
    together = np.linalg.inv(information[0] + information[1])
    place = sum(np.einsum("nij,nj->ni", info, box[rows, :2]) for info, rows in zip(information, (a, b), strict=True))
    share = (score[b] / np.maximum(score[a] + score[b], 1e-9))[:, None]
    stronger = np.where(score[b] > score[a], b, a)
    turn = folded_angle(box[b, Box3D.YAW] - box[a, Box3D.YAW])
    yaw = np.where(stronger == a, box[a, Box3D.YAW] + share[:, 0] * turn, box[b, Box3D.YAW] - (1 - share[:, 0]) * turn)
    both = ["+".join(sorted({*one.split("+"), *other.split("+")})) for one, other in zip(source[a], source[b], strict=True)]
    fused = box[stronger].copy()
    fused[:, :2] = np.einsum("nij,nj->ni", together, np.asarray(place))
    fused[:, Box3D.Z] = (1 - share[:, 0]) * box[a, Box3D.Z] + share[:, 0] * box[b, Box3D.Z]
    fused[:, SIZE_COLUMNS] = (1 - share) * box[a, SIZE_COLUMNS] + share * box[b, SIZE_COLUMNS]
    fused[:, Box3D.YAW] = yaw
    for name in ("class_id", "velocity_std_mps"):
        if name in columns:
            columns[name][a] = columns[name][stronger]
    box[a], score[a], source[a] = fused, 1 - (1 - score[a]) * (1 - score[b]), both
    whole = np.full((len(evidence), 2, 2), np.nan) if evidence.covariance is None else evidence.covariance.copy()
    whole[a] = together
    columns["covariance"] = whole
    kept = np.ones(len(evidence), dtype=bool)
    kept[b] = False
    return Evidence(evidence.timestamps_ns, evidence.world_from_ego, **columns).select(kept)
