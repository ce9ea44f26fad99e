"""Does the lint find faults that were planted, and nothing where there are none?"""

import numpy as np
import onnx
import pytest
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper, numpy_helper

from export.lint import DEFAULT_TARGETS, TARGETS, grouped, lint, lint_file, read_onnx
from export.lint_graph import Graph, without_weights
from export.lint_rules import TENSORRT_8, TENSORRT_10, TENSORRT_11, Effect
from export.node_costs import node_costs
from scenes.errors import ConfigError, DataError

F, I64 = TensorProto.FLOAT, TensorProto.INT64


def model_of(nodes, inputs, outputs, constants=None, opset=18, domains=()):
    """A small model; `inputs` and `outputs` are (name, element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def one(op_type, inputs, outputs, constants=None, opset=18, domain="", **attributes):
    """A model of one node that reads inputs, then constants, in the order given."""
    names = [value[0] for value in inputs] + list(constants or {})
    node = helper.make_node(op_type, names, [value[0] for value in outputs], domain=domain, **attributes)
    return model_of([node], inputs, outputs, constants, opset, [domain] if domain else [])


IMAGE, POINTS = ("x", F, [1, 4, 8, 8]), ("grid", F, [1, 5, 1, 2])
OUT4 = ("y", F, [1, 4, 5, 1])
ROW = ("x", F, [1, 8])


def quantised(dtype, point):
    constants = {"scale": np.float32(0.1), "point": np.array(point, dtype=dtype)}
    return one("QuantizeLinear", [ROW], [("y", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [1, 8])], constants)


PLANTED = {
    "grid sample above opset 18": (one("GridSample", [IMAGE, POINTS], [OUT4], opset=20, mode="linear"), TENSORRT_10, "grid_sample"),
    "grid sample in 5-D": (
        one("GridSample", [("x", F, [1, 4, 2, 8, 8]), ("g", F, [1, 5, 1, 1, 3])], [("y", F, [1, 4, 5, 1, 1])], opset=20, mode="linear"),
        TENSORRT_11,
        "grid_sample",
    ),
    "top k too large": (
        one("TopK", [("x", F, [1, 5000])], [("v", F, [1, 4000]), ("i", I64, [1, 4000])], {"k": np.array([4000])}),
        TENSORRT_10,
        "top_k",
    ),
    "top k unsorted": (
        one("TopK", [ROW], [("v", F, [1, 3]), ("i", I64, [1, 3])], {"k": np.array([3])}, sorted=0),
        TENSORRT_10,
        "top_k",
    ),
    "scatter that adds": (
        one("ScatterND", [ROW, ("i", I64, [2, 2]), ("u", F, [2])], [("y", F, [1, 8])], reduction="add"),
        TENSORRT_10,
        "scatter_reduction",
    ),
    "scatter elements that adds": (
        one("ScatterElements", [ROW, ("i", I64, [1, 2]), ("u", F, [1, 2])], [("y", F, [1, 8])], opset=16, reduction="add"),
        TENSORRT_8,
        "scatter_reduction",
    ),
    "non-zero": (one("NonZero", [ROW], [("y", I64, [2, "n"])]), TENSORRT_10, "at_a_price"),
    "unique": (one("Unique", [ROW], [("y", F, ["n"])]), TENSORRT_10, "refused_operator"),
    "an operator of a later opset": (one("Swish", [ROW], [("y", F, [1, 8])], opset=24), TENSORRT_10, "refused_operator"),
    "attention": (
        one("Attention", [("q", F, [1, 2, 4, 8]), ("k", F, [1, 2, 4, 8]), ("v", F, [1, 2, 4, 8])], [("y", F, [1, 2, 4, 8])], opset=23),
        TENSORRT_10,
        "refused_operator",
    ),
    "attention in three dimensions": (
        one("Attention", [(name, F, [1, 4, 8]) for name in "qkv"], [("y", F, [1, 4, 8])], opset=23, q_num_heads=2, kv_num_heads=2),
        TENSORRT_11,
        "attention",
    ),
    "float64 inside": (one("Relu", [("x", TensorProto.DOUBLE, [3])], [("y", TensorProto.DOUBLE, [3])]), TENSORRT_10, "float64"),
    "float64 at the border": (
        one("Relu", [("x", TensorProto.DOUBLE, [3])], [("y", TensorProto.DOUBLE, [3])]),
        TENSORRT_10,
        "float64_border",
    ),
    "int64 weights beyond int32": (one("Add", [("x", I64, [1])], [("y", I64, [1])], {"w": np.array([2**40])}), TENSORRT_8, "int64_weights"),
    "int64 at the border": (one("Neg", [("x", I64, [1])], [("y", I64, [1])]), TENSORRT_8, "int64_border"),
    "foreign domain": (one("Gelu", [ROW], [("y", F, [1, 8])], domain="com.microsoft"), TENSORRT_10, "foreign_domain"),
    "uint8 quantisation": (quantised(np.uint8, 128), TENSORRT_10, "zero_point"),
    "asymmetric quantisation": (quantised(np.int8, 3), TENSORRT_11, "zero_point"),
    "cumulative sum over a computed axis": (
        one("CumSum", [ROW, ("axis", TensorProto.INT32, [])], [("y", F, [1, 8])]),
        TENSORRT_10,
        "constant_parameters",
    ),
    "reduction over computed axes": (one("ReduceSum", [ROW, ("axes", I64, [1])], [("y", F, None)]), TENSORRT_11, "constant_parameters"),
    "slice along computed axes": (
        one("Slice", [ROW, *((name, I64, [1]) for name in ("starts", "ends", "axes"))], [("y", F, None)]),
        TENSORRT_10,
        "constant_parameters",
    ),
    "cubic resize": (
        one("Resize", [IMAGE], [("y", F, [1, 4, 4, 4])], {"": np.float32(0), "s": np.array([1, 1, 0.5, 0.5], np.float32)}, mode="cubic"),
        TENSORRT_11,
        "resize",
    ),
    "antialiased resize": (
        one("Resize", [IMAGE], [("y", F, [1, 4, 4, 4])], {"": np.float32(0), "s": np.array([1, 1, 0.5, 0.5], np.float32)}, antialias=1),
        TENSORRT_10,
        "resize",
    ),
    "resize by tf_crop_and_resize": (
        one(
            "Resize",
            [IMAGE, ("roi", F, [8])],
            [("y", F, [1, 4, 4, 4])],
            {"s": np.array([1, 1, 0.5, 0.5], np.float32)},
            coordinate_transformation_mode="tf_crop_and_resize",
        ),
        TENSORRT_10,
        "resize",
    ),
    "einsum with ellipsis": (
        one("Einsum", [ROW, ("w", F, [8, 3])], [("y", F, [1, 3])], equation="...i,ij->...j"),
        TENSORRT_10,
        "einsum",
    ),
    "nine axes": (one("Relu", [("x", F, [1] * 9)], [("y", F, [1] * 9)]), TENSORRT_10, "rank"),
    "uint8 arithmetic": (
        one("Add", [("x", TensorProto.UINT8, [3]), ("z", TensorProto.UINT8, [3])], [("y", TensorProto.UINT8, [3])]),
        TENSORRT_10,
        "uint8_inside",
    ),
    "unnamed dynamic axis": (one("Relu", [("x", F, [1, None])], [("y", F, [1, None])]), TENSORRT_10, "dynamic_shape"),
    "bfloat16": (one("Relu", [("x", TensorProto.BFLOAT16, [3])], [("y", TensorProto.BFLOAT16, [3])], opset=17), TENSORRT_8, "element_type"),
    "int16": (one("Abs", [("x", TensorProto.INT16, [3])], [("y", TensorProto.INT16, [3])]), TENSORRT_11, "element_type"),
    "dilated pooling": (one("MaxPool", [IMAGE], [("y", F, [1, 4, 6, 6])], kernel_shape=[2, 2], dilations=[2, 2]), TENSORRT_10, "pooling"),
    "mean out of layer normalisation": (
        one("LayerNormalization", [ROW], [("y", F, [1, 8]), ("mean", F, [1, 1])], {"scale": np.ones(8, np.float32)}),
        TENSORRT_10,
        "further_outputs",
    ),
    "reduction axes of opset 18": (
        one("ReduceMean", [ROW], [("y", F, [1, 1])], {"axes": np.array([1])}),
        TENSORRT_8,
        "opset_18_semantics",
    ),
    "opset too new": (one("Relu", [ROW], [("y", F, [1, 8])], opset=23), TENSORRT_10, "opset"),
    "random numbers": (one("RandomNormalLike", [ROW], [("y", F, [1, 8])]), TENSORRT_10, "random_without_seed"),
    "max pool indices": (
        one("MaxPool", [IMAGE], [("y", F, [1, 4, 7, 7]), ("i", I64, [1, 4, 7, 7])], kernel_shape=[2, 2]),
        TENSORRT_10,
        "pooling",
    ),
    "no kernel for Where on booleans": (
        one("Where", [(n, TensorProto.BOOL, [3]) for n in "cab"], [("y", TensorProto.BOOL, [3])]),
        "onnxruntime",
        "session",
    ),
    "nothing comes out": (model_of([helper.make_node("Relu", ["x"], ["y"])], [ROW], []), TENSORRT_10, "no_output"),
    "nobody makes what is read": (
        model_of([helper.make_node("Add", ["x", "nowhere"], ["y"])], [ROW], [("y", F, [1, 8])]),
        TENSORRT_11,
        "unmade_input",
    ),
    "unknown operator": (one("Frobnicate", [ROW], [("y", F, [1, 8])]), "onnxruntime", "session"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found(name):
    model, target, rule = PLANTED[name]
    for initializer in [t for t in model.graph.initializer if not t.name]:
        model.graph.initializer.remove(initializer)
    findings = lint(model, [target])
    assert rule in [finding.rule for finding in findings], findings
    assert all(finding.target == target and finding.sentence for finding in findings)


def test_at_least_fifteen_faults_are_planted():
    assert len({rule for _, _, rule in PLANTED.values()}) >= 15


def test_silent_faults_are_told_from_refusals():
    model, target, _ = PLANTED["grid sample above opset 18"]
    assert [f.effect for f in lint(model, [target])] == [Effect.OTHERWISE]
    model, target, _ = PLANTED["unique"]
    assert [f.effect for f in lint(model, [target])] == [Effect.REFUSED]
    model, target, _ = PLANTED["non-zero"]
    assert [f.effect for f in lint(model, [target])] == [Effect.PRICE]


def test_a_rule_ends_with_the_release_that_lifts_it():
    five_d = PLANTED["grid sample in 5-D"][0]
    assert "before 11.2" in lint(five_d, [TENSORRT_11])[0].sentence
    assert "before" not in lint(five_d, [TENSORRT_10])[0].sentence
    ellipsis = PLANTED["einsum with ellipsis"][0]
    assert "before 10.12" in lint(ellipsis, [TENSORRT_10])[0].sentence
    assert lint(ellipsis, [TENSORRT_11]) == []
    attention = PLANTED["attention"][0]
    assert "before 10.14" in next(f.sentence for f in lint(attention, [TENSORRT_10]) if f.rule == "refused_operator")
    assert lint(attention, [TENSORRT_11]) == []


def clean_model(opset=18):
    """uint8 in, cast, convolution, grid sample, top k: nothing to complain about."""
    nodes = [
        helper.make_node("Cast", ["picture"], ["x"], to=F),
        helper.make_node("Conv", ["x", "w"], ["f"]),
        helper.make_node("GridSample", ["f", "grid"], ["s"], mode="bilinear"),
        helper.make_node("Reshape", ["s", "shape"], ["r"]),
        helper.make_node("TopK", ["r", "k"], ["v", "i"]),
        helper.make_node("Cast", ["i"], ["i32"], to=TensorProto.INT32),
    ]
    constants = {"w": np.ones((2, 4, 1, 1), np.float32), "shape": np.array([1, -1]), "k": np.array([3])}
    inputs = [("picture", TensorProto.UINT8, [1, 4, 8, "rows"]), ("grid", F, [1, 5, 1, 2])]
    return model_of(nodes, inputs, [("v", F, [1, 3]), ("i32", TensorProto.INT32, [1, 3])], constants, opset)


def test_a_clean_graph_is_clean():
    assert lint(clean_model()) == []
    assert lint(clean_model(17), TARGETS) == []


def test_a_branch_reads_what_lies_outside_and_a_loop_its_own_inputs():
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["b"])], "branch", [], [helper.make_tensor_value_info("b", F, [1, 8])])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    carried = [("i", I64, []), ("go", TensorProto.BOOL, []), ("v", F, [1, 8])]
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "y"], ["w"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [helper.make_tensor_value_info(*value) for value in carried],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("w", F, [1, 8])],
    )
    loop = helper.make_node("Loop", ["n", "", "y"], ["z"], body=body)
    model = model_of([choice, loop], [ROW, ("c", TensorProto.BOOL, [])], [("z", F, [1, 8])], {"n": np.array(3)})
    assert {finding.rule for finding in lint(model, (TENSORRT_10, "onnxruntime"))} == {"at_a_price"}


def test_files_without_their_weights_are_told_whole(tmp_path):
    weights = numpy_helper.from_array(np.ones((64, 8), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = model_of(nodes, [("x", F, [1, 64])], [("y", F, [1, 8])], {"w": numpy_helper.to_array(weights)})
    path = tmp_path / "outside.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="outside.data", size_threshold=0)
    assert lint_file(path) == 0
    (tmp_path / "outside.data").write_bytes(b"only a part")
    with pytest.raises(DataError, match=r"not readable as ONNX .*or bring the files that belong to it"):
        lint_file(path)
    (tmp_path / "outside.data").unlink()
    with pytest.raises(DataError, match=r"not readable as ONNX .*outside\.data.*or bring the files that belong to it"):
        lint_file(path)


def test_weights_too_large_for_one_message_are_not_serialised(tmp_path, monkeypatch):
    """A stand-in for 2 GB: whatever serialises a model with its weights fails."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = model_of(nodes, [("x", F, [1, 64])], [("z", F, [1, 80])], {"w": np.ones((64, 80), np.float32)})
    model.graph.node.append(helper.make_node("Identity", ["y"], ["z"]))
    path = tmp_path / "outside.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="outside.data", size_threshold=0)
    model = read_onnx(path)
    assert without_weights(model).ByteSize() < 1000 < model.ByteSize()
    assert Graph(model).shapes["y"] == [1, 80]
    infer_shapes, check_model = onnx.shape_inference.infer_shapes, onnx.checker.check_model
    monkeypatch.setattr("onnx.shape_inference.infer_shapes", lambda given, **how: infer_shapes(small_enough(given), **how))
    monkeypatch.setattr("onnx.checker.check_model", lambda given: check_model(small_enough(given)))
    assert lint_file(path) == 0
    assert [finding.target for finding in lint(model)] == ["onnxruntime"]  # without its file it cannot be asked
    assert [cost.flops for cost in node_costs(model)] == [2 * 64 * 80, 0]


