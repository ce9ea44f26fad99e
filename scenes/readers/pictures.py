"""How do a dataset's pictures come into a clip: copied or linked, complete and of one size?"""

import os
import shutil
from pathlib import Path

from scenes.errors import DataError

JPEG_END = b"\xff\xd9"
JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of a JPEG or PNG, read from its header without decoding; missing or truncated ones raise `DataError`."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing image; restore it or remove it from the recording's tables") from error
    except OSError as error:
        raise DataError(f"{path}: image could not be read ({error.strerror or error}); check the disk and permissions") from error
    if data.startswith(PNG_START):
        complete, size = PNG_END in data[-64:], _png_size(data)
    else:
        complete, size = JPEG_END in data[-64:], _jpeg_size(data)
    if size is None or not complete:
        what = "not readable as JPEG or PNG" if size is None else "truncated image (no end marker)"
        raise DataError(f"{path}: {what}, {len(data)} bytes long; restore it from the original recording")
    return size


def _png_size(data: bytes) -> tuple[int, int] | None:
    return (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) if len(data) >= 24 else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walks the segments of a JPEG to its start-of-frame; None if there is none (ITU-T T.81, annex B)."""
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in JPEG_SIZE_MARKERS:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 if 0xD0 <= marker <= 0xD9 or marker == 0x01 else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def bring_picture(source: Path, folder: Path, camera: str, frame_index: int, size_px: tuple[int, int], link: bool) -> str:
    """Copies (or links) one picture into the clip folder being written; returns the `View.image` path.

    `size_px` is the calibrated (width, height); another size is refused with `DataError`.
    """
    size = picture_size(source)
    if size != size_px:
        raise DataError(
            f"{source}: expected {size_px[0]}x{size_px[1]} pixels as calibrated for camera {camera!r}, got {size[0]}x{size[1]}; "
            "resize the picture or correct the calibration"
        )
    relative = f"images/{camera}/{frame_index:06d}{Path(source).suffix.lower()}"
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        os.symlink(Path(source).resolve(), target)
    else:
        shutil.copyfile(source, target)
    return relative
