"""Is a camera that looks elsewhere than its calibration says found, by name and by how much, and a good one left in peace?"""

import json
from dataclasses import replace

import numpy as np
import pytest

from scenes.boxes import Boxes
from scenes.check import command
from scenes.check.agreement import Evidence, body_points, check_agreement, describe_turn, judge, turned_rectangles
from scenes.check.findings import Agreement
from scenes.clips import Clip, View, write_clip
from scenes.detector2d import Detections2D
from scenes.geometry import NS_PER_S, Trajectory, rigid_from_parts, rotation_from_rotvec, transform_points
from scenes.layers import LabelLayer, write_layer_files
from scenes.rigs import Rig, ego_from_cam_looking, pinhole_camera

CAMERA = pinhole_camera("front", np.deg2rad(60), 960, 540, ego_from_cam_looking((1.5, 0, 1.6), 0.0))


def parked_cars(count: int, seed: int = 0) -> np.ndarray:
    """(M, 9) boxes on both sides of a road ahead, in the ego frame."""
    rng = np.random.default_rng(seed)
    x, side = rng.uniform(8, 35, count), rng.choice([-1, 1], count)
    y = side * rng.uniform(0.1, 0.45, count) * x
    size = rng.normal([4.5, 1.9, 1.6], 0.1, (count, 3))
    return np.column_stack([x, y, size[:, 2] / 2, size, rng.uniform(-3, 3, count), np.zeros((count, 2))])


def evidence_of(boxes_ego: np.ndarray, noise_px: float = 2.0, seed: int = 0) -> Evidence:
    """Every box detected where its body is seen, with noise; each detection may pair with every box."""
    body_cam = transform_points(CAMERA.cam_from_ego, body_points(boxes_ego))
    count = len(boxes_ego)
    empty = Evidence(CAMERA, np.zeros((0, 4)), np.zeros(0, bool), body_cam, np.arange(count), np.zeros(0, int), np.zeros(0, int))
    seen = turned_rectangles(empty, np.zeros(3)) + np.random.default_rng(seed).normal(0, noise_px, (count, 4))
    detection, box = np.meshgrid(np.arange(count), np.arange(count), indexing="ij")
    return replace(empty, detection_xyxy=seen, met=np.ones(count, bool), pair_detection=detection.ravel(), pair_box=box.ravel())


def turned(evidence: Evidence, left_deg: float, up_deg: float, clockwise_deg: float = 0.0) -> Evidence:
    """The same picture when the calibration in use has the camera turned by so much: the boxes move the other way."""
    rotvec = np.deg2rad([-up_deg, left_deg, -clockwise_deg])
    return replace(evidence, body_cam=evidence.body_cam @ rotation_from_rotvec(rotvec).T)


def test_a_good_calibration_is_left_in_peace():
    agreement = judge(evidence_of(parked_cars(40)))
    assert agreement.angle_deg < 0.2 and not agreement.is_off and agreement.share == 1.0


@pytest.mark.parametrize(("left", "up", "clockwise"), [(3, 0, 0), (-3, 0, 0), (0, 3, 0), (0, -2, 0), (5, -4, 0), (0, 0, 3), (1.4, 0, 0)])
def test_a_turned_camera_is_measured_and_called_off(left, up, clockwise):
    agreement = judge(turned(evidence_of(parked_cars(40)), left, up, clockwise))
    np.testing.assert_allclose(agreement.turn_deg, [-left, -up, -clockwise], atol=0.3)
    assert agreement.is_off and agreement.error_deg < 0.4


def test_words_for_the_turn():
    assert describe_turn(Agreement(20, 20, 5, (0.2, -3.04, 0.05))) == "3.0 degrees down and 0.2 degrees left"
    assert describe_turn(Agreement(20, 20, 5, (0.1, 0.0, 0.05))) == "not at all"
    assert describe_turn(Agreement(3, 3, 1)) == ""


@pytest.mark.parametrize("count", [0, 1, 10])
def test_few_detections_are_too_few_to_judge(count):
    agreement = judge(evidence_of(parked_cars(count)))
    assert agreement.turn_deg is None and not agreement.is_off and agreement.num_detections == count


def test_detections_of_things_that_are_not_labelled_are_no_proof():
    evidence = evidence_of(parked_cars(40))
    elsewhere = evidence_of(parked_cars(40, seed=7))
    agreement = judge(replace(evidence, detection_xyxy=elsewhere.detection_xyxy))
    assert not agreement.is_off


class DetectorFromTruth:
    """Stands in for a 2D detector: knows each picture by its first pixels and answers what was put in for it."""

    def __init__(self) -> None:
        self.answers: dict[bytes, Detections2D] = {}

    def detect(self, image_rgb: np.ndarray) -> Detections2D:
        return self.answers[np.round(image_rgb[8, 8] / 10.0).astype(np.uint8).tobytes()]


