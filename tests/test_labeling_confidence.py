"""Are the labels' probabilities what they say, and do they reach the layer?"""

import json
from dataclasses import replace

import numpy as np
import pytest

from fusion.grid import BevGrid
from labeling.clip_labels import label_clip
from labeling.confidence.features import FEATURES, GROUP_NAMES, BoxRows, box_rows
from labeling.confidence.fit import checked, main, redrawn
from labeling.confidence.model import CentreModel, fitted_model
from labeling.confidence.stage import confidence_path
from labeling.confidence.truth import calibration_error, distances_to_truth
from labeling.layer_stage import label_boxes
from labeling.settings import LabelSettings
from labeling.track_stage import arrays_of_tracks
from labeling.tracks.settings import TrackingSettings
from labeling.tracks.tracking import TrackLabels
from perception.augmentation import SceneChange
from scenes.boxes import Boxes
from scenes.clips import Clip
from scenes.errors import ConfigError, DataError
from scenes.layers import LabelLayer, read_layer, write_layer
from training.targets import split_boxes

VEHICLES, PEDESTRIANS = GROUP_NAMES.index("vehicles"), GROUP_NAMES.index("pedestrians")
NOTHING = [0.0] * (1 + len(FEATURES))


def rows_at(places, group=VEHICLES, frame=0, features=None) -> BoxRows:
    """Boxes of one frame at x, y places."""
    box = np.zeros((len(places), 9))
    box[:, :2], box[:, 3:6] = places, (4, 2, 1.5)
    count = len(box)
    features = np.zeros((count, len(FEATURES))) if features is None else features
    class_id = np.full(count, 5 if group == PEDESTRIANS else 0)
    return BoxRows(np.full(count, frame), box, class_id, np.full(count, group), np.hypot(*box[:, :2].T), features)


def test_the_chain_multiplies_and_nearer_is_never_likelier():
    model = CentreModel({"all": [NOTHING, NOTHING, [np.log(3), *NOTHING[1:]]]})
    assert model.within(rows_at([(1, 0)])) == pytest.approx(np.array([[0.5 * 0.5 * 0.75, 0.25, 0.5]]))


def test_distances_are_one_to_one_within_a_kind_and_nan_where_the_truth_is_hidden():
    truth = Boxes.make(
        [[10, 0, 0, 4, 2, 1, 0, 0, 0], [20, 0, 0, 4, 2, 1, 0, 0, 0], [30, 0, 0, 1, 1, 2, 0, 0, 0]], [1, 0, 5], visibility=[1, 0.01, 1]
    )
    rows = rows_at([(10.3, 0.4), (10, 1.5), (20.5, 0), (30, 0.2), (50, 0)])
    assert distances_to_truth(rows, LabelLayer("truth", {0: truth})) == pytest.approx([0.5, np.inf, np.nan, np.inf, np.inf], nan_ok=True)
    people = distances_to_truth(rows_at([(30, 0.2)], PEDESTRIANS), LabelLayer("truth", {0: truth}))
    assert people == pytest.approx([0.2])
    assert np.isnan(distances_to_truth(rows_at([(0, 0)], frame=7), LabelLayer("truth", {0: truth}))).all()


def test_calibration_error_by_hand():
    probability, is_right = np.array([0.9, 0.9, 0.9, 0.9, 0.1, 0.1]), np.array([1, 1, 1, 0, 0, 0])
    assert calibration_error(probability, is_right) == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0)))


def test_fitted_probabilities_are_true_of_boxes_that_were_not_fitted():
    generator = np.random.default_rng(0)

    def clip() -> tuple[BoxRows, np.ndarray]:
        odds = generator.normal(0, 2, 4000)
        features = np.zeros((4000, len(FEATURES)))
        features[:, 0] = odds
        is_object = generator.random(4000) < 1 / (1 + np.exp(-odds))
        distance_m = np.where(is_object, generator.exponential(0.8, 4000), np.inf)
        return rows_at(np.zeros((4000, 2)), features=features), np.where(distance_m < 2, distance_m, np.inf)

    rows, distance_m = clip()
    model = fitted_model([rows], [distance_m])
    rows, distance_m = clip()
    figures = checked(model, [rows], [distance_m], least=0.15)
    assert max(figures["vehicles"]["errors"]) < 0.03
    assert figures["pedestrians"]["boxes"] == 0
    assert model.weights["pedestrians"] == model.weights["all"]
    raw = CentreModel({"all": [[2.0, *NOTHING[1:]]] * 3})
    assert min(checked(raw, [rows], [distance_m], least=0.15)["vehicles"]["errors"]) > 0.1


