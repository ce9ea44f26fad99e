"""Does a labeling job go from people's rectangles, or a detector, to labels, and say in one sentence what is wrong with its input?"""

import json
from pathlib import Path

import numpy as np
import pytest

from labeling.clip_labels import label_clip
from labeling.job import label_one
from labeling.lifting.bodies import bodies_of
from labeling.lifting.clearance import few_poses
from labeling.lifting.fitting import outline_points, predicted_edges
from labeling.lifting.image_boxes import ImageBoxes, read_image_boxes, write_image_boxes
from labeling.lifting.linking_in_space import link_in_space
from labeling.lifting.observations import observe
from labeling.lifting.road import fit_road
from labeling.lifting.settings import LiftingSettings
from labeling.mixing import joined_sources
from labeling.settings import LabelSettings
from labeling.tracks.evidence import Evidence
from labeling.tracks.settings import TrackingSettings
from scenes.boxes import CLASS_NAMES
from scenes.clips import Clip, View, write_clip
from scenes.geometry import NS_PER_S
from tests.conftest import TINY_CAR_WORLD_AT_START, tiny_rig, tiny_trajectory
from tests.test_labeling_lifting import NOTHING, ahead_camera, drive, flat_scene, image_boxes, seen_as

CAR = CLASS_NAMES.index("car")


def three_cameras(path: Path) -> Clip:
    """The tiny clip's drive at 640x480, without its pictures: nobody looks at them here."""
    rig, trajectory = tiny_rig(640, 480), tiny_trajectory()
    with write_clip(path, path.name, rig, trajectory, {}) as writer:
        for index in range(5):
            stamp = index * NS_PER_S // 2
            stamps = [(camera.name, stamp + k * 20_000_000) for k, camera in zip((-1, 0, 1), rig.cameras, strict=True)]
            views = [View(name, at, trajectory.at(at), f"images/{name}/{index:06d}.jpg") for name, at in stamps]
            writer.add_frame(stamp, trajectory.at(stamp), views)
    return Clip.open(path)


def perfect_boxes(clip: Clip) -> ImageBoxes:
    """The tiny clip's car (4 m/s along world x) in every picture that holds it whole."""
    frame = np.repeat(np.arange(len(clip)), len(clip.rig.names))
    camera = np.tile(np.arange(len(clip.rig.names)), len(clip))
    alive = np.array([clip.frames[f].views[clip.rig.names[c]].alive for f, c in zip(frame, camera, strict=True)])
    frame, camera = frame[alive], camera[alive]
    num = len(frame)
    nothing = ImageBoxes(frame, camera, np.tile([0.0, 0, 1, 1], (num, 1)), np.full(num, CAR), np.ones(num), np.full(num, "x"))
    observations = observe(clip, nothing, LiftingSettings().reprojection)
    seconds = 0.5 * frame + observations.offset_s
    start_x, start_y = TINY_CAR_WORLD_AT_START
    body = np.array([[start_x + 4.0 * s, start_y, 0.0, 0.0, *np.log([4.5, 1.9, 1.6])] for s in seconds])
    road = fit_road(np.stack([f.world_from_ego for f in clip.frames]), NOTHING, np.zeros(0), LiftingSettings().road)
    edges, _ = predicted_edges(observations, outline_points(body, bodies_of(nothing.class_id), road))
    whole = (edges[:, :2] > 1).all(axis=1) & (edges[:, 2:] < observations.limits_px() - 1).all(axis=1)
    boxes = ImageBoxes(frame, camera, edges, nothing.class_id, nothing.score, nothing.source)
    return boxes.select(whole & (np.ptp(edges[:, ::2], axis=1) > 1))


def write_coco(clip: Clip, boxes: ImageBoxes, path: Path) -> Path:
    """Rectangles as a COCO file with this clip's picture names."""
    images = [{"id": k, "file_name": clip.frames[f].views[n].image} for k, (f, n) in enumerate(_pictures(clip))]
    number = {place: k for k, place in enumerate(_pictures(clip))}
    annotations = [
        {
            "image_id": number[f, clip.rig.names[c]],
            "category_id": 0,
            "bbox": [*(box[:2] + 0.5).tolist(), *(box[2:] - box[:2]).tolist()],
        }
        for f, c, box in zip(boxes.frame.tolist(), boxes.camera.tolist(), boxes.box_xyxy_px, strict=True)
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "car"}]}))
    return path


def _pictures(clip: Clip) -> list[tuple[int, str]]:
    return [(frame.index, name) for frame in clip.frames for name, view in frame.views.items() if view.alive]


def test_people_draw_a_car_and_it_becomes_a_moving_label(tmp_path):
    clip = three_cameras(tmp_path / "three")
    drawn = perfect_boxes(clip)
    assert {"front", "front_fisheye"} == {clip.rig.names[c] for c in np.unique(drawn.camera)}
    settings = LabelSettings("auto@cold", boxes2d=write_coco(clip, drawn, tmp_path / "drawn.json"), pictures=False)
    results = label_clip(clip.path, settings)
    assert {"boxes2d", "lifting", "tracks", "layer"} <= {result.name for result in results}
    layer = Clip.open(clip.path).layer("auto@cold")
    box = layer.boxes_world[2]
    near = np.argmin(np.hypot(*(box.box[:, :2] - [19.0, 2.0]).T))
    assert np.hypot(*(box.box[near, :2] - [19.0, 2.0])) < 0.7  # 15 m + 4 m/s after one second
    np.testing.assert_allclose(box.box[near, 7:9], [4.0, 0.0], atol=0.5)
    assert all(result.reused for result in label_clip(clip.path, settings) if result.name in ("boxes2d", "lifting"))


