"""Are rounded tensors concatenated as integers, with the same numbers?"""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.calibration import Range
from export.int8 import UNSIGNED, to_int8
from export.joining import common_ranges


def joined_convolutions() -> ModelProto:
    """x (1, 1, 4, 4) through a convolution that may be negative and through one with a Relu, both and x joined, one more convolution."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "plus"], ["signed"], name="signed_conv"),
        helper.make_node("Conv", ["x", "minus"], ["cut"], name="cut_conv"),
        helper.make_node("Relu", ["cut"], ["positive"]),
        helper.make_node("Transpose", ["signed"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("Concat", ["turned", "positive", "x"], ["all"], axis=1),
        helper.make_node("Conv", ["all", "sum"], ["total"], name="sum_conv"),
        helper.make_node("Identity", ["total"], ["out"]),
    ]
    arrays = {"plus": np.float32([2]).reshape(1, 1, 1, 1), "minus": np.float32([-3]).reshape(1, 1, 1, 1)}
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    constants.append(numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "sum"))
    inner = helper.make_graph(nodes, "g", [info("x", 1, [1, 1, 4, 4])], [info("out", 1, [1, 1, 4, 4])], constants)
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


RANGES = {
    "x": Range(-10, 10),
    "signed": Range(-20, 20),
    "cut": Range(-30, 30),
    "positive": Range(0, 30),
    "all": Range(-20, 30),
    "total": Range(-60, 60),
}


def test_the_whole_and_its_parts_share_a_range_but_a_cut_at_zero_stays():
    shared = common_ranges(joined_convolutions().graph, ["all"], RANGES)
    assert shared["signed"] == shared["all"] == shared["x"] == Range(-20, 30)
    assert shared["positive"] == Range(0, 30)
    assert shared["total"] == RANGES["total"]
    assert common_ranges(joined_convolutions().graph, [], RANGES) == RANGES


def test_a_concatenation_moves_integers():
    model = joined_convolutions()
    quantised = to_int8(model, RANGES, style=UNSIGNED)
    onnx.checker.check_model(quantised, full_check=True)
    elements = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(quantised).graph.value_info}
    concat = next(node for node in quantised.graph.node if node.op_type == "Concat")
    assert [elements[name] for name in concat.input] == [TensorProto.UINT8] * 3
    producer = {name: node for node in quantised.graph.node for name in node.output}
    assert [producer[name].op_type for name in concat.input] == ["Transpose", "QuantizeLinear", "QuantizeLinear"]  # the Relu's part anew
    x = np.linspace(-10, 10, 16, dtype=np.float32).reshape(1, 1, 4, 4)
    want, got = (
        np.asarray(onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])
        for m in (model, quantised)
    )
    assert got == pytest.approx(want, abs=0.6)  # steps of 0.2 in the parts and 0.5 in the sum
    assert np.ptp(want) > 30
