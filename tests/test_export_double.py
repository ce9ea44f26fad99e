"""Is the double graph the network? Each operator that onnxruntime lacks in double, and a few steps of a drive, against torch in double."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small_graphs import model_of, run
from standin_network import StandIn, standin_config
from torch.nn import functional

from benchmarks.double_graph import InDouble, doubled, export_double, in_double, rewrite, widen
from benchmarks.onnx_parity import verdict
from export.comparison import Comparison, Verification
from export.onnx_graph import StepGraph
from export.run import open_network
from export.runner import OnnxNetwork
from export.synthetic import synthetic_steps, verification_rigs
from export.verify import compare_drive
from export.write import write_parts
from scenes.errors import ConfigError

DOUBLE = TensorProto.DOUBLE


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def rewritten(operator: str, x: np.ndarray, like: torch.Tensor, constants: dict[str, np.ndarray], **attributes) -> np.ndarray:
    """What onnxruntime makes of `x` by one operator that it does not have."""
    none = [""] if operator == "Resize" else []  # its second input, which nobody uses
    node = helper.make_node(operator, ["x", *none, *constants], ["y"], name="one", **attributes)
    model = model_of([node], {"x": (DOUBLE, ["batch", *x.shape[1:]])}, {"y": (DOUBLE, ["batch", *like.shape[1:]])}, constants)
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED|Could not find an implementation"):
        run(model, x=x)
    rewrite(model)
    onnx.checker.check_model(model, full_check=True)
    return run(model, x=x)[0]


@pytest.mark.parametrize(
    ("channels", "outputs", "group", "kernel", "settings"),
    [
        (3, 5, 1, (1, 1), {}),
        (3, 5, 1, (3, 3), {"padding": 1}),
        (3, 5, 1, (3, 2), {"padding": (2, 0), "stride": 2}),
        (4, 4, 4, (3, 3), {"padding": 1}),
        (4, 4, 4, (3, 3), {"padding": 1, "stride": 2}),
        (4, 6, 1, (3, 3), {"padding": 2, "dilation": 2}),
    ],
)
def test_convolutions(channels, outputs, group, kernel, settings):
    x, weight, bias = numbers(2, channels, 8, 7), numbers(outputs, channels // group, *kernel, seed=1), numbers(outputs, seed=2)
    want = functional.conv2d(*(torch.from_numpy(array) for array in (x, weight, bias)), groups=group, **settings)
    told = (settings.get("stride", 1), settings.get("padding", 0), settings.get("dilation", 1))
    strides, pads, dilations = (list(np.broadcast_to(value, 2)) for value in told)
    given = {"strides": strides, "pads": pads * 2, "dilations": dilations, "group": group}
    got = rewritten("Conv", x, want, {"w": weight, "b": bias}, **given)
    assert got == pytest.approx(want.numpy(), abs=1e-12)
    assert got.shape == tuple(want.shape)


def test_a_convolution_of_some_groups_is_refused():
    x, weight = numbers(1, 4, 3, 3), numbers(4, 2, 1, 1)
    with pytest.raises(ConfigError, match="2 groups"):
        rewritten("Conv", x, torch.zeros(1, 4, 3, 3), {"w": weight}, strides=[1, 1], pads=[0] * 4, dilations=[1, 1], group=2)


def test_instance_norms():
    x, scale, shift = 1e-3 * numbers(2, 3, 40), numbers(3, seed=1), numbers(3, seed=2)
    epsilon = float(np.float32(1e-5))
    want = functional.instance_norm(torch.from_numpy(x), weight=torch.from_numpy(scale), bias=torch.from_numpy(shift), eps=epsilon)
    got = rewritten("InstanceNormalization", x, want, {"scale": scale, "shift": shift}, epsilon=epsilon)
    assert got == pytest.approx(want.numpy(), abs=1e-12)


@pytest.mark.parametrize(("mode", "torch_mode", "pixels"), [("nearest", "nearest", "asymmetric"), ("linear", "bilinear", "half_pixel")])
def test_resizing(mode, torch_mode, pixels):
    x = numbers(2, 3, 5, 4)
    want = functional.interpolate(torch.from_numpy(x), scale_factor=2, mode=torch_mode)
    given = {"mode": mode, "coordinate_transformation_mode": pixels, "nearest_mode": "floor"}
    got = rewritten("Resize", x, want, {"scales": np.float32([1, 1, 2, 2])}, **given)
    assert got == pytest.approx(want.numpy(), abs=1e-12)


def test_angles():
    slopes = np.array([[0.0, 1e-300, -1e-3, 0.4, -1.0, 3.0, 1e9, -1e200, np.inf, -np.inf, *numbers(50) * 10]])
    got = rewritten("Atan", slopes, torch.from_numpy(slopes), {})
    assert got == pytest.approx(np.arctan(slopes), abs=1e-15)
    angles = np.linspace(-1.5, 1.5, 50)[None]
    assert rewritten("Tan", angles, torch.from_numpy(angles), {}) == pytest.approx(np.tan(angles), rel=1e-14)


@pytest.mark.parametrize("edge", ["zeros", "border"])
def test_sampling(edge):
    x, where = numbers(2, 3, 5, 4), 0.8 * numbers(2, 6, 7, 2, seed=1)
    want = functional.grid_sample(torch.from_numpy(x), torch.from_numpy(where), padding_mode=edge, align_corners=False)
    got = rewritten("GridSample", x, want, {"where": where}, mode="bilinear", padding_mode=edge)
    assert got == pytest.approx(want.numpy(), abs=1e-12)


def test_numbers_in_a_graph_are_those_of_the_code():
    nodes = [
        helper.make_node("Cast", ["size"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["two", "wide"], ["share"]),
        helper.make_node("Cast", ["share"], ["double"], to=DOUBLE),
        helper.make_node("Mul", ["double", "tenth"], ["y"]),
    ]
    constants = {"two": np.float32(2.0), "tenth": np.float64(np.float32(0.1))}
    model = model_of(nodes, {"size": (TensorProto.INT64, [1])}, {"y": (DOUBLE, [1])}, constants)
    assert run(model, size=np.array([3]))[0] != pytest.approx(0.2 / 3, rel=1e-9)
    with InDouble() as mode:
        assert (torch.ones(1).float() * 0.1).dtype == torch.zeros(1, dtype=torch.float32).dtype == torch.float64
    assert torch.zeros(1).dtype == torch.float32
    widen(model, mode.numbers)
    assert run(model, size=np.array([3]))[0] == pytest.approx(0.2 / 3, rel=1e-15)


def spoiled(path, out):
    """The same graph with one weight a hundred-thousandth larger."""
    model = onnx.load(str(path))
    tensor = next(t for t in model.graph.initializer if t.data_type == DOUBLE and len(t.dims) == 2 and "double" in t.name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * (1 + 1e-5), tensor.name))
    out.write_bytes(model.SerializeToString())
    return out


def test_a_drive_in_double_whole_and_split(tmp_path):
    config, model, path = standin_config(), StandIn().eval(), tmp_path / "double.onnx"
    export_double(model, config, path)
    encoder, fusion = write_parts(path)
    whole, wrong = OnnxNetwork(path, threads=1), OnnxNetwork(spoiled(path, tmp_path / "wrong.onnx"), threads=1)
    networks = [whole, open_network(fusion, encoder, threads=1), wrong]
    comparisons = [Comparison() for _ in networks]
    with InDouble():
        graph = StepGraph(doubled(model)).eval()
        for rig in verification_rigs(config.input_hw)[:2]:
            compare_drive(graph, networks, comparisons, map(in_double, synthetic_steps(rig, config, 4)))
    errors = [comparison.found.max_error for comparison in comparisons]
    assert max(errors[:2]) < 1e-10 and errors[2] > 1e-8
    assert whole.manifest.spec("state_query").dtype == "float64"
    assert comparisons[0].found.integer_mismatches == 0


def drive(first: float, last: float) -> Verification:
    return Verification([{"boxes": first}] * 50 + [{"boxes": last}] * 50, rigs=["a car"])


def test_what_is_called_drift():
    fresh = drive(1e-13, 1e-13)
    assert verdict([("a graph", drive(1e-13, 5e-13), fresh)]) == 0
    assert verdict([("a graph", drive(1e-13, 5e-9), fresh)]) == 1
    assert verdict([("a graph", drive(1e-5, 1.1e-5), fresh)]) == 1
    assert verdict([("a graph", drive(1e-5, 0.9e-5), fresh)]) == 0
