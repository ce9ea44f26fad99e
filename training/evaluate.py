"""How good is this checkpoint, or that label layer? The command `surround4d eval`."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from evaluation.compare import CompareSettings, Item, compare_layers
from evaluation.detection import NUSCENES_RANGE_M, DetectionSettings
from scenes.atomic import write_json
from scenes.clips import Clip, find_clips
from scenes.errors import ConfigError, DataError, SurroundError
from scenes.layers import LabelLayer, Occupancy, write_layer

if TYPE_CHECKING:
    from fusion.model import Surround


def evaluate(
    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT|LAYER")],
    data: tuple[Path, ...],
    against: str = "truth",
    json: Path | None = None,
    memory: bool = True,
    range_m: float | None = None,
    min_visibility: float = 1e-3,
    device: str = "cpu",
    keep: bool = False,
    overwrite: bool = False,
) -> int:
    """Measures a checkpoint or a label layer against another label layer; prints tables.

    Args:
        what: a checkpoint (a .pt file, or a shipped name such as nano), which is run over the clips, or the name of a
            label layer that the clips have.
        data: folders of clips.
        against: the layer that is taken for the truth.
        json: file for all figures.
        memory: let the network remember from frame to frame; without, every frame starts from nothing.
        range_m: count boxes nearer than this only, whatever their class; by default as far as nuScenes counts each class.
        min_visibility: truth of which the cameras see a smaller share is neither to be found nor wrong to find.
        device: where the network runs: auto, cpu, cuda, cuda:1.
        keep: also write the network's boxes into each clip as the label layer model@NAME, to be drawn, compared or reviewed.
        overwrite: let --keep replace a layer of that name.
    """
    settings = CompareSettings(_detection_settings(range_m, min_visibility))
    clip_paths = find_clips(list(data))
    predict, made_layer = _predictor(what, clip_paths, memory, device)
    if keep:
        if not made_layer:
            raise ConfigError(f"--keep: {what!r} is a label layer that the clips have already; give a checkpoint or leave --keep away")
        predict = _keeping(predict, made_layer, overwrite)
    failures: list[str] = []
    report = compare_layers(_items(clip_paths, predict, against, failures), settings)
    console = Console()
    (console if console.is_terminal else Console(width=132)).print(report.table())
    if json is not None:
        write_json(json, report.to_json())
    return 2 if failures else 0


def _items(clip_paths: list[Path], predict: Callable[[Clip], LabelLayer], against: str, failures: list[str]) -> Iterator[Item]:
    """Clip after clip; one that fails says so on stderr and is left out. When all fail, that is a `DataError`."""
    console = Console(stderr=True)
    for path in track(clip_paths, "clips", console=console, transient=True, disable=not console.is_terminal):
        try:
            clip = Clip.open(path)
            truth = clip.layer(against)
            yield clip, predict(clip), truth
        except SurroundError as error:
            failures.append(str(error))
            print(f"surround4d eval: {error}", file=sys.stderr)
    if len(failures) == len(clip_paths):
        raise DataError(f"none of the {len(clip_paths)} clips could be evaluated (reasons above); mend them or name other folders")


def _detection_settings(range_m: float | None, min_visibility: float) -> DetectionSettings:
    if range_m is None:
        return DetectionSettings(min_visibility=min_visibility)
    if not range_m > 0:
        raise ConfigError(f"--range-m: expected a distance above 0, got {range_m}; correct it")
    return DetectionSettings(class_range_m=dict.fromkeys(NUSCENES_RANGE_M, range_m), min_visibility=min_visibility)


def _predictor(what: str, clip_paths: list[Path], memory: bool, device: str) -> tuple[Callable[[Clip], LabelLayer], str]:
    """A function from a clip to the predicted layer, and the name of the layer that it makes; "" where it reads one."""
    layers = sorted({p.parent.name for path in clip_paths for p in (path / "layers").glob("[!.]*/layer.json")})
    if what in layers:
        return (lambda clip: clip.layer(what)), ""
    if not Path(what).exists() and ("@" in what or what in ("truth", "human")):
        raise DataError(f"label layer {what!r}: none of the clips has it, they have {', '.join(layers) or 'none'}; name one of these")
    from training.checkpoints import load_checkpoint  # brings torch, which comparing layers does not need

    checkpoint = load_checkpoint(what, device)
    name = str(checkpoint.meta["name"])
    return (lambda clip: streamed_layer(checkpoint.model, clip, name, memory)), f"model@{name}"


def _keeping(predict: Callable[[Clip], LabelLayer], name: str, overwrite: bool) -> Callable[[Clip], LabelLayer]:
    """The same, but the layer of that name is written into the clip."""

    def predict_and_write(clip: Clip) -> LabelLayer:
        if (clip.path / "layers" / name).exists() and not overwrite:  # said before the clip is streamed, not after
            raise DataError(f"{clip.path}: has a layer {name!r} already; give --overwrite, or leave --keep away")
        layer = predict(clip)
        write_layer(clip.path, layer, replace=overwrite)
        return layer

    return predict_and_write


class StreamedLayer(LabelLayer):
    """A network's words about a clip, held in memory, voxels too."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.occupancies: dict[int, Occupancy] = {}

    def occupancy(self, frame_index: int) -> Occupancy | None:
        """The frame's voxels, or None if the network predicts none."""
        return self.occupancies.get(frame_index)


def streamed_layer(model: "Surround", clip: Clip, name: str, memory: bool = True) -> StreamedLayer:
    """Boxes and voxels of every frame as layer `model@<name>`. Without memory no box has an id."""
    from training.streaming import detected_boxes, predicted_occupancy, stream_clip

    layer = StreamedLayer(f"model@{name}")
    for step in stream_clip(model, clip, memory=memory):
        boxes_ego = detected_boxes(step.detections)
        if not memory:
            boxes_ego = replace(boxes_ego, track_id=np.full(len(boxes_ego), -1))
        layer.boxes_world[step.frame_index] = boxes_ego.transform(clip.frames[step.frame_index].world_from_ego)
        occupancy = predicted_occupancy(step.output)
        if occupancy is not None:
            layer.occupancies[step.frame_index] = occupancy
    return layer
