"""Are boxes measured right? Detection metrics and their splits on cases worked out by hand."""

import json

import numpy as np
import pytest

from evaluation.breakdown import in_range, match_group
from evaluation.compare import CompareSettings, compare_layers
from evaluation.detection import DetectionSettings, countable_truth, nuscenes_metrics
from evaluation.matching import FALSE_POSITIVE, IGNORED, BoxTable, heading_error_rad, match_greedily
from scenes.atomic import write_json
from scenes.boxes import CLASS_NAMES, Boxes
from scenes.clips import Clip
from scenes.errors import ConfigError, DataError
from scenes.layers import LabelLayer, write_layer
from surround4d import main

CAR, TRUCK, PEDESTRIAN = CLASS_NAMES.index("car"), CLASS_NAMES.index("truck"), CLASS_NAMES.index("pedestrian")


def boxes(*centers, class_id=CAR, **columns) -> Boxes:
    """Cars of 4 x 2 x 1.5 m at (x, y), standing, heading along x."""
    rows = [[x, y, 0.75, 4, 2, 1.5, 0, 0, 0] for x, y in centers]
    return Boxes.make(np.array(rows).reshape(-1, 9), np.full(len(rows), class_id), **columns)


def row(truth: Boxes, pred: Boxes, threshold_m: float = 2.0) -> list[int]:
    """What each prediction of one frame matched."""
    return match_greedily(BoxTable.of([pred]), BoxTable.of([truth]), threshold_m).tolist()


def test_the_surer_prediction_takes_the_nearest_free_truth():
    truth = boxes((0, 0), (3, 0))
    assert row(truth, boxes((1.4, 0), (1.6, 0), score=[0.5, 0.9])) == [0, 1]
    assert row(truth, boxes((0.2, 0), (0.1, 0), score=[0.9, 0.5])) == [0, FALSE_POSITIVE]


def test_of_equal_scores_the_later_row_comes_first():
    assert row(boxes((0, 0)), boxes((0.1, 0), (0.2, 0), score=[0.5, 0.5])) == [FALSE_POSITIVE, 0]


def test_a_distance_equal_to_the_threshold_is_no_match():
    assert row(boxes((0, 0)), boxes((2, 0), score=[1])) == [FALSE_POSITIVE]


def test_frames_do_not_meet():
    pred, truth = BoxTable.of([boxes((0, 0)), boxes()]), BoxTable.of([boxes(), boxes((0, 0))])
    assert match_greedily(pred, truth, 4.0).tolist() == [FALSE_POSITIVE]


def test_ignored_truth_absorbs_any_number_but_real_truth_comes_first():
    truth = boxes((0, 0), (1, 0), ignore=[True, False])
    assert row(truth, boxes((0.1, 0), (0, 0), (0.3, 0), (8, 0), score=[0.9, 0.8, 0.7, 0.6])) == [1, IGNORED, IGNORED, FALSE_POSITIVE]


def test_perfect_predictions_score_one():
    truth = [boxes((10, 0), (20, 5)), boxes((12, 0), class_id=PEDESTRIAN)]
    metrics = nuscenes_metrics(truth, truth)
    assert metrics.mean_ap_present == pytest.approx(1)
    assert metrics.nds_without_attributes == pytest.approx(1)
    assert metrics.mean_ap == pytest.approx(0.2)  # eight of ten classes have no truth
    assert set(metrics.present) == {"car", "pedestrian"}


def test_average_precision_by_hand():
    """Two cars, predictions right, wrong, right: precision 1 up to recall 0.5, then 2/3 at recall 1, straight in between.

    The interpolated precision at recall r in [0.5, 1] goes from 1/2 (the last row at recall 0.5) to 2/3.
    """
    metrics = nuscenes_metrics([boxes((10, 0), (30, 0), (20, 0), score=[0.9, 0.8, 0.7])], [boxes((10, 0), (20, 0))])
    recalls = np.linspace(0, 1, 101)[11:]
    precision = np.where(recalls < 0.5, 1.0, 0.5 + (recalls - 0.5) / 0.5 * (2 / 3 - 0.5))
    expected = np.maximum(precision - 0.1, 0).mean() / 0.9
    assert metrics.classes["car"].ap[2.0] == pytest.approx(expected, abs=1e-3)


