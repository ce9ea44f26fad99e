"""How does each box of a clip get its probabilities? The stage between the tracks and the layer."""

from pathlib import Path

from labeling.confidence.features import box_rows
from labeling.confidence.model import CentreModel, shipped_path
from labeling.settings import LabelSettings
from labeling.stages import ClipWork, Stage, file_hash, read_arrays, write_arrays


def confidence_path(settings: LabelSettings) -> Path:
    """The weights' file: the one given, or the shipped one for the job's kind of evidence."""
    if settings.confidence is not None:
        return settings.confidence if settings.confidence.suffix == ".json" else shipped_path(str(settings.confidence))
    sources = set(settings.sources)
    if sources == {"boxes2d"}:
        return shipped_path("cold_people")
    return shipped_path("cold_start" if sources <= {"detector", "boxes2d"} else "teacher")


def _confidence(work: ClipWork, path: Path) -> dict[str, float]:
    model = CentreModel.load(confidence_path(work.settings))
    within = model.within(box_rows(work.clip, read_arrays(work.artefact("tracks"))))
    write_arrays(path, {"within": within})
    return {"expected_within_1_m": round(float(within[:, 1].sum()), 1)}


CONFIDENCE = Stage(
    "confidence",
    "confidence.npz",
    _confidence,
    after=("motion", "tracks"),
    settings=lambda work: file_hash(confidence_path(work.settings)),
)
