"""Does a PandaSet sequence become the right clip? A small one by hand with answers by hand, and the real one where it is."""

import gzip
import io
import json
import pickle
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

from scenes.boxes import Box3D
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import transform_points, wrap_angle
from scenes.readers import pandaset
from scenes.readers.pickles import read_pickle, read_pickled_table
from scenes.readers.tracks import count_points_inside, track_velocities
from surround4d import main

HALF = float(np.sqrt(0.5))


class _Name:
    """A global that a pickle names without importing it."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Made:
    """An object made by NEWOBJ and BUILD (`arguments` None) or by calling a global."""

    def __init__(self, name: _Name, state: object = None, arguments: tuple | None = None) -> None:
        self.name, self.state, self.arguments = name, state, arguments


class _OldPandasPickler(pickle._Pickler):
    """Writes the same opcodes as pandas 0.2x did, without pandas."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_name(self, value: _Name) -> None:
        self.write(f"c{value.module}\n{value.name}\n".encode())

    def save_made(self, value: _Made) -> None:
        self.save_name(value.name)
        if value.arguments is not None:
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        else:
            self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
            self.save(value.state)
            self.write(pickle.BUILD)

    dispatch[_Name] = save_name
    dispatch[_Made] = save_made


def write_pandas_pickle(path: Path, columns: dict[str, list]) -> None:
    """A gzipped pickle of a data frame as pandas 0.25 lays it out: one block a column here."""
    names = np.array(list(columns), dtype=object)
    length = len(next(iter(columns.values())))
    index = _Name("pandas.core.indexes.base", "_new_Index")
    axes = [
        _Made(index, arguments=(_Name("pandas.core.indexes.base", "Index"), {"data": names, "name": None})),
        _Made(index, arguments=(_Name("pandas.core.indexes.range", "RangeIndex"), {"name": None, "start": 0, "stop": length, "step": 1})),
    ]
    blocks = []
    for at, values in enumerate(columns.values()):
        array = np.array(values, dtype=object if isinstance(values[0], str) else None).reshape(1, -1)
        blocks.append({"values": array, "mgr_locs": slice(at, at + 1, 1)})
    manager = _Made(_Name("pandas.core.internals.managers", "BlockManager"), (axes, [], [], {"0.14.1": {"axes": axes, "blocks": blocks}}))
    frame = _Made(_Name("pandas.core.frame", "DataFrame"), {"_data": manager, "_typ": "dataframe", "_metadata": []})
    buffer = io.BytesIO()
    _OldPandasPickler(buffer, protocol=3).dump(frame)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(buffer.getvalue()))


def cuboids(k: int) -> dict[str, list]:
    """Frame k: a car ahead at 10 m/s along the road, a parked van to the left, a walker labelled by both lidars, a bird, a UFO."""
    rows = [
        ("car", "Car", -np.pi / 2, False, 15.0 + k, 7.0, 0.4, 1.8, 4.2, 1.5, "-", -1),
        ("van", "Pickup Truck", 0.0, True, 5.0, 17.0, 0.65, 2.0, 5.0, 2.0, "-", -1),
        ("walk0", "Pedestrian", 0.0, False, 5.0 + 0.1 * k, -3.0, 0.5, 0.5, 0.6, 1.7, "walk1", 0),
        ("walk1", "Pedestrian", 0.0, False, 5.0 + 0.1 * k, -3.1, 0.5, 0.5, 0.6, 1.7, "walk0", 1),
        ("bird", "Animals - Bird", 0.0, False, 9.0, 9.0, 3.0, 0.2, 0.2, 0.2, "-", -1),
        ("ufo", "Flying Saucer", 0.0, False, 9.0, 9.0, 30.0, 5.0, 5.0, 2.0, "-", -1),
    ]
    names = ("uuid", "label", "yaw", "stationary", "position.x", "position.y", "position.z")
    names += ("dimensions.x", "dimensions.y", "dimensions.z", "cuboids.sibling_id", "cuboids.sensor_id")
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


def pose(x: float, y: float, z: float, w: float, i: float, j: float, k: float) -> dict:
    """A row of a poses.json."""
    return {"position": {"x": x, "y": y, "z": z}, "heading": {"w": w, "x": i, "y": j, "z": k}}


