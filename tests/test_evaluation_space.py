"""Are voxels, lanes, forecasts and labels measured right? Cases worked out by hand."""

import numpy as np
import pytest

from evaluation.forecasts import forecast_metrics
from evaluation.labels import label_quality
from evaluation.lanes import Polyline, area_under_envelope, chamfer_ap, chamfer_distance_m, resample
from evaluation.occupancy import OccupancyCounts, ray_directions, walk_rays
from scenes.boxes import Boxes
from scenes.errors import DataError
from scenes.layers import OCCUPANCY_CLASS_OFFSET, OCCUPANCY_ROAD, OCCUPANCY_UNKNOWN, LaneType, Occupancy, VoxelGrid

GRID = VoxelGrid((-20.0, -20.0, 0.0), (1.0, 1.0, 1.0), (40, 40, 4))
CAR = OCCUPANCY_CLASS_OFFSET


def occupancy(wall_x: int | None = None, state: int = CAR, flow=(0.0, 0.0), grid: VoxelGrid = GRID) -> Occupancy:
    """Free space with a wall across the grid whose voxels start at x = `wall_x`."""
    states, flows = np.zeros(grid.shape, dtype=np.uint8), np.zeros((*grid.shape, 2), dtype=np.float32)
    if wall_x is not None:
        states[wall_x + 20] = state
        flows[wall_x + 20] = flow
    return Occupancy(grid, states, flows)


def measured(pred: Occupancy, truth: Occupancy):
    counts = OccupancyCounts()
    counts.add(pred, truth)
    return counts.result()


def test_a_ray_passes_voxels_in_order():
    fan = walk_rays(GRID, np.array([[0.5, 0.5, 0.5]] * 3), np.array([[1.0, 0, 0], [-1.0, 0, 0], [0.6, 0.8, 0]]))
    index = np.array(np.unravel_index(fan.voxel[0, :20], GRID.shape)).T
    assert index[:, 0].tolist() == list(range(20, 40)) and set(index[:, 1]) == {20} and set(index[:, 2]) == {0}
    assert fan.depth_m[0, :3].tolist() == pytest.approx([0, 0.5, 1.5])
    assert (fan.voxel[0, 20:] == 40 * 40 * 4).all()
    assert np.unravel_index(fan.voxel[1, 20], GRID.shape)[0] == 0
    slanted = np.array(np.unravel_index(fan.voxel[2, :4], GRID.shape)).T
    assert slanted[:, :2].tolist() == [[20, 20], [20, 21], [21, 21], [21, 22]]


def test_the_lidar_of_sparseocc():
    directions = ray_directions(1.0)
    assert np.allclose(np.linalg.norm(directions, axis=1), 1)
    ring = directions[::360][:10]
    assert (np.hypot(ring[:, 0], ring[:, 1]) / -ring[:, 2]).tolist() == pytest.approx(list(range(1, 11)))
    assert np.arcsin(directions[-1, 2]) >= 0.21


def test_a_wall_one_and_a_half_metres_off():
    """All rays meet the wall 1 m behind where it is straight ahead, farther behind aslant: right at 4 m, mostly at 2, not at 1."""
    result = measured(occupancy(11), occupancy(10))
    by_threshold = {t: states["car"] for t, states in result.ray_iou_by_state.items()}
    assert by_threshold[1.0] == 0
    assert 0 < by_threshold[2.0] < by_threshold[4.0] <= 1
    assert result.iou["car"] == 0
    assert result.miou == 0
    assert result.occupied_iou == 0


def test_perfect_wrong_and_missing_walls():
    perfect = measured(occupancy(10), occupancy(10))
    assert (perfect.ray_iou, perfect.miou, perfect.occupied_iou) == (1, 1, 1)
    wrong_class = measured(occupancy(10, OCCUPANCY_ROAD), occupancy(10))
    assert (wrong_class.ray_iou, wrong_class.miou, wrong_class.occupied_iou) == (0, 0, 1)
    missing = measured(occupancy(), occupancy(10))
    assert (missing.ray_iou, missing.miou) == (0, 0)
    nothing = measured(occupancy(), occupancy())
    assert np.isnan(nothing.ray_iou) and np.isnan(nothing.miou)


def test_unknown_truth_counts_for_nothing():
    truth = occupancy(10)
    truth.state[25:30] = OCCUPANCY_UNKNOWN  # in front of the wall: no ray gets through
    result = measured(occupancy(6), truth)
    assert np.isnan(result.ray_iou)
    assert result.iou["car"] == 0  # the wall's own voxels were observed; those of the false wall were not
    assert result.iou["free"] == pytest.approx(34 / 35)


