"""What was recorded? A clip: a rig, frames with their images, the ego path and label layers, in one folder.

::

    CLIP/
      clip.json          schema version, name, dataset, licence, description, rig
      frames.parquet     frame_index, timestamp_ns, world_from_ego (x_m .. qz)
      views.parquet      frame_index, camera, image, timestamp_ns, world_from_ego at capture (x_m .. qz)
      ego.parquet        timestamp_ns, world_from_ego (x_m .. qz), as dense as it is known
      images/<camera>/<frame>.jpg|png   or   videos/<camera>.mp4 (image column: "videos/front.mp4#12")
      layers/<name>/     see scenes.layers
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from scenes.atomic import atomic_folder, check_schema_version, read_json, write_json
from scenes.boxes import Boxes
from scenes.errors import DataError
from scenes.geometry import Trajectory, invert_rigid, pose_from_rigid, rigid_from_pose
from scenes.layers import LabelLayer, read_layer
from scenes.rigs import Rig
from scenes.tables import POSE_COLUMNS, check_clock, pose_rows, read_table, write_table

CLIP_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class View:
    """One camera's picture of a frame. A camera without picture at that time is not alive."""

    camera: str
    timestamp_ns: int
    """The camera's own capture time."""
    world_from_ego_at_cam: np.ndarray
    """(4, 4): where the ego vehicle was at that capture time."""
    image: str
    """Path inside the clip, "" where there is no picture; "videos/x.mp4#7" is frame 7 of a video."""

    @property
    def alive(self) -> bool:
        """Whether there is a picture."""
        return self.image != ""


@dataclass(frozen=True)
class Frame:
    """One instant of the clip: a reference time and the views nearest to it."""

    index: int
    timestamp_ns: int
    world_from_ego: np.ndarray
    """(4, 4) at the reference time."""
    views: dict[str, View]


