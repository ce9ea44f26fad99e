"""ONNX models small enough to check by hand, and what onnxruntime makes of them."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper


def model_of(nodes, inputs: dict, outputs: dict, constants: dict[str, np.ndarray], opset: int = 18) -> onnx.ModelProto:
    """A model; inputs and outputs are name to (element type, shape)."""
    ins, outs = ([helper.make_tensor_value_info(name, *told) for name, told in side.items()] for side in (inputs, outputs))
    graph = helper.make_graph(nodes, "g", ins, outs, [numpy_helper.from_array(array, name) for name, array in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, **feed: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feed)]
