"""Do points land on the pixels worked out by hand, and does OpenCV agree about both lenses?"""

import cv2
import numpy as np
import pytest

from scenes.cameras import Camera, Lens
from scenes.errors import DataError
from scenes.geometry import transform_points
from scenes.rigs import Rig, default_rig, ego_from_cam_looking, fisheye_camera, pinhole_camera

SIZE = {"width_px": 100, "height_px": 80}
AHEAD = ego_from_cam_looking((0, 0, 0), 0.0)


def simple_camera(lens: Lens = Lens.PINHOLE, distortion=(), ego_from_cam=AHEAD) -> Camera:
    return Camera("c", lens, 100.0, 100.0, 49.5, 39.5, ego_from_cam=ego_from_cam, distortion=distortion, **SIZE)


def see(camera: Camera, point_ego) -> tuple[np.ndarray, bool]:
    pixel, visible = camera.project(transform_points(camera.cam_from_ego, np.array(point_ego, dtype=float)))
    return pixel, bool(visible)


def test_10_m_ahead_and_1_m_left_lands_10_pixels_left_of_the_middle():
    pixel, visible = see(simple_camera(), (10, 1, 0))
    np.testing.assert_allclose(pixel, [39.5, 39.5], atol=1e-9)
    assert visible


def test_2_m_up_lands_20_pixels_higher():
    np.testing.assert_allclose(see(simple_camera(), (10, 0, 2))[0], [49.5, 19.5], atol=1e-9)


def test_a_camera_to_the_left_sees_what_is_ahead_on_its_right():
    # Looks along ego +y from (0, 1, 1); a point 1 m ahead of the ego and 10 m beyond the camera lies 0.1 to the right.
    camera = simple_camera(ego_from_cam=ego_from_cam_looking((0, 1, 1), np.pi / 2))
    np.testing.assert_allclose(see(camera, (1, 11, 1))[0], [59.5, 39.5], atol=1e-9)


def test_a_camera_tilted_down_sees_the_road_where_its_axis_meets_it():
    camera = simple_camera(ego_from_cam=ego_from_cam_looking((0, 0, 2), 0.0, np.arctan2(2, 10)))
    np.testing.assert_allclose(see(camera, (10, 0, 0))[0], [49.5, 39.5], atol=1e-9)


def test_brown_conrady_by_hand():
    # x = -0.1, y = 0: r2 = 0.01; radial 1 + 0.1 r2 = 1.001; tangential p2 (r2 + 2 x2) = 0.02 * 0.03 = 0.0006 on x, p1 r2 on y.
    pixel, _ = see(simple_camera(distortion=(0.1, 0.0, 0.01, 0.02)), (10, 1, 0))
    np.testing.assert_allclose(pixel, [49.5 + 100 * (-0.1001 + 0.0006), 39.5 + 100 * 0.01 * 0.01], atol=1e-9)


def test_equidistant_fisheye_by_hand():
    pixel, _ = see(simple_camera(Lens.FISHEYE), (5, 2, 0))  # angle atan(0.4) = 0.380506 to the left
    np.testing.assert_allclose(pixel, [49.5 - 38.0506377, 39.5], atol=1e-6)
    bent, _ = see(simple_camera(Lens.FISHEYE, (0.1,)), (5, 2, 0))  # 0.380506 * (1 + 0.1 * 0.144785) = 0.386015
    np.testing.assert_allclose(bent, [49.5 - 38.6015492, 39.5], atol=1e-4)


def test_a_wide_fisheye_sees_what_lies_beside_and_behind():
    camera = fisheye_camera("f", np.deg2rad(220), 220, 220, AHEAD)  # one pixel a degree
    pixel, visible = see(camera, (0, 3, 0))
    np.testing.assert_allclose(pixel, [109.5 - 90, 109.5], atol=1e-9)
    assert visible
    pixel, visible = see(camera, (-np.sin(np.deg2rad(10)), np.cos(np.deg2rad(10)), 0))
    np.testing.assert_allclose(pixel, [109.5 - 100, 109.5], atol=1e-9)
    assert visible


@pytest.mark.parametrize("point_ego", [(-10, 0, 0), (0.05, 0, 0), (10, 5.5, 0), (10, -5.5, 0), (10, 0, 4.5)])
def test_behind_too_near_and_beside_the_picture_is_not_visible(point_ego):
    assert not see(simple_camera(), point_ego)[1]


def test_the_picture_ends_half_a_pixel_beyond_its_outer_pixel_centres():
    camera = simple_camera()
    inside, outside = camera.project(np.array([[-0.4999, 0, 1], [-0.5001, 0, 1]]))[1]
    assert inside and not outside


