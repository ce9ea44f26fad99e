"""Which tracks are worth a look? All, ranked: least sure x rare class x near the ego path x disagreement with the deployed model."""

from dataclasses import dataclass, replace

import numpy as np

from labeling.confidence.features import GROUP_OF_CLASS
from scenes.boxes import CLASS_NAMES, Boxes
from scenes.clips import Clip
from scenes.layers import LabelLayer

NEAR_M = 10.0
"""At this distance from the ego path a track counts half as much as on it."""
SAME_PLACE_M = 2.0
"""A model that has a box of the same kind within this distance agrees."""
SURE_SCORE = 0.4
"""A model's track with such a box, where the labels have nothing, is suggested to the reviewers."""
RANKED = "ranked"
AUDIT = "audit"
CONTEXT = "context"


@dataclass(frozen=True)
class QueueEntry:
    """One track of one clip, and why it is where it is in the queue."""

    clip: str
    """The clip's folder."""
    track_id: int
    class_name: str
    frames: tuple[int, ...]
    """Frames in which it has a box."""
    unsure: float
    """Mean of 4 p (1 - p) over its boxes: 1 where right and wrong are as likely, 0 where all is clear."""
    rare: float
    """Root of (tracks of the commonest class / tracks of this class) over all clips."""
    near: float
    """1 on the ego path, 1/2 at `NEAR_M` beside it."""
    disagreement: float
    """1 + share of its frames in which the deployed model sees nothing of its kind there; 1 without a model."""
    why: str = ""
    """`ranked`, `audit`, or "" for the tracks that nobody needs to look at."""
    suggested: bool = False
    """A track of the deployed model's layer of which the labels know nothing."""

    @property
    def priority(self) -> float:
        """The product of the four."""
        return self.unsure * self.rare * self.near * self.disagreement


def tracks_of(layer: LabelLayer) -> dict[int, tuple[np.ndarray, Boxes]]:
    """Track id to its frames (F,) and its boxes in the world frame, one a frame."""
    indices = sorted(layer.boxes_world)
    boxes_world = Boxes.concatenate([layer.boxes_world[i] for i in indices])
    frame = np.repeat(np.array(indices, dtype=np.int64), [len(layer.boxes_world[i]) for i in indices])
    order = np.lexsort((frame, boxes_world.track_id))
    ids, first = np.unique(boxes_world.track_id[order], return_index=True)
    rows = np.split(order, first[1:]) if len(ids) else []
    return {int(track): (frame[mine], boxes_world.select(mine)) for track, mine in zip(ids, rows, strict=True) if track >= 0}


def clip_entries(clip: Clip, layer: LabelLayer, model: LabelLayer | None) -> list[QueueEntry]:
    """The clip's tracks; `rare` is still 1."""
    ego_path = np.stack([frame.world_from_ego[:2, 3] for frame in clip.frames])
    entries = []
    for track_id, (frames, boxes_world) in tracks_of(layer).items():
        aside_m = np.linalg.norm(boxes_world.box[:, None, :2] - ego_path[None], axis=-1).min()
        unsure = float((4 * boxes_world.score * (1 - boxes_world.score)).mean())
        disagreement = 1.0 if model is None else 1.0 + share_unseen(frames, boxes_world, model)
        kind = CLASS_NAMES[boxes_world.class_id[0]]
        near = float(1 / (1 + aside_m / NEAR_M))
        entries.append(QueueEntry(str(clip.path), track_id, kind, tuple(frames.tolist()), unsure, 1.0, near, disagreement))
    if model is not None:
        known = replace(layer, boxes_world={frame: layer.boxes_world.get(frame, Boxes.empty()) for frame in model.boxes_world})
        entries += [replace(entry, suggested=True) for entry in clip_entries(clip, missing_from(known, model), None)]
        entries = [replace(entry, disagreement=2.0) if entry.suggested else entry for entry in entries]
    return entries


def missing_from(known: LabelLayer, model: LabelLayer) -> LabelLayer:
    """The model's tracks that it is sure of in some frame and that lie where the labels have nothing of their kind, mostly."""
    missed = {
        track
        for track, (frames, boxes_world) in tracks_of(model).items()
        if boxes_world.score.max() >= SURE_SCORE and share_unseen(frames, boxes_world, known) > 0.5
    }
    kept = {frame: boxes.select(np.isin(boxes.track_id, sorted(missed))) for frame, boxes in model.boxes_world.items()}
    return replace(model, boxes_world=kept)


def share_unseen(frames: np.ndarray, boxes_world: Boxes, model: LabelLayer) -> float:
    """Share of a track's frames in which the model has no box of its kind near; frames that the model did not look at do not count."""
    unseen, looked = 0, 0
    for row, frame in enumerate(frames.tolist()):
        seen = model.boxes_world.get(frame)
        if seen is None:
            continue
        kin = seen.select(GROUP_OF_CLASS[seen.class_id] == GROUP_OF_CLASS[boxes_world.class_id[row]])
        looked += 1
        unseen += not (np.linalg.norm(kin.box[:, :2] - boxes_world.box[row, :2], axis=1) < SAME_PLACE_M).any()
    return unseen / looked if looked else 0.0


def ranked_queue(entries: list[QueueEntry], budget: int, audit: float, seed: int) -> list[QueueEntry]:
    """All entries by falling priority; the first `budget` are to be looked at, and a random share `audit` of the others."""
    counts = {name: sum(entry.class_name == name for entry in entries) for name in {entry.class_name for entry in entries}}
    commonest = max(counts.values(), default=1)
    weighed = [replace(entry, rare=float(np.sqrt(commonest / counts[entry.class_name]))) for entry in entries]
    ranked = sorted(weighed, key=lambda entry: (-entry.priority, entry.clip, entry.track_id))
    others = ranked[budget:]
    count = min(len(others), int(np.ceil(audit * len(others))))
    drawn = set(np.random.default_rng(seed).choice(len(others), count, replace=False).tolist()) if count else set()
    first = [replace(entry, why=RANKED) for entry in ranked[:budget]]
    return first + [replace(entry, why=AUDIT if k in drawn else "") for k, entry in enumerate(others)]
