"""Do two runtimes drift apart when they see the same pictures again and again? A drive there and back, lap by lap.

A later stretch of a drive shows another scene than an earlier one, so that comparing the two says as much about the scene as about
drift. Here the same stretch of road is driven N times with one memory that is never emptied: forward, then its film runs backwards, then
forward again. In a film that runs backwards everything is as it should be: poses stay continuous, steps last as long as before (`dt` is
positive), a camera that fired before the reference time fires after it (`time_offset` changes its sign), objects drive backwards. Odd
laps show the same pictures to the last bit, and even laps do; what they differ in is the memory.
"""

from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from export.accuracy import clip_steps
from export.comparison import Verification
from export.verify import TOLERANCE
from scenes.clips import Clip

Steps = Iterator[dict[str, np.ndarray]]
SAME = "every step from the same memory"
APART = "each side left to itself"
"""Ways of driving, beside step by step, in which ties are forgiven and memories are each side's own."""
WORSE = 1.1
"""A ratio of medians above this is growth."""


def there_and_back(length: int, laps: int) -> list[int]:
    """Frames of the drive: 0, then 1 to `length`, then `length` - 1 to 0, and so on; each lap ends where the next begins."""
    forward, back = list(range(1, length + 1)), list(range(length - 1, -1, -1))
    return [0] + [frame for lap in range(laps) for frame in (back if lap % 2 else forward)]


def lap_steps(clip: Clip, input_hw: tuple[int, int], laps: int) -> Steps:
    """The step inputs of `laps` laps over a clip of one frame more than a lap has steps."""
    order = there_and_back(len(clip) - 1, laps)
    for inputs in clip_steps(clip, input_hw, order):
        yield as_film(inputs)


def as_film(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A step that goes back in time, as a film that runs backwards shows it; others as they are."""
    if inputs["dt"][0] >= 0:
        return inputs
    return {**inputs, "dt": -inputs["dt"], "time_offset": -inputs["time_offset"]}


def of_lap(values: list, lap: int, laps: int) -> list:
    """What belongs to lap `lap` (0 is the first) of a drive's steps; the step before the first lap belongs to none."""
    length = (len(values) - 1) // laps
    return values[1 + lap * length : 1 + (lap + 1) * length]


def in_laps(values: list[float], laps: int) -> str:
    """Median and 90 % of every lap."""
    parts = [of_lap(values, lap, laps) for lap in range(laps)]
    return "; ".join(f"{np.median(part):.1e}, {np.percentile(part, 90):.1e}" for part in parts)


def growth(values: list[float], laps: int, since: int = 0) -> list[float]:
    """Median of each lap over that of the first one from lap `since` (even, 0 is the first) on that showed the same pictures."""
    medians = [float(np.median(of_lap(values, lap, laps))) for lap in range(laps)]
    return [medians[lap] / max(medians[since + lap % 2], 1e-9) for lap in range(since + 2, laps)]


def mean_growth(drives: list[list[float]], laps: int, since: int = 0) -> float:
    """The geometric mean of all growths of some drives: chance makes as many laps better as worse, drift makes most of them worse."""
    return float(np.exp(np.mean(np.log([ratio for values in drives for ratio in growth(values, laps, since)]))))


def lap_table(rows: list[tuple[str, Verification]], laps: int) -> Table:
    """A line a rig and graph: median and 90 % of each step's largest error by laps, and how much the later laps are above the first."""
    table = Table("rig", "graph", "largest", "ties", "voxels, flow, dense memory", "growth", "all tensors", "growth")
    for graph, found in rows:
        cells: list[str] = []
        for values in (found.dense_by_step, found.error_by_step):
            cells += [in_laps(values, laps), ", ".join(f"{ratio:.3g}" for ratio in growth(values, laps))]
        ties = ", ".join(
            str(sum(of_lap([step in found.tied_steps for step in range(len(found.errors))], lap, laps))) for lap in range(laps)
        )
        table.add_row(found.rigs[0], graph, f"{found.max_error:.1e}", ties, *cells)
    return table


def lap_verdict(ways: list[str], rows: list[tuple], laps: int, console: Console) -> int:
    """Prints a table a way of driving; 0 if every step holds and later laps are no worse than earlier ones.

    No worse: no lap a tenth above the first of its direction. Where each side keeps its own memory, single laps are as chance and ties
    have them; over six laps and more the geometric mean of all drives, laps from the fifth on over the third and fourth, is held to that
    tenth instead, and dense answers to it in every lap. What is left to itself (`APART`) is told, not judged.

    A row is a graph's name and its `Verification` in each of the `ways`.
    """
    for number, told in enumerate(ways):
        table = [(row[0], row[1 + number]) for row in rows]
        console.print(
            f"{told}; median and 90 % of each step's largest relative error, lap by lap; growth: medians of later laps over the first"
        )
        console.print(lap_table(table, laps))
        for graph, found in table:
            worst = {name: [step.get(name, 0.0) for step in found.errors] for name, most in found.error_by_tensor.items() if most > 0}
            console.print(f"{found.rigs[0]}, {graph}: " + ", ".join(f"{name} {in_laps(values, laps)}" for name, values in worst.items()))
        for since in range(0, min(laps - 2, 4), 2):  # the first two laps begin with two memories that are empty, and therefore equal
            kinds = ([found.dense_by_step for _, found in table], [found.error_by_step for _, found in table])
            dense, every = (mean_growth(kind, laps, since) for kind in kinds)
            what = f"{told}: growth over laps {since + 1} and {since + 2}, geometric mean of all"
            console.print(f"{what}: {dense:.3g} voxels, flow, dense memory; {every:.3g} all tensors")
    good = True
    for number, told in enumerate(ways):
        drives = [row[1 + number] for row in rows] if told != APART else []
        ratios = [ratio for found in drives for ratio in growth(found.dense_by_step, laps)]
        if told == SAME or laps < 6:
            ratios += [ratio for found in drives for ratio in growth(found.error_by_step, laps)]
        elif drives:
            ratios.append(mean_growth([found.error_by_step for found in drives], laps, since=2))
        good &= all(found.max_error <= TOLERANCE for found in drives) and max(ratios, default=0.0) <= WORSE
    return 0 if good else 1
