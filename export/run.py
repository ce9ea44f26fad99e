"""What does an exported graph say about clips? `surround4d run` streams them through it and times every stage."""

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from export.feed import Picture, StepPacker
from export.runner import OnnxNetwork, SplitNetwork, StepResult, StreamRunner
from scenes.boxes import CLASS_NAMES, Boxes
from scenes.clips import Clip, find_clips
from scenes.errors import ConfigError, DataError, SurroundError
from scenes.layers import LabelLayer, write_layer
from scenes.packing import resize_and_crop

STAGES = ("decode", "preprocess", "encoder", "fusion", "network", "read-out")
"""`network` is a whole graph that runs as one; in two parts it is `encoder` and `fusion`."""


@dataclass
class StageTimes:
    """Seconds per step of every stage."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STAGES})

    def add(self, **stages: float) -> None:
        """One step's times; names with `_` for `-`."""
        for name, value in stages.items():
            self.seconds[name.replace("_", "-")].append(value)

    def rows(self) -> list[tuple[str, float, float, float, float]]:
        """Stage, then p50, p90, p99 and the largest, in ms; the last row is their sum per step."""
        rows = []
        stages = {name: values for name, values in self.seconds.items() if values}
        for name, values in (*stages.items(), ("total", [sum(step) for step in zip(*stages.values(), strict=True)])):
            if values:
                ms = np.array(values) * 1e3
                rows.append((name, *(float(np.percentile(ms, q)) for q in (50, 90, 99)), float(ms.max())))
        return rows

    def table(self) -> Table:
        """The rows for people."""
        table = Table("stage", "p50 ms", "p90 ms", "p99 ms", "max ms")
        for name, *numbers in self.rows():
            table.add_row(name, *(f"{n:.2f}" for n in numbers))
        return table


def run_clip(
    file: Annotated[Path, tyro.conf.Positional],
    clips: Annotated[list[Path], tyro.conf.Positional],
    layer: str = "model@onnx",
    encoder: Path | None = None,
    whole: bool = False,
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "cpu",
    threads: int | None = None,
    min_score: float = 0.01,
    overwrite: bool = False,
) -> int:
    """Streams clips through an exported ONNX graph, writes what it finds as a label layer, prints times per stage.

    Args:
        file: An ONNX file written by `surround4d export`.
        clips: Clip folders, or folders of them.
        encoder: The encoder part, where FILE is the fusion part of a split graph.
        whole: Run a whole graph as one; by default it is cut in memory, so that encoder and fusion are timed each for itself.
        layer: Name of the label layer to write; must begin with model@.
        provider: Where onnxruntime computes.
        threads: Threads of onnxruntime; default all cores.
        min_score: Boxes below it are not written.
        overwrite: Replace a layer of that name.
    """
    if not re.fullmatch(r"model@[^/\\]+", layer):
        raise ConfigError(f"layer: expected a name that begins with model@, such as model@car, got {layer!r}; rename it")
    paths = find_clips(clips)
    if not paths:
        raise ConfigError("run: expected clips to stream, got none; give clip folders, or folders of them, after FILE")
    opened = open_network(file, encoder, provider, threads)
    network = opened if whole or isinstance(opened, SplitNetwork) else in_parts(opened, provider, threads)
    times, failed = StageTimes(), 0
    console = Console(highlight=False)
    for path in paths:
        try:
            clip = Clip.open(path)
            if layer in clip.layer_names and not overwrite:  # said before a minute is spent on it, not after
                raise DataError(f"{path}: has a layer {layer!r} already; give another name with --layer, or --overwrite")
            found = stream_clip(network, clip, layer, min_score, times)
            written = write_layer(path, found, replace=overwrite)
            console.print(f"{written}: {len(found.boxes_world)} frames, {sum(map(len, found.boxes_world.values()))} boxes")
        except SurroundError as error:
            failed += 1
            named = str(path) in str(error)
            print(f"surround4d run: {error}" if named else f"surround4d run: {path}: {error}", file=sys.stderr)
    if failed < len(paths):
        console.print(times.table())
    return 2 if failed else 0


