"""How do a clip's detections become tracks with one box a frame? Link, stitch, solve, complete, weigh, drop doubles."""

from dataclasses import dataclass

import numpy as np

from labeling.tracks.association import associate
from labeling.tracks.completion import kept_frames, provenance_of, track_frames
from labeling.tracks.confidence import box_probability
from labeling.tracks.duplicates import single_detections, without_duplicates
from labeling.tracks.evidence import Evidence, InView
from labeling.tracks.settings import GroupSettings, TrackingSettings
from labeling.tracks.stitching import stitch
from labeling.tracks.trajectory import solve_track
from scenes.boxes import Boxes


@dataclass(frozen=True)
class TrackLabels:
    """One object's labels over F frames (some of its life's frames may be missing)."""

    frames: np.ndarray
    """(F,) int64, ascending."""
    box_world: np.ndarray
    """(F, 9)."""
    class_id: int
    probability: float
    """Mean of its boxes' probabilities."""
    box_probability: np.ndarray
    """(F,) that the box is right."""
    provenance: np.ndarray
    """(F,) `measured`, `interpolated` or `extrapolated`."""
    is_static: bool


def group_evidence(evidence: Evidence, settings: GroupSettings) -> Evidence:
    """What a group of classes is tracked from: its detections, without the weakest and without doubles."""
    mine = np.isin(evidence.class_id, settings.class_ids) & (evidence.score >= settings.link.low_score)
    return single_detections(evidence.select(mine), settings.duplicate_iou)


def associate_group(evidence: Evidence, settings: GroupSettings) -> tuple[Evidence, list[np.ndarray]]:
    """A group's evidence and its chains of detection indices, linked and stitched."""
    evidence = group_evidence(evidence, settings)
    return evidence, stitch(associate(evidence, settings), evidence, settings)


def track_group(evidence: Evidence, in_view: InView, settings: GroupSettings) -> list[TrackLabels]:
    """The labels of one group of classes."""
    evidence, chains = associate_group(evidence, settings)
    tracks = [solve_track(evidence, chain, track_frames(evidence, chain, settings), settings) for chain in chains]
    probability = [box_probability(track, evidence, settings.confidence) for track in tracks]
    strength = np.array([p.max() * len(track.chain) for p, track in zip(probability, tracks, strict=True)])
    kept = [kept_frames(track, p, evidence, in_view, settings) for track, p in zip(tracks, probability, strict=True)]
    kept = without_duplicates(tracks, strength, kept, settings.duplicate_iou)
    return [
        TrackLabels(
            track.frames[mask],
            track.box_world[mask],
            track.class_id,
            float(p[mask].mean()),
            p[mask],
            provenance_of(track)[mask],
            track.is_static,
        )
        for track, p, mask in zip(tracks, probability, kept, strict=True)
        if mask.any()
    ]


def track_clip(evidence: Evidence, in_view: InView, settings: TrackingSettings) -> list[TrackLabels]:
    """The labels of all groups, best founded first."""
    tracks = [track for group in settings.groups for track in track_group(evidence, in_view, group)]
    return sorted(tracks, key=lambda track: -track.probability)


def boxes_of_tracks(tracks: list[TrackLabels], num_frames: int, settings: TrackingSettings) -> dict[int, Boxes]:
    """Frame index to boxes in the world frame; track ids count from 0. Unsure boxes are `ignore`, very unsure ones left out."""
    limits = {class_id: group.confidence for group in settings.groups for class_id in group.class_ids}
    parts: dict[int, list[Boxes]] = {index: [] for index in range(num_frames)}
    for track_id, track in enumerate(tracks):
        limit = limits[track.class_id]
        for k in np.flatnonzero(track.box_probability >= limit.ignore_probability):
            p = float(track.box_probability[k])
            box = Boxes.make(
                track.box_world[k],
                [track.class_id],
                [track_id],
                [p],
                ignore=[p < limit.label_probability],
                provenance=[track.provenance[k]],
            )
            parts[int(track.frames[k])].append(box)
    return {index: Boxes.concatenate(found) for index, found in parts.items()}