def test_a_clip_in_which_nothing_is_drawn_gets_an_empty_layer(tmp_path):
    clip = three_cameras(tmp_path / "three")
    settings = LabelSettings("auto@cold", boxes2d=write_coco(clip, ImageBoxes.empty(), tmp_path / "drawn.json"), pictures=False)
    label_clip(clip.path, settings)
    assert all(len(boxes) == 0 for boxes in Clip.open(clip.path).layer("auto@cold").boxes_world.values())


def test_rectangles_of_classes_that_are_not_ours_are_named(tmp_path):
    clip = three_cameras(tmp_path / "three")
    drawn = write_coco(clip, perfect_boxes(clip), tmp_path / "drawn.json")
    content = json.loads(drawn.read_text())
    drawn.write_text(json.dumps({**content, "categories": [{"id": 0, "name": "vehicle"}]}))
    count = len(content["annotations"])
    (note,) = label_one(clip.path, LabelSettings("auto@cold", boxes2d=drawn, pictures=False)).notes
    assert f"{count} of {count} rectangles" in note and "not ours ('vehicle')" in note


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"images": [{"id": 0, "file_name": "elsewhere.jpg"}], "annotations": [], "categories": []}, "no picture of it is one of"),
        ({"images": []}, "expected the lists images, annotations and categories"),
    ],
)
def test_a_file_of_other_pictures_fails_the_clip_in_one_sentence(tiny_clip_path, tmp_path, content, reason):
    (tmp_path / "drawn.json").write_text(json.dumps(content))
    outcome = label_one(tiny_clip_path, LabelSettings("auto@cold", boxes2d=tmp_path / "drawn.json", pictures=False))
    assert reason in outcome.failure and "\n" not in outcome.failure


def test_a_file_that_is_no_detector_fails_the_clip_in_one_sentence(tiny_clip_path, tmp_path):
    (tmp_path / "detector.onnx").write_text("not a network")
    outcome = label_one(tiny_clip_path, LabelSettings("auto@cold", detector=tmp_path / "detector.onnx", pictures=False))
    assert "detector.onnx" in outcome.failure and "not readable as an ONNX model" in outcome.failure
    missing = label_one(tiny_clip_path, LabelSettings("auto@cold", detector=tmp_path / "none.onnx", pictures=False))
    assert "none.onnx" in missing.failure and "an error of ours" not in missing.failure


def test_pictures_half_a_second_apart_are_linked_in_space(tmp_path):
    clip = drive(np.zeros((6, 3)) + np.arange(6)[:, None] * [0.1, 0, 0], tmp_path, ahead_camera())
    # 10 m/s towards the camera at half a second: rectangles jump by their own width, places in space by 5 m.
    body = np.stack([[45.0 - 5.0 * k, -6.0, np.pi, 0.0, *np.log([4.6, 1.87, 1.6])] for k in range(6)])
    boxes = seen_as(clip, body, CAR)
    scene = flat_scene(clip, image_boxes(list(range(6)), boxes.box_xyxy_px))
    chains = link_in_space(scene, np.arange(6, dtype=np.int64) * 500_000_000)
    assert [chain.tolist() for chain in chains] == [[0, 1, 2, 3, 4, 5]]


def test_rectangles_come_back_from_their_file_unchanged(tmp_path):
    boxes = image_boxes([0, 2], np.array([[1.5, 2, 3, 4], [5, 6, 7, 8]]))
    write_image_boxes(tmp_path / "boxes.npz", boxes)
    again = read_image_boxes(tmp_path / "boxes.npz")
    for name in ("frame", "camera", "box_xyxy_px", "class_id", "score", "source"):
        np.testing.assert_array_equal(getattr(again, name), getattr(boxes, name))


def test_two_sources_see_one_car_and_it_is_known_better():
    car = [10.0, 0.0, 0.8, 4.5, 1.9, 1.6, 0.1, np.nan, np.nan]
    moved = [11.0, 0.0, 0.8, 4.5, 1.9, 1.6, 0.1 + np.pi, np.nan, np.nan]
    far = [30.0, 5.0, 0.8, 4.5, 1.9, 1.6, 0.0, np.nan, np.nan]
    evidence = Evidence(
        np.array([0, 100_000_000]),
        np.broadcast_to(np.eye(4), (2, 4, 4)).copy(),
        np.zeros(3, dtype=np.int64),
        np.array([car, moved, far]),
        np.zeros(3, dtype=np.int64),
        np.array([0.8, 0.5, 0.4]),
        np.stack([np.eye(2), np.eye(2), np.eye(2)]),
        np.array([2.0, 0.5, np.nan]),
        np.array(["lifted", "teacher", "teacher"], dtype=object),
    )
    joined = joined_sources(evidence, TrackingSettings())
    assert joined.source is not None and joined.covariance is not None
    assert joined.source.tolist() == ["lifted+teacher", "teacher"]
    # Equal covariances: the middle, with half the variance; not both wrong: 1 - 0.2 * 0.5.
    np.testing.assert_allclose(joined.box_world[0, :2], [10.5, 0.0])
    np.testing.assert_allclose(joined.covariance[0], np.eye(2) / 2)
    np.testing.assert_allclose(joined.score, [0.9, 0.4])
    np.testing.assert_array_equal(joined.velocity_std_mps, [2.0, np.nan])  # the velocity is the stronger one's
    np.testing.assert_allclose(joined.box_world[0, 6], 0.1)
    alone = joined_sources(evidence.select(np.array([1, 2])), TrackingSettings())
    assert len(alone) == 2


def test_few_poses_are_taken_of_a_long_path():
    poses = np.broadcast_to(np.eye(4), (500, 4, 4))
    assert few_poses(poses).shape == (20, 4, 4) and few_poses(poses[:3]).shape == (3, 4, 4)
