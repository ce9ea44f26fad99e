"""How are files and folders written so that a reader never sees half of one?"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scenes.errors import DataError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; when the block ends well it is synced and renamed, else it is removed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: expected a place for a file, got a folder or device; choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: could not be written ({error.strerror or error}); free space or choose another folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, renamed to it when the block ends well, removed otherwise.

    An existing `path` is refused unless `replace`, which swaps it out only after the new one is complete.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise DataError(f"{path}: exists already; choose another name or remove it first")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: could not be written ({error.strerror or error}); free space or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, values: object) -> None:
    """`values` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """The JSON object of a file; missing or broken ones are refused with `DataError`."""
    try:
        values = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; is this the right folder?") from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); restore the file") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(values).__name__}; restore the file")
    return values


def check_schema_version(header: dict, path: Path, newest: int) -> None:
    """Refuses the header read from `path` if its `schema_version` is no number or newer than this program understands."""
    version = header.get("schema_version", 0)
    if not isinstance(version, int):
        raise DataError(f"{path}: expected a whole number as schema_version, got {version!r}; restore the file")
    if version > newest:
        raise DataError(f"{path}: schema version {version} is newer than this program's {newest}; update surround4d")
