"""What does a labeling job do when things go wrong? One clear sentence for the clip, and the others go on; killed, it loses nothing."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console

from labeling import layer_stage
from labeling.clip_labels import label_clip
from labeling.command import label
from labeling.executors import by_processes
from labeling.job import ClipOutcome, run_job
from labeling.settings import LabelSettings
from scenes.boxes import Boxes
from scenes.clips import Clip
from scenes.errors import ConfigError, DataError
from scenes.geometry import NS_PER_S
from scenes.layers import LabelLayer, write_layer
from scenes.tables import read_table, write_table
from surround4d import main

SETTINGS = LabelSettings("auto@test", evidence="truth", pictures=False)
QUIET = Console(quiet=True)


def change_table(path: Path, change) -> None:
    """Rewrites a Parquet table after `change(columns)`."""
    columns = read_table(path, ())
    write_table(path, change(columns) or columns)


@pytest.fixture
def clips(tiny_clip_path, tmp_path) -> list[Path]:
    """Three clips of which tests spoil the second."""
    return [Path(shutil.copytree(tiny_clip_path, tmp_path / "clips" / name)) for name in "abc"]


def failure_beside_good_ones(clips: list[Path], settings: LabelSettings = SETTINGS) -> str:
    """Labels all; the second must fail alone. Returns its sentence."""
    outcomes = run_job(clips, settings, 1, QUIET).outcomes
    assert [bool(outcome.failure) for outcome in outcomes] == [False, True, False]
    assert "error of ours" not in outcomes[1].failure
    assert "\n" not in outcomes[1].failure
    return outcomes[1].failure


def test_a_clip_without_ego_motion_fails_alone(clips):
    change_table(clips[1] / "ego.parquet", lambda columns: {name: values[:0] for name, values in columns.items()})
    assert "at least one ego pose, got none" in failure_beside_good_ones(clips)
    change_table(clips[1] / "ego.parquet", lambda _: read_table(clips[0] / "ego.parquet", ()))
    change_table(clips[1] / "ego.parquet", lambda columns: {name: values[:6] for name, values in columns.items()})
    assert "1.0 s too few" in failure_beside_good_ones(clips)


def test_clocks_that_disagree_fail_alone(clips):
    def shift(columns):
        of_left = columns["camera"] == "left"
        columns["timestamp_ns"] = np.where(of_left, columns["timestamp_ns"] + 37 * NS_PER_S, columns["timestamp_ns"])

    change_table(clips[1] / "views.parquet", shift)
    assert "camera 'left' within 1 s of their frames, got +37.000 s" in failure_beside_good_ones(clips)


def test_a_clock_a_little_off_is_noted_and_refused_where_it_contradicts_the_ego_path(clips):
    def late(columns):
        of_left = columns["camera"] == "left"
        columns["timestamp_ns"] = np.where(of_left, columns["timestamp_ns"] + 35 * NS_PER_S // 100, columns["timestamp_ns"])

    change_table(clips[1] / "views.parquet", late)
    outcome = run_job(clips, SETTINGS, 1, QUIET).outcomes[1]
    (note,) = outcome.notes
    assert "camera 'left' took its pictures +0.35 s" in note and "its clock may disagree" in note
    change_table(clips[1] / "views.parquet", late)
    # The vehicle drives 5 m/s, so its place 0.7 s later is 3.5 m from where the pictures say that it was.
    assert "poses of camera 'left' on the ego path at its capture times, got them 3.5 m beside it" in failure_beside_good_ones(clips)


def test_an_ego_path_of_another_clock_fails_alone(clips):
    def shift(columns):
        columns["x_m"] = columns["x_m"] + 12.0

    change_table(clips[1] / "ego.parquet", shift)
    assert "got 12.0 m beside it" in failure_beside_good_ones(clips)


def test_a_camera_without_pictures_is_noted_and_the_clip_is_labelled(tiny_clip_path):
    def blind(columns):
        columns["image"] = np.where(columns["camera"] == "left", "", columns["image"]).astype(str)

    change_table(tiny_clip_path / "views.parquet", blind)
    (outcome,) = run_job([tiny_clip_path], SETTINGS, 1, QUIET).outcomes
    assert outcome.notes == [f"{tiny_clip_path}: camera 'left' has no picture in the whole clip; labelled without it"]
    (again,) = run_job([tiny_clip_path], SETTINGS, 1, QUIET).outcomes
    assert again.notes == outcome.notes


def test_a_clip_without_any_picture_is_one_note_and_its_evidence_is_tracked(tiny_clip_path):
    def blind(columns):
        columns["image"] = np.full(len(columns["image"]), "").astype(str)

    change_table(tiny_clip_path / "views.parquet", blind)
    (outcome,) = run_job([tiny_clip_path], SETTINGS, 1, QUIET).outcomes
    assert outcome.notes == [f"{tiny_clip_path}: no camera has a picture in the whole clip; labelled from the evidence alone"]


def test_evidence_of_another_clip_fails_alone(clips):
    write_layer(clips[1], LabelLayer("model@x", {99: Boxes.make([[0, 0, 0, 4, 2, 1, 0, 0, 0]], [0])}))
    for path in (clips[0], clips[2]):
        write_layer(path, LabelLayer("model@x", {0: Boxes.make([[10, 0, 0, 4, 2, 1, 0, 0, 0]], [0])}))
    settings = LabelSettings("auto@test", evidence="model@x", pictures=False)
    assert "labels frame 99, but the clip ends with frame 3" in failure_beside_good_ones(clips, settings)
    far = {i: Boxes.make([[70_000, 0, 0, 4, 2, 1, 0, 0, 0]], [0]) for i in range(4)}
    write_layer(clips[1], LabelLayer("model@x", far), replace=True)
    assert "around the ego vehicle, got them 69" in failure_beside_good_ones(clips, settings)
    change_table(clips[1] / "layers/model@x/boxes.parquet", lambda columns: {**columns, "frame_index": columns["frame_index"] + 40})
    assert "got some of frame 40; list it or drop them" in failure_beside_good_ones(clips, settings)


def test_numbers_in_brackets_are_printed_and_not_taken_for_markup(clips, capsys):
    def lost(columns):
        columns["x_m"] = np.where(np.arange(len(columns["x_m"])) == 2, np.nan, columns["x_m"])

    change_table(clips[1] / "ego.parquet", lost)
    odd = clips[1].rename(clips[1].with_name("[red]"))
    assert label((odd,), layer="auto@job", evidence="truth", pictures=False) == 2
    printed = capsys.readouterr().out
    assert "row 2: expected a finite pose, got [nan, " in printed and "│ [red] │" in printed


def test_a_detector_file_with_other_outputs_is_one_sentence_a_clip(clips, tmp_path):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 64, 64]) for name in ("images", "picture")]
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["picture"])], "no detector", value[:1], value[1:])
    path = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    report = run_job(clips, LabelSettings("auto@cold", detector=path, pictures=False), 1, QUIET)
    assert all("other.onnx" in outcome.failure and "error of ours" not in outcome.failure for outcome in report.outcomes)
    assert not any("auto@cold" in Clip.open(clip).layer_names for clip in clips)


@pytest.mark.parametrize("option", ["teacher", "detector", "boxes2d", "confidence"])
def test_a_mistyped_file_is_one_sentence_before_any_clip_is_begun(clips, option, capsys):
    evidence = () if option != "confidence" else ("--evidence", "truth")
    assert main(["label", *map(str, clips), f"--{option}", "nowhere/file.json", *evidence]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("surround4d label: nowhere/file.json: ") and said.err.count("\n") == 1
    assert not any((clip / "labeling").exists() for clip in clips)


def test_a_mistyped_device_is_one_sentence_before_any_clip_is_begun(clips, capsys):
    asked = ["label", *map(str, clips), "--teacher", "nano"]
    assert main([*asked, "--device", "gpu"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err == "surround4d label: --device: expected auto, cpu, cuda or cuda:1, got 'gpu'; correct it\n"
    for device in ("auto", "cuda:1"):
        assert main([*asked, "--ray", "auto", "--device", device]) == 2
        said = capsys.readouterr().err
        assert said == f"surround4d label: --device: on a cluster every task has one GPU or none, got {device!r}; give cpu or cuda\n"
    assert not any((clip / "labeling").exists() for clip in clips)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(clips, monkeypatch):
    write = layer_stage.write_layer_files

    def full(folder, layer):
        if clips[1] in folder.parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder, layer)

    monkeypatch.setattr(layer_stage, "write_layer_files", full)
    assert "No space left on device" in failure_beside_good_ones(clips)
    report = run_job(clips, SETTINGS, 1, QUIET)
    assert report.failures[0].stages[-1].name == "confidence"  # so far it came
    assert report.totals()["labels"] == sum(outcome.counts()["labels"] for outcome in report.outcomes if not outcome.failure)
    assert "auto@test" not in Clip.open(clips[1]).layer_names
    assert [p.name for p in (clips[1] / "layers").iterdir()] == ["truth"]
    monkeypatch.undo()
    assert not run_job(clips, SETTINGS, 1, QUIET).failures


def test_two_jobs_do_not_label_one_clip_at_once(tiny_clip_path, monkeypatch):
    def second_job(folder, layer):
        with pytest.raises(DataError, match="another job is labelling this clip"):
            label_clip(tiny_clip_path, SETTINGS)
        raise KeyboardInterrupt

    monkeypatch.setattr(layer_stage, "write_layer_files", second_job)
    with pytest.raises(KeyboardInterrupt):
        label_clip(tiny_clip_path, SETTINGS)
    monkeypatch.undo()
    label_clip(tiny_clip_path, SETTINGS)


def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(clips, tmp_path):
    reference = Path(shutil.copytree(clips[0], tmp_path / "reference"))
    label_clip(reference, SETTINGS)
    folder = clips[0].parent
    code = (
        "from pathlib import Path; from rich.console import Console; from labeling.job import run_job; "
        "from labeling.settings import LabelSettings; print('ready', flush=True); "
        f"clips = sorted(Path({str(folder)!r}).iterdir()); "
        "run_job(clips, LabelSettings('auto@test', evidence='truth', pictures=False), 1, Console(quiet=True))"
    )
    generator = np.random.default_rng(0)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as job:
            assert job.stdout is not None
            job.stdout.readline()
            time.sleep(generator.uniform(0.0, 0.15))
            job.send_signal(signal.SIGKILL)
    assert not run_job(clips, SETTINGS, 1, QUIET).failures
    for path in clips:
        assert (path / "layers/auto@test/boxes.parquet").read_bytes() == (reference / "layers/auto@test/boxes.parquet").read_bytes()
        assert sorted(p.name for p in (path / "layers").iterdir()) == ["auto@test", "truth"]


def kill_its_process(clip: Path) -> ClipOutcome:
    """Work that one clip does not survive."""
    if clip.name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return ClipOutcome(str(clip))


def test_a_clip_that_kills_its_worker_fails_alone():
    clips = [Path(name) for name in "abcd"]
    outcomes = dict(by_processes(clips, kill_its_process, 2, lambda clip, reason: ClipOutcome(str(clip), failure=reason)))
    assert {clip.name: bool(outcome.failure) for clip, outcome in outcomes.items()} == {"a": False, "b": True, "c": False, "d": False}
    assert "worker process died" in outcomes[Path("b")].failure


def test_ray_labels_as_one_process_does_and_none_at_an_address_is_one_sentence(clips):
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="no Ray at"):  # one test for both: "auto" would find what another one has started
        run_job(clips, SETTINGS, 1, QUIET, ray_address="auto")
    label_clip(Path(shutil.copytree(clips[0], clips[0].parent.parent / "reference")), SETTINGS)
    (clips[1] / "frames.parquet").write_bytes(b"broken")
    outcomes = run_job(clips, SETTINGS, 1, QUIET, ray_address="local").outcomes
    assert [bool(outcome.failure) for outcome in outcomes] == [False, True, False]
    assert "frames.parquet" in outcomes[1].failure
    reference = (clips[0].parent.parent / "reference/layers/auto@test/boxes.parquet").read_bytes()
    assert (clips[2] / "layers/auto@test/boxes.parquet").read_bytes() == reference


def test_the_manifest_holds_what_each_stage_did(tiny_clip_path):
    label_clip(tiny_clip_path, SETTINGS)
    manifest = json.loads((tiny_clip_path / "labeling/auto@test/manifest.json").read_text())
    assert {"inputs", "evidence", "tracks", "layer"} <= set(manifest["stages"])
    for name, stage in manifest["stages"].items():
        assert (tiny_clip_path / stage["artefact"]).exists(), name
        assert len(stage["hash"]) == 16
