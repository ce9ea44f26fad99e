"""Which objects does an ordinary 2D detector find in a picture? YOLOX as ONNX, run by onnxruntime.

Used to check calibrations against, and as evidence for labels where no teacher exists. Models of the YOLOX family
(Ge et al., "YOLOX: Exceeding YOLO Series in 2021", Apache-2.0) answer one row a grid cell: centre, size, objectness, class scores.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from scenes.errors import DataError

CLASS_OF_COCO = {0: "pedestrian", 1: "bicycle", 2: "car", 3: "motorcycle", 5: "bus", 7: "truck"}
"""COCO class index to our class name, for the road users that COCO knows."""
VEHICLES_OF_COCO = (2, 5, 7)


@dataclass(frozen=True)
class Detections2D:
    """D rectangles in one picture, by falling score."""

    box_xyxy_px: np.ndarray
    """(D, 4) float64 u0, v0, u1, v1; a whole pixel number is a pixel's centre, so a full picture is -0.5 .. width - 0.5."""
    score: np.ndarray
    """(D,) float64 in [0, 1]."""
    label_coco: np.ndarray
    """(D,) int64 COCO class index 0..79."""

    def __len__(self) -> int:
        return len(self.box_xyxy_px)

    def select(self, index) -> "Detections2D":
        """The detections of a mask or an index array."""
        return Detections2D(self.box_xyxy_px[index], self.score[index], self.label_coco[index])


@dataclass(frozen=True)
class DetectorLayout:
    """What a YOLOX file expects and answers; the defaults are those of the official export."""

    strides: tuple[int, ...] = (8, 16, 32)
    """Grid steps of the answer's rows, in order."""
    num_classes: int = 80
    padding: int = 114
    """Grey level beside and below the scaled picture."""
    bgr: bool = True
    """Channel order; values are 0..255 without normalisation."""
    decoded: bool = False
    """Whether the file has turned grid offsets into pixels already (`--decode_in_inference`)."""