def test_duplicates_and_false_alarms_by_hand():
    recalls = np.linspace(0, 1, 101)[11:]
    truth = [boxes((10, 0))]
    after = nuscenes_metrics([boxes((10, 0), (10.1, 0), score=[0.9, 0.8])], truth).classes["car"]
    assert after.mean_ap == pytest.approx((89 * 0.9 + 0.4) / 90 / 0.9)  # the duplicate counts at recall 1 only
    before = nuscenes_metrics([boxes((30, 0), (10, 0), score=[0.9, 0.8])], truth).classes["car"]
    assert before.mean_ap == pytest.approx(np.maximum(0.5 * recalls - 0.1, 0).mean() / 0.9)  # precision 0 at recall 0, 0.5 at 1


@pytest.mark.parametrize(
    ("pred", "truth"), [([boxes()], [boxes((10, 0))]), ([boxes((10, 0))], [boxes()]), ([boxes()], [boxes()]), ([], [])]
)
def test_empty_predictions_or_truth_score_nothing(pred, truth):
    metrics = nuscenes_metrics(pred, truth)
    assert metrics.mean_ap == 0
    assert metrics.nds == 0
    assert metrics.errors["ate"] == 1


def test_errors_by_hand():
    truth = boxes((10, 0))
    pred = boxes((10.3, 0.4))
    pred.box[0, 3:9] = [2, 2, 1.5, np.pi / 2, 3, 4]
    errors = nuscenes_metrics([pred], [truth]).classes["car"].errors
    assert errors["ate"] == pytest.approx(0.5)
    assert errors["ase"] == pytest.approx(0.5)  # half the length, the rest the same
    assert errors["aoe"] == pytest.approx(np.pi / 2)
    assert errors["ave"] == pytest.approx(5)
    assert errors["aae"] == 1  # no attributes


def test_classes_without_some_errors_and_barriers_without_front():
    barrier, cone = CLASS_NAMES.index("barrier"), CLASS_NAMES.index("traffic_cone")
    truth = Boxes.concatenate([boxes((10, 0), class_id=barrier), boxes((10, 5), class_id=cone)])
    pred = Boxes.concatenate([boxes((10, 0), class_id=barrier), boxes((10, 5), class_id=cone)])
    pred.box[:, 6] = np.pi - 0.2
    classes = nuscenes_metrics([pred], [truth]).classes
    assert classes["barrier"].errors["aoe"] == pytest.approx(0.2)
    assert np.isnan(classes["barrier"].errors["ave"])
    assert np.isnan(classes["traffic_cone"].errors["aoe"])


def test_unknown_velocities_are_left_out():
    truth = boxes((10, 0), (20, 0))
    truth.box[0, 7:9] = np.nan
    pred = boxes((10, 0), (20, 0), score=[0.9, 0.8])
    pred.box[1, 7] = 2.0
    unknown_first = nuscenes_metrics([pred], [truth]).classes["car"].errors["ave"]
    assert 0 < unknown_first <= 2
    truth.box[1, 7:9] = np.nan
    assert nuscenes_metrics([pred], [truth]).classes["car"].errors["ave"] == 1


def test_range_and_points_cut_as_in_the_devkit():
    truth = boxes((49, 0), (51, 0), (20, 0), num_points=[5, 5, 0])
    assert nuscenes_metrics([boxes()], [truth]).classes["car"].num_truth == 1
    near = nuscenes_metrics([boxes()], [truth], DetectionSettings(class_range_m={"car": 100}))
    assert near.classes["car"].num_truth == 2


