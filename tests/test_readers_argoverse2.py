"""Does an Argoverse 2 log become the right clip? A small one by hand with answers by hand, and the real ones where they are."""

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

from scenes.boxes import Box3D
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import transform_points, wrap_angle
from scenes.layers import LaneType
from scenes.readers import argoverse2
from scenes.readers.argoverse2_map import read_lanes, road_edges
from surround4d import main

HALF = float(np.sqrt(0.5))
STAMPS = (1_000_000_000, 1_100_000_000, 1_200_000_000)
QUATERNION = ("qw", "qx", "qy", "qz")
FORWARD = (0.5, -0.5, 0.5, -0.5)
"""w, x, y, z of a camera that looks along the vehicle's x axis."""


def write_feather(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    feather.write_feather(pa.Table.from_pylist(rows), path)


def pose_row(x: float, y: float, z: float, quaternion) -> dict:
    return {"tx_m": x, "ty_m": y, "tz_m": z, **dict(zip(QUATERNION, map(float, quaternion), strict=True))}


def write_log(folder: Path, pictures: bool = False, annotated: bool = True) -> Path:
    """The vehicle drives along city -x at 10 m/s from (1000, 500, 10), turned by 180 degrees; a car to its right comes along."""
    poses = [
        {"timestamp_ns": t, **pose_row(1000 - (t - STAMPS[0]) / 1e8, 500, 10, (0, 0, 0, 1))}
        for t in range(900_000_000, 1_300_000_001, 50_000_000)
    ]
    write_feather(folder / "city_SE3_egovehicle.feather", poses)
    cameras = (*argoverse2.RING_CAMERAS, *argoverse2.STEREO_CAMERAS)
    lens = {"fx_px": 50.0, "fy_px": 50.0, "cx_px": 31.5, "cy_px": 23.5, "k1": -0.2, "k2": 0.1, "k3": 0.0, "width_px": 64, "height_px": 48}
    write_feather(folder / "calibration" / "intrinsics.feather", [{"sensor_name": name, **lens} for name in cameras])
    mounts = [{"sensor_name": name, **pose_row(1.6, 0.1, 1.4, FORWARD)} for name in cameras]
    write_feather(folder / "calibration" / "egovehicle_SE3_sensor.feather", mounts)
    if annotated:
        write_feather(folder / "annotations.feather", [row for k, t in enumerate(STAMPS) for row in annotations(k, t)])
    sweep = [{"x": 20.0, "y": -3.0, "z": -0.33, "intensity": 7, "laser_number": 40, "offset_ns": 1000}]
    write_feather(folder / "sensors" / "lidar" / f"{STAMPS[1]}.feather", sweep)
    if pictures:
        for t in (STAMPS[0] + 12_000_000, STAMPS[0] + 62_000_000, STAMPS[2] + 61_000_000):
            path = folder / "sensors" / "cameras" / "ring_front_center" / f"{t}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((48, 64, 3), 90, np.uint8))
    return folder


def annotations(k: int, stamp: int) -> list[dict]:
    """A car at x = 20 + k/2, y = -3 (so it drives 5 m/s faster than the vehicle's 10), a cone, a bollard, a thing unheard of."""
    car = {"category": "REGULAR_VEHICLE", "track_uuid": "car", "length_m": 4.0, "width_m": 2.0, "height_m": 1.5, "num_interior_pts": 30}
    small = {"length_m": 0.4, "width_m": 0.4, "height_m": 0.8, "num_interior_pts": 3}
    rows = [
        {**car, **pose_row(20 + 0.5 * k, -3, 0.5, (1, 0, 0, 0))},
        {**small, "category": "CONSTRUCTION_CONE", "track_uuid": "cone", **pose_row(5 - k, 2, 0.1, (HALF, 0, 0, -HALF))},
        {**small, "category": "BOLLARD", "track_uuid": "post", **pose_row(6 - k, 4, 0.1, (1, 0, 0, 0))},
        {**small, "category": "HOVERBOARD", "track_uuid": "hover", **pose_row(7 - k, 4, 0.1, (1, 0, 0, 0))},
        {**small, "category": "STROLLER", "track_uuid": "pram", **pose_row(8 - k, 4, 0.1, (1, 0, 0, 0))},
    ]
    return [{"timestamp_ns": stamp, **row} for row in rows]


def points(*values: tuple[float, float]) -> list[dict]:
    return [{"x": float(x), "y": float(y), "z": 1.0} for x, y in values]


def write_map(folder: Path) -> None:
    """Two lanes side by side that share a painted line, two drivable squares that touch, one crossing."""
    lane = {"lane_type": "VEHICLE", "is_intersection": False, "successors": [], "predecessors": []}
    shared, left, right = points((0, 5), (20, 5)), points((0, 8), (20, 8)), points((0, 2), (20, 2))
    segments = {
        "1": {
            **lane,
            "left_lane_boundary": left,
            "left_lane_mark_type": "NONE",
            "right_lane_boundary": shared,
            "right_lane_mark_type": "DASHED_WHITE",
        },
        "2": {
            **lane,
            "left_lane_boundary": shared[::-1],
            "left_lane_mark_type": "DASHED_WHITE",
            "right_lane_boundary": right,
            "right_lane_mark_type": "UNKNOWN",
        },
        "3": {
            **lane,
            "lane_type": "BIKE",
            "left_lane_boundary": left,
            "left_lane_mark_type": "NONE",
            "right_lane_boundary": left,
            "right_lane_mark_type": "NONE",
        },
    }
    segments["2"]["left_lane_boundary"] = shared
    areas = {
        "1": {"area_boundary": points((0, 0), (10, 0), (10, 10), (0, 10))},
        "2": {"area_boundary": points((10, 0), (20, 0), (20, 10), (10, 10))},
    }
    crossings = {"1": {"edge1": points((4, 0), (4, 10)), "edge2": points((6, 0), (6, 10))}}
    (folder / "map").mkdir(parents=True, exist_ok=True)
    path = folder / "map" / "log_map_archive_x____PIT_city_1.json"
    path.write_text(json.dumps({"lane_segments": segments, "drivable_areas": areas, "pedestrian_crossings": crossings}))


def import_handmade(tmp_path: Path, **how) -> tuple[Clip, list[str]]:
    notes = argoverse2.import_log(write_log(tmp_path / "log", **how), tmp_path / "clip")
    return Clip.open(tmp_path / "clip"), notes


def test_a_log_by_hand_gives_the_answers_by_hand(tmp_path):
    clip, notes = import_handmade(tmp_path)
    layer = clip.layer("truth")
    world = layer.boxes_world[1]
    # City: the vehicle at (999, 500), turned round, so 20.5 m ahead and 3 m to its right is (978.5, 503).
    np.testing.assert_allclose(world.box[0], [978.5, 503, 10.5, 4, 2, 1.5, np.pi, -15, 0], atol=1e-6)
    boxes_ego = clip.boxes_ego(layer, 1)
    assert boxes_ego is not None
    np.testing.assert_allclose(boxes_ego.box[0], [20.5, -3, 0.5 + 0.33, 4, 2, 1.5, 0, 15, 0], atol=1e-6)
    np.testing.assert_allclose(
        boxes_ego.box[1], [4, 2, 0.43, 0.4, 0.4, 0.8, -np.pi / 2, 0, 0], atol=1e-6
    )  # w, x, y, z: a turn to the right
    assert boxes_ego.class_id.tolist() == [0, 8, 5]
    assert boxes_ego.ignore.tolist() == [False, False, True]  # the pram
    assert boxes_ego.num_points.tolist() == [30, 3, 3]
    assert layer.meta["track_names"] == ["car", "cone", "pram"]
    assert any("'HOVERBOARD'" in note and "unknown" in note for note in notes)
    assert clip.info["left_out"] == {"BOLLARD": 3, "HOVERBOARD": 3}


def test_cameras_lidar_and_ego_are_lowered_onto_the_road(tmp_path):
    clip, _ = import_handmade(tmp_path)
    camera = clip.rig["ring_front_center"]
    np.testing.assert_allclose(camera.ego_from_cam[:3, 3], [1.6, 0.1, 1.73])
    assert camera.distortion == (0.0,) * 5 and clip.info["lens_distortion_removed"]["ring_front_center"] == [-0.2, 0.1, 0.0]
    points_cam = transform_points(clip.cam_from_ego_at_ref(0, "ring_front_center"), np.array([[11.6, 1.1, 0.73]]))
    np.testing.assert_allclose(points_cam, [[-1, 1, 10]], atol=1e-9)
    np.testing.assert_allclose(clip.frames[0].world_from_ego[:3, 3], [1000, 500, 9.67])
    with np.load(clip.path / "lidar" / "000001.npz") as sweep:
        np.testing.assert_allclose(sweep["points_ego"], [[20, -3, 0]], atol=1e-6)
        assert sweep["sensor"].tolist() == [1]


def test_a_log_without_pictures_has_frames_whose_views_are_not_alive(tmp_path):
    clip, _ = import_handmade(tmp_path)
    assert len(clip) == 3 and len(clip.rig) == 9
    assert not any(view.alive for frame in clip.frames for view in frame.views.values())


def test_the_nearest_picture_is_taken_with_its_own_time_and_pose(tmp_path):
    clip, _ = import_handmade(tmp_path, pictures=True)
    views = [frame.views["ring_front_center"] for frame in clip.frames]
    assert [view.alive for view in views] == [True, True, False]  # the third is 61 ms away
    assert views[0].timestamp_ns == STAMPS[0] + 12_000_000
    np.testing.assert_allclose(views[0].world_from_ego_at_cam[:3, 3], [999.88, 500, 9.67], atol=1e-6)
    assert views[1].timestamp_ns == STAMPS[0] + 62_000_000
    assert not clip.frames[0].views["ring_side_left"].alive


def test_a_log_without_annotations_takes_its_sweeps(tmp_path):
    clip, _ = import_handmade(tmp_path, annotated=False)
    assert [frame.timestamp_ns for frame in clip.frames] == [STAMPS[1]]
    assert clip.layer_names == []


def test_the_map_becomes_lanes(tmp_path):
    write_map(tmp_path)
    lanes = read_lanes(next((tmp_path / "map").iterdir()))
    by_type = {kind: [lane.points_world for lane in lanes if lane.type is kind] for kind in LaneType}
    assert [len(by_type[kind]) for kind in (LaneType.DIVIDER, LaneType.CENTRELINE, LaneType.CROSSING)] == [1, 2, 1]
    np.testing.assert_allclose(by_type[LaneType.CENTRELINE][0][[0, -1], :2], [[0, 6.5], [20, 6.5]])
    np.testing.assert_allclose(by_type[LaneType.CROSSING][0][:, :2], [[4, 0], [4, 10], [6, 10], [6, 0], [4, 0]])
    length = sum(np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1).sum() for line in by_type[LaneType.ROAD_EDGE])
    assert length == pytest.approx(60.0)  # the outline of both squares together, without the line between them
    assert len({lane.lane_id for lane in lanes}) == len(lanes)


