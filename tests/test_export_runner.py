"""Does the runner keep driving? Parity of the stand-in, state handling, broken cameras, foreign files, no torch."""

import gc
import json
import shutil
import subprocess
import sys
import textwrap
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnxruntime import OrtValue
from standin_network import StandIn, standin_config

from export.command import parse_cameras
from export.comparison import Comparison, Verification
from export.feed import Picture, StepFeed, StepPacker, resize_and_crop
from export.live import LiveRunner, LiveStep
from export.manifest import MANIFEST_KEY, Manifest, check_beside, manifest_path
from export.networks import LoadedNetwork
from export.onnx_graph import StepGraph, attach_manifest, export_model, read_manifest
from export.run import StageTimes, in_parts, open_network, run_clip, stream_clip
from export.runner import OnnxNetwork, StreamRunner, available_providers
from export.synthetic import five_camera_rig, synthetic_steps
from export.verify import SideBySide, is_tied, require, step_input, torch_outputs, verify
from export.write import write_parts, write_verified
from scenes.cameras import network_camera
from scenes.clips import Clip
from scenes.errors import ConfigError, DataError
from scenes.packing import pack_frame
from scenes.packing import resize_and_crop as resize_and_crop_opencv
from scenes.rigs import Rig

CONFIG = standin_config()


@pytest.fixture(scope="session")
def standin_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "standin.onnx"
    write_verified(LoadedNetwork("standin", StandIn().eval(), CONFIG, ""), path)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="session")
def network(standin_file) -> OnnxNetwork:
    return OnnxNetwork(standin_file, threads=1)


def steps(count: int) -> list[dict[str, np.ndarray]]:
    return list(synthetic_steps(five_camera_rig(*CONFIG.input_hw), CONFIG, count))


def test_one_file_agrees_with_torch_on_three_rigs_with_carried_state(standin_file):
    found = verify(standin_file, StandIn().eval(), CONFIG, steps=4)
    assert len(found.error_by_step) == 12
    assert [text.split()[0] for text in found.rigs] == ["5", "6", "8"]
    assert found.max_error < 1e-4


def test_a_comparison_that_was_laid_down_goes_on_from_the_same_bits(network):
    graph, whole, parts = StepGraph(StandIn().eval()).eval(), Comparison(), Comparison()
    unbroken, first, second = (SideBySide(graph, [network], [one]) for one in (whole, parts, parts))
    for inputs in steps(4):
        unbroken.step(inputs)
    for inputs in steps(4)[:2]:
        first.step(inputs)
    second.remember(first.memory())
    for inputs in steps(4)[2:]:
        second.step(inputs)
    assert parts.found == whole.found and len(whole.found.errors) == 4


def test_with_the_same_memory_a_file_goes_on_from_what_torch_remembers(network):
    together = SideBySide(StepGraph(StandIn().eval()).eval(), [network], [Comparison()])
    started = together.memory()[0]
    for inputs in steps(2):
        together.step(inputs, same_memory=True)
    remembered, (own,) = together.memory()
    names = {"state_" + name.rsplit("_", 1)[0]: tensor.numpy() for name, tensor in remembered.tensors().items()}
    assert own.keys() == names.keys()
    assert all(np.array_equal(own[name], names[name]) for name in own)
    assert not np.array_equal(remembered.box_BS9.numpy(), started.box_BS9.numpy())


def test_the_manifest_inside_and_beside_agree(standin_file, network):
    proto = onnx.load(str(standin_file))
    inside = read_manifest(proto, "here")
    beside = Manifest.loads(
        manifest_path(standin_file).read_text().replace('"file_sha256"', '"file_sha256_"').rsplit(",", 1)[0] + "}", "there"
    )
    assert inside == beside == network.manifest
    assert inside.opset == 18
    assert {n.domain for n in proto.graph.node} == {""}
    assert inside.verification["max_relative_error"] < 1e-3
    assert inside.spec("images").shape == (1, "cameras", 32, 64, 3)
    assert inside.spec("velocities").shape == (1, 6, 2)
    assert inside.spec("lane_points").shape == (1, 4, 2)  # plugged-in heads leave under their own names
    assert inside.spec("lane_types").dtype == "int32"
    check_beside(standin_file, inside)


