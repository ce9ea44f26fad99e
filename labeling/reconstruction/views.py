"""What would pinhole cameras have seen in the clip's pictures? Every lens is resampled once, then all geometry is straight."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np

from labeling.reconstruction.settings import MatchSettings
from scenes.boxes import Box3D, Boxes, box_corners
from scenes.cameras import Camera
from scenes.clips import Clip
from scenes.geometry import NS_PER_S, invert_rigid, rigid_from_parts, rotation_from_yaw

NEAR_M = 0.1
CAM_FROM_TURNABLE = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
"""Turns about the camera's y axis are written as yaw: x' = z, y' = x, z' = y."""


@dataclass(frozen=True)
class PinholeCamera:
    """An ideal pinhole (no distortion) at the place of a real camera, that looks at a part of its picture."""

    name: str
    parent: Camera
    """The real camera, at the size at which pictures are matched."""
    cam_from_pin: np.ndarray
    """(4, 4) rotation."""
    focal_px: float
    center_px: tuple[float, float]
    size_hw: tuple[int, int]

    @cached_property
    def rays(self) -> np.ndarray:
        """(H, W, 3) float32 directions of the pixels with z = 1."""
        height, width = self.size_hw
        u, v = np.meshgrid(np.arange(width), np.arange(height))
        x, y = (u - self.center_px[0]) / self.focal_px, (v - self.center_px[1]) / self.focal_px
        return np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)

    @cached_property
    def lookup(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where in the parent's picture each pixel lies: float32 columns, rows (H, W), and whether it lies inside (H, W)."""
        points_cam = self.rays.astype(np.float64) @ self.cam_from_pin[:3, :3].T
        pixels, inside = self.parent.project(points_cam)
        return pixels[..., 0].astype(np.float32), pixels[..., 1].astype(np.float32), np.asarray(inside, dtype=bool)

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) intrinsics."""
        return np.array([[self.focal_px, 0, self.center_px[0]], [0, self.focal_px, self.center_px[1]], [0, 0, 1]])

    def half(self) -> "PinholeCamera":
        """The same view at half the size (a last odd row or column is cut)."""
        center = ((self.center_px[0] + 0.5) / 2 - 0.5, (self.center_px[1] + 0.5) / 2 - 0.5)
        size = (self.size_hw[0] // 2, self.size_hw[1] // 2)
        return PinholeCamera(self.name, self.parent, self.cam_from_pin, self.focal_px / 2, center, size)


def pinhole_cameras(camera: Camera, settings: MatchSettings) -> list[PinholeCamera]:
    """The pinhole views that together show what a camera sees, at matching size."""
    shrink = 1
    while camera.width_px / shrink > settings.width_px:
        shrink *= 2
    parent = camera.resize(round(camera.width_px / shrink), round(camera.height_px / shrink))
    middle_row = (parent.height_px - 1) / 2
    ends = parent.unproject(np.array([[0.0, middle_row], [parent.width_px - 1.0, middle_row]]))
    left, right = (float(np.arctan2(ray[0], ray[2])) for ray in ends)
    count = int(np.ceil((right - left) / settings.max_field_rad))
    edges = np.linspace(left, right, count + 1)
    names = [camera.name] if count == 1 else [f"{camera.name}_{k}" for k in range(count)]
    return [_pinhole(parent, name, a, b, count > 1) for name, a, b in zip(names, edges[:-1], edges[1:], strict=True)]


def _pinhole(parent: Camera, name: str, left_rad: float, right_rad: float, turned: bool) -> PinholeCamera:
    """The view from `left_rad` to `right_rad` (from the axis to the right), turned to its middle if the lens was cut."""
    yaw = (left_rad + right_rad) / 2 if turned else 0.0
    rotation = CAM_FROM_TURNABLE @ rotation_from_yaw(yaw) @ CAM_FROM_TURNABLE.T
    focal = min(parent.fx_px, parent.fy_px)
    width = focal * (np.tan(right_rad - yaw) - np.tan(left_rad - yaw)) + 1
    center_u = -focal * np.tan(left_rad - yaw)
    column = parent.unproject(np.array([[parent.cx_px, 0.0], [parent.cx_px, parent.height_px - 1.0]]))
    top, bottom = (focal * ray[1] / ray[2] for ray in column)
    size = (int(np.ceil(bottom - top)) // 2 * 2 + 2, int(np.ceil(width)) // 2 * 2)
    return PinholeCamera(name, parent, rigid_from_parts(rotation, np.zeros(3)), focal, (center_u, -top), size)


@dataclass
class PinholeView:
    """One picture of the clip as a pinhole camera would have taken it."""

    frame_index: int
    timestamp_ns: int
    camera: PinholeCamera
    world_from_pin: np.ndarray
    """(4, 4) at the capture time."""
    world_from_ego_at_cam: np.ndarray
    image_rgb: np.ndarray = field(repr=False)
    """(H, W, 3) uint8."""
    usable: np.ndarray = field(repr=False)
    """(H, W) bool: inside the real picture and not on something that moves."""

    @property
    def grey(self) -> np.ndarray:
        """(H, W) float32."""
        return cv2.cvtColor(self.image_rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)

    @cached_property
    def pin_from_world(self) -> np.ndarray:
        """(4, 4)."""
        return invert_rigid(self.world_from_pin)

    @property
    def center_world(self) -> np.ndarray:
        """(3,)."""
        return self.world_from_pin[:3, 3]

    def half(self) -> "PinholeView":
        """The view at half the size."""
        camera = self.camera.half()
        height, width = camera.size_hw
        image = self.image_rgb[: 2 * height, : 2 * width]
        quarters = [self.usable[row : 2 * height : 2, column : 2 * width : 2] for row in (0, 1) for column in (0, 1)]
        usable = quarters[0] & quarters[1] & quarters[2] & quarters[3]
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return PinholeView(self.frame_index, self.timestamp_ns, camera, self.world_from_pin, self.world_from_ego_at_cam, small, usable)

    def project(self, points_world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (..., 2) and depths along the axis (...) of points (..., 3); pixels mean nothing where the depth is not positive."""
        rotation, shift = self.pin_from_world[:3, :3], self.pin_from_world[:3, 3]
        points_pin = points_world @ rotation.T + shift
        z = points_pin[..., 2]
        safe = np.where(z > 1e-3, z, 1.0)[..., None]
        return self.camera.focal_px * points_pin[..., :2] / safe + np.array(self.camera.center_px), z

    def points_world(self, depth_m: np.ndarray) -> np.ndarray:
        """(H, W, 3) points of a depth map (H, W) along the axis."""
        rotation = self.world_from_pin[:3, :3]
        return (self.camera.rays @ rotation.T.astype(np.float32)) * depth_m[..., None] + self.center_world


