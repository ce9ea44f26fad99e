"""What does the network get of a frame? Pictures at the network's size and the calibration as plain arrays.

The one place where a clip's frame becomes numbers for the network, used by training, labeling, evaluation runs and export.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from scenes.cameras import camera_arrays, network_camera
from scenes.clips import Clip
from scenes.errors import DataError
from scenes.geometry import NS_PER_S, invert_rigid

__all__ = ["PackedFrame", "camera_arrays", "network_camera", "pack_frame", "resize_and_crop"]


@dataclass(frozen=True)
class PackedFrame:
    """One time step of one clip, ready to be stacked into a batch; N cameras in the rig's order."""

    images_NHW3: np.ndarray
    """uint8 RGB at network size; zeros where not alive."""
    intrinsics_N4: np.ndarray
    """float32 fx, fy, cx, cy in pixels of the network image."""
    distortion_N5: np.ndarray
    """float32, padded with zeros (see `Camera.distortion`)."""
    lens_N: np.ndarray
    """float32: 0 pinhole, 1 fisheye."""
    max_angle_N: np.ndarray
    """float32 radians, `Camera.max_angle_rad`."""
    cam_from_ego_N44: np.ndarray
    """float32: ego at reference time to camera at its capture time (ego motion folded in)."""
    alive_N: np.ndarray
    """float32: 1 if there is a picture, else 0."""
    time_offset_N: np.ndarray
    """float32 seconds: capture time minus reference time."""
    dt: np.ndarray
    """() float32 seconds since the previous step; 0 at the first."""
    prev_from_ego_44: np.ndarray
    """float32: points of this ego frame in the previous step's ego frame; identity at the first."""


def resize_and_crop(image: np.ndarray, plan: tuple[int, int, int, int], height_px: int, interpolation: int | None = None) -> np.ndarray:
    """(height_px, W, ...) picture by the plan of `network_camera`: area averaging when shrinking, else bilinear."""
    width, resized_height, _, top = plan
    if image.shape[:2] != (resized_height, width):
        if interpolation is None:
            interpolation = cv2.INTER_AREA if image.shape[1] >= width else cv2.INTER_LINEAR
        image = cv2.resize(image, (width, resized_height), interpolation=interpolation)
    if top > 0:
        return image[top:]
    if top < 0:
        return np.concatenate([np.zeros((-top, *image.shape[1:]), dtype=image.dtype), image])
    return image


def pack_frame(clip: Clip, index: int, size_hw: tuple[int, int], previous: int | None = None, strict: bool = True) -> PackedFrame:
    """Frame `index` of a clip as arrays; `previous` is the index of the step before (None: the clip starts here).

    With `strict=False` an unreadable picture is treated as a camera that is not alive instead of raising `DataError`.
    """
    height, width = size_hw
    frame = clip.frames[index]
    plans = [network_camera(camera, height, width) for camera in clip.rig.cameras]
    images = np.zeros((len(plans), height, width, 3), dtype=np.uint8)
    alive = np.zeros(len(plans), dtype=np.float32)
    offsets = np.zeros(len(plans), dtype=np.float32)
    for row, name in enumerate(clip.rig.names):
        view = frame.views[name]
        offsets[row] = (view.timestamp_ns - frame.timestamp_ns) / NS_PER_S
        if not view.alive:
            continue
        try:
            images[row] = resize_and_crop(clip.image(index, name), plans[row][1], height)
            alive[row] = 1.0
        except DataError:
            if strict:
                raise
    cam_from_ego = np.stack([clip.cam_from_ego_at_ref(index, name) for name in clip.rig.names]).astype(np.float32)
    dt, prev_from_ego = 0.0, np.eye(4)
    if previous is not None:
        dt = (frame.timestamp_ns - clip.frames[previous].timestamp_ns) / NS_PER_S
        prev_from_ego = invert_rigid(clip.frames[previous].world_from_ego) @ frame.world_from_ego
    return PackedFrame(
        images_NHW3=images,
        **camera_arrays([camera for camera, _ in plans]),
        cam_from_ego_N44=cam_from_ego,
        alive_N=alive,
        time_offset_N=offsets,
        dt=np.array(dt, dtype=np.float32),
        prev_from_ego_44=prev_from_ego.astype(np.float32),
    )
