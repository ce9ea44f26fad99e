"""How does the stack say that its input is bad? In one sentence: what, where, expected, got, what to do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SurroundError(ValueError):
    """Bad data or settings of the user's: the command line prints the message as one sentence and exits with 2."""


class DataError(SurroundError):
    """A file or a row of data is missing, broken or impossible; the message names it and the remedy."""


class ConfigError(SurroundError):
    """A setting is unknown, out of range or contradicts another one."""


@contextmanager
def one_sentence(program: str) -> Iterator[None]:
    """Ends `program` with a sentence on stderr and exit status 2 where the block finds the user's input bad."""
    try:
        yield
    except SurroundError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
