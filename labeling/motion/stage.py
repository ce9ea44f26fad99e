"""How does refined motion become part of a labeling job? The stage `motion`: later stages see the clip that it corrected."""

from dataclasses import replace
from pathlib import Path

from labeling.lifting.image_boxes import read_image_boxes
from labeling.motion.masks import rectangles_of_boxes2d, rectangles_of_layer
from labeling.motion.pictures import GreyPictures, Rectangles, read_pictures
from labeling.motion.refine import can_be_followed, refine
from labeling.motion.settings import MotionSettings, RefineMotion
from labeling.motion.verdict import Verdict, corrected_clip, decide, findings, is_rough, read_verdict, write_verdict
from labeling.settings import LabelSettings
from labeling.stages import ClipWork, Stage, file_hash
from scenes.clips import Clip

QUICK_TRACKS, QUICK_CORNERS = 500, 70
"""With `auto` a look at so many points comes first; the whole work follows where it finds the motion rough."""


def refined_verdict(
    clip: Clip, mode: RefineMotion, settings: MotionSettings, movers_px: Rectangles | None = None, pictures: GreyPictures | None = None
) -> Verdict:  # fmt: skip
    """What is to be made of a clip's motion; raises `DataError` for a clip to be quarantined. `pictures` if they were read already."""
    if not can_be_followed(clip, settings.features):
        return decide(clip, None, mode, settings.decision, settings.features)
    pictures = pictures or read_pictures(clip, settings.features.max_width_px, movers_px)
    if mode is RefineMotion.AUTO:
        features = replace(settings.features, corners_per_camera=min(QUICK_CORNERS, settings.features.corners_per_camera))
        quick = refine(clip, replace(settings, features=features, max_tracks=QUICK_TRACKS, rounds=1), pictures)
        limits = settings.decision
        if quick is None:
            return decide(clip, None, mode, limits, settings.features)
        if quick.before_px < limits.quarantine_px and not is_rough(findings(clip, quick.state), quick.sigmas, limits):
            return decide(clip, quick, mode, limits)
    return decide(clip, refine(clip, settings, pictures), mode, settings.decision, settings.features)


def _motion(work: ClipWork, path: Path) -> dict[str, float]:
    settings = work.settings
    verdict = refined_verdict(work.recorded, settings.refine_motion, settings.motion, _movers(work))
    if verdict.refined or not verdict.num_tracks or settings.refine_motion is RefineMotion.ON:
        work.notes.append(verdict.reason)
    write_verdict(path, work.recorded, verdict)
    return {"refined": int(verdict.refined), "fixed_points": verdict.num_tracks}


def _movers(work: ClipWork) -> Rectangles:
    """Rectangles of what may move, of all evidence that is there before the motion is known."""
    movers: dict = {}
    if work.has("boxes2d"):
        movers = rectangles_of_boxes2d(read_image_boxes(work.artefact("boxes2d")))
    elif work.settings.evidence is not None:
        movers = rectangles_of_layer(work.recorded, work.recorded.layer(work.settings.evidence))
    return movers


def _settings(work: ClipWork) -> object:
    settings = work.settings
    layer = work.recorded.layer(settings.evidence).path if settings.evidence is not None and not work.has("boxes2d") else None
    evidence = file_hash(layer / "boxes.parquet") if layer else ""
    return [settings.refine_motion.value, settings.motion.to_json(), evidence]


def _load(work: ClipWork) -> None:
    work.clip = corrected_clip(work.recorded, read_verdict(work.artefact("motion")))


def _wanted(settings: LabelSettings) -> bool:
    return settings.refine_motion is not RefineMotion.OFF


MOTION = Stage("motion", "motion.npz", _motion, after=("boxes2d",), settings=_settings, wanted=_wanted, load=_load, version=2)
