"""Which network is to leave? A checkpoint, a shipped one by name, or `random:VARIANT` (untrained, for trying the export)."""

from dataclasses import dataclass, replace

import torch

from export.manifest import sha256_of_file
from fusion.config import VARIANTS, ModelConfig
from fusion.model import Surround
from scenes.errors import ConfigError
from training.checkpoints import load_checkpoint, resolve_checkpoint

RANDOM = "random:"
SAMPLERS = ("gridsample", "gather")
"""Ways to sample images that a graph can hold; the network knows faster ones for processors."""


@dataclass
class LoadedNetwork:
    """A network ready for export."""

    name: str
    model: Surround
    config: ModelConfig
    checkpoint_hash: str
    """sha256 of the checkpoint file; "" for a random network."""


def load_network(
    checkpoint: str, layers: int | None = None, sampler: str | None = None, input_hw: tuple[int, int] | None = None
) -> LoadedNetwork:
    """The network in evaluation mode, cut after `layers` decoder layers, with the sampler and picture size asked for.

    Raises:
        DataError: no such checkpoint, or not one of ours.
        ConfigError: unknown variant or sampler, more layers than the network has.
    """
    if checkpoint.startswith(RANDOM):
        name, model, file_hash = checkpoint.removeprefix(RANDOM), _random(checkpoint.removeprefix(RANDOM)), ""
    else:
        loaded = load_checkpoint(checkpoint)
        name, model, file_hash = loaded.meta["name"], loaded.model, sha256_of_file(resolve_checkpoint(checkpoint))
    model = reconfigured(model, layers, sampler, input_hw)
    return LoadedNetwork(name, model, model.config, file_hash)


def _random(variant: str) -> Surround:
    if variant not in VARIANTS:
        raise ConfigError(f"checkpoint random:{variant}: no such variant; choose one of {', '.join(VARIANTS)}")
    config = VARIANTS[variant]()
    return random_network(config.unpretrained())


def random_network(config: ModelConfig, seed: int = 0) -> Surround:
    """An untrained network, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Surround(config).eval()


def reconfigured(model: Surround, layers: int | None, sampler: str | None, input_hw: tuple[int, int] | None = None) -> Surround:
    """The same weights with fewer decoder layers, another sampler or picture size; the model itself where nothing changes."""
    config = model.config
    if layers is not None and not 1 <= layers <= config.num_layers:
        raise ConfigError(f"layers: the network has {config.num_layers}, got {layers}; choose 1 to {config.num_layers}")
    query = config.query if layers is None else replace(config.query, num_layers=layers)
    size = input_hw or config.input_hw
    changed = replace(
        config, query=query, input_hw=size, sampler=sampler or (config.sampler if config.sampler in SAMPLERS else SAMPLERS[0])
    )
    if changed == config:
        return model
    smaller = Surround(changed.unpretrained())
    own = smaller.state_dict()
    smaller.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name in own})
    return smaller.eval()
