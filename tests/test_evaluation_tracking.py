"""Are tracks measured right? CLEAR MOT, AMOTA, IDF1 and HOTA on cases worked out by hand."""

import numpy as np
import pytest

from evaluation.clear_mot import clear_mot
from evaluation.hota import ALPHAS, hota, identity
from evaluation.iou import iou_3d, iou_bev
from evaluation.kitti import KittiSequence, count, measure, recall_thresholds, track_events
from evaluation.tracking import TrackingSettings, tracking_metrics
from evaluation.tracks import TrackedClip, TrackedFrame, TrackedSequence, assign, fill_gaps, tracked_sequences, with_track_scores
from scenes.boxes import Boxes
from scenes.errors import DataError
from scenes.readers.kitti import KittiRows, read_kitti_rows

FAR = 99.0


def frame(truth: list[int], pred: list[int], cost, score=None) -> TrackedFrame:
    """One frame of ids and their distances."""
    cost = np.array(cost, dtype=float).reshape(len(truth), len(pred))
    return TrackedFrame(
        np.array(truth, dtype=int), np.array(pred, dtype=int), np.ones(len(pred)) if score is None else np.array(score), cost
    )


def followed_by(*pred_ids: int | None) -> list[TrackedSequence]:
    """One true track at 2 Hz and which track lies on it (cost 0.5) in each frame; None: nothing there."""
    frames = [frame([7], [] if p is None else [p], [] if p is None else [[0.5]]) for p in pred_ids]
    return [TrackedSequence(frames, 0.5)]


def test_switches_gaps_and_fragments_by_hand():
    result = clear_mot(followed_by(None, 1, 1, None, None, 1, 2, None, 2, 2), 2.0)
    assert (result.num_truth, result.num_matches, result.num_switches, result.num_misses) == (10, 5, 1, 4)
    assert result.num_fragmentations == 2
    assert result.initialisation_s == pytest.approx(0.5)
    assert result.longest_gap_s == pytest.approx(1.0)
    assert result.mota == pytest.approx(1 - 5 / 10)
    assert result.motp == pytest.approx(0.5)
    assert result.recall == pytest.approx(0.6)
    assert (result.mostly_tracked, result.mostly_lost) == (0, 0)
    # MOTAR: (4 misses + 1 switch - (1 - 0.5) * 10) / (0.5 * 10) = 0
    assert result.motar == pytest.approx(1)


def test_a_track_is_kept_although_another_is_nearer():
    frames = [frame([1], [5], [[0.1]]), frame([1], [5, 6], [[1.9, 0.1]]), frame([1], [5, 6], [[2.1, 0.1]])]
    result = clear_mot([TrackedSequence(frames, 0.5)], 2.0)
    assert (result.num_matches, result.num_switches, result.num_false_positives) == (2, 1, 2)


def test_a_gate_is_open_and_sequences_add_up():
    touching = [TrackedSequence([frame([1], [1], [[2.0]])], 0.5)]
    assert clear_mot(touching, 2.0).num_misses == 1
    two = [*followed_by(1, 1), TrackedSequence([frame([8], [9], [[0.5]])], 0.5)]
    assert clear_mot(two, 2.0).num_tracks == 2
    assert clear_mot(two, 2.0).mota == 1


def test_nothing_to_measure():
    empty = clear_mot([TrackedSequence([frame([], [], [])], 0.5)], 2.0)
    assert np.isnan(empty.mota) and np.isnan(empty.recall) and empty.num_truth == 0
    assert np.isnan(hota([TrackedSequence([frame([], [], [])], 0.5)], 2.0).hota)
    only_false = [TrackedSequence([frame([], [3], [])], 0.5)]
    assert clear_mot(only_false, 2.0).num_false_positives == 1
    assert hota(only_false, 2.0).hota == 0
    assert identity(only_false, 2.0).idf1 == 0


