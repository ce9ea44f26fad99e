"""Are normalisations of very many numbers exact, and does a lower precision get its one node back?"""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.steady_norms import MANY, one_node_again, steady_norms


def normalising(numbers: int, shift: float = 0.0) -> onnx.ModelProto:
    """One normalisation of (N, 2, numbers)."""
    shape = ["n", 2, numbers]
    arrays = {"gain": np.ones(2, np.float32), "shift": np.full(2, shift, np.float32)}
    doubled = helper.make_node("Add", ["x", "x"], ["twice"], name="twice")
    node = helper.make_node("InstanceNormalization", ["twice", *arrays], ["y"], name="norm", epsilon=1e-3)
    node.metadata_props.add(key="scope", value="['', 'occupancy', 'occupancy.norm']")
    graph = helper.make_graph(
        [doubled, node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def answer(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def test_many_numbers_are_normalised_exactly_and_one_node_comes_back() -> None:
    model = normalising(MANY + 2**13)
    x = np.random.default_rng(0).normal(0.3, 1.0, (2, 2, MANY + 2**13)).astype(np.float32).clip(0.0)
    twice = 2 * x.astype(np.float64)
    want = (twice - twice.mean(-1, keepdims=True)) / np.sqrt(twice.var(-1, keepdims=True) + 1e-3)
    before = answer(model, x)
    assert steady_norms(model) == 1
    assert {node.op_type for node in model.graph.node} >= {"ReduceMean", "Sqrt"}
    assert all(node.metadata_props[0].value == "['', 'occupancy', 'occupancy.norm']" for node in model.graph.node[1:])
    assert np.abs(answer(model, x) - want).max() < 2e-6 * np.abs(want).max()
    again = one_node_again(model)
    assert [(node.op_type, node.name) for node in again.graph.node] == [("Add", "twice"), ("InstanceNormalization", "norm")]
    assert again.graph.node[1].metadata_props[0].key == "scope" and len(again.graph.initializer) == 2
    assert np.array_equal(answer(again, x), before)
    assert len(model.graph.node) > 2  # a copy was made


@pytest.mark.parametrize(("numbers", "shift"), [(MANY - 1, 0.0), (MANY, 0.5)])
def test_fewer_numbers_and_normalisations_with_a_shift_of_their_own_stay(numbers: int, shift: float) -> None:
    model = normalising(numbers, shift)
    assert steady_norms(model) == 0
    assert [node.op_type for node in one_node_again(model).graph.node] == ["Add", "InstanceNormalization"]
