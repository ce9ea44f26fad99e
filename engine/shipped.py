"""How is the shipped `nano` made? Simulate, train, strip: one command, which goes on where it was stopped.

make nano            or: python -m engine.shipped --out out/nano --backbone MOBILENET_V2_WEIGHTS
"""

import subprocess
import sys
from pathlib import Path

import tyro

from scenes.errors import SurroundError, one_sentence
from scenes.simulator.command import simulate
from training.checkpoints import SHIPPED, strip_checkpoint


def make(
    out: Path = Path("out/nano"),
    clips: int = 600,
    seconds: float = 5.0,
    seed: int = 1,
    steps: int = 8000,
    processes: int = 2,
    backbone: str = "imagenet",
    target: Path = SHIPPED / "nano.pt",
) -> None:
    """Simulates the training clips, trains the recipe `nano` on them under torchrun, and writes the checkpoint that ships.

    Args:
        out: Folder of the clips and of the run.
        clips: Training clips. Seeds from 5000 on are kept for validation, benchmarks and the demonstration.
        seconds: Length of each clip.
        seed: Seed of the simulation and of the training.
        steps: Optimiser steps.
        processes: Training processes (one thread each), also the simulation's workers.
        backbone: ImageNet weights of MobileNetV2: "imagenet" (torchvision downloads them) or a state file.
        target: The checkpoint to write.
    """
    simulate(out / "clips", clips=clips, seconds=seconds, seed=seed, size="96x256", workers=processes)
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "surround4d")
    settings = {
        "--data": out / "clips",
        "--out": out / "run",
        "--model.backbone.pretrained": backbone,
        "--optim.steps": steps,
        "--run.seed": seed,
        "--run.threads": 1,
    }
    words = [str(word) for pair in settings.items() for word in pair]
    command = [*launch, "train", "nano", *words]
    print("$ " + " ".join(command), flush=True)
    if subprocess.run(command, check=False).returncode != 0:
        raise SurroundError("nano: the training stopped, see its message above; the same command goes on from its last checkpoint")
    strip_checkpoint(out / "run", target, half=True)
    print(f"wrote {target}")


if __name__ == "__main__":
    with one_sentence("engine.shipped"):
        tyro.cli(make)
