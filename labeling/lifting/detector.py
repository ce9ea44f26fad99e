"""What does a 2D detector see in every picture of a clip? The file's layout decides which adapter reads its answers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from labeling.lifting.image_boxes import ImageBoxes, single_boxes
from labeling.lifting.settings import DetectorSettings
from scenes.boxes import CLASS_NAMES
from scenes.clips import Clip
from scenes.detector2d import CLASS_OF_COCO, Detections2D, YoloxDetector
from scenes.errors import DataError

CLASS_ID_OF_COCO = {coco: CLASS_NAMES.index(name) for coco, name in CLASS_OF_COCO.items()}


class Detector(Protocol):
    """Anything that finds rectangles with COCO classes in a picture."""

    def detect(self, image_rgb: np.ndarray) -> Detections2D:
        """The objects of an (H, W, 3) uint8 RGB picture."""
        ...


MakeDetector = Callable[[Path, float, int, int], Detector]
"""(file, least score, tiles, threads) to a detector; a file of another layout raises `DataError`."""


def open_yolox(path: Path, score: float, tiles: int, threads: int) -> Detector:
    """The official YOLOX export."""
    return YoloxDetector(path, score_threshold=score, tiles=tiles, threads=threads)


ADAPTERS: dict[str, MakeDetector] = {"yolox": open_yolox}
"""Layout name to adapter. Another detector family: write a class with `detect` and enter its maker here."""


def open_detector(path: Path, score: float, tiles: int, threads: int) -> Detector:
    """The detector in an ONNX file, by the first adapter that understands it; none: the reasons in one sentence."""
    reasons = []
    for name, make in ADAPTERS.items():
        try:
            return make(path, score, tiles, threads)
        except DataError as error:
            reasons.append(f"as {name}: {error}")
    raise DataError(reasons[0].partition(": ")[2] if len(reasons) == 1 else "; ".join(reasons))


def detect_clip(clip: Clip, onnx_path: Path, settings: DetectorSettings) -> tuple[ImageBoxes, dict[str, float]]:
    """The rectangles of road users in all pictures of a clip, and counts: pictures, pictures that could not be read, rectangles.

    A clip without any readable picture is refused with `DataError`.
    """
    whole = open_detector(onnx_path, settings.score, 0, settings.threads)
    tiled = open_detector(onnx_path, settings.score, settings.tiles, settings.threads) if settings.tiles else whole
    pictures = [(i, n, name) for i in range(len(clip)) for n, name in enumerate(clip.rig.names) if clip.frames[i].views[name].alive]
    reasons: list[str] = []

    def look(picture: tuple[int, int, str]) -> ImageBoxes:
        frame, number, name = picture
        try:
            image = clip.image(frame, name)
        except DataError as error:
            reasons.append(str(error))
            return ImageBoxes.empty()
        height, width = image.shape[:2]
        worth = height >= settings.tile_from_px and max(width, height) >= 1.3 * min(width, height)
        return road_users((tiled if worth else whole).detect(image), frame, number, Path(onnx_path).name)

    with ThreadPoolExecutor(max(settings.workers, 1)) as pool:
        found = list(pool.map(look, pictures))
    if len(reasons) == len(pictures):
        why = f"({reasons[0]})" if reasons else "(every camera is off)"
        raise DataError(f"{clip.path}: expected pictures to look at, got none {why}; restore the images")
    boxes = single_boxes(ImageBoxes.concatenate(found))
    return boxes, {"pictures": len(pictures), "unreadable": len(reasons), "rectangles": len(boxes)}


def road_users(found: Detections2D, frame: int, camera: int, source: str) -> ImageBoxes:
    """The detections of one picture that are of a class of ours."""
    mine = np.isin(found.label_coco, list(CLASS_ID_OF_COCO))
    found = found.select(mine)
    class_id = np.array([CLASS_ID_OF_COCO[k] for k in found.label_coco.tolist()], dtype=np.int64)
    num = len(found)
    return ImageBoxes(
        np.full(num, frame, dtype=np.int64),
        np.full(num, camera, dtype=np.int64),
        found.box_xyxy_px,
        class_id,
        found.score,
        np.full(num, source),
    )
