"""Does the network's picture agree with its calibration to the pixel?"""

import cv2
import numpy as np
import pytest

from scenes.clips import Clip
from scenes.errors import DataError
from scenes.packing import network_camera, pack_frame, resize_and_crop
from scenes.rigs import default_rig, ego_from_cam_looking, pinhole_camera


@pytest.mark.parametrize("size_hw", [(96, 256), (200, 256), (64, 704), (256, 704)])
@pytest.mark.parametrize("name", ["front", "front_fisheye"])
def test_projection_follows_the_resized_and_cropped_pixels(name, size_hw):
    camera = default_rig(480, 800)[name]
    small, (width, height, left, top) = network_camera(camera, *size_hw)
    rng = np.random.default_rng(0)
    rays = camera.unproject(np.stack([rng.uniform(0, 799, 200), rng.uniform(0, 479, 200)], axis=1))
    scale = np.array([width / 800, height / 480])
    expected = (camera.project(rays)[0] + 0.5) * scale - 0.5 - [left, top]
    np.testing.assert_allclose(small.project(rays)[0], expected, atol=1e-8)
    assert (small.height_px, small.width_px) == size_hw


@pytest.mark.parametrize("size_hw", [(32, 80), (70, 80), (30, 64)])
def test_a_dot_in_the_picture_lands_where_the_network_camera_projects_it(size_hw):
    camera = pinhole_camera("c", 1.2, 320, 240, ego_from_cam_looking((0, 0, 0), 0.0))
    image = np.zeros((240, 320, 3), dtype=np.uint8)
    for u, v in ((123, 170), (40, 200), (300, 150)):
        image[v - 8 : v + 9, u - 8 : u + 9] = 250
        small, plan = network_camera(camera, *size_hw)
        packed = resize_and_crop(image, plan, size_hw[0])[:, :, 0].astype(float)
        assert packed.shape == size_hw
        rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
        centroid = np.array([(columns * packed).sum(), (rows * packed).sum()]) / packed.sum()
        pixel, _ = small.project(camera.unproject(np.array([float(u), float(v)])))
        np.testing.assert_allclose(pixel, centroid, atol=0.06)
        image[:] = 0


def test_rows_are_cut_from_the_sky_and_padded_there():
    image = np.arange(60, dtype=np.uint8).reshape(60, 1, 1).repeat(80, axis=1).repeat(3, axis=2)
    assert resize_and_crop(image, (80, 60, 0, 20), 40)[0, 0, 0] == 20
    padded = resize_and_crop(image, (80, 60, 0, -10), 70)
    assert padded.shape == (70, 80, 3) and padded[:10].max() == 0 and padded[-1, 0, 0] == 59


def test_a_packed_frame_by_hand(tiny_clip):
    packed = pack_frame(tiny_clip, 2, (48, 64), previous=1)
    assert packed.images_NHW3.shape == (3, 48, 64, 3) and packed.images_NHW3.dtype == np.uint8
    assert packed.alive_N.tolist() == [1, 0, 1] and packed.lens_N.tolist() == [0, 0, 1]
    np.testing.assert_allclose(packed.time_offset_N, [-0.02, 0.0, 0.02], atol=1e-7)
    assert float(packed.dt) == pytest.approx(0.5)
    assert packed.images_NHW3[1].max() == 0
    np.testing.assert_array_equal(packed.images_NHW3[0], tiny_clip.image(2, "front"))
    # The ego drives 5 m/s forwards for half a second: its present origin lay 2.5 m ahead in the frame before.
    assert packed.prev_from_ego_44[0, 3] == pytest.approx(2.5, abs=0.01)
    np.testing.assert_allclose(packed.cam_from_ego_N44[0], tiny_clip.cam_from_ego_at_ref(2, "front"), atol=1e-6)


def test_the_first_step_has_no_past(tiny_clip):
    packed = pack_frame(tiny_clip, 0, (24, 32))
    assert float(packed.dt) == 0
    np.testing.assert_array_equal(packed.prev_from_ego_44, np.eye(4, dtype=np.float32))


def test_an_unreadable_picture_stops_or_counts_as_dead(tiny_clip_path):
    cv2.imwrite(str(tiny_clip_path / "images" / "front" / "000000.jpg"), np.zeros((10, 10, 3), np.uint8))
    clip = Clip.open(tiny_clip_path)
    with pytest.raises(DataError, match="expected 64x48"):
        pack_frame(clip, 0, (24, 32))
    packed = pack_frame(clip, 0, (24, 32), strict=False)
    assert packed.alive_N.tolist() == [0, 1, 1] and packed.images_NHW3[0].max() == 0
