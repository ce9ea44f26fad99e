"""Do pixels, calibration and targets move together, and does the stream of batches depend on nothing but seed and step?"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fusion.grid import BevGrid
from perception.augmentation import (
    NO_AUGMENTATION,
    AugmentConfig,
    change_boxes,
    change_geometry,
    change_motion,
    change_pictures,
    draw_rig_change,
    draw_scene_change,
)
from scenes.boxes import Boxes, box_corners, transform_boxes
from scenes.cameras import Camera, Lens
from scenes.clips import Clip
from scenes.errors import ConfigError, DataError
from scenes.geometry import rigid_from_parts, rotation_from_yaw, transform_points
from scenes.packing import PackedFrame, pack_frame
from training.dataset import StreamDataset, WalkPlan, repeat_factors, step_batches
from training.recipes import DataConfig, nano
from training.targets import FrameTargets, depth_at_cells, occupancy_on_grid, split_boxes

STRONG = replace(NO_AUGMENTATION, mirror=1.0, yaw_rad=0.5, scale=0.2, zoom=0.2, shift=0.1)
SIZE = (96, 128)


def packed_camera(packed: PackedFrame, row: int) -> Camera:
    """The camera that the arrays of a packed frame describe."""
    fx, fy, cx, cy = packed.intrinsics_N4[row].tolist()
    lens = Lens.FISHEYE if packed.lens_N[row] else Lens.PINHOLE
    distortion = packed.distortion_N5[row][: 4 if packed.lens_N[row] else 5].tolist()
    height, width = packed.images_NHW3.shape[1:3]
    return Camera("c", lens, fx, fy, cx, cy, width, height, np.eye(4), tuple(distortion))


def pixels_of(packed: PackedFrame, row: int, points_ego: np.ndarray) -> np.ndarray:
    """Where points are seen, without asking whether they are inside."""
    return packed_camera(packed, row).project(transform_points(packed.cam_from_ego_N44[row].astype(np.float64), points_ego))[0]


@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_projected_corners_move_with_the_pixels(tiny_clip, mirror):
    packed = pack_frame(tiny_clip, 0, SIZE)
    rng = np.random.default_rng(3)
    scene = draw_scene_change(replace(STRONG, mirror=mirror), rng)
    rig = draw_rig_change(STRONG, rng, 3, SIZE, scene.mirrored)
    changed = change_geometry(packed, scene, rig)
    box = np.array([[12.0, 2.0, 0.8, 4.5, 1.9, 1.6, 0.4, 3.0, 1.0], [7.0, 6.0, 0.9, 0.7, 0.6, 1.8, -2.0, 0.0, 0.0]])
    corners = box_corners(box).reshape(-1, 3)
    # the corners of the changed box are the changed corners (in a mirror left and right corners swap)
    ego_points_changed = corners @ scene.aug_from_ego[:3, :3].T
    found = box_corners(change_boxes(box, scene)).reshape(-1, 3)
    gap = np.linalg.norm(found[:, None] - ego_points_changed[None], axis=-1)
    assert gap.min(axis=0).max() < 1e-6
    for row in (0, 2):  # a pinhole with distortion, a fisheye
        ax, bx, ay, by = rig.affine_N4[row]
        before = pixels_of(packed, row, corners)
        np.testing.assert_allclose(pixels_of(changed, row, ego_points_changed), before * [ax, ay] + [bx, by], atol=2e-3)


def test_the_picture_is_warped_by_that_affine_map(tiny_clip):
    packed = pack_frame(tiny_clip, 0, SIZE)
    v, u = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    ramp = np.stack([u, v, 0 * u], axis=-1).astype(np.uint8)
    packed = replace(packed, images_NHW3=np.stack([ramp] * 3))
    rng = np.random.default_rng(0)
    scene = draw_scene_change(STRONG, rng)
    rig = draw_rig_change(STRONG, rng, 3, SIZE, scene.mirrored)
    changed = change_geometry(packed, scene, rig).images_NHW3[1]
    ax, bx, ay, by = rig.affine_N4[1]
    row, column = 50, 60
    expected = ((column - bx) / ax, (row - by) / ay)
    np.testing.assert_allclose(changed[row, column, :2], expected, atol=0.6)


def test_motion_and_velocity_agree_after_the_change():
    scene = draw_scene_change(STRONG, np.random.default_rng(5))
    prev_from_ego = rigid_from_parts(rotation_from_yaw(0.1), [3.0, 0.4, 0.0])
    box_ego = np.array([[10.0, -2.0, 0.8, 4.0, 2.0, 1.5, 0.3, 5.0, 1.0]])
    box_prev = transform_boxes(prev_from_ego, box_ego)
    moved = transform_boxes(change_motion(prev_from_ego, scene).astype(np.float64), change_boxes(box_ego, scene))
    np.testing.assert_allclose(moved, change_boxes(box_prev, scene), atol=1e-5)


def test_nothing_changes_without_augmentation(tiny_clip):
    packed = pack_frame(tiny_clip, 1, SIZE, 0)
    rng = np.random.default_rng(0)
    scene = draw_scene_change(NO_AUGMENTATION, rng)
    same = change_pictures(change_geometry(packed, scene, draw_rig_change(NO_AUGMENTATION, rng, 3, SIZE, False)), NO_AUGMENTATION, rng)
    for name, value in vars(packed).items():
        np.testing.assert_allclose(getattr(same, name), value, atol=1e-5, err_msg=name)


def test_one_camera_always_lives(tiny_clip):
    packed = pack_frame(tiny_clip, 0, SIZE)
    changed = change_pictures(packed, replace(NO_AUGMENTATION, dead_camera=0.8), np.random.default_rng(1))
    assert 1 <= changed.alive_N.sum() < 3
    assert (changed.images_NHW3[changed.alive_N == 0] == 0).all()
    with pytest.raises(ConfigError, match="probability"):
        AugmentConfig(mirror=2.0)


def test_hidden_boxes_are_ignored_and_far_ones_dropped():
    box = np.tile([0, 0, 0.8, 4, 2, 1.5, 0, 0, 0.0], (5, 1))
    box[:, 0] = [5, 10, 15, 20, 300]
    boxes = Boxes.make(
        box, [0] * 5, visibility=[1, 0.0, np.nan, 0.5, 1], num_points=[50, 0, -1, 2, 50], ignore=[False, False, False, False, False]
    )
    scene = draw_scene_change(NO_AUGMENTATION, np.random.default_rng(0))
    targets, ignored = split_boxes(boxes, scene, BevGrid(), 0.1, 6)
    assert targets.box[:, 0].tolist() == [5, 15] and ignored[:, 0].tolist() == [10, 20]


def test_depth_is_read_where_the_cell_looks():
    depth_m = np.arange(24 * 64, dtype=np.float32).reshape(24, 64) + 1  # stored at a quarter of 96x256
    plan, size = (128, 48, 0, 0), (48, 128)  # resized by half
    cells = depth_at_cells(depth_m, plan, np.array([1.0, 0.0, 1.0, 0.0]), size, 8, 1.0)
    assert cells.shape == (6, 16)
    # cell (1, 2): network pixel (19.5, 11.5), image pixel (39.5, 23.5), stored pixel floor(40 / 4), floor(24 / 4)
    assert cells[1, 2] == depth_m[6, 10]
    mirrored = depth_at_cells(depth_m, plan, np.array([-1.0, 127.0, 1.0, 0.0]), size, 8, 2.0)
    assert mirrored[1, 13] == pytest.approx(2 * depth_m[6, 10])  # the same pixel from the other side


def test_occupancy_turns_with_the_scene(tiny_clip):
    occupancy = tiny_clip.layer("truth").occupancy(0)
    scene = draw_scene_change(replace(NO_AUGMENTATION, mirror=1.0), np.random.default_rng(0))
    state, flow = occupancy_on_grid(occupancy, scene, occupancy.grid)
    np.testing.assert_array_equal(state, occupancy.state[:, ::-1])
    np.testing.assert_allclose(flow[1], -occupancy.flow_mps[:, ::-1, :, 1], atol=1e-6)


def test_targets_without_any_box():
    empty = FrameTargets(
        True,
        Boxes.empty(),
        np.zeros((0, 9)),
        np.zeros((1, 2, 2), np.float32),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros((2, 2, 2, 2), np.float32),
    )
    stacked = FrameTargets.stack([empty, empty])
    assert stacked.box_BM9.shape == (2, 1, 9) and not stacked.valid_BM.any()


def test_walks_cover_every_clip_and_mark_their_beginnings():
    config = DataConfig(batch=2, walk_steps=4, strides=(1,))
    plan = WalkPlan([10, 3, 4], np.ones(3), config, seed=0)
    visits = [[plan.visit(stream, step) for step in range(24)] for stream in range(2)]
    assert {visit.clip for walk in visits for visit in walk} == {0, 1, 2}
    for walk in visits:
        for before, visit in pairwise(walk):
            if visit.previous is not None:
                assert (visit.clip, visit.previous, visit.walk_seed) == (before.clip, before.frame, before.walk_seed)
    again = WalkPlan([10, 3, 4], np.ones(3), config, seed=0)
    assert again.visit(1, 17) == visits[1][17]


def test_rare_classes_are_repeated():
    counts = np.zeros((100, 2))
    counts[:, 0], counts[0, 1] = 5, 1
    factors = repeat_factors(counts, 0.04)
    assert factors[0] == pytest.approx(2.0) and (factors[1:] == 1).all()


def tiny_config(folder, **data):
    base = nano()
    return replace(
        base,
        model=replace(base.model, input_hw=(64, 96)),
        data=replace(base.data, folders=(folder,), batch=2, workers=0, walk_steps=3, **data),
        optim=replace(base.optim, steps=6),
    )


def test_batches_are_a_function_of_the_step(tiny_clip_path):
    whole = list(step_batches(StreamDataset(tiny_config(tiny_clip_path)), 0))
    tail = list(step_batches(StreamDataset(tiny_config(tiny_clip_path)), 4))
    assert [batch.step for batch in tail] == [4, 5]
    for name, tensor in whole[4].inputs.tensors().items():
        assert torch.equal(tensor, tail[0].inputs.tensors()[name]), name
    for name, tensor in whole[4].targets.tensors().items():
        assert torch.equal(tensor.nan_to_num(), tail[0].targets.tensors()[name].nan_to_num()), name
    assert whole[0].reset_B[0] == 1


def test_bad_data_is_said_in_words(tiny_clip_path):
    with pytest.raises(DataError, match="none of the label layers"):
        StreamDataset(tiny_config(tiny_clip_path, layers="human"))
    clip = Clip.open(tiny_clip_path)
    (tiny_clip_path / clip.frames[1].views["front"].image).unlink()
    with pytest.raises(DataError, match="missing image"):
        list(step_batches(StreamDataset(tiny_config(tiny_clip_path)), 0))
    assert len(list(step_batches(StreamDataset(tiny_config(tiny_clip_path, strict=False)), 0))) == 6