def test_truth_that_no_camera_sees_is_ignored_not_dropped():
    truth = boxes((10, 0), (20, 0), (30, 0), visibility=[0, np.nan, 0.5], num_points=[0, 0, 9])
    kept = countable_truth(BoxTable.of([truth]), 1e-3)
    assert kept.boxes.box[:, 0].tolist() == [10, 30]
    assert kept.boxes.ignore.tolist() == [True, False]
    metrics = nuscenes_metrics([boxes((10, 0), (30, 0), score=[0.9, 0.8])], [truth])
    assert metrics.classes["car"].mean_ap == pytest.approx(1)


def test_attributes_where_there_are_any():
    def attribute_error(pred_name, truth_name):
        names = [np.array([pred_name], dtype=object)], [np.array([truth_name], dtype=object)]
        return nuscenes_metrics([boxes((10, 0))], [boxes((10, 0))], None, *names).classes["car"].errors["aae"]

    assert attribute_error("vehicle.moving", "vehicle.moving") == 0
    assert attribute_error("vehicle.moving", "vehicle.parked") == 1
    assert attribute_error("vehicle.moving", "") == 1  # unknown throughout


def test_heading_wraps():
    a, b = boxes((0, 0)), boxes((0, 0))
    a.box[0, 6], b.box[0, 6] = np.pi - 0.1, -np.pi + 0.1
    assert heading_error_rad(a, b)[0] == pytest.approx(0.2)


def test_moving_everything_changes_nothing():
    generator = np.random.default_rng(3)
    truth = [boxes(*generator.uniform(-20, 20, (9, 2))) for _ in range(6)]
    pred = [boxes(*(t.box[:, :2] + generator.normal(0, 1, (9, 2))), score=generator.uniform(size=9)) for t in truth]
    turned = np.eye(4)
    turned[:2, :2] = [[0, -1], [1, 0]]
    one = nuscenes_metrics(pred, truth)
    other = nuscenes_metrics([p.transform(turned) for p in pred], [t.transform(turned) for t in truth])
    assert one.mean_ap == pytest.approx(other.mean_ap)
    assert one.nds == pytest.approx(other.nds)


def test_settings_refuse_nonsense():
    with pytest.raises(ConfigError, match="spaceship"):
        DetectionSettings(class_range_m={"spaceship": 50})
    with pytest.raises(ConfigError, match="expected positive distances"):
        DetectionSettings(thresholds_m=(0.5, 1.0))


# Splits ---------------------------------------------------------------------------------------------------------------


def test_vehicles_are_one_class_and_a_pair_astride_a_border_is_no_error():
    truth = Boxes.concatenate([boxes((29.5, 0)), boxes((31, 8), class_id=TRUCK)])
    pred = Boxes.concatenate([boxes((30.5, 0), class_id=TRUCK, score=[0.9]), boxes((29.9, 8), class_id=CAR, score=[0.8])])
    settings = DetectionSettings()
    matched = match_group(BoxTable.of([pred]), BoxTable.of([truth]), "vehicle", settings)
    near = in_range(matched, 0, 30)
    assert near.num_truth == 1
    assert near.ap[2.0] == pytest.approx(1)
    assert near.ap[0.5] == 0
    assert in_range(matched, 0, 50).recall == 1
    of_cars = match_group(BoxTable.of([pred]), BoxTable.of([truth]), "all", settings)
    assert in_range(of_cars, 0, 50).recall == 0


