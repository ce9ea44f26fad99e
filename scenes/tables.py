"""How does a table travel between numpy columns and a Parquet file whose column names carry units?"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scenes.atomic import atomic_file
from scenes.errors import DataError

POSE_COLUMNS = ("x_m", "y_m", "z_m", "qw", "qx", "qy", "qz")
"""A rigid transform as a row: translation, then quaternion w, x, y, z."""


def write_table(path: Path, columns: dict[str, np.ndarray | list]) -> None:
    """Columns of equal length as one Parquet file, atomically. Lists of lists become list columns."""
    table = pa.table({name: pa.array(list(value) if _is_ragged(value) else value) for name, value in columns.items()})
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _is_ragged(value) -> bool:
    return isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object)


def read_table(path: Path, required: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Every column of a Parquet file as numpy; a missing file or column is refused with `DataError`."""
    if not Path(path).is_file():
        raise DataError(f"{path}: missing; the clip is incomplete, import or simulate it again")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet ({error}); restore the file") from error
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: expected column(s) {', '.join(missing)}, got {', '.join(table.column_names)}; write the table again")
    for name in required:
        if table.column(name).null_count:
            row = table.column(name).is_null().to_pylist().index(True)
            raise DataError(f"{path}, row {row}: expected a value in column {name}, got none; correct or drop the row")
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _numbers(columns: dict[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    if columns[name].dtype.kind not in "iuf":
        raise DataError(f"{path}: expected numbers in column {name}, got {columns[name].dtype}; write the table again")
    return columns[name]


def pose_rows(columns: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """(R, 7) pose rows of a table, refused with the row number if one is not finite or its quaternion has no unit length."""
    rows = np.stack([_numbers(columns, name, path) for name in POSE_COLUMNS], axis=1).astype(np.float64)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{path}, row {int(np.argmin(finite))}: expected a finite pose, got {rows[np.argmin(finite)].tolist()}; correct or drop it"
        )
    unit = np.abs(np.linalg.norm(rows[:, 3:], axis=1) - 1) < 1e-3
    if not unit.all():
        row = int(np.argmin(unit))
        raise DataError(f"{path}, row {row}: expected a unit quaternion, got {rows[row, 3:].tolist()}; correct or drop it")
    return rows


def check_clock(timestamps_ns: np.ndarray, path: Path) -> None:
    """Refuses time stamps (R,) that do not grow strictly, naming the row."""
    if len(timestamps_ns) and timestamps_ns.dtype.kind not in "iu":
        raise DataError(f"{path}: expected whole nanoseconds in column timestamp_ns, got {timestamps_ns.dtype}; write the table again")
    wrong = np.flatnonzero(np.diff(timestamps_ns) <= 0)
    if len(wrong):
        row = int(wrong[0]) + 1
        raise DataError(
            f"{path}, row {row}: expected a time stamp after {timestamps_ns[row - 1]} ns, got {timestamps_ns[row]} ns; "
            "the clock stands or runs backwards, sort the rows or drop doubles"
        )
