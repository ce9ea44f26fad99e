"""Do boxes, lanes and voxels land on the pixels where they belong?"""

import numpy as np
import pytest

from scenes.boxes import Boxes
from scenes.cameras import Camera, Lens
from scenes.geometry import transform_points
from scenes.layers import OCCUPANCY_CLASS_OFFSET, Lane, LaneType, Occupancy, VoxelGrid
from scenes.rigs import default_rig, ego_from_cam_looking, fisheye_camera
from scenes.show.bev import pixels_from_above
from scenes.show.draw import bev_view, box_colors, camera_sheet, draw_boxes, draw_lanes, occupancy_view, put_text
from scenes.show.outlines import box_rectangles, boxes_at_capture, cut_at_lens, image_segments, lens_holds, subdivide
from scenes.show.palette import CLASS_RGB, LANE_RGB, track_color
from scenes.show.sheet import driver_order

AHEAD = ego_from_cam_looking((0, 0, 0), 0.0)
CAMERA = Camera("c", Lens.PINHOLE, 100.0, 100.0, 49.5, 39.5, 100, 80, AHEAD)
BLACK = np.zeros((80, 100, 3), dtype=np.uint8)


def car(x, y, z=0.0, length=4.0, width=2.0, height=2.0, yaw=0.0, vx=0.0, vy=0.0) -> Boxes:
    return Boxes.make([[x, y, z, length, width, height, yaw, vx, vy]], [0])


