"""Which of our classes is a foreign category, and what was left out?"""

from collections import Counter
from dataclasses import dataclass, field

from scenes.boxes import CLASS_NAMES


@dataclass
class ClassMap:
    """Foreign category names to ours. What is neither mapped, ignored nor left out on purpose counts as unknown."""

    classes: dict[str, str]
    """Foreign name to one of `CLASS_NAMES`."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Foreign name to the class it resembles: its boxes are kept with `ignore` set, neither object nor background."""
    dropped: frozenset[str] = frozenset()
    """Foreign names left out on purpose."""

    def find(self, name: str) -> tuple[int, bool] | None:
        """(class_id, ignore) of a foreign name, or None if its boxes are left out."""
        if name in self.classes:
            return CLASS_NAMES.index(self.classes[name]), False
        if name in self.ignored:
            return CLASS_NAMES.index(self.ignored[name]), True
        return None

    def knows(self, name: str) -> bool:
        """Whether the dataset's documentation lists this name."""
        return name in self.classes or name in self.ignored or name in self.dropped

    def report(self, left_out: Counter) -> list[str]:
        """One note for each category whose boxes were left out (name, count, whether it is unknown to us)."""
        return [
            f"{count} boxes of category {name!r} left out: it is "
            + ("none of our ten classes" if self.knows(name) else "unknown to this reader; add it to the class map if it matters")
            for name, count in sorted(left_out.items())
        ]
