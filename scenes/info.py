"""What do clips on disk hold: frames, cameras, layers, boxes per class, tracks, size?"""

import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from scenes.boxes import CLASS_NAMES
from scenes.clips import Clip, find_clips
from scenes.errors import SurroundError
from scenes.geometry import NS_PER_S
from scenes.layers import LabelLayer


@dataclass(frozen=True)
class LayerSummary:
    """What one label layer of a clip holds."""

    num_labelled: int
    """Labelled frames."""
    num_boxes: Counter
    """Class name to boxes, ignored ones left out."""
    num_tracks: int
    num_ignored: int
    num_lanes: int
    extras: tuple[str, ...]
    """Which of occupancy, depth and instances the layer has."""


@dataclass(frozen=True)
class ClipSummary:
    """What one clip holds."""

    name: str
    dataset: str
    num_frames: int
    duration_s: float
    rate_hz: float
    """0 for a clip of one frame."""
    cameras: str
    """Count and picture sizes."""
    num_pictures: int
    num_views: int
    distance_m: float
    """Driven by the ego vehicle between the first and last frame."""
    start: str
    """Date and time (UTC) of the first frame; "" where the clock does not start in 1970."""
    disk_bytes: int
    layers: dict[str, LayerSummary] = field(default_factory=dict)


WIDTH_IN_FILES = 150
"""Columns of the tables where the output is not a terminal."""


def info(data: tyro.conf.Positional[tuple[Path, ...]], /, classes: bool = True) -> int:
    """Prints what clips hold: frames, rate, cameras, layers, boxes of each class, tracks, size on disk.

    Args:
        data: Clips or folders of clips.
        classes: Also print the boxes of each class, layer by layer, summed over all clips.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_IN_FILES)
    summaries, failed = [], []
    for path in find_clips(list(data)):
        try:
            summaries.append(summarise(Clip.open(path)))
        except SurroundError as error:
            failed.append(f"{path.name} failed: {error}")
    console.print(clip_table(summaries))
    if classes and any(summary.layers for summary in summaries):
        console.print(class_table(summaries))
    for sentence in failed:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True, style="red")
    return 2 if failed else 0


def summarise(clip: Clip) -> ClipSummary:
    """Counts of a clip and of all its layers; a broken layer raises `DataError`."""
    stamps = np.array([frame.timestamp_ns for frame in clip.frames], dtype=np.int64)
    duration_s = float(stamps[-1] - stamps[0]) / NS_PER_S
    steps = np.diff(np.stack([frame.world_from_ego[:3, 3] for frame in clip.frames]), axis=0)
    return ClipSummary(
        name=clip.name,
        dataset=str(clip.info.get("dataset", "")),
        num_frames=len(clip),
        duration_s=duration_s,
        rate_hz=(len(clip) - 1) / duration_s if duration_s > 0 else 0.0,
        cameras=_cameras_text(clip),
        num_pictures=clip.num_pictures,
        num_views=sum(len(frame.views) for frame in clip.frames),
        distance_m=float(np.linalg.norm(steps, axis=1).sum()),
        start=_start_text(clip, int(stamps[0])),
        disk_bytes=folder_bytes(clip.path),
        layers={name: summarise_layer(clip.layer(name)) for name in clip.layer_names},
    )


def summarise_layer(layer: LabelLayer) -> LayerSummary:
    """Counts of one label layer."""
    frames = list(layer.boxes_world.values())
    names = [CLASS_NAMES[k] for boxes in frames for k in boxes.class_id[~boxes.ignore]]
    tracks = {int(t) for boxes in frames for t in boxes.track_id if t >= 0}
    extras = tuple(kind for kind in ("occupancy", "depth", "instances") if layer.path and (layer.path / kind).is_dir())
    return LayerSummary(
        len(frames), Counter(names), len(tracks), sum(int(boxes.ignore.sum()) for boxes in frames), len(layer.lanes), extras
    )


def _cameras_text(clip: Clip) -> str:
    sizes = Counter(f"{camera.width_px}x{camera.height_px}" for camera in clip.rig.cameras)
    return ", ".join(f"{count} x {size}" for size, count in sizes.items())


FIRST_PLAUSIBLE_NS = 631_152_000 * NS_PER_S
"""1990: clocks before that count from a start of their own."""


def _start_text(clip: Clip, stamp_ns: int) -> str:
    """The clip's own date where it has one, else the first time stamp as a date."""
    if clip.info.get("date"):
        return str(clip.info["date"])
    return datetime.fromtimestamp(stamp_ns / NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M") if stamp_ns > FIRST_PLAUSIBLE_NS else ""


def folder_bytes(path: Path) -> int:
    """Bytes of all files below a folder; links count as links."""
    return sum(os.lstat(os.path.join(root, name)).st_size for root, _, names in os.walk(path) for name in names)


def clip_table(summaries: list[ClipSummary]) -> Table:
    """One row a clip, and a last one with the sums where there are several."""
    table = Table(title=f"{len(summaries)} clips", box=box.SIMPLE_HEAD)
    for column in ("clip", "recorded"):
        table.add_column(column, overflow="fold")
    for column in ("frames", "Hz", "seconds", "metres"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("cameras", overflow="fold")
    table.add_column("pictures", justify="right", no_wrap=True)
    table.add_column("layers", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    for s in summaries:
        numbers = (str(s.num_frames), f"{s.rate_hz:.1f}" if s.rate_hz else "-", f"{s.duration_s:.1f}", f"{s.distance_m:.0f}")
        pictures = str(s.num_pictures) if s.num_pictures == s.num_views else f"{s.num_pictures}/{s.num_views}"
        recorded = f"{s.dataset} {s.start}".strip()
        table.add_row(s.name, recorded, *numbers, s.cameras, pictures, ", ".join(s.layers) or "-", size_text(s.disk_bytes))
    if len(summaries) > 1:
        frames, seconds = sum(s.num_frames for s in summaries), sum(s.duration_s for s in summaries)
        metres, pictures = sum(s.distance_m for s in summaries), sum(s.num_pictures for s in summaries)
        size = size_text(sum(s.disk_bytes for s in summaries))
        table.add_section()
        table.add_row("all", "", str(frames), "", f"{seconds:.1f}", f"{metres:.0f}", "", str(pictures), "", size)
    return table


def class_table(summaries: list[ClipSummary]) -> Table:
    """One column a layer, summed over all clips: clips, labelled frames, boxes of each class, tracks, lanes."""
    names = sorted({name for summary in summaries for name in summary.layers})
    table = Table(title="labels, summed over clips", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    layers = {name: [s.layers[name] for s in summaries if name in s.layers] for name in names}
    table.add_row("clips", *(str(len(layers[name])) for name in names))
    table.add_row("labelled frames", *(str(sum(layer.num_labelled for layer in layers[name])) for name in names))
    for class_name in CLASS_NAMES:
        table.add_row(class_name, *(str(sum(layer.num_boxes[class_name] for layer in layers[name])) for name in names))
    table.add_row("ignored", *(str(sum(layer.num_ignored for layer in layers[name])) for name in names))
    table.add_row("tracks", *(str(sum(layer.num_tracks for layer in layers[name])) for name in names))
    table.add_row("lanes", *(str(sum(layer.num_lanes for layer in layers[name])) for name in names))
    table.add_row("also", *(", ".join(sorted({e for layer in layers[name] for e in layer.extras})) or "-" for name in names))
    return table


def size_text(num_bytes: int) -> str:
    """A size for people: 12.3 MB."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
