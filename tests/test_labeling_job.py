"""Does a labeling job lose nothing, repeat nothing, and let a bad clip fail alone?"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from labeling import layer_stage
from labeling.clip_labels import STAGES, label_clip
from labeling.command import label
from labeling.job import ClipOutcome, run_job, shard_of
from labeling.settings import LabelSettings
from labeling.stages import StageResult
from labeling.teacher import MIRROR, fuse_boxes, mirror_frame
from labeling.track_stage import arrays_of_tracks, tracks_from_arrays
from labeling.tracks.tracking import TrackLabels
from perception.augmentation import change_boxes
from scenes.boxes import Boxes
from scenes.clips import Clip
from scenes.errors import ConfigError, DataError
from scenes.layers import LabelLayer, write_layer
from scenes.packing import pack_frame

SETTINGS = LabelSettings("auto@test", evidence="truth")


@pytest.fixture
def clips(tiny_clip_path, tmp_path) -> Path:
    """A folder of three clips."""
    folder = tmp_path / "clips"
    for name in "abc":
        shutil.copytree(tiny_clip_path, folder / name)
    return folder


def done_again(results: list[StageResult]) -> set[str]:
    """Names of the stages whose artefacts were reused."""
    return {result.name for result in results if result.reused}


def test_the_layer_reads_back_and_agrees_with_what_it_was_made_from(tiny_clip_path):
    label_clip(tiny_clip_path, SETTINGS)
    clip = Clip.open(tiny_clip_path)
    layer, truth = clip.layer("auto@test"), clip.layer("truth")
    assert sorted(layer.boxes_world) == list(range(len(clip)))
    for index, boxes in layer.boxes_world.items():
        assert sorted(boxes.class_id) == [0, 5]
        order = np.argsort(boxes.class_id)
        assert np.abs(boxes.box[order, :2] - truth.boxes_world[index].box[:, :2]).max() < 0.3
        assert set(boxes.provenance) == {"measured"}
        assert ((boxes.score > 0) & (boxes.score <= 1)).all()
    ids = {boxes.track_id[boxes.class_id == 0].item() for boxes in layer.boxes_world.values()}
    assert len(ids) == 1
    assert layer.meta["evidence"] == "truth"


def test_a_second_run_does_nothing_and_a_changed_setting_only_what_depends_on_it(tiny_clip_path):
    assert not done_again(label_clip(tiny_clip_path, SETTINGS))
    assert done_again(label_clip(tiny_clip_path, SETTINGS)) == {stage.name for stage in STAGES if stage.wanted(SETTINGS)}
    changed = LabelSettings("auto@test", evidence="truth", tracking=SETTINGS.tracking.with_probabilities(0.9, 0.1))
    assert done_again(label_clip(tiny_clip_path, changed)) == {"inputs", "evidence"}


def test_detections_of_several_sources_are_added_up():
    stages = [StageResult(name, "", "", 0.0, {"frames": 4, "detections": n}) for name, n in (("teacher", 3), ("lifting", 5))]
    assert ClipOutcome("clip", stages).counts() == {"frames": 4, "detections": 8}


def test_a_restored_picture_is_looked_at_and_an_older_manifest_is_believed(tiny_clip_path):
    picture = next((tiny_clip_path / "images").rglob("*.jpg"))
    whole = picture.read_bytes()
    picture.unlink()
    label_clip(tiny_clip_path, SETTINGS)
    picture.write_bytes(whole)
    assert not done_again(label_clip(tiny_clip_path, SETTINGS))
    every = {stage.name for stage in STAGES if stage.wanted(SETTINGS)}
    manifest = tiny_clip_path / "labeling/auto@test/manifest.json"
    content = json.loads(manifest.read_text())
    del content["pictures"]
    manifest.write_text(json.dumps(content))
    assert done_again(label_clip(tiny_clip_path, SETTINGS)) == every


def test_killed_between_stages_it_goes_on_where_it_was(tiny_clip_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(layer_stage, "write_layer_files", killed)
        label_clip(tiny_clip_path, SETTINGS)
    assert "auto@test" not in Clip.open(tiny_clip_path).layer_names
    assert {"evidence", "tracks"} <= done_again(label_clip(tiny_clip_path, SETTINGS))
    again = tiny_clip_path / "layers" / "auto@test" / "boxes.parquet"
    bytes_resumed = again.read_bytes()
    shutil.rmtree(tiny_clip_path / "labeling")
    shutil.rmtree(again.parent)
    label_clip(tiny_clip_path, SETTINGS)
    assert again.read_bytes() == bytes_resumed


def test_a_bad_clip_fails_alone_with_its_sentence(clips, capsys):
    (clips / "b" / "frames.parquet").write_bytes(b"broken")
    assert label((clips,), layer="auto@job", evidence="truth") == 2
    assert "frames.parquet" in capsys.readouterr().out
    report = json.loads((clips / "labeling" / "auto@job.json").read_text())
    assert report["totals"]["failed"] == 1
    assert [bool(clip["failure"]) for clip in report["clips"]] == [False, True, False]
    assert all("auto@job" in Clip.open(clips / name).layer_names for name in "ac")
    page = (clips / "labeling" / "auto@job.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert "frames.parquet" in page


def test_where_the_report_cannot_be_written_the_table_is_still_printed(clips, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match="could not be written"):
        label((clips,), layer="auto@job", evidence="truth", pictures=False, report=tmp_path / "file" / "report.json")
    assert "3 of 3 clip(s) labelled" in capsys.readouterr().out


def test_two_workers_write_the_same_labels_as_one(clips):
    settings = LabelSettings("auto@two", evidence="truth")
    report = run_job(sorted(clips.iterdir()), settings, 2, Console(quiet=True))
    assert not report.failures
    assert report.totals()["labels"] == 3 * 8
    written = [(clips / name / "layers" / "auto@two" / "boxes.parquet").read_bytes() for name in "abc"]
    assert written[0] == written[1] == written[2]


def test_shards_share_out_all_clips():
    paths = [Path(str(k)) for k in range(7)]
    assert sorted(path for part in "123" for path in shard_of(paths, f"{part}/3")) == paths
    with pytest.raises(ConfigError, match="--shard"):
        shard_of(paths, "4/3")


def test_layers_of_others_are_not_overwritten(tiny_clip_path):
    write_layer(tiny_clip_path, LabelLayer("auto@test", {0: Boxes.empty()}))
    with pytest.raises(DataError, match="not written by"):
        label_clip(tiny_clip_path, SETTINGS)


def test_evidence_outside_the_clip_is_refused(tiny_clip_path):
    write_layer(tiny_clip_path, LabelLayer("model@far", {99: Boxes.make([[0, 0, 0, 4, 2, 1, 0, 0, 0]], [0])}))
    with pytest.raises(DataError, match="labels frame 99"):
        label_clip(tiny_clip_path, LabelSettings("auto@test", evidence="model@far"))


def test_a_layer_without_boxes_becomes_empty_labels(tiny_clip_path):
    write_layer(tiny_clip_path, LabelLayer("model@blind", {index: Boxes.empty() for index in range(4)}))
    label_clip(tiny_clip_path, LabelSettings("auto@test", evidence="model@blind"))
    assert [len(boxes) for boxes in Clip.open(tiny_clip_path).layer("auto@test").boxes_world.values()] == [0, 0, 0, 0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_clip_is_one_sentence(tiny_clip_path):
    tiny_clip_path.chmod(0o500)
    with pytest.raises(DataError, match="could not be written"):
        label_clip(tiny_clip_path, SETTINGS)


def test_what_contradicts_itself_is_refused_before_anything_is_written(clips):
    with pytest.raises(ConfigError, match="teacher"):
        LabelSettings("auto@x")
    with pytest.raises(ConfigError, match="auto@first"):
        LabelSettings("truth", evidence="model@x")
    with pytest.raises(ConfigError, match="folders of clips"):
        label((), evidence="truth")
    with pytest.raises(DataError, match="no label layer"):
        label_clip(clips / "a", LabelSettings("auto@x", evidence="model@unknown"))


def test_tracks_survive_their_file():
    track = TrackLabels(
        np.array([1, 2]),
        np.arange(18.0).reshape(2, 9),
        3,
        0.5,
        np.array([0.4, 0.6]),
        np.array(["measured", "extrapolated"], dtype=object),
        True,
        np.array(["teacher", "teacher+model@x"], dtype=object),
        spread_m=np.array([[0.5, 0.2], [2.0, 0.1]]),
    )
    (again,) = tracks_from_arrays(arrays_of_tracks([track]))
    assert again.provenance.tolist() == ["measured", "extrapolated"]
    assert again.sources.tolist() == ["teacher", "teacher+model@x"]
    assert (again.box_world == track.box_world).all()
    assert (again.spread_m == track.spread_m).all()
    assert tracks_from_arrays(arrays_of_tracks([])) == []


def test_two_passes_are_fused_by_score():
    box = np.array([[10, 0, 1, 4, 2, 1.5, 0.0, 1, 0]])
    ahead = Boxes.make(box, [0], score=[0.6])
    turned, alone = [10.4, 0, 1, 4, 2, 1.5, np.pi, 1, 0], [30, 0, 1, 4, 2, 1.5, 0.0, 1, 0]
    behind = Boxes.make([turned, alone], [1, 0], score=[0.2, 0.5])
    fused = fuse_boxes(ahead, behind, np.zeros(2))
    assert fused.score == pytest.approx([0.4, 0.3])
    assert fused.box[0, 0] == pytest.approx(10.1)
    assert fused.box[0, 6] == pytest.approx(0.0)
    assert fused.class_id.tolist() == [0, 0]


def test_a_velocity_that_one_pass_does_not_know_is_the_other_ones():
    known, unknown = [10.0, 0, 1, 4, 2, 1.5, 0.0, 3.0, 1.0], [10.4, 0, 1, 4, 2, 1.5, 0.0, np.nan, np.nan]
    a, b = (Boxes.make(np.array([box]), [0], score=[0.5]) for box in (known, unknown))
    for fused in (fuse_boxes(a, b, np.zeros(2)), fuse_boxes(b, a, np.zeros(2))):
        assert fused.box[0, [0, 7, 8]] == pytest.approx([10.2, 3.0, 1.0])
    assert np.isnan(fuse_boxes(b, b, np.zeros(2)).box[0, 7:]).all()


def test_a_mirror_turns_pictures_calibration_and_boxes_alike(tiny_clip):
    frame = pack_frame(tiny_clip, 1, (48, 64), previous=0)
    mirrored = mirror_frame(frame)
    assert (mirrored.images_NHW3 == frame.images_NHW3[:, :, ::-1]).all()
    point, twin = np.array([12.0, 1.5, 0.5, 1.0]), np.array([12.0, -1.5, 0.5, 1.0])

    def column_px(packed, at):
        x, _, z, _ = packed.cam_from_ego_N44[2].astype(np.float64) @ at  # the fisheye: straight ahead, no tangential distortion
        return packed.intrinsics_N4[2, 2] + packed.intrinsics_N4[2, 0] * np.arctan(x / z)

    assert column_px(mirrored, twin) == pytest.approx(63 - column_px(frame, point), abs=1e-3)
    assert change_boxes(np.array([[10, 3, 0, 4, 2, 1, 0.5, 5, 1.0]]), MIRROR)[0].tolist() == [10, -3, 0, 4, 2, 1, -0.5, 5, -1]
    twice = mirror_frame(mirrored)
    for field in ("images_NHW3", "intrinsics_N4", "distortion_N5", "cam_from_ego_N44", "prev_from_ego_44"):
        assert getattr(twice, field) == pytest.approx(getattr(frame, field), abs=1e-4)
