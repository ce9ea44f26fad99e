"""Do rectangles become objects in space where geometry says they are? Answers worked out by hand, then whole clips."""

import json

import numpy as np
import pytest

from labeling.lifting.bodies import BLOCK_BODY, bodies_of
from labeling.lifting.clearance import intrusion
from labeling.lifting.explaining import Scene, explain, stand_as_any, velocity_std
from labeling.lifting.fitting import P, linearise, outline_points, predicted_edges
from labeling.lifting.image_boxes import ImageBoxes, single_boxes
from labeling.lifting.judging import near_probability, score_for
from labeling.lifting.lift import road_direction
from labeling.lifting.linking import link_boxes
from labeling.lifting.observations import Observations, hidden_edges, observe, pixels_of
from labeling.lifting.people_boxes import outranked, people_boxes, read_drawn
from labeling.lifting.road import fit_road
from labeling.lifting.settings import JudgeSettings, LiftingSettings, ReprojectionSettings, RoadSettings
from labeling.tracks.settings import ConfidenceSettings
from scenes.boxes import CLASS_NAMES
from scenes.cameras import Camera, Lens
from scenes.clips import Clip, View, write_clip
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, Trajectory, rigid_from_parts
from scenes.rigs import Rig, ego_from_cam_looking

CAR, TRUCK, PEDESTRIAN, BICYCLE = (CLASS_NAMES.index(name) for name in ("car", "truck", "pedestrian", "bicycle"))
NOTHING = np.zeros((0, 3))


def ahead_camera(width_px: int = 1000, height_px: int = 600) -> Camera:
    """Focal length 500, looking forward from 1.5 m above the rear axle, principal point (500, 300)."""
    ego_from_cam = ego_from_cam_looking((0.0, 0.0, 1.5), 0.0)
    return Camera("front", Lens.PINHOLE, 500.0, 500.0, 500.0, 300.0, width_px, height_px, ego_from_cam)


