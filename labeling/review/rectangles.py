"""How do projected boxes travel to CVAT's picture tasks and back? As "CVAT for images 1.1" XML.

CVAT counts pixels from the corner of the first one, we from its centre: half a pixel is added on the way out and taken off on the way in.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from labeling.review.cuboids import TRACK_ATTRIBUTE, VERDICT_ATTRIBUTE, VERDICTS, WHY_ATTRIBUTE, frame_name, frame_of
from scenes.atomic import atomic_file
from scenes.boxes import CLASS_NAMES, Boxes
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import NS_PER_S
from scenes.show.outlines import box_rectangles, boxes_at_capture


@dataclass(frozen=True)
class Rectangle:
    """One projected box in one picture."""

    frame: int
    camera: str
    track: str
    class_name: str
    box_xyxy_px: tuple[float, ...]
    """u0, v0, u1, v1; a whole number is a pixel's centre."""
    verdict: str = "unseen"
    why: str = ""


def rectangles_of(clip: Clip, frame: int, boxes_ego: Boxes, why: list[str]) -> list[Rectangle]:
    """The boxes of a frame in every live camera that sees a part of them, at the camera's capture time."""
    found = []
    for camera in clip.rig.cameras:
        view = clip.frames[frame].views[camera.name]
        if not view.alive:
            continue
        offset_s = (view.timestamp_ns - clip.frames[frame].timestamp_ns) / NS_PER_S
        places, seen = box_rectangles(camera, clip.cam_from_ego_at_ref(frame, camera.name), boxes_at_capture(boxes_ego, offset_s))
        for row in np.flatnonzero(seen).tolist():
            kind, place = CLASS_NAMES[boxes_ego.class_id[row]], tuple(float(v) for v in places[row])
            found.append(Rectangle(frame, camera.name, str(boxes_ego.track_id[row]), kind, place, why=why[row]))
    return found


def picture_name(frame: int, camera: str, suffix: str = ".jpg") -> str:
    """Path of a picture inside the package."""
    return f"{camera}/{frame_name(frame)}{suffix}"


def write_rectangles(path: Path, rectangles: list[Rectangle], pictures: list[tuple[int, str, int, int]], task: str) -> None:
    """The annotations of a picture task; `pictures` are frame, camera, width and height, in the task's order."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "name").text = task
    by_picture: dict[tuple[int, str], list[Rectangle]] = {}
    for rectangle in rectangles:
        by_picture.setdefault((rectangle.frame, rectangle.camera), []).append(rectangle)
    for index, (frame, camera, width, height) in enumerate(pictures):
        size = {"width": str(width), "height": str(height)}
        image = ElementTree.SubElement(root, "image", {"id": str(index), "name": picture_name(frame, camera), **size})
        for rectangle in by_picture.get((frame, camera), []):
            corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{v + 0.5:.2f}" for v in rectangle.box_xyxy_px), strict=True))
            attributes = {"label": rectangle.class_name, "occluded": "0", "source": "auto", **corners, "z_order": "0"}
            box = ElementTree.SubElement(image, "box", attributes)
            named = ((TRACK_ATTRIBUTE, rectangle.track), (VERDICT_ATTRIBUTE, rectangle.verdict), (WHY_ATTRIBUTE, rectangle.why))
            for name, value in named:
                ElementTree.SubElement(box, "attribute", {"name": name}).text = value
    ElementTree.indent(root)
    with atomic_file(path) as temporary:
        temporary.write_bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def read_rectangles(path: Path) -> tuple[list[Rectangle], set[tuple[int, str]]]:
    """The rectangles of a "CVAT for images 1.1" file, or of a zip with annotations.xml, and the (frame, camera) that it speaks of.

    A broken one is refused with `DataError`.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                root = ElementTree.fromstring(archive.read("annotations.xml"))
        else:
            root = ElementTree.fromstring(path.read_bytes())
        images = list(root.iter("image"))
        pictures = {(frame_of(image.attrib["name"], path), Path(image.attrib["name"]).parent.name) for image in images}
        return [_rectangle(path, image, box) for image in images for box in image.iter("box")], pictures
    except (OSError, KeyError, ValueError, ElementTree.ParseError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not readable as CVAT for images 1.1 ({error}); export the task again in that format") from error


def _rectangle(path: Path, image: ElementTree.Element, box: ElementTree.Element) -> Rectangle:
    name, class_name = image.attrib["name"], box.attrib["label"]
    values = {child.attrib["name"]: (child.text or "") for child in box.iter("attribute")}
    verdict = values.get(VERDICT_ATTRIBUTE, "") or VERDICTS[0]
    if class_name not in CLASS_NAMES or verdict not in VERDICTS:
        raise DataError(f"{path}: expected classes and verdicts of labels.json in {name}, got {class_name!r} and {verdict!r}; correct them")
    u0, v0, u1, v1 = (float(box.attrib[key]) - 0.5 for key in ("xtl", "ytl", "xbr", "ybr"))
    track, why = values.get(TRACK_ATTRIBUTE, "").strip(), values.get(WHY_ATTRIBUTE, "")
    return Rectangle(frame_of(name, path), Path(name).parent.name, track, class_name, (u0, v0, u1, v1), verdict, why)
