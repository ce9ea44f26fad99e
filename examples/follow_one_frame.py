"""What happens to one frame? Follow it from the simulator to the 4D world; runs without data and without a GPU, in a minute.

python examples/follow_one_frame.py            writes out/one_frame/picture.jpg (the picture of the README)
"""

from pathlib import Path

import cv2
import numpy as np
import tyro

from scenes.clips import Clip, find_clips
from scenes.layers import LabelLayer
from scenes.show.draw import bev_view, camera_sheet
from scenes.simulator.command import simulate
from training.checkpoints import load_checkpoint
from training.streaming import detected_boxes, stream_clip


def follow(out: Path = Path("out/one_frame"), seed: int = 8002, frame: int = 5, min_score: float = 0.3, size: str = "96x256") -> None:
    """Prints what each step holds and draws the last one.

    Args:
        out: Where the simulated clip and the picture go.
        seed: Seed of the simulated clip.
        frame: The frame that is followed; the network watches the ones before it too.
        min_score: Boxes below this score are not drawn.
        size: Rows x columns of the simulated pictures.
    """
    simulate(out / "clips", clips=1, seconds=4.0, seed=seed, size=size, scenario="city", weather="day")
    clip = Clip.open(find_clips(out / "clips")[0])
    print(f"1. on disk: {clip.name}, {len(clip)} frames of {len(clip.rig)} cameras {clip.rig.names}, layers {clip.layer_names}")
    checkpoint = load_checkpoint("nano")
    for step in stream_clip(checkpoint.model, clip, range(frame + 1)):
        boxes_ego = detected_boxes(step.detections, min_score)
    for name, tensor in step.inputs.tensors().items():
        print(f"2. into the network: {name:20} {tuple(tensor.shape)}")
    print(f"3. bird's-eye heatmap {tuple(step.output.heatmap_BKXY.shape)}, {len(step.output.layers)} decoder layers")
    for name, tensor in step.state.tensors().items():
        print(f"4. remembered: {name:20} {tuple(tensor.shape)}")
    print(f"5. out: {len(boxes_ego)} boxes with a score of at least {min_score}, ids {sorted(set(boxes_ego.track_id.tolist()))}")
    found = LabelLayer("model@nano", {frame: boxes_ego.transform(clip.frames[frame].world_from_ego)})
    cameras, above = camera_sheet(clip, frame, [found]), bev_view(clip, frame, [clip.layer("truth"), found])
    height = cameras.shape[0] * above.shape[1] // cameras.shape[1] if cameras.shape[0] > above.shape[0] else cameras.shape[0]
    above = cv2.resize(above, (height, height), interpolation=cv2.INTER_AREA)
    picture = np.concatenate([cameras, above], axis=1)
    path = out / "picture.jpg"
    cv2.imwrite(str(path), np.ascontiguousarray(picture[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(f"6. drawn: {path}")


if __name__ == "__main__":
    tyro.cli(follow)