def drive(path_m: np.ndarray, tmp_path, camera: Camera | None = None) -> Clip:
    """A clip of one camera at 10 Hz whose ego vehicle is at the points (T, 3), looking along world x."""
    stamps = np.arange(len(path_m), dtype=np.int64) * (NS_PER_S // 10)
    poses = rigid_from_parts(np.broadcast_to(np.eye(3), (len(path_m), 3, 3)), path_m)
    trajectory = Trajectory(stamps, poses)
    with write_clip(tmp_path / "drive", "drive", Rig((camera or ahead_camera(),)), trajectory, {}) as writer:
        for index, stamp in enumerate(stamps.tolist()):
            writer.add_frame(stamp, poses[index], [View("front", stamp, poses[index], f"images/front/{index:06d}.jpg")])
    return Clip.open(tmp_path / "drive")


def image_boxes(frame: list[int], box: np.ndarray, class_id: int = CAR, score: float = 0.8) -> ImageBoxes:
    """Rectangles (N, 4) of camera 0."""
    num = len(frame)
    box = np.asarray(box, dtype=np.float64).reshape(num, 4)
    camera = np.zeros(num, dtype=np.int64)
    return ImageBoxes(np.array(frame), camera, box, np.full(num, class_id), np.full(num, score), np.full(num, "test"))


def flat_scene(clip: Clip, boxes: ImageBoxes) -> Scene:
    """The scene of a clip on a flat road."""
    settings, poses = LiftingSettings(), np.stack([frame.world_from_ego for frame in clip.frames])
    time_s = np.array([frame.timestamp_ns for frame in clip.frames]) / NS_PER_S
    road = fit_road(poses, NOTHING, np.zeros(0), settings.road)
    return Scene(observe(clip, boxes, settings.reprojection), time_s, poses, road, road_direction(poses), settings)


def seen_as(clip: Clip, body: np.ndarray, class_id: int) -> ImageBoxes:
    """What a perfect detector says of bodies (T, 7), one a frame."""
    scene = flat_scene(clip, image_boxes(list(range(len(body))), np.tile([0, 0, 1, 1], (len(body), 1)), class_id))
    points = outline_points(body, bodies_of(np.full(len(body), class_id)), scene.road)
    return image_boxes(list(range(len(body))), predicted_edges(scene.observations, points)[0], class_id)


def test_a_block_ahead_projects_where_hand_calculation_says(tmp_path):
    clip = drive(np.array([[0.0, 0, 0], [0.01, 0, 0]]), tmp_path)
    scene = flat_scene(clip, image_boxes([0], np.array([0, 0, 10, 10]), TRUCK))
    # 4 x 2 x 2 m, its middle 12 m ahead. Sides at y = 1 where x = 12 - 0.46 * 4 = 10.16: 500 / 10.16 = 49.2 px from the middle.
    # Wheels at x = 12 - 0.32 * 4 = 10.72: 1.5 m below the camera is 500 * 1.5 / 10.72 = 69.96 px below the horizon (row 300).
    # Roof at x = 12 - 0.45 * 4 = 10.2: 0.5 m above the camera is 24.5 px above it.
    body = np.array([[12.0, 0.0, 0.0, 0.0, *np.log([4.0, 2.0, 2.0])]])
    edges, _ = predicted_edges(scene.observations, outline_points(body, BLOCK_BODY[None], scene.road))
    np.testing.assert_allclose(edges[0], [500 - 49.213, 300 - 24.510, 500 + 49.213, 300 + 69.963], atol=2e-3)


def test_slopes_of_edges_agree_with_finite_differences(tmp_path):
    clip = drive(np.array([[0.0, 0, 0], [0.1, 0, 0]]), tmp_path)
    scene = flat_scene(clip, image_boxes([0], np.array([400, 250, 600, 380])))
    body, unit = np.array([[13.0, 1.0, 0.4, 0.05, *np.log([4.6, 1.9, 1.6])]]), bodies_of(np.array([CAR]))
    here = linearise(scene.observations, body, unit, scene.road, np.ones(1), 0.05)
    for k in range(7):
        moved = body.copy()
        moved[0, k] += 1e-4
        there = linearise(scene.observations, moved, unit, scene.road, np.ones(1), 0.05)
        np.testing.assert_allclose(here.slope[0, :, k], (there.error - here.error)[0] / 1e-4, rtol=2e-2, atol=2e-2)


def test_a_parked_car_is_found_again_from_its_rectangles(tmp_path):
    clip = drive(np.stack([np.arange(20) * 0.4, np.zeros(20), np.zeros(20)], axis=1), tmp_path)
    body = np.tile([20.0, 4.0, 0.1, 0.0, *np.log([4.4, 1.8, 1.5])], (20, 1))
    boxes = seen_as(clip, body, CAR)
    scene = flat_scene(clip, boxes)
    fit, class_id = stand_as_any(scene, [np.arange(20)])
    found = explain(scene, np.arange(20), int(class_id[0]), fit, 0)
    assert found.is_static and found.class_id == CAR
    np.testing.assert_allclose(found.box_world[0, :2], [20.0, 4.0], atol=0.4)
    np.testing.assert_allclose(found.box_world[0, 3:6], [4.4, 1.8, 1.5], atol=0.2)
    assert abs(np.sin(found.box_world[0, 6] - 0.1)) < 0.1
    assert found.misfit < 0.5


def test_an_oncoming_car_drives_and_keeps_its_speed(tmp_path):
    clip = drive(np.zeros((20, 3)) + np.arange(20)[:, None] * [0.1, 0, 0], tmp_path)
    body = np.stack([[40.0 - 0.8 * k, 3.5, np.pi, 0.0, *np.log([4.6, 1.87, 1.6])] for k in range(20)])
    scene = flat_scene(clip, seen_as(clip, body, CAR))
    fit, class_id = stand_as_any(scene, [np.arange(20)])
    found = explain(scene, np.arange(20), int(class_id[0]), fit, 0)
    assert not found.is_static
    assert np.abs(found.box_world[:, :2] - body[:, :2]).max() < 0.4
    np.testing.assert_allclose(found.box_world[10, 7:9], [-8.0, 0.0], atol=0.3)
    assert abs(abs(found.box_world[10, 6]) - np.pi) < np.deg2rad(5)


def test_a_person_who_crosses_the_road_walks_although_each_place_is_vague(tmp_path):
    # 12 frames at 10 Hz seem too few for 1.4 m/s: 1.54 m between ends that are each known to a metre. But no standing person fills them.
    clip = drive(np.zeros((12, 3)) + np.arange(12)[:, None] * [0.5, 0, 0], tmp_path)
    body = np.stack([[22.0, 3.0 - 0.14 * k, -np.pi / 2, 0.0, *np.log([0.7, 0.7, 1.72])] for k in range(12)])
    scene = flat_scene(clip, seen_as(clip, body, PEDESTRIAN))
    fit, class_id = stand_as_any(scene, [np.arange(12)])
    assert fit.misfit[0] > scene.settings.motion.refuted_misfit
    found = explain(scene, np.arange(12), int(class_id[0]), fit, 0)
    assert not found.is_static
    np.testing.assert_allclose(found.box_world[6, 7:9], [0.0, -1.4], atol=0.35)
    assert 0.5 <= found.velocity_std_mps < 3.0


def test_velocities_are_known_as_well_as_both_ends_over_the_time_between():
    ends = np.stack([np.diag([1.0, 3.0]), np.diag([2.0, 2.0])])  # 8 m2 over both axes and ends: 4 an axis, 2 m
    assert velocity_std(ends, 1.6) == pytest.approx(2.0 / 1.6)
    assert velocity_std(ends, 20.0) == 0.5  # the floor


def test_a_cut_off_edge_says_that_the_object_reaches_the_border_and_no_more(tmp_path):
    clip = drive(np.array([[0.0, 0, 0], [0.1, 0, 0]]), tmp_path)
    cut = observe(clip, image_boxes([0], np.array([-0.5, 250, 200, 400])), ReprojectionSettings())
    assert cut.is_cut.tolist() == [[True, False, False, False]]
    body = np.array([[8.0, 7.0, 0.0, 0.0, *np.log([4.6, 1.9, 1.6])]])
    scene = flat_scene(clip, image_boxes([0], np.array([-0.5, 250, 200, 400])))
    linear = linearise(cut, body, bodies_of(np.array([CAR])), scene.road, np.ones(1), 0.05)
    assert linear.error[0, 0] == 0.0 and not linear.slope[0, 0].any()


def test_what_lies_behind_a_lens_stays_out_on_its_own_side():
    fisheye = Camera("round", Lens.FISHEYE, 100.0, 100.0, 100.0, 75.0, 200, 150, np.eye(4), (-0.02, -0.02))
    straight = Camera("straight", Lens.PINHOLE, 100.0, 100.0, 100.0, 75.0, 200, 150, np.eye(4), (-0.3, 0.1))
    behind = np.array([[-3.0, 0.0, -3.0], [3.0, 0.0, -3.0]])  # left and right of the axis, behind the camera
    # At 2.356 rad the fisheye's polynomial has folded back to 2.356 (1 - 0.111 - 0.616) = 0.64: column 36, in the middle of the picture.
    np.testing.assert_allclose(fisheye.project(behind)[0][0, 0], 36.0, atol=1.0)
    for camera in (fisheye, straight):
        left, right = pixels_of(camera, behind)[:, 0]
        assert left < -0.5 and right > 199.5, camera.name


def test_edges_behind_something_nearer_are_hidden():
    boxes = image_boxes([0, 0], np.array([[100, 100, 200, 160], [180, 90, 320, 220]]))
    # The second reaches lower, so it is nearer: it hides the right edge of the first. Its own edges are free.
    assert hidden_edges(boxes).tolist() == [[False, False, True, False], [False] * 4]


def test_the_road_goes_through_the_wheels_and_bends_to_where_others_stand():
    poses = rigid_from_parts(np.broadcast_to(np.eye(3), (10, 3, 3)), np.arange(10)[:, None] * np.array([1.0, 0.0, 0.0]))
    flat = fit_road(poses, NOTHING, np.zeros(0), RoadSettings())
    np.testing.assert_allclose(flat.height(np.array([[5.0, 0.0], [5.0, 20.0]])), 0.0, atol=1e-3)
    assert flat.spread(np.array([[5.0, 0.0]]))[0] < 0.1 < flat.spread(np.array([[5.0, 20.0]]))[0]
    beside = np.array([[x, y, 0.04 * y] for x in (-10.0, 5.0, 20.0) for y in (-15.0, 15.0)])
    tilted = fit_road(poses, beside, np.full(6, 0.1), RoadSettings())
    np.testing.assert_allclose(tilted.height(np.array([[5.0, 15.0], [5.0, -15.0]])), [0.6, -0.6], atol=0.1)
    np.testing.assert_allclose(tilted.slope_at(np.array([[5.0, 10.0]]))[0, 1], 0.04, atol=0.01)


def test_nothing_stands_where_the_ego_vehicle_is():
    ego_from_world = np.eye(4)[None]
    beside, within = np.array([[1.0, 2.5, 0.0]]), np.array([[1.0, 1.5, 0.0]])
    size = np.array([[4.6, 1.9]])
    assert intrusion(beside, size, ego_from_world, JudgeSettings())[0] == 0.0
    # Its near side is at 1.5 - 0.95 = 0.55, the ego vehicle's at 0.95: 0.4 m deep.
    np.testing.assert_allclose(intrusion(within, size, ego_from_world, JudgeSettings()), [0.4])


def test_rectangles_are_linked_through_a_miss_and_a_crossing(tmp_path):
    clip = drive(np.stack([np.arange(8) * 0.1, np.zeros(8), np.zeros(8)], axis=1), tmp_path)
    rows = [(k, [100 + 30 * k, 200, 180 + 30 * k, 260]) for k in range(8) if k != 3]
    rows += [(k, [340 - 30 * k, 210, 400 - 30 * k, 300]) for k in range(8)]
    rows.sort(key=lambda row: row[0])
    boxes = image_boxes([frame for frame, _ in rows], np.array([box for _, box in rows]))
    chains = link_boxes(clip, boxes, LiftingSettings().linking)
    heights = [sorted({float(h) for h in np.diff(boxes.box_xyxy_px[chain][:, 1::2])[:, 0]}) for chain in chains]
    assert sorted((len(chain), h) for chain, h in zip(chains, heights, strict=True)) == [(7, [60.0]), (8, [90.0])]


def test_one_rectangle_an_object_and_riders_belong_to_what_they_ride():
    car = image_boxes([0, 0, 0], np.array([[0, 0, 100, 50], [4, 2, 98, 52], [10, 10, 40, 40]]), CAR)
    car = ImageBoxes(car.frame, car.camera, car.box_xyxy_px, np.array([CAR, TRUCK, CAR]), np.array([0.9, 0.5, 0.3]), car.source)
    ride = image_boxes([0], np.array([200, 40, 240, 80]), BICYCLE)
    person = image_boxes([0, 0], np.array([[205, 10, 230, 70], [300, 10, 325, 70]]), PEDESTRIAN)
    left = single_boxes(ImageBoxes.concatenate([car, ride, person]))
    assert left.class_id.tolist() == [CAR, BICYCLE, PEDESTRIAN]
    assert left.box_xyxy_px[1].tolist() == [200, 10, 240, 80] and left.box_xyxy_px[2, 0] == 300


def test_people_draw_in_coco_and_cvat_and_outrank_the_detector(tmp_path):
    clip = drive(np.stack([np.arange(3) * 0.1, np.zeros(3), np.zeros(3)], axis=1), tmp_path)
    coco = {
        "images": [
            {"id": 1, "file_name": "drive/images/front/000001.jpg", "width": 2000, "height": 1200},
            {"id": 2, "file_name": "other_clip/images/front/000002.jpg"},
        ],
        "annotations": [
            {"image_id": 1, "category_id": 3, "bbox": [100, 200, 40, 60]},
            {"image_id": 1, "category_id": 9, "bbox": [1, 1, 5, 5]},
            {"image_id": 2, "category_id": 3, "bbox": [1, 1, 5, 5]},
        ],
        "categories": [{"id": 3, "name": "Car"}, {"id": 9, "name": "tree"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    drawn, looked_at, foreign = people_boxes(clip, tmp_path / "boxes.json")
    assert foreign == {"tree": 1}  # named, not swallowed
    assert looked_at.tolist() == [[1, 0]] and drawn.class_id.tolist() == [CAR] and drawn.source[0] == "human:boxes.json"
    # Drawn at twice the size; the corner of the first pixel is (-0.5, -0.5) here and (0, 0) there.
    np.testing.assert_allclose(drawn.box_xyxy_px, [[49.5, 99.5, 69.5, 129.5]])
    found = ImageBoxes.concatenate(
        [image_boxes([1, 2], np.array([[0, 0, 9, 9], [0, 0, 9, 9]])), image_boxes([1], np.array([0, 0, 9, 9]), PEDESTRIAN)]
    )
    both = outranked(found, drawn, looked_at)
    assert sorted(zip(both.frame.tolist(), both.class_id.tolist(), both.source.tolist(), strict=True)) == [
        (1, CAR, "human:boxes.json"),
        (1, PEDESTRIAN, "test"),
        (2, CAR, "test"),
    ]
    (tmp_path / "boxes.xml").write_text(
        '<annotations><image id="0" name="front/000002.jpg" width="1000" height="600">'
        '<box label="person" xtl="10" ytl="20" xbr="30" ybr="80" occluded="0"/></image></annotations>'
    )
    drawn, looked_at, foreign = people_boxes(clip, tmp_path / "boxes.xml")
    assert not foreign
    assert looked_at.tolist() == [[2, 0]] and drawn.class_id.tolist() == [PEDESTRIAN]
    np.testing.assert_allclose(drawn.box_xyxy_px, [[9.5, 19.5, 29.5, 79.5]])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", "{}", "lists images, annotations and categories"),
        ("a.json", '{"images": [{"id": 1}], "annotations": [], "categories": []}', "incomplete"),
        ("a.xml", "<annotations></annotations>", "expected CVAT's <annotations>"),
        ("a.xml", "<annotations", "not readable as CVAT's XML"),
        (
            "a.xml",
            '<annotations><image name="x.jpg"><box label="car" xtl="9" ytl="1" xbr="3" ybr="4"/></image></annotations>',
            "picture 'x.jpg', box 0: expected left < right",
        ),
        (
            "a.json",
            '{"images": [{"id": 1, "file_name": "x.jpg"}], "categories": [{"id": 2, "name": "car"}], '
            '"annotations": [{"image_id": 1, "category_id": 2, "bbox": [1, 1, 5, 5], "score": 87}]}',
            "picture 'x.jpg', box 0: expected a score between 0 and 1, got 87",
        ),
    ],
)
def test_broken_files_of_people_are_refused_in_words(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=reason):
        read_drawn(tmp_path / name)


def test_probabilities_of_places_and_scores():
    # One metre of deviation on both axes: within 2 m by 1 - exp(-2) = 0.865; the square of equal area says 0.854.
    np.testing.assert_allclose(near_probability(np.eye(2)[None]), [0.865], atol=0.02)
    assert near_probability(100 * np.eye(2)[None])[0] < 0.03 and near_probability(0.01 * np.eye(2)[None])[0] > 0.999
    confidence = ConfidenceSettings()
    score = score_for(np.array([0.7]), confidence)
    weight = confidence.local_weight + confidence.side_weight + confidence.own_weight + confidence.best_weight
    odds = confidence.bias + weight * np.log(score / (1 - score))
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), [0.7], atol=1e-6)


def test_observations_of_no_rectangles_are_empty(tmp_path):
    clip = drive(np.array([[0.0, 0, 0], [0.1, 0, 0]]), tmp_path)
    nothing = observe(clip, ImageBoxes.empty(), ReprojectionSettings())
    assert isinstance(nothing, Observations) and len(nothing) == 0
    assert link_boxes(clip, ImageBoxes.empty(), LiftingSettings().linking) == []
    assert P.HEIGHT == 6
