"""How does a job do only what is not done yet? Named stages a clip, each with an artefact, a hash of what made it, and a manifest.

::

    CLIP/labeling/<layer>/
      manifest.json     for each stage: hash, artefact, seconds, counts
      evidence.npz      detections of all frames
      tracks.npz        solved tracks
    CLIP/layers/<layer>/    the labels
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scenes.atomic import atomic_file, read_json, write_json
from scenes.errors import DataError

MANIFEST_SCHEMA_VERSION = 1


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


class ClipStages:
    """The stages of one clip under one layer name: run what changed, reuse the rest."""

    def __init__(self, clip_path: Path, layer: str) -> None:
        self.clip_path = clip_path
        self.folder = clip_path / "labeling" / layer
        self.results: list[StageResult] = []
        self._known = self._read_manifest()
        self._previous = ""

    def run(self, name: str, inputs: object, artefact: Path, work: Callable[[], dict[str, float]]) -> StageResult:
        """Runs `work` (which writes `artefact` and returns counts) unless the manifest knows the same inputs and the artefact is there.

        A stage's hash holds that of the stage before it, so a change runs everything after it again.
        """
        stage_hash = hash_of(self._previous, name, inputs)
        known = self._known.get(name)
        relative = str(artefact.relative_to(self.clip_path))
        if known and known.get("hash") == stage_hash and known.get("artefact") == relative and artefact.exists():
            result = StageResult(name, stage_hash, relative, float(known["seconds"]), dict(known["counts"]), reused=True)
        else:
            begun = time.monotonic()
            counts = work()
            result = StageResult(name, stage_hash, relative, round(time.monotonic() - begun, 3), counts)
            self._known[name] = {"hash": stage_hash, "artefact": relative, "seconds": result.seconds, "counts": counts}
            write_json(self.folder / "manifest.json", {"schema_version": MANIFEST_SCHEMA_VERSION, "stages": self._known})
        self._previous = stage_hash
        self.results.append(result)
        return result

    def _read_manifest(self) -> dict[str, dict]:
        path = self.folder / "manifest.json"
        if not path.is_file():
            return {}
        content = read_json(path)
        if int(content.get("schema_version", 0)) > MANIFEST_SCHEMA_VERSION:
            raise DataError(
                f"{path}: schema version {content['schema_version']} is newer than this program's {MANIFEST_SCHEMA_VERSION}; "
                "update surround4d"
            )
        return dict(content.get("stages", {}))


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
