"""Is what stands around the road found from pictures? Small scenes with answers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import KDTree

from labeling.clip_labels import label_clip
from labeling.reconstruction.carving import CellGrid
from labeling.reconstruction.command import reconstruct_layer
from labeling.reconstruction.consistency import confirmed
from labeling.reconstruction.filling import fill_depth
from labeling.reconstruction.fusion import SurfaceFusion
from labeling.reconstruction.ground import PathGround, ground_depth
from labeling.reconstruction.lens_depth import lens_depth
from labeling.reconstruction.neighbours import choose_neighbours
from labeling.reconstruction.road import fit_road, grouped_median, paint_road, read_road, write_road
from labeling.reconstruction.scene import movers_of
from labeling.reconstruction.settings import (
    CarveSettings,
    ConsistencySettings,
    FillSettings,
    MatchSettings,
    ReconstructionSettings,
    RoadSettings,
)
from labeling.reconstruction.sweep import DepthMap, semi_global, sweep_view
from labeling.reconstruction.views import PinholeView, clip_views, hide_boxes, key_frames, pinhole_cameras
from labeling.reconstruction.voxels import frame_occupancy, static_scene
from labeling.settings import LabelSettings
from scenes.boxes import Boxes
from scenes.clips import Clip, View, write_clip
from scenes.errors import ConfigError, DataError
from scenes.geometry import NS_PER_S, Trajectory, rigid_from_parts
from scenes.layers import (
    OCCUPANCY_CLASS_OFFSET,
    OCCUPANCY_FREE,
    OCCUPANCY_OTHER,
    OCCUPANCY_ROAD,
    OCCUPANCY_UNKNOWN,
    LabelLayer,
    VoxelGrid,
    write_layer,
)
from scenes.rigs import Rig, ego_from_cam_looking, fisheye_camera, pinhole_camera

FLAT = PathGround(np.array([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 1.0]] * 2), KDTree(np.array([[0.0, 0.0], [5.0, 0.0]])))
"""A flat road along x at z = 0."""
MATCH = MatchSettings(neighbours=2, levels=40, near_m=3.0, far_m=40.0, ground_heights_m=(0.0,))


def view_of_wall(y_m: float, stamp: int, wall_m: float = 8.0, size_px: tuple[int, int] = (128, 96)) -> PinholeView:
    """A camera at (0, y, 1.5) that looks along world x at a wall of noise, `wall_m` away; the noise has cells of 12 cm."""
    camera = pinhole_camera("front", np.deg2rad(60), *size_px, ego_from_cam_looking((0, 0, 1.5), 0.0))
    pinhole = pinhole_cameras(camera, MATCH)[0]
    world_from_ego = rigid_from_parts(np.eye(3), np.array([0.0, y_m, 0.0]))
    world_from_pin = world_from_ego @ camera.ego_from_cam @ pinhole.cam_from_pin
    shape = pinhole.size_hw
    view = PinholeView(stamp, stamp, pinhole, world_from_pin, world_from_ego, np.zeros((*shape, 3), np.uint8), np.ones(shape, bool))
    points_world = view.points_world(np.full(shape, wall_m, dtype=np.float32))
    noise = np.random.default_rng(5).uniform(40, 215, (200, 200))
    cell_yz = points_world[..., 1:] / 0.12 + 100
    low = np.floor(cell_yz).astype(int)
    share = cell_yz - low
    grey = sum(
        noise[low[..., 0] + a, low[..., 1] + b] * np.abs(1 - a - share[..., 0]) * np.abs(1 - b - share[..., 1])
        for a in (0, 1)
        for b in (0, 1)
    )
    view.image_rgb = np.repeat(np.asarray(grey)[..., None], 3, axis=-1).astype(np.uint8)
    return view


def test_a_fisheye_becomes_two_pinholes_that_look_to_both_sides():
    """130 degrees are cut in two: the right half looks 32.5 degrees to the right; 10 m along its axis lie 5.37 m right, 8.43 m ahead."""
    camera = fisheye_camera("eye", np.deg2rad(130), 260, 120, ego_from_cam_looking((0, 0, 1.5), 0.0))
    left, right = pinhole_cameras(camera, MatchSettings())
    assert (left.name, right.name) == ("eye_0", "eye_1")
    ahead_cam = right.cam_from_pin[:3, :3] @ np.array([0.0, 0.0, 10.0])
    np.testing.assert_allclose(ahead_cam, [10 * np.sin(np.deg2rad(32.4)), 0.0, 10 * np.cos(np.deg2rad(32.4))], atol=0.05)
    columns, _, inside = right.lookup
    # The fisheye has 2 px a degree: 32.4 degrees right of the middle (129.5) is column 194.3.
    middle = np.round(right.center_px).astype(int)[::-1]
    assert columns[tuple(middle)] == pytest.approx(129.5 + 64.75, abs=1.0)
    assert inside.mean() > 0.7


def test_a_textured_wall_is_found_at_its_depth():
    """A wall 8 m away, seen from two places 0.4 m apart: every matched depth is 8 m."""
    views = [view_of_wall(0.0, 0), view_of_wall(0.4, 1)]
    assert choose_neighbours(views[0], views, FLAT, MATCH) == [views[1]]
    found = sweep_view(views[0], [views[1]], FLAT, MATCH)
    known = found.depth_m > 0
    assert known.mean() > 0.6
    assert np.median(np.abs(found.depth_m[known] - 8.0)) < 0.08
    assert np.quantile(np.abs(found.depth_m[known] - 8.0), 0.9) < 0.4


def test_what_is_hidden_in_a_neighbour_is_not_matched():
    views = [view_of_wall(0.0, 0), view_of_wall(0.4, 1)]
    views[1].usable[:] = False
    assert not sweep_view(views[0], [views[1]], FLAT, MATCH).depth_m.any()


def test_the_ground_is_met_where_trigonometry_says():
    """From 1.5 m above it, the ray that falls 0.25 for 1 ahead meets flat ground 6 m ahead; ground raised by 0.5 m after 4 m."""
    view = view_of_wall(0.0, 0)
    focal, center_v = view.camera.focal_px, view.camera.center_px[1]
    row = round(center_v + 0.25 * focal)
    falls = (row - center_v) / focal
    assert ground_depth(view, FLAT, 0.0, 50.0)[row, 60] == pytest.approx(1.5 / falls, rel=1e-3)
    assert ground_depth(view, FLAT, 0.5, 50.0)[row, 60] == pytest.approx(1.0 / falls, rel=1e-3)
    assert ground_depth(view, FLAT, 0.0, 50.0)[0, 60] == 0


def test_scan_lines_prefer_smooth_depth():
    """One pixel slightly prefers plane 3 among neighbours that prefer plane 1: it follows them."""
    volume = np.ones((5, 5, 5), dtype=np.float32)
    volume[..., 1] = 0.0
    volume[2, 2, 1], volume[2, 2, 3] = 0.2, 0.1
    assert (semi_global(volume, 0.1, 0.3).argmin(-1) == 1).all()
    volume[2, 2, 1], volume[2, 2, 3] = 20.0, 0.0
    assert semi_global(volume, 0.1, 0.3).argmin(-1)[2, 2] == 3


def wall_map(y_m: float, stamp: int, depth: float) -> DepthMap:
    view = view_of_wall(y_m, stamp)
    return DepthMap(view, np.full(view.grey.shape, depth, dtype=np.float32), np.zeros(view.grey.shape, bool))


def test_only_depths_that_others_confirm_are_kept():
    """Three views say 8 m, one says 6 m: with two confirmations needed the first three stand, the fourth falls."""
    maps = [wall_map(0.4 * k, k, 8.0) for k in range(3)] + [wall_map(1.2, 3, 6.0)]
    settings = ConsistencySettings(confirmations=2)
    assert confirmed(maps[0], maps, settings, 0.1)[48, 20:100].all()
    assert not confirmed(maps[3], maps, settings, 0.1).any()


def test_a_blank_wall_is_filled_between_its_edges_and_not_beyond():
    """The wall (dark) is known at 5 m on its rim only, the ground beside it (bright) is known to be ground."""
    image = np.full((64, 96, 3), 200, dtype=np.uint8)
    image[10:50, 20:60] = 40
    depth = np.zeros((64, 96), dtype=np.float32)
    depth[12:48, 22:26] = depth[12:48, 54:58] = 5.0
    is_ground = np.zeros((64, 96), dtype=bool)
    depth[::4, 70:] = 9.0
    is_ground[::4, 70:] = True
    filled = fill_depth(image, depth, is_ground, np.full((64, 96), 9.0, dtype=np.float32), FillSettings())
    np.testing.assert_allclose(filled[14:46, 28:52], 5.0, rtol=0.02)
    np.testing.assert_allclose(filled[14:46, 64:94], 9.0, rtol=1e-6)


def test_one_ray_frees_what_it_passes_and_fills_where_it_ends():
    """A ray from (0.5, 0.5, 0.5) along x that ends at x = 6.5 in cells of 1 m: cells 0 to 4 are free, 6 is filled, 7 is unknown."""
    cells = CellGrid(np.zeros(3), np.ones(3), (10, 1, 1))
    cells.add_rays(np.array([0.5, 0.5, 0.5]), np.array([[6.5, 0.5, 0.5]] * 2), np.array([True, True]), np.ones(2), margin=0.05)
    filled, free = cells.state(CarveSettings(min_hits=2.0, min_passes=1.0))
    assert free[:5, 0, 0].all()
    assert np.flatnonzero(filled[:, 0, 0]).tolist() == [6]
    assert not free[6:].any()


def test_a_weighted_median_by_group():
    """Group 0: 1, 2, 9 -> 2. Group 2: 5 (weight 3) and 7 (weight 1) -> 5. Group 1 is empty."""
    median, total = grouped_median(np.array([0, 2, 0, 0, 2]), np.array([9.0, 7.0, 1.0, 2.0, 5.0]), np.array([1.0, 1.0, 1.0, 1.0, 3.0]), 3)
    assert median.tolist() == [2.0, 0.0, 5.0]
    assert total.tolist() == [3.0, 0.0, 4.0]


def road_of(points_world: np.ndarray):
    weight = np.ones(len(points_world))
    road = fit_road(points_world, weight, FLAT, RoadSettings(reach_m=10.0))
    return paint_road(road, points_world, np.where(points_world[:, 1:2] > 5.0, [[40, 160, 40]], [[90, 90, 90]]), weight, FLAT)


def test_a_sloping_road_is_found_through_outliers_and_over_a_hole(tmp_path):
    """The ground rises 3 cm a metre to the left and lies 10 cm above the path's planes; a fifth of the points lie 30 cm higher; x from
    2 to 4 m was not seen."""
    rng = np.random.default_rng(2)
    xy = rng.uniform([-9, -9], [14, 9], (12000, 2))
    z = 0.1 + 0.03 * xy[:, 1] + np.where(rng.random(len(xy)) < 0.2, 0.3, rng.normal(0, 0.01, len(xy)))
    seen = (xy[:, 0] < 2) | (xy[:, 0] > 4)
    road = road_of(np.concatenate([xy, z[:, None]], axis=1)[seen])
    places = np.array([[0.0, 0.0], [8.0, 5.0], [3.0, -4.0]])
    np.testing.assert_allclose(road.height(places), [0.1, 0.25, -0.02], atol=0.015)
    assert road.look_up(road.known, places).tolist() == [True, True, False]
    assert road.look_up(road.is_road, np.array([[0.0, 3.0], [0.0, 7.0]])).tolist() == [True, False]  # grey as below the path, green
    write_road(tmp_path / "road.npz", road)
    assert np.array_equal(read_road(tmp_path / "road.npz").height_world_m, road.height_world_m)


def test_voxels_hold_road_things_and_labelled_objects():
    """A grid of 1 m voxels, 0.5 m high, around an ego vehicle at the origin: the road in the voxel below z = 0, a filled cell at
    (4.25, 0.25, 0.9), free space elsewhere above, and a car with its velocity on top."""
    grid = VoxelGrid((-8.0, -8.0, -1.0), (1.0, 1.0, 0.5), (16, 16, 8))
    xy = np.stack(np.meshgrid(np.arange(-9, 9, 0.2), np.arange(-9, 9, 0.2)), axis=-1).reshape(-1, 2)
    road = road_of(np.concatenate([xy, np.zeros((len(xy), 1))], axis=1))
    cells = CellGrid(np.array([-10.0, -10.0, -1.0]), np.array([0.5, 0.5, 0.25]), (40, 40, 17))
    cells.passes[:] = 10.0
    cells.hits[28, 20, 7] = 50.0
    settings = CarveSettings()
    car = Boxes.make([[-4.0, 4.0, 0.75, 3.0, 1.6, 1.4, 0.0, 3.0, 0.0]], [0], track_id=[1])
    occupancy = frame_occupancy(static_scene(cells, road, settings), np.eye(4), car, settings, grid)
    assert occupancy.state[12, 8, 3] == OCCUPANCY_OTHER
    assert occupancy.state[10, 8, 2:5].tolist() == [OCCUPANCY_FREE] * 3
    assert occupancy.state[8, 8, 1] == OCCUPANCY_ROAD
    assert occupancy.state[8, 8, 0] == OCCUPANCY_UNKNOWN
    assert occupancy.state[4, 12, 3] == OCCUPANCY_CLASS_OFFSET
    assert occupancy.flow_mps[4, 12, 3].tolist() == [3.0, 0.0]
    unsure = frame_occupancy(static_scene(cells, road, settings), np.eye(4), replace(car, ignore=np.array([True])), settings, grid)
    assert unsure.state[4, 12, 3] == OCCUPANCY_UNKNOWN


def test_moving_boxes_are_cut_out_and_parked_ones_are_not():
    """A box 6 m ahead, 2 m wide and 1.5 m high, hides the middle of the picture; a track that moves once counts as moving always."""
    view = view_of_wall(0.0, 0)
    hide_boxes(view, Boxes.make([[7.0, 0.0, 1.5, 2.0, 2.0, 1.5, 0.0, 5.0, 0.0]], [0]), 0.0, 0.0)
    half_px = view.camera.focal_px * 1.0 / 6.0
    u, v = (round(c) for c in view.camera.center_px)
    assert not view.usable[v, u] and not view.usable[v, round(u + half_px - 2)] and view.usable[v, round(u + half_px + 3)]
    beside = view_of_wall(0.0, 0)
    hide_boxes(beside, Boxes.make([[0.0, 1.5, 1.5, 8.0, 1.0, 3.0, 0.0, 5.0, 0.0]], [0]), 0.0, 0.0)
    assert not beside.usable[v, 2] and beside.usable[v, u]
    boxes = {
        0: Boxes.make([[9, 0, 1, 4, 2, 1.5, 0, 0, 0], [9, 9, 1, 4, 2, 1.5, 0, np.nan, np.nan]], [0, 0], track_id=[1, 2]),
        1: Boxes.make([[9, 0, 1, 4, 2, 1.5, 0, 2, 0]], [0], track_id=[1]),
    }
    assert [movers_of(boxes, 0.5)[k].track_id.tolist() for k in (0, 1)] == [[1], [1]]


def test_depth_goes_back_through_the_lens():
    """A wall 8 m ahead, seen by the camera itself: distance along the ray is 8 m on the axis and 8 / cos(a) at the angle a."""
    found = wall_map(0.0, 0, 8.0)
    camera = found.view.camera.parent.resize(32, 24)
    distance = lens_depth(camera, [(found, found.depth_m)])
    assert distance[12, 16] == pytest.approx(8.0, rel=0.01)
    ray = camera.unproject(np.array([2.0, 12.0]))
    assert distance[12, 2] == pytest.approx(8.0 / ray[2], rel=0.01)


def wall_clip(path) -> Clip:
    """Three pictures of the wall, the camera 0.4 m further to the left each time."""
    views = [view_of_wall(0.4 * k, k) for k in range(3)]
    camera, poses = views[0].camera.parent, np.stack([view.world_from_ego_at_cam for view in views])
    camera = replace(camera, width_px=views[0].grey.shape[1], height_px=views[0].grey.shape[0])
    camera = replace(camera, cx_px=views[0].camera.center_px[0], cy_px=views[0].camera.center_px[1])
    stamps = np.arange(3, dtype=np.int64) * NS_PER_S
    with write_clip(path, "wall", Rig((camera,)), Trajectory(stamps, poses), {}) as writer:
        for k, view in enumerate(views):
            image = writer.write_image("front", k, view.image_rgb, 98)
            writer.add_frame(int(stamps[k]), poses[k], [View("front", int(stamps[k]), poses[k], image)])
    return Clip.open(path)


def test_a_clip_is_reconstructed_into_a_layer(tmp_path):
    """A camera passes a wall 8 m ahead: its voxels are filled, the space before it is free, the cloud lies on it, depth is 8 m."""
    clip = wall_clip(tmp_path / "wall")
    fusion = replace(ReconstructionSettings().fusion, voxel_m=0.1)
    settings = replace(ReconstructionSettings(), match=MATCH, every_s=0.0, every_m=0.1, fusion=fusion)
    counts = reconstruct_layer(clip, "auto@scene", None, settings)
    assert counts["views"] == 3 and counts["points"] > 1000
    layer = clip.layer("auto@scene")
    occupancy, depth = layer.occupancy(1), layer.depth_m(1, "front")
    assert occupancy is not None and depth is not None
    column = occupancy.state[40:52, 40, 5]  # x from 0 to 12 m, y 0 to 1 m, z 1.5 to 2 m
    assert (column[2:7] == OCCUPANCY_FREE).all()
    assert column[8] == OCCUPANCY_OTHER or column[7] == OCCUPANCY_OTHER
    assert (column[10:] == OCCUPANCY_UNKNOWN).all()
    assert np.median(depth[depth > 0][:]) == pytest.approx(8.2, abs=0.4)
    header, _, body = (clip.path / "labeling" / "auto@scene" / "reconstruction" / "cloud.ply").read_bytes().partition(b"end_header\n")
    assert b"property double x" in header
    x = np.frombuffer(body, dtype=np.dtype([("xyz", "<f8", 3), ("rgb", "u1", 3)]))["xyz"][:, 0]
    assert np.median(np.abs(x - 8.0)) < 0.1
    assert (clip.path / "labeling" / "auto@scene" / "reconstruction" / "mesh.ply").stat().st_size > 1000


def test_a_labeling_job_reconstructs_once(tmp_path):
    """With `reconstruct` the written layer has voxels; the second run reuses the stage."""
    clip = wall_clip(tmp_path / "wall")
    box = Boxes.make([[5.0, -3.0, 0.8, 1.0, 1.0, 1.6, 0.0, 0.0, 0.0]], [0], track_id=[0], score=[0.9])
    write_layer(clip.path, LabelLayer("model@x", dict.fromkeys(range(3), box)))
    scene = replace(ReconstructionSettings(), match=MATCH, every_s=0.0, every_m=0.1)
    settings = LabelSettings("auto@job", evidence="model@x", pictures=False, reconstruct=True, reconstruction=scene)
    first = {stage.name: stage for stage in label_clip(clip.path, settings)}
    assert first["reconstruction"].counts["views"] == 3 and not first["reconstruction"].reused
    occupancy = clip.layer("auto@job").occupancy(1)
    assert occupancy is not None and occupancy.state[45, 37, 3] == OCCUPANCY_CLASS_OFFSET
    assert {stage.name: stage.reused for stage in label_clip(clip.path, settings)}["reconstruction"]


def test_a_clip_without_parallax_says_so(tiny_clip_path):
    """The tiny clip's pictures are noise: nothing in one is found again in another."""
    settings = replace(ReconstructionSettings(), match=replace(MATCH, levels=16), every_s=0.0)
    with pytest.raises(DataError, match="no depth that two of them agree on"):
        reconstruct_layer(Clip.open(tiny_clip_path), "auto@scene", "truth", settings)
    assert "auto@scene" not in Clip.open(tiny_clip_path).layer_names