def write_sequence(folder: Path, frames: int = 3) -> Path:
    """The vehicle stands at (5, 7) and looks along world +x; the lidar's y axis points forward, the road is 0.35 m below."""
    stamps = [1000.0 + 0.1 * k for k in range(frames)]
    (folder / "lidar").mkdir(parents=True)
    (folder / "lidar" / "timestamps.json").write_text(json.dumps(stamps))
    (folder / "lidar" / "poses.json").write_text(json.dumps([pose(5.0, 7.0, 0.0, HALF, 0, 0, -HALF)] * frames))
    points = {"x": [15.0, 15.5, 5.0], "y": [7.0, 7.5, 7.0], "z": [0.4, 0.1, -0.35], "i": [1.0, 2.0, 3.0], "t": [999.95] * 3, "d": [0, 0, 1]}
    write_pandas_pickle(folder / "lidar" / "00.pkl.gz", points)
    for k in range(frames):
        write_pandas_pickle(folder / "annotations" / "cuboids" / f"{k:02d}.pkl.gz", cuboids(k))
    for camera in ("front_camera", "left_camera"):
        where = folder / "camera" / camera
        where.mkdir(parents=True)
        (where / "timestamps.json").write_text(json.dumps([s - (0.05 if camera == "front_camera" else 0.075) for s in stamps]))
        heading = (0.5, -0.5, 0.5, -0.5) if camera == "front_camera" else (HALF, -HALF, 0.0, 0.0)
        (where / "poses.json").write_text(json.dumps([pose(5.9, 7.0, 1.45, *heading)] * frames))
        (where / "intrinsics.json").write_text(json.dumps({"fx": 50.0, "fy": 50.0, "cx": 31.5, "cy": 23.5}))
        for k in range(frames):
            cv2.imwrite(str(where / f"{k:02d}.jpg"), np.full((48, 64, 3), 90, np.uint8))
    return folder


def import_handmade(tmp_path: Path) -> tuple[Clip, list[str]]:
    notes = pandaset.import_sequence(write_sequence(tmp_path / "001"), tmp_path / "clip")
    return Clip.open(tmp_path / "clip"), notes


def test_a_sequence_by_hand_gives_the_answers_by_hand(tmp_path):
    clip, notes = import_handmade(tmp_path)
    layer = clip.layer("truth")
    boxes_ego = clip.boxes_ego(layer, 1)
    assert boxes_ego is not None
    assert boxes_ego.class_id.tolist() == [0, 1, 5]
    car, van, walker = boxes_ego.box
    # PandaSet's x, y, z sizes are width, length, height; a yaw of -90 degrees faces along +x; the road lies 0.35 m below the poses.
    np.testing.assert_allclose(car, [11, 0, 0.75, 4.2, 1.8, 1.5, 0, 10, 0], atol=1e-6)
    np.testing.assert_allclose(van, [0, 10, 1.0, 5.0, 2.0, 2.0, np.pi / 2, 0, 0], atol=1e-6)
    assert walker[Box3D.Y] == pytest.approx(-10.0)  # one of the two labels, the mechanical lidar's
    assert walker[Box3D.VX] == pytest.approx(1.0, abs=0.01)
    # The beam passed on the right 25 ms after the middle of the turn, so the walker was 25 mm less far at the reference time.
    assert walker[Box3D.X] == pytest.approx(0.1 - 0.025, abs=2e-3)
    assert layer.meta["track_names"] == ["car", "van", "walk0"]
    assert clip.info["left_out"] == {"Animals - Bird": 3, "Flying Saucer": 3}
    assert any("'Flying Saucer'" in note and "unknown" in note for note in notes)