def open_network(file: Path, encoder: Path | None = None, provider: str = "cpu", threads: int | None = None) -> OnnxNetwork | SplitNetwork:
    """A whole graph, or the two parts of a split one."""
    if encoder is None:
        return OnnxNetwork(file, provider, threads)
    parts = OnnxNetwork(encoder, provider, threads, part="encoder"), OnnxNetwork(file, provider, threads, part="fusion")
    return SplitNetwork(*parts)


def in_parts(network: OnnxNetwork, provider: str = "cpu", threads: int | None = None) -> OnnxNetwork | SplitNetwork:
    """A whole graph cut in two in memory; the graph itself where it has no camera network to cut off."""
    from export.lint import read_onnx  # onnx is needed for cutting alone
    from export.split import boundary_tensors, split_graph

    proto = read_onnx(network.path)
    if not boundary_tensors(proto):
        return network
    with TemporaryDirectory() as folder:
        paths = (Path(folder) / "encoder.onnx", Path(folder) / "fusion.onnx")
        for path, part in zip(paths, split_graph(proto, str(network.path)), strict=True):
            path.write_bytes(part.SerializeToString())
        parts = [OnnxNetwork(path, provider, threads, part=path.stem) for path in paths]
    split = SplitNetwork(*parts)
    split.path = network.path
    return split


def stream_clip(
    network: OnnxNetwork | SplitNetwork, clip: Clip, layer: str, min_score: float = 0.01, times: StageTimes | None = None
) -> LabelLayer:
    """Every frame of a clip through the graph with carried state; boxes in the world frame as a layer of that name."""
    classes = network.manifest.class_names
    unknown = sorted(set(classes) - set(CLASS_NAMES))
    if unknown:
        raise DataError(f"{network.path}: its classes {', '.join(unknown)} are not among ours; export it with this version")
    class_ids = np.array([CLASS_NAMES.index(name) for name in classes])
    meta = {"created_by": "export.run", "file": network.path.name, "precision": network.manifest.precision}
    found = LabelLayer(layer, meta={**meta, "weights_sha256": network.manifest.hashes.get("weights_sha256", "")})
    for index, result in stream_steps(network, clip, times):
        keep = result.score >= min_score
        boxes_ego = Boxes.make(result.box_ego[keep], class_ids[result.class_id[keep]], result.track_id[keep], result.score[keep].clip(0, 1))
        found.boxes_world[index] = boxes_ego.transform(clip.frames[index].world_from_ego)
    return found


def stream_steps(network: OnnxNetwork | SplitNetwork, clip: Clip, times: StageTimes | None = None) -> Iterator[tuple[int, StepResult]]:
    """Frame index and what the graph said about it, in order. A picture that cannot be read is a camera that is not alive."""
    times = times if times is not None else StageTimes()
    packer = StepPacker(clip.rig.cameras, network.manifest.input_hw, network.manifest.num_cameras, resize_and_crop)
    runner = StreamRunner(network, score_threshold=1e-6, max_gap_s=float("inf"))
    for frame in clip.frames:
        start = time.perf_counter()
        pictures = {}
        for name, view in frame.views.items():
            try:
                image = clip.image(frame.index, name) if view.alive else None
            except DataError:
                image = None
            pictures[name] = Picture(view.timestamp_ns, image, view.world_from_ego_at_cam)
        decoded = time.perf_counter()
        inputs, _ = packer.pack(frame.timestamp_ns, pictures, frame.world_from_ego)
        packed = time.perf_counter()
        result = runner.step(frame.timestamp_ns, inputs, frame.world_from_ego, clip.name)
        if isinstance(network, SplitNetwork):
            computing = {"encoder": network.encoder_s, "fusion": result.network_s - network.encoder_s}
        else:
            computing = {"network": result.network_s}
        times.add(decode=decoded - start, preprocess=packed - decoded, **computing, read_out=result.readout_s)
        yield frame.index, result
