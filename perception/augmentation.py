"""How is a training frame varied without its geometry becoming wrong? Pixels, lenses and frames move together here.

Three kinds of change, each a plain function of a numpy generator:

- a scene change (mirror, turn about z, scale) makes another ego frame, `aug`, and holds for a whole walk through a clip;
- a rig change (zoom and shift of each image, small errors of the extrinsics) makes another rig, and holds as long;
- a picture change (light, colour, blur, noise, cut-outs, dead cameras) is drawn anew at every step and moves nothing.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from scenes.boxes import Box3D
from scenes.errors import ConfigError
from scenes.geometry import rigid_from_parts, rotation_from_rotvec, rotation_from_yaw, wrap_angle
from scenes.packing import PackedFrame


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly training frames are varied; zeros everywhere change nothing."""

    mirror: float = 0.5
    """Probability that a walk through a clip is seen in a mirror (left and right swapped, pictures too)."""
    yaw_rad: float = 0.2
    """The ego frame is turned about z by up to this angle, the cameras with it."""
    scale: float = 0.0
    """The world grows or shrinks by up to this share, cameras and all (pixels stay)."""
    zoom: float = 0.06
    """Each camera's picture is enlarged or reduced about its centre by up to this share."""
    shift: float = 0.02
    """Each camera's picture is moved by up to this share of its width and height."""
    calibration_rad: float = 0.002
    """Standard deviation of a rotation error of each extrinsic, about each axis."""
    calibration_m: float = 0.01
    """Standard deviation of a position error of each extrinsic, along each axis."""
    dead_camera: float = 0.02
    """Probability that a camera fails at a step."""
    light: float = 0.25
    """Brightness, contrast and gamma change by up to this share."""
    colour: float = 0.3
    """Saturation changes by up to this share, and each channel's gain by a third of it."""
    blur: float = 0.05
    """Probability that a picture is blurred."""
    noise: float = 0.1
    """Probability that a picture gets sensor noise."""
    cutout: float = 0.05
    """Probability that a grey rectangle hides a part of a picture."""

    def __post_init__(self) -> None:
        for name in ("mirror", "dead_camera", "blur", "noise", "cutout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name}: expected a probability in [0, 1], got {getattr(self, name)}; correct it")
        for name in ("scale", "zoom", "shift", "light", "colour"):
            if not 0 <= getattr(self, name) < 0.9:
                raise ConfigError(f"augment.{name}: expected a share in [0, 0.9), got {getattr(self, name)}; correct it")
        for name in ("yaw_rad", "calibration_rad", "calibration_m"):
            if not 0 <= getattr(self, name) < 4:
                raise ConfigError(f"augment.{name}: expected a small positive number, got {getattr(self, name)}; correct it")


NO_AUGMENTATION = AugmentConfig(*([0.0] * 13))
"""Frames as they were recorded."""


@dataclass(frozen=True)
class SceneChange:
    """Another ego frame: points turn, may be mirrored in y, and grow by `scale`."""

    aug_from_ego: np.ndarray
    """(4, 4) similarity; its linear part is scale x rotation x mirror."""
    scale: float = 1.0
    mirrored: bool = False


@dataclass(frozen=True)
class RigChange:
    """Another rig: per camera an affine map of the picture, and an error of the extrinsic."""

    affine_N4: np.ndarray
    """ax, bx, ay, by: pixel (u, v) of the network image comes to (ax u + bx, ay v + by); ax < 0 in a mirror."""
    error_N44: np.ndarray
    """cam_from_cam: left of `cam_from_ego`; the pixels do not know of it."""


def draw_scene_change(config: AugmentConfig, rng: np.random.Generator) -> SceneChange:
    """A random mirror, turn and scale."""
    mirrored = bool(rng.random() < config.mirror)
    scale = float(np.exp(rng.uniform(-1, 1) * np.log1p(config.scale)))
    linear = scale * rotation_from_yaw(rng.uniform(-1, 1) * config.yaw_rad)
    if mirrored:
        linear = linear @ np.diag([1.0, -1.0, 1.0])
    return SceneChange(rigid_from_parts(linear, np.zeros(3)), scale, mirrored)


def draw_rig_change(
    config: AugmentConfig, rng: np.random.Generator, num_cameras: int, size_hw: tuple[int, int], mirrored: bool
) -> RigChange:
    """A random zoom, shift and extrinsic error for each camera; `mirrored` as the scene is."""
    centre = (np.array(size_hw[::-1]) - 1) / 2
    zoom = np.exp(rng.uniform(-1, 1, (num_cameras, 1)) * np.log1p(config.zoom))
    shift = rng.uniform(-1, 1, (num_cameras, 2)) * config.shift * np.array(size_hw[::-1])
    factor = np.concatenate([-zoom if mirrored else zoom, zoom], axis=1)
    offset = centre - factor * centre + shift  # about the centre; a mirror about it maps u to W - 1 - u
    rotation = rotation_from_rotvec(rng.standard_normal((num_cameras, 3)) * config.calibration_rad)
    error = rigid_from_parts(rotation, rng.standard_normal((num_cameras, 3)) * config.calibration_m)
    return RigChange(np.stack([factor[:, 0], offset[:, 0], factor[:, 1], offset[:, 1]], axis=1), error)


