"""Is bad input refused in one sentence that names file, row and remedy, with exit status 2, while the other clips go on?"""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scenes.clips import Clip
from surround4d import main


def edit_json(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_table(path: Path, change) -> None:
    """Applies `change` to the table's columns as Python lists."""
    columns = pq.read_table(path).to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), path)


def set_value(name: str, row: int, value):
    def change(columns):
        columns[name][row] = value

    return change


def drop_column(name: str):
    return lambda columns: columns.pop(name)


def keep_rows(count: int):
    def change(columns):
        for name in columns:
            columns[name] = columns[name][:count]

    return change


def first_camera(clip_json: dict) -> dict:
    return clip_json["rig"][0]


BROKEN_CLIPS = {
    "no header": (lambda c: (c / "clip.json").write_text("{"), r"clip\.json: not readable as JSON"),
    "header is a list": (lambda c: (c / "clip.json").write_text("[]"), r"clip\.json: expected a JSON object, got list"),
    "newer schema": (lambda c: edit_json(c / "clip.json", lambda v: v.update(schema_version=99)), r"schema version 99 is newer.*update"),
    "strange schema": (lambda c: edit_json(c / "clip.json", lambda v: v.update(schema_version="x")), r"whole number as schema_version"),
    "no calibration": (lambda c: edit_json(c / "clip.json", lambda v: v.pop("rig")), r"clip\.json: expected calibrated cameras.*add"),
    "camera without focal length": (
        lambda c: edit_json(c / "clip.json", lambda v: first_camera(v).pop("fx_px")),
        r"clip\.json: camera 'front' has a missing or unreadable field.*fx_px",
    ),
    "extrinsic not orthonormal": (
        lambda c: edit_json(c / "clip.json", lambda v: first_camera(v)["ego_from_cam"][0].__setitem__(0, 5.0)),
        r"clip\.json: camera 'front', ego_from_cam: expected an orthonormal.*correct",
    ),
    "calibration of one camera missing": (
        lambda c: edit_json(c / "clip.json", lambda v: v["rig"].pop(0)),
        r"views\.parquet, row 0: no such camera.*'front'.*add its calibration",
    ),
    "NaN pose": (
        lambda c: edit_table(c / "ego.parquet", set_value("x_m", 7, float("nan"))),
        r"ego\.parquet, row 7: expected a finite pose",
    ),
    "pose not orthonormal": (
        lambda c: edit_table(c / "frames.parquet", set_value("qw", 2, 0.5)),
        r"frames\.parquet, row 2: expected a unit quaternion.*correct or drop",
    ),
    "pose missing": (
        lambda c: edit_table(c / "ego.parquet", set_value("qx", 3, None)),
        r"ego\.parquet, row 3: expected a value in column qx",
    ),
    "ego clock backwards": (
        lambda c: edit_table(c / "ego.parquet", set_value("timestamp_ns", 5, 1)),
        r"ego\.parquet, row 5: expected a time stamp after.*sort the rows",
    ),
    "frame clock stands": (
        lambda c: edit_table(c / "frames.parquet", set_value("timestamp_ns", 2, 500_000_000)),
        r"frames\.parquet, row 2: expected a time stamp after",
    ),
    "time stamps are words": (
        lambda c: edit_table(c / "frames.parquet", lambda t: t.update(timestamp_ns=["a", "b", "c", "d"])),
        r"frames\.parquet: expected whole nanoseconds",
    ),
    "poses are words": (
        lambda c: edit_table(c / "ego.parquet", lambda t: t.update(x_m=["a"] * len(t["x_m"]))),
        r"ego\.parquet: expected numbers in column x_m",
    ),
    "empty clip": (lambda c: edit_table(c / "frames.parquet", keep_rows(0)), r"frames\.parquet: expected at least one frame.*drop"),
    "no ego path": (lambda c: edit_table(c / "ego.parquet", keep_rows(0)), r"ego\.parquet: expected at least one ego pose"),
    "frames renumbered": (
        lambda c: edit_table(c / "frames.parquet", set_value("frame_index", 1, 9)),
        r"frames\.parquet: expected frame_index",
    ),
    "column missing": (lambda c: edit_table(c / "views.parquet", drop_column("image")), r"views\.parquet: expected column\(s\) image, got"),
    "table missing": (lambda c: (c / "ego.parquet").unlink(), r"ego\.parquet: missing; the clip is incomplete"),
    "table truncated": (lambda c: (c / "frames.parquet").write_bytes(b"PAR1"), r"frames\.parquet: not readable as Parquet.*restore"),
    "a view twice": (
        lambda c: edit_table(c / "views.parquet", set_value("camera", 1, "front")),
        r"views\.parquet, row 1: a second picture",
    ),
}