def test_times_poses_and_lidar_of_a_sequence_by_hand(tmp_path):
    clip, _ = import_handmade(tmp_path)
    frame = clip.frames[0]
    assert frame.timestamp_ns == 999_950_000_000  # the middle of the turn
    assert frame.views["left_camera"].timestamp_ns - frame.timestamp_ns == -25_000_000
    np.testing.assert_allclose(frame.world_from_ego, [[1, 0, 0, 5], [0, 1, 0, 7], [0, 0, 1, -0.35], [0, 0, 0, 1]], atol=1e-9)
    np.testing.assert_allclose(clip.rig["front_camera"].ego_from_cam[:3, 3], [0.9, 0, 1.8], atol=1e-9)
    points_cam = transform_points(clip.cam_from_ego_at_ref(0, "left_camera"), np.array([[0.9, 10.0, 1.8]]))
    np.testing.assert_allclose(points_cam, [[0, 0, 10.0]], atol=1e-9)
    assert clip.layer("truth").boxes_world[0].num_points.tolist() == [2, 0, 0]
    assert clip.layer("truth").boxes_world[1].num_points.tolist() == [-1, -1, -1]
    with np.load(clip.path / "lidar" / "000000.npz") as sweep:
        np.testing.assert_allclose(sweep["points_ego"][2], [0, 0, 0], atol=1e-6)


