"""How does a job do only what is not done yet? Named stages a clip, each with an artefact, a hash of what made it, and a manifest.

::

    CLIP/labeling/<layer>/
      manifest.json     for each stage: hash, artefact, seconds, counts; and which pictures the clip had
      evidence.npz      detections of all frames
      tracks.npz        solved tracks
      ...               one artefact a stage, file or folder
    CLIP/layers/<layer>/    the labels

**Adding a stage.** Declare a `Stage` in a module of your own and name it in `labeling.clip_labels.STAGES` (the order there is the order of
work)::

    STAGE = Stage("reconstruction", "reconstruction", work=_reconstruct, after=("motion", "tracks"), settings=_settings, wanted=_wanted)

    def _reconstruct(work: ClipWork, path: Path) -> dict[str, float]:      # writes `path` atomically, returns counts for the report
        tracks = tracks_from_arrays(read_arrays(work.artefact("tracks")))
        with atomic_folder(path, replace=True) as folder: ...
        return {"voxels": 7}

- `wanted(settings)` says whether a job has this stage at all (usually: whether its flag was given).
- `settings(work)` returns JSON values: everything that the artefact depends on besides the clip's tables and the stages named in `after`,
  e.g. a settings dataclass's `asdict` and `file_hash` of a file that the user gave. They are part of the stage's hash.
- `after` names stages whose artefacts it reads (absent ones are skipped). When one of them changes, this one runs again.
- `load(work)` is called when the artefact is there, whether it was made now or before: `motion` puts the refined clip into `work.clip`.
- `gives_evidence`: the artefact holds arrays of `labeling.tracks.evidence.Evidence` (`write_evidence`); tracks are made from all such.
- A folder artefact may hold `occupancy/` and `depth/` as `scenes.layers` writes them: the layer stage takes them into the label layer.
- `work.notes.append(sentence)` tells people what was odd but did not stop the labels.
- Bad input is a `DataError` with one sentence: the clip fails alone, the job goes on. Raise `version` when the code makes something else.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from labeling.settings import LabelSettings
from scenes.atomic import atomic_file, read_json, write_json
from scenes.clips import Clip
from scenes.errors import DataError

MANIFEST_SCHEMA_VERSION = 1
CLIP_TABLES = ("clip.json", "frames.parquet", "views.parquet", "ego.parquet")
"""What every stage depends on, besides the pictures: those are not read for a hash, their sizes stand for them."""


def hash_of(*values: object) -> str:
    """A short hash of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """A short hash of a file's bytes; a missing file is refused with `DataError`."""
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()[:16]
    except OSError as error:
        raise DataError(f"{path}: could not be read ({error.strerror or error}); check the path") from error


@dataclass(frozen=True)
class StageResult:
    """What a stage did, as the manifest keeps it."""

    name: str
    hash: str
    artefact: str
    """Path relative to the clip's folder."""
    seconds: float
    counts: dict[str, float]
    reused: bool = False
    notes: tuple[str, ...] = ()
    """Sentences for people: what was odd about the clip but did not stop its labels."""


@dataclass
class ClipWork:
    """What a stage gets: the clip, the job's settings and the artefacts of the stages before it."""

    recorded: Clip
    """The clip as it lies on disk; labels are written in its world frame."""
    clip: Clip
    """The clip as the stages see it: the same until a stage (`motion`) puts a better one here."""
    settings: LabelSettings
    stages: "list[Stage]"
    """The stages of this job, in order."""
    results: list[StageResult]
    """What is done so far."""
    notes: list[str] = field(default_factory=list)
    """Sentences for people; a stage may add some, they reach the job's report."""

    @classmethod
    def of(cls, clip: Clip, settings: LabelSettings, stages: "Sequence[Stage]") -> "ClipWork":
        """Work that has not begun, with the stages that the settings want."""
        return cls(clip, clip, settings, [stage for stage in stages if stage.wanted(settings)], [])

    @property
    def folder(self) -> Path:
        """Where the artefacts lie."""
        return self.recorded.path / "labeling" / self.settings.layer

    def has(self, name: str) -> bool:
        """Whether this job has a stage of that name."""
        return any(stage.name == name for stage in self.stages)

    def artefact(self, name: str) -> Path:
        """The artefact of a stage of this job."""
        relative = next(stage.artefact for stage in self.stages if stage.name == name).format(layer=self.settings.layer)
        return Path(os.path.normpath(self.folder / relative))

    def hashes(self) -> dict[str, str]:
        """The hash of each stage done so far."""
        return {result.name: result.hash for result in self.results}


