"""How do a clip's detections become tracks with one box a frame? Link, stitch, solve, complete, weigh, drop doubles."""

from dataclasses import dataclass, field, replace

import numpy as np

from labeling.tracks.association import associate_groups
from labeling.tracks.completion import kept_frames, provenance_of
from labeling.tracks.confidence import box_features, box_probability
from labeling.tracks.duplicates import single_detections, without_duplicates
from labeling.tracks.evidence import Evidence, InView
from labeling.tracks.settings import GroupSettings, TrackingSettings
from labeling.tracks.stitching import stitch
from labeling.tracks.trajectory import SolvedTracks, solve_tracks


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
    sources: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=object))
    """(F,) str: where the frame's detection came from, or all sources of the track's detections, joined by "+", where there is none."""

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.frames):
            object.__setattr__(self, "sources", np.full(len(self.frames), "", dtype=object))


def group_evidence(evidence: Evidence, settings: GroupSettings) -> Evidence:
    """What a group of classes is tracked from: its detections, without the weakest and without doubles."""
    mine = np.isin(evidence.class_id, settings.class_ids) & (evidence.score >= settings.link.low_score)
    return single_detections(evidence.select(mine), settings.duplicate_iou)


@dataclass(frozen=True)
class Linked:
    """One group's detections and its chains of them."""

    settings: GroupSettings
    evidence: Evidence
    chains: list[np.ndarray]
    """Indices into the evidence, ascending: one object each, as far as can be told without closing long gaps."""

    def stitched(self) -> "Linked":
        """The same with gaps closed."""
        return replace(self, chains=stitch(self.chains, self.evidence, self.settings))


def link_clip(evidence: Evidence, settings: TrackingSettings) -> list[Linked]:
    """The detections of each group, linked forwards and backwards."""
    parts = [group_evidence(evidence, group) for group in settings.groups]
    sizes = [len(part) for part in parts]
    order = np.argsort(np.concatenate([part.frame for part in parts]), kind="stable")  # as `Evidence.concatenate` sorts
    group = np.repeat(np.arange(len(parts)), sizes)[order]
    own = np.concatenate([np.arange(size) for size in sizes])[order]
    chains = associate_groups(Evidence.concatenate(parts), group, list(settings.groups))
    return [Linked(one, part, [own[c] for c in mine]) for one, part, mine in zip(settings.groups, parts, chains, strict=True)]


def label_group(linked: Linked, in_view: InView) -> list[TrackLabels]:
    """The labels of one group of classes from its stitched chains."""
    evidence, settings = linked.evidence, linked.settings
    tracks = solve_tracks(evidence, linked.chains, settings)
    probability = box_probability(box_features(tracks, evidence), settings.confidence)
    kept = kept_frames(tracks, probability, evidence, in_view, settings)
    strength = tracks.life.largest(probability) * tracks.seen.count
    kept = without_duplicates(tracks, strength, kept, settings.duplicate_iou)
    return labels_of(tracks, probability, kept, evidence)


def labels_of(tracks: SolvedTracks, probability: np.ndarray, kept: np.ndarray, evidence: Evidence) -> list[TrackLabels]:
    """The kept frame rows, one `TrackLabels` a track that has any."""
    words, sources = provenance_of(tracks), box_sources(tracks, evidence)
    found = []
    for k in np.flatnonzero(tracks.life.any(kept)).tolist():
        rows = tracks.life.first[k] + np.flatnonzero(kept[tracks.life.first[k] : tracks.life.end[k]])
        columns = tracks.frame[rows], tracks.box_world[rows], int(tracks.class_id[k]), float(probability[rows].mean())
        found.append(TrackLabels(*columns, probability[rows], words[rows], bool(tracks.is_static[k]), sources[rows]))
    return found


def box_sources(tracks: SolvedTracks, evidence: Evidence) -> np.ndarray:
    """(F,) `TrackLabels.sources` of solved tracks."""
    if evidence.source is None:
        return np.full(len(tracks.frame), "", dtype=object)
    parts = np.split(evidence.source[tracks.row], tracks.seen.end[:-1]) if len(tracks) else []
    everywhere = np.array(["+".join(sorted(set(part.tolist()))) for part in parts], dtype=object)
    sources = everywhere[tracks.life.owner]
    sources[tracks.is_measured] = evidence.source[tracks.detection[tracks.is_measured]]
    return sources


def track_clip(evidence: Evidence, in_view: InView, settings: TrackingSettings) -> list[TrackLabels]:
    """The labels of all groups, best founded first."""
    tracks = [track for linked in link_clip(evidence, settings) for track in label_group(linked.stitched(), in_view)]
    return sorted(tracks, key=lambda track: -track.probability)
