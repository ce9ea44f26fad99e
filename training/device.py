"""Where does torch compute? `choose_device`: `auto`, `cpu`, `cuda`, `cuda:1`; a mistyped or missing one is refused in words."""

import os
import re

import torch

from scenes.errors import ConfigError


def choose_device(name: str, option: str = "--device", elsewhere: bool = False) -> torch.device:
    """The device of that name; `auto` is this process's GPU, or the processor where there is none.

    Args:
        name: auto, cpu, cuda or cuda:N.
        option: Who asks, for the message.
        elsewhere: The name is meant for other machines: whether it is here does not matter.

    Raises:
        ConfigError: another name, or a GPU that is not here.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        rank = int(os.environ.get("LOCAL_RANK", 0))
        if count > 1 and rank >= count:
            raise ConfigError(f"{option}: process {rank} of this machine has no GPU of its own, there are {count}; start as many")
        name = f"cuda:{min(rank, count - 1)}" if count else "cpu"  # one visible GPU: the launcher gave each process its own
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9]\d?))?", name):
        raise ConfigError(f"{option}: expected auto, cpu, cuda or cuda:1, got {name!r}; correct it")
    device = torch.device(name)
    if device.type == "cuda" and not elsewhere and (device.index or 0) >= count:
        raise ConfigError(f"{option}: {name} was asked for, but torch finds {count or 'no'} GPU{'s' * (count > 1)} here; use cpu or auto")
    return device
