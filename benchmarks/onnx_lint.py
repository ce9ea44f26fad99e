"""Does the lint find what is wrong in a real graph, and nothing where nothing is? Faults planted one by one; every variant read.

    python -m benchmarks.onnx_lint                  # the shipped nano: planted faults; whole, split, both samplers, one layer, six cameras
    python -m benchmarks.onnx_lint --variant edge base teacher   # these with random weights instead (two and a half minutes)

Exit status 1 if a planted fault is missed, or anything is found in a graph of ours for TensorRT 10, TensorRT 11 or onnxruntime.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import tyro
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from benchmarks.onnx_parity import shipped_or_random
from export.lint import DEFAULT_TARGETS, lint, read_onnx
from export.lint_rules import TENSORRT_8, TENSORRT_10, TENSORRT_11
from export.networks import LoadedNetwork, load_network
from export.onnx_graph import export_model, read_manifest
from export.split import split_graph

CONSOLE = Console(highlight=False, width=150)
F, I64 = TensorProto.FLOAT, TensorProto.INT64


def main(checkpoint: str = "", variant: tuple[str, ...] = (), file: tuple[Path, ...] = ()) -> int:
    """Plants, reads, prints.

    Args:
        checkpoint: Default: the shipped nano, or random:nano.
        variant: Only export and read these variants with random weights.
        file: Only read these exported files, whole and cut in two, and plant faults into them.
    """
    wrong = sum(read_variant(name) for name in variant) + sum(read_file(path) for path in file)
    if variant or file:
        return 1 if wrong else 0
    name = checkpoint or shipped_or_random()
    with TemporaryDirectory() as folder:
        network = load_network(name, None, "gridsample")
        graph = exported(network, Path(folder))
        missed, wrong = planted(graph), read_parts("nano", graph)
        wrong += read("nano, gather", exported(load_network(name, None, "gather"), Path(folder)))
        wrong += read("nano, 1 layer", exported(load_network(name, 1, "gridsample"), Path(folder)))
        wrong += read("nano, 6 cameras", exported(network, Path(folder), num_cameras=6))
    return 1 if missed or wrong else 0


def read_file(path: Path) -> int:
    """An exported file, whole and cut in two, and faults planted into it: findings in it plus faults missed."""
    graph = read_onnx(path)
    return planted(graph) + read_parts(path.name, graph)


def read_parts(name: str, graph: ModelProto) -> int:
    """Findings in a whole graph and in its encoder and fusion parts."""
    parts = [(f"{name}, {read_manifest(part, 'part').part}", part) for part in split_graph(graph)]
    return sum(read(told, model) for told, model in [(f"{name}, whole", graph), *parts])


def read_variant(name: str) -> int:
    """A variant with random weights: the number of findings."""
    with TemporaryDirectory() as folder:
        return read(name, exported(load_network(f"random:{name}", None, "gridsample"), Path(folder)))


def exported(network: LoadedNetwork, folder: Path, num_cameras: int | None = None) -> ModelProto:
    """The graph as it would be written."""
    export_model(network.model, network.config, folder / "graph.onnx", num_cameras=num_cameras)
    return onnx.load(str(folder / "graph.onnx"))


def read(name: str, model: ModelProto) -> int:
    """Prints what is found in a graph of ours; the number of findings."""
    findings = lint(model, DEFAULT_TARGETS)
    print(f"{name:22} {len(model.graph.node):5} nodes: {len(findings)} findings for {', '.join(DEFAULT_TARGETS)}", flush=True)
    for finding in findings[:5]:
        print(f"    {finding.target}: {finding.where}: {finding.sentence}")
    return len(findings)


def planted(graph: ModelProto) -> int:
    """Plants every fault into a copy of the graph; the number of those that the lint misses."""
    table = Table("planted fault", "target", "rule", "what the lint says")
    missed = absent = 0
    for name, (target, rule, plant) in FAULTS.items():
        model = ModelProto()
        model.CopyFrom(graph)
        try:
            plant(model)
        except LookupError:  # the graph has no node of that kind
            absent += 1
            continue
        found = next((f for f in lint(model, [target]) if f.rule == rule), None)
        missed += found is None
        table.add_row(name, target, rule, f"{found.where}: {found.sentence}"[:160] if found else "[red]nothing")
    CONSOLE.print(table)
    number = len(FAULTS) - absent
    print(f"{number - missed} of {number} planted faults found; {absent} have no node to be planted in", flush=True)
    return missed


# What is planted


def first(model: ModelProto, op_type: str) -> NodeProto:
    """The graph's first node of that kind."""
    found = next((node for node in model.graph.node if node.op_type == op_type), None)
    if found is None:
        raise LookupError(op_type)
    return found


