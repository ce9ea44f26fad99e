"""How do cuboids travel to CVAT and back? Point clouds (PCD) and the Datumaro 3D JSON of a CVAT 3D task.

Formats as documented: CVAT "Datumaro 3D 1.0" (annotations/<subset>.json with `cuboid_3d`: position, rotation about x, y, z, and scale, the
extents along the cuboid's own x, y, z), and PCD 0.7. Points and cuboids stand in the frame's ego frame at its reference time.
"""

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scenes.atomic import atomic_file
from scenes.boxes import CLASS_NAMES
from scenes.errors import DataError

SUBSET = "annotations/default.json"
TRACK_ATTRIBUTE = "surround_track"
VERDICT_ATTRIBUTE = "verdict"
WHY_ATTRIBUTE = "why"
SUGGESTION = "model "
"""How the names of suggested tracks begin; they count only if a reviewer says that they are right."""
VERDICTS = ("unseen", "right", "wrong", "ignore", "track_right", "track_wrong")
"""What a reviewer may say about a box (or, with `track_`, about its whole track)."""


@dataclass(frozen=True)
class Cuboid:
    """One box as a reviewer sees it."""

    frame: int
    track: str
    """The track's number, or a name of the reviewer's for a new one; "" for a new one without a name."""
    class_name: str
    box_ego: tuple[float, ...]
    """x, y, z of the centre, length, width, height, yaw: the first seven columns of `Box3D`."""
    verdict: str = "unseen"
    why: str = ""
    extra: dict = field(default_factory=dict)


def label_definitions() -> list[dict]:
    """What goes into CVAT's raw label constructor, so that tracks and verdicts survive the round."""
    attributes = [
        {"name": TRACK_ATTRIBUTE, "mutable": False, "input_type": "text", "default_value": "", "values": [""]},
        {"name": VERDICT_ATTRIBUTE, "mutable": True, "input_type": "select", "default_value": VERDICTS[0], "values": list(VERDICTS)},
        {"name": WHY_ATTRIBUTE, "mutable": False, "input_type": "text", "default_value": "", "values": [""]},
    ]
    return [{"name": name, "attributes": attributes} for name in CLASS_NAMES]


def write_cuboids(path: Path, cuboids: list[Cuboid], frames: list[int]) -> None:
    """The annotations of a 3D task as a zip that CVAT's "Upload annotations" takes as Datumaro 3D 1.0."""
    labels = [{"name": name, "parent": "", "attributes": []} for name in CLASS_NAMES]
    items = []
    for place, frame in enumerate(frames):  # CVAT knows a frame by its name, and failing that by its place in the task
        here = [_annotation(index, cuboid) for index, cuboid in enumerate(c for c in cuboids if c.frame == frame)]
        items.append({"id": frame_name(frame), "annotations": here, "attr": {"frame": place}, "point_cloud": {"path": ""}})
    content = {
        "info": {},
        "categories": {"label": {"labels": labels, "attributes": [TRACK_ATTRIBUTE, VERDICT_ATTRIBUTE, WHY_ATTRIBUTE]}},
        "items": items,
    }
    write_zip(path, {SUBSET: json.dumps(content).encode()})


def frame_name(frame: int) -> str:
    """How a frame's files are called, without suffix."""
    return f"{frame:06d}"


def frame_of(name: str, where: Path) -> int:
    """The inverse of `frame_name`, whatever folders stand before it and whatever suffix after it."""
    stem = Path(name).stem
    if not stem.isdigit():
        raise DataError(f"{where}: expected pictures and clouds called like 000012, got {name!r}; keep the names of the package")
    return int(stem)