def two_clips(clip: Path) -> tuple[Path, Path, Path]:
    """A folder of two clips: the first will be broken, the second stays good."""
    folder = clip.parent / "clips"
    folder.mkdir()
    good = Path(shutil.copytree(clip, folder / "b_good"))
    return folder, Path(shutil.move(clip, folder / "a_bad")), good


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("case", sorted(BROKEN_CLIPS))
def test_show_refuses_a_broken_clip_and_draws_the_other(case, tiny_clip_path, tmp_path, capfd):
    spoil, says = BROKEN_CLIPS[case]
    folder, bad, _ = two_clips(tiny_clip_path)
    spoil(bad)
    status = main(["show", str(folder), "--out", str(tmp_path / "out"), "--frames", "0", "--tile-width", "32"])
    complaint = capfd.readouterr().err
    assert status == 2
    assert_one_sentence(complaint, says)
    assert files_below(tmp_path / "out") == [f"b_good/000000_{kind}.png" for kind in ("above", "cameras", "occupancy")]


def assert_one_sentence(complaint: str, says: str) -> None:
    lines = [line for line in complaint.splitlines() if line.strip()]
    assert len(lines) == 1 and "Traceback" not in complaint, complaint
    assert re.search(says, lines[0]), complaint
    assert ";" in lines[0], f"no remedy in: {complaint}"


@pytest.mark.parametrize("case", ["no calibration", "NaN pose", "ego clock backwards", "empty clip", "column missing", "newer schema"])
def test_check_names_the_broken_clip_and_checks_the_other(case, tiny_clip_path, tmp_path, capfd):
    spoil, says = BROKEN_CLIPS[case]
    folder, bad, good = two_clips(tiny_clip_path)
    spoil(bad)
    assert main(["check", str(folder), "--json", str(tmp_path / "report.json")]) == 2
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(clip["path"], clip["is_broken"]) for clip in report["clips"]] == [(str(bad), True), (str(good), False)]
    assert_one_sentence(report["clips"][0]["findings"][0]["text"], says)
    assert "2 clip(s) checked, 1 broken" in capfd.readouterr().out


@pytest.mark.parametrize("case", ["no calibration", "NaN pose", "column missing"])
def test_info_names_the_broken_clip(case, tiny_clip_path, capfd):
    spoil, says = BROKEN_CLIPS[case]
    folder, bad, _ = two_clips(tiny_clip_path)
    spoil(bad)
    assert main(["info", str(folder)]) == 2
    output = capfd.readouterr()
    said = output.err + output.out
    assert re.search(says, said.replace("\n", " ")) and "Traceback" not in said
    assert "tiny_clip" in output.out  # the name of the good clip


