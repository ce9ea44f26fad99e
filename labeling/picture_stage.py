"""How does a labelled clip look at a glance? One small picture of its middle frame, all cameras and from above, for the job's report."""

from pathlib import Path

import cv2
import numpy as np

from labeling.stages import ClipWork, Stage
from scenes.atomic import atomic_file
from scenes.errors import DataError
from scenes.show.bev import bev_view
from scenes.show.sheet import camera_sheet

TILE_PX = 160
JPEG_QUALITY = 70


def label_picture(work: ClipWork) -> np.ndarray:
    """(H, W, 3) uint8 RGB: the new layer in every camera and from above."""
    layer = work.recorded.layer(work.settings.layer)
    frame = len(work.recorded) // 2
    sheet = camera_sheet(work.recorded, frame, [layer], tile_width_px=TILE_PX)
    above = cv2.resize(bev_view(work.recorded, frame, [layer], size_px=2 * sheet.shape[0], range_m=40.0), (sheet.shape[0], sheet.shape[0]))
    return np.concatenate([sheet, np.asarray(above)], axis=1)


def _picture(work: ClipWork, path: Path) -> dict[str, float]:
    image = label_picture(work)
    ok, data = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not ok:
        raise DataError(f"{path}: the report's picture of shape {image.shape} could not be encoded; label with --no-pictures")
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.tobytes())
    return {}


PICTURE = Stage("picture", "picture.jpg", _picture, after=("layer",), wanted=lambda settings: settings.pictures)
