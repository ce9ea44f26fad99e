"""What is in a dataset's pickle, when the file must not run code and pandas is not installed?

A restricted unpickler lets only plain values, numpy arrays and inert stand-ins be built; anything else a pickle asks for is
refused, so a foreign file cannot run code. PandaSet ships its tables as gzipped pickles of pandas 0.2x data frames: such a
pickle builds a `BlockManager` from numpy arrays, whose columns are put together by hand here.
"""

import codecs
import gzip
import io
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from scenes.errors import DataError


class _StandIn:
    """Takes the place of a pandas object: remembers the state it is given."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _new_index(_cls: type, values: dict) -> np.ndarray:
    """An index as a plain array: its labels, or the running numbers of a `RangeIndex`."""
    if "data" in values:
        return np.asarray(values["data"])
    return np.arange(values["start"], values["stop"], values["step"])


def _reconstruct_array(cls: type, shape: tuple, kind: bytes) -> np.ndarray:
    """What numpy calls to make an empty array before its content is set."""
    if cls is not np.ndarray:
        raise pickle.UnpicklingError(f"an array of type {cls!r}")
    return np.ndarray(shape, dtype=np.dtype(kind.decode()))


def _scalar(kind: np.dtype, data: bytes = b"") -> np.generic:
    """What numpy calls to make one number; an object (which would be a pickle in the pickle) is refused."""
    if kind.hasobject:
        raise pickle.UnpicklingError("a numpy object scalar")
    return np.frombuffer(data, dtype=kind)[0]


_ALLOWED: dict[tuple[str, str], Any] = {
    ("builtins", "slice"): slice,
    ("_codecs", "encode"): codecs.encode,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct_array,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("pandas.core.frame", "DataFrame"): _StandIn,
    ("pandas.core.internals.managers", "BlockManager"): _StandIn,
    ("pandas.core.internals", "BlockManager"): _StandIn,
    ("pandas.core.indexes.base", "_new_Index"): _new_index,
    ("pandas.core.indexes.base", "Index"): _StandIn,
    ("pandas.core.indexes.numeric", "Int64Index"): _StandIn,
    ("pandas.core.indexes.range", "RangeIndex"): _StandIn,
}
"""Every name a pickle may use, and what it becomes."""


class _SafeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise pickle.UnpicklingError(f"{module}.{name} is not a plain value, array or table")
        return allowed


BROKEN_PICKLE = (pickle.UnpicklingError, AttributeError, TypeError, ValueError, KeyError, IndexError, EOFError)
"""What the unpickler raises on bytes that make no sense."""


def read_pickle(path: Path) -> Any:
    """The values of a `.pkl` or `.pkl.gz`; missing, truncated or foreign files raise `DataError`."""
    try:
        data = Path(path).read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        return _SafeUnpickler(io.BytesIO(data)).load()
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; restore it from the original recording") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: truncated or unreadable ({error}); restore it from the original recording") from error
    except BROKEN_PICKLE as error:
        raise DataError(f"{path}: expected a pickle of plain values, got something else ({error}); restore the original") from error


def read_pickled_table(path: Path, required: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of a pickled pandas table; broken or foreign files and missing columns raise `DataError`."""
    frame = read_pickle(path)
    try:
        columns = _columns_of(frame)
    except BROKEN_PICKLE as error:
        raise DataError(f"{path}: expected a plain pandas table as PandaSet ships it, got something else ({error})") from error
    missing = [name for name in required if name not in columns]
    if missing:
        raise DataError(f"{path}: expected column(s) {', '.join(missing)}, got {', '.join(columns)}; restore it")
    return columns


def _columns_of(frame: Any) -> dict[str, np.ndarray]:
    """The columns of an unpickled stand-in frame: its manager's blocks, laid to the column names they belong to."""
    state = frame.state
    manager = (state.get("_data") or state["_mgr"]).state
    content = manager[3]["0.14.1"]
    names = [str(name) for name in content["axes"][0]]
    columns: dict[str, np.ndarray] = {}
    for block in content["blocks"]:
        where = block["mgr_locs"]
        rows = range(*where.indices(len(names))) if isinstance(where, slice) else [int(i) for i in where]
        for row, values in zip(rows, block["values"], strict=True):
            columns[names[row]] = np.asarray(values)
    return {name: columns[name] for name in names}
