"""What does each rectangle say about the object in it? Where its camera was, which edges can be trusted, and how far."""

from dataclasses import dataclass, fields

import numpy as np

from labeling.lifting.image_boxes import ImageBoxes
from labeling.lifting.settings import ReprojectionSettings
from scenes.cameras import Camera, Lens
from scenes.clips import Clip
from scenes.geometry import NS_PER_S, invert_rigid

LEAST_DEPTH_M = 0.3
"""Points of a pinhole camera nearer than this, or behind it, are taken to be at this depth: far out on their side of the picture."""
EDGE_SIGN = np.array([-1.0, -1.0, 1.0, 1.0])
"""Which way is outwards, for u0, v0, u1, v1."""
TOUCH_SHARE = 0.06
"""How near (share of the rectangle) something else must come to an edge to hide what is behind it."""


@dataclass(frozen=True)
class Observations:
    """N rectangles ready to be explained by bodies in space."""

    cameras: tuple[Camera, ...]
    camera: np.ndarray
    """(N,) int64, index into `cameras`."""
    frame: np.ndarray
    """(N,) int64."""
    offset_s: np.ndarray
    """(N,) capture time minus the frame's reference time."""
    cam_from_world: np.ndarray
    """(N, 4, 4) at capture time."""
    edges_px: np.ndarray
    """(N, 4) u0, v0, u1, v1; cut off edges lie on the picture's border."""
    sigma_px: np.ndarray
    """(N, 4)."""
    is_hidden: np.ndarray
    """(N, 4) bool: something nearer stands at this edge."""
    is_cut: np.ndarray
    """(N, 4) bool: the picture ends at this edge."""
    class_id: np.ndarray
    """(N,) int64."""
    score: np.ndarray
    """(N,)."""

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: np.ndarray) -> "Observations":
        """The observations of an index array."""
        return Observations(self.cameras, *(getattr(self, f.name)[rows] for f in fields(self)[1:]))

    def limits_px(self) -> np.ndarray:
        """(N, 2) the largest u and v of each picture."""
        return np.array([(c.width_px - 0.5, c.height_px - 0.5) for c in self.cameras])[self.camera]

    def project(self, points_world: np.ndarray) -> np.ndarray:
        """Pixels (N, ..., 2) of points (N, ..., 3) of each observation in its camera, not cut at the borders."""
        rotation, translation = self.cam_from_world[:, :3, :3], self.cam_from_world[:, :3, 3]
        flat = points_world.reshape(len(self), -1, 3)
        points_cam = flat @ np.swapaxes(rotation, 1, 2) + translation[:, None]
        pixels = np.empty((*flat.shape[:2], 2))
        for number in np.unique(self.camera):
            mine = self.camera == number
            pixels[mine] = pixels_of(self.cameras[number], points_cam[mine])
        return pixels.reshape(*points_world.shape[:-1], 2)

    def rays_world(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Camera centres (N, 3) and unit directions (N, 3) in the world of one pixel (N, 2) an observation."""
        world_from_cam = invert_rigid(self.cam_from_world)
        direction = np.empty((len(self), 3))
        for number in np.unique(self.camera):
            mine = self.camera == number
            direction[mine] = self.cameras[number].unproject(pixels[mine])
        return world_from_cam[:, :3, 3], np.einsum("nij,nj->ni", world_from_cam[:, :3, :3], direction)


def pixels_of(camera: Camera, points_cam: np.ndarray) -> np.ndarray:
    """Pixels (..., 2) of points (..., 3), also of those outside the picture or behind the camera."""
    if camera.lens is not Lens.PINHOLE:
        return camera.project(_within_lens(points_cam, 1.1 * camera.max_angle_rad))[0]
    depth = np.maximum(points_cam[..., 2], LEAST_DEPTH_M)
    x, y = points_cam[..., 0] / depth, points_cam[..., 1] / depth
    if any(camera.distortion):
        ahead = np.stack([x, y, np.ones_like(x)], axis=-1)
        radius = np.hypot(x, y)
        most = np.tan(min(camera.max_angle_rad, 1.5))  # beyond the picture's corners the polynomial may fold back
        inner = np.minimum(1.0, most / np.maximum(radius, 1e-9))[..., None]
        pixels = camera.project(ahead * np.concatenate([inner, inner, np.ones_like(inner)], axis=-1))[0]
        centre = np.array([camera.cx_px, camera.cy_px])
        return centre + (pixels - centre) / inner
    return np.stack([camera.fx_px * x + camera.cx_px, camera.fy_px * y + camera.cy_px], axis=-1)


def _within_lens(points_cam: np.ndarray, most_rad: float) -> np.ndarray:
    """Points (..., 3) turned towards the axis to within an angle of it: a fisheye's polynomial folds back beyond its picture."""
    x, y, z = np.moveaxis(points_cam, -1, 0)
    radius = np.hypot(x, y)
    beyond = np.arctan2(radius, z) > most_rad
    if not beyond.any():
        return points_cam
    distance, scale = np.hypot(radius, z), np.sin(most_rad) / np.maximum(radius, 1e-9)
    turned = np.stack([x * scale * distance, y * scale * distance, np.cos(most_rad) * distance], axis=-1)
    return np.where(beyond[..., None], turned, points_cam)


def observe(clip: Clip, boxes: ImageBoxes, settings: ReprojectionSettings) -> Observations:
    """The observations of all rectangles (N,) of a clip."""
    cameras = tuple(clip.rig[name] for name in clip.rig.names)
    cam_from_world, offset_s = np.zeros((len(boxes), 4, 4)), np.zeros(len(boxes))
    for row, (frame, number) in enumerate(zip(boxes.frame.tolist(), boxes.camera.tolist(), strict=True)):
        view = clip.frames[frame].views[cameras[number].name]
        cam_from_world[row] = cameras[number].cam_from_ego @ invert_rigid(view.world_from_ego_at_cam)
        offset_s[row] = (view.timestamp_ns - clip.frames[frame].timestamp_ns) / NS_PER_S
    limit = np.array([(c.width_px - 0.5, c.height_px - 0.5) for c in cameras])[boxes.camera]
    border = np.concatenate([np.full((len(boxes), 2), -0.5), limit], axis=1)
    is_cut = np.abs(boxes.box_xyxy_px - border) < settings.border_px
    edges = np.where(is_cut, border, boxes.box_xyxy_px)
    sigma = np.repeat(edge_sigma(edges, is_cut, settings)[:, None], 4, axis=1)
    return Observations(
        cameras, boxes.camera, boxes.frame, offset_s, cam_from_world, edges, sigma, hidden_edges(boxes), is_cut, boxes.class_id, boxes.score
    )


def edge_sigma(edges: np.ndarray, is_cut: np.ndarray, settings: ReprojectionSettings) -> np.ndarray:
    """(N,) pixels: outlines differ from bodies by a share of the object's height, or of half its width if that is more.

    A side that is cut off is taken to go on for as long again.
    """
    side = (edges[:, 2:] - edges[:, :2]) * (1 + (is_cut[:, :2] | is_cut[:, 2:]))
    return np.hypot(settings.edge_px, settings.edge_share * np.maximum(side[:, 1], side[:, 0] / 2))


def hidden_edges(boxes: ImageBoxes) -> np.ndarray:
    """(N, 4) bool: at which edges a rectangle that reaches lower in the picture, so of something nearer, meets this one."""
    hidden = np.zeros((len(boxes), 4), dtype=bool)
    for rows in boxes.by_picture():
        box = boxes.box_xyxy_px[rows]
        size = box[:, 2:] - box[:, :2]
        reach = TOUCH_SHARE * size + 1.0
        nearer = box[None, :, 3] > box[:, None, 3] + 0.5 * reach[:, None, 1]
        for edge in range(4):
            axis, along = edge % 2, 1 - edge % 2
            at = box[:, None, edge]
            meets = (box[None, :, axis] - reach[:, None, axis] < at) & (at < box[None, :, axis + 2] + reach[:, None, axis])
            shared = np.minimum(box[:, None, along + 2], box[None, :, along + 2]) - np.maximum(box[:, None, along], box[None, :, along])
            hidden[rows, edge] = (nearer & meets & (shared > 0.3 * size[:, None, along])).any(axis=1)
    return hidden
