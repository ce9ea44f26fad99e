"""Which lifted tracks are objects at all, and how sure is each of their boxes?"""

import numpy as np

from labeling.lifting.explaining import Explained, Scene
from scenes.geometry import invert_rigid, transform_points


def believable(tracks: list[Explained], scene: Scene) -> list[Explained]:
    """The tracks that some body explains, within reach, and that are not pieces of the ego vehicle."""
    judge = scene.settings.judge
    kept = []
    for track in tracks:
        offset = track.box_world[:, :2] - scene.world_from_ego[track.frames, :2, 3]
        far = np.hypot(*offset.T).min() > judge.farthest_m
        if not far and track.misfit < judge.misfit and not is_own(track, scene):
            kept.append(track)
    return kept


def is_own(track: Explained, scene: Scene) -> bool:
    """Whether a track's centre lies within the ego vehicle most of the time."""
    judge = scene.settings.judge
    place = transform_points(invert_rigid(scene.world_from_ego[track.frames]), track.box_world[:, :3])
    inside = (place[:, 0] < judge.ego_front_m) & (place[:, 0] > -judge.ego_rear_m) & (np.abs(place[:, 1]) < judge.ego_half_width_m)
    return bool(inside.mean() > 0.5)
