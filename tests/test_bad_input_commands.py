"""Do the commands that read checkpoints and whole jobs of clips refuse bad input in words, and do the other clips go on?"""

import json
import re
import shutil
from pathlib import Path

import pytest

from scenes.clips import Clip
from surround4d import main


def spoil(clip: Path) -> None:
    """Takes the calibration out of a clip."""
    header = json.loads((clip / "clip.json").read_text())
    del header["rig"]
    (clip / "clip.json").write_text(json.dumps(header))


@pytest.fixture
def good_and_bad(tiny_clip_path) -> tuple[Path, Path]:
    """Two clips in one folder; the first, `a_bad`, has no calibration. Returns the folder and the good clip."""
    folder = tiny_clip_path.parent / "clips"
    folder.mkdir()
    good = Path(shutil.copytree(tiny_clip_path, folder / "b_good"))
    spoil(Path(shutil.move(tiny_clip_path, folder / "a_bad")))
    return folder, good


def complaint_of(output) -> str:
    """All that was said, in one line: tables may have wrapped it."""
    return re.sub(r"\s+", " ", output.err + output.out)


def bad_checkpoint(kind: str, folder: Path) -> Path:
    import torch

    from training.checkpoints import FORMAT, SCHEMA_VERSION

    path = folder / "bad.pt"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("these are no weights\n" * 50)
    elif kind == "foreign":
        torch.save({"state_dict": {"conv.weight": torch.zeros(3)}}, path)
    elif kind == "newer":
        torch.save({"format": FORMAT, "schema_version": SCHEMA_VERSION + 1, "header": "{}", "weights": {}}, path)
    elif kind == "truncated":
        torch.save({"format": FORMAT, "schema_version": SCHEMA_VERSION, "header": "{}", "weights": {"w": torch.zeros(5000)}}, path)
        path.write_bytes(path.read_bytes()[:9000])
    return path


SAYS = {
    "missing": "no such checkpoint; give a file",
    "empty": "not readable as a checkpoint",
    "text": "not readable as a checkpoint",
    "truncated": "not readable as a checkpoint",
    "foreign": "expected a surround4d checkpoint, got another program's file; give one",
    "newer": "is newer than this program's .*; update surround4d",
}


@pytest.mark.parametrize("command", ["eval", "label", "export"])
@pytest.mark.parametrize("kind", sorted(SAYS))
def test_a_checkpoint_that_is_none_is_refused(kind, command, tiny_clip_path, tmp_path, capfd):
    checkpoint = str(bad_checkpoint(kind, tmp_path))
    arguments = {
        "eval": ["eval", checkpoint, "--data", str(tiny_clip_path)],
        "label": ["label", str(tiny_clip_path), "--teacher", checkpoint, "--layer", "auto@x"],
        "export": ["export", checkpoint, "--out", str(tmp_path / "model.onnx")],
    }[command]
    assert main(arguments) == 2
    said = complaint_of(capfd.readouterr())
    assert re.search(SAYS[kind], said) and "bad.pt" in said and "Traceback" not in said, said
    assert not (tmp_path / "model.onnx").exists()
    assert Clip.open(tiny_clip_path).layer_names == ["truth"]


def test_eval_of_a_layer_measures_the_other_clips(good_and_bad, tmp_path, capfd):
    folder, _ = good_and_bad
    assert main(["eval", "truth", "--data", str(folder), "--json", str(tmp_path / "e.json")]) == 2
    said = complaint_of(capfd.readouterr())
    assert "a_bad" in said and "expected calibrated cameras" in said and "Traceback" not in said
    assert json.loads((tmp_path / "e.json").read_text())


def test_label_labels_the_other_clips(good_and_bad, capfd):
    folder, good = good_and_bad
    assert main(["label", str(folder), "--evidence", "truth", "--layer", "auto@x"]) == 2
    said = complaint_of(capfd.readouterr())
    assert "a_bad" in said and "expected calibrated cameras" in said and "Traceback" not in said
    assert Clip.open(good).layer_names == ["auto@x", "truth"]
    assert not list((folder / "a_bad" / "layers").glob("auto*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "truth", "--data", "CLIPS", "--against", "human"],
        ["label", "CLIPS", "--evidence", "human", "--layer", "auto@x"],
        ["show", "CLIPS", "--layers", "human", "--out", "OUT"],
    ],
)
def test_a_layer_that_no_clip_has_is_named_with_those_it_has(arguments, tiny_clip_path, tmp_path, capfd):
    places = {"CLIPS": str(tiny_clip_path), "OUT": str(tmp_path / "out")}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    said = complaint_of(capfd.readouterr())
    assert "no label layer 'human'; it has ['truth']" in said and "Traceback" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "truth", "--data", "EMPTY"],
        ["label", "EMPTY", "--evidence", "truth"],
        ["train", "nano", "--data", "EMPTY"],
    ],
)
def test_a_folder_without_clips_is_refused(arguments, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty") if argument == "EMPTY" else argument for argument in arguments]) == 2
    said = complaint_of(capfd.readouterr())
    assert "expected clips (folders with clip.json), got none; import or simulate some first" in said and "Traceback" not in said


def test_a_layer_name_that_leaves_its_folder_is_refused(tiny_clip_path, capfd):
    assert main(["label", str(tiny_clip_path), "--evidence", "truth", "--layer", "../evil"]) == 2
    assert "Traceback" not in complaint_of(capfd.readouterr())
    assert sorted(p.name for p in tiny_clip_path.iterdir() if "evil" in p.name) == []
