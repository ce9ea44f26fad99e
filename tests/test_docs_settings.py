"""Do the pages name settings that exist? Every `--section.field` and `section.field` of README.md and docs/ is one that `train` takes."""

import re
from pathlib import Path

import pytest

from training.command import setting_names
from training.recipes import TrainConfig

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SECTIONS = "model|data|augment|optim|loss|memory|run"
MENTION = re.compile(rf"(?:--|`)((?:{SECTIONS})\.[a-z0-9_.-]*[a-z0-9*])")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_pages_name_settings_that_exist(page):
    known = set(setting_names(TrainConfig()))
    sections = {name.rpartition(".")[0] + ".*" for name in known}
    mentioned = {name.replace("-", "_") for name in MENTION.findall(page.read_text()) if not name.endswith(".py")}
    assert mentioned <= known | sections, f"{page.name}: {sorted(mentioned - known - sections)}"


def test_a_mention_is_found_in_every_spelling():
    text = "`data.batch`, `--optim.lr 5e-4`, `--model.query.num-layers 4`, (`memory.*`: errors), `run.val_clips`"
    assert MENTION.findall(text) == ["data.batch", "optim.lr", "model.query.num-layers", "memory.*", "run.val_clips"]