def test_the_assignment_takes_as_many_pairs_as_it_can():
    cost = np.array([[0.1, 1.0], [1.0, FAR]])
    rows, columns = assign(cost, cost < 2)
    assert dict(zip(rows.tolist(), columns.tolist(), strict=True)) == {0: 1, 1: 0}


def test_identity_by_hand():
    """Six frames, tracks 1 1 1 1 2 2: one of them can stand for the truth, the longer: IDTP 4, IDFN 2, IDFP 2."""
    result = identity(followed_by(1, 1, 1, 1, 2, 2), 2.0)
    assert (result.num_identity_tp, result.num_identity_fn, result.num_identity_fp) == (4, 2, 2)
    assert result.idf1 == pytest.approx(8 / 12)


def test_hota_by_hand():
    """Cost 0.5 of 2: similarity 0.75, so 15 of 19 alphas match everything. Tracks of 4 and 2 frames on one of 6:

    DetA = 1; AssA = (4 * 4/6 + 2 * 2/6) / 6 = 10/18.
    """
    result = hota(followed_by(1, 1, 1, 1, 2, 2), 2.0)
    share = (ALPHAS <= 0.75 + 1e-9).mean()
    assert share == pytest.approx(15 / 19)
    assert result.det_a == pytest.approx(share)
    assert result.ass_a == pytest.approx(share * 10 / 18)
    assert result.hota == pytest.approx(share * np.sqrt(10 / 18))
    assert hota(followed_by(1, 1), 1e9).hota == pytest.approx(1)


def boxes(*rows: tuple[float, float, int], score=None, **columns) -> Boxes:
    """Cars at (x, y) with a track."""
    box = [[x, y, 0, 4, 2, 1.5, 0, 0, 0] for x, y, _ in rows]
    return Boxes.make(np.array(box).reshape(-1, 9), np.zeros(len(rows)), [t for _, _, t in rows], score, **columns)


def clip(pred: list[Boxes], truth: list[Boxes]) -> TrackedClip:
    return TrackedClip(np.arange(len(pred)) * 0.5, pred, truth)


def test_amota_of_a_perfect_and_of_half_a_tracker():
    truth = [boxes((i, 0, 1), (i, 20, 2)) for i in range(10)]
    perfect = tracking_metrics([clip(truth, truth)]).groups["car"]
    assert perfect.amota == pytest.approx(1)
    assert perfect.amotp == pytest.approx(0)
    assert perfect.hota.hota == pytest.approx(1)
    half = tracking_metrics([clip([boxes((i, 0, 1), score=[0.5]) for i in range(10)], truth)]).groups["car"]
    # Of the recalls 0.1 ... 1 in 40 steps those up to 0.5 are reached, each perfectly but for what is missed.
    reached = (np.linspace(0.1, 1, 40) <= 0.5).mean()
    assert half.amota == pytest.approx(reached)
    assert half.amotp == pytest.approx(2 * (1 - reached))
    assert half.score_threshold == pytest.approx(0.5)


def test_tracking_nothing():
    truth = [boxes((0, 0, 1)) for _ in range(3)]
    none = tracking_metrics([clip([Boxes.empty()] * 3, truth)]).groups["car"]
    assert (none.amota, none.amotp, none.clear.num_misses) == (0, 2, 3)
    assert np.isnan(none.score_threshold)
    no_truth = tracking_metrics([clip(truth, [Boxes.empty()] * 3)])
    assert np.isnan(no_truth.groups["car"].amota)
    assert np.isnan(no_truth.mean("amota"))


def test_a_track_is_scored_by_its_mean_and_boxes_without_track_stand_alone():
    frames = with_track_scores([boxes((0, 0, 4), (9, 0, -1), score=[0.2, 0.7]), boxes((0, 0, 4), (9, 0, -1), score=[0.4, 0.9])])
    assert frames[0].score.tolist() == pytest.approx([0.3, 0.7])
    assert frames[1].score.tolist() == pytest.approx([0.3, 0.9])
    assert frames[0].track_id[1] != frames[1].track_id[1]
    assert min(f.track_id.min() for f in frames) >= 0