def test_a_changed_file_no_longer_fits_the_manifest_beside_it(standin_file, tmp_path):
    copy = tmp_path / "copy.onnx"
    changed = onnx.load(str(standin_file))
    changed.doc_string = "changed by hand"
    copy.write_bytes(changed.SerializeToString())
    manifest_path(copy).write_text(manifest_path(standin_file).read_text())
    with pytest.raises(DataError, match="not those that"):
        OnnxNetwork(copy)
    copy.write_bytes(standin_file.read_bytes())
    OnnxNetwork(copy)
    beside = json.loads(manifest_path(standin_file).read_text())
    manifest_path(copy).write_text(json.dumps({**beside, "thresholds": {"score": 0.9, "max_gap_s": 2.0}}))
    with pytest.raises(DataError, match=r"other things than the file itself \(thresholds\)"):
        OnnxNetwork(copy)
    manifest_path(copy).write_text("{")
    with pytest.raises(DataError, match="not the manifest of an exported file"):
        OnnxNetwork(copy)


def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path, monkeypatch):
    out = tmp_path / "wrong.onnx"

    def other_weights(model, config, path, *rest):
        return export_model(StandIn(seed=1).eval(), config, path, *rest)

    monkeypatch.setattr("export.write.export_model", other_weights)
    with pytest.raises(DataError, match="differs from torch"):
        write_verified(LoadedNetwork("standin", StandIn().eval(), CONFIG, ""), out)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_number_of_cameras_pads_smaller_rigs(tmp_path):
    path = tmp_path / "six.onnx"
    export_model(StandIn().eval(), CONFIG, path, num_cameras=6)
    network = OnnxNetwork(path, threads=1)
    assert network.manifest.spec("alive").shape == (1, 6)
    found = verify(path, StandIn().eval(), CONFIG, steps=2)
    require(found, path)


def test_a_file_of_which_ties_decide_too_many_steps_is_not_called_verified(tmp_path):
    found = Verification(errors=[{"boxes": 1e-6}] * 15, tied_steps=[3])
    require(found, tmp_path / "one.onnx")
    found.tied_steps = [3, 9]
    with pytest.raises(DataError, match="2 of 15 steps are decided by ties"):
        require(found, tmp_path / "two.onnx")


