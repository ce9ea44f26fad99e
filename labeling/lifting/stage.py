"""How do rectangles and the objects lifted from them become artefacts of a labeling job? Two stages: `boxes2d` and `lifting`."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from labeling.detections import write_evidence
from labeling.lifting.detector import detect_clip
from labeling.lifting.image_boxes import ImageBoxes, read_image_boxes, single_boxes, write_image_boxes
from labeling.lifting.judging import lifted_evidence
from labeling.lifting.lift import lift_clip
from labeling.lifting.people_boxes import outranked, people_boxes
from labeling.settings import LabelSettings
from labeling.stages import ClipWork, Stage, file_hash
from scenes.errors import DataError


def _wanted(settings: LabelSettings) -> bool:
    return settings.detector is not None or settings.boxes2d is not None


def _boxes2d(work: ClipWork, path: Path) -> dict[str, float]:
    """Rectangles of the detector and of people; where people looked, theirs count."""
    settings, found, counts = work.settings, ImageBoxes.empty(), {}
    if settings.detector is not None:
        found, counts = detect_clip(work.clip, settings.detector, settings.lifting.detector)
        if counts["unreadable"]:
            work.notes.append(
                f"{work.clip.path}: {counts['unreadable']:g} of {counts['pictures']:g} pictures could not be read, labelled without"
            )
    if settings.boxes2d is not None:
        drawn, looked_at, foreign = people_boxes(work.clip, settings.boxes2d)
        if not len(looked_at):
            sentence = f"{settings.boxes2d}: no picture of it is one of {work.clip.path}; expected names like images/CAMERA/FILE"
            if settings.detector is None:
                raise DataError(f"{sentence}; name the pictures so")
            work.notes.append(f"{sentence}; labelled without it")
        if foreign:
            names = ", ".join(repr(name) for name, _ in foreign.most_common(5))
            work.notes.append(
                f"{settings.boxes2d}: {foreign.total()} of {foreign.total() + len(drawn)} rectangles in {work.clip.path} are of classes "
                f"that are not ours ({names}); labelled without them"
            )
        found = outranked(found, single_boxes(drawn), looked_at)
    write_image_boxes(path, found)
    return {**counts, "rectangles": len(found)}


def _boxes2d_settings(work: ClipWork) -> object:
    settings = work.settings
    files = [file_hash(path) if path is not None else "" for path in (settings.detector, settings.boxes2d)]
    return [files, asdict(settings.lifting.detector)]


def _lifting(work: ClipWork, path: Path) -> dict[str, float]:
    boxes = read_image_boxes(work.artefact("boxes2d"))
    scene, tracks = lift_clip(work.clip, boxes, work.settings.lifting)
    stamps_ns = np.array([frame.timestamp_ns for frame in work.clip.frames], dtype=np.int64)
    return write_evidence(path, lifted_evidence(tracks, scene, stamps_ns, work.settings.tracking, boxes.source))


BOXES2D = Stage("boxes2d", "boxes2d.npz", _boxes2d, settings=_boxes2d_settings, wanted=_wanted)
LIFTING = Stage(
    "lifting",
    "lifting.npz",
    _lifting,
    after=("motion", "boxes2d"),
    settings=lambda work: [work.settings.lifting.to_json(), work.settings.tracking.to_json()],
    wanted=_wanted,
    gives_evidence=True,
)
