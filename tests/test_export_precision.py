"""Do half precision and int8 keep geometry in fp32, sorted graphs and small errors? And does the roofline count right?"""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from standin_network import StandIn, standin_config

from export.budget import TURNS, BudgetSettings, choose, measure_ms, measured_in_turns_ms, write_choice, write_within_budget
from export.calibration import Range, calibrate, narrowed
from export.command import export_checkpoint, parse_sizes
from export.devices import DEVICES, Device, device_of, read_devices
from export.half import group_of, groups_of, half_lowering, largest_values, to_half
from export.int8 import SYMMETRIC, UNSIGNED, int8_lowering, to_int8
from export.lint import lint
from export.lower import Samples, lowered
from export.networks import LoadedNetwork
from export.node_costs import bound_ms, merged, node_costs
from export.onnx_graph import export_model, read_manifest
from export.pareto import RED, Candidate, free_place, is_pareto, pareto_plot, ticks
from export.precision import choose_parts, dense_error, record_steps
from export.roofline import roofline
from export.runner import OnnxNetwork, initial_state
from export.synthetic import five_camera_rig, synthetic_steps
from export.write import write_verified
from scenes.errors import ConfigError, DataError

CONFIG = standin_config()
SAME = 1e-6
"""One graph asked for other outputs is merged otherwise by onnxruntime: float32's last bits, far below any lowering's error."""


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
    assert dense_error(untouched, steps) < SAME


