"""`surround4d train RECIPE --data DIR --out RUN [--section.field value ...]`: which recipe is trained on which clips?"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass

import tyro

from scenes.errors import ConfigError
from training.recipes import RECIPES, TrainConfig, recipe

SHORT = {"--data": "--data.folders", "--val": "--data.val", "--out": "--run.out", "--init": "--run.init"}
"""The everyday options and the fields they set."""

USAGE = f"""usage: surround4d train RECIPE --data DIR [DIR ...] --out RUN [--val DIR ...] [--init CHECKPOINT] [--section.field value ...]

Train a recipe ({", ".join(RECIPES)}) on clips. Started again with the same --out, it goes on where it was stopped.
surround4d train RECIPE --help lists every setting with the recipe's values."""


def parse(arguments: Sequence[str]) -> TrainConfig | None:
    """The config of a command line; None after printing help. Unknown recipes and settings are refused with `ConfigError`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return None
    base = recipe(arguments[0])
    expanded = [_long(argument) for argument in arguments[1:]]
    config, unknown = tyro.cli(
        TrainConfig,
        default=base,
        args=expanded,
        prog=f"surround4d train {arguments[0]}",
        return_unknown_args=True,
        config=(tyro.conf.FlagConversionOff,),
    )
    if unknown:
        raise ConfigError(_unknown_sentence(unknown[0]))
    return config


def _long(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return SHORT.get(name, name) + equals + value


def _unknown_sentence(argument: str) -> str:
    known = ["--" + name.replace("_", "-") for name in setting_names(TrainConfig())]
    near = difflib.get_close_matches(argument.partition("=")[0].replace("_", "-"), known, n=1)
    hint = f"did you mean {near[0]}" if near else "see surround4d train RECIPE --help"
    return f"no setting {argument!r}; {hint}"


def setting_names(config: object, where: str = "") -> Iterator[str]:
    """Every field that is no dataclass itself, such as `model.query.num_layers`."""
    for entry in fields(config):  # type: ignore[arg-type]
        value = getattr(config, entry.name)
        yield from setting_names(value, f"{where}{entry.name}.") if is_dataclass(value) else (where + entry.name,)


def train(arguments: Sequence[str]) -> int:
    """Runs the training that a command line asks for; returns the exit status."""
    config = parse(arguments)
    if config is None:
        return 0
    if not config.data.folders:
        raise ConfigError("expected folders of clips, got none; add --data DIR")
    from training.trainer import Trainer

    trainer = Trainer(config)
    path = trainer.run()
    if trainer.rank == 0:
        print(f"wrote {path}")
    return 0
