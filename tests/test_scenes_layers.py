"""Do label layers come back from disk exactly as they were written, and are broken ones refused by row?"""

import numpy as np
import pytest

from scenes.boxes import BOX_EDGES, CLASS_NAMES, Box3D, Boxes, box_corners, class_id_of, transform_boxes
from scenes.errors import DataError
from scenes.geometry import rigid_from_parts, rotation_from_yaw
from scenes.layers import (
    DEPTH_UNIT_M,
    LabelLayer,
    Lane,
    LaneType,
    Occupancy,
    VoxelGrid,
    read_layer,
    write_image16,
    write_layer,
    write_occupancy,
)


def random_boxes(count: int, seed: int = 0) -> Boxes:
    rng = np.random.default_rng(seed)
    box = np.concatenate([rng.normal(size=(count, 3)) * 20, rng.uniform(0.3, 9, (count, 3)), rng.uniform(-3, 3, (count, 3))], axis=1)
    box[0, Box3D.VX : Box3D.VY + 1] = np.nan  # unknown velocity
    return Boxes.make(
        box,
        rng.integers(0, len(CLASS_NAMES), count),
        track_id=np.arange(count),
        score=rng.uniform(size=count),
        visibility=np.where(np.arange(count) % 3, rng.uniform(size=count), np.nan),
        num_points=rng.integers(-1, 100, count),
        ignore=rng.uniform(size=count) < 0.3,
        provenance=[f"from {i}" for i in range(count)],
    )


def assert_same_boxes(a: Boxes, b: Boxes) -> None:
    for name in ("box", "class_id", "track_id", "score", "visibility", "num_points", "ignore"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.provenance.tolist() == b.provenance.tolist()


def test_a_layer_comes_back_byte_for_byte(tmp_path):
    lane = Lane(7, LaneType.CROSSING, np.random.default_rng(0).normal(size=(5, 3)))
    layer = LabelLayer("auto@first", {0: random_boxes(5), 3: Boxes.empty(), 4: random_boxes(2, 1)}, [lane], {"config": {"k": [1, 2]}})
    again = read_layer(write_layer(tmp_path, layer))
    assert (again.name, again.source, again.meta) == ("auto@first", "auto", {"config": {"k": [1, 2]}})
    assert sorted(again.boxes_world) == [0, 3, 4] and len(again.boxes_world[3]) == 0
    for index in layer.boxes_world:
        assert_same_boxes(again.boxes_world[index], layer.boxes_world[index])
    assert (again.lanes[0].lane_id, again.lanes[0].type) == (7, LaneType.CROSSING)
    np.testing.assert_array_equal(again.lanes[0].points_world, lane.points_world)


def test_a_layer_without_any_box_comes_back(tmp_path):
    again = read_layer(write_layer(tmp_path, LabelLayer("human", {0: Boxes.empty()})))
    assert list(again.boxes_world) == [0] and len(again.boxes_world[0]) == 0
    assert again.occupancy(0) is None and again.depth_m(0, "front") is None and again.instances(0, "front") is None


def test_an_existing_layer_is_kept_unless_told_otherwise(tmp_path):
    write_layer(tmp_path, LabelLayer("human", {0: random_boxes(3)}))
    with pytest.raises(DataError, match="exists already"):
        write_layer(tmp_path, LabelLayer("human", {0: Boxes.empty()}))
    assert len(read_layer(tmp_path / "layers" / "human").boxes_world[0]) == 3
    write_layer(tmp_path, LabelLayer("human", {0: Boxes.empty()}), replace=True)
    assert len(read_layer(tmp_path / "layers" / "human").boxes_world[0]) == 0
    assert sorted(p.name for p in (tmp_path / "layers").iterdir()) == ["human"]


def test_voxels_depth_and_instances_come_back(tmp_path):
    rng = np.random.default_rng(0)
    path = write_layer(tmp_path, LabelLayer("truth", {0: Boxes.empty()}))
    grid = VoxelGrid((-4.0, -3.0, 0.0), (0.5, 1.0, 0.25), (16, 6, 4))
    state = rng.integers(0, 13, grid.shape).astype(np.uint8)
    flow = np.where(rng.uniform(size=(*grid.shape, 1)) < 0.2, rng.normal(size=(*grid.shape, 2)), 0)
    flow = flow.astype(np.float16).astype(np.float32)
    write_occupancy(path, 0, Occupancy(grid, state, flow))
    depth_m = np.array([[0.0, 1.5], [80.25, 255.99609375]])
    write_image16(path, "depth", "front", 0, depth_m / DEPTH_UNIT_M)
    write_image16(path, "instances", "front", 0, np.array([[-1, 0], [7, 60000]]) + 1)
    layer = read_layer(path)
    occupancy = layer.occupancy(0)
    assert occupancy is not None and occupancy.grid == grid
    np.testing.assert_array_equal(occupancy.state, state)
    np.testing.assert_array_equal(occupancy.flow_mps, flow)
    np.testing.assert_array_equal(layer.depth_m(0, "front"), depth_m.astype(np.float32))
    np.testing.assert_array_equal(layer.instances(0, "front"), [[-1, 0], [7, 60000]])


def test_voxel_indices_by_hand():
    grid = VoxelGrid()
    index, inside = grid.index_of(np.array([[-40.0, -40.0, -1.0], [0.2, -0.2, 0.1], [40.0, 0, 0]]))
    assert index[:2].tolist() == [[0, 0, 0], [40, 39, 2]]
    assert inside.tolist() == [True, True, False]
    np.testing.assert_allclose(grid.centers_ego()[40, 39, 2], [0.5, -0.5, 0.25])


def test_box_corners_by_hand():
    # 4 m long, 2 m wide, 1 m high, looking along +y: its front left corner lies at -x of the centre.
    corners = box_corners(np.array([[10.0, 20, 0.5, 4, 2, 1, np.pi / 2, 0, 0]]))[0]
    np.testing.assert_allclose(corners[:4], [[9, 22, 0], [9, 18, 0], [11, 18, 0], [11, 22, 0]], atol=1e-12)
    np.testing.assert_allclose(corners[4:], corners[:4] + np.array([0, 0, 1]), atol=1e-12)
    lengths = sorted(float(np.linalg.norm(corners[a] - corners[b])) for a, b in BOX_EDGES)
    np.testing.assert_allclose(lengths, [1] * 4 + [2] * 4 + [4] * 4)


def test_boxes_change_frame_with_heading_and_velocity():
    # Seen from an ego that stands at (10, 0) and looks along world +y, a car at (10, 8) that drives along +y is straight ahead.
    ego_from_world = np.linalg.inv(rigid_from_parts(rotation_from_yaw(np.pi / 2), [10, 0, 0]))
    box_ego = transform_boxes(ego_from_world, np.array([[10.0, 8, 1, 4, 2, 1.5, np.pi / 2, 0, 5]]))
    np.testing.assert_allclose(box_ego, [[8, 0, 1, 4, 2, 1.5, 0, 5, 0]], atol=1e-12)


def test_no_boxes_change_frame_too():
    assert len(Boxes.empty().transform(np.eye(4))) == 0
    assert len(Boxes.concatenate([])) == 0 and Boxes.empty().corners().shape == (0, 8, 3)


def test_an_unknown_class_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match=r"here: unknown class 'tank'; expected one of car, "):
        class_id_of("tank", "here")
