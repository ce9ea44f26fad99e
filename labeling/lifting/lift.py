"""How does a clip's set of rectangles become objects in space? Link, explain, fit the road, hand over between cameras, judge."""

from dataclasses import replace

import numpy as np

from labeling.lifting.explaining import Explained, Scene, explain, stand_as_any
from labeling.lifting.fitting import Fit, P
from labeling.lifting.image_boxes import KIND_OF_CLASS, ImageBoxes
from labeling.lifting.judging import believable, own_pieces
from labeling.lifting.linking import link_boxes
from labeling.lifting.linking_in_space import link_in_space
from labeling.lifting.merging import merge_tracks, without_overlaps
from labeling.lifting.observations import observe
from labeling.lifting.road import Road, fit_road
from labeling.lifting.settings import LiftingSettings
from scenes.clips import Clip
from scenes.geometry import NS_PER_S

GOOD_MISFIT = 2.0
"""Tracks explained no worse than this say how high the road is."""


def lift_clip(clip: Clip, boxes: ImageBoxes, settings: LiftingSettings) -> tuple[Scene, list[Explained]]:
    """The objects that explain the rectangles of a clip, and the scene they were explained in."""
    stamps_ns = np.array([frame.timestamp_ns for frame in clip.frames], dtype=np.int64)
    world_from_ego = np.stack([frame.world_from_ego for frame in clip.frames])
    nothing = np.zeros((0, 3))
    scene = Scene(
        observe(clip, boxes, settings.reprojection),
        (stamps_ns - stamps_ns[0]) / NS_PER_S,
        world_from_ego,
        fit_road(world_from_ego, nothing, np.zeros(0), settings.road),
        road_direction(world_from_ego),
        settings,
    )
    far_apart = len(clip) > 1 and float(np.median(np.diff(scene.time_s))) > settings.linking.far_apart_s
    chains = link_in_space(scene, stamps_ns) if far_apart else link_boxes(clip, boxes, settings.linking)
    if not chains:
        return scene, []
    fit, class_id = stand_as_any(replace(scene, keeps_clear=False), chains)
    others = np.flatnonzero(~own_pieces(scene, chains, fit.body))
    chains, fit, class_id = [chains[k] for k in others], fit.take(others), class_id[others]
    if not chains:
        return scene, []
    for _ in range(settings.road.rounds):
        scene = replace(scene, road=road_under(scene, fit, class_id))
        fit, class_id = stand_as_any(scene, chains)
    tracks = [explain(scene, chain, int(class_id[k]), fit, k) for k, chain in enumerate(chains)]
    tracks = merge_tracks(believable(tracks, scene), scene)
    return scene, without_overlaps(believable(tracks, scene), scene)


def road_direction(world_from_ego: np.ndarray) -> float:
    """Heading of the ego vehicle on the whole."""
    forward = world_from_ego[:, :2, 0].sum(axis=0)
    return float(np.arctan2(forward[1], forward[0]))


def road_under(scene: Scene, fit: Fit, class_id: np.ndarray) -> Road:
    """The road under the ego path and under all well explained vehicles, each as a measurement of its own (the prior taken out)."""
    place = fit.body[:, :2]
    prior = np.hypot(scene.road.spread(place), scene.settings.road.clearance_m)
    known = fit.covariance[:, P.LIFT, P.LIFT]
    information = 1 / known - 1 / prior**2
    usable = (KIND_OF_CLASS[class_id] == 0) & (fit.misfit < GOOD_MISFIT) & (information > 0.3)
    usable &= np.hypot(*(place - scene.world_from_ego[:, :2, 3].mean(axis=0)).T) < scene.settings.judge.farthest_m
    measured = fit.body[usable, P.LIFT] / known[usable] / information[usable]
    points = np.concatenate([place[usable], (scene.road.height(place[usable]) + measured)[:, None]], axis=1)
    return fit_road(scene.world_from_ego, points, 1 / np.sqrt(information[usable]), scene.settings.road)