@dataclass
class Clip:
    """A recorded or simulated drive. Images are read on demand, in any order."""

    path: Path
    name: str
    rig: Rig
    frames: list[Frame]
    trajectory: Trajectory
    info: dict = field(default_factory=dict)
    """dataset, licence, description, weather and the like, as JSON values."""

    @classmethod
    def open(cls, path: Path | str) -> "Clip":
        """Reads and validates everything but the images; broken rows are refused with `DataError` naming them."""
        path = Path(path)
        header = read_json(path / "clip.json")
        check_schema_version(header, path / "clip.json", CLIP_SCHEMA_VERSION)
        if not header.get("rig"):
            raise DataError(f"{path / 'clip.json'}: expected calibrated cameras under 'rig', got none; add the calibration")
        rig = Rig.from_json(header["rig"], str(path / "clip.json"))
        ego = read_table(path / "ego.parquet", ("timestamp_ns", *POSE_COLUMNS))
        if not len(ego["timestamp_ns"]):
            raise DataError(f"{path / 'ego.parquet'}: expected at least one ego pose, got none; import the clip again with its poses")
        check_clock(ego["timestamp_ns"], path / "ego.parquet")
        trajectory = Trajectory(ego["timestamp_ns"], rigid_from_pose(pose_rows(ego, path / "ego.parquet")))
        frames = _read_frames(path, rig)
        return cls(path, str(header.get("name", path.name)), rig, frames, trajectory, header.get("info", {}))

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def num_pictures(self) -> int:
        """How many pictures the clip names, of all cameras together."""
        return sum(view.alive for frame in self.frames for view in frame.views.values())

    def image(self, frame_index: int, camera: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB as the camera took it; missing, truncated or wrongly sized pictures raise `DataError`."""
        view = self.frames[frame_index].views[camera]
        if not view.alive:
            raise DataError(f"{self.path}: frame {frame_index} has no picture of camera {camera!r}; skip it, its view is not alive")
        image = read_image(self.path, view.image)
        expected = (self.rig[camera].height_px, self.rig[camera].width_px)
        if image.shape[:2] != expected:
            raise DataError(
                f"{self.path / view.image}: expected {expected[1]}x{expected[0]} pixels as calibrated, got "
                f"{image.shape[1]}x{image.shape[0]}; resize it or correct the calibration"
            )
        return image

    @property
    def layer_names(self) -> list[str]:
        """Names of the label layers on disk, sorted."""
        return sorted(p.name for p in (self.path / "layers").glob("[!.]*") if (p / "layer.json").is_file())

    def layer(self, name: str) -> LabelLayer:
        """A label layer by name; an unknown one is refused with the names that exist."""
        if name not in self.layer_names:
            raise DataError(f"{self.path}: no label layer {name!r}; it has {self.layer_names or 'none'}")
        return read_layer(self.path / "layers" / name)

    def boxes_ego(self, layer: LabelLayer, frame_index: int) -> Boxes | None:
        """The layer's boxes of a frame in its ego frame at reference time; None if the frame was not labelled."""
        boxes_world = layer.boxes_world.get(frame_index)
        if boxes_world is None:
            return None
        return boxes_world.transform(invert_rigid(self.frames[frame_index].world_from_ego))

    def cam_from_ego_at_ref(self, frame_index: int, camera: str) -> np.ndarray:
        """(4, 4): points of the ego frame at reference time in the camera at its capture time (ego motion folded in)."""
        frame = self.frames[frame_index]
        ego_at_cam_from_world = invert_rigid(frame.views[camera].world_from_ego_at_cam)
        cam_from_ego_at_cam = self.rig[camera].cam_from_ego
        return cam_from_ego_at_cam @ ego_at_cam_from_world @ frame.world_from_ego


def sweep_path(clip_path: Path, frame_index: int) -> Path:
    """Where a frame's lidar sweep lies, if the clip has one: points_ego (P, 3) in the ego frame at reference time."""
    return Path(clip_path) / "lidar" / f"{frame_index:06d}.npz"


def read_image(clip_path: Path, image: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a picture file or of a video's frame (`name.mp4#index`) inside a clip."""
    name, _, video_index = image.partition("#")
    path = Path(clip_path) / name
    if not path.is_file():
        raise DataError(f"{path}: missing image; restore it or mark the view as not alive")
    if video_index:
        return _read_video_frame(path, int(video_index))
    data = np.fromfile(path, dtype=np.uint8)
    if name.lower().endswith((".jpg", ".jpeg")) and b"\xff\xd9" not in data[-64:].tobytes():
        raise DataError(f"{path}: truncated JPEG (no end marker); restore it or mark the view as not alive")
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if decoded is None:
        raise DataError(f"{path}: not readable as an image; restore it or mark the view as not alive")
    return np.ascontiguousarray(decoded[:, :, ::-1])


@lru_cache(maxsize=16)
def _video_container(path: Path):
    import av

    return av.open(str(path))


def _read_video_frame(path: Path, index: int) -> np.ndarray:
    """Frame `index` (from 0) of a video with a constant frame rate, found by seeking to the key frame before it."""
    import av

    try:
        container = _video_container(path)
        stream = container.streams.video[0]
        rate, base, start = stream.average_rate, stream.time_base, stream.start_time or 0
        if rate is None or base is None:
            raise DataError(f"{path}: expected a video with a constant frame rate, got none; encode it again or use pictures")
        container.seek(int(start + index / rate / base), stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and round((frame.pts - start) * base * rate) == index:
                return frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise DataError(f"{path}: not readable as a video ({error}); restore it or mark its views as not alive") from error
    raise DataError(f"{path}: no frame {index} in the video; correct views.parquet")


def _read_frames(path: Path, rig: Rig) -> list[Frame]:
    frame_table = read_table(path / "frames.parquet", ("frame_index", "timestamp_ns", *POSE_COLUMNS))
    if not len(frame_table["frame_index"]):
        raise DataError(f"{path / 'frames.parquet'}: expected at least one frame, got none; drop the empty clip")
    if (frame_table["frame_index"] != np.arange(len(frame_table["frame_index"]))).any():
        raise DataError(f"{path / 'frames.parquet'}: expected frame_index 0, 1, 2, ..., got something else; renumber the frames")
    check_clock(frame_table["timestamp_ns"], path / "frames.parquet")
    frame_poses = rigid_from_pose(pose_rows(frame_table, path / "frames.parquet"))
    view_table = read_table(path / "views.parquet", ("frame_index", "camera", "image", "timestamp_ns", *POSE_COLUMNS))
    view_poses = rigid_from_pose(pose_rows(view_table, path / "views.parquet"))
    views: list[dict[str, View]] = [{} for _ in frame_poses]
    for row, (index, camera) in enumerate(zip(view_table["frame_index"], view_table["camera"], strict=True)):
        if camera not in rig.names or not 0 <= index < len(views):
            raise DataError(
                f"{path / 'views.parquet'}, row {row}: no such camera or frame ({camera!r}, {index}); add its calibration or drop the row"
            )
        if camera in views[index]:
            raise DataError(f"{path / 'views.parquet'}, row {row}: a second picture of camera {camera!r} in frame {index}; drop one")
        stamp, image = int(view_table["timestamp_ns"][row]), str(view_table["image"][row] or "")
        views[index][str(camera)] = View(str(camera), stamp, view_poses[row], image)
    for index, by_camera in enumerate(views):
        for camera in rig.names:
            by_camera.setdefault(camera, View(camera, int(frame_table["timestamp_ns"][index]), frame_poses[index], ""))
    return [Frame(i, int(frame_table["timestamp_ns"][i]), pose, views[i]) for i, pose in enumerate(frame_poses)]


@contextmanager
def write_clip(path: Path, name: str, rig: Rig, trajectory: Trajectory, info: dict, replace: bool = False) -> Iterator["ClipWriter"]:
    """Writes a clip folder atomically: it appears under `path` only when the block ends well.

    Inside the block call `add_frame` in time order, write images below `writer.folder` and layers below
    `writer.layer_folder(name)` with the functions of `scenes.layers`.
    """
    with atomic_folder(path, replace=replace) as folder:
        writer = ClipWriter(folder)
        yield writer
        if not writer.frames:
            raise DataError(f"{path}: expected at least one frame, got none; an empty clip is not written")
        writer.write_tables(trajectory)
        header = {"schema_version": CLIP_SCHEMA_VERSION, "name": name, "info": info, "rig": rig.to_json()}
        write_json(folder / "clip.json", header)


class ClipWriter:
    """Collects the frames of a clip that is being written; made by `write_clip`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.frames: list[Frame] = []

    def add_frame(self, timestamp_ns: int, world_from_ego: np.ndarray, views: list[View]) -> int:
        """Adds the next frame; returns its index. Views of missing cameras may be left out."""
        self.frames.append(Frame(len(self.frames), int(timestamp_ns), world_from_ego, {view.camera: view for view in views}))
        return len(self.frames) - 1

    def write_image(self, camera: str, frame_index: int, image_rgb: np.ndarray, jpeg_quality: int = 92) -> str:
        """Encodes (H, W, 3) uint8 RGB as JPEG; returns the path to put into the `View`."""
        relative = f"images/{camera}/{frame_index:06d}.jpg"
        target = self.folder / relative
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True)
        options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
        if not cv2.imwrite(str(target), cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), options):
            raise DataError(f"{target}: image could not be written; free space or choose another folder")
        return relative

    def layer_folder(self, name: str) -> Path:
        """The (new) folder of a label layer in the clip being written."""
        folder = self.folder / "layers" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_tables(self, trajectory: Trajectory) -> None:
        """Writes frames, views and ego path."""
        check_clock(np.array([frame.timestamp_ns for frame in self.frames]), self.folder / "frames.parquet")
        poses = pose_from_rigid(np.stack([frame.world_from_ego for frame in self.frames]))
        stamps = np.array([frame.timestamp_ns for frame in self.frames], dtype=np.int64)
        frame_index = np.arange(len(stamps), dtype=np.int64)
        write_table(self.folder / "frames.parquet", {"frame_index": frame_index, "timestamp_ns": stamps, **_pose_columns(poses)})
        views = [(frame.index, view) for frame in self.frames for view in frame.views.values()]
        at_cam = np.stack([view.world_from_ego_at_cam for _, view in views]) if views else np.zeros((0, 4, 4))
        write_table(
            self.folder / "views.parquet",
            {
                "frame_index": np.array([index for index, _ in views], dtype=np.int64),
                "camera": np.array([view.camera for _, view in views], dtype=str),
                "image": np.array([view.image for _, view in views], dtype=str),
                "timestamp_ns": np.array([view.timestamp_ns for _, view in views], dtype=np.int64),
                **_pose_columns(pose_from_rigid(at_cam)),
            },
        )
        ego_poses = pose_from_rigid(trajectory.world_from_ego)
        write_table(self.folder / "ego.parquet", {"timestamp_ns": trajectory.timestamps_ns, **_pose_columns(ego_poses)})


def _pose_columns(poses: np.ndarray) -> dict[str, np.ndarray]:
    return {name: poses[:, column] for column, name in enumerate(POSE_COLUMNS)}


def find_clips(folders: list[Path] | Path) -> list[Path]:
    """Every clip folder at or below the given folders (by its `clip.json`), sorted; none at all is refused."""
    folders = [Path(folders)] if isinstance(folders, str | Path) else [Path(f) for f in folders]
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: expected a folder of clips, got nothing there; check the path")
        here = [folder] if (folder / "clip.json").is_file() else []
        below = [p.parent for p in folder.rglob("clip.json") if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
        if not (here or below):
            raise DataError(f"{folder}: expected clips (folders with clip.json), got none; import or simulate some first")
        found += here or below
    return sorted(set(found))