def set_attribute(op_type: str, name: str, value) -> Callable[[ModelProto], None]:
    """Sets an attribute of the first node of a kind."""

    def plant(model: ModelProto) -> None:
        node = first(model, op_type)
        kept = [entry for entry in node.attribute if entry.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return plant


def append(op_type: str, inputs: list[str], outputs: int = 1, constants: dict | None = None, domain: str = "", **attributes):
    """Adds a node that reads tensors of the graph and constants."""

    def plant(model: ModelProto) -> None:
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items())
        names = [f"planted_{number}" for number in range(outputs)]
        model.graph.node.append(helper.make_node(op_type, inputs, names, name="planted", domain=domain, **attributes))
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return plant


def retype(name: str, element: int) -> Callable[[ModelProto], None]:
    """Gives an input or output of the graph another element type."""

    def plant(model: ModelProto) -> None:
        value = next(v for v in (*model.graph.input, *model.graph.output) if v.name == name)
        value.type.tensor_type.elem_type = element

    return plant


def stamp(opset: int, op_type: str = "") -> Callable[[ModelProto], None]:
    """Another operator set, which changes a kind of node."""

    def plant(model: ModelProto) -> None:
        if op_type:
            first(model, op_type)
        model.opset_import[0].version = opset

    return plant


def large_top_k(model: ModelProto) -> None:
    """K beyond what is taken."""
    node = first(model, "TopK")
    model.graph.initializer.append(numpy_helper.from_array(np.array([4000]), "planted_k"))
    node.input[1] = "planted_k"


def computed_axes(op_type: str) -> Callable[[ModelProto], None]:
    """A parameter that only a node knows."""

    def plant(model: ModelProto) -> None:
        position, node = next((k, n) for k, n in enumerate(model.graph.node) if n.op_type == op_type and len(n.input) > 1)
        model.graph.node.insert(position, helper.make_node("Abs", [node.input[1]], ["planted_axes"]))
        node.input[1] = "planted_axes"

    return plant


def through(element: int) -> Callable[[ModelProto], None]:
    """A pair of casts to another type and its absolute value in between."""

    def plant(model: ModelProto) -> None:
        model.graph.node.append(helper.make_node("Cast", ["scores"], ["planted_cast"], to=element))
        model.graph.node.append(helper.make_node("Abs", ["planted_cast"], ["planted_abs"]))

    return plant


def pictures_reshaped_as_uint8(model: ModelProto) -> None:
    """Something between the pictures and their cast."""
    cast = next(node for node in model.graph.node if "images" in node.input)
    model.graph.node.insert(0, helper.make_node("Transpose", ["images"], ["planted_images"], perm=[0, 1, 4, 2, 3]))
    cast.input[0] = "planted_images"


def quantised(dtype, point) -> Callable[[ModelProto], None]:
    """Scores through a quantisation."""
    constants = {"planted_scale": np.float32(0.1), "planted_point": np.array(point, dtype=dtype)}
    return append("QuantizeLinear", ["scores", *constants], constants=constants)


def unnamed_axis(model: ModelProto) -> None:
    """The cameras' axis loses its name."""
    value = next(v for v in model.graph.input if v.name == "images")
    value.type.tensor_type.shape.dim[1].ClearField("dim_param")


def nine_axes(model: ModelProto) -> None:
    """More axes than there may be."""
    model.graph.initializer.append(numpy_helper.from_array(np.arange(7), "planted_axes"))
    model.graph.node.append(helper.make_node("Unsqueeze", ["scores", "planted_axes"], ["planted_0"]))


def branch(model: ModelProto) -> None:
    """A choice by control flow."""
    constant = helper.make_node("Constant", [], ["planted_one"], value_float=1.0)
    body = helper.make_graph([constant], "branch", [], [helper.make_tensor_value_info("planted_one", F, [])])
    model.graph.node.append(helper.make_node("Cast", ["next_valid"], ["planted_bool"], to=TensorProto.BOOL))
    model.graph.node.append(helper.make_node("If", ["planted_bool"], ["planted_0"], then_branch=body, else_branch=body))


