"""How good is an exported file? Clips stream through onnxruntime and are measured by the same evaluation as a checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from evaluation.compare import CompareSettings, Item, compare_layers
from export.run import stream_clip
from export.runner import OnnxNetwork, SplitNetwork
from scenes.clips import Clip, find_clips
from scenes.errors import DataError
from scenes.layers import LabelLayer
from scenes.packing import pack_frame


def clip_steps(clip: Clip, input_hw: tuple[int, int], order: Sequence[int] | None = None) -> Iterator[dict[str, np.ndarray]]:
    """The graph's step inputs of every frame of a clip, or of the frames `order` one after the other."""
    previous = None
    for index in range(len(clip)) if order is None else order:
        packed = pack_frame(clip, index, input_hw, previous, strict=False)
        previous = index
        yield {
            "images": packed.images_NHW3[None],
            "intrinsics": packed.intrinsics_N4[None],
            "distortion": packed.distortion_N5[None],
            "lens": packed.lens_N[None],
            "max_angle": packed.max_angle_N[None],
            "cam_from_ego": packed.cam_from_ego_N44[None],
            "alive": packed.alive_N[None],
            "time_offset": packed.time_offset_N[None],
            "dt": packed.dt[None],
            "prev_from_ego": packed.prev_from_ego_44[None],
        }


def require_layer(clips: Sequence[Path], against: str) -> None:
    """Refuses clips without the layer `against` (`DataError`), before minutes are spent on a file that they are to measure."""
    for path in clips:
        names = Clip.open(path).layer_names
        if against not in names:
            raise DataError(f"{path}: no label layer {against!r} to measure against; it has {names or 'none'}")


def measure_accuracy(network: OnnxNetwork | SplitNetwork, clips: list[Path], against: str = "truth") -> dict[str, float]:
    """`accuracy_of` a file."""
    return accuracy_of(lambda clip: stream_clip(network, clip, "model@onnx"), clips, against)


def accuracy_of(predict: Callable[[Clip], LabelLayer], clips: list[Path], against: str = "truth") -> dict[str, float]:
    """mAP over the classes present, and vehicle AP within 30 m, on clips that have the layer `against`; as `surround4d eval` counts."""
    found = find_clips(clips)

    def items() -> Iterator[Item]:
        for path in found:
            clip = Clip.open(path)
            yield clip, predict(clip), clip.layer(against)

    report = compare_layers(items(), CompareSettings(occupancy=False))
    vehicles = report.vehicles["30 m"]
    ap = float(np.mean(list(vehicles.ap.values()))) if vehicles.ap else float("nan")
    values = {"mean_ap": report.detection.mean_ap_present, "vehicle_ap_30m": ap, "frames": float(report.num_frames)}
    return {name: round(float(value), 5) for name, value in values.items() if np.isfinite(value)}
