"""Does the cost of fusion grow with the number of cameras? The part behind the backbone with 11 cameras against 5.

python -m benchmarks.fusion_cost          times both side by side in one run and prints the ratio (budget: 1.15).
"""

import time
from dataclasses import replace

import numpy as np
import torch
import tyro

from fusion import config as variants
from fusion.interface import StepInput, WorldState
from fusion.lenses import read_lenses
from fusion.model import Surround
from scenes.packing import PackedFrame, camera_arrays
from scenes.rigs import ego_from_cam_looking, pinhole_camera

BUDGET = 1.15


def measure(variant: str = "nano", rounds: int = 15, threads: int = 1) -> None:
    """Prints the median times and their ratio.

    Args:
        variant: nano, edge, base or teacher.
        rounds: Timed rounds; both rigs take turns within each.
        threads: Torch threads.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Surround(getattr(variants, variant)()).eval()
    seen = {count: see(model, step_of(count, model.config.input_hw)) for count in (5, 11)}
    seconds: dict[int, list[float]] = {5: [], 11: []}
    for _ in range(rounds + 2):
        for count, parts in seen.items():
            start = time.perf_counter()
            fuse(model, *parts)
            seconds[count].append(time.perf_counter() - start)
    few, many = (float(np.median(seconds[count][2:])) for count in (5, 11))
    print(f"{variant}, {threads} thread(s): fusion with 5 cameras {few * 1e3:.1f} ms, with 11 {many * 1e3:.1f} ms, ratio {many / few:.3f}")
    print(f"{'within' if many / few <= BUDGET else 'OVER'} the budget of {BUDGET}")


def step_of(num_cameras: int, size_hw: tuple[int, int]) -> StepInput:
    """A step of cameras spread around the vehicle with overlapping views and noise for pictures."""
    height, width = size_hw
    yaws = 2 * np.pi * np.arange(num_cameras) / num_cameras
    cameras = [
        pinhole_camera(f"c{i}", np.deg2rad(85), width, height, ego_from_cam_looking((0.0, 0.0, 1.5), yaw)) for i, yaw in enumerate(yaws)
    ]
    images = np.random.default_rng(0).integers(0, 255, (num_cameras, height, width, 3), dtype=np.uint8)
    frame = PackedFrame(
        images_NHW3=images,
        **camera_arrays(cameras),
        cam_from_ego_N44=np.stack([camera.cam_from_ego for camera in cameras]).astype(np.float32),
        alive_N=np.ones(num_cameras, dtype=np.float32),
        time_offset_N=np.zeros(num_cameras, dtype=np.float32),
        dt=np.array(0.5, dtype=np.float32),
        prev_from_ego_44=np.eye(4, dtype=np.float32),
    )
    return StepInput.stack([frame])


@torch.inference_mode()
def see(model: Surround, step: StepInput) -> tuple[StepInput, WorldState, tuple]:
    """What the cameras' network says (it is not timed), and a state that has memories."""
    _, state = model(step, model.empty_state(1))
    return step, replace(state, valid_B=torch.ones(1)), model.see(step, read_lenses(step))


@torch.inference_mode()
def fuse(model: Surround, step: StepInput, state: WorldState, seen: tuple) -> None:
    """A step with the cameras' part already done."""
    original = model.see
    model.see = lambda *_: seen  # type: ignore[method-assign]
    try:
        model(step, state)
    finally:
        model.see = original  # type: ignore[method-assign]


if __name__ == "__main__":
    tyro.cli(measure)
