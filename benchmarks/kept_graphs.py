"""Is a graph kept from an earlier run still what would be written today? Of the same weights, by the same source code."""

import hashlib
from functools import cache
from pathlib import Path

from torch import nn

import benchmarks.double_graph
import export
import fusion
import perception
from export.onnx_graph import weights_hash

WRITERS = (export, fusion, perception, benchmarks.double_graph)
"""What a graph is made by: packages with all their files, and single modules."""


@cache
def source_hash() -> str:
    """sha256 of the source code that writes graphs."""
    digest = hashlib.sha256()
    for writer in WRITERS:
        file = Path(str(writer.__file__))
        for path in sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]:
            digest.update(path.relative_to(file.parent).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def origin(model: nn.Module) -> str:
    """Weights and source code in one short name: files and unfinished work of another one are not taken up."""
    return f"{weights_hash(model)[:8]}-{source_hash()[:8]}"


def is_current(path: Path, model: nn.Module) -> bool:
    """Whether the file is there and `mark` said that it was written from this network by this code."""
    beside = _beside(path)
    return path.is_file() and beside.is_file() and beside.read_text() == origin(model)


def mark(path: Path, model: nn.Module) -> None:
    """Says beside a file what it was written from."""
    _beside(path).write_text(origin(model))


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.origin")