def test_a_model_reads_the_features_that_it_names():
    features = np.zeros((1, len(FEATURES)))
    features[0, FEATURES.index("looks")] = np.log(3)
    model = CentreModel({"all": [[0.0, 1.0]] * 3}, features=("looks",))
    assert model.within(rows_at([(1, 0)], features=features)) == pytest.approx(np.array([[0.75**3, 0.75**2, 0.75]]))


def test_the_tracks_own_probability_may_stand_for_the_widest_distance():
    features = np.zeros((1, len(FEATURES)))
    features[0, :3] = np.log(4), 1.0, 1.0
    model = CentreModel({"all": [[0.3] * (1 + len(FEATURES)), NOTHING, NOTHING]}).with_own_widest()
    assert model.within(rows_at([(1, 0)], features=features)) == pytest.approx(np.array([[0.2, 0.4, 0.8]]))


def test_clips_drawn_anew_show_what_a_few_clips_are_worth():
    model = CentreModel({"all": [[0.0] * (1 + len(FEATURES))] * 3})  # says 0.5 within 2 m everywhere
    rows, distances = [rows_at([(1, 0)] * 4)] * 2, [np.zeros(4), np.full(4, np.inf)]  # one clip all right, one all wrong
    few, many = (redrawn(model, rows, distances, 0.15, clips)[:, 2] for clips in (1, 1000))
    assert few == pytest.approx(0.5)
    assert many.max() < 0.1


def test_weights_survive_their_file_and_others_are_refused(tmp_path):
    model = CentreModel({"all": [NOTHING, [0.25, *NOTHING[1:]], NOTHING]}, {"clips": 3})
    model.save(tmp_path / "w.json")
    assert CentreModel.load(tmp_path / "w.json") == model
    few = CentreModel({"all": [[0.5, 1.0]] * 3}, features=("odds",))
    few.save(tmp_path / "few.json")
    assert CentreModel.load(tmp_path / "few.json") == few
    for other in ({"weights": {}}, {"schema_version": 1, "features": ["luck"], "weights": {"all": [[0.0, 0.0]] * 3}}):
        (tmp_path / "other.json").write_text(json.dumps(other))
        with pytest.raises(DataError, match="fit them again"):
            CentreModel.load(tmp_path / "other.json")
    with pytest.raises(ConfigError, match="expected one of"):
        CentreModel.shipped("no_such")
    assert CentreModel.shipped("teacher").within(rows_at([(5, 5)])).shape == (1, 3)


def test_a_cold_start_s_own_probability_within_2_m_stays_as_it_is(tmp_path):
    settings = LabelSettings("auto@c", detector=tmp_path / "yolox.onnx")
    features = np.zeros((1, len(FEATURES)))
    features[0, :5] = np.log(4), np.log(4), 1.0, 3.0, 1.7
    within = CentreModel.load(confidence_path(settings)).within(rows_at([(30, 0)], features=features))
    assert within[0, 2] == pytest.approx(0.8)
    assert confidence_path(LabelSettings("auto@c", detector=tmp_path / "y.onnx", teacher=tmp_path / "t.pt")).stem == "teacher"
    assert confidence_path(LabelSettings("auto@c", boxes2d=tmp_path / "drawn.json")).stem == "cold_people"
    both = LabelSettings("auto@c", boxes2d=tmp_path / "drawn.json", detector=tmp_path / "y.onnx")
    assert confidence_path(both).stem == "cold_start"  # a detector's rectangles are in it: those of people are better


def test_rows_know_range_and_provenance(tiny_clip):
    car = np.array([[10.0, 0, 0, 4, 2, 1.5, 0, 6, 8], [15.0, 0, 0, 4, 2, 1.5, 0, 6, 8]])
    words = np.array(["measured", "extrapolated"], dtype=object)
    track = TrackLabels(np.array([0, 2]), car, 3, 0.5, np.array([0.5, 0.8]), words, False, spread_m=np.array([[2.0, 0.5], [np.nan, 0.001]]))
    rows = box_rows(tiny_clip, arrays_of_tracks([track]))
    features = dict(zip(FEATURES, rows.features.T, strict=True))
    assert rows.range_m == pytest.approx([10, np.hypot(15 - 5, 0.2)])
    assert features["odds"] == pytest.approx([0, np.log(4)])
    assert features["track"] == pytest.approx([0, 0])
    assert features["speed"] == pytest.approx([1, 1])
    assert features["extrapolated"].tolist() == [0, 1]
    assert features["seen"].tolist() == [0.25, 0.25]  # of the four frames within 2 s it was detected in one
    assert features["spread"] == pytest.approx([np.log(2), 0])  # unknown counts as a metre
    assert features["across"] == pytest.approx([np.log(0.5), np.log(0.03)])  # nobody knows places to a millimetre
    assert features["looks"] == pytest.approx(np.log1p([0.5, 0.5]))  # detected in one frame of half a second
    assert features["standing"].tolist() == [0, 0]
    assert features["rival"].tolist() == [0, 0]
    assert features["pace"] == pytest.approx([0.5, 0.5], abs=0.01)  # the clip's ego vehicle drives at 5 m/s
    assert rows.group.tolist() == [VEHICLES, VEHICLES]


