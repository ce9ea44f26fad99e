"""Do labels reach the reviewers in the right order, and do their corrections come back without loss?"""

import json
import shutil
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from labeling.clip_labels import label_clip
from labeling.review.command import Export, Import, export_queue, import_corrections
from labeling.review.corrections import import_package
from labeling.review.cuboids import SUBSET, pcd_bytes, write_cuboids
from labeling.review.queue import clip_entries, ranked_queue, share_unseen
from labeling.settings import LabelSettings
from scenes.boxes import Boxes
from scenes.clips import Clip
from scenes.errors import ConfigError, DataError
from scenes.layers import LabelLayer, write_layer
from training.dataset import first_layer

LAYER = "auto@r"
CAR, PERSON = 0, 5


@pytest.fixture
def clip_path(tiny_clip_path) -> Path:
    """A labelled clip: one car and one person in four frames."""
    label_clip(tiny_clip_path, LabelSettings(LAYER, evidence="truth", pictures=False))
    return tiny_clip_path


@pytest.fixture
def package(clip_path, tmp_path) -> Path:
    """Everything of the clip, given out."""
    assert export_queue(Export((clip_path,), LAYER, tmp_path / "pkg")) == 0
    return tmp_path / "pkg"


def packed(package: Path) -> Path:
    """The clip's folder inside the package."""
    return package / json.loads((package / "review.json").read_text())["clips"][0]["folder"]


