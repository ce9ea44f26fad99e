"""Do integer graphs for processors compute the same when pictures are read several pixels at a time and nothing largest is subtracted?"""

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from small_graphs import model_of, run
from torch.nn import functional

from export.calibration import Range
from export.int8 import UNSIGNED, to_int8
from export.quicken import quicken
from export.wide_pixels import grouped_weights, grouping_of

FLOAT, UINT8, INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64


@pytest.mark.parametrize(("kernel", "stride", "padding", "pixels"), [(3, 2, 1, 4), (7, 2, 3, 4), (4, 4, 0, 4), (3, 1, 1, 4), (5, 3, 2, 6)])
def test_a_convolution_over_grouped_pixels_is_the_same(kernel, stride, padding, pixels):
    grouping = grouping_of(3, kernel, stride, padding)
    assert grouping.pixels == pixels and grouping.results == pixels // stride
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (2, 9, 24, 3), generator=generator).double()
    weight = torch.randint(-127, 128, (5, 3, kernel, kernel), generator=generator).double()
    want = functional.conv2d(picture.permute(0, 3, 1, 2), weight, stride=stride, padding=padding)
    wide = torch.from_numpy(grouped_weights(weight.numpy(), stride, padding, grouping))
    groups = picture.reshape(2, 9, 24 // pixels, 3 * pixels).permute(0, 3, 1, 2)
    padded = functional.pad(groups, (grouping.left, grouping.right, padding, padding))
    got = functional.conv2d(padded, wide, stride=(stride, 1))
    assert torch.equal(got.permute(0, 2, 3, 1).reshape(2, got.shape[2], -1, 5).permute(0, 3, 1, 2), want)


def first_convolution(width: int) -> ModelProto:
    """Pictures (1, N = 2, 4, width, 3), normalised, through a 3 x 3 convolution of stride 2 with a Relu, as the exporter writes it."""
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], name="cast", to=FLOAT),
        helper.make_node("Reshape", ["numbers", "flat"], ["pictures"], name="flat"),
        helper.make_node("Transpose", ["pictures"], ["planes"], name="first", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["scaled"], name="scale"),
        helper.make_node("Add", ["scaled", "shift"], ["normal"], name="shift"),
        helper.make_node(
            "Conv",
            ["normal", "weight", "bias"],
            ["conv"],
            name="conv",
            strides=[2, 2],
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            group=1,
            dilations=[1, 1],
        ),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        helper.make_node("Identity", ["relu"], ["y"], name="y"),
    ]
    generator = np.random.default_rng(0)
    constants = {
        "flat": np.array([-1, 4, width, 3]),
        "scale": np.array([0.02, 0.018, 0.017], np.float32).reshape(3, 1, 1),
        "shift": np.array([-2.1, -2.0, -1.8], np.float32).reshape(3, 1, 1),
        "weight": generator.normal(size=(5, 3, 3, 3)).astype(np.float32),
        "bias": generator.normal(size=5).astype(np.float32),
    }
    return model_of(nodes, {"images": (UINT8, [1, 2, 4, width, 3])}, {"y": (FLOAT, [2, 5, 2, width // 2])}, constants)


@pytest.mark.parametrize("width", [8, 6])
def test_pictures_are_read_four_pixels_at_a_time_if_they_can_be(width, monkeypatch):
    model = first_convolution(width)
    ranges = {"normal": Range(-2.1, 2.6), "conv": Range(-9, 9), "relu": Range(0, 9)}
    grouped = to_int8(model, ranges, style=UNSIGNED)
    monkeypatch.setattr("export.int8.widen_pixels", lambda graph: 0)
    single = to_int8(model, ranges, style=UNSIGNED)
    onnx.checker.check_model(grouped, full_check=True)
    kernels = [next(list(a.ints) for n in m.graph.node for a in n.attribute if a.name == "kernel_shape") for m in (grouped, single)]
    assert kernels == [[3, 2] if width == 8 else [3, 3], [3, 3]]
    images = np.random.default_rng(1).integers(0, 256, size=(1, 2, 4, width, 3), dtype=np.uint8)
    got, want = run(grouped, images=images)[0], run(single, images=images)[0]
    assert np.array_equal(got, want) and want.std() > 0.5


@pytest.mark.parametrize(("channels", "filled"), [(9, 12), (8, 8), (18, 18)])
def test_maps_of_few_channels_are_filled_to_a_multiple_of_four(channels, filled, monkeypatch):
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["twice"], name="twice"),
        helper.make_node("Conv", ["twice", "weight"], ["conv"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Identity", ["conv"], ["y"], name="y"),
    ]
    generator = np.random.default_rng(0)
    constants = {"two": np.array(2, np.float32), "weight": generator.normal(size=(5, channels, 3, 3)).astype(np.float32)}
    model = model_of(nodes, {"x": (FLOAT, [1, channels, 4, 6])}, {"y": (FLOAT, [1, 5, 4, 6])}, constants)
    ranges = {"twice": Range(-3, 5), "conv": Range(-60, 60)}
    more = to_int8(model, ranges, style=UNSIGNED)
    monkeypatch.setattr("export.int8.fill_channels", lambda graph: 0)
    same = to_int8(model, ranges, style=UNSIGNED)
    onnx.checker.check_model(more, full_check=True)
    assert [tensor.dims[1] for tensor in more.graph.initializer if len(tensor.dims) == 4] == [filled]
    x = generator.uniform(-1.5, 2.5, size=(1, channels, 4, 6)).astype(np.float32)
    got, want = run(more, x=x)[0], run(same, x=x)[0]
    assert np.array_equal(got, want) and want.std() > 5


def likeliest_of(logit: float) -> ModelProto:
    """A convolution by `logit`, of whose three planes the likeliest is sought, with its softmax."""
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["conv"], name="conv"),
        helper.make_node("Reshape", ["conv", "rows"], ["logits"], name="rows"),
        helper.make_node("ArgMax", ["logits"], ["state"], name="state", axis=1, keepdims=1),
        helper.make_node("GatherElements", ["logits", "state"], ["most"], name="most", axis=1),
        helper.make_node("Sub", ["logits", "most"], ["below"], name="below"),
        helper.make_node("Exp", ["below"], ["power"], name="power"),
        helper.make_node("MatMul", ["ones", "power"], ["total"], name="total"),
        helper.make_node("Reciprocal", ["total"], ["share"], name="share"),
    ]
    constants = {
        "weight": np.full((3, 1, 1, 1), logit, np.float32),
        "rows": np.array([1, 3, 4]),
        "ones": np.ones((1, 3), np.float32),
    }
    model = model_of(nodes, {"x": (FLOAT, [1, 3, 2, 2])}, {"state": (INT64, [1, 1, 4]), "share": (FLOAT, [1, 1, 4])}, constants)
    model.graph.node[0].attribute.append(helper.make_attribute("group", 3))
    return model


@pytest.mark.parametrize(("logit", "subtracts"), [(1.0, False), (-1.0, False), (10.0, True)])
def test_the_end_of_a_known_range_takes_the_largest_logits_place(logit, subtracts):
    model = likeliest_of(logit)
    reach = 12 * abs(logit)
    quantised = to_int8(model, {"x": Range(-12, 12), "conv": Range(-reach, reach)}, style=UNSIGNED)
    onnx.checker.check_model(quantised, full_check=True)
    assert ("Sub" in [node.op_type for node in quantised.graph.node]) == subtracts  # powers of -240 are 0
    x = np.array([[-12, 0.5, 1.5, 12], [-12, 2.0, 1.5, -12], [-11, 1.9, -7.0, 0]], np.float32)
    state, share = run(quantised, x=x.reshape(1, 3, 2, 2))
    power = np.exp(logit * x - (logit * x).max(0))
    likely = power.max(0) / power.sum(0)
    assert state[0, 0, [0, 3]].tolist() == (logit * x).argmax(0)[[0, 3]].tolist()
    assert state[0, 0, 2] == (0 if logit > 0 else 2)  # of two equal ones the first, as before
    assert share[0, 0] == pytest.approx(likely, abs=0.03)


@pytest.mark.parametrize(("keep", "kind"), [(0, FLOAT), (1, FLOAT), (1, TensorProto.DOUBLE)])
def test_planes_are_added_up_by_a_product_with_ones(keep, kind):
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["planes"], name="planes", keepdims=keep),
        helper.make_node("ReduceSum", ["x", "last"], ["rows"], name="rows", keepdims=keep),
        helper.make_node("ReduceSum", ["few", "axis"], ["sums"], name="few", keepdims=keep),
    ]
    inputs = {"x": (kind, ["n", 3, 40, 50]), "few": (kind, [1, 3, 2])}
    kept = [1] * keep
    outputs = {
        "planes": (kind, ["n", *kept, 40, 50]),
        "rows": (kind, ["n", 3, 40, *kept]),
        "sums": (kind, [1, *kept, 2]),
    }
    model = model_of(nodes, inputs, outputs, {"axis": np.array([1]), "last": np.array([3])})
    assert quicken(model)["total"] == 1
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("ReduceSum") == 2
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    x, few = np.random.default_rng(0).normal(size=(2, 3, 40, 50)).astype(dtype), np.ones((1, 3, 2), dtype)
    planes, rows, sums = run(model, x=x, few=few)
    assert planes == pytest.approx(x.sum(1, keepdims=bool(keep)), abs=1e-5)
    assert rows == pytest.approx(x.sum(3, keepdims=bool(keep)), abs=1e-4)
    assert sums == pytest.approx(few.sum(1, keepdims=bool(keep)), abs=1e-6)
