"""Is docs/EDGE.md enough to write a reader? `examples/drive_exported_graph.py`, which imports nothing of ours, against the runner."""

import ast
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from standin_network import StandIn, standin_config

from export.feed import Picture, StepPacker
from export.networks import LoadedNetwork
from export.runner import OnnxNetwork, StreamRunner
from export.write import write_verified
from scenes.cameras import Camera, Lens
from scenes.geometry import rigid_from_parts, rotation_from_yaw
from scenes.rigs import ego_from_cam_looking

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "drive_exported_graph.py"
NS = 1_000_000_000
PINHOLE, FISHEYE = (-0.3, 0.12, 0.002, -0.001, -0.02), (0.03, -0.006, 0.001, -0.0002)


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("drive_exported_graph", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("reader") / "standin.onnx"
    write_verified(LoadedNetwork("standin", StandIn().eval(), standin_config(), ""), path, steps=2)
    return path


def cameras() -> list[Camera]:
    """Shrunk with cut rows (120x200 to 38 rows), enlarged (40x48 to 53), black rows on top (30x128 to 15), the network's own size."""

    def camera(name, lens, f, height, width, yaw, distortion):
        pose = ego_from_cam_looking((1.0, 0.3, 1.5), np.deg2rad(yaw), 0.05)
        return Camera(name, lens, f * width, f * width * 1.01, 0.49 * width, 0.52 * height, width, height, pose, distortion)

    return [
        camera("front", Lens.PINHOLE, 0.6, 120, 200, 0, PINHOLE),
        camera("left", Lens.PINHOLE, 0.7, 40, 48, 80, ()),
        camera("wide", Lens.FISHEYE, 0.35, 30, 128, 180, FISHEYE),
        camera("right", Lens.PINHOLE, 0.5, 32, 64, -90, (-0.1,)),
    ]


def drive():
    """Steps at growing gaps; a camera is dead in the third, the clock leaps over the allowed gap and then runs backwards."""
    generator = np.random.default_rng(5)
    for number, seconds in enumerate((0.0, 0.1, 0.25, 0.75, 4.0, 4.5, 1.0)):
        pictures = {}
        for row, camera in enumerate(cameras()):
            captured = seconds + 0.01 * row - 0.02
            coarse = generator.uniform(0, 256, (-(-camera.height_px // 8), -(-camera.width_px // 8), 3))
            image = np.kron(coarse, np.ones((8, 8, 1)))[: camera.height_px, : camera.width_px].astype(np.uint8)
            if (number, row) != (2, 1):
                pictures[camera.name] = (round(captured * NS), image, pose_at(captured))
        yield round(seconds * NS), pictures, pose_at(seconds)


def pose_at(seconds: float) -> np.ndarray:
    """Far from the world's origin, where half of float32's digits are gone."""
    return rigid_from_parts(rotation_from_yaw(0.3 + 0.1 * seconds), np.array([51234.5 + 7 * seconds, -98765.25 + 2 * seconds, 12.0]))


def test_the_reader_needs_numpy_and_onnxruntime_alone():
    tree = ast.parse(EXAMPLE.read_text())
    modules = [name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names]
    modules += [str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def test_the_reader_repeats_the_runner_tensor_for_tensor(example, file):
    network, reader = OnnxNetwork(file, threads=1), example.Reader(str(file), [camera.to_json() for camera in cameras()], threads=1)
    packer, runner = StepPacker(cameras(), network.manifest.input_hw), StreamRunner(network)
    for stamp_ns, pictures, world_from_ego in drive():
        mine = reader.step(stamp_ns, pictures, world_from_ego)
        delivered = {name: Picture(*delivery) for name, delivery in pictures.items()}
        inputs, _ = packer.pack(stamp_ns, delivered, world_from_ego)
        theirs = runner.step(stamp_ns, inputs, world_from_ego)
        assert len(mine) == len(theirs.raw) + len(network.manifest.state)
        for name, value in theirs.raw.items():
            assert mine[name].dtype == value.dtype and np.allclose(mine[name], value, rtol=0, atol=1e-4), (stamp_ns, name)
    assert runner.counters.reasons == {"first step": 1, "a gap longer than 2 s": 1, "the clock stood still or ran backwards": 1}


def test_the_readers_calibration_and_pictures_are_the_runners(example, file):
    reader = example.Reader(str(file), [camera.to_json() for camera in cameras()], threads=1)
    packer = StepPacker(cameras(), (32, 64))
    _, pictures, world_from_ego = next(drive())
    inputs, _ = packer.pack(0, {name: Picture(*delivery) for name, delivery in pictures.items()}, world_from_ego)
    for name, numbers in reader.calibration.items():
        assert np.allclose(numbers, inputs[name], rtol=0, atol=1e-6), name
    for row, camera in enumerate(reader.cameras):
        mine = reader.picture(camera, pictures[camera["name"]][1]).astype(int)
        assert mine.shape == (32, 64, 3) and np.abs(mine - inputs["images"][0, row]).max() <= 1
    assert not inputs["images"][0, 2, :17].any()  # black rows on top: 15 rows of 30 x 128 at 64 columns


def test_shrinking_by_hand(example):
    row = np.array([0, 10, 20, 30, 100], np.uint8)[None, :, None].repeat(3, axis=2)
    # 5 pixels to 2, 2.5 each: (0 + 10 + 20/2) / 2.5 = 8, (20/2 + 30 + 100) / 2.5 = 56
    assert example.shrunk(row, 1, 2)[0, :, 0].tolist() == [8, 56]
    # 2 pixels to 4: centres at -0.25 (held at the border), 0.25, 0.75, 1.25
    assert example.shrunk(row[:, [0, 4]], 1, 4)[0, :, 0].tolist() == [0, 25, 75, 100]