def test_one_square_has_one_outline():
    (edge,) = road_edges([np.array([[0.0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0]])])
    np.testing.assert_allclose(edge[:, :2], [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]])


def _rewrite(name: str, edit):
    def apply(log: Path) -> None:
        rows = feather.read_table(log / name).to_pylist()
        write_feather(log / name, edit(rows))

    return apply


def _nan_pose(rows: list[dict]) -> list[dict]:
    rows[2]["tx_m"] = float("nan")
    return rows


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (_rewrite("city_SE3_egovehicle.feather", _nan_pose), "city_SE3_egovehicle.feather, row 2: expected finite"),
        (
            _rewrite("city_SE3_egovehicle.feather", lambda rows: rows[::-1]),
            "city_SE3_egovehicle.feather, row 1: expected a time stamp after",
        ),
        (
            _rewrite("calibration/intrinsics.feather", lambda rows: rows[1:]),
            "intrinsics.feather: expected a row for camera 'ring_front_center'",
        ),
        (_rewrite("annotations.feather", lambda rows: [{"timestamp_ns": 1}]), "annotations.feather: expected column"),
        (
            _rewrite("annotations.feather", lambda rows: [{**r, "width_m": 0.0} for r in rows]),
            "annotations.feather, row 0: expected positive",
        ),
        (lambda log: (log / "annotations.feather").write_bytes(b"x"), "annotations.feather: not readable"),
        (lambda log: (log / "calibration" / "intrinsics.feather").unlink(), "intrinsics.feather: missing"),
    ],
)
def test_broken_input_is_one_sentence(tmp_path, breakage, words):
    log = write_log(tmp_path / "log", pictures=True)
    breakage(log)
    with pytest.raises(DataError) as refused:
        argoverse2.import_log(log, tmp_path / "clip")
    assert words in str(refused.value)
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