class YoloxDetector:
    """A YOLOX detector on the CPU. `tiles` > 0 also looks at that many overlapping square parts, which finds small objects."""

    def __init__(
        self,
        onnx_path: Path | str,
        score_threshold: float = 0.3,
        layout: DetectorLayout | None = None,
        nms_iou: float = 0.45,
        tiles: int = 0,
        threads: int = 0,
    ) -> None:
        self.path = Path(onnx_path)
        self.score_threshold, self.nms_iou, self.tiles = score_threshold, nms_iou, tiles
        self.layout = layout or DetectorLayout()
        self._session = _open_session(self.path, threads)
        self._input = self._session.get_inputs()[0]
        self.input_hw = self._check_layout()
        self._grid, self._stride = _grid_cells(self.input_hw, self.layout.strides)

    def detect(self, image_rgb: np.ndarray) -> Detections2D:
        """The objects of an (H, W, 3) uint8 RGB picture with at least `score_threshold`."""
        height, width = image_rgb.shape[:2]
        parts = [(0, 0, width, height), *_tile_windows(width, height, self.tiles)]
        found = [self._detect_part(image_rgb, part) for part in parts]
        box, score, label = (np.concatenate([getattr(d, name) for d in found]) for name in ("box_xyxy_px", "score", "label_coco"))
        keep = nms_per_class(box, score, label, self.nms_iou)
        return Detections2D(box[keep], score[keep], label[keep])

    def _detect_part(self, image_rgb: np.ndarray, window: tuple[int, int, int, int]) -> Detections2D:
        left, top, width, height = window
        part = image_rgb[top : top + height, left : left + width]
        tensor, scale_uv = self._letterbox(part)
        rows = np.asarray(self._session.run(None, {self._input.name: tensor})[0], dtype=np.float64)[0]
        scores = rows[:, 4:5] * rows[:, 5:]
        label = scores.argmax(axis=1)
        score = scores[np.arange(len(rows)), label]
        sure = score >= self.score_threshold
        box = self._decode(rows[:, :4])[sure]
        # The network's coordinates start at the first pixel's edge, ours at its centre.
        box = box / np.tile(scale_uv, 2) - 0.5
        inner = _touches_no_inner_border(box, window, image_rgb.shape[:2])
        box = np.clip(box, -0.5, np.tile([width, height], 2) - 0.5) + np.tile([left, top], 2)
        return Detections2D(box[inner], score[sure][inner], label[sure][inner].astype(np.int64))

    def _letterbox(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(1, 3, H, W) float32 with the picture scaled into the top left corner, and the scale in u and v."""
        height, width = self.input_hw
        ratio = min(height / image.shape[0], width / image.shape[1])
        size = (max(1, int(image.shape[1] * ratio)), max(1, int(image.shape[0] * ratio)))
        padded = np.full((height, width, 3), self.layout.padding, dtype=np.uint8)
        padded[: size[1], : size[0]] = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR)
        ordered = padded[:, :, ::-1] if self.layout.bgr else padded
        scale_uv = np.array([size[0] / image.shape[1], size[1] / image.shape[0]])
        return np.ascontiguousarray(ordered.transpose(2, 0, 1)[None], dtype=np.float32), scale_uv

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        """Rectangles (R, 4) in pixels of the network's input from rows (R, 4) of centre and size."""
        center, size = rows[:, :2], rows[:, 2:]
        if not self.layout.decoded:
            center, size = (center + self._grid) * self._stride, np.exp(np.minimum(size, 20.0)) * self._stride
        return np.concatenate([center - size / 2, center + size / 2], axis=1)

    def _check_layout(self) -> tuple[int, int]:
        """The input's (height, width); a file that is no such detector is refused."""
        shape, outputs = self._input.shape, self._session.get_outputs()
        remedy = "export it with YOLOX's tools/export_onnx.py, or describe it with DetectorLayout"
        if len(shape) != 4 or shape[1] != 3 or not all(isinstance(side, int) for side in shape[2:]):
            raise DataError(f"{self.path}: expected one input of shape (1, 3, H, W) with fixed size, got {shape}; {remedy}")
        height, width = shape[2:]
        rows = sum((height // stride) * (width // stride) for stride in self.layout.strides)
        expected = [rows, 5 + self.layout.num_classes]
        if len(outputs) != 1 or list(outputs[0].shape[1:]) != expected:
            got = {output.name: output.shape for output in outputs}
            raise DataError(f"{self.path}: expected one output of shape (1, {expected[0]}, {expected[1]}), got {got}; {remedy}")
        return height, width


def _open_session(path: Path, threads: int):
    import onnxruntime

    if not path.is_file():
        raise DataError(f"{path}: missing detector file; give the path of a YOLOX ONNX file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread leaves the core to others
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a family of its own without a common base
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not readable as an ONNX model ({reason}); give the path of a YOLOX ONNX file") from error


def _grid_cells(input_hw: tuple[int, int], strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Column and row (R, 2) of every answer row, and its stride (R, 1)."""
    cells, steps = [], []
    for stride in strides:
        rows, columns = np.mgrid[: input_hw[0] // stride, : input_hw[1] // stride]
        cells.append(np.stack([columns, rows], axis=-1).reshape(-1, 2))
        steps.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float64), np.concatenate(steps).astype(np.float64)


def _tile_windows(width: int, height: int, tiles: int) -> list[tuple[int, int, int, int]]:
    """`tiles` squares (left, top, width, height) along the longer side of a picture."""
    if tiles <= 0:
        return []
    side = min(width, height)
    starts = np.linspace(0, max(width, height) - side, tiles).round().astype(int)
    return [(int(s), 0, side, side) if width >= height else (0, int(s), side, side) for s in starts]


def _touches_no_inner_border(box: np.ndarray, window: tuple[int, int, int, int], image_hw: tuple[int, int]) -> np.ndarray:
    """Which boxes (D, 4) of a part are not cut by a border of the part that lies inside the picture."""
    left, top, width, height = window
    margin = 3.0
    cut = np.zeros(len(box), dtype=bool)
    if left > 0:
        cut |= box[:, 0] < margin
    if top > 0:
        cut |= box[:, 1] < margin
    if left + width < image_hw[1]:
        cut |= box[:, 2] > width - margin
    if top + height < image_hw[0]:
        cut |= box[:, 3] > height - margin
    return ~cut


def iou_matrix(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Overlap over union (A, B) of rectangles (A, 4) and (B, 4)."""
    low = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    high = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    overlap = np.prod(np.maximum(high - low, 0), axis=-1)
    area_a, area_b = (np.prod(np.maximum(x[:, 2:] - x[:, :2], 0), axis=-1) for x in (a_xyxy, b_xyxy))
    return overlap / np.maximum(area_a[:, None] + area_b[None] - overlap, 1e-9)


def nms_per_class(box_xyxy: np.ndarray, score: np.ndarray, label: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Indices of the rectangles that stay, by falling score: each removes weaker ones of its class that overlap it more."""
    order = np.argsort(-score, kind="stable")
    overlap = iou_matrix(box_xyxy[order], box_xyxy[order])
    rival = (overlap > iou_threshold) & (label[order][:, None] == label[order][None])
    alive = np.ones(len(order), dtype=bool)
    for row in range(len(order)):
        if alive[row]:
            alive[row + 1 :] &= ~rival[row, row + 1 :]
    return order[alive]
