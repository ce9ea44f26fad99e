"""How is one clip labelled? The list of stages, each done once; `labeling.stages` says how a stage is added."""

from pathlib import Path

from labeling.confidence.stage import CONFIDENCE
from labeling.detections import LAYER_EVIDENCE, TEACHER
from labeling.inputs import INPUTS
from labeling.layer_stage import LAYER, refuse_foreign_layer
from labeling.lifting.stage import BOXES2D, LIFTING
from labeling.motion.stage import MOTION
from labeling.picture_stage import PICTURE
from labeling.reconstruction.stage import RECONSTRUCTION
from labeling.settings import LabelSettings
from labeling.stages import ClipWork, StageResult, run_stages
from labeling.track_stage import TRACKS
from scenes.clips import Clip

STAGES = (
    INPUTS,
    BOXES2D,
    MOTION,
    TEACHER,
    LAYER_EVIDENCE,
    LIFTING,
    TRACKS,
    CONFIDENCE,
    RECONSTRUCTION,
    LAYER,
    PICTURE,
)
"""In the order of work. Names that stages may refer to in `after`: motion, teacher, evidence, boxes2d, lifting, tracks, reconstruction,
confidence, layer; those that a job does not have are skipped."""


def label_clip(clip_path: Path, settings: LabelSettings, done: list[StageResult] | None = None) -> list[StageResult]:
    """Labels one clip; stages whose inputs did not change are reused. Bad input raises `DataError` and leaves no half-written layer.

    `done` receives what each stage did as soon as it is done: that is known of a clip that fails, too.
    """
    clip = Clip.open(clip_path)
    refuse_foreign_layer(clip, settings.layer)
    work = ClipWork.of(clip, settings, STAGES)
    work.results = work.results if done is None else done
    return run_stages(work)
