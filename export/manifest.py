"""What does an exported graph say about itself? Names, shapes, units, frames, preprocessing, classes, state, verification.

The manifest travels inside the ONNX file (`metadata_props`, key `MANIFEST_KEY`, as JSON) and beside it (`FILE.onnx.json`, which
adds the file's own hash). Standard library only: the runner reads it on machines that have neither torch nor onnx.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scenes.errors import DataError

MANIFEST_KEY = "surround4d_manifest"
MANIFEST_VERSION = 1
MIN_DYNAMIC_CAMERAS = 2
"""A graph with a dynamic number of cameras is traced for two or more; with one it would compute something else without a word."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the graph."""

    name: str
    dtype: str
    """numpy's name of the element type."""
    shape: tuple[int | str, ...]
    """A string is a dynamic axis ("cameras")."""
    units: str = ""
    frame: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class StateSpec:
    """One tensor of the memory: the output that is fed back into the input at the next step."""

    input: str
    output: str
    initial: float
    """The value that fills it when a clip starts."""


@dataclass
class Manifest:
    """Everything that a program must know to run the file; see docs/EDGE.md."""

    variant: str
    code_version: str
    opset: int
    precision: str
    sampler: str
    num_layers: int
    num_cameras: int | None
    """None: any number."""
    input_hw: tuple[int, int]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    state: list[StateSpec]
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    """How a camera's picture becomes the network's, and the camera's intrinsics with it."""
    occupancy: dict[str, Any] | None
    """States, grid origin, voxel size and shape; None for a graph without voxels."""
    thresholds: dict[str, float]
    """`score`: below it a box is not an object; `max_gap_s`: after a longer pause the state is reset."""
    hashes: dict[str, str] = field(default_factory=dict)
    """sha256 of the weights and of the checkpoint file they came from."""
    verification: dict[str, Any] = field(default_factory=dict)
    """What was compared with torch, and the largest relative error found."""
    accuracy: dict[str, Any] = field(default_factory=dict)
    """Metrics of this very file, where measured: name to value, with the data they were measured on."""
    part: str = "whole"
    """`whole`, or `encoder` / `fusion` of a graph that was split in two."""
    conventions: dict[str, str] = field(default_factory=dict)
    """Frames, lenses, camera motion and the rules of the state in words, for a reader who has nothing but the file."""
    boundary: list[str] = field(default_factory=list)
    """Of a split graph: the tensors that the encoder hands to the fusion part."""

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` reads them back."""
        return {"manifest": MANIFEST_KEY, "version": MANIFEST_VERSION, **asdict(self)}

    def dumps(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_json(), allow_nan=False)

    @classmethod
    def loads(cls, text: str, where: str) -> "Manifest":
        """The manifest written by `dumps`; refused with `DataError` naming `where` when it is foreign or of another version."""
        try:
            values = json.loads(text)
            if values.pop("manifest") != MANIFEST_KEY:
                raise KeyError("manifest")
            version = int(values.pop("version"))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{where}: the manifest is not one of surround4d's ({error!r}); export the checkpoint again") from error
        if version != MANIFEST_VERSION:
            raise DataError(
                f"{where}: manifest version {version}, this program reads version {MANIFEST_VERSION}; "
                "export the checkpoint again or use the runner of that version"
            )
        try:
            values["inputs"] = [TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in values["inputs"]]
            values["outputs"] = [TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in values["outputs"]]
            values["state"] = [StateSpec(**spec) for spec in values["state"]]
            values["input_hw"] = tuple(values["input_hw"])
            values["class_names"] = tuple(values["class_names"])
            manifest = cls(**values)
            wrong = [name for name, good in manifest._promises().items() if not good]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: the manifest lacks or misnames a field ({error}); export the checkpoint again") from error
        if wrong:
            raise DataError(
                f"{where}: the manifest's {', '.join(wrong)} cannot be what an export wrote, or contradict its tensors; "
                "export the checkpoint again"
            )
        return manifest

    def _promises(self) -> dict[str, bool]:
        """What a program relies on, and whether it holds; `TypeError` or `ValueError` where a field is of another kind."""
        pictures = next((spec.shape for spec in self.inputs if spec.name == "images"), None)
        named = [{spec.name for spec in specs} for specs in (self.inputs, self.outputs)]
        axis = None if pictures is None or len(pictures) != 5 else pictures[1]
        size = None if pictures is None or len(pictures) != 5 else pictures[2:4]
        numbers = [self.thresholds.get(name) for name in ("score", "max_gap_s")] if isinstance(self.thresholds, dict) else [None]
        return {
            "input_hw": len(self.input_hw) == 2 and all(type(n) is int and n > 0 for n in self.input_hw) and size in (None, self.input_hw),
            "num_cameras": self.num_cameras is None or (type(self.num_cameras) is int and axis in (None, self.num_cameras)),
            "state": {state.input for state in self.state} == {name for name in named[0] if name.startswith("state_")}
            and all(state.output in named[1] for state in self.state),
            "class_names": bool(self.class_names) and all(isinstance(name, str) for name in self.class_names),
            "thresholds": all(isinstance(number, (int, float)) for number in numbers),
            "hashes": isinstance(self.hashes, dict),
            "occupancy": self.occupancy is None or isinstance(self.occupancy, dict),
        }

    def spec(self, name: str) -> TensorSpec:
        """The input or output of that name."""
        for spec in (*self.inputs, *self.outputs):
            if spec.name == name:
                return spec
        raise DataError(f"manifest: no tensor {name!r}; it has {', '.join(s.name for s in (*self.inputs, *self.outputs))}")


def sha256_of_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def manifest_path(onnx_path: Path) -> Path:
    """Where the copy beside the file lies."""
    return Path(f"{onnx_path}.json")


def check_beside(path: Path, inside: Manifest) -> None:
    """Refuses a file whose manifest beside it was written for other bytes or says other things; none beside it is fine."""
    beside = manifest_path(path)
    if not beside.is_file():
        return
    try:
        told = json.loads(beside.read_text())
        file_hash = told.pop("file_sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{beside}: not the manifest of an exported file ({error!r}); export again or delete it") from error
    if file_hash != sha256_of_file(path):
        raise DataError(f"{path}: its bytes are not those that {beside.name} was written for; export or copy both again")
    here = json.loads(inside.dumps())
    other = sorted(name for name in {*here, *told} if here.get(name) != told.get(name))
    if other:
        raise DataError(f"{beside}: says other things than the file itself ({', '.join(other)}); export or copy both again")