def change_cuboids(package: Path, change) -> None:
    """As a reviewer would in CVAT: `change(items)` on the 3D annotations."""
    path = packed(package) / "cloud_annotations.zip"
    with zipfile.ZipFile(path) as archive:
        content = json.loads(archive.read(archive.namelist()[0]))
    change(content["items"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("annotations/task.json", json.dumps(content))


def annotation(items: list[dict], frame: int, track: int) -> dict:
    """A track's cuboid in a frame."""
    (item,) = (i for i in items if i["id"] == f"{frame:06d}")
    return next(a for a in item["annotations"] if a["attributes"]["surround_track"] == str(track))


def track_of(clip_path: Path, class_id: int, layer: str = LAYER) -> int:
    """The number of the car's or the person's track."""
    boxes_world = Clip.open(clip_path).layer(layer).boxes_world[0]
    return int(boxes_world.track_id[boxes_world.class_id == class_id][0])


def human_boxes(clip_path: Path, frame: int, class_id: int) -> Boxes:
    """What the human layer says."""
    boxes_world = Clip.open(clip_path).layer("human").boxes_world[frame]
    return boxes_world.select(boxes_world.class_id == class_id)


def test_a_round_without_changes_loses_nothing_bit_for_bit(clip_path, package):
    assert import_corrections(Import(package, (clip_path,))) == 0
    before, after = (clip_path / "layers" / name / "boxes.parquet" for name in (LAYER, "human"))
    assert before.read_bytes() == after.read_bytes()
    (result,) = import_package(package, [clip_path])
    assert set(result.counts.values()) == {0}
    assert result.notes == []


def test_two_decimals_as_cvat_keeps_them_are_no_correction(clip_path, package):
    def rounded(items):
        for item in items:
            for a in item["annotations"]:
                for key in ("position", "rotation", "scale"):
                    a[key] = [round(v, 2) for v in a[key]]

    change_cuboids(package, rounded)
    import_package(package, [clip_path])
    assert (clip_path / "layers/human/boxes.parquet").read_bytes() == (clip_path / "layers" / LAYER / "boxes.parquet").read_bytes()


def test_a_moved_cuboid_moves_the_box_in_the_world_and_is_vouched_for(clip_path, package):
    car = track_of(clip_path, CAR)

    def move(items):
        a = annotation(items, 2, car)
        a["position"][0] += 1.0
        a["rotation"] = [0.0, 0.0, a["rotation"][2] + 0.5]

    before = Clip.open(clip_path).layer(LAYER).boxes_world[2]
    before = before.select(before.class_id == CAR).box[0]
    change_cuboids(package, move)
    (result,) = import_package(package, [clip_path])
    assert result.counts["moved"] == 1
    after = human_boxes(clip_path, 2, CAR)
    ego_yaw = 0.05 * 1.0  # the ego vehicle of the tiny clip turns 0.05 rad/s; frame 2 is at 1 s
    assert after.box[0, :2] - before[:2] == pytest.approx([np.cos(ego_yaw), np.sin(ego_yaw)], abs=1e-6)
    assert after.box[0, 3:6].tolist() == before[3:6].tolist()
    assert after.box[0, 6] - before[6] == pytest.approx(0.5, abs=1e-9)
    assert (after.score[0], after.ignore[0], after.provenance[0]) == (1.0, False, "human")
    assert after.within[0].tolist() == [1.0, 1.0, 1.0]
    velocity = [human_boxes(clip_path, frame, CAR).box[0, 7] for frame in range(4)]
    places = [human_boxes(clip_path, frame, CAR).box[0, 0] for frame in range(4)]
    assert velocity[2] == pytest.approx((places[3] - places[1]) / 1.0)
    assert velocity[1] == pytest.approx((places[2] - places[0]) / 1.0)


def test_deleted_reclassed_and_judged(clip_path, package):
    car, person = track_of(clip_path, CAR), track_of(clip_path, PERSON)

    def judge(items):
        items[0]["annotations"] = [a for a in items[0]["annotations"] if a["attributes"]["surround_track"] != str(person)]
        annotation(items, 1, person)["attributes"]["verdict"] = "wrong"
        annotation(items, 2, person)["attributes"]["verdict"] = "ignore"
        annotation(items, 3, car)["label_id"] = 1
        annotation(items, 3, car)["attributes"]["verdict"] = "track_right"

    change_cuboids(package, judge)
    (result,) = import_package(package, [clip_path])
    assert result.counts == {"moved": 0, "removed": 2, "confirmed": 4, "ignored": 1, "reclassed": 1, "added": 0}
    assert [len(human_boxes(clip_path, frame, PERSON)) for frame in range(4)] == [0, 0, 1, 1]
    assert human_boxes(clip_path, 2, PERSON).ignore[0]
    trucks = [human_boxes(clip_path, frame, 1) for frame in range(4)]
    assert [boxes.score[0] for boxes in trucks] == [1.0] * 4
    assert {int(boxes.track_id[0]) for boxes in trucks} == {car}


def test_what_was_drawn_becomes_new_tracks_once_however_often_it_is_imported(clip_path, package):
    def draw(items):
        for frame, x in ((0, 10.0), (1, 11.0)):
            new = json.loads(json.dumps(annotation(items, 0, track_of(clip_path, CAR))))
            new["attributes"]["surround_track"], new["position"] = "bus a", [x, 5.0, 1.0]
            items[frame]["annotations"].append({**new, "label_id": 2})

    change_cuboids(package, draw)
    for _ in range(2):
        (result,) = import_package(package, [clip_path])
        assert result.counts["added"] == 2
        buses = [human_boxes(clip_path, frame, 2) for frame in (0, 1)]
        assert [len(boxes) for boxes in buses] == [1, 1]
        assert buses[0].track_id[0] == buses[1].track_id[0] == 2
        assert buses[0].box[0, :3] == pytest.approx([10, 5, 1])


def test_a_package_imported_again_replaces_what_it_said_before(clip_path, package):
    person = track_of(clip_path, PERSON)

    def judge(verdict):
        return lambda items: annotation(items, 1, person)["attributes"].update(verdict=verdict)

    change_cuboids(package, judge("track_wrong"))
    for _ in range(2):
        (result,) = import_package(package, [clip_path])
        assert result.notes == [] and result.counts["removed"] == 4
        assert all(len(human_boxes(clip_path, frame, PERSON)) == 0 for frame in range(4))
    change_cuboids(package, judge("unseen"))  # the reviewer takes it back
    import_package(package, [clip_path])
    assert all(len(human_boxes(clip_path, frame, PERSON)) == 1 for frame in range(4))


def test_a_second_review_of_the_human_layer_knows_its_tracks(clip_path, package, tmp_path):
    car, person = track_of(clip_path, CAR), track_of(clip_path, PERSON)
    change_cuboids(package, lambda items: annotation(items, 1, person)["attributes"].update(verdict="track_wrong"))
    import_package(package, [clip_path])
    assert export_queue(Export((clip_path,), "human", tmp_path / "second")) == 0
    change_cuboids(tmp_path / "second", lambda items: annotation(items, 2, car)["attributes"].update(verdict="right"))
    for again in (tmp_path / "second", tmp_path / "second", package):
        (result,) = import_package(again, [clip_path])
        assert result.notes == []
        assert human_boxes(clip_path, 2, CAR).score[0] == 1.0 and len(human_boxes(clip_path, 2, PERSON)) == 0


def test_pictures_carry_verdicts_and_classes_but_no_places(clip_path, package):
    path = packed(package) / "pictures_annotations.xml"
    root, person = ElementTree.parse(path).getroot(), str(track_of(clip_path, PERSON))
    boxes = [box for box in root.iter("box") if box.find("attribute[@name='surround_track']").text == person]
    assert boxes
    boxes[0].set("label", "bicycle")
    boxes[0].set("xtl", "1.00")
    boxes[0].find("attribute[@name='verdict']").text = "track_right"
    path.write_bytes(ElementTree.tostring(root))
    (result,) = import_package(package, [clip_path])
    assert result.counts["reclassed"] == 1
    assert result.counts["confirmed"] == 4
    assert "1 rectangle(s) were moved" in result.notes[0]
    assert [len(human_boxes(clip_path, frame, 7)) for frame in range(4)] == [1] * 4


def test_corrections_for_a_track_that_no_longer_exists_are_one_sentence_and_the_rest_goes_on(clip_path, package):
    car, person = track_of(clip_path, CAR), track_of(clip_path, PERSON)

    def judge(items):
        annotation(items, 1, person)["attributes"]["verdict"] = "wrong"
        annotation(items, 1, car)["attributes"]["verdict"] = "right"

    change_cuboids(package, judge)
    layer = Clip.open(clip_path).layer(LAYER)
    renumbered = {
        frame: Boxes.make(b.box[b.class_id == CAR], b.class_id[b.class_id == CAR], [17], [0.4]) for frame, b in layer.boxes_world.items()
    }
    write_layer(clip_path, LabelLayer(LAYER, renumbered), replace=True)
    (result,) = import_package(package, [clip_path])
    assert result.failure == ""
    assert "not the version that was exported" in result.notes[0]
    assert f"track {person} no longer exists in layer '{LAYER}'; its 1 correction(s) are left out" in result.notes[1]
    assert human_boxes(clip_path, 1, CAR).score[0] == 1.0
    assert human_boxes(clip_path, 1, CAR).track_id[0] == 17
    assert human_boxes(clip_path, 0, CAR).score[0] == 0.4


def test_another_clip_or_a_broken_file_fails_alone(clip_path, tmp_path):
    clips = [Path(shutil.copytree(clip_path, tmp_path / "clips" / name)) for name in "abc"]
    for path in clips:
        header = json.loads((path / "clip.json").read_text())
        (path / "clip.json").write_text(json.dumps({**header, "name": path.name}))
    assert export_queue(Export((tmp_path / "clips",), LAYER, tmp_path / "pkg")) == 0
    folders = [entry["folder"] for entry in json.loads((tmp_path / "pkg/review.json").read_text())["clips"]]
    (tmp_path / "pkg" / folders[0] / "cloud_annotations.zip").write_bytes(b"PK\x03\x04 broken")
    shutil.rmtree(clips[1])
    results = import_package(tmp_path / "pkg", [tmp_path / "clips"])
    assert "not readable as Datumaro 3D annotations" in results[0].failure
    assert "expected its clip 'b' below" in results[1].failure
    assert results[2].failure == ""
    assert import_corrections(Import(tmp_path / "pkg", (tmp_path / "clips",))) == 2


def test_copies_of_a_clip_are_not_taken_for_it(clip_path, package, tmp_path):
    backup = shutil.copytree(clip_path, tmp_path / "backup" / clip_path.name)
    (result,) = import_package(package, [clip_path, backup])
    assert "once, got the copies" in result.failure and str(backup) in result.failure
    assert not any("human" in Clip.open(path).layer_names for path in (clip_path, backup))
    (result,) = import_package(package, [clip_path, backup.rename(tmp_path / "another_name")])
    assert result.failure == "" and "human" in Clip.open(clip_path).layer_names


def test_the_human_layer_outranks_the_reviewed_one_and_a_foreign_one_is_left_alone(clip_path, package):
    clip = Clip.open(clip_path)
    assert first_layer(clip, ["human", LAYER]).name == LAYER
    import_package(package, [clip_path])
    assert first_layer(clip, ["human", LAYER]).name == "human"
    write_layer(clip_path, LabelLayer("human", {0: Boxes.empty()}), replace=True)
    (result,) = import_package(package, [clip_path])
    assert "was not written by `surround4d review`" in result.failure


def test_the_queue_puts_the_unsure_the_rare_the_near_and_the_disputed_first(tiny_clip):
    def layer(rows) -> LabelLayer:
        boxes = Boxes.make([[x, y, 0, 4, 2, 1, 0, 0, 0] for x, y, *_ in rows], [r[2] for r in rows], range(len(rows)), [r[3] for r in rows])
        return LabelLayer(LAYER, {0: boxes})

    sure_near, unsure_near, unsure_far, rare = (2, 0, CAR, 0.9), (4, 0, CAR, 0.5), (4, 30, CAR, 0.5), (5, 0, 2, 0.5)
    labels = layer([sure_near, unsure_near, unsure_far, rare])
    queue = ranked_queue(clip_entries(tiny_clip, labels, None), budget=2, audit=0.5, seed=3)
    assert [entry.track_id for entry in queue] == [3, 1, 0, 2]
    assert [entry.why for entry in queue[:2]] == ["ranked", "ranked"]
    assert sorted(entry.why for entry in queue[2:]) == ["", "audit"]
    assert queue == ranked_queue(clip_entries(tiny_clip, labels, None), budget=2, audit=0.5, seed=3)
    assert queue[0].rare == pytest.approx(np.sqrt(3))
    assert queue[2].unsure == pytest.approx(4 * 0.9 * 0.1)
    sees = LabelLayer("model@m", {0: Boxes.make([[4.5, 0, 0, 4, 2, 1, 0, 0, 0]], [1])})
    assert [e.disagreement for e in clip_entries(tiny_clip, labels, sees)] == [2.0, 1.0, 2.0, 1.0]
    also = LabelLayer("model@m", {0: Boxes.make([[4.5, 0, 0, 4, 2, 1, 0, 0, 0], [20, 9, 0, 4, 2, 1, 0, 0, 0]], [1, 0], [7, 8], [0.9, 0.6])})
    assert [e.track_id for e in clip_entries(tiny_clip, labels, also) if e.suggested] == [8]
    assert share_unseen(np.array([0]), labels.boxes_world[0].select([0]), LabelLayer("model@m")) == 0.0


def test_what_the_model_sees_and_the_labels_lack_is_suggested_and_needs_a_yes(clip_path, tmp_path):
    place = [[-12.0, 4.0, 0.8, 4, 2, 1.6, 0, 0, 0]]
    seen = {frame: Boxes.make(place, [CAR], [3], [0.8]) for frame in (1, 2)}
    write_layer(clip_path, LabelLayer("model@deployed", seen))
    assert export_queue(Export((clip_path,), LAYER, tmp_path / "pkg", model="model@deployed")) == 0
    import_package(tmp_path / "pkg", [clip_path])
    assert (clip_path / "layers/human/boxes.parquet").read_bytes() == (clip_path / "layers" / LAYER / "boxes.parquet").read_bytes()

    def agree(items):
        for item in items:
            for a in item["annotations"]:
                if a["attributes"]["surround_track"] == "model 3":
                    a["attributes"]["verdict"] = "right"

    change_cuboids(tmp_path / "pkg", agree)
    (result,) = import_package(tmp_path / "pkg", [clip_path])
    assert result.counts["added"] == 2
    human = Clip.open(clip_path).layer("human")
    new = human.boxes_world[1].select(human.boxes_world[1].track_id == 2)
    assert new.box[0, :3] == pytest.approx(place[0][:3])


def test_what_is_packed_is_what_cvat_reads(package):
    folder = packed(package)
    with zipfile.ZipFile(folder / "cloud.zip") as archive:
        names = archive.namelist()
        header, _, data = archive.read("pointcloud/000000.pcd").partition(b"DATA binary\n")
    assert "related_images/000000_pcd/front.jpg" in names
    count = int(header.decode().split("POINTS ")[1].split()[0])
    assert len(data) == 16 * count > 0
    root = ElementTree.parse(folder / "pictures_annotations.xml").getroot()
    with zipfile.ZipFile(folder / "pictures.zip") as archive:
        assert [image.get("name") for image in root.iter("image")] == archive.namelist()
    assert "left/000002.jpg" not in [image.get("name") for image in root.iter("image")]  # that camera is dead in frame 2
    queue = json.loads((package / "queue.json").read_text())["tracks"]
    assert [row["why"] for row in queue] == ["ranked", "ranked"]
    assert {label["name"] for label in json.loads((package / "labels.json").read_text())} >= {"car", "pedestrian"}


def test_frames_have_their_names_and_their_places_in_the_task(tmp_path):
    write_cuboids(tmp_path / "a.zip", [], [3, 7])
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        items = json.loads(archive.read(SUBSET))["items"]
    assert [(item["id"], item["attr"]["frame"]) for item in items] == [("000003", 0), ("000007", 1)]


def test_a_pcd_holds_the_points_by_hand():
    data = pcd_bytes(np.array([[1.0, 2.0, 3.0]]), np.array([[255, 0, 16]], dtype=np.uint8)).partition(b"DATA binary\n")[2]
    assert np.frombuffer(data, "<f4")[:3].tolist() == [1, 2, 3]
    assert np.frombuffer(data, "<u4")[3] == 0xFF0010


def test_nonsense_is_refused(clip_path, tmp_path):
    with pytest.raises(ConfigError, match="audit"):
        export_queue(Export((clip_path,), LAYER, tmp_path / "x", audit=2.0))
    with pytest.raises(DataError, match="no label layer"):
        export_queue(Export((clip_path,), "auto@none", tmp_path / "x"))
    with pytest.raises(DataError, match=r"review\.json: missing"):
        import_package(tmp_path, [clip_path])
