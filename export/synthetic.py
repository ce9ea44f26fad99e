"""What drives a graph when no clip is at hand? Rigs of five, six and eight cameras, and drives through pictures of noise."""

from collections.abc import Iterator

import numpy as np

from export.feed import Picture, StepPacker
from fusion.config import ModelConfig
from scenes.geometry import NS_PER_S, Trajectory, invert_rigid, rigid_from_parts, rotation_from_yaw
from scenes.rigs import Rig, default_rig, ego_from_cam_looking, fisheye_camera, pinhole_camera


def five_camera_rig(height_px: int, width_px: int) -> Rig:
    """A small car: front fisheye, four pinholes at the corners of the roof."""
    size = (width_px, height_px)
    corners = {"front": 0, "left": 80, "rear": 180, "right": -80}
    pinholes = [
        pinhole_camera(name, np.deg2rad(90), *size, ego_from_cam_looking((1.0, 0.0, 1.6), np.deg2rad(yaw), 0.03), (-0.1, 0.02))
        for name, yaw in corners.items()
    ]
    wide = fisheye_camera("wide", np.deg2rad(170), *size, ego_from_cam_looking((2.0, 0.0, 1.0), 0.0, 0.15), (0.02, -0.004, 0.001))
    return Rig((wide, *pinholes))


def six_camera_rig(height_px: int, width_px: int) -> Rig:
    """Six pinholes all around, at the yaw angles of nuScenes."""
    size = (width_px, height_px)
    yaws = {"front": (0, 70), "front_left": (55, 70), "front_right": (-55, 70), "back": (180, 110), "back_left": (110, 70)}
    yaws["back_right"] = (-110, 70)
    return Rig(
        tuple(
            pinhole_camera(name, np.deg2rad(fov), *size, ego_from_cam_looking((1.0, 0.0, 1.5), np.deg2rad(yaw)))
            for name, (yaw, fov) in yaws.items()
        )
    )


def verification_rigs(input_hw: tuple[int, int], num_cameras: int | None = None) -> list[Rig]:
    """Rigs of 5, 6 and 8 cameras at network size (5 and 8 with a fisheye); those that fit a graph with a fixed number."""
    rigs = [five_camera_rig(*input_hw), six_camera_rig(*input_hw), default_rig(*input_hw)]
    if num_cameras is None:
        return rigs
    return [Rig(rig.cameras[:num_cameras]) for rig in rigs]


def synthetic_pictures(rig: Rig, seed: int) -> dict[str, np.ndarray]:
    """Random blotches of several sizes with noise: pictures that excite every filter."""
    generator = np.random.default_rng(seed)
    pictures = {}
    for camera in rig.cameras:
        height, width = camera.height_px, camera.width_px
        picture = generator.normal(0, 12, (height, width, 3))
        for cell in (4, 16, 48):
            rows, columns = -(-height // cell), -(-width // cell)
            coarse = generator.normal(0, 35, (rows, columns, 3))
            picture += np.kron(coarse, np.ones((cell, cell, 1)))[:height, :width]
        pictures[camera.name] = np.clip(picture + 110, 0, 255).astype(np.uint8)
    return pictures


def synthetic_steps(
    rig: Rig, config: ModelConfig, steps: int, seed: int = 0, num_rows: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Graph inputs of a drive at 8 m/s in a curve; cameras fire within 30 ms, the second is dead in every fourth step."""
    generator = np.random.default_rng(seed)
    seconds = np.arange(steps * 5 + 6) * 0.1
    heading = 0.1 * np.sin(seconds) + 0.05 * seconds
    path = np.stack([8 * seconds, 0.4 * seconds**1.5, 0.1 * np.sin(seconds)], axis=1)
    trajectory = Trajectory((seconds * NS_PER_S).astype(np.int64), rigid_from_parts(rotation_from_yaw(heading), path))
    packer = StepPacker(rig.cameras, config.input_hw, num_rows)
    references_ns = [round((0.2 + 0.5 * index) * NS_PER_S) for index in range(steps)]
    for index, reference_ns in enumerate(references_ns):
        pictures = {}
        for row, (name, image) in enumerate(synthetic_pictures(rig, seed * 1000 + index).items()):
            stamp = reference_ns + int(generator.integers(-30, 31)) * 1_000_000
            dead = index % 4 == 3 and row == 1
            pictures[name] = Picture(stamp, None if dead else image, trajectory.at(stamp))
        world_from_ego = trajectory.at(reference_ns)
        inputs, _ = packer.pack(reference_ns, pictures, world_from_ego)
        prev_from_world = invert_rigid(trajectory.at(references_ns[max(index - 1, 0)]))
        prev_from_ego = prev_from_world @ world_from_ego
        inputs["dt"] = np.array([0.5 if index else 0.0], dtype=np.float32)
        inputs["prev_from_ego"] = prev_from_ego[None].astype(np.float32)
        yield inputs
