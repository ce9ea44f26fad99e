"""Do half precision and int8 keep geometry in fp32, sorted graphs and small errors? And does the roofline count right?"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from standin_network import StandIn, standin_config

from export.budget import Candidate, choose, is_pareto, measure_ms, write_within_budget
from export.command import write_verified
from export.half import group_of, groups_of, to_half
from export.int8 import calibrate, to_int8
from export.lint import lint
from export.networks import LoadedNetwork
from export.onnx_graph import export_model
from export.precision import choose_parts, dense_error, record_steps
from export.roofline import DEVICES, Device, bound_ms, device_of, node_costs, read_devices
from export.runner import OnnxNetwork, initial_state
from export.synthetic import five_camera_rig, synthetic_steps
from scenes.errors import ConfigError, DataError

CONFIG = standin_config()


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("precision") / "standin.onnx"
    manifest = export_model(StandIn().eval(), CONFIG, path)
    model = onnx.load(str(path))
    steps = record_steps(model, [synthetic_steps(five_camera_rig(*CONFIG.input_hw), CONFIG, 3)], initial_state(manifest))
    return model, steps


def elements_of(model) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model)
    return {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.input)} | {
        t.name: t.data_type for t in model.graph.initializer
    }


def test_half_precision_keeps_geometry_and_borders_in_fp32(graph):
    model, steps = graph
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    elements = elements_of(half)
    by_type = {op: {elements[n.input[0]] for n in half.graph.node if n.op_type == op} for op in ("Conv", "GridSample", "TopK")}
    assert by_type == {"Conv": {TensorProto.FLOAT16}, "GridSample": {TensorProto.FLOAT}, "TopK": {TensorProto.FLOAT}}
    assert all(value.type.tensor_type.elem_type != TensorProto.FLOAT16 for value in (*half.graph.input, *half.graph.output))
    assert 0 < dense_error(half, steps) < 5e-3
    assert lint(half) == []


def test_kept_parts_stay_as_they_were(graph):
    model, steps = graph
    untouched = to_half(model, groups_of(model))
    assert [n.op_type for n in untouched.graph.node] == [n.op_type for n in model.graph.node]
    assert dense_error(untouched, steps) == 0.0


def test_large_constants_are_lengths_and_stay_fp32():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["offset"]), helper.make_node("Add", ["offset", "centre"], ["y"])]
    values = [numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"), numpy_helper.from_array(np.float32([40.0, -40.0, 1.0]), "centre")]
    info = helper.make_tensor_value_info
    inner = helper.make_graph(nodes, "g", [info("x", 1, [2, 3])], [info("y", 1, [2, 3])], values)
    half = to_half(helper.make_model(inner, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    assert [n.op_type for n in half.graph.node] == ["Cast", "MatMul", "Cast", "Add"]
    assert elements_of(half)["centre"] == TensorProto.FLOAT


def test_int8_is_symmetric_on_convolutions_only(graph):
    model, steps = graph
    quantised = to_int8(model, calibrate(model, [step.feed for step in steps]))
    onnx.checker.check_model(quantised, full_check=True)
    assert lint(quantised) == []  # among others: zero points are 0 and int8
    readers = {n.op_type for n in quantised.graph.node for name in n.input if name.endswith("_dequantised")}
    assert readers == {"Conv"}
    assert 0 < dense_error(quantised, steps) < 0.1


def test_sensitive_parts_are_found_by_measurement(graph):
    model, steps = graph
    assert groups_of(model) and all(isinstance(group_of(node), str) for node in model.graph.node)
    _, strict = choose_parts(model, to_half, steps, part_budget=0.0, total_budget=0.0)
    assert strict.keep == [entry.part for entry in strict.parts if entry.error > 0]
    assert strict.error == 0.0
    _, loose = choose_parts(model, to_half, steps, part_budget=1.0, total_budget=1.0)
    assert loose.keep == []


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_command_writes_a_lower_precision_that_runs(precision, tmp_path, tiny_clip_path):
    out = tmp_path / "low.onnx"
    network = LoadedNetwork("standin", StandIn().eval(), CONFIG, "")
    manifest, _ = write_verified(network, out, steps=1, precision=precision, clips=[tiny_clip_path], against="truth")
    assert OnnxNetwork(out).manifest.precision == precision
    assert manifest.verification["precision"]["error"] < 0.1
    assert manifest.accuracy["frames"] == 4


# Roofline


def test_flops_and_bytes_of_a_convolution_by_hand():
    info = helper.make_tensor_value_info
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="c")
    weight = numpy_helper.from_array(np.zeros((8, 4, 3, 3), np.float32), "w")
    inner = helper.make_graph([node], "g", [info("x", 1, ["n", 4, 10, 10])], [info("y", 1, ["n", 8, 8, 8])], [weight])
    cost = node_costs(helper.make_model(inner, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), num_cameras=2)[0]
    assert cost.flops == 2 * (2 * 8 * 8 * 8) * (4 * 3 * 3)
    assert cost.bytes == 4 * (2 * 4 * 100 + 8 * 4 * 9 + 2 * 8 * 64)
    slow = Device(1.0, 1.0, 1.0, 1e9, "made up")
    assert bound_ms([cost], slow) == pytest.approx(1e3 * cost.flops / 1e12)


def test_half_and_int8_are_bounded_lower(graph):
    model, steps = graph
    device = DEVICES["orin-agx"]
    plain = bound_ms(node_costs(model), device)
    assert plain > 0
    assert sum(c.flops for c in node_costs(to_half(model)) if c.element == TensorProto.FLOAT16) > 0
    quantised = to_int8(model, calibrate(model, [step.feed for step in steps]))
    assert any(c.element == TensorProto.INT8 for c in node_costs(quantised))


def test_devices_are_named_or_added(tmp_path):
    with pytest.raises(ConfigError, match="not in the table"):
        device_of("abacus", DEVICES)
    added = tmp_path / "devices.json"
    added.write_text('{"toy": {"fp32_tflops": 1, "fp16_tflops": 2, "int8_tops": 4, "memory_gbps": 10, "source": "me"}}')
    assert device_of("toy", read_devices(added)).int8_tops == 4
    added.write_text("[]")
    with pytest.raises(DataError, match=r"devices\.json"):
        read_devices(added)


# Budget


def candidate(name: str, latency_ms: float, accuracy: float) -> Candidate:
    return Candidate(name, latency_ms, False, accuracy, 1.0)


def test_the_most_accurate_that_fits_is_chosen():
    table = [candidate("small", 10, 0.3), candidate("middle", 20, 0.5), candidate("slow twin", 25, 0.5), candidate("big", 40, 0.6)]
    assert [choose(table, ms).name for ms in (10, 30, 100)] == ["small", "middle", "big"]
    assert [c.name for c in table if is_pareto(c, table)] == ["small", "middle", "big"]
    with pytest.raises(ConfigError, match=r"smallest reachable is 10\.0 ms \(small\)"):
        choose(table, 5)


def test_a_budget_writes_file_table_and_plot(tmp_path, tiny_clip_path, monkeypatch):
    out = tmp_path / "car.onnx"
    network = LoadedNetwork("standin", StandIn().eval(), CONFIG, "")
    monkeypatch.setattr("export.budget.load_network", lambda name, layers=None, sampler=None: network)
    with pytest.raises(ConfigError, match="without clips"):
        write_within_budget(["x"], out, 1e6, [])
    with pytest.raises(ConfigError, match="not in the table"):
        write_within_budget(["x"], out, 1e6, [tiny_clip_path], device="abacus")
    best = write_within_budget(["x"], out, 1e6, [tiny_clip_path], device="orin-nx", precisions=("fp32",))
    assert best.estimated
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("car")) == [
        "car.onnx",
        "car.onnx.json",
        "car.onnx.pareto.json",
        "car.onnx.pareto.png",
    ]
    assert not list(tmp_path.glob(".car*"))
    assert len(measure_ms(OnnxNetwork(out, threads=1), steps=3)) == 3
