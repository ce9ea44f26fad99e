"""Does `surround4d show` write the pictures that were asked for?"""

import shutil
import sys
import types

import cv2
import numpy as np
import pytest

from scenes.clips import Clip
from scenes.errors import ConfigError
from scenes.layers import LabelLayer, write_layer
from scenes.show.command import folder_names, parse_frames
from scenes.show.rerun_recording import rerun_recording
from surround4d import main


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("", [0, 3, 6, 9]),
        ("0", [0]),
        ("3, 1,3", [1, 3]),
        ("2:5", [2, 3, 4]),
        ("0:10:4,-1", [0, 4, 8, 9]),
        ("all", list(range(10))),
        ("-2:", [8, 9]),
        ("12", []),
    ],
)
def test_frame_selections(text, frames):
    assert parse_frames(text, 10) == frames


@pytest.mark.parametrize("text", ["a", "1-3", "1:2:3:4", "1:2:0", ":x"])
def test_other_selections_are_refused(text):
    with pytest.raises(ConfigError, match="expected numbers and ranges"):
        parse_frames(text, 10)


def test_clips_of_one_name_get_folders_of_their_own(tmp_path):
    paths = [tmp_path / "a" / "clip", tmp_path / "b" / "clip", tmp_path / "other"]
    assert folder_names(paths) == ["a__clip", "b__clip", "other"]


def test_pictures_of_two_layers(tiny_clip_path, tmp_path, capsys):
    clip = Clip.open(tiny_clip_path)
    write_layer(tiny_clip_path, LabelLayer("auto@x", clip.layer("truth").boxes_world))
    out = tmp_path / "out"
    arguments = [
        "show",
        str(tiny_clip_path),
        "--layers",
        "truth,auto@x",
        "--frames",
        "0,2",
        "--out",
        str(out),
        "--tile-width",
        "96",
        "--labels",
    ]
    assert main(arguments) == 0
    kinds = ("above", "cameras", "occupancy_truth")
    assert sorted(p.name for p in (out / "tiny_clip").iterdir()) == sorted(f"{f:06d}_{k}.png" for f in (0, 2) for k in kinds)
    sheet = cv2.imread(str(out / "tiny_clip" / "000002_cameras.png"))
    assert sheet is not None and sheet.shape[1] == 2 * 96 + 4
    assert "6 file(s)" in capsys.readouterr().out


def test_the_overview_video_has_every_frame(tiny_clip_path, tmp_path):
    import av

    assert main(["show", str(tiny_clip_path), "--out", str(tmp_path), "--frames", "0", "--tile-width", "96", "--video"]) == 0
    with av.open(str(tmp_path / "tiny_clip" / "overview.mp4")) as container:
        assert container.streams.video[0].average_rate == 2
        assert sum(1 for _ in container.decode(video=0)) == 4


class RerunStub(types.ModuleType):
    """Keeps what is logged instead of sending it to rerun's viewer."""

    def __init__(self) -> None:
        super().__init__("rerun")
        self.logged: dict[str, list] = {}
        stub = self

        class Stream:
            def __init__(self, name):
                assert name == "surround4d"

            def save(self, path):
                with open(path, "wb") as handle:
                    handle.write(b"RRF2")

            def set_time(self, timeline, *, duration):
                assert timeline == "clip" and duration >= 0

            def log(self, entity, value, static=False):
                stub.logged.setdefault(entity, []).append(value)

            def flush(self): ...

            def disconnect(self): ...

        self.RecordingStream = Stream
        self.set_time = Stream.set_time
        self.ViewCoordinates = types.SimpleNamespace(RIGHT_HAND_Z_UP="z up", RDF="rdf")
        for name in ("Transform3D", "Pinhole", "EncodedImage", "Boxes3D", "Arrows3D", "LineStrips3D", "Points3D"):
            setattr(self, name, lambda *values, kind=name, **named: (kind, values, named))


@pytest.fixture
def rerun_stub(monkeypatch) -> RerunStub:
    stub = RerunStub()
    monkeypatch.setitem(sys.modules, "rerun", stub)
    return stub


def test_a_rerun_recording_is_named_by_the_tree_of_frames(tiny_clip_path, tmp_path, rerun_stub):
    out = ["--out", str(tmp_path / "out"), "--frames", "0,2", "--tile-width", "64"]
    assert main(["show", str(tiny_clip_path), *out, "--rerun", str(tmp_path / "x.rrd")]) == 0
    assert (tmp_path / "x.rrd").read_bytes() == b"RRF2"
    world = "tiny_clip/world"
    assert set(rerun_stub.logged) == {
        world,
        f"{world}/ego",
        *(f"{world}/cameras/{name}" for name in ("front", "left", "front_fisheye")),
        *(f"{world}/cameras/{name}/image" for name in ("front", "left", "front_fisheye")),
        *(f"{world}/layers/truth/{what}" for what in ("boxes", "velocities", "lanes")),
        f"{world}/ego/layers/truth/occupancy",
    }
    _, _, boxes = rerun_stub.logged[f"{world}/layers/truth/boxes"][0]
    np.testing.assert_allclose(boxes["centers"][0], [15, 2, 0.8])
    np.testing.assert_allclose(boxes["half_sizes"][0], [2.25, 0.95, 0.8])
    assert len(rerun_stub.logged[f"{world}/cameras/left"]) == 1  # dead at frame 2
    assert all(kind != "Pinhole" for kind, *_ in rerun_stub.logged[f"{world}/cameras/front_fisheye/image"])


def test_a_recording_that_fails_leaves_nothing(tmp_path, rerun_stub):
    with pytest.raises(RuntimeError), rerun_recording(tmp_path / "x.rrd"):
        raise RuntimeError("stopped")
    assert list(tmp_path.iterdir()) == []


def test_a_clip_without_labels_is_shown_bare(tiny_clip_path, tmp_path):
    shutil.rmtree(tiny_clip_path / "layers")
    assert main(["show", str(tiny_clip_path), "--layers", "none", "--out", str(tmp_path / "o"), "--frames", "1", "--tile-width", "64"]) == 0
    assert sorted(p.name for p in (tmp_path / "o" / "tiny_clip").iterdir()) == ["000001_above.png", "000001_cameras.png"]
