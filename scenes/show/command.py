"""`surround4d show`: what do the labels of these clips look like?"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import tyro
from rich.console import Console

from scenes.atomic import atomic_file
from scenes.clips import Clip, find_clips
from scenes.errors import ConfigError, DataError, SurroundError
from scenes.layers import LabelLayer
from scenes.show.bev import bev_view
from scenes.show.sheet import camera_sheet
from scenes.show.voxels import occupancy_view

DEFAULT_FRAMES = 4
"""Without `--frames` this many, evenly spread."""


@dataclass(frozen=True)
class ShowStyle:
    """How the pictures are drawn."""

    range_m: float
    min_score: float
    tile_width_px: int
    color_by: str | None
    labels: bool


def show(
    clips: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path,
    layers: str = "truth",
    frames: str = "",
    range_m: float = 50.0,
    min_score: float = 0.0,
    tile_width: int = 480,
    color_by: Literal["auto", "class", "track", "layer"] = "auto",
    labels: bool = False,
    video: bool = False,
    rerun: Path | None = None,
) -> int:
    """Draw the labels of clips in every camera, from above and as voxels: PNG files below OUT/CLIP/.

    Args:
        clips: Folders of clips, searched in depth.
        out: Folder for the pictures.
        layers: Names of label layers, separated by commas; several are drawn over each other. "none": pictures only.
        frames: Frame numbers and ranges such as 0,5,10:20 or 0:50:5; "all"; by default four spread over the clip.
        range_m: Half the side of the view from above, in metres.
        min_score: Leave out boxes with a lower score.
        tile_width: Width of one camera's picture in pixels.
        color_by: Colour of boxes; auto is by class for one layer and by layer for several.
        labels: Write class, track and score at each box.
        video: Also write OUT/CLIP/overview.mp4 over all frames.
        rerun: Also write a recording for the rerun viewer (needs surround4d[rerun]).
    """
    console = Console(soft_wrap=True)
    style = ShowStyle(range_m, min_score, tile_width, None if color_by == "auto" else color_by, labels)
    if range_m <= 0 or tile_width < 16:
        raise ConfigError(f"expected a positive --range-m and a --tile-width of at least 16, got {range_m} and {tile_width}; correct them")
    names = [name.strip() for name in layers.split(",") if name.strip() and name.strip() != "none"]
    parse_frames(frames, 1)  # a misspelt selection is refused before anything is written
    paths, status = find_clips(list(clips)), 0
    with ExitStack() as stack:
        recording = stack.enter_context(_open_recording(rerun)) if rerun is not None else None
        for path, name in zip(paths, folder_names(paths), strict=True):
            try:
                clip = Clip.open(path)
                shown = [clip.layer(layer) for layer in names]
                written = draw_clip(clip, shown, parse_frames(frames, len(clip)), out / name, style)
                if video:
                    written.append(write_video(clip, shown, out / name / "overview.mp4", style))
                if recording is not None:
                    recording.add_clip(clip, shown, parse_frames(frames or "all", len(clip)), min_score)
                console.print(f"{path}: {len(written)} file(s) in {out / name}", highlight=False, markup=False)
            except SurroundError as error:
                Console(stderr=True, soft_wrap=True).print(f"surround4d show: {error}", highlight=False, markup=False)
                status = 2
    if rerun is not None:
        console.print(f"{rerun}: open it with `rerun {rerun}`", highlight=False, markup=False)
    return status


def _open_recording(path: Path):
    from scenes.show.rerun_recording import rerun_recording

    return rerun_recording(path)


def folder_names(paths: Sequence[Path]) -> list[str]:
    """A folder name for every clip: its own, with its parent's before it where two are the same."""
    names = [path.resolve().name for path in paths]
    longer = [f"{path.resolve().parent.name}__{name}" if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)]
    return [name if longer.count(name) == 1 else f"{row:04d}__{name}" for row, name in enumerate(longer)]


