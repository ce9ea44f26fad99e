"""Do clips come back from disk, frame by frame in any order, as pictures and as video, and are broken pictures refused?"""

import cv2
import numpy as np
import pytest

from scenes.clips import Clip, View, find_clips, read_image, write_clip
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, Trajectory, transform_points
from scenes.rigs import Rig, ego_from_cam_looking, pinhole_camera


def test_the_tiny_clip_comes_back(tiny_clip):
    assert len(tiny_clip) == 4 and tiny_clip.rig.names == ("front", "left", "front_fisheye")
    assert tiny_clip.layer_names == ["truth"] and tiny_clip.info["dataset"] == "tiny"
    frame = tiny_clip.frames[2]
    assert frame.timestamp_ns == NS_PER_S and not frame.views["left"].alive
    assert frame.views["front"].timestamp_ns == NS_PER_S - 20_000_000
    np.testing.assert_allclose(frame.world_from_ego, tiny_clip.trajectory.at(NS_PER_S), atol=1e-9)


def test_labels_in_the_ego_frame_at_reference_time(tiny_clip):
    boxes_ego = tiny_clip.boxes_ego(tiny_clip.layer("truth"), 0)
    np.testing.assert_allclose(boxes_ego.box[0, :2], [15, 2], atol=1e-9)
    assert tiny_clip.boxes_ego(tiny_clip.layer("truth"), 99) is None


def test_ego_motion_between_capture_and_reference_is_folded_into_the_extrinsics(tiny_clip):
    # The front camera took frame 1 20 ms early, when the ego was 0.1 m farther back (5 m/s): things were 0.1 m farther ahead.
    cam_from_ego = tiny_clip.cam_from_ego_at_ref(1, "front")
    point_ego = np.array([10.0, 0.0, 1.5])
    depth = transform_points(cam_from_ego, point_ego)[2]
    assert depth == pytest.approx(10 - 1.5 + 0.1, abs=2e-3)
    same_time = tiny_clip.cam_from_ego_at_ref(1, "left")
    np.testing.assert_allclose(same_time, tiny_clip.rig["left"].cam_from_ego, atol=1e-9)


def numbered_picture(number: int, size=(64, 48)) -> np.ndarray:
    image = np.full((size[1], size[0], 3), 20, dtype=np.uint8)
    image[:, : 4 + 2 * number] = 200
    return image


def count_of(image: np.ndarray) -> int:
    return round(((image[24, :, 1] > 110).sum() - 4) / 2)


def write_video_clip(path, frames: int = 24, rate: int = 10):
    """A clip whose one camera is a video with a key frame every eight pictures and pictures that refer to later ones."""
    import av

    rig = Rig((pinhole_camera("front", 1.2, 64, 48, ego_from_cam_looking((1, 0, 1), 0.0)),))
    stamps = np.arange(frames, dtype=np.int64) * (NS_PER_S // rate)
    trajectory = Trajectory(stamps, np.broadcast_to(np.eye(4), (frames, 4, 4)))
    with write_clip(path, "video", rig, trajectory, {}) as writer:
        (writer.folder / "videos").mkdir()
        with av.open(str(writer.folder / "videos" / "front.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=rate, options={"g": "8", "bf": "2", "crf": "10"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_picture(number), format="rgb24")))
            container.mux(stream.encode(None))
        for number, stamp in enumerate(stamps):
            writer.add_frame(stamp, np.eye(4), [View("front", int(stamp), np.eye(4), f"videos/front.mp4#{number}")])
    return Clip.open(path)


def test_video_frames_are_read_in_any_order(tmp_path):
    clip = write_video_clip(tmp_path / "video")
    for number in (0, 23, 5, 4, 8, 7, 16, 15, 1):
        image = clip.image(number, "front")
        assert image.shape == (48, 64, 3) and count_of(image) == number


def test_a_video_frame_beyond_the_end_is_refused(tmp_path):
    clip = write_video_clip(tmp_path / "video", frames=8)
    with pytest.raises(DataError, match=r"front\.mp4: no frame 40"):
        read_image(clip.path, "videos/front.mp4#40")


def test_a_file_that_is_no_video_is_refused(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "front.mp4").write_bytes(b"not a video")
    with pytest.raises(DataError, match=r"front\.mp4: not readable as a video"):
        read_image(tmp_path, "videos/front.mp4#0")


def test_pictures_are_rgb(tiny_clip_path):
    red = np.zeros((48, 64, 3), dtype=np.uint8)
    red[..., 0] = 255
    cv2.imwrite(str(tiny_clip_path / "images" / "front" / "000000.jpg"), red[:, :, ::-1])
    image = Clip.open(tiny_clip_path).image(0, "front")
    assert image[..., 0].min() > 240 and image[..., 1:].max() < 20


def test_a_missing_picture_is_refused_by_name(tiny_clip_path):
    clip = Clip.open(tiny_clip_path)
    (tiny_clip_path / "images" / "front" / "000001.jpg").unlink()
    with pytest.raises(DataError, match=r"images/front/000001\.jpg: missing image; restore it"):
        clip.image(1, "front")


@pytest.mark.parametrize("keep", [0, 1, 10, 200, -2])
def test_a_truncated_picture_is_refused_by_name(tiny_clip_path, keep):
    path = tiny_clip_path / "images" / "front" / "000001.jpg"
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(DataError, match=r"000001\.jpg: (truncated|not readable)"):
        Clip.open(tiny_clip_path).image(1, "front")


def test_a_truncated_png_is_refused_by_name(tiny_clip_path):
    path = tiny_clip_path / "images" / "front" / "half.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    assert read_image(tiny_clip_path, "images/front/half.png").shape == (48, 64, 3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"half\.png: (truncated|not readable)"):
        read_image(tiny_clip_path, "images/front/half.png")


def test_a_picture_of_the_wrong_size_is_refused_with_both_sizes(tiny_clip_path):
    cv2.imwrite(str(tiny_clip_path / "images" / "front" / "000000.jpg"), np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"000000\.jpg: expected 64x48 pixels as calibrated, got 32x24"):
        Clip.open(tiny_clip_path).image(0, "front")


def test_a_dead_view_has_no_picture(tiny_clip):
    with pytest.raises(DataError, match="frame 2 has no picture of camera 'left'"):
        tiny_clip.image(2, "left")


def test_clips_are_found_in_depth(tiny_clip_path):
    assert find_clips(tiny_clip_path) == [tiny_clip_path]
    assert find_clips([tiny_clip_path.parent, tiny_clip_path]) == [tiny_clip_path]
    with pytest.raises(DataError, match="expected clips"):
        find_clips(tiny_clip_path / "images")
    with pytest.raises(DataError, match="expected a folder"):
        find_clips(tiny_clip_path / "nowhere")


def test_half_a_clip_never_appears(tmp_path):
    rig = Rig((pinhole_camera("front", 1.2, 64, 48, np.eye(4)),))
    path = Trajectory(np.array([0]), np.eye(4)[None])
    with pytest.raises(RuntimeError), write_clip(tmp_path / "clip", "clip", rig, path, {}) as writer:
        writer.write_image("front", 0, numbered_picture(0))
        raise RuntimeError("killed")
    with pytest.raises(DataError, match="at least one frame"), write_clip(tmp_path / "clip", "clip", rig, path, {}):
        pass
    assert list(tmp_path.iterdir()) == []
