"""Which rectangles of one camera are the same object, when pictures are so far apart in time that rectangles hardly overlap?

Each rectangle is lifted alone, with its uncertainty along the ray of sight; the tracking's own filters link the lifted ones.
"""

import numpy as np

from labeling.lifting.explaining import Scene, stand_as_any
from labeling.lifting.fitting import P
from labeling.lifting.judging import own_pieces
from labeling.tracks.association import associate_groups
from labeling.tracks.evidence import Evidence
from labeling.tracks.settings import TrackingSettings
from scenes.boxes import CLASS_NAMES

FEWEST = 2
"""Rectangles of a chain."""
LEAST_SPREAD_M = 0.3
"""Places of single rectangles are never known better than this."""


def link_in_space(scene: Scene, timestamps_ns: np.ndarray) -> list[np.ndarray]:
    """Chains of each camera as ascending arrays of observation numbers; single rectangles are left out."""
    seen, settings = scene.observations, scene.settings.linking
    if not len(seen):
        return []
    singles = [np.array([row]) for row in range(len(seen))]
    fit, class_id = stand_as_any(scene, singles)
    usable = ~own_pieces(scene, singles, fit.body)
    size = np.exp(fit.body[:, P.LENGTH :])
    z = scene.road.height(fit.body[:, :2]) + fit.body[:, P.LIFT] + size[:, 2] / 2
    unknown = np.full((len(size), 2), np.nan)
    box = np.concatenate([fit.body[:, :2], z[:, None], size, fit.body[:, P.YAW : P.YAW + 1], unknown], axis=1)
    covariance = fit.covariance[:, :2, :2] + LEAST_SPREAD_M**2 * np.eye(2)
    groups = TrackingSettings().groups
    group_of_class = np.array([next(k for k, group in enumerate(groups) if name in group.classes) for name in CLASS_NAMES])
    chains: list[np.ndarray] = []
    for camera in range(len(seen.cameras)):
        mine = np.flatnonzero((seen.camera == camera) & usable)
        mine = mine[np.argsort(seen.frame[mine], kind="stable")]
        columns = (seen.frame[mine], box[mine], class_id[mine], seen.score[mine], covariance[mine])
        evidence = Evidence(timestamps_ns, scene.world_from_ego, *columns)
        for found in associate_groups(evidence, group_of_class[class_id[mine]], list(groups)):
            linked = (mine[chain] for chain in found if len(chain) >= FEWEST)
            chains += [rows for rows in linked if seen.score[rows].max() >= settings.high_score]
    return chains
