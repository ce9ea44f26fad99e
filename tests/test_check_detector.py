"""Does the 2D detector decode, suppress and place rectangles rightly, and does it find cars in a real picture?"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from scenes.clips import read_image
from scenes.detector2d import DetectorLayout, YoloxDetector, iou_matrix, nms_per_class
from scenes.errors import DataError

NUM_CLASSES = 3
LAYOUT = DetectorLayout(num_classes=NUM_CLASSES)
ROWS = (64 // 8) ** 2 + (64 // 16) ** 2 + (64 // 32) ** 2


def write_detector(path, answer: np.ndarray, rows: int = ROWS) -> str:
    """An ONNX file of YOLOX's shape that answers `answer` (rows, 5 + classes) plus nothing of its input."""
    constant = helper.make_node("Constant", [], ["fixed"], value=helper.make_tensor("v", TensorProto.FLOAT, answer.shape, answer.ravel()))
    zero = helper.make_node("ReduceMin", ["images"], ["least"], keepdims=0)
    product = helper.make_node("Mul", ["least", "none"], ["nothing"])
    nodes = [constant, zero, product, helper.make_node("Add", ["fixed", "nothing"], ["output"])]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, rows, 5 + NUM_CLASSES])],
        [helper.make_tensor("none", TensorProto.FLOAT, [], [0.0])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return str(path)


def answer_with(row: int, values) -> np.ndarray:
    answer = np.zeros((1, ROWS, 5 + NUM_CLASSES), dtype=np.float32)
    answer[0, row] = values
    return answer


def test_a_grid_cell_decodes_by_hand(tmp_path):
    # Row 19 of stride 8 is cell (3, 2): centre (3.5, 2.25) * 8 = (28, 18); size e^1 * 8 wide, e^0.5 * 8 high; score 0.9 * 0.8.
    path = write_detector(tmp_path / "d.onnx", answer_with(19, [0.5, 0.25, 1.0, 0.5, 0.9, 0.1, 0.8, 0.0]))
    found = YoloxDetector(path, 0.3, LAYOUT).detect(np.zeros((128, 128, 3), np.uint8))  # halved for the network
    center, half = np.array([28.0, 18.0]), np.array([np.exp(1.0), np.exp(0.5)]) * 8 / 2
    np.testing.assert_allclose(found.box_xyxy_px, [[*(center - half) * 2 - 0.5, *(center + half) * 2 - 0.5]], rtol=1e-6)
    assert found.label_coco.tolist() == [1]
    np.testing.assert_allclose(found.score, [0.72], rtol=1e-6)


def test_rows_of_coarser_strides_come_after(tmp_path):
    path = write_detector(tmp_path / "d.onnx", answer_with(64 + 16 + 3, [0.5, 0.5, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]))
    found = YoloxDetector(path, 0.3, LAYOUT).detect(np.zeros((64, 64, 3), np.uint8))
    np.testing.assert_allclose(found.box_xyxy_px, [[31.5, 31.5, 63.5, 63.5]])


def test_a_wide_picture_is_scaled_by_its_width_and_cut_at_its_border(tmp_path):
    path = write_detector(tmp_path / "d.onnx", answer_with(0, [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]))
    found = YoloxDetector(path, 0.3, LAYOUT).detect(np.zeros((64, 128, 3), np.uint8))
    size = np.exp(1.0) * 8 / 2 * 2 - 0.5
    np.testing.assert_allclose(found.box_xyxy_px, [[-0.5, -0.5, size, size]], rtol=1e-6)


def test_nothing_above_the_threshold(tmp_path):
    path = write_detector(tmp_path / "d.onnx", answer_with(0, [0, 0, 0, 0, 0.2, 0.9, 0, 0]))
    found = YoloxDetector(path, 0.3, LAYOUT).detect(np.zeros((64, 64, 3), np.uint8))
    assert len(found) == 0 and found.box_xyxy_px.shape == (0, 4)


def test_another_models_file_is_refused_with_both_shapes(tmp_path):
    path = write_detector(tmp_path / "d.onnx", answer_with(0, [0.0] * 8))
    with pytest.raises(DataError, match=r"d\.onnx: expected one output of shape \(1, 84, 85\), got .*84, 8\].*DetectorLayout"):
        YoloxDetector(path)


def test_suppression_is_per_class_and_by_score():
    box = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [20, 0, 30, 10]])
    keep = nms_per_class(box, np.array([0.5, 0.9, 0.4, 0.3]), np.array([2, 2, 7, 2]), 0.45)
    assert keep.tolist() == [1, 2, 3]
    assert len(nms_per_class(np.zeros((0, 4)), np.zeros(0), np.zeros(0), 0.5)) == 0


def test_overlaps_by_hand():
    overlap = iou_matrix(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6], [0, 0, 0, 0]]))
    np.testing.assert_allclose(overlap, [[1 / 7, 1, 0, 0]])


def test_yolox_finds_the_car_ahead_in_a_real_picture(realdata, weights):
    image = read_image(realdata / "pandaset" / "002" / "camera", "front_camera/20.jpg")
    found = YoloxDetector(weights / "yolox_nano.onnx", 0.5, threads=1).detect(image)
    car_ahead = np.array([[405.0, 280, 535, 375]])  # read off the picture: the white car that waits in our lane
    overlap = iou_matrix(found.box_xyxy_px, car_ahead)[:, 0]
    assert overlap.max() > 0.7 and found.label_coco[overlap.argmax()] in (2, 5, 7)
    tiled = YoloxDetector(weights / "yolox_nano.onnx", 0.5, tiles=3, threads=1).detect(image)
    assert len(tiled) > len(found)
