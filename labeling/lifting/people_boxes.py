"""Which rectangles did people draw? COCO JSON and CVAT's XML for images, matched to a clip's pictures by camera and file name."""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from labeling.lifting.image_boxes import ImageBoxes
from scenes.atomic import read_json
from scenes.boxes import CLASS_NAMES
from scenes.clips import Clip
from scenes.errors import DataError

OTHER_NAMES = {
    "person": "pedestrian",
    "people": "pedestrian",
    "bike": "bicycle",
    "motorbike": "motorcycle",
    "van": "car",
    "pickup": "truck",
    "cone": "traffic_cone",
}
"""What people call our classes besides their own names."""
MEETING_PARTS = 2
"""Camera folder and file name are enough to know a picture."""


@dataclass(frozen=True)
class DrawnPicture:
    """What people drew into one picture."""

    name: str
    """Path or file name as the file gives it."""
    size_px: tuple[float, float]
    """Width and height of the picture they saw; 0 where the file does not say."""
    box_xyxy: list[list[float]]
    """Left, top, right, bottom from the picture's top left corner."""
    labels: list[str]
    scores: list[float]


def read_drawn(path: Path) -> list[DrawnPicture]:
    """The pictures of a COCO JSON or a CVAT XML file; anything else, and broken boxes, raise `DataError` naming the place."""
    if not path.is_file():
        raise DataError(f"{path}: missing file of people's boxes; give a COCO JSON or a CVAT XML for images")
    pictures = _read_cvat(path) if path.suffix.lower() == ".xml" else _read_coco(path)
    for picture in pictures:
        for number, box in enumerate(picture.box_xyxy):
            if len(box) != 4 or not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
                raise DataError(
                    f"{path}, picture {picture.name!r}, box {number}: expected left < right and top < bottom, got {box}; correct or drop it"
                )
            if not 0 <= picture.scores[number] <= 1:
                raise DataError(
                    f"{path}, picture {picture.name!r}, box {number}: expected a score between 0 and 1, got {picture.scores[number]:g}; "
                    "correct it or leave scores out"
                )
    return pictures


def _read_coco(path: Path) -> list[DrawnPicture]:
    content = read_json(path)
    parts = [content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations", "categories")]
    if not all(isinstance(part, list) for part in parts):
        raise DataError(f"{path}: expected the lists images, annotations and categories of COCO, got something else; export it as COCO")
    try:
        name_of = {entry["id"]: str(entry["name"]) for entry in parts[2] or []}
        pictures = {
            entry["id"]: DrawnPicture(
                str(entry["file_name"]), (float(entry.get("width") or 0), float(entry.get("height") or 0)), [], [], []
            )
            for entry in parts[0] or []
        }
        for entry in parts[1] or []:
            if entry.get("iscrowd"):
                continue
            picture, (left, top, width, height) = pictures[entry["image_id"]], map(float, entry["bbox"])
            picture.box_xyxy.append([left, top, left + width, top + height])
            picture.labels.append(name_of[entry["category_id"]])
            picture.scores.append(float(entry.get("score", 1.0)))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: an image, annotation or category is incomplete ({error!r}); export the file again") from error
    return list(pictures.values())


def _read_cvat(path: Path) -> list[DrawnPicture]:
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag != "annotations" or root.find("image") is None:
            raise DataError(f"{path}: expected CVAT's <annotations> with <image> entries, got <{root.tag}>; export as `CVAT for images`")
        pictures = []
        for image in root.iter("image"):
            boxes = image.findall("box")
            corners = [[float(box.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr")] for box in boxes]
            size = float(image.get("width", 0)), float(image.get("height", 0))
            pictures.append(DrawnPicture(image.attrib["name"], size, corners, [b.attrib["label"] for b in boxes], [1.0] * len(boxes)))
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not readable as CVAT's XML for images ({error}); export it again") from error
    return pictures


def class_of_name(name: str) -> int | None:
    """Our class index of a name that people use, None for a class that is not ours."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    plain = OTHER_NAMES.get(plain, plain)
    return CLASS_NAMES.index(plain) if plain in CLASS_NAMES else None


def people_boxes(clip: Clip, path: Path) -> tuple[ImageBoxes, np.ndarray, Counter[str]]:
    """People's rectangles in a clip's pictures, the pictures they looked at, (V, 2) frame and camera number, and what was passed over.

    A file may hold pictures of many clips; those of others are passed over without a word. Rectangles of classes that are not ours are
    counted by their name.
    """
    keys = _picture_keys(clip)
    parts, looked_at, foreign = [], [], Counter[str]()
    for picture in read_drawn(path):
        place = _place(picture.name, keys, clip.path.name)
        if place is None:
            continue
        looked_at.append(place)
        camera = clip.rig[clip.rig.names[place[1]]]
        scale = [own / drawn if drawn > 0 else 1.0 for own, drawn in zip((camera.width_px, camera.height_px), picture.size_px, strict=True)]
        foreign.update(name for name in picture.labels if class_of_name(name) is None)
        mine = [(k, class_id) for k, name in enumerate(picture.labels) if (class_id := class_of_name(name)) is not None]
        if not mine:
            continue
        chosen = [k for k, _ in mine]
        box = np.array(picture.box_xyxy, dtype=np.float64)[chosen] * np.tile(scale, 2) - 0.5
        border = np.array([camera.width_px, camera.height_px]) - 0.5
        box = np.clip(box, -0.5, np.tile(border, 2))
        num = len(mine)
        frame, number = (np.full(num, value, dtype=np.int64) for value in place)
        score = np.array(picture.scores)[chosen]
        parts.append(ImageBoxes(frame, number, box, np.array([c for _, c in mine]), score, np.full(num, f"human:{path.name}")))
    return ImageBoxes.concatenate(parts), np.array(looked_at, dtype=np.int64).reshape(-1, 2), foreign


def _picture_keys(clip: Clip) -> dict[tuple[str, ...], tuple[int, int] | None]:
    """Ends of the pictures' paths, at least `MEETING_PARTS` long (shorter where unique), to frame and camera number."""
    keys: dict[tuple[str, ...], tuple[int, int] | None] = {}
    for frame in clip.frames:
        for number, name in enumerate(clip.rig.names):
            view = frame.views[name]
            if view.alive:
                whole = (clip.path.name, *PurePosixPath(view.image).parts)
                for length in range(1, len(whole) + 1):
                    key = whole[-length:]
                    keys[key] = None if key in keys else (frame.index, number)
    return keys


def _place(name: str, keys: dict[tuple[str, ...], tuple[int, int] | None], clip_name: str) -> tuple[int, int] | None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    longest = max((len(key) for key in keys), default=0)
    if len(parts) >= longest:
        return keys.get(parts[-longest:]) if longest else None
    return keys.get(parts)


def outranked(found: ImageBoxes, drawn: ImageBoxes, looked_at: np.ndarray) -> ImageBoxes:
    """Detections and people's boxes together: in the pictures that people looked at, only theirs count for the kinds they drew."""
    kinds = np.unique(drawn.kind)
    theirs = {tuple(place) for place in looked_at.tolist()}
    seen = np.array([(f, c) in theirs for f, c in zip(found.frame.tolist(), found.camera.tolist(), strict=True)], dtype=bool)
    return ImageBoxes.concatenate([found.select(~(seen & np.isin(found.kind, kinds))), drawn])