def key_frames(clip: Clip, every_s: float, every_m: float, most: int) -> list[int]:
    """At most `most` frames worth a depth map: the first, then whenever some time has passed and the vehicle has moved on."""
    chosen = _spaced_frames(clip, every_s, every_m)
    while len(chosen) > most:
        every_m = 1.3 * max(every_m, 0.1)
        chosen = _spaced_frames(clip, every_s, every_m)
    return chosen


def _spaced_frames(clip: Clip, every_s: float, every_m: float) -> list[int]:
    chosen = [0]
    for frame in clip.frames[1:]:
        last = clip.frames[chosen[-1]]
        moved = np.linalg.norm(frame.world_from_ego[:3, 3] - last.world_from_ego[:3, 3])
        turned = np.arccos(np.clip((frame.world_from_ego[:3, 0] * last.world_from_ego[:3, 0]).sum(), -1, 1))
        if frame.timestamp_ns - last.timestamp_ns >= every_s * NS_PER_S and moved + 5.0 * turned >= every_m:
            chosen.append(frame.index)
    return chosen


def clip_views(clip: Clip, frames: list[int], settings: MatchSettings, movers: dict[int, Boxes], margin_m: float) -> Iterator[PinholeView]:
    """Every picture of some frames as pinhole views, movers (boxes in the world by frame) marked as not usable."""
    pinholes = {camera.name: pinhole_cameras(camera, settings) for camera in clip.rig.cameras}
    for frame in (clip.frames[index] for index in frames):
        for name, view in frame.views.items():
            if not view.alive:
                continue
            picture = clip.image(frame.index, name)
            parent = pinholes[name][0].parent
            if picture.shape[:2] != (parent.height_px, parent.width_px):
                picture = cv2.resize(picture, (parent.width_px, parent.height_px), interpolation=cv2.INTER_AREA)
            moved_s = (view.timestamp_ns - frame.timestamp_ns) / NS_PER_S
            for pinhole in pinholes[name]:
                columns, rows, inside = pinhole.lookup
                image = cv2.remap(picture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                world_from_pin = view.world_from_ego_at_cam @ clip.rig[name].ego_from_cam @ pinhole.cam_from_pin
                made = PinholeView(
                    frame.index, view.timestamp_ns, pinhole, world_from_pin, view.world_from_ego_at_cam, image, inside.copy()
                )
                hide_boxes(made, movers.get(frame.index), moved_s, margin_m)
                yield made


def hide_boxes(view: PinholeView, boxes_world: Boxes | None, moved_s: float, margin_m: float) -> None:
    """Marks the outlines of boxes, carried on by `moved_s` seconds and enlarged by `margin_m`, as not usable."""
    if boxes_world is None or not len(boxes_world):
        return
    box = boxes_world.box.copy()
    box[:, :2] += np.nan_to_num(box[:, 7:9]) * moved_s
    box[:, 3:6] += 2 * margin_m
    pixels, z = view.project(box_corners(box))
    shade = np.zeros(view.usable.shape, dtype=np.uint8)
    for row, outline, depth in zip(box, pixels, z, strict=True):
        if (depth > NEAR_M).all():
            hull = cv2.convexHull(np.clip(outline, -1e4, 1e4).astype(np.float32))
            cv2.fillConvexPoly(shade, np.round(hull).astype(np.int32), 1)
        elif (depth > NEAR_M).any():
            shade[rays_meet_box(view, row)] = 1
    view.usable &= shade == 0


def rays_meet_box(view: PinholeView, box_world: np.ndarray) -> np.ndarray:
    """(H, W) bool: whose pixel's ray enters a box row, in front of the camera (slab test in the box's own axes)."""
    box_from_world = rotation_from_yaw(box_world[Box3D.YAW]).T
    origin = box_from_world @ (view.center_world - box_world[:3])
    along = view.camera.rays @ (box_from_world @ view.world_from_pin[:3, :3]).T
    along = np.where(np.abs(along) > 1e-9, along, 1e-9)
    half = box_world[Box3D.LENGTH : Box3D.HEIGHT + 1] / 2
    a, b = (-half - origin) / along, (half - origin) / along
    enter, leave = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
    return (leave > np.maximum(enter, 0)).astype(bool)