def _annotation(index: int, cuboid: Cuboid) -> dict:
    x, y, z, length, width, height, yaw = cuboid.box_ego
    return {
        "id": index,
        "type": "cuboid_3d",
        "attributes": {
            "occluded": False,
            TRACK_ATTRIBUTE: cuboid.track,
            VERDICT_ATTRIBUTE: cuboid.verdict,
            WHY_ATTRIBUTE: cuboid.why,
        },
        "group": 0,
        "label_id": CLASS_NAMES.index(cuboid.class_name),
        "position": [x, y, z],
        "rotation": [0.0, 0.0, yaw],
        "scale": [length, width, height],
    }


def read_cuboids(path: Path) -> tuple[list[Cuboid], set[int]]:
    """The cuboids of a Datumaro 3D zip (or its JSON alone) and the frames that it speaks of; a broken one is refused with `DataError`."""
    content = _read_content(path)
    try:
        names = [label["name"] for label in content["categories"]["label"]["labels"]]
        frames = {frame_of(str(item["id"]), path) for item in content["items"]}
        return [
            _cuboid(path, item, annotation, names)
            for item in content["items"]
            for annotation in item.get("annotations", [])
            if annotation.get("type") == "cuboid_3d" and not annotation.get("attributes", {}).get("outside", False)
        ], frames
    except (KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not readable as Datumaro 3D annotations ({error!r}); export the task again in that format") from error


def _cuboid(path: Path, item: dict, annotation: dict, names: list[str]) -> Cuboid:
    class_name, attributes = names[annotation["label_id"]], annotation.get("attributes", {})
    if class_name not in CLASS_NAMES:
        raise DataError(f"{path}: unknown class {class_name!r} in frame {item['id']}; use the classes of labels.json")
    box = (*annotation["position"], *annotation["scale"], annotation["rotation"][2])
    if not np.isfinite(box).all() or min(box[3:6]) <= 0:
        raise DataError(f"{path}: expected a finite cuboid of positive size in frame {item['id']}, got {box}; correct it in CVAT")
    verdict = str(attributes.get(VERDICT_ATTRIBUTE, "") or VERDICTS[0])
    if verdict not in VERDICTS:
        raise DataError(f"{path}: expected a verdict among {', '.join(VERDICTS)} in frame {item['id']}, got {verdict!r}; correct it")
    track = str(attributes.get(TRACK_ATTRIBUTE, "")).strip()
    box_ego = tuple(float(v) for v in box)
    return Cuboid(frame_of(str(item["id"]), path), track, class_name, box_ego, verdict, str(attributes.get(WHY_ATTRIBUTE, "")))


def _read_content(path: Path) -> dict:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found = [name for name in archive.namelist() if name.startswith("annotations/") and name.endswith(".json")]
                if not found:
                    raise DataError(f"{path}: expected annotations/*.json inside, got none; export the task as Datumaro 3D 1.0")
                return json.loads(archive.read(found[0]))
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not readable as Datumaro 3D annotations ({error}); export the task again in that format") from error


def pcd_bytes(points_ego: np.ndarray, rgb: np.ndarray | None = None) -> bytes:
    """Points (P, 3) in metres, and colours (P, 3) uint8 if known, as a binary PCD file."""
    count = len(points_ego)
    columns = [("x", "f4", points_ego[:, 0]), ("y", "f4", points_ego[:, 1]), ("z", "f4", points_ego[:, 2])]
    if rgb is not None:
        packed = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
        columns.append(("rgb", "f4", packed.astype("<u4").view("<f4")))
    table = np.zeros(count, dtype=[(name, "<" + kind) for name, kind, _ in columns])
    for name, _, values in columns:
        table[name] = values
    width = len(columns)
    header = (
        f"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS {' '.join(name for name, _, _ in columns)}\n"
        f"SIZE{' 4' * width}\nTYPE{' F' * width}\nCOUNT{' 1' * width}\nWIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {count}\nDATA binary\n"
    )
    return header.encode("ascii") + table.tobytes()


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    """Files as one zip, atomically; pictures are packed as they are."""
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, data in files.items():
            kind = zipfile.ZIP_STORED if name.endswith((".jpg", ".png")) else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, compress_type=kind)