def test_points_beyond_the_fold_of_the_distortion_are_not_visible():
    camera = simple_camera(distortion=(-0.3,))
    direction = np.array([3.0, 0.0, 1.0])  # x (1 - 0.3 * 9) is negative: folded to the other side of the picture
    assert not camera.project(direction)[1]


def random_points(rng, count=500, spread=0.5):
    depth = rng.uniform(1, 40, count)
    return np.concatenate([rng.uniform(-spread, spread, (count, 2)) * depth[:, None], depth[:, None]], axis=1)


def camera_matrix(camera: Camera) -> np.ndarray:
    return np.array([[camera.fx_px, 0, camera.cx_px], [0, camera.fy_px, camera.cy_px], [0, 0, 1]])


def test_brown_conrady_agrees_with_opencv():
    camera = simple_camera(distortion=(-0.28, 0.07, 0.001, -0.002, 0.01))
    points = random_points(np.random.default_rng(0))
    expected, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera_matrix(camera), np.array(camera.distortion))
    np.testing.assert_allclose(camera.project(points)[0], expected[:, 0], atol=1e-9)


def test_kannala_brandt_agrees_with_opencv():
    camera = simple_camera(Lens.FISHEYE, (0.03, -0.01, 0.004, -0.001))
    points = random_points(np.random.default_rng(1), spread=3.0)
    expected, _ = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), camera_matrix(camera), np.array(camera.distortion))
    np.testing.assert_allclose(camera.project(points)[0], expected[:, 0], atol=1e-9)


@pytest.mark.parametrize("camera", default_rig().cameras, ids=lambda camera: camera.name)
def test_every_pixel_comes_back_from_its_ray(camera):
    u, v = np.meshgrid(np.linspace(-0.5, camera.width_px - 0.5, 21), np.linspace(-0.5, camera.height_px - 0.5, 11))
    pixels = np.stack([u, v], axis=-1)
    rays = camera.unproject(pixels)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-12)
    np.testing.assert_allclose(camera.project(7.0 * rays)[0], pixels, atol=1e-6)


@pytest.mark.parametrize("camera", [default_rig()["front"], default_rig()["front_fisheye"]], ids=lambda camera: camera.name)
def test_resize_and_crop_move_pixels_half_pixel_exactly(camera):
    points = random_points(np.random.default_rng(2), spread=0.3)
    pixels = camera.project(points)[0]
    small = camera.resize(176, 64)
    np.testing.assert_allclose(small.project(points)[0], (pixels + 0.5) / 4 - 0.5, atol=1e-9)
    cut = camera.crop(30, -10, 100, 90)
    np.testing.assert_allclose(cut.project(points)[0], pixels - [30, -10], atol=1e-9)
    assert (cut.width_px, cut.height_px) == (100, 90)


def test_a_camera_comes_back_exactly_from_json():
    for camera in default_rig().cameras:
        again = Camera.from_json(camera.to_json(), "here")
        assert again.to_json() == camera.to_json()
        np.testing.assert_array_equal(again.ego_from_cam, camera.ego_from_cam)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fx_px": 0.0}, "focal length"),
        ({"cy_px": float("nan")}, "finite"),
        ({"width_px": 0}, "size"),
        ({"distortion": [0.0] * 6}, "at most 5"),
        ({"lens": "mirror"}, "unreadable field"),
        ({"ego_from_cam": [[1, 0, 0, 0]] * 4}, "orthonormal"),
        ({"ego_from_cam": None}, "camera 'c'"),
    ],
)
def test_a_broken_calibration_is_refused_with_file_and_camera(change, says):
    values = {**simple_camera().to_json(), **change}
    with pytest.raises(DataError, match=says) as refused:
        Camera.from_json(values, "clip.json")
    assert "clip.json" in str(refused.value) and "'c'" in str(refused.value)


def test_a_calibration_without_a_field_is_refused():
    values = simple_camera().to_json()
    del values["fx_px"]
    with pytest.raises(DataError, match=r"clip\.json.*fx_px"):
        Camera.from_json(values, "clip.json")


def test_a_rig_needs_cameras_with_names_of_their_own():
    camera = pinhole_camera("c", 1.0, 10, 10, AHEAD)
    with pytest.raises(DataError, match="at least one"):
        Rig(())
    with pytest.raises(DataError, match="distinct names"):
        Rig((camera, camera))
    with pytest.raises(DataError, match=r"no camera 'x'; it has \['c'\]"):
        Rig((camera,))["x"]


def test_the_default_rig_covers_the_whole_circle():
    rig = default_rig()
    azimuth = np.deg2rad(np.arange(0, 360, 5))
    points_ego = np.stack([30 * np.cos(azimuth), 30 * np.sin(azimuth), np.full(72, 1.0)], axis=1)
    seen = np.array([camera.project(transform_points(camera.cam_from_ego, points_ego))[1] for camera in rig.cameras])
    assert len(rig) == 8 and seen.any(axis=0).all()