def small_enough(given: onnx.ModelProto | str) -> onnx.ModelProto | str:
    """What is given; a model with weights is refused, as protobuf refuses it."""
    if isinstance(given, onnx.ModelProto) and given.ByteSize() > 10_000:
        raise EncodeError("Failed to serialize proto")
    return given


def test_findings_that_say_the_same_are_one_line():
    nodes = [helper.make_node("Unique", ["x"], [f"y{number}"], name=f"unique_{number}") for number in range(3)]
    findings = lint(model_of(nodes, [ROW], [("y0", F, ["n"])]), (TENSORRT_10, TENSORRT_11))
    assert len(findings) == 6
    assert [len(alike) for alike in grouped(findings).values()] == [6]


def test_the_command_reads_any_file_and_says_so(tmp_path, capsys):
    onnx.save(clean_model(), str(tmp_path / "clean.onnx"))
    assert lint_file(tmp_path / "clean.onnx") == 0
    onnx.save(PLANTED["non-zero"][0], str(tmp_path / "faulty.onnx"))
    assert lint_file(tmp_path / "faulty.onnx") == 1
    assert "NonZero" in capsys.readouterr().out
    (tmp_path / "noise.onnx").write_bytes(b"\x08\x01 noise")
    with pytest.raises(DataError, match=r"noise\.onnx"):
        read_onnx(tmp_path / "noise.onnx")
    with pytest.raises(ConfigError, match="tensorrt9"):
        lint(clean_model(), ["tensorrt9"])
    assert set(DEFAULT_TARGETS) < set(TARGETS)
