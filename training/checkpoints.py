"""How do weights travel? Checkpoints: tensors and JSON in one file that is read without executing code.

python -m training.checkpoints SRC DST --half     keeps what a user needs of a run's checkpoint, weights in half precision
"""

import json
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusion.config import ModelConfig
from fusion.model import Surround
from scenes.atomic import atomic_file
from scenes.errors import ConfigError, DataError, one_sentence
from training.device import choose_device

FORMAT = "surround4d"
SCHEMA_VERSION = 1
SHIPPED = Path(__file__).parent / "shipped"
"""Checkpoints that come with the package; their file stems are valid checkpoint names."""


@dataclass
class Checkpoint:
    """A network ready to be used."""

    model: Surround
    """Averaged (EMA) weights, evaluation mode, float32."""
    config: ModelConfig
    class_names: tuple[str, ...]
    meta: dict[str, Any]
    """name, code version, steps, seed, the whole training config."""


def code_version() -> str:
    """`git describe` of the checkout this code runs from, else the package's version."""
    folder = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--tags"]
        described = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        if described.returncode == 0:
            return described.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        pass
    try:
        return version("surround4d")
    except PackageNotFoundError:
        return "unknown"


def save_checkpoint(
    path: Path,
    weights: dict[str, Tensor],
    config: ModelConfig,
    meta: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Writes weights with their config, atomically; `run` holds what only a resumed run needs (tensors, numbers, lists).

    With `half`, floating weights are stored as float16 and read back as float32.
    """
    stored = {name: tensor.half() if half and tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    header = {"model": config.to_dict(), "class_names": list(config.class_names), "code_version": code_version(), **(meta or {})}
    content = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "header": json.dumps(header), "weights": stored}
    with atomic_file(Path(path)) as temporary:
        torch.save(content if run is None else {**content, "run": run}, temporary)


def resolve_checkpoint(name: str | Path) -> Path:
    """The file of a checkpoint given as a path, a run's folder, or the name of a shipped one."""
    path = Path(name)
    if path.is_dir() and (path / "checkpoint.pt").is_file():
        return path / "checkpoint.pt"
    if path.is_file():
        return path
    shipped = SHIPPED / f"{name}.pt"
    if shipped.is_file():
        return shipped
    known = sorted(p.stem for p in SHIPPED.glob("*.pt"))
    raise DataError(f"{name}: no such checkpoint; give a file, a run's folder or a shipped name ({', '.join(known) or 'none here'})")


def read_checkpoint(name: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the whole content of a checkpoint; corrupt or foreign files are refused with `DataError`."""
    path = resolve_checkpoint(name)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes make the unpickler raise anything, IndexError for one
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: not readable as a checkpoint ({reason}); it is corrupt or not ours, copy or train it again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: expected a surround4d checkpoint, got another program's file; give one that `train` wrote")
    if content["schema_version"] > SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema version {content['schema_version']} is newer than this program's {SCHEMA_VERSION}; update surround4d"
        )
    return json.loads(content["header"]), content


def load_checkpoint(name: str | Path, device: str = "cpu") -> Checkpoint:
    """The network of a checkpoint (path, run folder or shipped name) on a device (`training.device`), ready for evaluation."""
    torch_device = choose_device(device)
    header, content = read_checkpoint(name)
    path = resolve_checkpoint(name)
    try:
        config = ModelConfig.from_dict(header["model"]).unpretrained()
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from error
    model = Surround(config)
    try:
        model.load_state_dict(
            {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in content["weights"].items()}
        )
    except RuntimeError as error:
        raise DataError(
            f"{path}: its weights do not fit its own config ({str(error).splitlines()[-1].strip()[:120]}); "
            "it was written by another version of surround4d, train it again"
        ) from error
    meta = {key: value for key, value in header.items() if key != "model"}
    meta.setdefault("name", path.parent.name if path.stem == "checkpoint" else path.stem)
    return Checkpoint(model.eval().to(torch_device), config, tuple(header["class_names"]), meta)


def load_matching(model: Surround, name: str | Path) -> list[str]:
    """Copies the weights that fit by name and shape into a model; returns the names of its weights that found none."""
    _, content = read_checkpoint(name)
    own = model.state_dict()
    fitting = {key: value for key, value in content["weights"].items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise DataError(f"{name}: none of its weights fits this network; choose the recipe it was trained with")
    with torch.no_grad():
        for key, value in fitting.items():
            own[key].copy_(value)
    return [key for key in own if key not in fitting]


def strip_checkpoint(source: str | Path, target: Path, half: bool = False, name: str | None = None) -> None:
    """Copies a checkpoint without what only a resumed run needs."""
    header, content = read_checkpoint(source)
    config = ModelConfig.from_dict(header["model"]).unpretrained()
    meta = {key: value for key, value in header.items() if key not in ("model", "class_names", "code_version")}
    meta["trained_with"] = header["code_version"]
    save_checkpoint(target, content["weights"], config, {**meta, "name": name or Path(target).stem}, half=half)


def main() -> None:
    """The command line of this module."""
    import tyro

    def strip(source: tyro.conf.Positional[str], target: tyro.conf.Positional[Path], half: bool = False) -> None:
        """Makes the file that ships from a run's checkpoint.

        Args:
            source: A run's folder or checkpoint.
            target: The file to write.
            half: Store weights as float16.
        """
        strip_checkpoint(source, target, half)

    with one_sentence("training.checkpoints"):
        tyro.cli(strip)


if __name__ == "__main__":
    main()
