"""Can `nano` represent the real world? Trained on the first 40 frames of PandaSet 002, measured on those frames.

python -m benchmarks.pandaset_nano ../shared/realdata/pandaset      imports, trains (from the shipped checkpoint), prints, draws.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import tyro

from evaluation.compare import CompareSettings, compare_layers
from evaluation.detection import DetectionSettings
from perception.augmentation import NO_AUGMENTATION
from scenes.clips import Clip, find_clips, write_clip
from scenes.layers import LabelLayer, write_layer_files
from scenes.readers.command import import_dataset
from scenes.show.sheet import camera_sheet
from training.checkpoints import load_checkpoint
from training.recipes import recipe
from training.streaming import run_clip
from training.trainer import Trainer


def measure(
    source: tyro.conf.Positional[Path],
    out: Path = Path("out/benchmarks/pandaset_nano"),
    steps: int = 700,
    frames: int = 40,
    init: str = "nano",
    lr: float = 6e-4,
    threads: int = 2,
) -> None:
    """Prints vehicle AP by threshold and writes `cameras.png` of the middle frame.

    Args:
        source: The PandaSet folder.
        out: Where clips, run and picture go.
        steps: Training steps of two streams.
        frames: How many frames from the start are trained and measured.
        init: Checkpoint that training starts from.
        lr: Peak learning rate.
        threads: Torch threads.
    """
    import_dataset("pandaset", source, out / "imported")
    path = first_frames(find_clips(out / "imported")[0], out / "clips" / f"first_{frames}", frames)
    base = recipe("nano")
    config = replace(
        base,
        data=replace(base.data, folders=(path,), batch=2, walk_steps=8, strides=(1, 2, 4, 5), workers=0, min_points=5, balance=0.0),
        augment=replace(NO_AUGMENTATION, mirror=0.0, light=0.1),
        optim=replace(base.optim, steps=steps, lr=lr, warmup_steps=50, ema=0.99),
        run=replace(base.run, out=out / "run", init=init, threads=threads),
    )
    model = load_checkpoint(Trainer(config).run()).model
    clip = Clip.open(path)
    found, truth = run_clip(model, clip), clip.layer("truth")
    report = compare_layers([(clip, found, truth)], CompareSettings(DetectionSettings(min_visibility=0.0)))
    for name, vehicles in report.vehicles.items():
        figures = ", ".join(f"{value:.3f} at {threshold:g} m" for threshold, value in vehicles.ap.items())
        print(f"vehicle AP within {name} on the {len(clip)} training frames: {figures}; {vehicles.num_truth} true boxes")
    sure = LabelLayer("model@nano", {i: boxes.select(boxes.score > 0.3) for i, boxes in found.boxes_world.items()})
    picture = out / "cameras.png"
    cv2.imwrite(str(picture), np.ascontiguousarray(camera_sheet(clip, len(clip) // 2, [sure])[:, :, ::-1]))
    print(f"drawn: {picture}")


def first_frames(source: Path, target: Path, count: int) -> Path:
    """A clip of the first frames of another one; its pictures are links."""
    if (target / "clip.json").is_file():
        return target
    clip = Clip.open(source)
    truth = clip.layer("truth")
    with write_clip(target, target.name, clip.rig, clip.trajectory, clip.info) as writer:
        for frame in clip.frames[:count]:
            writer.add_frame(frame.timestamp_ns, frame.world_from_ego, list(frame.views.values()))
        (writer.folder / "images").symlink_to((source / "images").resolve())
        boxes = {i: b for i, b in truth.boxes_world.items() if i < count}
        write_layer_files(writer.layer_folder("truth"), LabelLayer("truth", boxes, truth.lanes, truth.meta))
    return target


if __name__ == "__main__":
    tyro.cli(measure)