def test_best_f1_and_velocity_of_moving_vehicles():
    truth, pred = boxes((10, 0), (20, 0), (25, 10)), boxes((10, 0), (20, 0), (40, 0), (25, 10), score=[0.9, 0.8, 0.7, 0.1])
    truth.box[:, 7] = [5, 0.5, 3]  # the middle one stands
    pred.box[:, 7] = [6, 9, 9, 3]
    result = in_range(match_group(BoxTable.of([pred]), BoxTable.of([truth]), "vehicle", DetectionSettings()), 0, 50)
    assert (result.best_f1, result.best_f1_score) == (pytest.approx(6 / 7), pytest.approx(0.1))  # 3 of 3 found, 1 false
    assert result.num_moving == 2
    assert result.velocity_error_mps == pytest.approx(0.5)


# Layer against layer --------------------------------------------------------------------------------------------------


def test_a_layer_against_itself_is_perfect(tiny_clip, tmp_path):
    truth = tiny_clip.layer("truth")
    report = compare_layers([(tiny_clip, truth, truth)])
    assert report.detection.mean_ap_present == pytest.approx(1)
    assert report.vehicles["30 m"].mean_ap == pytest.approx(1)
    assert report.vehicles["30 m"].num_moving == 4
    assert report.tracking is not None and report.tracking.groups["car"].amota == pytest.approx(1)
    assert report.tracking.groups["vehicle"].hota.hota == pytest.approx(1)
    assert report.occupancy is not None and report.occupancy.ray_iou == pytest.approx(1)
    assert report.visibility["60-80 % seen"]["pedestrian"].recall == 1
    write_json(tmp_path / "report.json", report.to_json())
    assert json.loads((tmp_path / "report.json").read_text())["vehicles"]["30 m"]["ap"]["0.5"] == pytest.approx(1)


def test_only_frames_that_both_layers_label_count(tiny_clip):
    truth = tiny_clip.layer("truth")
    some = LabelLayer("model@x", {1: truth.boxes_world[1], 2: Boxes.empty()})
    report = compare_layers([(tiny_clip, some, truth)], CompareSettings(occupancy=False))
    assert (report.num_frames, report.num_frames_without_prediction) == (2, 2)
    assert report.vehicles["30 m"].recall == pytest.approx(0.5)
    with pytest.raises(DataError, match="model@y against truth"):
        compare_layers([(tiny_clip, LabelLayer("model@y"), truth)])


def test_eval_prints_a_table_and_writes_json(tiny_clip_path, tmp_path, capsys):
    truth = Clip.open(tiny_clip_path).layer("truth")
    write_layer(tiny_clip_path, LabelLayer("auto@t", {i: b.select([0]) for i, b in truth.boxes_world.items()}))
    target = tmp_path / "out" / "eval.json"
    assert main(["eval", "auto@t", "--data", str(tiny_clip_path), "--json", str(target), "--range-m", "60"]) == 0
    printed = capsys.readouterr().out
    assert "auto@t against truth: 4 frames of 1 clip" in printed
    assert "vehicles as one class" in printed
    values = json.loads(target.read_text())
    assert values["detection"]["classes"]["car"]["mean_ap"] == pytest.approx(1)
    assert values["detection"]["classes"]["pedestrian"]["mean_ap"] == 0
    assert values["tracking"]["groups"]["car"]["identity"]["idf1"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["auto@nobody"], "auto@nobody"),
        (["truth", "--against", "human"], "no label layer 'human'"),
        (["truth", "--range-m", "0"], "--range-m"),
    ],
)
def test_eval_refuses_in_a_sentence(tiny_clip_path, tmp_path, capsys, arguments, expected):
    target = tmp_path / "eval.json"
    assert main(["eval", *arguments, "--data", str(tiny_clip_path), "--json", str(target)]) == 2
    assert expected in capsys.readouterr().err
    assert not target.exists()


def test_a_bad_clip_fails_alone(tiny_clip_path, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "clip.json").write_text("{")
    assert main(["eval", "truth", "--data", str(tiny_clip_path), str(tmp_path / "bad"), "--json", str(tmp_path / "e.json")]) == 2
    assert "bad" in capsys.readouterr().err
    assert json.loads((tmp_path / "e.json").read_text())["num_clips"] == 1
