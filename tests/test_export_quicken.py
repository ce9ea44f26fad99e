"""Do the rewritten graphs of processors compute what they computed before? Each rule on a graph small enough to check by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_graphs import model_of, run

from export.calibration import Range
from export.int8 import UNSIGNED, to_int8
from export.mixing import mixes_of
from export.precision import Lowering
from export.quicken import quicken
from export.worthwhile import relative_time, slower_parts

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("opset", [17, 18])
def test_a_softmax_over_a_middle_axis_is_spelled_out(opset):
    nodes = [
        helper.make_node("Softmax", ["x"], ["middle"], name="a", axis=1),
        helper.make_node("Softmax", ["x"], ["last"], name="b", axis=2),
    ]
    told = (FLOAT, [1, 2, 2])
    model = model_of(nodes, {"x": told}, {"middle": told, "last": told}, {}, opset)
    assert quicken(model)["softmax"] == 1
    onnx.checker.check_model(model, full_check=True)
    assert kinds(model) == ["ReduceMax", "Sub", "Exp", "ReduceSum", "Div", "Softmax"]
    middle, last = run(model, x=np.log(np.float32([[[1, 200], [3, 600]]])))
    assert middle[0] == pytest.approx(np.array([[0.25, 0.25], [0.75, 0.75]]), abs=1e-6)
    assert last[0, :, 0] == pytest.approx([1 / 201, 3 / 603], abs=1e-6)
    assert np.isfinite(run(model, x=np.float32([[[1e4, 0], [-1e4, 0]]]))[0]).all()


def test_numbers_are_fetched_by_narrow_indices_and_rows_stay_rows():
    nodes = [
        helper.make_node("Cast", ["which"], ["wide"], name="cast", to=INT64),
        helper.make_node("Gather", ["numbers", "wide"], ["number"], name="one", axis=0),
        helper.make_node("Gather", ["rows", "wide"], ["row"], name="many", axis=0),
    ]
    constants = {"numbers": np.float32([5, 6, 7]), "rows": np.float32([[1, 2], [3, 4], [5, 6]])}
    model = model_of(nodes, {"which": (INT32, [2])}, {"number": (FLOAT, [2]), "row": (FLOAT, [2, 2])}, constants)
    used = quicken(model)
    assert (used["fetch"], used["index"], kinds(model)) == (1, 2, ["GatherElements", "Gather"])
    number, row = run(model, which=np.int32([2, 0]))
    assert number.tolist() == [7, 5] and row.tolist() == [[5, 6], [1, 2]]


def test_what_a_layer_normalisation_reads_is_summed_and_views_of_views_are_one():
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["y"], name="flat"),
        helper.make_node("Unsqueeze", ["y", "first"], ["z"], name="wider"),
        helper.make_node("Reshape", ["z", "square"], ["w"], name="square"),
        helper.make_node("Add", ["w", "w"], ["v"], name="twice"),
        helper.make_node("LayerNormalization", ["v", "gain"], ["u"], name="norm", epsilon=0.0),
        helper.make_node("Reshape", ["z", "copied"], ["t"], name="copied"),  # its first number is taken from z: it has to read z
    ]
    constants = {
        "flat": np.int64([-1]),
        "first": np.int64([0]),
        "square": np.int64([2, 2]),
        "copied": np.int64([0, 2, 2]),
        "gain": np.ones(2, np.float32),
    }
    model = model_of(nodes, {"x": (FLOAT, [4, 1])}, {"u": (FLOAT, [2, 2]), "t": (FLOAT, [1, 2, 2])}, constants)
    used = quicken(model)
    assert (used["sum"], used["view"]) == (1, 1)
    read = {node.name: node.input[0] for node in model.graph.node}
    assert (read["square"], read["copied"]) == ("x", "z")
    normal, copied = run(model, x=np.float32([[1], [3], [5], [9]]))
    assert normal.ravel() == pytest.approx([-1, 1, -1, 1], abs=1e-5) and copied.ravel().tolist() == [1, 3, 5, 9]


def mixing(rounded: bool) -> onnx.ModelProto:
    """Two points mix two rows each of a table (1, 2, 1, 3), planes first, that is given or comes out of a convolution that doubles."""
    nodes = [helper.make_node("Conv", ["x", "twice"], ["planes"], name="conv", group=2)] if rounded else []
    nodes += [
        helper.make_node("Transpose", ["planes" if rounded else "x"], ["last"], name="turn", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "rows"], ["table"], name="rows"),
        helper.make_node("Gather", ["table", "which"], ["fetched"], name="fetch", axis=0),
        helper.make_node("Reshape", ["fetched", "points"], ["seen"], name="points"),
        helper.make_node("MatMul", ["weights", "seen"], ["mixed"], name="mix"),
    ]
    constants = {"twice": np.full((2, 1, 1, 1), 2.0, np.float32), "rows": np.int64([3, 2]), "points": np.int64([2, 2, 2])}
    inputs = {"x": (FLOAT, [1, 2, 1, 3]), "which": (INT32, [4]), "weights": (FLOAT, [2, 1, 2])}
    return model_of(
        nodes, inputs, {"mixed": (FLOAT, [2, 1, 2])}, constants if rounded else {k: v for k, v in constants.items() if k != "twice"}
    )


@pytest.mark.parametrize("rounded", [True, False])
def test_fetched_rows_are_mixed_in_integers(rounded):
    model = mixing(rounded)
    assert [(mix.table, mix.weights) for mix in mixes_of(model.graph)] == [("table", "weights")]
    ranges = {"x": Range(0, 51), "planes": Range(0, 102), "table": Range(0, 102 if rounded else 51), "weights": Range(0, 1)}
    quantised = to_int8(model, ranges, style=UNSIGNED)
    onnx.checker.check_model(quantised, full_check=True)
    assert "MatMulInteger" in kinds(quantised) and "MatMul" not in kinds(quantised)
    assert kinds(quantised).count("QuantizeLinear") == (3 if rounded else 2)  # a table of rounded numbers is not rounded again
    got = run(
        quantised, x=np.float32([[[[1, 2, 3]], [[10, 20, 30]]]]), which=np.int32([0, 2, 1, 1]), weights=np.float32([[[1, 0.2]], [[0.4, 0]]])
    )[0]
    times = 2 if rounded else 1
    assert got.ravel() == pytest.approx(times * np.array([1.6, 16, 0.8, 8]), rel=0.02, abs=0.3)


def test_a_relu_before_rounding_that_starts_at_zero_is_left_away():
    nodes = [
        helper.make_node("Add", ["x", "x"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["kept"], name="relu"),
        helper.make_node("Conv", ["kept", "weight"], ["y"], name="conv"),
    ]
    told = (FLOAT, [1, 1, 1, 2])
    model = model_of(nodes, {"x": told}, {"y": told}, {"weight": np.full((1, 1, 1, 1), 3.0, np.float32)})
    quantised = to_int8(model, {"kept": Range(0, 51), "y": Range(0, 153)}, style=UNSIGNED)
    assert "Relu" not in kinds(quantised)
    assert run(quantised, x=np.float32([[[[-4, 5]]]]))[0].ravel() == pytest.approx([0, 30], abs=0.5)


def test_a_part_that_is_slower_in_int8_is_named():
    told = (FLOAT, [1])
    lowering = Lowering(
        ["neck", "head", "tail"],
        ("full",),
        lambda rules: model_of([helper.make_node("Identity", ["x"], ["y"], name="-".join(rules))], {"x": told}, {"y": told}, {}),
    )
    without = {
        "head-tail": 1.2,
        "neck-tail": 0.97,
        "neck-head": 0.995,
    }  # times as long as all three together: the neck pays, the head costs

    def measure(first: onnx.ModelProto, second: onnx.ModelProto, feed: dict) -> float:
        assert first.graph.node[0].name == "neck-head-tail"
        return without[second.graph.node[0].name]

    rules = dict.fromkeys(lowering.parts, "full")
    assert slower_parts(lowering, rules, {}, measure) == ["head"]
    lucky = iter([0.9, 1.1, 0.9, 0.9, 0.9])  # the first part seems slower once only
    assert slower_parts(lowering, dict.fromkeys(list(rules)[:2], "full"), {}, lambda first, second, feed: next(lucky)) == list(rules)[1:2]
    model = lowering.convert(rules)
    assert 0.2 < relative_time(model, model, {"x": np.zeros(1, np.float32)}) < 5.0


def test_integers_are_enlarged_channels_last():
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["conv"], name="conv"),
        helper.make_node("Resize", ["conv", "", "scales"], ["y"], name="resize", **how),
    ]
    constants = {"weight": np.ones((1, 1, 1, 1), np.float32), "scales": np.float32([1, 1, 2, 3])}
    model = model_of(nodes, {"x": (FLOAT, [1, 1, 1, 2])}, {"y": (FLOAT, [1, 1, 2, 6])}, constants)
    quantised = to_int8(model, {"x": Range(0, 25.5), "conv": Range(0, 25.5)}, style=UNSIGNED)
    onnx.checker.check_model(quantised, full_check=True)
    assert "Resize" not in kinds(quantised)
    assert run(quantised, x=np.float32([[[[4, 9]]]]))[0][0, 0] == pytest.approx(np.array([[4, 4, 4, 9, 9, 9]] * 2), abs=0.1)
