"""What does a JSON file hold whose top is a list of rows?"""

import json
from pathlib import Path

from scenes.atomic import atomic_file
from scenes.errors import DataError


def read_json_list(path: Path, length: int | None = None) -> list:
    """The list in a JSON file (of `length` rows, where given); missing or broken ones raise `DataError`."""
    try:
        values = json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; is this the right folder, and is the download complete?") from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); restore it from the original recording") from error
    if not isinstance(values, list):
        raise DataError(f"{path}: expected a JSON list, got {type(values).__name__}; restore it from the original recording")
    if length is not None and len(values) != length:
        raise DataError(f"{path}: expected {length} rows, got {len(values)}; restore it from the original recording")
    return values


def write_json_list(path: Path, rows: list) -> None:
    """Writes rows as a JSON list, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(rows, indent=0, allow_nan=False) + "\n")