def change_geometry(frame: PackedFrame, scene: SceneChange, rig: RigChange) -> PackedFrame:
    """The frame in the `aug` ego frame, its pictures and intrinsics moved as one.

    In a mirror the camera frame is mirrored too (x to -x), so focal lengths stay positive and only p2 changes its sign.
    """
    ax, bx, ay, by = rig.affine_N4.T
    intrinsics = frame.intrinsics_N4.astype(np.float64)
    intrinsics = np.stack(
        [np.abs(ax) * intrinsics[:, 0], ay * intrinsics[:, 1], ax * intrinsics[:, 2] + bx, ay * intrinsics[:, 3] + by], axis=1
    )
    distortion = frame.distortion_N5.copy()
    if scene.mirrored:
        distortion[frame.lens_N == 0, 3] *= -1
    return replace(
        frame,
        images_NHW3=np.stack([_warp(image, row) for image, row in zip(frame.images_NHW3, rig.affine_N4, strict=True)]),
        intrinsics_N4=intrinsics.astype(np.float32),
        distortion_N5=distortion,
        cam_from_ego_N44=_changed_extrinsics(frame.cam_from_ego_N44, scene, rig),
        prev_from_ego_44=change_motion(frame.prev_from_ego_44, scene),
    )


def _changed_extrinsics(cam_from_ego_N44: np.ndarray, scene: SceneChange, rig: RigChange) -> np.ndarray:
    ego_from_aug = np.linalg.inv(scene.aug_from_ego)
    aug_cam_from_cam = np.diag([-scene.scale if scene.mirrored else scene.scale, scene.scale, scene.scale, 1.0])
    return (rig.error_N44 @ aug_cam_from_cam @ cam_from_ego_N44.astype(np.float64) @ ego_from_aug).astype(np.float32)


def change_motion(prev_from_ego: np.ndarray, scene: SceneChange) -> np.ndarray:
    """Ego motion (4, 4) between two steps, seen in the `aug` frame of both."""
    ego_from_aug = np.linalg.inv(scene.aug_from_ego)
    return (scene.aug_from_ego @ prev_from_ego.astype(np.float64) @ ego_from_aug).astype(np.float32)


def change_boxes(box_ego: np.ndarray, scene: SceneChange) -> np.ndarray:
    """Box rows (M, 9) of the ego frame in the `aug` frame."""
    linear = scene.aug_from_ego[:3, :3]
    box_aug = np.array(box_ego, dtype=np.float64)
    box_aug[:, :3] = box_ego[:, :3] @ linear.T
    box_aug[:, Box3D.LENGTH : Box3D.HEIGHT + 1] *= scene.scale
    heading = np.stack([np.cos(box_ego[:, Box3D.YAW]), np.sin(box_ego[:, Box3D.YAW])], axis=1) @ linear[:2, :2].T
    box_aug[:, Box3D.YAW] = wrap_angle(np.arctan2(heading[:, 1], heading[:, 0]))
    box_aug[:, Box3D.VX : Box3D.VY + 1] = box_ego[:, Box3D.VX : Box3D.VY + 1] @ linear[:2, :2].T
    return box_aug


def _warp(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    ax, bx, ay, by = affine
    if (ax, bx, ay, by) == (1.0, 0.0, 1.0, 0.0):
        return image
    matrix = np.array([[ax, 0, bx], [0, ay, by]])
    return cv2.warpAffine(image, matrix, (image.shape[1], image.shape[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def change_pictures(frame: PackedFrame, config: AugmentConfig, rng: np.random.Generator) -> PackedFrame:
    """Light, colour, blur, noise, cut-outs and dead cameras; at least one camera stays alive if one was."""
    images, alive = frame.images_NHW3.copy(), frame.alive_N.copy()
    weather = rng.uniform(-1, 1, 3) / 2  # half of the change of light is shared by all cameras
    for row in np.flatnonzero(frame.alive_N):
        images[row] = _change_picture(images[row], config, rng, weather)
    dead = (rng.random(len(alive)) < config.dead_camera) & (alive > 0)
    if dead.any() and (alive[~dead] > 0).any():
        alive[dead], images[dead] = 0.0, 0
    return replace(frame, images_NHW3=images, alive_N=alive)


def _change_picture(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator, weather: np.ndarray) -> np.ndarray:
    light = weather + rng.uniform(-1, 1, 3) / 2
    if config.light > 0 or config.colour > 0:
        gain = np.exp(rng.uniform(-1, 1, 3) * config.colour / 3 + light[0] * config.light)
        level = np.linspace(0, 1, 256)[:, None] ** np.exp(light[1] * config.light)
        table = ((level - 0.5) * np.exp(light[2] * config.light) + 0.5) * gain
        image = cv2.LUT(image, np.clip(table * 255 + 0.5, 0, 255).astype(np.uint8)[None])
    saturation = 1 + rng.uniform(-1, 1) * config.colour
    if config.colour > 0:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        image = cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)
    chance = rng.random(3)
    if chance[0] < config.blur:
        image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.4, 1.2))
    if chance[1] < config.noise:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(2, 12))
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if chance[2] < config.cutout:
        height, width = image.shape[:2]
        top, left = int(rng.uniform(0, 0.8) * height), int(rng.uniform(0, 0.9) * width)
        image = image.copy()
        image[top : top + int(rng.uniform(0.1, 0.4) * height), left : left + int(rng.uniform(0.05, 0.2) * width)] = 114
    return image
