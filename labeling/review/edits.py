"""What did the reviewers change? What came back is compared with what was given out, box by box and track by track."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from labeling.review.cuboids import SUGGESTION, VERDICTS, Cuboid
from labeling.review.rectangles import Rectangle

SAME = 0.006
"""Numbers that differ by less (metres, radians) are the same: CVAT's formats keep two decimals."""
SAME_PX = 1.0
UNSEEN = VERDICTS[0]


@dataclass
class TrackEdits:
    """What is to be done to one track that was given out."""

    moved: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """Frame to the corrected box (7,) in the ego frame (what did not change is exactly as it was given out), and what changed (7,) bool."""
    removed: set[int] = field(default_factory=set)
    """Frames without the object."""
    verdicts: dict[int, str] = field(default_factory=dict)
    """Frame to `right`, `wrong` or `ignore`."""
    track_verdict: str = ""
    """`track_right`, `track_wrong` or ""."""
    class_name: str = ""
    """The new class, "" if it stays."""

    @property
    def count(self) -> int:
        """How many corrections and verdicts these are."""
        return len(self.moved) + len(self.removed) + len(self.verdicts) + bool(self.track_verdict) + bool(self.class_name)


@dataclass
class Edits:
    """Everything that came back for a clip."""

    tracks: dict[int, TrackEdits]
    new: dict[str, list[Cuboid]]
    """Name of a new track to its cuboids."""
    notes: list[str]


@dataclass(frozen=True)
class Seen:
    """One side of a package's round: what was given out, or what came back."""

    cuboids: list[Cuboid]
    frames: set[int]
    """The frames whose cuboids these are; of others it says nothing."""
    rectangles: list[Rectangle]
    pictures: set[tuple[int, str]]
    """The (frame, camera) whose rectangles these are."""


def edits_of(given: Seen, back: Seen) -> Edits:
    """The difference between what was given out and what came back, in clouds and in pictures."""
    before = {(cuboid.track, cuboid.frame): cuboid for cuboid in given.cuboids if not cuboid.track.startswith(SUGGESTION)}
    tracks = {int(track): TrackEdits() for track, _ in before}
    votes: dict[int, Counter] = {track: Counter() for track in tracks}
    notes: list[str] = []
    after, new = _sorted_back(set(before), given.frames, back.cuboids, notes)
    for (track, frame), cuboid in before.items():
        if frame in back.frames:
            _take_cuboid(tracks[int(track)], votes[int(track)], cuboid, after.get((track, frame)))
    _take_pictures(tracks, votes, given, back, notes)
    for track, counter in votes.items():
        if counter:
            tracks[track].class_name = counter.most_common(1)[0][0]
        if len(counter) > 1:
            notes.append(f"track {track} was given several classes ({', '.join(sorted(counter))}); it got {tracks[track].class_name}")
    return Edits({track: edits for track, edits in tracks.items() if edits.count}, new, notes)


def _sorted_back(
    given: set[tuple[str, int]], frames: set[int], back: list[Cuboid], notes: list[str]
) -> tuple[dict[tuple[str, int], Cuboid], dict[str, list[Cuboid]]]:
    """What came back by (track, frame), and what is new by the track's number or name."""
    after: dict[tuple[str, int], Cuboid] = {}
    new: dict[str, list[Cuboid]] = {}
    for cuboid in back:
        key = cuboid.track, cuboid.frame
        if cuboid.frame not in frames:
            notes.append(f"a cuboid in frame {cuboid.frame}, which the package does not hold, is left out")
        elif key in after:
            notes.append(f"track {cuboid.track} has two cuboids in frame {cuboid.frame}; the first one counts")
        elif key in given:
            after[key] = cuboid
        elif cuboid.track.startswith(SUGGESTION) and cuboid.verdict not in ("right", "track_right"):
            continue
        else:
            new.setdefault(cuboid.track or f"unnamed {len(new)}", []).append(cuboid)
    return after, new


def _take_cuboid(edits: TrackEdits, votes: Counter, given: Cuboid, answer: Cuboid | None) -> None:
    if answer is None:
        edits.removed.add(given.frame)
        return
    old, found = np.array(given.box_ego), np.array(answer.box_ego)
    differs = np.abs(found - old) > SAME
    differs[6] = abs(np.angle(np.exp(1j * (found[6] - old[6])))) > SAME
    if differs.any():
        edits.moved[given.frame] = np.where(differs, found, old), differs
    _take_verdict(edits, given.frame, answer.verdict)
    if answer.class_name != given.class_name:
        votes[answer.class_name] += 1


def _take_verdict(edits: TrackEdits, frame: int, verdict: str) -> None:
    if verdict.startswith("track_"):
        edits.track_verdict = verdict
    elif verdict != UNSEEN:
        edits.verdicts[frame] = verdict


def _take_pictures(tracks: dict[int, TrackEdits], votes: dict[int, Counter], given: Seen, back: Seen, notes: list[str]) -> None:
    before = {(r.track, r.frame, r.camera): r for r in given.rectangles if (r.frame, r.camera) in back.pictures}
    after = {(r.track, r.frame, r.camera): r for r in back.rectangles if (r.track, r.frame, r.camera) in before}
    moved, drawn = 0, len(back.rectangles) - len(after)
    for key, rectangle in after.items():
        track, old = int(rectangle.track), before[key]
        _take_verdict(tracks[track], rectangle.frame, rectangle.verdict)
        moved += bool(np.abs(np.subtract(rectangle.box_xyxy_px, old.box_xyxy_px)).max() > SAME_PX)
        if rectangle.class_name != old.class_name:
            votes[track][rectangle.class_name] += 1
    kept = {(track, frame) for track, frame, _ in after}
    for track, frame in {(track, frame) for track, frame, _ in before} - kept:
        tracks[int(track)].removed.add(frame)
    where = "a rectangle does not say where in space"
    if moved:
        notes.append(f"{moved} rectangle(s) were moved or resized; {where}: correct the cuboid in the 3D task")
    if drawn:
        notes.append(f"{drawn} rectangle(s) were drawn anew; {where}: draw a cuboid in the 3D task")