def lit(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of pixels that were painted."""
    rows, columns = np.nonzero(image.max(axis=2) > 100)
    return columns, rows


def test_the_rectangle_of_a_box_by_hand():
    # A cube of 2 m, its near face at 10 m: the near face spans u = 49.5 +- 10 and v = 39.5 +- 10.
    rectangle, seen = box_rectangles(CAMERA, CAMERA.cam_from_ego, car(11, 0, length=2))
    np.testing.assert_allclose(rectangle, [[39.5, 29.5, 59.5, 49.5]], atol=1e-9)
    assert seen.tolist() == [True]


def test_rectangles_are_cut_at_the_border_and_empty_behind():
    boxes = Boxes.concatenate([car(11, 5, length=2), car(-11, 0, length=2), car(11, 30), car(0, 0, length=9)])
    rectangle, seen = box_rectangles(CAMERA, CAMERA.cam_from_ego, boxes)
    np.testing.assert_allclose(rectangle[0], [-0.5, 29.5, 49.5 - 100 * 4 / 12, 49.5], atol=1e-9)
    assert seen.tolist() == [True, False, False, True]  # the last one surrounds the camera
    assert box_rectangles(CAMERA, CAMERA.cam_from_ego, Boxes.empty())[0].shape == (0, 4)


def test_a_box_is_painted_where_it_projects():
    image = draw_boxes(BLACK, CAMERA, CAMERA.cam_from_ego, car(11, 0, length=2))
    columns, rows = lit(image)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (39, 60, 29, 50)  # lines at .5 lie on two pixels
    assert BLACK.max() == 0  # the picture given is left alone


def test_a_line_on_pixel_centres_is_one_pixel_wide():
    camera = Camera("c", Lens.PINHOLE, 100.0, 100.0, 50.0, 40.0, 100, 80, AHEAD)
    columns, rows = lit(draw_boxes(BLACK, camera, camera.cam_from_ego, car(11, 0, length=2), colors=[(255, 255, 255)]))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (40, 60, 30, 50)


def test_the_front_is_shaded():
    towards, away = (draw_boxes(BLACK, CAMERA, CAMERA.cam_from_ego, car(15, 0, length=10, yaw=yaw)) for yaw in (np.pi, 0.0))
    inner = (slice(37, 42), slice(41, 44))  # inside the near face (u 39.5 to 59.5), beside the far one (44.5 to 54.5)
    assert towards[inner].mean() > away[inner].mean() + 5


def test_near_boxes_are_painted_over_far_ones():
    boxes = Boxes.concatenate([car(11, 0, length=2), car(12, 0, length=2)])
    image = draw_boxes(BLACK, CAMERA, CAMERA.cam_from_ego, boxes, colors=[(255, 0, 0), (0, 255, 0)])
    assert image[30, 39, 0] > image[30, 39, 1]


@pytest.mark.parametrize("boxes", [Boxes.empty(), car(-20, 0), car(0.5, 0, length=0.5), car(10, 80)])
def test_nothing_in_sight_paints_nothing(boxes):
    assert draw_boxes(BLACK, CAMERA, CAMERA.cam_from_ego, boxes).max() == 0


def test_a_box_around_the_camera_is_cut_where_the_lens_ends():
    image = draw_boxes(BLACK, CAMERA, CAMERA.cam_from_ego, car(0, 0, length=8, width=2, height=1))
    columns, _ = lit(image)
    assert columns.min() == 0 and columns.max() == 99  # its edges run out of the picture on both sides


@pytest.mark.parametrize("camera", default_rig().cameras, ids=lambda camera: camera.name)
def test_every_painted_edge_lies_on_its_box(camera):
    """Segments of a box that surrounds the car stay within the lens and join on."""
    points = subdivide(transform_points(camera.cam_from_ego, np.array([[-30.0, -8, 0], [40, -8, 0], [40, 9, 0], [-30, 9, 0]])), 0.5)
    starts, _, left = cut_at_lens(camera, points[:-1], points[1:])
    assert (np.arctan2(np.hypot(*starts[left, :2].T), starts[left, 2]) <= camera.max_angle_rad + 1e-6).all()
    pixels = image_segments(camera, points[:-1], points[1:])
    visible = camera.project(points)[1]
    assert len(pixels) >= visible.sum() - 2
    assert np.abs(pixels).max() < 20 * max(camera.width_px, camera.height_px)


def test_a_straight_edge_bends_in_a_fisheye():
    camera = fisheye_camera("f", np.deg2rad(150), 300, 200, AHEAD)
    points = transform_points(camera.cam_from_ego, subdivide(np.array([[2.0, -6, 1], [2, 6, 1]]), 0.2))
    assert lens_holds(camera, points).all()
    v = image_segments(camera, points[:-1], points[1:])[:, 0, 1]
    assert v.min() < v[0] - 10  # higher in the middle than at its ends


def test_lanes_are_painted_in_their_colour():
    lane = Lane(0, LaneType.DIVIDER, np.array([[2.0, 0, -1], [50, 0, -1]]))
    image = draw_lanes(BLACK, CAMERA, CAMERA.cam_from_ego, [lane])
    columns, rows = lit(image)
    assert set(columns) <= {49, 50} and rows.max() == 79 and rows.min() > 39
    brightest = image[70, 49:51].max(axis=0).astype(float)
    assert np.allclose(brightest / brightest[0], np.array(LANE_RGB[LaneType.DIVIDER]) / LANE_RGB[LaneType.DIVIDER][0], atol=0.05)


def test_boxes_move_to_the_instant_of_the_picture():
    moved = boxes_at_capture(Boxes.concatenate([car(10, 0, vx=20, vy=-2), car(10, 0, vx=np.nan, vy=np.nan)]), -0.05)
    np.testing.assert_allclose(moved.box[:, :2], [[9, 0.1], [10, 0]])


def test_pixels_from_above_by_hand():
    # 100 pixels for 2 x 25 m: two pixels a metre, the origin between pixels 49 and 50; 10 m ahead and 5 m left.
    np.testing.assert_allclose(pixels_from_above(np.array([10.0, 5.0]), 100, 25.0), [49.5 - 10, 49.5 - 20])


def test_the_view_from_above_shows_the_car_where_it_is(tiny_clip):
    layer = tiny_clip.layer("truth")
    empty = bev_view(tiny_clip, 0, [], size_px=200, range_m=25)
    difference = np.abs(bev_view(tiny_clip, 0, [layer], size_px=200, range_m=25, trail_s=0).astype(int) - empty).max(axis=2)
    difference[:40] = 0  # the legend
    u, v = pixels_from_above(np.array([15.0, 2.0]), 200, 25.0)
    assert difference[round(v) - 10 : round(v) + 11, round(u) - 5 : round(u) + 6].max() > 100
    assert difference[150:, 120:].max() < 100  # nothing to the right behind


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_camera_sheet_has_a_tile_for_every_camera(tiny_clip, layers):
    layer = tiny_clip.layer("truth")
    sheet = camera_sheet(tiny_clip, 2, [layer] * layers, tile_width_px=128, labels=True)
    assert sheet.dtype == np.uint8 and sheet.shape == (24 + 2 * (20 + 96 + 4), 2 * 128 + 4, 3)


def test_an_unlabelled_frame_is_drawn_without_boxes(tiny_clip):
    layer = tiny_clip.layer("truth")
    layer.boxes_world.clear()
    layer.lanes.clear()
    plain = camera_sheet(tiny_clip, 1, [], tile_width_px=64)
    np.testing.assert_array_equal(camera_sheet(tiny_clip, 1, [layer], tile_width_px=64)[24:], plain[24:])
    assert bev_view(tiny_clip, 1, [layer], size_px=64).shape == (64, 64, 3)


def test_cameras_stand_as_the_driver_looks_round():
    names = [camera.name for camera in driver_order(list(default_rig().cameras))]
    assert names[0] == "left_forward" and names[4:] == ["right_forward", "left_rear", "rear", "right_rear"]


def test_colours_tell_tracks_apart_and_stay():
    assert track_color(5) == track_color(5) != track_color(6)
    boxes = Boxes.make(np.ones((2, 9)), [0, 5], track_id=[-1, 3])
    assert box_colors(boxes, "track") == [CLASS_RGB["car"], track_color(3)]
    assert box_colors(boxes) == [CLASS_RGB["car"], CLASS_RGB["pedestrian"]]


def small_world() -> Occupancy:
    grid = VoxelGrid((-8.0, -8.0, -1.0), (1.0, 1.0, 0.5), (16, 16, 4))
    state = np.zeros(grid.shape, dtype=np.uint8)
    state[12, 4, 1:3] = OCCUPANCY_CLASS_OFFSET  # a car at x = 4.5, y = -3.5: ahead on the right
    return Occupancy(grid, state, np.zeros((*grid.shape, 2), np.float32))


def test_voxels_from_above_by_hand():
    image = occupancy_view(small_world(), size_px=160, oblique=False)
    assert image[30:40, 110:120].reshape(-1, 3).min(axis=0).tolist() == image[35, 115].tolist()
    assert image[35, 115, 2] > 150 and image[35, 35, 2] < 60


def test_voxels_obliquely_stand_ahead_on_the_right():
    image = occupancy_view(small_world(), size_px=160)
    blue = (image[..., 2].astype(int) - image[..., 0] > 60) & (np.arange(160)[:, None] > 30)
    rows, columns = np.nonzero(blue)
    assert len(rows) and columns.mean() > 85 and rows.mean() < 80


def test_no_voxels_at_all_is_a_picture_too():
    empty = small_world()
    empty.state[:] = 0
    assert occupancy_view(empty, size_px=64).shape == (64, 64, 3)


def test_text_stays_inside_the_picture():
    image = np.zeros((30, 60, 3), dtype=np.uint8)
    put_text(image, "a very long text that does not fit — at all", (-50, 500))
    put_text(image, "x", (500, -50))
    assert image.max() > 100