def test_large_constants_are_lengths_and_stay_fp32():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["offset"]), helper.make_node("Add", ["offset", "centre"], ["y"])]
    values = [numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"), numpy_helper.from_array(np.float32([40.0, -40.0, 1.0]), "centre")]
    info = helper.make_tensor_value_info
    inner = helper.make_graph(nodes, "g", [info("x", 1, [2, 3])], [info("y", 1, [2, 3])], values)
    half = to_half(helper.make_model(inner, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    assert [n.op_type for n in half.graph.node] == ["Cast", "MatMul", "Cast", "Add"]
    assert elements_of(half)["centre"] == TensorProto.FLOAT


def ranges_of(model, steps) -> dict[str, Range]:
    return calibrate(model, [step.feed for step in steps])["full"]


def test_symmetric_int8_is_on_convolutions_only(graph):
    model, steps = graph
    quantised = to_int8(model, ranges_of(model, steps))
    onnx.checker.check_model(quantised, full_check=True)
    assert lint(quantised) == []  # among others: zero points are 0 and int8
    readers = {n.op_type for n in quantised.graph.node for name in n.input if name.endswith(("_dequantised", "_dq"))}
    assert readers == {"Conv"}
    assert 0 < dense_error(quantised, steps) < 0.1


def test_unsigned_int8_runs_in_integers_from_the_bytes_on(graph, tmp_path):
    model, steps = graph
    quantised = to_int8(model, ranges_of(model, steps), style=UNSIGNED)
    onnx.checker.check_model(quantised, full_check=True)
    assert lint(quantised, ["onnxruntime"]) == []
    assert 0 < dense_error(quantised, steps) < 0.1
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(quantised.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inside = [n.op_type for n in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    assert inside.count("QLinearConv") == 2
    assert "Conv" not in inside


def one_convolution(*, mean: float) -> onnx.ModelProto:
    """Bytes (1, 2, 2, 1) to planes, normalised by (x - mean) / 2, weight 3, then a Relu."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["images"], ["grey"], to=1),
        helper.make_node("Transpose", ["grey"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["normal"]),
        helper.make_node("Conv", ["normal", "weight"], ["conv"], name="conv"),
        helper.make_node("Relu", ["conv"], ["y"]),
        helper.make_node("Identity", ["y"], ["out"]),
    ]
    arrays = {"scale": np.full((1, 1, 1), 0.5), "shift": np.full((1, 1, 1), -mean / 2), "weight": np.full((1, 1, 1, 1), 3.0)}
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    inner = helper.make_graph(nodes, "g", [info("images", 2, [1, 2, 2, 1])], [info("out", 1, [1, 1, 2, 2])], constants)
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_bytes_enter_the_convolution_exactly():
    model = one_convolution(mean=100.0)
    pixels = np.array([60, 100, 104, 140], np.uint8).reshape(1, 2, 2, 1)
    ranges = {"normal": Range(-20, 20), "conv": Range(-60, 60), "y": Range(0, 60)}
    quantised = to_int8(model, ranges, style=UNSIGNED)
    assert next(n for n in quantised.graph.node if n.op_type == "Transpose").input[0] == "images"
    assert not {"Cast", "Mul", "Add", "Relu"} & {n.op_type for n in quantised.graph.node}
    session = onnxruntime.InferenceSession(quantised.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {"images": pixels})[0].ravel()
    assert got == pytest.approx([0, 0, 6, 60], abs=60 / 255)  # 3 (x - 100) / 2, cut off at 0, in steps of 60 / 255


def test_a_range_is_narrowed_where_one_value_would_coarsen_all_others():
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(size=4000), 12.0).astype(np.float32)
    seen = Range(float(values.min()), 12.0)
    assert narrowed(seen, np.linspace(-1, 1, 100)[:, None].ravel()) != seen
    many = narrowed(Range(-1.0, 1.0), np.linspace(-1, 1, 4001).astype(np.float32))
    assert many.high > 0.99
    assert UNSIGNED.parameters(Range(-1.0, 1.55))[1] == 100  # 255 steps of 0.01
    assert SYMMETRIC.parameters(Range(-1.27, 1.0))[0] == pytest.approx(0.01)


def test_sensitive_parts_are_found_by_measurement(graph):
    model, steps = graph
    assert groups_of(model) and all(isinstance(group_of(node), str) for node in model.graph.node)
    _, strict = choose_parts(half_lowering(model, {}), steps, part_budget=0.0, total_budget=0.0)
    assert strict.keep == [entry.part for entry in strict.parts if entry.error > 0]
    assert strict.error < SAME
    _, loose = choose_parts(half_lowering(model, {}), steps, part_budget=1.0, total_budget=1.0)
    assert loose.keep == []
    lowering = int8_lowering(model, calibrate(model, [step.feed for step in steps]), UNSIGNED)
    _, choice = choose_parts(lowering, steps, part_budget=1.0, total_budget=1.0)
    assert set(choice.rules) == set(lowering.parts)
    for entry in choice.parts:
        alone = {rule: dense_error(lowering.convert({entry.part: rule}), steps) for rule in lowering.rules}
        assert alone[entry.rule] == min(alone.values()) == entry.error


def test_parts_that_cost_points_stay_fp32(graph, tiny_clip_path, monkeypatch):
    model, _ = graph
    manifest = read_manifest(model, "standin")
    network = LoadedNetwork("standin", StandIn().eval(), CONFIG, "")
    points = iter([0.5, 0.38, 0.37, 0.39, 0.4, 0.4, 0.495])  # fp32, three ways to choose ranges, then with ever fewer parts in int8
    monkeypatch.setattr("export.lower.measure_accuracy", lambda network, clips, against: {"mean_ap": next(points)})
    monkeypatch.setattr("export.lower.slower_parts", lambda lowering, rules, feed: list(rules)[:1])
    parts = len(int8_lowering(model, {"full": {}, "narrow": {}}, UNSIGNED).parts)
    _, told = lowered(model, manifest, "int8-cpu", network, Samples([tiny_clip_path], "truth"))
    assert told.verification["precision"]["points"][0] == pytest.approx(0.1)
    assert set(told.verification["precision"]["rules"].values()) <= {"narrow"}  # the third way lost least
    assert len(told.verification["precision"]["kept_fp32"]) == min(parts, 3)  # two for their points, one because it is no faster
    assert set(told.verification["precision"]["fp32_because_faster"]) <= set(told.verification["precision"]["kept_fp32"])
    with pytest.raises(ConfigError, match="int4"):
        lowered(model, manifest, "int4", network, Samples([]))


def test_mean_ap_alone_decides_what_fp16_keeps(graph, tiny_clip_path, monkeypatch):
    model, _ = graph
    parts = groups_of(model)
    manifest = read_manifest(model, "standin")
    network = LoadedNetwork("standin", StandIn().eval(), CONFIG, "")
    monkeypatch.setattr("export.lower.dense_error", lambda *_: 1.0)  # as if it changed a step's answers altogether
    monkeypatch.setattr("export.precision.dense_error", lambda *_: 1.0)
    for points, kept in (([0.5, 0.4995], 0), ([0.5, 0.498, 0.4999], 1)):
        answers = iter(points)
        monkeypatch.setattr("export.lower.measure_accuracy", lambda *_, answers=answers: {"mean_ap": next(answers)})
        _, told = lowered(model, manifest, "fp16", network, Samples([tiny_clip_path], "truth"))
        assert len(told.verification["precision"]["kept_fp32"]) == kept < len(parts)
        assert next(answers, None) is None
    _, told = lowered(model, manifest, "fp16", network, Samples([tiny_clip_path]))
    assert told.verification["precision"]["kept_fp32"] == parts  # nothing to count on: the error decides
    monkeypatch.setattr("export.lower.measure_accuracy", lambda *_: {"mean_ap": 0.5})  # boxes are as good as before
    monkeypatch.setattr("export.lower.dense_error", lambda *_: float("inf"))
    monkeypatch.setattr("export.precision.dense_error", lambda *_: float("inf"))  # but something else is not finite
    _, told = lowered(model, manifest, "fp16", network, Samples([tiny_clip_path], "truth"))
    assert told.verification["precision"]["kept_fp32"] == parts


def test_values_too_large_for_half_precision_stay_fp32():
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "big"], ["a"], name="grows"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MatMul", ["b", "small"], ["c"], name="shrinks"),
        helper.make_node("MatMul", ["c", "small"], ["y"], name="fits"),
    ]
    constants = [numpy_helper.from_array(np.eye(4, dtype=np.float32) * factor, name) for name, factor in (("big", 400), ("small", 1e-3))]
    graph = helper.make_graph(nodes, "g", [info("x", 1, [1, 4])], [info("y", 1, [1, 4])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    largest = largest_values(model, [{"x": np.full((1, 4), value, np.float32)} for value in (1.0, 400.0, 2.0)])
    assert largest["b"] == 160_000 and largest["c"] == pytest.approx(160) and largest["x"] == 400
    half = to_half(model, (), largest)
    made = {node.name: node.input[0] for node in half.graph.node}
    assert [name for name, source in made.items() if source.endswith("_half") and not name.endswith("_to_float")] == ["fits"]
    assert sum(node.op_type == "MatMul" and node.input[0].endswith("_half") for node in to_half(model).graph.node) == 3


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-cpu"])
def test_the_command_writes_a_lower_precision_that_runs(precision, tmp_path, tiny_clip_path):
    out = tmp_path / "low.onnx"
    network = LoadedNetwork("standin", StandIn().eval(), CONFIG, "")
    samples = Samples([tiny_clip_path], "truth")
    manifest, _ = write_verified(network, out, steps=1, precision=precision, samples=samples, clips=[tiny_clip_path])
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


def test_pointwise_nodes_join_who_makes_their_input():
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Add", ["a", "x"], ["b"], name="residual"),
        helper.make_node("Relu", ["b"], ["c"], name="relu"),
        helper.make_node("Sigmoid", ["c"], ["gate"], name="gate"),
        helper.make_node("Mul", ["c", "gate"], ["y"], name="gated"),
    ]
    weight = numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.float32), "w")
    shape = [1, 4, 10, 10]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [info("x", 1, shape)], [info("y", 1, shape)], [weight]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    alone = node_costs(model)
    together = merged(alone, {"y"})
    map_bytes = 4 * 400
    assert [cost.node for cost in together] == ["conv", "gate"]  # two read c, so it is made; what only the next one reads is not
    assert [cost.bytes for cost in together] == [2 * map_bytes + 4 * 16, 2 * map_bytes]  # x and w in, c out; c in, y out
    assert sum(cost.flops for cost in together) == sum(cost.flops for cost in alone)
    assert [cost.node for cost in merged(alone, {"y", "a"})] == ["conv", "residual", "gate"]  # outputs are made in any case


def test_what_is_quantised_at_once_is_moved_as_bytes():
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="dq"),
        helper.make_node("Conv", ["d", "w"], ["y"], name="next"),
    ]
    constants = [
        numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.float32), "w"),
        numpy_helper.from_array(np.float32(0.1), "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
    ]
    shape = [1, 4, 10, 10]
    graph = helper.make_graph(nodes, "g", [info("x", 1, shape)], [info("y", 1, shape)], constants)
    together = merged(node_costs(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)), {"y"})
    assert [cost.node for cost in together] == ["conv", "next"]
    weight, scales = 4 * 16, 4 + 1
    assert [cost.bytes for cost in together] == [4 * 400 + weight + scales + 400, 400 + weight + 4 * 400]


NO_OPERATIONS = {"Identity": ([], {}), "Cast": ([], {"to": 1}), "Concat": ([], {"axis": 0}), "Reshape": (["shape"], {})}


@pytest.mark.parametrize("name", sorted(NO_OPERATIONS))
def test_folding_takes_no_shape_away(name):
    inputs, how = NO_OPERATIONS[name]
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], name="conv"), helper.make_node(name, ["a", *inputs], ["y"], **how)]
    shape = [1, 4, 10, 10]
    constants = [numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.float32), "w"), numpy_helper.from_array(np.array(shape), "shape")]
    graph = helper.make_graph(nodes, "g", [info("x", 1, shape)], [info("y", 1, shape)], constants)
    cost = node_costs(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))[0]
    assert cost.flops == 2 * 400 * 4


def test_integer_products_count_as_such():
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ConvInteger", ["x", "w"], ["c"], name="conv"),
        helper.make_node("MatMulInteger", ["a", "b"], ["m"], name="product"),
    ]
    constants = [numpy_helper.from_array(np.zeros((8, 4, 3, 3), np.int8), "w"), numpy_helper.from_array(np.zeros((6, 7), np.int8), "b")]
    inputs = [info("x", TensorProto.UINT8, [1, 4, 5, 5]), info("a", TensorProto.UINT8, [5, 6])]
    outputs = [info("c", TensorProto.INT32, [1, 8, 3, 3]), info("m", TensorProto.INT32, [5, 7])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    conv, product = node_costs(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    assert conv.flops == 2 * (8 * 9) * (4 * 9) and product.flops == 2 * 35 * 6
    assert conv.element == product.element == TensorProto.INT8


def test_rates_of_the_table_halve_with_each_wider_type():
    for name in ("orin-nx", "orin-agx", "thor", "h200"):
        assert DEVICES[name].int8_tops == pytest.approx(2 * DEVICES[name].fp16_tflops, rel=0.01), name


def test_shapes_that_follow_from_the_number_of_cameras_are_known():
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Shape", ["x"], ["cameras"], start=0, end=1),
        helper.make_node("Concat", ["cameras", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["planes"]),
        helper.make_node("Conv", ["planes", "w"], ["y"], name="c"),
    ]
    constants = [numpy_helper.from_array(np.zeros((8, 4, 1, 1), np.float32), "w"), numpy_helper.from_array(np.array([4, 5, 5]), "rest")]
    inner = helper.make_graph(nodes, "g", [info("x", 1, ["n", 100])], [info("y", 1, None)], constants)
    model = helper.make_model(inner, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for cameras in (2, 8):
        cost = next(c for c in node_costs(model, cameras) if c.node == "c")
        assert cost.flops == 2 * (cameras * 8 * 25) * 4


def test_half_and_int8_are_bounded_lower(graph):
    model, steps = graph
    device = DEVICES["orin-agx"]
    plain = bound_ms(node_costs(model), device)
    assert plain > 0
    assert sum(c.flops for c in node_costs(to_half(model)) if c.element == TensorProto.FLOAT16) > 0
    quantised = to_int8(model, ranges_of(model, steps))
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


def test_the_roofline_tells_every_node_on_every_device(graph, tmp_path, capsys):
    onnx.save(graph[0], str(tmp_path / "car.onnx"))
    roofline(tmp_path / "car.onnx", ("orin-nx", "h200"), cameras=5, top=1, json=tmp_path / "nodes.json")
    printed = capsys.readouterr().out
    assert "ESTIMATE" in printed and "orin-nx" in printed and "h200" in printed
    told = json.loads((tmp_path / "nodes.json").read_text())
    assert told["estimate"] and told["cameras"] == 5 and len(told["nodes"]) == len(graph[0].graph.node)
    for name in ("orin-nx", "h200"):
        assert told["total"]["bound_ms"][name] == pytest.approx(sum(node["bound_ms"][name] for node in told["nodes"]))
        assert 0 < told["total"]["merged_bound_ms"][name] < told["total"]["bound_ms"][name]
    convolutions = [node["flops"] for node in told["nodes"] if node["operator"] == "Conv"]
    assert convolutions == [2 * 5 * 8 * 16 * 32 * 3 * 9, 2 * 5 * 8 * 16 * 32 * 8 * 9]  # 8 channels of 16x32 from 3 and from 8, 3x3


def test_what_only_picks_values_picks_integers_and_sizes_need_none():
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["conv"], name="conv"),
        helper.make_node("Resize", ["conv", "", "twice"], ["larger"], mode="nearest"),
        helper.make_node("ReduceMax", ["larger", "axes"], ["highest"], keepdims=1),
        helper.make_node("Resize", ["conv", "", "twice"], ["smooth"], mode="linear"),
        helper.make_node("Shape", ["conv"], ["size"]),
    ]
    arrays = {"weight": np.full((2, 1, 1, 1), 0.5, np.float32), "twice": np.float32([1, 1, 2, 2]), "axes": np.int64([1])}
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    outputs = [info("highest", 1, [1, 1, 4, 4]), info("smooth", 1, [1, 2, 4, 4]), info("size", 7, [4])]
    inner = helper.make_graph(nodes, "g", [info("x", 1, [1, 1, 2, 2])], outputs, constants)
    model = helper.make_model(inner, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    quantised = to_int8(model, {"x": Range(0, 51), "conv": Range(0, 25.5)}, style=UNSIGNED)
    onnx.checker.check_model(quantised, full_check=True)
    reads = {node.output[0]: node.input[0] for node in quantised.graph.node}
    assert (reads["larger_picked"], reads["highest_picked"], reads["smooth"], reads["size"]) == (
        "conv_q",
        "larger_picked",
        "conv_dq",
        "conv_q",
    )
    session = onnxruntime.InferenceSession(quantised.SerializeToString(), providers=["CPUExecutionProvider"])
    highest, _, size = session.run(None, {"x": np.float32([[[[10, 20], [30, 50]]]])})
    assert np.array(highest)[0, 0] == pytest.approx(np.repeat(np.repeat([[5, 10], [15, 25]], 2, 0), 2, 1), abs=0.11)  # steps of 0.1
    assert list(size) == [1, 2, 2, 2]


def test_picked_values_that_a_convolution_reads_are_rounded_once():
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["first"], name="one"),
        helper.make_node("MaxPool", ["first"], ["pooled"], kernel_shape=[2, 2]),
        helper.make_node("Conv", ["pooled", "weight"], ["y"], name="two"),
    ]
    weight = numpy_helper.from_array(np.full((1, 1, 1, 1), 2.0, np.float32), "weight")
    inner = helper.make_graph(nodes, "g", [info("x", 1, [1, 1, 2, 2])], [info("y", 1, [1, 1, 1, 1])], [weight])
    model = helper.make_model(inner, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    ranges = {"x": Range(0, 25.5), "first": Range(0, 51), "pooled": Range(0, 51), "y": Range(0, 102)}
    quantised = to_int8(model, ranges, style=UNSIGNED)
    assert len({node.name for node in quantised.graph.node}) == len(quantised.graph.node)
    session = onnxruntime.InferenceSession(quantised.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array(session.run(None, {"x": np.float32([[[[1, 5], [20, 3]]]])})[0]).item() == pytest.approx(80, abs=0.5)


# Budget


def candidate(name: str, latency_ms: float, accuracy: float) -> Candidate:
    return Candidate(name, latency_ms, False, accuracy, 1.0)


def test_the_most_accurate_that_fits_is_chosen():
    table = [candidate("small", 10, 0.3), candidate("middle", 20, 0.5), candidate("slow twin", 25, 0.5), candidate("big", 40, 0.6)]
    assert [choose(table, ms).name for ms in (10, 30, 100)] == ["small", "middle", "big"]
    assert [c.name for c in table if is_pareto(c, table)] == ["small", "middle", "big"]
    with pytest.raises(ConfigError, match=r"smallest reachable is 10\.0 ms \(small\)"):
        choose(table, 5)


def test_ticks_are_round_numbers():
    assert ticks(0.281, 0.424) == [0.3, 0.35, 0.4]
    assert ticks(6.8, 107.9) == [20, 40, 60, 80, 100]
    assert ticks(2.0, 6.0) == [2, 3, 4, 5, 6]


def test_numbers_of_crowded_points_hide_neither_each_other_nor_a_point():
    taken = [(294, 194, 306, 206), (298, 196, 310, 208)]
    for number in range(1, 13):
        left, top, right, bottom = free_place(str(number), (300, 200), taken, bottom_px=400)
        assert all(left >= r or right <= a or top >= b or bottom <= t for a, t, r, b in taken)
        taken.append((left, top, right, bottom))


@pytest.mark.parametrize("budget_ms", [30.0, 5000.0])
def test_the_plot_rings_the_chosen_one_and_names_them_all(budget_ms):
    table = [candidate("small", 10, 0.3), candidate("twin", 10, 0.3), *(candidate(f"big {k}", 40, 0.6) for k in range(30))]
    image = pareto_plot(table, table[0], budget_ms, "here", "mean_ap")
    assert image.shape[1] == 1080 and image.shape[0] > 19 * len(table)
    red = (np.abs(image.astype(int) - RED) < 60).all(axis=2)
    assert red[100:400].any() == (budget_ms == 30.0) and red[:50].any()  # a budget far away is named, not drawn


def test_a_lucky_time_does_not_win(tmp_path, monkeypatch):
    files = [tmp_path / f"{name}.onnx" for name in ("good", "lucky")]
    for path in files:
        path.write_bytes(path.stem.encode())
        (tmp_path / f"{path.name}.json").write_text("{}")
    found = [(candidate("good", 20, 0.5), files[0]), (candidate("lucky", 29, 0.6), files[1])]
    monkeypatch.setattr("export.budget.measured_p90_ms", lambda path, settings: {"good": 21.0, "lucky": 31.0}[path.stem])
    settings = BudgetSettings([tmp_path], Samples([], "truth"))
    with pytest.raises(ConfigError, match=r"smallest reachable is 20\.0 ms"):
        write_choice(found, tmp_path / "out.onnx", 5.0, settings)
    assert not (tmp_path / "out.onnx").exists()
    best = write_choice(found, tmp_path / "out.onnx", 30.0, settings)
    assert best.name == "good"
    assert (tmp_path / "out.onnx").read_bytes() == b"good"
    told = json.loads((tmp_path / "out.onnx.pareto.json").read_text())["candidates"]
    assert {entry["name"]: entry["latency_ms"] for entry in told} == {"good": 20, "lucky": 31.0}


def test_files_are_timed_in_turns_and_share_the_machines_slow_seconds(tmp_path, monkeypatch):
    asked = []

    def timed(path, settings, steps):
        asked.append(path.stem)
        slow = 5.0 if 2 * TURNS // 3 < len(asked) <= 4 * TURNS // 3 else 0.0  # a third of the time
        return np.full(steps, {"a": 20.0, "b": 10.0}[path.stem] + slow)

    monkeypatch.setattr("export.budget.times_ms", timed)
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    assert measured_in_turns_ms(files, BudgetSettings([tmp_path], Samples([], "truth"))) == [25.0, 15.0]
    assert asked == ["a", "b"] * TURNS


def test_a_budget_writes_file_table_and_plot(tmp_path, tiny_clip_path, monkeypatch):
    out = tmp_path / "car.onnx"
    network = LoadedNetwork("standin", StandIn().eval(), CONFIG, "")
    monkeypatch.setattr("export.budget.load_network", lambda name, layers=None, sampler=None, size=None: network)
    clips, samples = [tiny_clip_path], Samples([tiny_clip_path], "truth")
    with pytest.raises(ConfigError, match="without clips"):
        BudgetSettings([], samples)
    with pytest.raises(ConfigError, match="not in the table"):
        BudgetSettings(clips, samples, device="abacus")
    settings = BudgetSettings(clips, samples, device="orin-nx", precisions=("fp32",))
    best = write_within_budget(["x"], out, 1e6, settings)
    assert best.estimated
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("car")) == [
        "car.onnx",
        "car.onnx.json",
        "car.onnx.pareto.json",
        "car.onnx.pareto.png",
    ]
    assert not list(tmp_path.glob(".car*"))
    assert len(measure_ms(OnnxNetwork(out, threads=1), steps=3)) == 3


def standin_network(name: str, layers=None, sampler=None, input_hw=None) -> LoadedNetwork:
    config = replace(CONFIG, query=replace(CONFIG.query, num_layers=1), input_hw=input_hw or CONFIG.input_hw)
    return LoadedNetwork("standin", StandIn().eval(), config, "")


def test_picture_sizes_compete_for_a_budget(tmp_path, tiny_clip_path, monkeypatch):
    monkeypatch.setattr("export.budget.load_network", standin_network)
    sizes = ((32, 32), (32, 32), CONFIG.input_hw)  # a doubled size and the checkpoint's own compete once
    settings = BudgetSettings([tiny_clip_path], Samples([tiny_clip_path], "truth"), "orin-nx", precisions=("fp32",), input_sizes=sizes)
    write_within_budget(["x"], tmp_path / "car.onnx", 1e6, settings)
    told = json.loads((tmp_path / "car.onnx.pareto.json").read_text())["candidates"]
    assert [entry["name"] for entry in told] == ["standin-1layers-fp32", "standin-1layers-32x32-fp32"]
    assert told[1]["latency_ms"] < told[0]["latency_ms"]
    assert all(0 <= entry["accuracy"] <= 1 for entry in told)


def test_what_a_budget_cannot_use_is_refused_before_anything_is_made(tmp_path, tiny_clip_path):
    out, clips = tmp_path / "car.onnx", (tiny_clip_path,)
    for given in ({"device": "orin-nx"}, {"also": ("y",)}, {"devices": tmp_path / "mine.json"}):
        with pytest.raises(ConfigError, match=f"{next(iter(given))}: serves the choice for a budget only"):
            export_checkpoint("x", out, **given)
    for given in ({"layers": 1}, {"precision": "fp16"}):
        with pytest.raises(ConfigError, match=f"{next(iter(given))}: --budget-ms makes and compares all of them"):
            export_checkpoint("x", out, data=clips, budget_ms=50.0, **given)
    for budget_ms in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="budget-ms: expected a time above zero"):
            export_checkpoint("x", out, data=clips, budget_ms=budget_ms)
    with pytest.raises(ConfigError, match="steps: a file is written only after it was compared"):
        export_checkpoint("x", out, steps=0)
    with pytest.raises(DataError, match=r"no label layer 'human' to measure against; it has \['truth'\]"):
        export_checkpoint("x", out, data=clips, against="human")


def test_a_budget_holds_on_a_device_of_the_users_own(tmp_path, tiny_clip_path, monkeypatch):
    monkeypatch.setattr("export.budget.load_network", standin_network)
    mine = tmp_path / "mine.json"
    mine.write_text('{"toy": {"fp32_tflops": 1, "fp16_tflops": 2, "int8_tops": 4, "memory_gbps": 0.001, "source": "me"}}')
    settings = {"device": "toy", "devices": read_devices(mine), "precisions": ("fp32",), "num_cameras": 8}
    best = write_within_budget(
        ["x"], tmp_path / "new" / "car.onnx", 1e9, BudgetSettings([tiny_clip_path], Samples([tiny_clip_path], "truth"), **settings)
    )
    graph = onnx.load(str(tmp_path / "new" / "car.onnx"))
    assert graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 8
    assert best.estimated and best.latency_ms == pytest.approx(1e3 * sum(cost.bytes for cost in node_costs(graph)) / 1e6)  # 1 MB/s


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "expected JSON of devices, each a name and fp32_tflops"),
        ("{", "expected JSON of devices"),
        ('{"toy": {"fp32_tflops": 1}}', "missing 4 required"),
        ('{"toy": {"fp32_tflops": "fast", "fp16_tflops": 1, "int8_tops": 1, "memory_gbps": 1, "source": ""}}', "above zero, got 'fast'"),
        ('{"toy": {"fp32_tflops": 1, "fp16_tflops": 1, "int8_tops": 1, "memory_gbps": 0, "source": ""}}', "memory_gbps: expected a rate"),
    ],
)
def test_a_table_of_devices_that_is_none_is_refused(text, said, tmp_path):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(DataError, match=said) as refused:
        read_devices(tmp_path / "mine.json")
    assert "mine.json" in str(refused.value)
    with pytest.raises(ConfigError, match="cameras: expected one or more, got 0"):
        roofline(tmp_path / "mine.json", cameras=0)


def test_picture_sizes_are_refused_in_words(tmp_path, tiny_clip_path, monkeypatch):
    given = []
    monkeypatch.setattr("export.command.write_within_budget", lambda names, out, ms, settings: given.append(settings.input_sizes))
    export_checkpoint("x", tmp_path / "car.onnx", data=(tiny_clip_path,), budget_ms=1e6, input_sizes=("64x192", "96x256"))
    assert given == [((64, 192), (96, 256))]
    monkeypatch.undo()
    monkeypatch.setattr("export.budget.load_network", standin_network)
    for text in ("64", "64x", "x192", "64x-192", "64x192x3", "big"):
        with pytest.raises(ConfigError, match=r"expected ROWSxCOLUMNS such as 64x192"):
            parse_sizes([text])
    with pytest.raises(ConfigError, match="input-sizes: serves the choice for a budget only"):
        export_checkpoint("x", tmp_path / "car.onnx", input_sizes=("64x192",))
    with pytest.raises(ConfigError, match=r"input_hw: expected multiples of .* got 33x64"):
        export_checkpoint("x", tmp_path / "car.onnx", data=(tiny_clip_path,), budget_ms=1e6, input_sizes=("33x64",))