def test_missing_calibration_matters_only_where_there_are_pictures(tmp_path):
    import shutil

    for name, pictures in (("with", True), ("without", False)):
        log = write_log(tmp_path / name, pictures=pictures)
        shutil.rmtree(log / "calibration")
        if pictures:
            with pytest.raises(DataError, match=r"intrinsics.feather: missing"):
                argoverse2.import_log(log, tmp_path / "clip")
        else:
            assert any("nominal" in note for note in argoverse2.import_log(log, tmp_path / "clip"))
    assert len(Clip.open(tmp_path / "clip").rig) == 9


def test_the_command_finds_logs_and_one_bad_log_fails_alone(tmp_path, capsys):
    write_log(tmp_path / "src" / "val" / "a")
    (write_log(tmp_path / "src" / "val" / "b") / "calibration" / "intrinsics.feather").unlink()
    assert main(["import", "av2", str(tmp_path / "src"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().out
    assert "av2_b failed" in said and "1 of 2 clips" in said
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["av2_a"]


def test_a_real_log_stands_on_the_road_and_its_cars_drive_forwards(realdata, tmp_path):
    (source,) = [p for p in argoverse2.find_logs(realdata / "argoverse2") if p.name.startswith("7fab2350")]
    argoverse2.import_log(source, tmp_path / "clip")
    clip = Clip.open(tmp_path / "clip")
    layer = clip.layer("truth")
    assert len(clip) == 156 and len(clip.rig) == 9
    assert {lane.type for lane in layer.lanes} == set(LaneType)
    (sweep,) = list((clip.path / "lidar").iterdir())[:1]
    with np.load(sweep) as values:
        points_ego = values["points_ego"].astype(np.float64)
    near = points_ego[(np.hypot(points_ego[:, 0], points_ego[:, 1]) < 8) & (points_ego[:, 2] < 0.5)]
    assert abs(np.median(near[:, 2])) < 0.1
    box = layer.boxes_world[80].box
    fast = np.hypot(box[:, Box3D.VX], box[:, Box3D.VY]) > 3
    turned = wrap_angle(box[fast, Box3D.YAW] - np.arctan2(box[fast, Box3D.VY], box[fast, Box3D.VX]))
    assert fast.sum() > 5 and np.abs(turned).max() < np.deg2rad(10)
