"""`surround4d review export` and `import`: which labels do people look at, and how do their corrections come back?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from labeling.review.corrections import COUNTS, import_package
from labeling.review.package import track_name, write_package
from labeling.review.queue import QueueEntry, clip_entries, ranked_queue
from labeling.telling import tell
from scenes.clips import Clip, find_clips
from scenes.errors import ConfigError, DataError


@dataclass(frozen=True)
class Export:
    """Write the ranked queue of a layer's tracks as packages for CVAT."""

    clips: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of labelled clips, searched in depth."""
    layer: str = "auto@first"
    """The layer to review."""
    out: Path = Path("review")
    """The package's folder (new)."""
    model: str | None = None
    """A layer of the deployed model: tracks that it does not see come earlier, and its own that the labels lack are suggested."""
    tracks: int = 100
    """How many tracks of the queue to pack."""
    audit: float = 0.02
    """Share of the other tracks that is packed as well, drawn at random."""
    seed: int = 0
    """Of that draw."""


@dataclass(frozen=True)
class Import:
    """Bring corrections back as the `human` layer, which outranks the reviewed one (`train --data.layers human,auto@x`)."""

    package: tyro.conf.Positional[Path]
    """The package, CVAT's exports saved over the annotation files in it."""
    clips: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the clips."""


def review(
    action: Annotated[Export, tyro.conf.subcommand("export", prefix_name=False)]
    | Annotated[Import, tyro.conf.subcommand("import", prefix_name=False)],
) -> int:
    """Let people look at labels: export the ranked queue as packages for CVAT, import the corrections as the human layer."""
    return export_queue(action) if isinstance(action, Export) else import_corrections(action)


def export_queue(settings: Export) -> int:
    """Writes the package; a clip that cannot be packed is named, the others go on (exit status 2)."""
    if settings.tracks < 0 or not 0 <= settings.audit <= 1:
        raise ConfigError(f"review: expected tracks >= 0 and 0 <= audit <= 1, got {settings.tracks} and {settings.audit}; correct them")
    console, entries, troubles = Console(), [], []
    for path in find_clips(list(settings.clips)):
        try:
            clip = Clip.open(path)
            model = clip.layer(settings.model) if settings.model else None
            entries += clip_entries(clip, clip.layer(settings.layer), model)
        except DataError as error:
            troubles.append(str(error))
    if not entries:
        raise DataError(troubles[0] if troubles else f"review: layer {settings.layer!r} has no tracks to look at; label the clips first")
    queue = ranked_queue(entries, settings.tracks, settings.audit, settings.seed)
    kept = {"tracks": settings.tracks, "audit": settings.audit, "seed": settings.seed, "model": settings.model}
    troubles += write_package(settings.out, queue, settings.layer, kept)
    print_queue(console, queue)
    for trouble in troubles:
        tell(console, "left out", trouble)
    console.print(f"wrote {settings.out}; how to go on: docs/REVIEW.md", soft_wrap=True, highlight=False, markup=False)
    return 2 if troubles else 0


def print_queue(console: Console, queue: list[QueueEntry], rows: int = 15) -> None:
    """The head of the queue and how many are packed."""
    table = Table("clip", "track", "class", "frames", "unsure", "rare", "near", "disagreement", "priority")
    for entry in queue[:rows]:
        parts = (entry.unsure, entry.rare, entry.near, entry.disagreement, entry.priority)
        cells = (Text(Path(entry.clip).name), track_name(entry.track_id, entry.suggested), entry.class_name, str(len(entry.frames)))
        table.add_row(*cells, *(f"{value:.2f}" for value in parts))
    console.print(table)
    ranked, audit = (sum(entry.why == why for entry in queue) for why in ("ranked", "audit"))
    console.print(f"{len(queue)} tracks; packed: the first {ranked}, and {audit} at random as an audit")


def import_corrections(settings: Import) -> int:
    """Writes the human layers; exit status 2 if a clip could not take its corrections."""
    console = Console()
    results = import_package(settings.package, list(settings.clips))
    table = Table("clip", *COUNTS)
    for result in results:
        cells = ["failed"] + [""] * (len(COUNTS) - 1) if result.failure else [str(result.counts[name]) for name in COUNTS]
        table.add_row(Text(result.clip), *cells)
    console.print(table)
    for result in results:
        for note in result.notes:
            tell(console, "note", note)
        if result.failure:
            tell(console, "failed", result.failure)
    return 2 if any(result.failure for result in results) else 0