BROKEN_LAYERS = {
    "unknown class": (
        lambda p: edit_table(p / "boxes.parquet", set_value("class", 3, "tank")),
        r"boxes\.parquet, row 3: unknown class 'tank'",
    ),
    "box column missing": (
        lambda p: edit_table(p / "boxes.parquet", drop_column("yaw_rad")),
        r"boxes\.parquet: expected column\(s\) yaw_rad",
    ),
    "box without width": (
        lambda p: edit_table(p / "boxes.parquet", set_value("width_m", 1, 0.0)),
        r"boxes\.parquet, row 1: expected a finite",
    ),
    "box at NaN": (
        lambda p: edit_table(p / "boxes.parquet", set_value("x_m", 2, float("nan"))),
        r"boxes\.parquet, row 2: expected a finite",
    ),
    "score beyond 1": (lambda p: edit_table(p / "boxes.parquet", set_value("score", 0, 7.0)), r"boxes\.parquet, row 0: expected a score"),
    "newer layer": (
        lambda p: edit_json(p / "layer.json", lambda v: v.update(schema_version=99)),
        r"layer\.json: schema version 99 is newer",
    ),
    "unknown lane type": (
        lambda p: edit_table(p / "lanes.parquet", set_value("type", 0, "rail")),
        r"lanes\.parquet, row 0: unknown lane type",
    ),
    "lane of one point": (
        lambda p: edit_table(p / "lanes.parquet", lambda t: t.update({f"{a}_m": [v[:1] for v in t[f"{a}_m"]] for a in "xyz"})),
        r"lanes\.parquet, row 0: expected at least two finite points",
    ),
    "boxes missing": (lambda p: (p / "boxes.parquet").unlink(), r"boxes\.parquet: missing"),
}


@pytest.mark.parametrize("case", sorted(BROKEN_LAYERS))
def test_a_broken_layer_is_refused_by_file_and_row(case, tiny_clip_path, tmp_path, capfd):
    spoil, says = BROKEN_LAYERS[case]
    spoil(tiny_clip_path / "layers" / "truth")
    assert main(["show", str(tiny_clip_path), "--out", str(tmp_path / "out"), "--frames", "0"]) == 2
    assert_one_sentence(capfd.readouterr().err, says)
    assert not (tmp_path / "out").exists()
    assert main(["check", str(tiny_clip_path)]) == 2


def test_an_unknown_layer_is_refused_with_the_known_ones(tiny_clip_path, tmp_path, capfd):
    assert main(["show", str(tiny_clip_path), "--out", str(tmp_path / "out"), "--layers", "truth,auto@x"]) == 2
    assert_one_sentence(capfd.readouterr().err.replace("\n", "") + "\n", r"no label layer 'auto@x'; it has \['truth'\]")


BROKEN_PICTURES = {
    "missing": (lambda p: p.unlink(), r"000001\.jpg: missing image; restore"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:300]), r"000001\.jpg: truncated"),
    "empty": (lambda p: p.write_bytes(b""), r"000001\.jpg: (truncated|not readable)"),
    "wrong size": (lambda p: cv2.imwrite(str(p), np.zeros((9, 9, 3), np.uint8)), r"000001\.jpg: expected 64x48 pixels.*got 9x9; resize"),
}


@pytest.mark.parametrize("case", sorted(BROKEN_PICTURES))
def test_check_names_every_broken_picture_and_show_draws_the_rest(case, tiny_clip_path, tmp_path):
    spoil, says = BROKEN_PICTURES[case]
    spoil(tiny_clip_path / "images" / "front" / "000001.jpg")
    assert main(["check", str(tiny_clip_path), "--json", str(tmp_path / "r.json")]) == 2
    findings = json.loads((tmp_path / "r.json").read_text())["clips"][0]["findings"]
    assert len(findings) == 1 and findings[0]["camera"] == "front"
    assert_one_sentence(findings[0]["text"], says)
    assert main(["show", str(tiny_clip_path), "--out", str(tmp_path / "out"), "--frames", "1", "--tile-width", "64"]) == 0


def test_no_clips_at_all(tmp_path, capfd):
    for command in (["show", str(tmp_path), "--out", str(tmp_path / "out")], ["check", str(tmp_path)], ["info", str(tmp_path)]):
        assert main(command) == 2
        assert_one_sentence(capfd.readouterr().err, "expected clips.*import or simulate some")


