"""Does a nuScenes scene become the right clip? A few rows by hand with answers by hand, the writer, and the result files."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from scenes.boxes import Box3D, Boxes
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import transform_points
from scenes.layers import LabelLayer, write_layer
from scenes.readers import nuscenes, nuscenes_mmdet3d
from scenes.readers.nuscenes_schema import TABLE_NAMES, attribute_of, visibility_token
from scenes.readers.nuscenes_tables import find_version
from scenes.readers.nuscenes_writer import write_nuscenes
from scenes.readers.results import clip_results, layers_to_results, results_to_layers
from surround4d import main

HALF = float(np.sqrt(0.5))
STAMPS_US = (1_000_000_000, 1_000_500_000, 1_002_500_000)
"""Three samples: half a second apart, then two seconds."""


def yaw_wxyz(yaw_deg: float) -> list[float]:
    """A turn about +z as w, x, y, z."""
    return [float(np.cos(np.deg2rad(yaw_deg) / 2)), 0.0, 0.0, float(np.sin(np.deg2rad(yaw_deg) / 2))]


def handmade_tables() -> dict[str, list[dict]]:
    """The ego stands at (100, 200), looks along world +y; a car ahead moves, a pedestrian is to the left, an animal and a UFO too."""
    tables: dict[str, list[dict]] = {name: [] for name in TABLE_NAMES}
    tables["log"] = [{"token": "log", "logfile": "x", "vehicle": "n1", "date_captured": "2018-07-24", "location": "here"}]
    tables["visibility"] = [{"token": "3", "level": "v60-80", "description": ""}]
    tables["category"] = [
        {"token": f"cat{k}", "name": name} for k, name in enumerate(("vehicle.car", "human.pedestrian.child", "animal", "vehicle.ufo"))
    ]
    tables["instance"] = [{"token": f"obj{k}", "category_token": f"cat{k}"} for k in range(4)]
    tables["sensor"] = [
        {"token": "s_cam", "channel": "CAM_FRONT", "modality": "camera"},
        {"token": "s_lidar", "channel": "LIDAR_TOP", "modality": "lidar"},
    ]
    tables["calibrated_sensor"] = [
        {
            "token": "c_cam",
            "sensor_token": "s_cam",
            "translation": [1.5, 0.0, 1.6],
            "rotation": [0.5, -0.5, 0.5, -0.5],
            "camera_intrinsic": [[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]],
        },
        {"token": "c_lidar", "sensor_token": "s_lidar", "translation": [1.0, 0, 1.8], "rotation": yaw_wxyz(-90), "camera_intrinsic": []},
    ]
    tables["scene"] = [{"token": "sc", "name": "scene-1", "log_token": "log", "description": "by hand", "first_sample_token": "t0"}]
    for k, stamp in enumerate(STAMPS_US):
        after = f"t{k + 1}" if k + 1 < len(STAMPS_US) else ""
        tables["sample"].append({"token": f"t{k}", "timestamp": stamp, "next": after, "prev": "", "scene_token": "sc"})
        add_reading(tables, f"t{k}", "c_lidar", stamp, [100.0, 200.0, 0.0], f"samples/LIDAR_TOP/{k}.pcd.bin")
        add_reading(tables, f"t{k}", "c_cam", stamp - 30_000, [100.0, 199.7, 0.0], f"samples/CAM_FRONT/{k}.jpg")
        where = ([100.0, 210.0, 1.0], [100.0, 213.0, 1.0], [100.0, 230.0, 1.0])[k]
        add_annotation(tables, k, 0, where, [2.0, 4.5, 1.5], yaw_wxyz(120), points=12)
    add_annotation(tables, 0, 1, [95.0, 200.0, 0.9], [0.5, 0.6, 1.7], yaw_wxyz(90))
    add_annotation(tables, 0, 2, [90.0, 200.0, 0.9], [0.5, 0.6, 0.7], yaw_wxyz(90))
    add_annotation(tables, 0, 3, [80.0, 200.0, 5.0], [3.0, 3.0, 1.0], yaw_wxyz(90))
    return tables


def add_reading(tables: dict, sample: str, mount: str, stamp_us: int, translation: list[float], filename: str) -> None:
    token = f"{sample}_{mount}"
    tables["ego_pose"].append({"token": token, "timestamp": stamp_us, "translation": translation, "rotation": yaw_wxyz(90)})
    row = {"token": token, "sample_token": sample, "ego_pose_token": token, "calibrated_sensor_token": mount, "timestamp": stamp_us}
    size = (64, 48) if mount == "c_cam" else (0, 0)
    tables["sample_data"].append({**row, "filename": filename, "is_key_frame": True, "width": size[0], "height": size[1]})


def add_annotation(tables: dict, sample: int, instance: int, translation, size, rotation, points: int = 0) -> None:
    token = f"a{len(tables['sample_annotation'])}"
    row = {"token": token, "sample_token": f"t{sample}", "instance_token": f"obj{instance}", "visibility_token": "3"}
    row |= {"translation": translation, "size": size, "rotation": rotation, "num_lidar_pts": points, "num_radar_pts": 0}
    tables["sample_annotation"].append(row)


def write_tables(root: Path, tables: dict[str, list[dict]], pictures: bool = True) -> Path:
    """Lays the tables and their pictures out as nuScenes does; returns the version folder."""
    folder = root / "v1.0-mini"
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    for data in tables["sample_data"]:
        path = root / data["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if pictures and path.suffix == ".jpg":
            cv2.imwrite(str(path), np.full((48, 64, 3), 90, np.uint8))
        elif pictures:
            np.array([[0, 9.0, -1.8, 7.0, 3.0]], dtype=np.float32).tofile(path)
    return folder


def import_handmade(tmp_path: Path, tables: dict | None = None) -> tuple[Clip, list[str]]:
    folder = write_tables(tmp_path / "src", tables or handmade_tables())
    notes = nuscenes.import_scene(folder, "scene-1", tmp_path / "clip")
    return Clip.open(tmp_path / "clip"), notes


def test_a_scene_by_hand_gives_the_answers_by_hand(tmp_path):
    clip, notes = import_handmade(tmp_path)
    boxes_ego = clip.boxes_ego(clip.layer("truth"), 0)
    assert boxes_ego is not None
    expected_car = [10, 0, 1, 4.5, 2.0, 1.5, np.deg2rad(30), 6, 0]  # width, length -> length, width; 120 - 90 degrees; 3 m in 0.5 s
    np.testing.assert_allclose(boxes_ego.box[0], expected_car, atol=1e-9)
    np.testing.assert_allclose(boxes_ego.box[1, :7], [0, 5, 0.9, 0.6, 0.5, 1.7, 0], atol=1e-9)  # to the left
    assert np.isnan(boxes_ego.box[1, Box3D.VX :]).all()  # seen once: velocity unknown
    assert boxes_ego.class_id.tolist() == [0, 5]
    assert boxes_ego.num_points.tolist() == [12, 0]
    np.testing.assert_allclose(boxes_ego.visibility, 0.7)
    assert any("'animal'" in note and "none of our ten" in note for note in notes)
    assert any("'vehicle.ufo'" in note and "unknown" in note for note in notes)


def test_velocity_is_the_devkits_box_velocity(tmp_path):
    clip, _ = import_handmade(tmp_path)
    layer = clip.layer("truth")
    np.testing.assert_allclose(layer.boxes_world[1].box[0, 7:], [0, 20 / 2.5])  # over both neighbours, 2.5 s <= 3 s
    assert np.isnan(layer.boxes_world[2].box[0, 7:]).all()  # one neighbour, 2 s > 1.5 s


def test_the_camera_sees_from_where_the_ego_was_at_its_own_time(tmp_path):
    clip, _ = import_handmade(tmp_path)
    camera, view = clip.rig["CAM_FRONT"], clip.frames[0].views["CAM_FRONT"]
    assert clip.frames[0].timestamp_ns - view.timestamp_ns == 30_000_000
    points_cam = transform_points(clip.cam_from_ego_at_ref(0, "CAM_FRONT"), np.array([[10.0, 1.0, 1.0]]))
    np.testing.assert_allclose(points_cam, [[-1.0, 0.6, 10.0 + 0.3 - 1.5]], atol=1e-9)  # left is -x, below is +y
    pixels, visible = camera.project(points_cam)
    np.testing.assert_allclose(pixels, [[31.5 - 50 / 8.8, 23.5 + 50 * 0.6 / 8.8]])
    assert visible.all()


def test_lidar_points_come_into_the_ego_frame(tmp_path):
    clip, _ = import_handmade(tmp_path)
    with np.load(clip.path / "lidar" / "000000.npz") as sweep:
        np.testing.assert_allclose(sweep["points_ego"], [[10.0, 0.0, 0.0]], atol=1e-5)  # lidar y is ego x


def test_pictures_between_samples_become_frames_without_labels(tmp_path):
    tables = handmade_tables()
    add_reading(tables, "t1", "c_cam", STAMPS_US[0] + 200_000, [100.0, 202.0, 0.0], "samples/CAM_FRONT/sweep.jpg")
    tables["sample_data"][-1] |= {"is_key_frame": False, "token": "sweep"}
    folder = write_tables(tmp_path / "src", tables)
    nuscenes.import_scene(folder, "scene-1", tmp_path / "clip", sweeps=True)
    clip = Clip.open(tmp_path / "clip")
    assert len(clip) == 4
    assert sorted(clip.layer("truth").boxes_world) == [0, 2, 3]
    assert clip.info["sample_tokens"] == ["t0", "", "t1", "t2"]


def _drop_table(root: Path) -> None:
    (root / "v1.0-mini" / "ego_pose.json").unlink()


def _cut_picture(root: Path) -> None:
    path = root / "samples" / "CAM_FRONT" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-40])


def _edit(table: str, row: int, **values):
    def apply(root: Path) -> None:
        path = root / "v1.0-mini" / f"{table}.json"
        rows = json.loads(path.read_text())
        rows[row] |= values
        path.write_text(json.dumps(rows))

    return apply


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (_drop_table, ["missing table(s) ego_pose.json"]),
        (_cut_picture, ["1.jpg", "truncated"]),
        (lambda root: (root / "samples" / "CAM_FRONT" / "2.jpg").unlink(), ["2.jpg", "missing image"]),
        (_edit("sample_data", 1, width=32), ["0.jpg", "expected 32x48", "got 64x48"]),
        (_edit("ego_pose", 2, translation=[float("nan"), 0, 0]), ["ego_pose.json", "t1_c_lidar", "finite"]),
        (_edit("ego_pose", 2, rotation=[1, 1, 0, 0]), ["ego_pose.json", "t1_c_lidar", "unit quaternion"]),
        (_edit("sample", 1, timestamp=STAMPS_US[0] - 5), ["sample.json", "t1", "backwards"]),
        (_edit("calibrated_sensor", 0, token="elsewhere"), ["calibrated_sensor.json", "c_cam"]),
        (_edit("calibrated_sensor", 0, camera_intrinsic=[]), ["c_cam", "camera_intrinsic"]),
        (_edit("sample_annotation", 0, size=[0, 1, 1]), ["sample_annotation.json", "a0", "positive"]),
        (_edit("sample_annotation", 0, instance_token="nobody"), ["instance.json", "nobody", "a0"]),
        (_edit("sample_annotation", 0, num_lidar_pts="many"), ["v1.0-mini", "many", "restore the recording"]),
    ],
)
def test_broken_input_is_one_sentence_and_writes_nothing(tmp_path, capsys, breakage, words):
    write_tables(tmp_path / "src", handmade_tables())
    breakage(tmp_path / "src")
    nuscenes.open_tables.cache_clear()
    assert main(["import", "nuscenes", str(tmp_path / "src"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert all(word in (said.out + said.err).replace("\n", " ") for word in words), said
    assert not list((tmp_path / "out").glob("*"))


def test_several_versions_want_a_choice(tmp_path):
    write_tables(tmp_path, handmade_tables())
    assert find_version(tmp_path) == tmp_path / "v1.0-mini"
    (tmp_path / "v1.0-test").mkdir()
    (tmp_path / "v1.0-test" / "scene.json").write_text("[]")
    with pytest.raises(DataError, match="--version"):
        find_version(tmp_path)
    assert find_version(tmp_path, "v1.0-mini") == tmp_path / "v1.0-mini"


def assert_same_clip(a: Clip, b: Clip, layer: str = "truth") -> None:
    """Everything the nuScenes layout carries is the same (times and images exactly, poses to rounding)."""
    assert [c.to_json() for c in a.rig.cameras] == [c.to_json() for c in b.rig.cameras]
    assert [f.timestamp_ns for f in a.frames] == [f.timestamp_ns for f in b.frames]
    for x, y in zip(a.frames, b.frames, strict=True):
        np.testing.assert_allclose(x.world_from_ego, y.world_from_ego, atol=1e-9)
        for name, view in x.views.items():
            assert (view.timestamp_ns, view.alive) == (y.views[name].timestamp_ns, y.views[name].alive)
            np.testing.assert_allclose(view.world_from_ego_at_cam, y.views[name].world_from_ego_at_cam, atol=1e-9)
            if view.alive:
                assert (a.path / view.image).read_bytes() == (b.path / y.views[name].image).read_bytes()
    old, new = a.layer(layer).boxes_world, b.layer(layer).boxes_world
    assert sorted(old) == sorted(new)
    for index in old:
        for name in ("box", "class_id", "track_id", "score", "visibility", "num_points", "ignore", "provenance"):
            np.testing.assert_array_equal(getattr(old[index], name), getattr(new[index], name))


def test_a_native_clip_goes_through_the_nuscenes_layout_unchanged(tiny_clip, tmp_path):
    failed, done = write_nuscenes([tiny_clip.path], tmp_path / "out")
    assert (failed, done) == ([], 1)
    nuscenes.import_scene(find_version(tmp_path / "out"), tiny_clip.name, tmp_path / "back")
    assert_same_clip(tiny_clip, Clip.open(tmp_path / "back"))


def test_the_written_tables_are_complete_as_the_devkit_wants_them(tiny_clip, tmp_path):
    write_nuscenes([tiny_clip.path], tmp_path / "out")
    folder = find_version(tmp_path / "out")
    tables = {name: json.loads((folder / f"{name}.json").read_text()) for name in TABLE_NAMES}
    tokens = {name: {row["token"] for row in rows} for name, rows in tables.items()}
    assert all(len(tokens[name]) == len(rows) for name, rows in tables.items())
    for name, rows in tables.items():
        for row in rows:
            for key, value in row.items():
                owner = key.removesuffix("_token")
                if key.endswith("_token") and owner in tokens:
                    assert value in tokens[owner], (name, key)
                if key in ("prev", "next", "first_sample_token", "last_sample_token") and value:
                    assert value in tokens["sample" if key.endswith("sample_token") else name]
    assert set(tables["map"][0]["log_tokens"]) == tokens["log"]
    assert (tmp_path / "out" / tables["map"][0]["filename"]).is_file()
    for data in tables["sample_data"]:
        assert data["filename"] == "" or (tmp_path / "out" / data["filename"]).is_file()
    annotation = tables["sample_annotation"][0]
    assert annotation["size"] == [1.9, 4.5, 1.6]  # width, length, height
    assert {"CAM_FRONT", "CAM_LEFT", "CAM_FRONT_FISHEYE", "LIDAR_TOP"} == {row["channel"] for row in tables["sensor"]}


def test_the_same_clips_give_the_same_tables(tiny_clip, tmp_path):
    for name in ("a", "b"):
        write_nuscenes([tiny_clip.path], tmp_path / name)
    for path in find_version(tmp_path / "a").iterdir():
        assert path.read_bytes() == (find_version(tmp_path / "b") / path.name).read_bytes()


def test_a_broken_clip_stays_out_and_the_others_are_written(tiny_clip, tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    tiny_clip.path.rename(source / "good")
    (source / "bad").mkdir()
    (source / "bad" / "clip.json").write_text("{}")
    assert main(["nuscenes-export", str(source), str(tmp_path / "out")]) == 2
    assert "bad failed" in capsys.readouterr().out
    assert len(json.loads((find_version(tmp_path / "out") / "scene.json").read_text())) == 1


def make_model_layer(clip: Clip) -> LabelLayer:
    """Truth moved a little, scored, as a model would say it."""
    frames = {}
    for index, boxes in clip.layer("truth").boxes_world.items():
        frames[index] = Boxes.make(boxes.box + 0.01, boxes.class_id, track_id=boxes.track_id, score=[0.9, 0.3])
    return LabelLayer("model@x", frames)


def test_detection_results_by_hand(tmp_path):
    clip, _ = import_handmade(tmp_path)
    results = clip_results(clip, clip.layer("truth"), "detection")
    assert sorted(results) == ["t0", "t1", "t2"]
    car = results["t0"][0]
    assert car["translation"] == [100.0, 210.0, 1.0]
    assert car["size"] == [2.0, 4.5, 1.5]
    np.testing.assert_allclose(car["rotation"], yaw_wxyz(120), atol=1e-12)
    np.testing.assert_allclose(car["velocity"], [0, 6], atol=1e-9)
    assert (car["detection_name"], car["detection_score"], car["attribute_name"]) == ("car", 1.0, "vehicle.moving")
    assert results["t0"][1]["attribute_name"] == "pedestrian.standing"


@pytest.mark.parametrize("task", ["detection", "tracking"])
def test_results_go_out_and_come_back(tiny_clip, tmp_path, task):
    layer = make_model_layer(tiny_clip)
    write_layer(tiny_clip.path, layer)
    file = tmp_path / "results.json"
    arguments = [str(file), str(tiny_clip.path), "--task", task]
    assert main(["nuscenes-results", "to", *arguments, "--layer", "model@x"]) == 0
    assert main(["nuscenes-results", "from", *arguments, "--layer", "model@y"]) == 0
    for index, boxes in Clip.open(tiny_clip.path).layer("model@y").boxes_world.items():
        np.testing.assert_allclose(boxes.box, layer.boxes_world[index].box, atol=1e-9)
        np.testing.assert_array_equal(boxes.score, layer.boxes_world[index].score)
        np.testing.assert_array_equal(boxes.track_id, layer.boxes_world[index].track_id if task == "tracking" else -1)


def test_bad_results_are_named_and_write_nothing(tiny_clip, tmp_path):
    write_layer(tiny_clip.path, make_model_layer(tiny_clip))
    results, _ = layers_to_results([(tiny_clip.path, "model@x")], "detection")
    token = next(iter(results["results"]))
    file = tmp_path / "results.json"
    for key, value, words in (("detection_name", "ufo", "ufo"), ("size", [1, 2], "size"), ("rotation", [0, 0, 0, 0], "quaternion")):
        broken = json.loads(json.dumps(results))
        broken["results"][token][1][key] = value
        file.write_text(json.dumps(broken))
        with pytest.raises(DataError, match=f"sample {token}, box 1.*{words}"):
            results_to_layers(file, [tiny_clip.path], "model@z", "detection")
    file.write_text(json.dumps({"results": {"another": []}}))
    with pytest.raises(DataError, match="none of them"):
        results_to_layers(file, [tiny_clip.path], "model@z", "detection")
    assert "model@z" not in tiny_clip.layer_names


def test_attributes_and_visibility_levels():
    assert attribute_of("bus", 0.0) == "vehicle.stopped"
    assert attribute_of("bicycle", 3.0) == "cycle.with_rider"
    assert attribute_of("barrier", 3.0) == ""
    assert [visibility_token(v) for v in (0.0, 0.4, 0.79, 1.0, float("nan"))] == ["1", "2", "3", "4", "4"]


def test_the_mmdetection3d_sample_lies_right(realdata, tmp_path):
    source = realdata / "nuscenes_mmdet3d"
    (sample,) = nuscenes_mmdet3d.find_samples(source)
    notes = nuscenes_mmdet3d.import_sample(sample, tmp_path / "clip", link=True)
    clip = Clip.open(tmp_path / "clip")
    boxes_ego = clip.boxes_ego(clip.layer("truth"), 0)
    assert boxes_ego is not None and len(boxes_ego) == 68 and len(notes) == 1
    with np.load(clip.path / "lidar" / "000000.npz") as sweep:
        points_ego = sweep["points_ego"].astype(np.float64)
    near = points_ego[(np.hypot(points_ego[:, 0], points_ego[:, 1]) < 12) & (np.abs(points_ego[:, 2]) < 0.5)]
    assert abs(np.median(near[:, 2])) < 0.15  # the road is at z = 0
    truck = boxes_ego.box[np.argmax(boxes_ego.num_points)]
    points_cam = transform_points(clip.cam_from_ego_at_ref(0, "CAM_FRONT"), truck[None, :3])
    pixels, visible = clip.rig["CAM_FRONT"].project(points_cam)
    assert visible.all() and 250 < pixels[0, 0] < 500  # the truck at the left of the front picture, seen on the overlay
    write_nuscenes([clip.path], tmp_path / "out")
    nuscenes.import_scene(find_version(tmp_path / "out"), clip.name, tmp_path / "back")
    assert_same_clip(clip, Clip.open(tmp_path / "back"))
