"""Does the real network leave? One small export, verified on three rigs, linted, its domains and opset read back."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from test_export_docs import STEP_SHAPES

from export.command import export_checkpoint
from export.lint import lint
from export.networks import LoadedNetwork, load_network, random_network, reconfigured
from export.onnx_graph import export_model
from export.runner import OnnxNetwork
from export.synthetic import five_camera_rig
from export.verify import verify
from export.write import write_verified
from fusion.config import ModelConfig, nano
from scenes.errors import ConfigError, DataError
from scenes.rigs import Rig


def small_config() -> ModelConfig:
    config = nano()
    query = replace(config.query, num_layers=1, new_queries=20, memory_slots=12)
    return replace(config, input_hw=(32, 64), sampler="gridsample", query=query, bev=replace(config.bev, encoder_blocks=1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, LoadedNetwork]:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    network = LoadedNetwork("small", random_network(small_config()), small_config(), "")
    write_verified(network, path, steps=3)
    return path, network


def test_the_real_network_is_verified_on_three_rigs(exported):
    manifest = OnnxNetwork(exported[0], threads=1).manifest
    assert manifest.verification["max_relative_error"] < 1e-3
    assert manifest.verification["steps"] == 9
    assert manifest.verification["integer_mismatch_share"] < 1e-3
    assert manifest.num_cameras is None
    assert manifest.occupancy is not None and manifest.occupancy["shape"] == [80, 80, 8]
    assert {spec.name for spec in manifest.inputs if "cameras" in spec.shape} == set(STEP_SHAPES)  # those of docs/EDGE.md
    assert {spec.name for spec in manifest.outputs} >= {"boxes", "scores", "velocities", "classes", "ids", "occupancy", "flow"}


def test_one_camera_is_enough(exported):
    path, network = exported
    rig = Rig(five_camera_rig(*network.config.input_hw).cameras[:1])
    assert verify(path, network.model, network.config, [rig], steps=2).max_error < 1e-3


def test_its_graph_is_plain_and_clean(exported):
    proto = onnx.load(str(exported[0]))
    assert {node.domain for node in proto.graph.node} == {""}
    assert [entry.version for entry in proto.opset_import] == [18]
    assert lint(proto) == []
    assert not any("/" in p.value for node in proto.graph.node for p in node.metadata_props)  # no paths of the machine that wrote it


def test_fewer_layers_and_the_other_sampler_keep_the_weights():
    model = random_network(replace(small_config(), query=replace(small_config().query, num_layers=2)))
    cut = reconfigured(model, 1, "gather")
    assert cut.config.num_layers == 1
    assert cut.config.sampler == "gather"
    own = model.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in cut.state_dict().items())
    assert reconfigured(model, 2, None) is model


def test_bad_settings_are_one_sentence_and_leave_nothing(tmp_path):
    with pytest.raises(ConfigError, match="no such variant"):
        load_network("random:pico")
    with pytest.raises(ConfigError, match="layers: the network has"):
        load_network("random:nano", layers=9)
    with pytest.raises(ConfigError, match=r"ends in \.onnx"):
        export_checkpoint("random:nano", tmp_path / "x.pt")
    with pytest.raises(DataError, match="no such checkpoint"):
        export_checkpoint(str(tmp_path / "absent.pt"), tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match="opset: expected"):
        export_model(random_network(small_config()), small_config(), tmp_path / "x.onnx", opset=23)
    assert list(tmp_path.iterdir()) == []
