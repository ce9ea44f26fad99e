"""How good are cold-start labels of simulated clips, by range and class: with a detector, and with rectangles as people would draw them?

python -m benchmarks.sim_cold CLIPS --detector ../shared/weights/yolox_nano.onnx      what the detector sees of a simulator's picture
python -m benchmarks.sim_cold CLIPS                                                   people's boxes: the lifting alone

People's boxes are made of the truth: around the visible objects' bodies (random ones of the class in the true box, as the simulator builds
them), jittered by half a pixel, at least 4 pixels high, of objects that show at least 30 % of themselves in that picture, written as one
COCO file and read like any other. Truth that no camera sees by 30 % is neither to be found nor wrong to find.
"""

import shutil
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from evaluation.labels import LabelQuality, label_quality
from labeling.job import run_job
from labeling.lifting.observations import pixels_of
from labeling.settings import LabelSettings
from scenes.atomic import write_json
from scenes.boxes import CLASS_NAMES, VEHICLE_CLASSES, Boxes
from scenes.clips import Clip, find_clips
from scenes.geometry import rotation_from_yaw, transform_points
from scenes.layers import LabelLayer
from scenes.show.outlines import lens_holds
from scenes.simulator.bodies import make_body

LEAST_SHARE = 0.3
LEAST_HEIGHT_PX = 4.0
JITTER_PX = 0.5
RANGES_M = ((0.0, 15.0), (15.0, 30.0), (30.0, 50.0))
GROUPS = {"vehicle": VEHICLE_CLASSES, **{name: (name,) for name in CLASS_NAMES if name not in ("traffic_cone", "barrier")}}


@lru_cache(maxsize=4096)
def body_vertices(class_name: str, track_id: int) -> np.ndarray:
    """(V, 3) vertices of a body of a class in a box of size 1 around 0, the same for one object in all frames."""
    rng = np.random.default_rng(zlib.crc32(f"{class_name} {track_id}".encode()))
    body = make_body(class_name, rng)
    points = np.asarray(body.mesh.corners, dtype=np.float64).reshape(-1, 3)
    return points / np.array(body.size_m) - np.array([0.0, 0.0, 0.5])


def drawn_boxes(clip: Clip, truth: LabelLayer, frame: int, camera_name: str, rng: np.random.Generator) -> Iterator[tuple[str, list[float]]]:
    """Class and left, top, width, height of what a person would draw into one picture."""
    camera = clip.rig[camera_name]
    boxes_ego = clip.boxes_ego(truth, frame) or Boxes.empty()
    instances = truth.instances(frame, camera_name)
    cam_from_ego = clip.cam_from_ego_at_ref(frame, camera_name)
    limit = np.array([camera.width_px, camera.height_px]) - 0.5
    for box, class_id, track_id in zip(boxes_ego.box, boxes_ego.class_id.tolist(), boxes_ego.track_id.tolist(), strict=True):
        local = body_vertices(CLASS_NAMES[class_id], track_id) * box[3:6]
        points_cam = transform_points(cam_from_ego, local @ rotation_from_yaw(box[6]).T + box[:3])
        held = lens_holds(camera, points_cam)
        if instances is None or held.mean() < 0.3:
            continue
        pixels = pixels_of(camera, points_cam[held])
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        low, high = (np.clip(edge + rng.normal(0, JITTER_PX, 2), -0.5, limit) for edge in (low, high))
        area = float(np.prod(np.maximum(high - low, 0)))
        shown = float((instances == track_id).sum()) * camera.width_px * camera.height_px / instances.size
        if high[1] - low[1] >= LEAST_HEIGHT_PX and high[0] - low[0] > 2.0 and shown > LEAST_SHARE * area:
            yield CLASS_NAMES[class_id], [low[0] + 0.5, low[1] + 0.5, high[0] - low[0], high[1] - low[1]]


def write_drawn(paths: list[Path], file: Path) -> int:
    """Writes what people would draw into all clips' pictures as one COCO file; returns how many rectangles."""
    images, annotations = [], []
    for path in paths:
        clip = Clip.open(path)
        truth, rng = clip.layer("truth"), np.random.default_rng(7)
        for frame in clip.frames:
            for name, view in frame.views.items():
                if not view.alive:
                    continue
                camera = clip.rig[name]
                entry = {"id": len(images), "file_name": f"{path.name}/{view.image}", "width": camera.width_px, "height": camera.height_px}
                images.append(entry)
                for class_name, bbox in drawn_boxes(clip, truth, frame.index, name, rng):
                    numbers = [round(float(v), 2) for v in bbox]
                    category = CLASS_NAMES.index(class_name)
                    annotations.append({"id": len(annotations), "image_id": entry["id"], "category_id": category, "bbox": numbers})
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASS_NAMES)]
    write_json(file, {"images": images, "annotations": annotations, "categories": categories})
    return len(annotations)


def quality(paths: list[Path], layer: str, classes: tuple[str, ...], range_m: tuple[float, float]) -> LabelQuality:
    """Of the labels (not the ignored ones) of some classes within a range."""
    found, true = [], []
    for path in paths:
        clip = Clip.open(path)
        mine, truth = clip.layer(layer), clip.layer("truth")
        for frame in range(len(clip)):
            here = clip.boxes_ego(mine, frame) or Boxes.empty()
            found.append(here.select(~here.ignore))
            true.append(clip.boxes_ego(truth, frame) or Boxes.empty())
    return label_quality(found, true, classes, range_m, min_visibility=LEAST_SHARE)


def main(
    clips: tyro.conf.Positional[tuple[Path, ...]],
    detector: Path | None = None,
    out: Path = Path("out/benchmarks/sim_cold"),
    workers: int = 2,
) -> None:
    """Prints one row a kind of object and range.

    Args:
        clips: Folders of simulated clips with truth (they are copied, not written to).
        detector: ONNX file of a 2D detector; without, people's boxes are made of the truth.
        out: Where copies, labels and the COCO file go; a stopped run goes on there.
        workers: Labeling processes.
    """
    paths = []
    for path in find_clips(list(clips)):
        paths.append(out / path.name)
        if not (paths[-1] / "clip.json").is_file():
            shutil.copytree(path, paths[-1], ignore=shutil.ignore_patterns("labeling", "auto@*"))
    console = Console(width=130)
    if detector is None:
        file = out / "drawn.json"
        settings = LabelSettings("auto@cold", boxes2d=file, pictures=False)
        if not file.is_file():
            console.print(f"{write_drawn(paths, file)} rectangles drawn")
    else:
        settings = LabelSettings("auto@cold", detector=detector, pictures=False)
    report = run_job(paths, settings, workers, console)
    console.print(f"{len(paths)} clips, {len(report.failures)} failed, {report.totals()['seconds']:.0f} s of work")
    columns = ("truth", "labels", "recall", "precision", "centre m", "95 % m", "heading rad", "size", "moving m/s")
    table = Table("kind", "range", *columns, title="cold start, matched within 2 m")
    for group, classes in GROUPS.items():
        for range_m in RANGES_M if group in ("vehicle", "pedestrian") else ((0.0, 30.0),):
            q = quality(paths, "auto@cold", classes, range_m)
            figures = (q.recall, q.precision, q.centre_error_m, q.centre_error_p95_m, q.heading_error_rad, q.size_error)
            cells = (*(f"{v:.3f}" for v in figures), f"{q.velocity_error_moving_mps:.3f}")
            table.add_row(group, f"{range_m[0]:g}-{range_m[1]:g} m", str(q.num_truth), str(q.num_labels), *cells)
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