def write_street(path, frames: int = 4) -> tuple[Clip, DetectorFromTruth]:
    """Two cameras over parked cars; the detector answers the outline of every car's body that is whole in the picture."""
    rig = Rig((CAMERA, pinhole_camera("left", np.deg2rad(80), 960, 540, ego_from_cam_looking((1.0, 0.8, 1.6), np.pi / 2))))
    cars = np.concatenate([parked_cars(14), parked_cars(14, 1) @ np.diag([1.0] * 9)])
    cars[14:, :2] = np.column_stack([-cars[14:, 1], cars[14:, 0]])  # the second half stands to the left
    stamps = np.arange(frames, dtype=np.int64) * NS_PER_S
    path_of_ego = Trajectory(stamps, rigid_from_parts(np.broadcast_to(np.eye(3), (frames, 3, 3)), np.outer(np.arange(frames), [0.5, 0, 0])))
    detector, boxes = DetectorFromTruth(), Boxes.make(cars, np.zeros(len(cars)), track_id=np.arange(len(cars)))
    with write_clip(path, "street", rig, path_of_ego, {}) as writer:
        for index, stamp in enumerate(stamps):
            views = []
            for number, camera in enumerate(rig.cameras):
                color = np.array([40 + 20 * index, 40 + 20 * number, 100], dtype=np.uint8)
                name = writer.write_image(camera.name, index, np.broadcast_to(color, (540, 960, 3)))
                views.append(View(camera.name, int(stamp), path_of_ego.at(stamp), name))
                cam_from_world = camera.cam_from_ego @ np.linalg.inv(path_of_ego.at(stamp))
                detector.answers[np.round(color / 10.0).astype(np.uint8).tobytes()] = outlines(camera, cam_from_world, cars)
            writer.add_frame(int(stamp), path_of_ego.at(stamp), views)
        write_layer_files(writer.layer_folder("truth"), LabelLayer("truth", dict.fromkeys(range(frames), boxes)))
    return Clip.open(path), detector


def outlines(camera, cam_from_world, cars) -> Detections2D:
    pixels, visible = camera.project(transform_points(cam_from_world, body_points(cars)))
    whole = visible.all(axis=1)
    box = np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)[whole]
    return Detections2D(box, np.full(len(box), 0.9), np.full(len(box), 2))


def test_over_a_clip_only_the_turned_camera_is_named(tmp_path):
    clip, detector = write_street(tmp_path / "street")
    layer = clip.layer("truth")
    agreements, findings = check_agreement(clip, layer, detector, most_frames=50)
    assert not findings and all(agreement.share > 0.95 for agreement in agreements.values())
    wrong = replace(clip.rig["left"], ego_from_cam=ego_from_cam_looking((1.0, 0.8, 1.6), np.pi / 2 + np.deg2rad(3)))
    clip.rig = Rig((clip.rig["front"], wrong))
    agreements, findings = check_agreement(clip, layer, detector, most_frames=50)
    assert [finding.camera for finding in findings] == ["left"]
    assert "camera 'left'" in findings[0].text and "degrees right" in findings[0].text and "3." in findings[0].text
    assert not agreements["front"].is_off and agreements["left"].mean_iou < 0.7 < 0.95 < agreements["left"].mean_iou_turned


def test_the_command_writes_the_figures_and_ends_with_status_2(tmp_path, monkeypatch, capsys):
    clip, detector = write_street(tmp_path / "street")
    monkeypatch.setattr(command, "YoloxDetector", lambda *_, **__: detector)
    assert command.check((clip.path,), detector=tmp_path / "any.onnx", json=tmp_path / "good.json") == 0
    good = json.loads((tmp_path / "good.json").read_text())["clips"][0]
    assert good["share"] > 0.95 and not good["is_broken"]
    header = json.loads((clip.path / "clip.json").read_text())
    header["rig"][0]["ego_from_cam"] = ego_from_cam_looking((1.5, 0, 1.6), 0.0, np.deg2rad(-3)).tolist()
    (clip.path / "clip.json").write_text(json.dumps(header))
    assert command.check((clip.path,), detector=tmp_path / "any.onnx", json=tmp_path / "bad.json") == 2
    bad = json.loads((tmp_path / "bad.json").read_text())["clips"][0]
    assert [finding["camera"] for finding in bad["findings"]] == ["front"]
    np.testing.assert_allclose(bad["cameras"][0]["agreement"]["turn_deg"], [0, -3, 0], atol=0.3)
    assert "its extrinsic looks turned by 3." in capsys.readouterr().out.replace("\n", " ")