def test_voxels_can_be_limited_to_what_cameras_see():
    counts = OccupancyCounts()
    counts.add(occupancy(), occupancy(10), np.zeros(GRID.shape, dtype=bool))
    assert np.isnan(counts.result().miou)


def test_flow_of_moving_voxels():
    result = measured(occupancy(10, flow=(3.0, 0.0)), occupancy(10, flow=(3.0, 4.0)))
    assert result.flow_error_mps == pytest.approx(4)
    assert np.isnan(measured(occupancy(10), occupancy(10)).flow_error_mps)


def test_two_grids_are_refused():
    with pytest.raises(DataError, match="one voxel grid"):
        measured(occupancy(), occupancy(grid=VoxelGrid((-20.0, -20.0, 0.0), (1.0, 1.0, 2.0), (40, 40, 2))))


def line(y: float, score: float = 1.0, kind: LaneType = LaneType.DIVIDER) -> Polyline:
    return Polyline(kind, np.array([[0.0, y, 0.0], [30.0, y, 0.0]]), score)


def test_chamfer_distance_and_resampling():
    corner = resample(np.array([[0, 0, 0], [2, 0, 5], [2, 2, 5]]), 5)
    assert corner.tolist() == [[0, 0], [1, 0], [2, 0], [2, 1], [2, 2]]
    a, b = resample(line(0).points), resample(line(0.75).points)
    assert chamfer_distance_m(a, b) == pytest.approx(0.75)


def test_lane_ap_by_hand():
    truth = [[line(0), line(10), line(5, kind=LaneType.ROAD_EDGE)]]
    pred = [[line(0.75, 0.9), line(0.8, 0.8), line(10.2, 0.7)]]
    ap = chamfer_ap(pred, truth)
    assert ap[LaneType.DIVIDER][0.5] == pytest.approx(1 / 3 / 2)  # only the last is right
    assert ap[LaneType.DIVIDER][1.0] == pytest.approx((1 + 2 / 3) / 2)  # right, duplicate, right
    assert ap[LaneType.ROAD_EDGE] == {0.5: 0, 1.0: 0, 1.5: 0}
    assert LaneType.CROSSING not in ap
    assert chamfer_ap([[]], [[]]) == {}
    assert area_under_envelope(np.array([False, True, True]), 2) == pytest.approx(2 / 3)


def test_forecasts_by_hand():
    truth = np.stack([np.stack([np.arange(1, 5.0), np.zeros(4)], -1)] * 2)
    modes = np.stack([truth + np.array([0, 3]), truth + np.array([1, 0]), truth * 0], axis=1)
    probability = np.array([[0.2, 0.3, 0.5]] * 2)
    valid = np.array([[True] * 4, [True, True, False, False]])
    result = forecast_metrics(modes, probability, truth, valid)
    assert (result.num_agents, result.min_ade_m, result.min_fde_m, result.miss_rate) == (2, 1, 1, 0)
    one = forecast_metrics(modes, probability, truth, valid, num_modes=1)  # the likeliest stands still at the origin
    assert one.min_ade_m == pytest.approx((2.5 + 1.5) / 2)
    assert one.min_fde_m == pytest.approx((4 + 2) / 2)
    assert one.miss_rate == pytest.approx(0.5)
    assert forecast_metrics(modes, probability, truth, np.zeros((2, 4), dtype=bool)).num_agents == 0


def boxes(*centers, score=None) -> Boxes:
    rows = [[x, y, 0, 4, 2, 1.5, 0, 2, 0] for x, y in centers]
    return Boxes.make(np.array(rows).reshape(-1, 9), np.zeros(len(rows)), score=score)


def test_label_quality_by_hand():
    truth = [boxes((10, 0), (20, 0), (60, 0)), boxes((10, 0))]
    pred = [boxes((10.3, 0.4), (10.5, 0), (35, 0), (61, 0), score=[0.9, 0.5, 0.4, 0.3]), boxes()]
    pred[0].box[0, 7] = 3.0
    quality = label_quality(pred, truth, ("car",))
    assert (quality.num_truth, quality.num_labels, quality.num_matched, quality.num_duplicates) == (3, 3, 1, 1)
    assert quality.recall == pytest.approx(1 / 3)
    assert quality.precision == pytest.approx(1 / 3)
    assert quality.centre_error_m == pytest.approx(0.5)
    assert quality.velocity_error_moving_mps == pytest.approx(1)
    far = label_quality(pred, truth, ("car",), (50.0, 80.0))
    assert (far.num_truth, far.num_matched) == (1, 1)
    nothing = label_quality([boxes()], [boxes()], ("car",))
    assert np.isnan(nothing.recall) and np.isnan(nothing.centre_error_m)