def test_a_single_frame_is_a_warning_and_still_drawn(tiny_clip_path, tmp_path, capfd):
    for table in ("frames", "views"):
        edit_table(tiny_clip_path / f"{table}.parquet", keep_rows(1 if table == "frames" else 3))
    shutil.rmtree(tiny_clip_path / "layers")
    assert main(["check", str(tiny_clip_path)]) == 0
    assert "a single frame has no duration" in capfd.readouterr().out
    assert main(["show", str(tiny_clip_path), "--out", str(tmp_path / "out"), "--layers", "none"]) == 0


def refuse_to_sync(monkeypatch, code: int) -> None:
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_leaves_nothing_half_written(code, tiny_clip_path, tmp_path, monkeypatch, capfd):
    refuse_to_sync(monkeypatch, code)
    out = tmp_path / "out"
    assert main(["show", str(tiny_clip_path), "--out", str(out), "--frames", "0", "--tile-width", "32"]) == 2
    assert_one_sentence(capfd.readouterr().err, rf"{os.strerror(code)}.*free space or choose another folder")
    assert files_below(out) == []
    assert main(["check", str(tiny_clip_path), "--json", str(out / "r.json")]) == 2
    assert files_below(out) == []


def test_an_output_below_a_file_is_refused(tiny_clip_path, tmp_path, capfd):
    (tmp_path / "file").write_text("I am no folder")
    assert main(["show", str(tiny_clip_path), "--out", str(tmp_path / "file" / "out"), "--frames", "0", "--tile-width", "32"]) == 2
    assert_one_sentence(capfd.readouterr().err, "could not be written")
    assert (tmp_path / "file").read_text() == "I am no folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_refused(tiny_clip_path, tmp_path, capfd):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert main(["show", str(tiny_clip_path), "--out", str(locked / "out"), "--frames", "0", "--tile-width", "32"]) == 2
    assert_one_sentence(capfd.readouterr().err, "could not be written")


@pytest.mark.parametrize("device", ["/dev/full", "/dev/null"])
def test_a_device_is_never_replaced_by_a_file(device, tiny_clip_path, capfd):
    if not Path(device).is_char_device():
        pytest.skip(f"no {device} here")
    assert main(["check", str(tiny_clip_path), "--json", device]) == 2
    assert_one_sentence(capfd.readouterr().err, "expected a place for a file")
    assert Path(device).is_char_device()


def test_an_existing_clip_is_never_overwritten(tiny_clip_path, capfd):
    before = {name: (tiny_clip_path / name).read_bytes() for name in files_below(tiny_clip_path)}
    from scenes.clips import write_clip
    from scenes.errors import DataError

    clip = Clip.open(tiny_clip_path)
    with (
        pytest.raises(DataError, match="exists already; choose another name"),
        write_clip(tiny_clip_path, "x", clip.rig, clip.trajectory, {}),
    ):
        pass
    assert {name: (tiny_clip_path / name).read_bytes() for name in files_below(tiny_clip_path)} == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--frames", "1,x"], "expected numbers and ranges"),
        (["--range-m", "0"], "positive --range-m"),
        (["--rerun", "x.rrd"], r"pip install 'surround4d\[rerun\]'"),
        (["--frames", "77"], "none of the chosen frames exists, it has frames 0 to 3"),
    ],
)
def test_show_refuses_settings_in_words(arguments, says, tiny_clip_path, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    assert main(["show", str(tiny_clip_path), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert_one_sentence(capfd.readouterr().err, says)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_a_detector_that_is_none_is_refused(content, tiny_clip_path, tmp_path, capfd):
    path = tmp_path / "detector.onnx"
    if content is not None:
        path.write_bytes(content)
    assert main(["check", str(tiny_clip_path), "--detector", str(path)]) == 2
    assert_one_sentence(capfd.readouterr().err, r"detector\.onnx: (missing detector|not readable as an ONNX)")