def test_a_surer_box_of_its_kind_nearby_is_a_rival(tiny_clip):
    def alone(x, class_id, frame, probability):
        box, word = np.array([[x, 0.0, 0, 4, 2, 1.5, 0, 0, 0]]), np.array(["measured"], dtype=object)
        return TrackLabels(np.array([frame]), box, class_id, probability, np.array([probability]), word, True)

    cars = [alone(10, 0, 0, 0.9), alone(12.5, 1, 0, 0.4), alone(12.5, 5, 0, 0.8), alone(10, 0, 1, 0.7)]  # two cars, a pedestrian, later
    rows = box_rows(tiny_clip, arrays_of_tracks(cars))
    assert rows.features[:, FEATURES.index("rival")] == pytest.approx([0.4 * np.exp(-0.5), 0.9 * np.exp(-0.5), 0, 0])


def test_each_label_says_how_sure_it_is_and_where_it_came_from(tiny_clip_path):
    label_clip(tiny_clip_path, LabelSettings("auto@c", evidence="truth", pictures=False))
    layer = Clip.open(tiny_clip_path).layer("auto@c")
    boxes = Boxes.concatenate(list(layer.boxes_world.values()))
    assert np.isfinite(boxes.within).all()
    assert (np.diff(boxes.within, axis=1) >= 0).all()
    assert (boxes.score == boxes.within[:, 2]).all()
    assert set(boxes.evidence) == {"truth"}
    assert set(boxes.provenance) == {"measured"}
    car = layer.boxes_world[0].select(layer.boxes_world[0].class_id == 0)
    assert car.cameras.tolist() == ["front+front_fisheye"]
    assert layer.meta["confidence"] == "teacher.json"
    assert set(layer.meta["stage_hashes"]) >= {"evidence", "tracks", "confidence"}


def test_labels_between_sure_and_unsure_are_neither_objects_nor_background_for_training(tiny_clip):
    box = np.array([[10.0, y, 0, 4, 2, 1.5, 0, 0, 0] for y in (-6, 0, 6)])
    tracks = [
        TrackLabels(np.array([0]), box[k : k + 1], 0, 0.5, np.array([0.5]), np.array(["measured"], dtype=object), False) for k in range(3)
    ]
    within = np.array([[0.0, 0.05, 0.1], [0.1, 0.2, 0.3], [0.3, 0.6, 0.9]])
    boxes_world = label_boxes(tiny_clip, arrays_of_tracks(tracks), within, TrackingSettings())[0]
    assert boxes_world.box[:, 1].tolist() == [0, 6]
    targets, ignored = split_boxes(boxes_world, SceneChange(np.eye(4)), BevGrid(), 0.1, 6)
    assert targets.box[:, 1].tolist() == [6]
    assert ignored[:, 1].tolist() == [0]


def test_layers_without_probabilities_read_as_unknown_and_their_files_stay_as_they_were(tiny_clip_path, tmp_path):
    truth = Clip.open(tiny_clip_path).layer("truth")
    assert np.isnan(truth.boxes_world[0].within).all()
    assert truth.boxes_world[0].cameras.tolist() == ["", ""]
    copy = write_layer(tmp_path, replace(truth, name="human"))
    assert (copy / "boxes.parquet").read_bytes() == (tiny_clip_path / "layers/truth/boxes.parquet").read_bytes()


def test_impossible_probabilities_are_refused_with_their_row(tmp_path):
    boxes = Boxes.make([[10, 0, 0, 4, 2, 1, 0, 0, 0]] * 2, [0, 0], within=[[0.1, 0.2, 0.3], [0.1, 0.2, 1.3]])
    path = write_layer(tmp_path, LabelLayer("auto@x", {0: boxes}))
    with pytest.raises(DataError, match="row 1: expected probabilities"):
        read_layer(path)


@pytest.mark.parametrize(("folders", "reason"), [(["nowhere"], "nowhere: expected a folder of clips"), ([], "expected folders of")])
def test_fitting_on_nothing_is_one_sentence_and_status_2(folders, reason, capsys):
    with pytest.raises(SystemExit) as ended:
        main(folders)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith(f"labeling.confidence.fit: {reason}") and said.count("\n") == 1
