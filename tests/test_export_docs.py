"""Does docs/EDGE.md say what a file says? Tables, trtexec lines and shapes of the page are held against the graph's own."""

import math
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from export.meanings import ANSWER_MEANINGS, CONVENTIONS, STATE_MEANINGS, STEP_MEANINGS
from export.onnx_graph import plain_name
from export.tensorrt_operators import LAST_OPSET
from fusion.config import nano
from fusion.interface import StepInput, WorldState
from scenes.cameras import Camera, Lens
from surround4d import COMMANDS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "EDGE.md").read_text()
HEIGHT, WIDTH = nano().input_hw
STEP_SHAPES = {
    "images": ("N", HEIGHT, WIDTH, 3),
    "intrinsics": ("N", 4),
    "distortion": ("N", 5),
    "lens": ("N",),
    "max_angle": ("N",),
    "cam_from_ego": ("N", 4, 4),
    "alive": ("N",),
    "time_offset": ("N",),
}
"""After the batch axis, by hand; the test below compares them with the shape letters of `StepInput`."""


def trtexec_lines(heading: str) -> list[str]:
    """The trtexec lines of the page that follow `# TensorRT 10` or `# TensorRT 11`."""
    block = re.search(rf"# {heading}\b.*?\n\n|# {heading}\b.*?```", PAGE, re.DOTALL)
    assert block is not None
    return [line for line in block[0].splitlines() if line.startswith("trtexec")]


def test_every_input_and_answer_stands_in_the_tables():
    rows = re.findall(r"^\| (.+?) \|", PAGE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(STEP_MEANINGS) | set(ANSWER_MEANINGS) | set(STATE_MEANINGS) <= named


def test_the_state_is_described_tensor_by_tensor():
    assert set(STATE_MEANINGS) == {plain_name(f.name) for f in fields(WorldState)}


@pytest.mark.parametrize(
    ("lens", "distortion"), [(Lens.PINHOLE, (-0.3, 0.1, 0.002, -0.001, -0.02)), (Lens.FISHEYE, (0.05, -0.01, 0.003, -0.0005))]
)
def test_the_lens_formulas_of_the_manifest_are_those_of_the_cameras_and_of_the_page(lens: Lens, distortion: tuple[float, ...]):
    formula = CONVENTIONS[lens.value]
    assert "".join(formula.split()) in "".join(PAGE.split())
    camera = Camera("front", lens, 900.0, 910.0, 640.5, 359.0, 1280, 720, np.eye(4), distortion)
    names = ("k1", "k2", "p1", "p2", "k3") if lens is Lens.PINHOLE else ("k1", "k2", "k3", "k4")
    told = {"x": 1.2, "y": -0.4, "z": 5.0, "fx": 900.0, "fy": 910.0, "cx": 640.5, "cy": 359.0, "sqrt": math.sqrt, "atan2": math.atan2}
    told |= dict(zip(names, distortion, strict=True))
    exec(formula, {}, told)
    pixel, inside = camera.project(np.array([1.2, -0.4, 5.0]))
    assert inside and [told["u"], told["v"]] == pytest.approx(pixel.tolist())


def test_the_profile_has_every_input_with_an_axis_of_cameras_and_its_shape():
    profile = re.search(r'^P="(.+)"$', PAGE, re.MULTILINE)
    assert profile is not None
    told = dict(entry.split(":") for entry in profile[1].split(","))
    per_camera = {plain_name(f.name): f.name.rpartition("_")[2] for f in fields(StepInput) if "N" in f.name.rpartition("_")[2]}
    assert set(told) == set(per_camera) == set(STEP_SHAPES)
    for name, letters in per_camera.items():
        assert told[name] == "x".join(map(str, (1, *STEP_SHAPES[name])))
        assert len(letters) == 1 + len(STEP_SHAPES[name])  # B and the axes after it
    assert "N" not in "".join(told)  # ${P//N/8} must not touch a name


def test_the_trtexec_lines_name_no_precision_and_one_file_each():
    for heading, strongly in (("TensorRT 10", True), ("TensorRT 11", False)):
        lines = trtexec_lines(heading)
        assert [re.search(r"--onnx=(\S+)", line)[1] for line in lines] == ["car.onnx", "car16.onnx", "car8.onnx"]  # type: ignore[index]
        for line in lines:
            flags = set(re.findall(r"(--\w+)", line))
            assert flags == {"--onnx", "--saveEngine"} | ({"--stronglyTyped"} if strongly else set())
            assert "$SHAPES" in line
    shapes = re.search(r'^SHAPES="(.+)"$', PAGE, re.MULTILINE)
    assert shapes is not None and re.findall(r"--(\w+)=", shapes[1]) == ["minShapes", "optShapes", "maxShapes"]


@pytest.mark.parametrize("command", re.findall(r"^surround4d (\w+)", PAGE, re.MULTILINE))
def test_every_command_of_the_page_exists(command):
    assert command in COMMANDS


def test_the_opsets_that_the_page_names_are_those_of_the_lint():
    assert "TensorRT 8.6 ends at opset 17" in PAGE
    assert LAST_OPSET["tensorrt8.6"] == 17