def test_the_beam_turns_clockwise_from_behind():
    np.testing.assert_allclose(pandaset.scan_offset_s(np.deg2rad([0, 90, -90, 179.999])), [0, -0.025, 0.025, -0.05], atol=1e-6)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("lidar/timestamps.json", "[1.0, 2.0, 1.5]", ["timestamps.json", "row 2", "backwards"]),
        ("lidar/poses.json", "[]", ["poses.json", "expected 3 rows", "got 0"]),
        ("lidar/poses.json", None, ["poses.json", "missing"]),
        ("camera/front_camera/intrinsics.json", None, ["intrinsics.json", "missing"]),
        ("camera/front_camera/intrinsics.json", '{"fx": 3}', ["intrinsics.json", "fy, cx, cy"]),
        ("camera/left_camera/01.jpg", b"\xff\xd8\xff", ["01.jpg"]),
        ("annotations/cuboids/01.pkl.gz", None, ["01.pkl.gz", "missing"]),
        ("annotations/cuboids/01.pkl.gz", b"\x1f\x8b rubbish", ["01.pkl.gz", "truncated"]),
        ("annotations/cuboids/01.pkl.gz", b"rubbish", ["01.pkl.gz", "pickle"]),
    ],
)
def test_broken_input_is_one_sentence_and_the_others_go_on(tmp_path, capsys, file, content, words):
    broken = write_sequence(tmp_path / "src" / "001") / file
    write_sequence(tmp_path / "src" / "002")
    if content is None:
        broken.unlink()
    else:
        broken.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["import", "pandaset", str(tmp_path / "src"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().out.replace("\n", " ")
    assert "pandaset_001 failed" in said and all(word in said for word in words), said
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["pandaset_002"]


def test_a_pose_that_is_not_a_number_is_named_by_row(tmp_path):
    source = write_sequence(tmp_path / "001")
    path = source / "camera" / "left_camera" / "poses.json"
    rows = json.loads(path.read_text())
    rows[2]["position"]["x"] = float("nan")
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"left_camera/poses.json, row 2.*finite"):
        pandaset.import_sequence(source, tmp_path / "clip")


def test_finished_clips_are_kept_and_links_are_links(tmp_path, capsys):
    write_sequence(tmp_path / "src" / "001")
    command = ["import", "pandaset", str(tmp_path / "src"), str(tmp_path / "out"), "--link"]
    assert main(command) == 0
    picture = tmp_path / "out" / "pandaset_001" / "images" / "front_camera" / "000000.jpg"
    assert picture.is_symlink()
    before = (tmp_path / "out" / "pandaset_001" / "clip.json").stat().st_mtime_ns
    assert main(command) == 0
    assert "1 of 1 clips are there already" in capsys.readouterr().out
    assert (tmp_path / "out" / "pandaset_001" / "clip.json").stat().st_mtime_ns == before
    assert main(["info", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "PandaSet" in said and "2 x 64x48" in said


def test_an_empty_source_is_refused(tmp_path, capsys):
    assert main(["import", "pandaset", str(tmp_path), str(tmp_path / "out")]) == 2
    assert main(["import", "pandaset", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "check the path" in capsys.readouterr().err


def test_a_pickle_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("boo",))

    for name, value in (("evil", Evil()), ("path", Path("/"))):
        file = tmp_path / f"{name}.pkl"
        file.write_bytes(pickle.dumps(value))
        with pytest.raises(DataError, match="is not a plain value"):
            read_pickle(file)


def test_a_missing_column_of_a_table_is_named(tmp_path):
    write_pandas_pickle(tmp_path / "t.pkl.gz", {"a": [1.0, 2.0], "b": ["x", "y"]})
    table = read_pickled_table(tmp_path / "t.pkl.gz", ("a",))
    assert table["a"].tolist() == [1.0, 2.0] and table["b"].tolist() == ["x", "y"]
    with pytest.raises(DataError, match=r"t.pkl.gz: expected column\(s\) c"):
        read_pickled_table(tmp_path / "t.pkl.gz", ("a", "c"))


def test_velocities_along_tracks():
    track = np.array([1, 2, 1, 1, 3])
    time = np.array([0.0, 0.0, 1.0, 1.5, 0.0])
    position = np.array([[0.0, 0], [5, 5], [2, 0], [4, 1], [0, 0]])
    velocity = track_velocities(track, time, position)
    np.testing.assert_allclose(velocity[[0, 2, 3]], [[2, 0], [4 / 1.5, 1 / 1.5], [4, 2]])
    assert np.isnan(velocity[[1, 4]]).all()
    assert track_velocities(track[:0], time[:0], position[:0]).shape == (0, 2)


def test_points_inside_a_turned_box():
    box = np.array([[1.0, 1.0, 0.0, 4.0, 1.0, 2.0, np.pi / 2, 0, 0]])
    points = np.array([[1.0, 2.9, 0.9], [1.4, 1.0, 0.0], [2.9, 1.0, 0.0], [1.0, 1.0, 1.1]])
    assert count_points_inside(box, points).tolist() == [2]


@pytest.fixture(scope="module")
def real_clip(realdata, tmp_path_factory) -> Clip:
    target = tmp_path_factory.mktemp("pandaset") / "pandaset_002"
    pandaset.import_sequence(realdata / "pandaset" / "002", target, link=True)
    return Clip.open(target)


def test_the_real_sequence_stands_on_the_road_and_cars_drive_forwards(real_clip):
    layer = real_clip.layer("truth")
    assert len(real_clip) == 50 and len(real_clip.rig) == 6
    for index in (0, 20, 40):
        with np.load(real_clip.path / "lidar" / f"{index:06d}.npz") as sweep:
            points_ego = sweep["points_ego"].astype(np.float64)
        near = points_ego[(np.hypot(points_ego[:, 0], points_ego[:, 1]) < 8) & (points_ego[:, 2] < 0.5)]
        assert abs(np.median(near[:, 2])) < 0.15
        box = layer.boxes_world[index].box
        fast = np.hypot(box[:, Box3D.VX], box[:, Box3D.VY]) > 3
        turned = wrap_angle(box[fast, Box3D.YAW] - np.arctan2(box[fast, Box3D.VY], box[fast, Box3D.VX]))
        assert fast.sum() > 5 and np.abs(turned).max() < np.deg2rad(5)
        assert layer.boxes_world[index].num_points.max() > 500


def test_the_real_cameras_are_fixed_to_the_vehicle(real_clip):
    spread = real_clip.info["extrinsic_spread"]
    assert max(value["m"] for value in spread.values()) < 0.02
    assert max(value["rad"] for value in spread.values()) < 0.0015
    front = real_clip.rig["front_camera"].ego_from_cam
    assert front[0, 2] > 0.99 and front[2, 1] < -0.99  # looks along +x, its y axis points down


def test_the_beam_meets_the_real_objects_when_we_think(real_clip):
    """The lidar points' own time stamps against the assumed turn, for every object with enough points."""
    with np.load(real_clip.path / "lidar" / "000020.npz") as sweep:
        turning = sweep["sensor"] == 0
        points_ego, offset_s = sweep["points_ego"][turning].astype(np.float64), sweep["time_offset_s"][turning]
    boxes_ego = real_clip.boxes_ego(real_clip.layer("truth"), 20)
    assert boxes_ego is not None
    late = []
    for box in boxes_ego.box:
        near = np.hypot(*(points_ego[:, :2] - box[:2]).T) < 1
        if near.sum() > 30 and np.hypot(box[0], box[1]) > 5:
            late.append(np.median(offset_s[near]) - pandaset.scan_offset_s(np.arctan2(box[1], box[0])))
    assert len(late) > 20 and np.abs(late).max() < 0.005
