"""What depth does each pixel of the real cameras see? The pinhole views' depths, looked up through the true lenses."""

from pathlib import Path

import numpy as np

from labeling.reconstruction.sweep import DepthMap
from scenes.cameras import Camera
from scenes.clips import Clip
from scenes.layers import DEPTH_UNIT_M, write_image16

SHRINK = 4
"""Depth images have 1/n of the camera's size, as the simulator writes them."""


def write_lens_depth(folder: Path, clip: Clip, depth_maps: list[DepthMap], filled_m: list[np.ndarray]) -> None:
    """Writes `depth/<camera>/<frame>.png` of every picture that has a depth map: distance along the ray, 0 unknown or moving."""
    by_picture: dict[tuple[int, str], list[int]] = {}
    for row, depth_map in enumerate(depth_maps):
        by_picture.setdefault((depth_map.view.frame_index, depth_map.view.camera.parent.name), []).append(row)
    for (frame_index, name), rows in sorted(by_picture.items()):
        camera = clip.rig[name]
        small = camera.resize(max(1, camera.width_px // SHRINK), max(1, camera.height_px // SHRINK))
        distance = lens_depth(small, [(depth_maps[row], filled_m[row]) for row in rows])
        write_image16(folder, "depth", name, frame_index, np.clip(np.round(distance / DEPTH_UNIT_M), 0, 65535))


def lens_depth(camera: Camera, parts: list[tuple[DepthMap, np.ndarray]]) -> np.ndarray:
    """(H, W) float32 distance along each pixel's ray from the depths (along their axes) of the pinhole views of one picture."""
    u, v = np.meshgrid(np.arange(camera.width_px), np.arange(camera.height_px))
    rays_cam = camera.unproject(np.stack([u, v], axis=-1).astype(np.float64))
    distance = np.zeros(rays_cam.shape[:2], dtype=np.float32)
    for depth_map, depth_m in parts:
        pinhole = depth_map.view.camera
        rays_pin = rays_cam @ pinhole.cam_from_pin[:3, :3]
        ahead = rays_pin[..., 2] > 0.05
        z = np.where(ahead, rays_pin[..., 2], 1.0)
        pixels = pinhole.focal_px * rays_pin[..., :2] / z[..., None] + np.array(pinhole.center_px)
        index = np.round(pixels).astype(np.int64)
        height, width = pinhole.size_hw
        inside = ahead & (index >= 0).all(-1) & (index[..., 0] < width) & (index[..., 1] < height)
        depth = np.where(depth_map.view.usable, depth_m, 0)[index[inside][:, 1], index[inside][:, 0]]
        distance[inside] = np.where(depth > 0, depth / z[inside], distance[inside])
    return distance
