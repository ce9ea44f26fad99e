"""Does the house stand? The command line, the table of commands, and what imports what."""

import importlib
import subprocess
import sys

import pytest

import surround4d
from surround4d import COMMANDS, main


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_names_a_function_that_exists(name):
    module, _, function = COMMANDS[name].function.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_help_lists_every_command(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_an_unknown_command_is_one_sentence_and_status_2(capsys):
    assert main(["fly"]) == 2
    assert "no command 'fly'" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name, capsys):
    try:
        status: object = main([name, "--help"])
    except SystemExit as stop:  # how tyro ends after its help
        status = stop.code
    assert status == 0
    assert f"usage: surround4d {name}" in capsys.readouterr().out


def test_scenes_and_evaluation_do_not_load_torch_or_open3d():
    code = "import sys, scenes.clips, scenes.packing, evaluation.compare; sys.exit(any(m in sys.modules for m in ('torch', 'open3d')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_python_dash_m_runs_the_command_line():
    done = subprocess.run([sys.executable, "-m", "surround4d"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert surround4d.help_text() in done.stdout
