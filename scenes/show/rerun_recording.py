"""How does a clip with its labels become a recording for the rerun viewer?

Entities are named by the tree of frames: `CLIP/world`, `CLIP/world/ego`, `CLIP/world/cameras/<camera>` (each camera where it was
at its own capture time), `CLIP/world/layers/<layer>/boxes|velocities|lanes`, and `CLIP/world/ego/layers/<layer>/occupancy`.
rerun-sdk is an extra; without it a sentence says so.
"""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from scenes.atomic import atomic_file
from scenes.boxes import Box3D, Boxes
from scenes.cameras import Camera, Lens
from scenes.clips import Clip
from scenes.errors import ConfigError, DataError
from scenes.geometry import NS_PER_S
from scenes.layers import OCCUPANCY_FREE, OCCUPANCY_UNKNOWN, LabelLayer
from scenes.show.layer_style import LayerStyle, box_labels, layer_styles
from scenes.show.outlines import subdivide
from scenes.show.palette import LANE_RGB, occupancy_colors

JPEG_QUALITY = 80


def load_rerun() -> Any:
    """The rerun module; a missing or too old one is refused with the command that installs it."""
    try:
        rerun = importlib.import_module("rerun")
    except ImportError as error:
        raise ConfigError("--rerun needs the rerun viewer's SDK, which is not installed; pip install 'surround4d[rerun]'") from error
    if not hasattr(rerun, "set_time"):
        raise ConfigError("--rerun needs rerun-sdk 0.23 or newer, an older one is installed; pip install -U 'surround4d[rerun]'")
    return rerun


@contextmanager
def rerun_recording(path: Path) -> Iterator["RerunRecording"]:
    """Yields a recording to add clips to; the .rrd file appears under its name when the block ends well."""
    rerun = load_rerun()
    with atomic_file(path) as temporary:
        stream = rerun.RecordingStream("surround4d")
        stream.save(str(temporary))
        yield RerunRecording(rerun, stream)
        stream.flush()
        stream.disconnect()


class RerunRecording:
    """Logs clips into one rerun stream; made by `rerun_recording`."""

    def __init__(self, rerun: Any, stream: Any) -> None:
        self._rerun, self._stream = rerun, stream

    def add_clip(self, clip: Clip, layers: Sequence[LabelLayer], frames: Sequence[int], min_score: float = 0.0) -> None:
        """Logs the chosen frames of a clip with its layers; unreadable pictures are left out."""
        rerun, root = self._rerun, f"{clip.name}/world"
        styles = layer_styles(layers)
        self._stream.log(root, rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        for layer in layers:
            self._log_lanes(f"{root}/layers/{layer.name}/lanes", layer)
        for frame in frames:
            seconds = (clip.frames[frame].timestamp_ns - clip.frames[0].timestamp_ns) / NS_PER_S
            self._stream.set_time("clip", duration=seconds)
            self._log_pose(f"{root}/ego", clip.frames[frame].world_from_ego)
            for camera in clip.rig.cameras:
                self._log_view(f"{root}/cameras/{camera.name}", clip, frame, camera)
            for layer, style in zip(layers, styles, strict=True):
                self._log_boxes(f"{root}/layers/{layer.name}", layer.boxes_world.get(frame, Boxes.empty()), style, min_score)
                self._log_occupancy(f"{root}/ego/layers/{layer.name}/occupancy", layer, frame)

    def _log_pose(self, entity: str, parent_from_child: np.ndarray) -> None:
        self._stream.log(entity, self._rerun.Transform3D(translation=parent_from_child[:3, 3], mat3x3=parent_from_child[:3, :3]))

    def _log_view(self, entity: str, clip: Clip, frame: int, camera: Camera) -> None:
        rerun, view = self._rerun, clip.frames[frame].views[camera.name]
        if not view.alive:
            return
        try:
            image = clip.image(frame, camera.name)
        except DataError:
            return
        world_from_cam = view.world_from_ego_at_cam @ camera.ego_from_cam
        self._log_pose(entity, world_from_cam)
        if camera.lens is Lens.PINHOLE:  # rerun draws no fisheye in 3D; its picture is still shown in 2D
            img_from_cam = np.array([[camera.fx_px, 0, camera.cx_px + 0.5], [0, camera.fy_px, camera.cy_px + 0.5], [0, 0, 1]])
            size = [camera.width_px, camera.height_px]
            axes = rerun.ViewCoordinates.RDF
            self._stream.log(f"{entity}/image", rerun.Pinhole(image_from_camera=img_from_cam, resolution=size, camera_xyz=axes))
        _, data = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        self._stream.log(f"{entity}/image", rerun.EncodedImage(contents=data.tobytes(), media_type="image/jpeg"))

    def _log_boxes(self, entity: str, boxes_world: Boxes, style: LayerStyle, min_score: float) -> None:
        rerun, boxes = self._rerun, boxes_world.select(boxes_world.score >= min_score)
        half_yaw = boxes.box[:, Box3D.YAW] / 2
        zero = np.zeros(len(boxes))
        self._stream.log(
            f"{entity}/boxes",
            rerun.Boxes3D(
                centers=boxes.box[:, :3],
                half_sizes=boxes.box[:, Box3D.LENGTH : Box3D.HEIGHT + 1] / 2,
                quaternions=np.stack([zero, zero, np.sin(half_yaw), np.cos(half_yaw)], axis=1),
                colors=style.colors(boxes),
                labels=box_labels(boxes),
                class_ids=boxes.class_id,
            ),
        )
        velocity = np.nan_to_num(np.concatenate([boxes.box[:, Box3D.VX : Box3D.VY + 1], zero[:, None]], axis=1))
        self._stream.log(f"{entity}/velocities", rerun.Arrows3D(vectors=velocity, origins=boxes.box[:, :3], colors=style.colors(boxes)))

    def _log_lanes(self, entity: str, layer: LabelLayer) -> None:
        if layer.lanes:
            strips = [subdivide(lane.points_world, 5.0) for lane in layer.lanes]
            colors = [LANE_RGB[lane.type] for lane in layer.lanes]
            self._stream.log(entity, self._rerun.LineStrips3D(strips, colors=colors), static=True)

    def _log_occupancy(self, entity: str, layer: LabelLayer, frame: int) -> None:
        occupancy = layer.occupancy(frame)
        if occupancy is None:
            return
        filled = (occupancy.state != OCCUPANCY_FREE) & (occupancy.state != OCCUPANCY_UNKNOWN)
        points_ego, state = occupancy.grid.centers_ego()[filled], occupancy.state[filled]
        radius = min(occupancy.grid.voxel_m) / 2
        self._stream.log(entity, self._rerun.Points3D(points_ego, colors=occupancy_colors()[state], radii=radius))
