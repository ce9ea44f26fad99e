"""Do the nuScenes sample and the Argoverse 2 logs import, show and come back unchanged? python -m benchmarks.readers ../shared/realdata

Each recording is imported and compared with its own files by a second, plain calculation; drawn; laid out in the nuScenes schema,
imported from there and compared; written as nuScenes tracking results and read back.
"""

import pickle
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from pyarrow import feather

from scenes.atomic import write_json
from scenes.boxes import CLASS_NAMES, Boxes
from scenes.clips import Clip, find_clips
from scenes.geometry import rotation_from_yaw
from scenes.readers.command import import_dataset
from scenes.readers.nuscenes_writer import write_nuscenes
from scenes.readers.results import layers_to_results, results_to_layers
from surround4d import main as surround4d

Dataset = Literal["nuscenes", "av2"]


def main() -> None:
    """Prints one table row a recording, all differences the largest found; a failed step ends the run."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/realdata")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sources: list[tuple[Dataset, Path]] = [("nuscenes", root / "nuscenes_mmdet3d"), ("av2", root / "argoverse2")]
        for dataset, source in sources:
            clips = Path(folder) / dataset
            assert import_dataset(dataset, source, clips) == 0
            rows += [row(dataset, source, Clip.open(path), Path(folder) / "work" / path.name) for path in find_clips(clips)]
    print("\n| recording | frames | boxes | against its own files: centre, size, turn | sheets | through the nuScenes schema: "
          "boxes, poses, pictures | through results: boxes |")  # fmt: skip
    print("| --- | ---: | ---: | --- | ---: | --- | --- |")
    print("\n".join(rows))


def row(dataset: Dataset, source: Path, clip: Clip, work: Path) -> str:
    """One recording's line of the table."""
    boxes = clip.layer("truth").boxes_world
    truth = {"nuscenes": nuscenes_boxes, "av2": argoverse_boxes}[dataset](source, clip)
    found = np.concatenate([b.box[:, :7] for b in boxes.values()])
    assert len(truth) == len(found), (clip.name, len(truth), len(found))
    truth, found = truth[np.lexsort(truth.round(3).T)], found[np.lexsort(found.round(3).T)]
    centre, size = np.abs(truth[:, :3] - found[:, :3]).max(), np.abs(truth[:, 3:6] - found[:, 3:6]).max()
    turn = np.abs(np.angle(np.exp(1j * (truth[:, 6] - found[:, 6])))).max()
    assert surround4d(["show", str(clip.path), "--out", str(work / "sheets")]) == 0
    sheets = len(list((work / "sheets").rglob("*.png")))
    return (
        f"| {clip.name[:20]} | {len(clip)} | {len(found)} | {centre:.1e} m, {size:.1e} m, {turn:.1e} rad | {sheets} | "
        f"{through_schema(clip, work)} | {through_results(clip, work)} |"
    )


def argoverse_boxes(source: Path, clip: Clip) -> np.ndarray:
    """(M, 7) centres, sizes and headings in the city frame from the log's own tables, with plain quaternion arithmetic."""
    log = next(p.parent for p in source.rglob("annotations.feather") if p.parent.name in clip.name)
    poses = feather.read_table(log / "city_SE3_egovehicle.feather").to_pydict()
    pose_row = {stamp: k for k, stamp in enumerate(poses["timestamp_ns"])}
    cuboids = feather.read_table(log / "annotations.feather").to_pydict()
    kept = []
    for k, (stamp, category) in enumerate(zip(cuboids["timestamp_ns"], cuboids["category"], strict=True)):
        if category in ("BOLLARD", "SIGN"):
            continue
        p = pose_row[stamp]
        world_from_axle, axle_from_box = (
            matrix_of(*(table[name][index] for name in ("qw", "qx", "qy", "qz"))) for table, index in ((poses, p), (cuboids, k))
        )
        centre = world_from_axle @ [cuboids[f"t{axis}_m"][k] for axis in "xyz"] + [poses[f"t{axis}_m"][p] for axis in "xyz"]
        ahead = world_from_axle @ axle_from_box[:, 0]
        kept.append([*centre, *(cuboids[f"{side}_m"][k] for side in ("length", "width", "height")), np.arctan2(ahead[1], ahead[0])])
    return np.array(kept)