def test_gaps_are_filled_in_proportion_to_time():
    """At 0 s at x = 0, at 4 s at x = 8: at 1 s it was at 2, not at 6 (the devkit's mistake). Heading goes the short way."""
    first, last = boxes((0, 0, 1)), boxes((8, 0, 1))
    first.box[0, 6], last.box[0, 6] = np.pi - 0.2, -np.pi + 0.2
    filled = fill_gaps([first, Boxes.empty(), last], np.array([0.0, 1.0, 4.0]))
    assert filled[1].box[0, 0] == pytest.approx(2)
    assert filled[1].box[0, 6] == pytest.approx(np.pi - 0.1)
    assert [len(f) for f in filled] == [1, 1, 1]


def test_predictions_on_ignored_truth_are_neither_right_nor_wrong():
    truth = boxes((0, 0, 1), (10, 0, 2), ignore=[True, False])
    pred = boxes((0.5, 0, 5), (10, 0, 6), (10.5, 0, 7))
    sequence = tracked_sequences([clip([pred], [truth])], [0], 2.0)[0]
    assert sequence.frames[0].truth_id.tolist() == [2]
    assert sequence.frames[0].pred_id.tolist() == [6, 7]


def test_ids_of_two_clips_do_not_mix():
    truth = [boxes((0, 0, 1)), boxes((0, 0, 1))]
    metrics = tracking_metrics([clip(truth, truth), clip([boxes((0, 0, 2))] * 2, truth)], TrackingSettings())
    assert metrics.groups["car"].clear.num_tracks == 2
    assert metrics.groups["car"].clear.num_switches == 0
    assert metrics.groups["car"].identity.idf1 == 1


def test_iou_by_hand():
    box = np.array([[0, 0, 0, 4, 2, 2, 0.7, 0, 0.0]])
    turned, shifted, higher, away = box.copy(), box.copy(), box.copy(), box.copy()
    turned[0, 6] += np.pi / 2
    shifted[0, :2] = 2 * np.array([np.cos(0.7), np.sin(0.7)])
    higher[0, 2] = 1
    away[0, 0] = 50
    others = np.concatenate([box, turned, shifted, higher, away])
    assert iou_3d(box, others)[0] == pytest.approx([1, 4 / 12, 4 / 12, 1 / 3, 0])
    assert iou_bev(box, higher)[0, 0] == pytest.approx(1)
    square, diamond = box.copy(), box.copy()
    square[0, 3:7], diamond[0, 3:7] = [2, 2, 2, 0], [2, 2, 2, np.pi / 4]
    octagon = 8 * (np.sqrt(2) - 1)
    assert iou_bev(square, diamond)[0, 0] == pytest.approx(octagon / (8 - octagon))
    assert iou_3d(box, np.zeros((0, 9))).shape == (1, 0)


def test_iou_does_not_care_about_order_place_or_turn():
    generator = np.random.default_rng(0)
    a = np.column_stack(
        [generator.uniform(-4, 4, (20, 3)), generator.uniform(1, 5, (20, 3)), generator.uniform(-4, 4, 20), np.zeros((20, 2))]
    )
    iou = iou_3d(a, a)
    assert np.allclose(iou, iou.T)
    assert np.allclose(np.diag(iou), 1)
    moved = a.copy()
    moved[:, :2] = a[:, :2] @ np.array([[0, 1], [-1, 0]]) + [1000, -500]
    moved[:, 6] += np.pi / 2
    assert np.allclose(iou_3d(moved, moved), iou, atol=1e-9)


