"""Which measurements are there? Lists every benchmark with its question."""

import ast
from pathlib import Path


def main() -> None:
    """Prints a line for each module of this folder: how it is run and what it answers."""
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        question = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
        print(f"python -m benchmarks.{path.stem:20}{question}")


if __name__ == "__main__":
    main()