def _always(settings: LabelSettings) -> bool:
    return True


def _nothing(work: ClipWork) -> object:
    return None


@dataclass(frozen=True)
class Stage:
    """One named step of labeling a clip; the module's docstring is the contract."""

    name: str
    artefact: str
    """Path of the artefact, relative to `ClipWork.folder`; {layer} stands for the layer's name."""
    work: Callable[[ClipWork, Path], dict[str, float]]
    """Writes the artefact and returns counts."""
    after: tuple[str, ...] = ()
    settings: Callable[[ClipWork], object] = _nothing
    wanted: Callable[[LabelSettings], bool] = _always
    load: Callable[[ClipWork], None] | None = None
    gives_evidence: bool = False
    version: int = 1


def run_stages(work: ClipWork) -> list[StageResult]:
    """Runs the stages whose inputs changed or whose artefact is missing, reuses the rest; one job at a time for a clip's layer."""
    with _locked(work.folder):
        _remove_leftovers(work)
        manifest = _read_manifest(work)
        identity = [file_hash(work.recorded.path / name) for name in CLIP_TABLES]
        for stage in work.stages:
            before = [work.hashes()[name] for name in stage.after if work.has(name)]
            work.results.append(
                _run_stage(work, stage, hash_of(identity, before, stage.name, stage.version, stage.settings(work)), manifest)
            )
            if stage.load is not None:
                stage.load(work)
    return work.results


def _run_stage(work: ClipWork, stage: Stage, stage_hash: str, manifest: dict) -> StageResult:
    known = manifest["stages"]
    path, done = work.artefact(stage.name), known.get(stage.name)
    relative = Path(os.path.relpath(path, work.recorded.path)).as_posix()
    if done and done.get("hash") == stage_hash and done.get("artefact") == relative and path.exists():
        notes = tuple(done.get("notes", ()))
        return StageResult(stage.name, stage_hash, relative, float(done["seconds"]), dict(done["counts"]), True, notes)
    begun, told = time.monotonic(), len(work.notes)
    try:
        counts = stage.work(work, path)
    except OSError as error:
        raise DataError(
            f"{work.recorded.path}: stage {stage.name} could not read or write ({error}); free space or check the disk, then label again"
        ) from error
    notes = tuple(work.notes[told:])
    result = StageResult(stage.name, stage_hash, relative, round(time.monotonic() - begun, 3), counts, notes=notes)
    known[stage.name] = {"hash": stage_hash, "artefact": relative, "seconds": result.seconds, "counts": counts, "notes": list(notes)}
    write_json(work.folder / "manifest.json", manifest)
    return result


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock; the system frees it when the process ends, however it ends."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise DataError(f"{folder}: could not be written ({error.strerror or error}); free space or choose another folder") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{folder}: another job is labelling this clip under the same name; wait for it or rename --layer") from error
        yield


def _remove_leftovers(work: ClipWork) -> None:
    """Temporary files and folders of an earlier, killed run."""
    for stage in work.stages:
        path = work.artefact(stage.name)
        for leftover in path.parent.glob(f".{path.name}.*"):
            if leftover.suffixes and {".tmp", ".old"} & set(leftover.suffixes):
                shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _read_manifest(work: ClipWork) -> dict:
    """The manifest as it stands on disk; of other pictures than the clip's present ones nothing is known."""
    path, pictures = work.folder / "manifest.json", _picture_sizes(work.recorded)
    content = read_json(path) if path.is_file() else {}
    if int(content.get("schema_version", 0)) > MANIFEST_SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema version {content['schema_version']} is newer than this program's {MANIFEST_SCHEMA_VERSION}; update surround4d"
        )
    same = content.get("pictures", pictures) == pictures  # manifests of earlier versions do not say
    return {"schema_version": MANIFEST_SCHEMA_VERSION, "pictures": pictures, "stages": dict(content.get("stages", {})) if same else {}}


def _picture_sizes(clip: Clip) -> str:
    """A short hash of the names and sizes of the clip's pictures: one that is restored, or replaced, makes another."""
    sizes = []
    for frame in clip.frames:
        for view in frame.views.values():
            if view.alive:
                path = clip.path / view.image
                sizes.append([view.image, path.stat().st_size if path.is_file() else -1])
    return hash_of(sizes)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Arrays as one compressed npz file, atomically."""
    with atomic_file(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of `write_arrays`; a broken file is refused with the remedy."""
    try:
        with np.load(path, allow_pickle=False) as values:
            return {name: values[name] for name in values.files}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path}: not readable ({error}); remove the folder {path.parent} and label the clip again") from error