def kitti_rows(*rows: tuple) -> KittiRows:
    """Rows of (kind, frame, id, x forward, occlusion, score): cars of 4 x 2 x 1.5 m whose rectangles are 50 px high."""
    kind, frame, track, x, occlusion, score = zip(*rows, strict=True)
    box = np.zeros((len(rows), 9))
    box[:, 0], box[:, 3:6] = x, (4.0, 2.0, 1.5)
    rectangle = np.tile([0.0, 0, 100, 50], (len(rows), 1))
    numbers = (np.array(frame), np.array(track), np.zeros(len(rows)), np.array(occlusion), rectangle, box, np.array(score, dtype=float))
    return KittiRows(np.array(kind, dtype=object), *numbers)


def test_kitti_counts_by_hand():
    truth = kitti_rows(*(("car", k, 1, 10.0, 3 if k == 3 else 0, 1) for k in range(6)), ("van", 0, 2, 30.0, 0, 1))
    pred = kitti_rows(
        *(("car", k, 7, 10.5, 0, 0.9) for k in (0, 1)),  # IoU 3.5 / 4.5
        ("car", 4, 8, 10.0, 0, 0.7),
        ("car", 5, 8, 10.0, 0, 0.7),
        ("car", 0, 9, 30.0, 0, 0.2),  # on a van: nobody minds
        ("car", 2, 9, 60.0, 0, 0.2),  # on nothing
    )
    sequence = KittiSequence.of(truth, pred, "car", 0.25)
    assert sequence.match(-np.inf).tolist() == [0, 1, -1, -1, 2, 3, 4]
    assert sequence.verdicts().tolist() == [1, 1, 1, 1, 0, -1]
    counts, _ = count([sequence], -np.inf)
    assert (counts.num_truth, counts.num_misses, counts.num_false_positives) == (5, 1, 1)
    # the car is lost at frame 2 and forgotten in frame 3, which does not count: its return is neither a switch nor a fragmentation
    assert (counts.num_switches, counts.num_fragmentations) == (0, 0)
    assert counts.mota == pytest.approx(1 - 2 / 5)
    assert count([sequence], 0.5)[0].mota == pytest.approx(1 - 1 / 5)
    assert measure([sequence]).idf1 == pytest.approx(2 * 2 / (5 + 4))  # one of the two tracks explains two of five boxes


def test_kitti_switches_and_returns_by_hand():
    counted = np.ones(6, dtype=bool)
    assert track_events(np.array([1, 1, 2, 2, 2, 2]), counted) == (1, 1)
    assert track_events(np.array([1, -1, 1, 1, -1, 1]), counted) == (0, 2)  # the last frame needs no next one
    assert track_events(np.array([1, -1, 1, -1, -1, -1]), counted) == (0, 0)  # a return for one frame is none
    assert track_events(np.array([-1, -1, 3, 3, 3, 3]), counted) == (0, 0)


def test_kitti_recall_levels_are_those_that_scores_come_closest_to():
    thresholds = recall_thresholds(np.linspace(1, 0, 40, endpoint=False), 80)  # half of the truth is found
    assert [round(level * 40) for _, level in thresholds] == list(range(1, len(thresholds) + 1))
    assert len(thresholds) == 20


def test_kitti_rows_are_read_and_broken_ones_named(tmp_path):
    path = tmp_path / "0000.txt"
    path.write_text("0 1 Car 0 0 0 1 2 3 4 1.5 1.8 4.0 2.0 1.6 10.0 0.0\n1 1 Car 0 0 0 1 2 3 4 1.5 1.8 4.0 2.0 1.6 10.0 0.0 0.5\n")
    rows = read_kitti_rows(path)
    assert rows.kind.tolist() == ["car", "car"]
    assert np.isnan(rows.score[0]) and rows.score[1] == 0.5
    assert rows.box_ego[0, :7] == pytest.approx([10.0, -2.0, -0.85, 4.0, 1.8, 1.5, -np.pi / 2])
    path.write_text("0 1 Car 0 0 0\n")
    with pytest.raises(DataError, match="line 1: expected 17 or 18 columns, got 6"):
        read_kitti_rows(path)
    with pytest.raises(DataError, match="missing"):
        read_kitti_rows(tmp_path / "none.txt")
