"""Are KITTI's boxes, poses and files read and written in KITTI's own conventions?"""

import numpy as np
import pytest

from labeling.command import label, label_kitti_sequence
from labeling.kitti.layout import (
    KittiSequence,
    label_sequence,
    projected_rectangle,
    read_matrix_rows,
    read_sequence,
    result_lines,
    sequence_names,
)
from labeling.kitti.settings import kitti_car, kitti_cyclist
from labeling.tracks.tracking import TrackLabels
from scenes.errors import ConfigError, DataError
from scenes.readers.kitti import ego_boxes_from_kitti, kitti_from_ego_boxes, read_kitti_rows

IMG_FROM_CAM = np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]])


def test_a_box_worked_out_by_hand():
    # 10 m ahead, 2 m to the right, standing on the road 1.6 m below the camera, 1.5 m high, facing right (ry = 0)
    box = ego_boxes_from_kitti(np.array([[1.5, 1.8, 4.0, 2.0, 1.6, 10.0, 0.0]]))[0]
    assert box[:7] == pytest.approx([10.0, -2.0, -0.85, 4.0, 1.8, 1.5, -np.pi / 2])


def test_boxes_survive_the_way_there_and_back():
    rows = np.array([[1.5, 1.8, 4.0, 2.0, 1.6, 10.0, 0.7], [1.7, 0.6, 0.8, -3.0, 1.5, 22.0, -3.0]])
    assert kitti_from_ego_boxes(ego_boxes_from_kitti(rows)) == pytest.approx(rows)


def test_the_rectangle_in_the_picture_holds_the_projected_centre():
    rectangle = projected_rectangle(IMG_FROM_CAM, ego_boxes_from_kitti(np.array([[1.5, 1.8, 4.0, 0.0, 1.6, 20.0, 0.0]])))[0]
    assert rectangle[0] < 600 < rectangle[2]
    assert rectangle[2] - rectangle[0] == pytest.approx(700 * 4.0 / 19.1, abs=1)  # the near side is 0.9 m closer
    assert rectangle[3] == pytest.approx(180 + 700 * 1.6 / 19.1, abs=1)


def test_result_rows_have_eighteen_columns_and_the_track_s_score():
    track = TrackLabels(np.array([3]), np.array([[10.0, 0, 0, 4, 2, 1.5, 0, 0, 0]]), 0, 0.75, np.array([0.7]), np.array(["measured"]), True)
    sequence = KittiSequence("0000", np.tile(np.eye(4), (5, 1, 1)), IMG_FROM_CAM)
    (line,) = result_lines(sequence, kitti_car(), [track])
    assert len(line.split()) == 18
    assert line.split()[:3] == ["3", "0", "Car"]
    assert float(line.split()[-1]) == 0.75


def test_broken_rows_are_named(tmp_path):
    path = tmp_path / "poses.txt"
    path.write_text("1 2 3\n1 2 x\n")
    with pytest.raises(DataError, match="line 2"):
        read_matrix_rows(path, 3)
    path.write_text("1 2 3\n1 2\n")
    with pytest.raises(DataError, match="expected 3 finite numbers, got 2"):
        read_matrix_rows(path, 3)
    with pytest.raises(DataError, match="missing"):
        read_sequence(tmp_path, "0000")
    with pytest.raises(ConfigError, match="--out"):
        label((), from_kitti=tmp_path)


def write_layout(root, name, poses=6, cars="0,2,0,0,0,0,5.0,1.5,1.8,4.0,2.0,1.6,10.0,0.0,0.0"):
    """A tiny KITTI tracking layout: the ego vehicle stands, one car detected in every frame."""
    for folder in ("orbslam3", "calib", *(f"detections/{kind}" for kind in ("Car", "Pedestrian", "Cyclist"))):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / f"orbslam3/{name}.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * poses)
    (root / f"calib/{name}.txt").write_text("\nP2: 700 0 600 0 0 700 180 0 0 0 1 0\n")
    (root / f"detections/Car/{name}.txt").write_text("".join(cars.replace("0,", f"{k},", 1) + "\n" for k in range(poses)))
    for kind in ("Pedestrian", "Cyclist"):
        (root / f"detections/{kind}/{name}.txt").write_text("")


def test_a_tiny_sequence_becomes_one_standing_car(tmp_path):
    write_layout(tmp_path, "0000")
    assert label_kitti_sequence(tmp_path, "0000", tmp_path / "out") == "1 Car, 0 Pedestrian, 0 Cyclist"
    rows = read_kitti_rows(tmp_path / "out/Car/0000.txt")
    assert rows.frame.tolist() == list(range(6))
    assert rows.box_ego[:, :6] == pytest.approx(np.tile([10.0, -2.0, -0.85, 4.0, 1.8, 1.5], (6, 1)), abs=0.01)
    assert (tmp_path / "out/Cyclist/0000.txt").read_text() == ""


def test_broken_sequences_fail_alone_each_in_one_sentence(tmp_path):
    broken = {
        "calib": lambda name: (tmp_path / f"calib/{name}.txt").unlink(),
        "numbers": lambda name: (tmp_path / f"calib/{name}.txt").write_text("P2: a b c d e f g h i j k l\n"),
        "poses": lambda name: (tmp_path / f"orbslam3/{name}.txt").unlink(),
        "empty": lambda name: (tmp_path / f"orbslam3/{name}.txt").write_text(""),
        "bent": lambda name: (tmp_path / f"orbslam3/{name}.txt").write_text("0 0 0 0 0 0 0 0 0 0 0 0\n" * 6),
        "cars": lambda name: (tmp_path / f"detections/Car/{name}.txt").unlink(),
        "words": lambda name: (tmp_path / f"detections/Car/{name}.txt").write_text("0,2,x\n"),
        "flat": lambda name: write_layout(tmp_path, name, cars="0,2,0,0,0,0,5.0,-1,1.8,4.0,2.0,1.6,10.0,0.0,0.0"),
        "late": lambda name: (tmp_path / f"orbslam3/{name}.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n"),
    }
    for name in ("whole", *broken):
        write_layout(tmp_path, name)
    for name, spoil in broken.items():
        spoil(name)
    assert sequence_names(tmp_path) == sorted(["whole", *broken])
    for name in broken:
        said = label_kitti_sequence(tmp_path, name, tmp_path / "out")
        assert said.startswith("failed "), said
        assert "expected" in said or "missing" in said, said
        assert "\n" not in said
    assert label_kitti_sequence(tmp_path, "whole", tmp_path / "out").startswith("1 Car")
    (tmp_path / "file").write_text("")
    assert label_kitti_sequence(tmp_path, "whole", tmp_path / "file").startswith("failed ")
    with pytest.raises(DataError, match="got neither"):
        sequence_names(tmp_path / "nothing")


def test_a_real_sequence_is_labelled(realdata):
    root = realdata / "kitti_tracking"
    if not root.is_dir():
        pytest.skip(f"no KITTI tracking data at {root}")
    tracks, sequence = label_sequence(root, "0017", (kitti_cyclist(),))
    assert sequence.world_from_ego[:, :3, 3] == pytest.approx(0, abs=0.02)  # the ego car stands in this one
    assert 1 <= len(tracks["Cyclist"]) < 40