class LastBits(torch.nn.Module):
    """Scores that hang on the last bits of the features: which places are chosen is chance."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        return torch.sin(1e7 * self.inner(token))


def test_a_tie_in_torch_itself_is_told_from_an_error():
    model, flat = StandIn().eval(), StandIn().eval()
    flat.add_module("logits", LastBits(flat.logits).eval())
    inputs, state = steps(1)[0], model.empty_state(1, "cpu")
    for network, tied in ((model, False), (flat, True)):
        graph = StepGraph(network).eval()
        reference, _ = torch_outputs(graph, step_input(inputs), state)
        assert is_tied(graph, inputs, state, reference, error=0.5) is tied


def test_one_camera_gets_an_empty_row_and_is_refused_alone(network):
    rig = Rig(five_camera_rig(*CONFIG.input_hw).cameras[:1])
    inputs = next(synthetic_steps(rig, CONFIG, 1))
    assert inputs["alive"].tolist() == [[1.0, 0.0]]
    alone = {name: value if name in ("dt", "prev_from_ego") else value[:, :1] for name, value in inputs.items()}
    with pytest.raises(DataError, match="has 1 cameras, a graph with a dynamic number takes 2 or more"):
        network(alone, network.empty_state())


# What the runner refuses, in words


def test_foreign_onnx_is_refused(tmp_path):
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), str(tmp_path / "foreign.onnx")
    )
    with pytest.raises(DataError, match="foreign ONNX"):
        OnnxNetwork(tmp_path / "foreign.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"not a graph")
    with pytest.raises(DataError, match="cannot load"):
        OnnxNetwork(tmp_path / "noise.onnx")
    with pytest.raises(DataError, match="no such file"):
        OnnxNetwork(tmp_path / "absent.onnx")


def rewritten(source: Path, target: Path, change) -> Path:
    proto = onnx.load(str(source))
    manifest = read_manifest(proto, "test")
    text = change(manifest)
    if isinstance(text, Manifest):
        attach_manifest(proto, text)
    else:
        next(p for p in proto.metadata_props if p.key == MANIFEST_KEY).value = text
    target.write_bytes(proto.SerializeToString())
    return target


def test_a_manifest_that_does_not_fit_its_graph_is_refused(standin_file, network, tmp_path):
    def renamed(manifest):
        return replace(manifest, inputs=[replace(manifest.inputs[0], name="pictures"), *manifest.inputs[1:]])

    def reshaped(manifest):
        return replace(manifest, inputs=[manifest.inputs[0], replace(manifest.inputs[1], shape=(1, 5, 9)), *manifest.inputs[2:]])

    with pytest.raises(DataError, match="'pictures'"):
        OnnxNetwork(rewritten(standin_file, tmp_path / "a.onnx", renamed))
    with pytest.raises(DataError, match="in its manifest"):
        OnnxNetwork(rewritten(standin_file, tmp_path / "b.onnx", reshaped))
    for name, value in {
        "thresholds": {},
        "class_names": [],
        "input_hw": [33, 64],
        "num_cameras": 5,
        "state": [],
        "hashes": None,
        "occupancy": 3,
    }.items():
        spoiled = {**network.manifest.to_json(), name: value}
        with pytest.raises(DataError, match=f"the manifest's {name} cannot be what an export wrote"):
            Manifest.loads(json.dumps(spoiled), "here")
    for name in ("thresholds", "state", "input_hw"):
        with pytest.raises(DataError, match=r"lacks or misnames a field|cannot be what an export wrote"):
            Manifest.loads(json.dumps({**network.manifest.to_json(), name: 5}), "here")
    with pytest.raises(DataError, match="version 99"):
        OnnxNetwork(rewritten(standin_file, tmp_path / "c.onnx", lambda m: m.dumps().replace('"version": 1', '"version": 99')))
    with pytest.raises(DataError, match="not one of surround4d's"):
        OnnxNetwork(rewritten(standin_file, tmp_path / "d.onnx", lambda m: "{}"))


def test_wrong_inputs_are_one_sentence_each(network):
    good, state = steps(1)[0], network.empty_state()
    with pytest.raises(DataError, match=r"missing: \['dt'\]"):
        network({k: v for k, v in good.items() if k != "dt"}, state)
    with pytest.raises(DataError, match="unknown: \\['lidar'\\]"):
        network({**good, "lidar": good["dt"]}, state)
    with pytest.raises(DataError, match="must be uint8, got float32"):
        network({**good, "images": good["images"].astype(np.float32)}, state)
    with pytest.raises(DataError, match="must have shape"):
        network({**good, "images": good["images"][:, :, :16]}, state)
    with pytest.raises(DataError, match="must have shape"):
        network({**good, "alive": good["alive"][:, :3]}, state)
    with pytest.raises(DataError, match="state lacks state_box"):
        network(good, {k: v for k, v in state.items() if k != "state_box"})
    shorter = OrtValue.ortvalue_from_numpy(np.zeros((1, 3, 9), np.float32))
    with pytest.raises(DataError, match=r"'state_box' must be float32 of shape \(1, 6, 9\), got float32 of shape \(1, 3, 9\)"):
        network(good, {**state, "state_box": shorter})


def test_settings_are_checked_in_words():
    with pytest.raises(ConfigError, match="expected auto or one of"):
        available_providers("npu")
    with pytest.raises(ConfigError, match="expected dynamic or"):
        parse_cameras("many")
    assert parse_cameras("6") == 6


# Streaming


def without_time(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in inputs.items() if name not in ("dt", "prev_from_ego")}


def drive(index: int) -> np.ndarray:
    world_from_ego = np.eye(4)
    world_from_ego[0, 3] = 4.0 * index
    return world_from_ego


def test_state_is_carried_and_reset_on_another_clip_or_a_jump_of_the_clock(network):
    runner, inputs = StreamRunner(network), without_time(steps(1)[0])
    assert runner.step(0, inputs, drive(0), "a").reset == "first step"
    second = runner.step(500_000_000, inputs, drive(1), "a")
    assert second.reset == ""
    assert second.raw["ids"].min() == 6  # the stand-in numbers its six slots anew in every step
    assert runner.step(1_000_000_000, inputs, drive(2), "b").reset == "another clip"
    assert "backwards" in runner.step(900_000_000, inputs, drive(2), "b").reset
    late = runner.step(9_000_000_000, inputs, drive(2), "b")
    assert late.reset == "a gap longer than 2 s"
    assert late.raw["ids"].min() == 0
    assert runner.counters.resets == 3


def test_a_step_equals_the_graph_fed_by_hand(network):
    runner, state = StreamRunner(network), network.empty_state()
    for index, inputs in enumerate(steps(3)):
        result = runner.step(index * 500_000_000, without_time(inputs), drive(index), "a")
        moved = np.eye(4, dtype=np.float32)[None]
        moved[0, 0, 3] = 4.0 if index else 0.0
        by_hand = {**inputs, "dt": np.array([0.5 if index else 0.0], np.float32), "prev_from_ego": moved}
        answers, state = network(by_hand, state)
        assert all(np.array_equal(answers[name], result.raw[name]) for name in answers)


def test_broken_numbers_never_reach_the_state(network):
    runner, inputs = StreamRunner(network), without_time(steps(1)[0])
    runner.step(0, inputs, drive(0))
    with pytest.raises(DataError, match="finite 4x4"):
        runner.step(500_000_000, inputs, np.full((4, 4), np.nan))
    with pytest.raises(DataError, match="cam_from_ego holds NaN"):
        runner.step(500_000_000, {**inputs, "cam_from_ego": inputs["cam_from_ego"] * np.nan}, drive(1))
    fine = runner.step(500_000_000, inputs, drive(1))
    assert fine.reset == ""
    assert np.isfinite(fine.box_ego).all()
    assert runner.counters.refused_steps == 2


# Pictures as they arrive


def pictures_of(rig, stamp_ns: int) -> dict[str, Picture]:
    generator = np.random.default_rng(0)
    return {
        c.name: Picture(stamp_ns, generator.integers(0, 255, (c.height_px, c.width_px, 3), dtype=np.uint8), np.eye(4)) for c in rig.cameras
    }


def test_a_broken_picture_only_kills_its_own_camera():
    rig = five_camera_rig(*CONFIG.input_hw)
    packer = StepPacker(rig.cameras, CONFIG.input_hw)
    pictures = pictures_of(rig, 0)
    pictures["front"] = replace(pictures["front"], image=np.full((32, 64, 3), np.nan))
    pictures["left"] = replace(pictures["left"], image=np.zeros((5, 64, 3), np.uint8))
    pictures["rear"] = replace(pictures["rear"], world_from_ego_at_cam=np.full((4, 4), np.nan))
    del pictures["right"]
    inputs, notes = packer.pack(0, pictures, np.eye(4))
    assert inputs["alive"].tolist() == [[1, 0, 0, 0, 0]]
    assert len(notes) == 4
    assert all(np.isfinite(value).all() for value in inputs.values())


def test_packing_equals_what_training_saw(tiny_clip):
    packer = StepPacker(tiny_clip.rig.cameras, (32, 64), resize=resize_and_crop_opencv)
    for index, frame in enumerate(tiny_clip.frames):
        views = {
            n: Picture(v.timestamp_ns, tiny_clip.image(index, n) if v.alive else None, v.world_from_ego_at_cam)
            for n, v in frame.views.items()
        }
        inputs, _ = packer.pack(frame.timestamp_ns, views, frame.world_from_ego)
        packed = pack_frame(tiny_clip, index, (32, 64))
        alive = packed.alive_N > 0
        assert np.array_equal(inputs["images"][0], packed.images_NHW3)
        assert np.array_equal(inputs["alive"][0], packed.alive_N)
        assert np.allclose(inputs["cam_from_ego"][0][alive], packed.cam_from_ego_N44[alive], atol=1e-6)
        assert np.allclose(inputs["time_offset"][0][alive], packed.time_offset_N[alive])
        assert np.array_equal(inputs["intrinsics"][0], packed.intrinsics_N4)


@pytest.mark.parametrize("size_hw", [(64, 128), (75, 130), (48, 64), (33, 64), (20, 50)])
def test_the_numpy_resize_is_within_one_grey_level_of_opencv(size_hw):
    image = np.random.default_rng(0).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    camera = replace(five_camera_rig(*size_hw).cameras[1])
    _, plan = network_camera(camera, 32, 64)
    ours, opencv = resize_and_crop(image, plan, 32), resize_and_crop_opencv(image, plan, 32)
    assert ours.shape == opencv.shape == (32, 64, 3)
    assert np.abs(ours.astype(int) - opencv.astype(int)).max() <= 1
    assert cv2.INTER_AREA  # the kernel that the manifest names


MS = 1_000_000


def feed_of(*names: str) -> StepFeed:
    feed = StepFeed(names, period_s=0.1, deadline_s=0.06)
    for k in range(20):
        feed.push_pose(k * 50 * MS, drive(k))
    return feed


def test_a_complete_step_is_handed_out_at_once_an_incomplete_one_at_its_deadline():
    feed, image = feed_of("a", "b"), np.zeros((2, 2, 3), np.uint8)
    feed.push("a", 0, image)
    assert feed.poll(10 * MS) is None
    feed.push("b", 5 * MS, image)
    step = feed.poll(20 * MS)
    assert step is not None and step.reference_ns == 0 and set(step.pictures) == {"a", "b"}
    feed.push("a", 100 * MS, image)
    assert feed.poll(150 * MS) is None
    step = feed.poll(161 * MS)
    assert step is not None and step.reference_ns == 100 * MS and set(step.pictures) == {"a"}
    feed.push("b", 101 * MS, image)  # too late now
    assert feed.counters.late == 0 or feed.poll(165 * MS) is None
    assert feed.counters.incomplete_steps == 1


def test_out_of_order_and_doubled_pictures_leave_the_nearest():
    feed, image = feed_of("a"), np.zeros((2, 2, 3), np.uint8)
    feed.push("a", 0, image)
    assert feed.poll(1 * MS) is not None
    for stamp in (130, 97, 110, 97):
        feed.push("a", stamp * MS, image)
    step = feed.poll(140 * MS)
    assert step is not None and step.pictures["a"].timestamp_ns == 97 * MS


def test_one_camera_with_a_broken_clock_does_not_move_the_feed_but_all_of_them_do():
    feed, image = feed_of("a", "b", "c"), np.zeros((2, 2, 3), np.uint8)
    for name in "abc":
        feed.push(name, 0, image)
    assert feed.poll(1 * MS) is not None
    feed.push("a", 10**15, image)
    feed.push("b", 100 * MS, image)
    feed.push("c", 100 * MS, image)
    step = feed.poll(200 * MS)
    assert step is not None and set(step.pictures) == {"b", "c"} and not step.clock_jumped
    for name in "abc":
        feed.push(name, 10**13, image)
    feed.push_pose(10**13, drive(0))
    feed.push("a", 10**13, image)
    step = feed.poll(10**13 + 60 * MS)
    assert step is not None and step.clock_jumped


def test_a_long_silence_skips_the_steps_that_nobody_can_meet():
    feed, image = feed_of("a"), np.zeros((2, 2, 3), np.uint8)
    feed.push("a", 0, image)
    assert feed.poll(0) is not None
    for now in range(100, 930, 50):
        assert feed.poll(now * MS) is None
    feed.push("a", 950 * MS, image)
    step = feed.poll(955 * MS)
    assert step is not None and step.reference_ns == 900 * MS


def test_stamps_and_poses_that_are_none_are_counted_and_dropped():
    feed = StepFeed(("a",), period_s=0.1, deadline_s=0.06)
    feed.push_pose(0, drive(0))
    poses: list[Any] = [np.zeros((4, 4)), 2 * np.eye(4), np.eye(3), np.diag([1.0, 1.0, -1.0, 1.0]), np.full((4, 4), np.nan), "pose"]
    for pose in poses:
        feed.push_pose(10 * MS, pose)
    assert feed.counters.bad_pose == 6
    stamps: list[Any] = [None, float("nan"), 0.5, "now", True]
    for stamp in stamps:
        feed.push("a", stamp, None)
        feed.push_pose(stamp, drive(0))
    assert feed.counters.bad_stamp == 10
    assert feed.poll(10**12) is None
    feed.push("a", 0, np.zeros((2, 2, 3), np.uint8))
    assert feed.poll(1 * MS) is not None


def steps_of(feed: StepFeed, first: int, last: int) -> list[int]:
    """Reference times in ms of the steps that one camera's pictures at 10 Hz make, from `first` to before `last` (ms)."""
    made = []
    for stamp in range(first, last, 100):
        feed.push("a", stamp * MS, np.zeros((2, 2, 3), np.uint8))
        step = feed.poll((stamp + 60) * MS)
        made += [step.reference_ns // MS] if step else []
    return made


def test_steps_without_a_pose_near_them_are_left_out_until_poses_come_again():
    feed = feed_of("a")  # poses until 950 ms
    assert steps_of(feed, 0, 4000) == list(range(0, 3000, 100))
    assert feed.counters.steps_without_pose == 10
    for stamp in (3990, 4040):
        feed.push_pose(stamp * MS, drive(7))
    feed.push("a", 4000 * MS, np.zeros((2, 2, 3), np.uint8))
    step = feed.poll(4001 * MS)
    assert step is not None and step.world_from_ego == pytest.approx(drive(7)) and not step.clock_jumped


def test_a_pose_that_comes_after_its_step_is_waited_for_until_the_deadline():
    feed = feed_of("a")
    steps_of(feed, 0, 3000)
    feed.push("a", 3000 * MS, np.zeros((2, 2, 3), np.uint8))
    assert feed.poll(3001 * MS) is None
    feed.push_pose(3000 * MS, drive(3))
    step = feed.poll(3002 * MS)
    assert step is not None and step.world_from_ego == pytest.approx(drive(3))


def test_one_pose_of_another_clock_loses_no_step_and_two_begin_a_new_path():
    feed = feed_of("a")
    for k in range(20, 60):
        feed.push_pose(k * 50 * MS, drive(k))
    feed.push_pose(0, drive(9))  # a broken stamp
    assert feed.counters.bad_pose == 1
    assert steps_of(feed, 0, 3000) == list(range(0, 3000, 100))
    for stamp in (2999, 1, 51):
        feed.push_pose(stamp * MS, drive(9))
    assert feed.counters.bad_pose == 2
    feed.push("a", 3000 * MS, np.zeros((2, 2, 3), np.uint8))
    assert feed.poll(3060 * MS) is None and feed.counters.steps_without_pose == 1


def live_drive(network, camera_faults) -> tuple[LiveRunner, list[LiveStep]]:
    """Ten steps of the five-camera rig at 10 Hz; `camera_faults(k, stamp, image)` says what camera `left` delivers."""
    rig = five_camera_rig(*CONFIG.input_hw)
    live, steps, image = LiveRunner(network, rig.cameras, 0.1, 0.06), [], np.full((*CONFIG.input_hw, 3), 90, np.uint8)
    for k in range(10):
        stamp = k * 100 * MS
        live.push_pose(stamp, drive(k))
        for camera in rig.names:
            for at, picture in camera_faults(k, stamp, image) if camera == "left" else [(stamp, image)]:
                live.push_image(camera, at, picture)
        step = live.poll(stamp + 61 * MS)
        steps += [step] if step else []
    return live, steps


def test_a_camera_that_dies_and_returns_leaves_the_others_answers_as_if_it_had_been_absent(network):
    live, dead = live_drive(network, lambda k, stamp, image: [] if 3 <= k < 6 else [(stamp, image)])
    assert len(dead) == 10 and live.counters()["incomplete_steps"] == 3
    _, broken = live_drive(network, lambda k, stamp, image: [(stamp, image * np.nan if 3 <= k < 6 else image)])
    assert [bool(step.notes) for step in broken] == [3 <= k < 6 for k in range(10)]
    for one, other in zip(dead, broken, strict=True):
        assert all(np.array_equal(one.result.raw[name], other.result.raw[name]) for name in one.result.raw)


def test_late_doubled_and_disordered_pictures_never_stop_the_drive(network):
    def faults(k, stamp, image):
        late = [(stamp - 100 * MS, image)] if k else []  # the picture of the step before, one step late
        return [*late, (stamp + 3 * MS, image), (stamp, image), (10**15, image), (stamp, image[:3])]

    live, steps = live_drive(network, faults)
    assert len(steps) == 10
    assert live.counters()["late"] == 9 and live.counters()["stray"] == 10
    assert all(np.isfinite(step.result.raw["boxes"]).all() for step in steps)
    assert live.counters()["poisoned_states"] == live.counters()["refused_steps"] == 0


def test_a_jump_of_the_clock_starts_the_drive_anew(network):
    rig = five_camera_rig(*CONFIG.input_hw)
    live, image = LiveRunner(network, rig.cameras, 0.1, 0.06), np.full((*CONFIG.input_hw, 3), 90, np.uint8)
    resets = []
    for stamp in (0, 100 * MS, 10**13, 10**13 + 100 * MS, 200 * MS):
        live.push_pose(stamp, drive(0))
        for _ in range(2):  # the first picture of each camera tells the feed, the second belongs to the new drive
            for camera in rig.names:
                live.push_image(camera, stamp, image)
        step = live.poll(stamp + 61 * MS)
        assert step is not None
        resets.append(bool(step.result.reset))
    assert resets == [True, False, True, False, True]


def test_a_long_drive_with_broken_deliveries_keeps_nothing(network):
    rig = five_camera_rig(*CONFIG.input_hw)
    live, image = LiveRunner(network, rig.cameras, 0.1, 0.06), np.full((*CONFIG.input_hw, 3), 90, np.uint8)

    def held_after(first: int, last: int) -> tuple[int, int]:
        """Bytes of all arrays and the number of containers after these steps, of which every third lacks a camera, one doubles one and
        one gets a pose of NaN."""
        for k in range(first, last):
            stamp = k * 100 * MS
            live.push_pose(stamp, drive(k % 50) * (np.nan if k % 3 == 1 else 1.0))
            for camera in rig.names[k % 3 == 0 :]:
                live.push_image(camera, stamp, image)
            live.push_image(rig.names[-1], stamp + MS * (k % 3), image)
            live.poll(stamp + 61 * MS)
        gc.collect()
        arrays = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)])
        return sum(trace.size for trace in arrays.traces), len(gc.get_objects())

    tracemalloc.start()
    try:
        arrays, containers = held_after(0, 102)  # the feed keeps 64 poses
        more_arrays, more_containers = held_after(102, 162)
    finally:
        tracemalloc.stop()
    assert live.counters()["steps"] == 162
    assert more_arrays < arrays + 60 * 16  # not two numbers are left of a step
    assert more_containers < containers + 30