def parse_frames(text: str, num_frames: int) -> list[int]:
    """Frame numbers of a selection such as "0,5,10:20:2", "all" or "" (four evenly spread); those beyond the clip are left out.

    Negative numbers count from the end. Anything else is refused with `ConfigError`.
    """
    if not text:
        return sorted({int(i) for i in np.linspace(0, num_frames - 1, DEFAULT_FRAMES).round()})
    chosen: set[int] = set()
    for part in text.split(","):
        try:
            if part.strip() == "all":
                chosen |= set(range(num_frames))
            elif ":" in part:
                numbers = [int(number) if number.strip() else None for number in part.split(":")]
                chosen |= set(range(num_frames)[slice(*numbers)])
            else:
                number = int(part)
                chosen |= {number + num_frames if number < 0 else number} & set(range(num_frames))
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"--frames {text!r}: expected numbers and ranges such as 0,5,10:20 or all, got {part!r}; correct it"
            ) from error
    return sorted(chosen)


def draw_clip(clip: Clip, layers: Sequence[LabelLayer], frames: Sequence[int], folder: Path, style: ShowStyle) -> list[Path]:
    """Writes the pictures of the chosen frames as `<frame>_cameras.png`, `_above.png` and `_occupancy[_<layer>].png`."""
    if not frames:
        raise DataError(f"{clip.path}: none of the chosen frames exists, it has frames 0 to {len(clip) - 1}; choose others")
    written = []
    for frame in frames:
        pictures = {"cameras": _cameras(clip, frame, layers, style), "above": _above(clip, frame, layers, style)}
        for layer in layers:
            occupancy = layer.occupancy(frame)
            if occupancy is not None:
                suffix = "" if len(layers) == 1 else f"_{layer.name}"
                pictures[f"occupancy{suffix}"] = occupancy_view(occupancy)
        written += [write_png(folder / f"{frame:06d}_{kind}.png", image) for kind, image in pictures.items()]
    return written


def _cameras(clip: Clip, frame: int, layers: Sequence[LabelLayer], style: ShowStyle) -> np.ndarray:
    return camera_sheet(clip, frame, layers, style.tile_width_px, style.color_by, style.min_score, style.labels)


def _above(clip: Clip, frame: int, layers: Sequence[LabelLayer], style: ShowStyle, size_px: int = 800) -> np.ndarray:
    return bev_view(clip, frame, layers, size_px, style.range_m, style.color_by, style.min_score, style.labels)


def write_png(path: Path, image_rgb: np.ndarray) -> Path:
    """Writes (H, W, 3) uint8 RGB as PNG, atomically; returns the path."""
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(image_rgb[:, :, ::-1]))
    assert encoded
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.tobytes())
    return path


def overview(clip: Clip, frame: int, layers: Sequence[LabelLayer], style: ShowStyle) -> np.ndarray:
    """All cameras with the view from above beside them, the same height; sides are even numbers, as video wants them."""
    cameras = _cameras(clip, frame, layers, style)
    height = cameras.shape[0] // 2 * 2
    above = _above(clip, frame, layers, style, height)
    both = np.concatenate([cameras[:height], above], axis=1)
    return np.ascontiguousarray(both[:, : both.shape[1] // 2 * 2])


def write_video(clip: Clip, layers: Sequence[LabelLayer], path: Path, style: ShowStyle) -> Path:
    """Writes the overview of all frames as H.264 at the clip's own frame rate, atomically; returns the path."""
    import av

    stamps = np.array([frame.timestamp_ns for frame in clip.frames])
    rate = max(1, round(1e9 / np.median(np.diff(stamps)))) if len(stamps) > 1 else 1
    with atomic_file(path) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "22", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        for frame in range(len(clip)):
            image = overview(clip, frame, layers, style)
            if not frame:
                stream.width, stream.height = image.shape[1], image.shape[0]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path