def test_a_job_without_parallax_writes_the_boxes_and_a_note(tiny_clip_path):
    settings = LabelSettings("auto@job", evidence="truth", pictures=False, reconstruct=True)
    settings = replace(settings, reconstruction=replace(ReconstructionSettings(), match=replace(MATCH, levels=16)))
    stage = next(stage for stage in label_clip(tiny_clip_path, settings) if stage.name == "reconstruction")
    assert stage.counts == {"views": 0} and "cannot be reconstructed" in stage.notes[0]
    assert Clip.open(tiny_clip_path).layer("auto@job").occupancy(0) is None


def test_frames_without_motion_are_left_out(tiny_clip_path):
    """The tiny clip drives 2.5 m a frame: all four frames count; every 4 m only every second."""
    clip = Clip.open(tiny_clip_path)
    assert key_frames(clip, 0.0, 0.5, 60) == [0, 1, 2, 3]
    assert key_frames(clip, 0.0, 4.0, 60) == [0, 2]
    assert len(key_frames(clip, 0.0, 0.5, 2)) == 2
    views = list(clip_views(clip, [0], MATCH, {}, 0.3))
    assert len({view.camera.name for view in views}) == len(views) >= 3
    with pytest.raises(ConfigError, match="at least"):
        ReconstructionSettings(every_s=-1.0)


def test_a_map_in_which_open3d_would_touch_no_block_adds_nothing(tmp_path):
    fusion = SurfaceFusion(ReconstructionSettings().fusion, np.zeros(3))
    depth_map = wall_map(0.0, 0, 0.0)
    depth_map.depth_m[5, 6] = 8.0  # not on a fourth row and column: Open3D raises for a map like this
    fusion.add(depth_map, np.zeros_like(depth_map.depth_m))
    assert len(fusion.points()[0]) == 0
    with pytest.raises(DataError, match="no depth was confirmed"):
        fusion.write(tmp_path)
    assert not list(tmp_path.iterdir())