# Whole clips, and a machine without torch


def test_a_clip_becomes_a_layer(network, tiny_clip):
    layer = stream_clip(network, tiny_clip, "model@onnx")
    assert sorted(layer.boxes_world) == [0, 1, 2, 3]
    assert all(len(boxes) for boxes in layer.boxes_world.values())
    assert layer.meta["precision"] == "fp32"


def test_run_writes_a_layer_and_times_every_stage(standin_file, tiny_clip, tmp_path, capsys):
    clip = tmp_path / "clip"
    shutil.copytree(tiny_clip.path, clip)
    assert run_clip(standin_file, [clip], threads=1) == 0
    printed = capsys.readouterr().out
    assert all(stage in printed for stage in ("decode", "preprocess", "encoder", "fusion", "read-out", "total"))
    assert all(percentile in printed for percentile in ("p50", "p90", "p99", "max"))
    assert sorted(Clip.open(clip).layer("model@onnx").boxes_world) == [0, 1, 2, 3]
    assert run_clip(standin_file, [clip], threads=1) == 2  # the layer is there already: the other clips of a job would go on
    assert run_clip(standin_file, [clip], whole=True, threads=1, overwrite=True) == 0
    assert "network" in capsys.readouterr().out
    for name in ("truth", "model@", "model@../other"):
        with pytest.raises(ConfigError, match="begins with model@"):
            run_clip(standin_file, [clip], layer=name)
    with pytest.raises(ConfigError, match="expected clips to stream, got none"):
        run_clip(standin_file, [])


