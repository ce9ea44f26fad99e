"""How does a labeling command tell what became of a clip? A coloured word, then a sentence that is not taken for markup."""

from typing import Literal

from rich.console import Console
from rich.text import Text

COLOURS = {"failed": "red", "left out": "red", "note": "yellow"}


def tell(console: Console, word: Literal["failed", "left out", "note"], sentence: str) -> None:
    """Prints one line, however long; a pipe or a file gets it without colour."""
    console.print(Text.assemble((f"{word} ", COLOURS[word]), sentence), soft_wrap=True)
