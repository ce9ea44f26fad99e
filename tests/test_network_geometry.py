"""Does the network look where the cameras look? Projection, views, sampling and the warped memory against hand-made truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion.atlas import Atlas, Views, best_views
from fusion.boxcode import decode_boxes, encode_boxes
from fusion.grid import BevGrid
from fusion.interface import StepInput
from fusion.lenses import project, ray_geometry, read_lenses
from fusion.memory import empty_state, move_boxes, warp_maps
from fusion.sampling import mix_pixels, piece_size, sample_plane
from perception.depth import DepthBins
from scenes.cameras import Camera
from scenes.geometry import transform_points
from scenes.packing import camera_arrays
from scenes.rigs import Rig, default_rig, ego_from_cam_looking, fisheye_camera, pinhole_camera


def step_of(rig: Rig, batch: int = 1, dead: tuple[int, ...] = ()) -> StepInput:
    """A step of black pictures through a rig."""
    height, width = rig.cameras[0].height_px, rig.cameras[0].width_px
    arrays = camera_arrays(list(rig.cameras))
    cam_from_ego = np.stack([camera.cam_from_ego for camera in rig.cameras]).astype(np.float32)

    def batched(value: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(value)[None].repeat(batch, *([1] * value.ndim))

    alive = torch.ones(batch, len(rig))
    alive[:, list(dead)] = 0
    return StepInput(
        images_BNHW3=torch.zeros(batch, len(rig), height, width, 3, dtype=torch.uint8),
        intrinsics_BN4=batched(arrays["intrinsics_N4"]),
        distortion_BN5=batched(arrays["distortion_N5"]),
        lens_BN=batched(arrays["lens_N"]),
        max_angle_BN=batched(arrays["max_angle_N"]),
        cam_from_ego_BN44=batched(cam_from_ego),
        alive_BN=alive,
        time_offset_BN=torch.zeros(batch, len(rig)),
        dt_B=torch.full((batch,), 0.5),
        prev_from_ego_B44=torch.eye(4).repeat(batch, 1, 1),
    )


def test_projection_in_torch_is_projection_in_numpy():
    rig = default_rig(96, 256)
    points = np.random.default_rng(0).uniform([-50, -50, -2], [50, 50, 6], (3000, 3))
    seen = project(torch.from_numpy(points).float()[None].unbind(-1), read_lenses(step_of(rig)))
    total = 0
    for n, camera in enumerate(rig.cameras):
        pixels, inside = camera.project(transform_points(camera.cam_from_ego, points))
        border = np.abs(pixels - np.array([[-0.5, -0.5]])).min(-1) < 1e-2
        border |= np.abs(pixels - np.array([[camera.width_px - 0.5, camera.height_px - 0.5]])).min(-1) < 1e-2
        assert (seen.visible_BNP[0, n].numpy() == inside)[~border].all()
        both = inside & seen.visible_BNP[0, n].numpy()
        found = torch.stack([seen.u_BNP, seen.v_BNP], -1)[0, n].numpy()[both]
        assert np.abs(found - pixels[both]).max() < 1e-3
        total += both.sum()
    assert total > 1000


def test_a_point_ten_metres_ahead_and_one_to_the_left_lands_where_computed_by_hand():
    # 100 pixels wide, focal length 50 px, at the origin 1 m above ground: u = 49.5 - 50 * 1/10, v = 29.5 + 50 * (1 - 0.4)/10
    camera = pinhole_camera("front", np.pi / 2, 100, 60, ego_from_cam_looking((0, 0, 1.0), 0.0))
    seen = project(torch.tensor([[[10.0, 1.0, 0.4]]]).unbind(-1), read_lenses(step_of(Rig((camera,)))))
    assert seen.u_BNP.item() == pytest.approx(44.5, abs=1e-4)
    assert seen.v_BNP.item() == pytest.approx(32.5, abs=1e-4)
    assert seen.visible_BNP.item()
    assert seen.distance_BNP.item() == pytest.approx(np.sqrt(100 + 1 + 0.36), abs=1e-4)


def test_a_moving_point_is_looked_for_where_it_was_at_the_cameras_instant():
    camera = pinhole_camera("front", np.pi / 2, 100, 60, ego_from_cam_looking((0, 0, 1.0), 0.0))
    step = step_of(Rig((camera,)))
    step.time_offset_BN[:] = -0.1
    seen = project(torch.tensor([[[10.0, 1.0, 1.0]]]).unbind(-1), read_lenses(step), torch.tensor([[[0.0, 5.0]]]))
    assert seen.u_BNP.item() == pytest.approx(49.5 - 50 * 0.5 / 10, abs=1e-4)


def test_rays_of_feature_pixels_point_where_the_camera_says():
    rig = default_rig(96, 256)
    geometry = ray_geometry(read_lenses(step_of(rig)), 8)[0].numpy()
    u, v = np.meshgrid((np.arange(32) + 0.5) * 8 - 0.5, (np.arange(12) + 0.5) * 8 - 0.5)
    for n, camera in enumerate(rig.cameras):
        rays_ego = camera.unproject(np.stack([u, v], -1)) @ camera.ego_from_cam[:3, :3].T
        assert np.abs(geometry[n, :3] - np.moveaxis(rays_ego, -1, 0)).max() < 0.02
        assert np.abs(geometry[n, 5:8, 0, 0] * 3 - camera.ego_from_cam[:3, 3]).max() < 1e-4


def test_best_views_are_living_cameras_that_see_the_point():
    rig = default_rig(96, 256)
    points = torch.tensor([[[20.0, 0.0, 1.0], [-15.0, 0.0, 1.0], [0.0, 0.0, 30.0]]])
    views = best_views(points.unbind(-1), read_lenses(step_of(rig)))
    assert set(views.camera_BVP[0, :, 0].tolist()) <= {0, 1, 2}
    assert views.visible_BVP[0, :, 0].sum() == 2
    assert views.camera_BVP[0, 0, 1] == 7
    assert views.visible_BVP[0, :, 2].sum() == 0
    without = best_views(points.unbind(-1), read_lenses(step_of(rig, dead=(0, 1, 2))))
    assert without.visible_BVP[0, :, 0].sum() == 0


def test_gather_samples_equal_grid_samples_and_stay_in_their_own_strip():
    torch.manual_seed(0)
    cameras, rows, columns, points = 5, 6, 9, 400
    lenses = replace(read_lenses(step_of(default_rig(48, 72))), size_wh=(72, 48), alive_BN=torch.ones(2, cameras))
    number = torch.arange(2 * cameras, dtype=torch.float32)[:, None, None, None].expand(-1, 1, rows, columns)
    level = torch.cat([number, torch.randn(2 * cameras, 3, rows, columns)], dim=1)
    camera = torch.randint(0, cameras, (2, 1, points)).expand(-1, 2, -1)
    visible = (torch.rand(2, 2, points) > 0.3).float()
    views = Views(camera, torch.rand(2, 2, points) * 73 - 0.6, torch.rand(2, 2, points) * 49 - 0.6, visible, torch.ones(2, 2, points))
    levels = [level, level[:, :, ::2, ::3].contiguous()]
    each = (
        torch.eye(4 * 2).reshape(1, 1, 8, 4, 2).transpose(3, 4).expand(2, points // 4, -1, -1, -1)
    )  # a head for each of 4 points, 2 levels
    sampled, gathered = (Atlas.stack(levels, lenses, sampler).mixed(views, each) for sampler in ("gridsample", "gather"))
    assert sampled.shape == (2, points // 4, 8, 4)
    assert (sampled - gathered).abs().max() < 1e-4
    own = (camera[:, 0] + torch.tensor([[0], [cameras]])) * visible.amax(1)  # no bleeding from the camera above or below
    assert (gathered[..., 0].reshape(2, points, 2) - own[..., None]).abs().max() < 1e-5
    half = Atlas.stack(levels, lenses, "gather").mixed(views, torch.full((2, points // 4, 1, 2, 4), 0.125))
    assert torch.allclose(half[:, :, 0], gathered.mean(2), atol=1e-5)


def test_a_plane_is_sampled_alike_without_grid_sample_and_is_zero_outside():
    torch.manual_seed(0)
    maps, column, row = torch.randn(2, 3, 5, 7), torch.rand(2, 6, 4) * 10 - 2, torch.rand(2, 6, 4) * 8 - 2
    sampled, gathered = (sample_plane(maps, column, row, sampler) for sampler in ("gridsample", "gather"))
    assert (sampled - gathered).abs().max() < 1e-5
    middle = torch.full((2, 1, 1), 3.0), torch.full((2, 1, 1), 1.0)
    for sampler in ("gridsample", "gather"):
        assert torch.allclose(sample_plane(maps, *middle, sampler)[:, :, 0, 0], maps[:, :, 1, 3], atol=1e-5)
    assert sample_plane(maps, middle[0] + 30.0, middle[1], "gather").abs().max() == 0.0


def test_mixing_in_pieces_is_mixing_at_once(monkeypatch):
    torch.manual_seed(0)
    rows, pixel, weight = torch.randn(50, 6), torch.randint(0, 50, (2, 12, 8)), torch.randn(2, 12, 8)
    whole = mix_pixels(rows, pixel, weight)
    assert whole.shape == (2, 12, 6)
    assert torch.allclose(whole, (rows[pixel] * weight[..., None]).sum(2), atol=1e-5)
    monkeypatch.setattr("fusion.sampling.piece_size", lambda points, values, of=1: 5 * of)
    assert torch.allclose(mix_pixels(rows, pixel, weight), whole, atol=1e-6)
    in_threes = mix_pixels(rows, pixel, weight, of=3, then=lambda mixed: mixed.reshape(-1, 3 * 6) * 2.0)
    assert torch.allclose(in_threes, whole.reshape(2, 4, 18) * 2.0, atol=1e-5)


def test_an_exported_graph_mixes_pieces_that_fit_a_cache(monkeypatch):
    assert piece_size(1000, 100) == 1000
    monkeypatch.setattr("torch.compiler.is_exporting", lambda: True)
    assert piece_size(10, 100) == 10
    assert piece_size(16384, 8 * 48, of=4) == 16384 // 3 // 4 * 4 + 4  # 6.3 million values in three pieces, whole cells of four heights
    assert piece_size(10**6, 512) == 31250  # never more than 32 pieces


def test_a_bright_spot_is_sampled_at_the_point_that_projects_to_it():
    camera = Camera.from_json(default_rig(96, 256)["left_forward"].to_json(), "test")
    lenses = read_lenses(step_of(Rig((camera,))))
    point = transform_points(camera.ego_from_cam, camera.unproject(np.array([8 * 10 + 3.5, 8 * 5 + 3.5])) * 12.0)
    level = torch.zeros(1, 1, 12, 32)
    level[0, 0, 5, 10] = 1.0
    atlas = Atlas.stack([level], lenses, "gridsample")
    views = best_views(torch.from_numpy(point).float()[None, None].unbind(-1), lenses)
    assert atlas.sample(views, 0)[0, 0, 0, 0] == pytest.approx(1.0, abs=1e-3)
    assert views.distance_BVP[0, 0, 0] == pytest.approx(12.0, abs=1e-3)


def test_depth_bins_interpolate():
    bins = DepthBins(24, 1.5, 60.0)
    distance = torch.tensor([1.5, 3.0, 17.3, 60.0, 200.0])
    target = bins.target(distance)
    assert torch.allclose(target.sum(-1), torch.ones(5))
    assert torch.allclose((target @ bins.centers_m().log()).exp(), distance.clamp(max=60), rtol=1e-4)


def test_box_codes_round_trip():
    torch.manual_seed(0)
    box = torch.randn(50, 9)
    box[:, 3:6] = box[:, 3:6].exp()
    box[:, 6].clamp_(-3, 3)
    reference = torch.randn(50, 3) * 10
    assert torch.allclose(decode_boxes(encode_boxes(box, reference), reference), box, atol=1e-5)


def test_the_front_is_the_end_that_facing_points_to_and_the_axis_that_of_the_doubled_angle():
    code = torch.zeros(1, 12)
    code[0, 6:10] = torch.tensor([np.sin(2 * 1.2), np.cos(2 * 1.2), np.sin(1.5), np.cos(1.5)])  # an axis at 1.2 rad, a front at about 1.5
    code[0, 6:8] *= 0.3  # lengths do not matter
    assert decode_boxes(code, torch.zeros(1, 3))[0, 6] == pytest.approx(1.2, abs=1e-6)
    code[0, 8:10] *= -2.0
    assert decode_boxes(code, torch.zeros(1, 3))[0, 6] == pytest.approx(1.2 - np.pi, abs=1e-6)


def test_grid_indices_and_centres_agree():
    grid = BevGrid()
    index, inside = grid.index_of(grid.centers_ego())
    assert inside.all()
    assert (index == torch.stack(torch.meshgrid(torch.arange(80), torch.arange(80), indexing="ij"), -1)).all()
    assert not grid.index_of(torch.tensor([40.1, 0.0]))[1]
    column, row = grid.pixels(torch.tensor(-39.5), torch.tensor(-37.0))  # first row; half a cell beyond the third column's centre
    assert (column.item(), row.item()) == (2.5, 0.0)


def test_a_resting_blob_stays_at_its_place_in_the_world_while_the_ego_moves_and_turns():
    from fusion.config import QueryConfig

    grid = BevGrid()
    state = empty_state(1, QueryConfig(), grid, 1, 2, "cpu")
    state.valid_B[:] = 1
    state.bev_age_BM[:] = 0
    i, j = grid.index_of(torch.tensor([20.5, -5.5]))[0].tolist()
    state.bev_BMCXY[0, 0, 0, i, j] = 1.0
    turn = np.deg2rad(90.0)  # the ego has turned left by 90 degrees and stands 4 m ahead: prev_from_ego
    prev_from_ego = torch.eye(4)
    prev_from_ego[:2, :2] = torch.tensor([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    prev_from_ego[0, 3] = 4.0
    warped, known = warp_maps(state, prev_from_ego[None], torch.tensor([0.5]), grid, grid.centers_ego())
    spot = (warped[0, 0, 0] == warped[0, 0, 0].max()).nonzero()[0]
    assert grid.centers_ego()[spot[0], spot[1]].tolist() == [-5.5, -16.5]
    assert known[0, 0, 1].max() == pytest.approx(0.5)
    box = torch.tensor([[[20.5, -5.5, 1.0, 4, 2, 1.5, 0.0, 3.0, 0.0]]])
    moved = move_boxes(box, prev_from_ego[None], torch.tensor([0.5]))[0, 0]
    assert torch.allclose(moved, torch.tensor([-5.5, -18.0, 1.0, 4, 2, 1.5, -turn, 0.0, -3.0]).float(), atol=1e-5)


def test_an_axis_without_length_lies_along_x_and_a_decided_one_is_as_said():
    code = torch.zeros(5, 12)
    code[:, 6:8] = torch.tensor([[1e-4, -1e-4], [-1e-4, -1e-4], [0.0, 0.0], [0.05, 0.0], [-0.6, 0.8]])
    code[:, 9] = 1.0
    yaw = decode_boxes(code, torch.zeros(5, 3))[:, 6]
    assert yaw[:3].tolist() == pytest.approx([0.0] * 3, abs=2e-3)
    assert yaw[3:].tolist() == pytest.approx([np.pi / 4, np.arctan2(-0.6, 0.8) / 2], abs=1e-5)


def test_a_point_leaves_a_picture_gradually():
    rig = default_rig(96, 256)
    camera = rig["left_forward"]
    lenses = read_lenses(step_of(Rig((camera,))))
    columns = np.array([100.0, 1.28 - 0.5, 0.64 - 0.5, 0.0064 - 0.5, -1.0])  # a hundredth of 256 pixels is 2.56
    points = transform_points(camera.ego_from_cam, camera.unproject(np.stack([columns, np.full(5, 40.0)], -1)) * 12.0)
    planes = torch.from_numpy(points).float()[None].unbind(-1)
    assert best_views(planes, lenses).visible_BVP[0, 0].tolist() == pytest.approx([1.0, 0.5, 0.25, 0.0025, 0.0], abs=2e-3)


def test_a_point_leaves_a_fisheyes_largest_angle_gradually():
    camera = fisheye_camera("front", np.deg2rad(200.0), 200, 160, ego_from_cam_looking((0, 0, 1.0), 0.0))
    step = step_of(Rig((camera,)))
    step.max_angle_BN[:] = np.pi / 2
    degrees = np.array([60.0, 89.0, 89.5, 89.99, 90.5])  # a pixel is a degree; a hundredth of 200 pixels is 2
    yaw = np.deg2rad(degrees)
    points = np.stack([10.0 * np.cos(yaw), 10.0 * np.sin(yaw), np.ones(5)], -1)
    views = best_views(torch.from_numpy(points).float()[None].unbind(-1), read_lenses(step))
    assert views.visible_BVP[0, 0].tolist() == pytest.approx([1.0, 0.5, 0.25, 0.005, 0.0], abs=5e-3)