def test_run_says_that_a_layer_is_there_before_it_streams(standin_file, tiny_clip, tmp_path, capsys, monkeypatch):
    clip = tmp_path / "clip"
    shutil.copytree(tiny_clip.path, clip)
    (clip / "layers" / "truth").rename(clip / "layers" / "model@onnx")
    monkeypatch.setattr("export.run.stream_clip", None)  # not called
    assert run_clip(standin_file, [clip], whole=True, threads=1) == 2
    told = capsys.readouterr()
    assert "has a layer 'model@onnx' already; give another name with --layer, or --overwrite" in told.err and not told.out


def test_a_split_graph_computes_the_same(standin_file, network, tiny_clip, tmp_path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(standin_file.read_bytes())
    encoder, fusion = write_parts(copy)
    split, times = open_network(fusion, encoder, threads=1), StageTimes()
    whole_state, split_state = network.empty_state(), split.empty_state()
    for inputs in steps(3):
        want, whole_state = network(inputs, whole_state)
        got, split_state = split(inputs, split_state)
        assert all(np.allclose(want[name], got[name], atol=1e-5) for name in want)
    stream_clip(in_parts(network, threads=1), tiny_clip, "model@onnx", times=times)
    assert [row[0] for row in times.rows()] == ["decode", "preprocess", "encoder", "fusion", "read-out", "total"]
    with pytest.raises(DataError, match="expected a whole graph, got the encoder part of a split one"):
        OnnxNetwork(encoder)
    with pytest.raises(DataError, match="expected the fusion part of a split one, got a whole graph"):
        open_network(standin_file, encoder, threads=1)
    other = rewritten(encoder, tmp_path / "other.onnx", lambda manifest: replace(manifest, hashes={"weights_sha256": "0"}))
    with pytest.raises(DataError, match="parts of two different exports"):
        open_network(fusion, other, threads=1)


def test_the_runner_needs_neither_torch_nor_opencv_nor_onnx(standin_file):
    code = f"""
        import sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("torch", "cv2", "onnx", "scipy", "pyarrow"):
                    raise ImportError("blocked: " + name)
        sys.meta_path.insert(0, Blocked())
        import numpy as np
        from export.feed import Picture, StepPacker
        from export.runner import OnnxNetwork, StreamRunner
        from scenes.rigs import default_rig
        network = OnnxNetwork({str(standin_file)!r}, threads=1)
        rig = default_rig(64, 128)
        packer, runner = StepPacker(rig.cameras, network.manifest.input_hw), StreamRunner(network)
        image = np.full((64, 128, 3), 90, np.uint8)
        for k in range(3):
            inputs, notes = packer.pack(k * 10**8, {{c.name: Picture(k * 10**8, image, np.eye(4)) for c in rig.cameras}}, np.eye(4))
            result = runner.step(k * 10**8, inputs, np.eye(4))
        assert runner.counters.steps == 3 and not notes and np.isfinite(result.raw["boxes"]).all()
        print("torch" in sys.modules, "cv2" in sys.modules)
    """
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False False", done.stderr
