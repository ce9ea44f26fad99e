"""How do a clip's detections become tracks with one box a frame? Link, stitch, solve, complete, weigh, drop doubles."""

from dataclasses import dataclass, field, replace

import numpy as np

from labeling.tracks.association import associate_groups
from labeling.tracks.completion import kept_frames, nearest_seen, provenance_of
from labeling.tracks.confidence import Surroundings, box_features, box_probability, surroundings
from labeling.tracks.duplicates import single_detections, without_duplicates
from labeling.tracks.evidence import Evidence, InView, Looks
from labeling.tracks.settings import GroupSettings, TrackingSettings
from labeling.tracks.splitting import split_chains
from labeling.tracks.stitching import stitch
from labeling.tracks.trajectory import SolvedTracks, solve_tracks
from labeling.tracks.visibility import hidden_shares
from scenes.boxes import transform_each_box
from scenes.geometry import invert_rigid

HIDING_PROBABILITY = 0.5
"""Boxes at least this probable hide what is behind them."""


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

    visibility: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(F,) share of the box that no nearer label hides from the sensors; NaN where unknown."""
    spread_m: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    """(F, 2) standard deviations of the place of the detection nearest in time, on its worst axis and across; NaN where unknown."""

    def __post_init__(self) -> None:
        if len(self.spread_m) != len(self.frames):
            object.__setattr__(self, "spread_m", np.full((len(self.frames), 2), np.nan))
        if len(self.visibility) != len(self.frames):
            object.__setattr__(self, "visibility", np.full(len(self.frames), np.nan))
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

    def stitched(self, looks: Looks | None = None) -> "Linked":
        """The same with gaps closed, and cut where two objects were taken for one."""
        chains = split_chains(self.chains, self.evidence, self.settings)
        chains = stitch(chains, self.evidence, self.settings, looks)
        return replace(self, chains=split_chains(chains, self.evidence, self.settings))


def link_clip(evidence: Evidence, settings: TrackingSettings) -> list[Linked]:
    """The detections of each group, linked forwards and backwards."""
    parts = [group_evidence(evidence, group) for group in settings.groups]
    sizes = [len(part) for part in parts]
    order = np.argsort(np.concatenate([part.frame for part in parts]), kind="stable")  # as `Evidence.concatenate` sorts
    group = np.repeat(np.arange(len(parts)), sizes)[order]
    own = np.concatenate([np.arange(size) for size in sizes])[order]
    chains = associate_groups(Evidence.concatenate(parts), group, list(settings.groups))
    return [Linked(one, part, [own[c] for c in mine]) for one, part, mine in zip(settings.groups, parts, chains, strict=True)]


@dataclass(frozen=True)
class SolvedGroup:
    """One group's trajectories and what is known of their boxes."""

    linked: Linked
    tracks: SolvedTracks
    around: Surroundings
    features: np.ndarray
    """(F, 9), see `labeling.tracks.confidence`."""
    hidden: np.ndarray
    """(F,) share of each box that nearer ones cover."""

    @classmethod
    def of(cls, linked: Linked) -> "SolvedGroup":
        """Solves the chains; who hides whom is not known yet."""
        tracks = solve_tracks(linked.evidence, linked.chains, linked.settings)
        around = surroundings(tracks, linked.evidence)
        return cls(linked, tracks, around, box_features(tracks, linked.evidence, around), np.zeros(len(tracks.frame)))

    @property
    def probability(self) -> np.ndarray:
        """(F,) that each box is right."""
        return box_probability(self.features, self.linked.settings.confidence)

    def behind(self, hidden: np.ndarray) -> "SolvedGroup":
        """The same, `hidden` (F,) known."""
        features = box_features(self.tracks, self.linked.evidence, self.around, hidden)
        return replace(self, features=features, hidden=hidden)


def solve_groups(linked: list[Linked], eye_height_m: float) -> list[SolvedGroup]:
    """The trajectories of all groups from their stitched chains; the boxes of all groups together hide each other."""
    groups = [SolvedGroup.of(one) for one in linked]
    frame = np.concatenate([group.tracks.frame for group in groups])
    box_world = np.concatenate([group.tracks.box_world for group in groups])
    box_ego = transform_each_box(invert_rigid(linked[0].evidence.world_from_ego)[frame], box_world)
    hides = np.concatenate([group.probability for group in groups]) >= HIDING_PROBABILITY
    ends = np.cumsum([len(group.tracks.frame) for group in groups])[:-1]
    hidden = np.split(hidden_shares(frame, box_ego, hides, eye_height_m), ends)
    return [group.behind(share) for group, share in zip(groups, hidden, strict=True)]


def label_group(group: SolvedGroup, in_view: InView) -> list[TrackLabels]:
    """The labels of one group of classes."""
    evidence, settings, tracks = group.linked.evidence, group.linked.settings, group.tracks
    probability = group.probability
    kept = kept_frames(tracks, probability, group.around.sides, evidence, in_view, settings)
    strength = tracks.life.largest(probability) * tracks.seen.count
    kept = without_duplicates(tracks, strength, kept, settings.duplicate_iou)
    return labels_of(group, probability, kept)


def labels_of(group: SolvedGroup, probability: np.ndarray, kept: np.ndarray) -> list[TrackLabels]:
    """The kept frame rows, one `TrackLabels` a track that has any."""
    tracks = group.tracks
    words, sources = provenance_of(tracks), box_sources(tracks, group.linked.evidence)
    visibility, spread_m = 1 - group.hidden, box_spreads(tracks, group.linked.evidence, group.linked.settings)
    found = []
    for k in np.flatnonzero(tracks.life.any(kept)).tolist():
        rows = tracks.life.first[k] + np.flatnonzero(kept[tracks.life.first[k] : tracks.life.end[k]])
        columns = tracks.frame[rows], tracks.box_world[rows], int(tracks.class_id[k]), float(probability[rows].mean())
        known = probability[rows], words[rows], bool(tracks.is_static[k]), sources[rows], visibility[rows], spread_m[rows]
        found.append(TrackLabels(*columns, *known))
    return found


def box_spreads(tracks: SolvedTracks, evidence: Evidence, settings: GroupSettings) -> np.ndarray:
    """(F, 2) `TrackLabels.spread_m` of solved tracks."""
    detection = tracks.detection[nearest_seen(tracks, evidence.time_s)]
    return np.sqrt(np.linalg.eigvalsh(evidence.position_covariance(settings.noise, detection)).clip(0))[:, ::-1]


def box_sources(tracks: SolvedTracks, evidence: Evidence) -> np.ndarray:
    """(F,) `TrackLabels.sources` of solved tracks."""
    if evidence.source is None:
        return np.full(len(tracks.frame), "", dtype=object)
    parts = np.split(evidence.source[tracks.row], tracks.seen.end[:-1]) if len(tracks) else []
    everywhere = np.array(["+".join(sorted({one for name in part.tolist() for one in name.split("+")})) for part in parts], dtype=object)
    sources = everywhere[tracks.life.owner]
    sources[tracks.is_measured] = evidence.source[tracks.detection[tracks.is_measured]]
    return sources


def track_clip(evidence: Evidence, in_view: InView, settings: TrackingSettings, looks: Looks | None = None) -> list[TrackLabels]:
    """The labels of all groups, best founded first; `looks` are asked about chains that may be one object on both sides of a gap."""
    linked = [group.stitched(looks) for group in link_clip(evidence, settings)]
    tracks = [track for group in solve_groups(linked, settings.eye_height_m) for track in label_group(group, in_view)]
    return sorted(tracks, key=lambda track: -track.probability)