def local_function(model: ModelProto) -> None:
    """A function of the file's own."""
    node = helper.make_node("Abs", ["x"], ["y"])
    model.functions.append(helper.make_function("planted", "absolute", ["x"], ["y"], [node], [helper.make_opsetid("", 17)]))


GRID_5D = {"planted_grid": np.zeros((1, 1, 1, 1, 3), np.float32)}
SCATTER = {"planted_rows": np.array([[0, 0]]), "planted_updates": np.array([1.0], np.float32)}
FAULTS: dict[str, tuple[str, str, Callable[[ModelProto], None]]] = {
    "GridSample of opset 20": (TENSORRT_10, "grid_sample", stamp(20, "GridSample")),
    "GridSample in 5-D": (TENSORRT_11, "grid_sample", append("GridSample", ["next_bev", *GRID_5D], constants=GRID_5D)),
    "TopK of 4000": (TENSORRT_10, "top_k", large_top_k),
    "TopK unsorted": (TENSORRT_10, "top_k", set_attribute("TopK", "sorted", 0)),
    "ScatterND that adds": (
        TENSORRT_10,
        "scatter_reduction",
        append("ScatterND", ["scores", *SCATTER], constants=SCATTER, reduction="add"),
    ),
    "NonZero": (TENSORRT_10, "at_a_price", append("NonZero", ["scores"])),
    "If": (TENSORRT_11, "at_a_price", branch),
    "Unique": (TENSORRT_11, "refused_operator", append("Unique", ["scores"])),
    "Attention": (TENSORRT_10, "refused_operator", append("Attention", ["next_bev"] * 3)),
    "com.microsoft Gelu": (TENSORRT_10, "foreign_domain", append("Gelu", ["scores"], domain="com.microsoft")),
    "float64 inside": (TENSORRT_10, "float64", through(TensorProto.DOUBLE)),
    "float64 at the border": (TENSORRT_10, "float64_border", retype("dt", TensorProto.DOUBLE)),
    "int16": (TENSORRT_11, "element_type", through(TensorProto.INT16)),
    "bfloat16": (TENSORRT_8, "element_type", through(TensorProto.BFLOAT16)),
    "int64 at the border": (TENSORRT_8, "int64_border", retype("ids", I64)),
    "int64 beyond int32": (TENSORRT_8, "int64_weights", append("Add", ["planted_w"] * 2, constants={"planted_w": np.array([2**40])})),
    "uint8 pictures transposed": (TENSORRT_10, "uint8_inside", pictures_reshaped_as_uint8),
    "quantised to uint8": (TENSORRT_10, "zero_point", quantised(np.uint8, 128)),
    "quantised asymmetrically": (TENSORRT_11, "zero_point", quantised(np.int8, 3)),
    "cubic Resize": (TENSORRT_10, "resize", set_attribute("Resize", "mode", "cubic")),
    "antialiased Resize": (TENSORRT_11, "resize", set_attribute("Resize", "antialias", 1)),
    "Resize by tf_crop_and_resize": (
        TENSORRT_10,
        "resize",
        set_attribute("Resize", "coordinate_transformation_mode", "tf_crop_and_resize"),
    ),
    "Unsqueeze along computed axes": (TENSORRT_10, "constant_parameters", computed_axes("Unsqueeze")),
    "Einsum with ellipsis": (TENSORRT_10, "einsum", append("Einsum", ["boxes", "boxes"], equation="...i,...i->...")),
    "random numbers": (TENSORRT_10, "random_without_seed", append("RandomNormalLike", ["scores"])),
    "nine axes": (TENSORRT_10, "rank", nine_axes),
    "axis without a name": (TENSORRT_10, "dynamic_shape", unnamed_axis),
    "local function": (TENSORRT_8, "functions", local_function),
    "opset too new": (TENSORRT_11, "opset", stamp(26)),
    "an operator nobody knows": ("onnxruntime", "session", append("Frobnicate", ["scores"])),
    "an input that does not exist": ("onnxruntime", "session", append("Abs", ["nowhere"])),
}
"""Fault: target, the rule that has to speak, and how it is planted. The graph itself is of opset 18, which 8.6 does not read."""


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
