"""Do group normalisations with constant statistics vanish into convolutions, and only where accuracy bears it?"""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.precision import Lowering
from export.static_norms import choose_norms, freeze_norms, group_norms_of, norm_lowering, observed_statistics

GROUPS, CHANNELS = 2, 4


def normalised(name: str, source: str, size: int, constants: dict[str, np.ndarray], rng: np.random.Generator) -> list[NodeProto]:
    """A 1x1 convolution and its group normalisation, as the exporter writes them."""
    constants |= {
        f"{name}.weight": rng.normal(size=(CHANNELS, size, 1, 1)),
        f"{name}.gain": rng.normal(size=(CHANNELS, 1, 1)),
        f"{name}.shift": rng.normal(size=(CHANNELS, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", [source, f"{name}.weight"], [f"{name}.conv"]),
        helper.make_node("Shape", [f"{name}.conv"], [f"{name}.size"]),
        helper.make_node("Reshape", [f"{name}.conv", "grouped"], [f"{name}.groups"]),
        helper.make_node("InstanceNormalization", [f"{name}.groups", "ones", "zeros"], [f"{name}.normal"], epsilon=1e-5, name=name),
        helper.make_node("Reshape", [f"{name}.normal", f"{name}.size"], [f"{name}.planes"]),
        helper.make_node("Mul", [f"{name}.planes", f"{name}.gain"], [f"{name}.times"]),
        helper.make_node("Add", [f"{name}.times", f"{name}.shift"], [f"{name}.out"], name=f"{name}.last"),
    ]
    nodes[3].metadata_props.add(key="scope", value=f"['', 'model.{name}', '{name}']")
    return nodes


def two_norms(*, spied: bool = False) -> ModelProto:
    """Pictures (N, 3, 8, 8) normalised, then shrunk to (N, 4, 1, 1) and normalised again.

    `spied`: the first convolution is an output too.
    """
    rng = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {}
    nodes = normalised("large", "picture", 3, constants, rng)
    nodes.append(helper.make_node("AveragePool", ["large.out"], ["small"], kernel_shape=[8, 8]))
    nodes += normalised("tiny", "small", CHANNELS, constants, rng)
    nodes.append(helper.make_node("Relu", ["tiny.out"], ["answer"]))
    floats = constants | {"ones": np.ones(GROUPS), "zeros": np.zeros(GROUPS)}
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in floats.items()]
    held.append(numpy_helper.from_array(np.array([0, GROUPS, -1]), "grouped"))
    info = helper.make_tensor_value_info
    outputs = [
        info(name, TensorProto.FLOAT, ["n", CHANNELS, "rows", "columns"])
        for name in ["large.out", "answer", *(["large.conv"] if spied else [])]
    ]
    graph = helper.make_graph(nodes, "two", [info("picture", TensorProto.FLOAT, ["n", 3, 8, 8])], outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def one_relu() -> ModelProto:
    """A graph without normalisations."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def pictures(brightness: float) -> dict[str, np.ndarray]:
    return {"picture": (brightness * np.random.default_rng(1).normal(size=(2, 3, 8, 8))).astype(np.float32)}


def run(model: ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [
        np.asarray(v) for v in onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
    ]


def test_statistics_are_means_over_steps_pictures_and_numbers():
    model = two_norms()
    steps = [pictures(1.0), pictures(3.0)]
    spied = two_norms(spied=True)
    values = np.concatenate([run(spied, step)[2] for step in steps]).reshape(4, GROUPS, -1)
    found = observed_statistics(model, steps)["large"]
    assert found.mean == pytest.approx(values.mean((0, 2)), abs=1e-6)
    assert found.variance == pytest.approx(values.var((0, 2)), rel=1e-5)
    assert found.size == 2 * CHANNELS * 64


def test_a_frozen_normalisation_is_what_its_convolution_does():
    model = two_norms()
    one = {"picture": pictures(1.0)["picture"][:1]}
    frozen = freeze_norms(model, observed_statistics(model, [one]), ["large"])
    onnx.checker.check_model(frozen, full_check=True)
    assert [node.op_type for node in frozen.graph.node].count("InstanceNormalization") == 1
    assert [node.op_type for node in frozen.graph.node][:2] == ["Conv", "AveragePool"]
    for before, after in zip(run(model, one), run(frozen, one), strict=True):  # the very picture the statistics are of
        assert after == pytest.approx(before, abs=1e-4)
    twice = {"picture": 2 * one["picture"]}
    assert np.abs(run(model, twice)[0] - run(model, one)[0]).max() < 1e-4  # a group normalisation forgets brightness
    assert np.abs(run(frozen, twice)[0] - run(frozen, one)[0]).max() > 0.1


def test_a_convolution_that_others_read_is_left_alone():
    assert [norm.name for norm in group_norms_of(two_norms().graph)] == ["large", "tiny"]
    assert [norm.name for norm in group_norms_of(two_norms(spied=True).graph)] == ["tiny"]
    plain = one_relu()
    assert norm_lowering(plain, observed_statistics(plain, [{"x": np.ones(2, np.float32)}])).parts == []


def test_small_maps_are_not_worth_while():
    model = two_norms()
    lowering = norm_lowering(model, observed_statistics(model, [pictures(1.0)]))
    assert lowering.parts == ["large"]
    assert len(lowering.convert({}).graph.node) == len(model.graph.node)


def test_the_normalisation_that_costs_most_is_taken_back():
    def convert(rules) -> ModelProto:
        return helper.make_model(helper.make_graph([], " ".join(rules), [], []))

    cost = {"a": 0.001, "b": 0.004, "c": 0.002}

    def points_lost(model: ModelProto) -> float:
        return sum(cost[name] for name in model.graph.name.split())

    told: list[str] = []
    lowering = Lowering(list(cost), ("static",), convert)
    result, chosen, trail = choose_norms(lowering, points_lost, 0.0025, told.append)
    assert (result.graph.name, chosen) == ("a", ["a"])
    assert trail == pytest.approx([0.007, 0.003, 0.001])
    assert "a, b, c" in told[0]
    assert choose_norms(lowering, points_lost, 0.0, told.append)[1] == []
