"""The command line: which command runs which function? `surround4d COMMAND --help` explains each."""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from scenes.errors import SurroundError


class Command(NamedTuple):
    """A command: the function that tyro turns into its arguments, and what it is for."""

    function: str
    """`module:function`."""
    summary: str


COMMANDS = {
    "sim": Command("scenes.simulator.command:simulate", "simulate clips with exact labels"),
    "import": Command("scenes.readers.command:import_dataset", "bring nuScenes, Argoverse 2 or PandaSet recordings into clips"),
    "info": Command("scenes.info:info", "print what clips hold"),
    "check": Command("scenes.check.command:check", "verify files, clocks and calibration of clips"),
    "show": Command("scenes.show.command:show", "draw the labels of clips in every camera and from above"),
    "train": Command("training.command:train", "train a recipe on clips"),
    "eval": Command("training.evaluate:evaluate", "measure a checkpoint or a label layer against another layer"),
    "label": Command("labeling.command:label", "auto-label clips with a teacher, past and future"),
    "reconstruct": Command("labeling.reconstruction.command:reconstruct", "points, mesh, road, occupancy and depth from a clip's pictures"),
    "review": Command("labeling.review.command:review", "let people look at labels: packages for CVAT, and their corrections back"),
    "export": Command("export.command:export_checkpoint", "write a checkpoint as one verified ONNX graph"),
    "lint": Command("export.lint:lint_file", "say what TensorRT or onnxruntime would refuse in an ONNX file"),
    "roofline": Command("export.roofline:roofline", "estimate the least time an ONNX graph needs on named devices"),
    "run": Command("export.run:run_clip", "stream a clip through an exported ONNX graph"),
    "nuscenes-export": Command("scenes.readers.nuscenes_writer:export_command", "lay clips out in the nuScenes schema"),
    "nuscenes-results": Command("scenes.readers.results:convert", "convert label layers to and from nuScenes result JSON"),
    "demo": Command("engine.demo:demo", "simulate, train, evaluate, label, export, and write the report"),
}


def help_text() -> str:
    """The page that `surround4d --help` prints."""
    lines = [f"  {name:18}{command.summary}" for name, command in COMMANDS.items()]
    return (
        "usage: surround4d COMMAND [ARGUMENTS]\n\nEight cameras in, one 4D world out.\n\n"
        + "\n".join(lines)
        + "\n\nsurround4d COMMAND --help explains a command."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 2 the user's input was bad (one sentence on stderr)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0
    command = COMMANDS.get(arguments[0])
    if command is None:
        print(f"surround4d: no command {arguments[0]!r}; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        status = _run(arguments[0], command.function, arguments[1:])
    except SurroundError as error:
        print(f"surround4d {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"surround4d {arguments[0]}: stopped", file=sys.stderr)
        return 130
    return int(status or 0)


def _run(name: str, location: str, arguments: list[str]) -> int | None:
    """Imports the function of a command and calls it; `train` reads its arguments itself (the recipe gives the defaults)."""
    import tyro

    module, _, function_name = location.partition(":")
    function = getattr(importlib.import_module(module), function_name)
    if name == "train":
        return function(arguments)
    return tyro.cli(function, prog=f"surround4d {name}", args=arguments, config=(tyro.conf.OmitArgPrefixes,))


if __name__ == "__main__":
    sys.exit(main())
