"""Does torch drive where a file is expected, and is what parts from torch counted and judged?"""

import numpy as np
import pytest
from standin_network import StandIn, standin_config

from benchmarks import kept_graphs
from benchmarks.kept_graphs import is_current, mark
from benchmarks.parity_floor import CountedObjects, TorchInstead, verdict
from export.comparison import Comparison
from export.onnx_graph import StepGraph, export_model
from export.runner import OnnxNetwork
from export.synthetic import synthetic_steps, verification_rigs
from export.verify import compare_drive


def outputs(x_m: float, score: float = 0.9, kind: int = 1, flow: float = 1.0) -> dict[str, np.ndarray]:
    """One step with one object."""
    box = np.array([[[x_m, 0, 0, 4, 2, 1.5, 0, 0, 0]]], np.float32)
    return {
        "scores": np.array([[score]], np.float32),
        "boxes": box,
        "velocities": np.zeros((1, 1, 2), np.float32),
        "classes": np.array([[kind]], np.int32),
        "ids": np.array([[7]], np.int32),
        "flow": np.full((1, 4), flow, np.float32),
    }


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (outputs(10.05), 1),
        (outputs(10.2), 0),
        (outputs(10.0, kind=2), 0),
        (outputs(10.0, score=0.01), 0),
    ],
)
def test_objects_that_both_sides_have(other, shared):
    comparison = CountedObjects()
    comparison.new_drive("r")
    comparison.add(outputs(10.0), other)
    comparison.add(outputs(10.0, score=0.05), other)  # an object of no weight is not counted
    assert (comparison.objects, comparison.shared) == (1, shared)


def driven(rig: str, apart: int, flow: float = 1.0) -> CountedObjects:
    """Ten steps of which `apart` are a metre apart."""
    comparison = CountedObjects()
    comparison.new_drive(rig)
    for step in range(10):
        comparison.add(outputs(10.0), outputs(11.0 if step < apart else 10.0, flow=flow))
    return comparison


def rows(files: list[int], torch: list[int], flow: float = 1.0) -> list[tuple[str, CountedObjects]]:
    found = [("gather, whole", driven(str(rig), apart, flow)) for rig, apart in enumerate(files)]
    return found + [("torch, gather", driven(str(rig), apart)) for rig, apart in enumerate(torch)]


def test_files_are_judged_by_torch():
    assert verdict(rows([5, 6, 4], [5, 5, 5])) == 0
    assert verdict(rows([9, 8, 9], [1, 2, 1])) == 1
    assert verdict(rows([0, 0, 0], [5, 5, 5])) == 0
    assert verdict(rows([5, 6, 4], [5, 5, 5], flow=1.01)) == 1  # no choice touches flow


def test_torch_takes_the_place_of_a_file(tmp_path):
    config, model = standin_config(), StandIn().eval()
    path = tmp_path / "graph.onnx"
    export_model(model, config, path)
    file = OnnxNetwork(path, threads=1)
    comparisons = [Comparison(), Comparison()]
    drive = synthetic_steps(verification_rigs(config.input_hw)[0], config, 3, 0)
    compare_drive(StepGraph(model).eval(), [file, TorchInstead(file, model)], comparisons, drive)
    assert comparisons[0].found.max_error < 1e-3
    assert comparisons[1].found.max_error == 0.0 and len(comparisons[1].found.errors) == 3  # the very same sums


def test_a_kept_graph_of_other_code_or_weights_is_not_taken(tmp_path, monkeypatch):
    path, model = tmp_path / "graph.onnx", StandIn()
    path.write_bytes(b"x")
    assert not is_current(path, model)
    mark(path, model)
    assert is_current(path, model)
    other = StandIn()
    next(other.parameters()).data += 1.0
    assert not is_current(path, other)
    monkeypatch.setattr(kept_graphs, "source_hash", lambda: "0" * 64)
    assert not is_current(path, model)