def matrix_of(w: float, x: float, y: float, z: float) -> np.ndarray:
    """(3, 3) rotation of a unit quaternion."""
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def nuscenes_boxes(source: Path, clip: Clip) -> np.ndarray:
    """(M, 7) centres, sizes and headings in the global frame from the sample's own file."""
    sample = pickle.loads(next(source.glob("*.pkl")).read_bytes())["data_list"][0]
    world_from_lidar = np.array(sample["ego2global"]) @ np.array(sample["lidar_points"]["lidar2ego"])
    kept = []
    for instance in sample["instances"]:
        if instance["bbox_label_3d"] >= 0:
            x, y, z, *size, yaw = instance["bbox_3d"]
            ahead = world_from_lidar[:3, :3] @ rotation_from_yaw(np.array(yaw))[:, 0]
            kept.append([*(world_from_lidar @ [x, y, z, 1])[:3], *size, np.arctan2(ahead[1], ahead[0])])
    return np.array(kept)


def through_schema(clip: Clip, work: Path) -> str:
    """Largest differences after a way through the nuScenes schema and back."""
    failed, _ = write_nuscenes([clip.path], work / "schema")
    assert not failed and import_dataset("nuscenes", work / "schema", work / "back") == 0
    back = Clip.open(find_clips(work / "back")[0])
    pose = max(np.abs(a.world_from_ego - b.world_from_ego).max() for a, b in zip(clip.frames, back.frames, strict=True))
    alive = [(frame.index, camera) for frame in clip.frames for camera, view in frame.views.items() if view.alive]
    same = sum(np.array_equal(clip.image(i, camera), back.image(i, camera)) for i, camera in alive)
    lens = max(np.abs(np.array([a.fx_px - b.fx_px, a.cx_px - b.cx_px, *(a.ego_from_cam - b.ego_from_cam).ravel()])).max()
               for a, b in zip(clip.rig.cameras, back.rig.cameras, strict=True))  # fmt: skip
    assert lens < 1e-9, lens
    return (
        f"{difference(clip, clip.layer('truth').boxes_world, back.layer('truth').boxes_world)}, {pose:.0e} m, {same} of {len(alive)} equal"
    )


def through_results(clip: Clip, work: Path) -> str:
    """Largest difference after a way through the detection result JSON and back."""
    results, failed = layers_to_results([(clip.path, "truth")], "detection")
    write_json(work / "results.json", results)
    _, failed_too = results_to_layers(work / "results.json", [clip.path], "model@back", "detection", replace=True)
    assert not failed and not failed_too
    kept = {i: b.select(~b.ignore) for i, b in clip.layer("truth").boxes_world.items()}
    return difference(clip, kept, clip.layer("model@back").boxes_world, tracks=False)


def difference(clip: Clip, before: dict[int, Boxes], after: dict[int, Boxes], tracks: bool = True) -> str:
    """The largest difference of any number of any box, after checking that frames, classes and identities are the same."""
    worst, track_of = 0.0, {}
    for frame in clip.frames:
        a, b = before[frame.index], after.get(frame.index, Boxes.empty())
        assert len(a) == len(b), (frame.index, len(a), len(b))
        order_a, order_b = (np.lexsort(boxes.box[:, :7].round(4).T) for boxes in (a, b))
        a, b = a.select(order_a), b.select(order_b)
        assert [CLASS_NAMES[k] for k in a.class_id] == [CLASS_NAMES[k] for k in b.class_id]
        gap = a.box - b.box
        gap[:, 6] = np.angle(np.exp(1j * gap[:, 6]))
        worst = max(worst, np.nanmax(np.abs(gap), initial=0.0))
        if tracks:
            for mine, theirs in zip(a.track_id, b.track_id, strict=True):
                assert track_of.setdefault(mine, theirs) == theirs, "a track was torn"
    return f"{worst:.0e}"


if __name__ == "__main__":
    main()
