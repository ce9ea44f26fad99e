"""How do label layers become nuScenes result files (detection or tracking), and the other way round?

Results are in the global frame (our `world`), size is width, length, height, rotation w, x, y, z. A frame is known by its sample
token: the imported one, or the stable token that `surround4d nuscenes-export` writes.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from rich.console import Console

from scenes.atomic import read_json, write_json
from scenes.boxes import CLASS_NAMES, Box3D, Boxes, class_id_of
from scenes.clips import Clip, find_clips
from scenes.errors import ConfigError, DataError, SurroundError
from scenes.geometry import quaternion_from_rotation, rotation_from_quaternion, rotation_from_yaw, yaw_from_rotation
from scenes.layers import LabelLayer, write_layer
from scenes.readers.nuscenes_schema import TRACKED_CLASSES, attribute_of, sample_token
from scenes.readers.tracks import track_numbers

Task = Literal["detection", "tracking"]
MAX_BOXES_PER_SAMPLE = 500
"""The official evaluation refuses more; the best scored ones stay."""


def convert(
    direction: tyro.conf.Positional[Literal["to", "from"]],
    file: tyro.conf.Positional[Path],
    data: tyro.conf.Positional[tuple[Path, ...]],
    /,
    layer: str,
    task: Task = "detection",
    replace: bool = False,
) -> int:
    """Writes a label layer of clips as a nuScenes result file ("to"), or reads such a file into a layer ("from").

    Args:
        direction: "to" writes FILE from the layer, "from" writes the layer from FILE.
        file: The result JSON.
        data: Clips or folders of clips.
        layer: Name of the label layer, such as model@nano.
        task: detection or tracking.
        replace: Overwrite an existing layer ("from") or file ("to").
    """
    console = Console()
    paths = find_clips(list(data))
    if direction == "to":
        if file.exists() and not replace:
            raise DataError(f"{file}: exists already; choose another name or give --replace")
        results, failed = layers_to_results([(path, layer) for path in paths], task)
        write_json(file, results)
        console.print(f"{len(results['results'])} samples in {file}")
    else:
        notes, failed = results_to_layers(file, paths, layer, task, replace)
        for note in notes:
            console.print(note, markup=False, highlight=False, soft_wrap=True)
    for sentence in failed:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True, style="red")
    return 2 if failed else 0


def layers_to_results(clips_and_layers: list[tuple[Path, str]], task: Task) -> tuple[dict, list[str]]:
    """The result JSON of one layer of each clip, and the sentences of clips that failed; if all fail, `DataError`."""
    results: dict[str, list[dict]] = {}
    failed = []
    for path, name in clips_and_layers:
        try:
            clip = Clip.open(path)
            mine = clip_results(clip, clip.layer(name), task)
            doubles = sorted(set(mine) & set(results))
            if doubles:
                raise DataError(f"{path}: sample {doubles[0]} is in another clip too; give each clip its own name")
            results.update(mine)
        except SurroundError as error:
            failed.append(f"{path.name} failed: {error}")
    if len(failed) == len(clips_and_layers):
        raise DataError("; ".join(failed) or "expected clips, got none; check the path")
    modality = {"use_camera": True, "use_lidar": False, "use_radar": False, "use_map": False, "use_external": False}
    return {"meta": modality, "results": results}, failed


def clip_results(clip: Clip, layer: LabelLayer, task: Task) -> dict[str, list[dict]]:
    """Sample token to result boxes, for every frame of a clip that has a token; unlabelled frames have none.

    The tracking task takes the boxes with a track number of its seven classes; ignored boxes are left out, an unknown velocity is
    written as zero.
    """
    results = {}
    for frame in clip.frames:
        token = sample_token(clip, frame.index)
        boxes = layer.boxes_world.get(frame.index, Boxes.empty())
        boxes = boxes.select(~boxes.ignore)
        boxes = boxes.select(np.argsort(-boxes.score, kind="stable")[:MAX_BOXES_PER_SAMPLE])
        if token:
            rows = [_result_box(token, boxes, row, task) for row in range(len(boxes))]
            results[token] = [row for row in rows if row is not None]
    return results


def _result_box(token: str, boxes: Boxes, row: int, task: Task) -> dict | None:
    box, name = boxes.box[row], CLASS_NAMES[int(boxes.class_id[row])]
    velocity = np.nan_to_num(box[Box3D.VX : Box3D.VY + 1])
    common = {
        "sample_token": token,
        "translation": box[:3].tolist(),
        "size": box[[Box3D.WIDTH, Box3D.LENGTH, Box3D.HEIGHT]].tolist(),
        "rotation": quaternion_from_rotation(rotation_from_yaw(box[Box3D.YAW])).tolist(),
        "velocity": velocity.tolist(),
    }
    score = float(boxes.score[row])
    if task == "detection":
        attribute = attribute_of(name, float(np.hypot(*velocity)))
        return {**common, "detection_name": name, "detection_score": score, "attribute_name": attribute}
    if boxes.track_id[row] < 0 or name not in TRACKED_CLASSES:
        return None
    return {**common, "tracking_id": str(int(boxes.track_id[row])), "tracking_name": name, "tracking_score": score}


def results_to_layers(
    file: Path, clip_paths: list[Path], layer_name: str, task: Task, replace: bool = False
) -> tuple[list[str], list[str]]:
    """Writes the boxes of a result file as a layer of each clip; returns notes and the sentences of clips that failed.

    The whole file is validated first, so that bad input writes nothing. Clips without any sample of the file are left alone.
    """
    if layer_name == "truth":
        raise ConfigError("--layer truth: results are not the truth; expected a name such as model@run")
    by_token = read_results(file, task)
    notes, failed, used = [], [], set()
    for path in clip_paths:
        try:
            clip = Clip.open(path)
            tokens = {sample_token(clip, frame.index): frame.index for frame in clip.frames}
            mine = {tokens[token]: by_token[token] for token in tokens if token and token in by_token}
            used |= tokens.keys() & by_token.keys()
            if not mine:
                notes.append(f"{path.name}: no sample of it in {file.name}; left alone")
                continue
            write_layer(path, results_layer(layer_name, mine, task, file), replace=replace)
            notes.append(f"{path.name}: {sum(map(len, mine.values()))} boxes in {len(mine)} frames")
        except SurroundError as error:
            failed.append(f"{path.name} failed: {error}")
    if not used:
        raise DataError(f"{file}: expected samples of the given clips, got none of them; is it the right data, or another version?")
    if len(by_token) > len(used):
        notes.append(f"{len(by_token) - len(used)} samples of {file.name} belong to none of the given clips")
    return notes, failed


def read_results(file: Path, task: Task) -> dict[str, list[dict]]:
    """Sample token to result boxes, every box validated: a broken one is named by token and row."""
    results = read_json(file).get("results")
    if not isinstance(results, dict):
        raise DataError(f"{file}: expected an object 'results' of sample tokens, got {type(results).__name__}; is it a result file?")
    fields = ("translation", "size", "rotation", f"{task}_name", f"{task}_score")
    for token, rows in results.items():
        if not isinstance(rows, list):
            raise DataError(f"{file}, sample {token}: expected a list of boxes, got {type(rows).__name__}; write the results again")
        for number, row in enumerate(rows):
            _check_result(f"{file}, sample {token}, box {number}", row, fields)
    return results


def _check_result(where: str, row: dict, fields: tuple[str, ...]) -> None:
    missing = [name for name in fields if not isinstance(row, dict) or name not in row]
    if missing:
        raise DataError(f"{where}: expected {', '.join(missing)}, got none; is --task right?")
    class_id_of(row[fields[3]], where)
    try:
        numbers = np.array([*row["translation"], *row["size"], *row["rotation"], row[fields[4]]], dtype=np.float64).reshape(11)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: expected three numbers of translation and size, four of rotation, a score ({error})") from error
    if not np.isfinite(numbers).all() or (numbers[3:6] <= 0).any() or np.linalg.norm(numbers[6:10]) < 0.5:
        raise DataError(f"{where}: expected finite numbers, positive sizes, a unit quaternion, got {numbers.tolist()}; drop the box")


def results_layer(name: str, rows_of_frame: dict[int, list[dict]], task: Task, file: Path) -> LabelLayer:
    """A layer of validated result boxes (see `read_results`) by frame index."""
    rows = [(index, row) for index, values in sorted(rows_of_frame.items()) for row in values]
    box = np.array([_box_row(row) for _, row in rows], dtype=np.float64).reshape(-1, 9)
    track_id = _track_ids([row for _, row in rows]) if task == "tracking" else None
    class_id = [CLASS_NAMES.index(row[f"{task}_name"]) for _, row in rows]
    score = np.clip([float(row[f"{task}_score"]) for _, row in rows], 0, 1)
    boxes = Boxes.make(box, class_id, track_id=track_id, score=score)
    frame_index = np.array([index for index, _ in rows], dtype=np.int64)
    by_frame = {index: boxes.select(np.flatnonzero(frame_index == index)) for index in rows_of_frame}
    return LabelLayer(name, by_frame, [], {"created_by": "surround4d nuscenes-results", "file": Path(file).name, "task": task})


def _box_row(row: dict) -> list[float]:
    width, length, height = row["size"]
    yaw = float(yaw_from_rotation(rotation_from_quaternion(np.array(row["rotation"], dtype=np.float64))))
    velocity = [np.nan if v is None else float(v) for v in row.get("velocity", [None, None])[:2]]
    return [*row["translation"], length, width, height, yaw, *velocity]


def _track_ids(rows: list[dict]) -> np.ndarray:
    """Track numbers: the file's own where all are whole numbers, else counted by first appearance."""
    names = [str(row.get("tracking_id", "")) for row in rows]
    if all(name.isdecimal() for name in names):
        return np.array([int(name) for name in names], dtype=np.int64)
    return track_numbers(names)
