"""Which candidates for a time budget were there, and which was chosen? Told as a table, as JSON and as a plot."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from pathlib import Path

import cv2
import numpy as np
from rich.table import Table

from scenes.atomic import atomic_file, write_json

FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
BLACK, GREY, PALE, BLUE, RED, GREEN = (40, 40, 40), (150, 150, 150), (232, 232, 232), (190, 105, 20), (60, 60, 220), (60, 150, 60)
"""BGR."""
LEFT, RIGHT, TOP, BOTTOM = 70, 620, 50, 60
"""Borders of the plot's area in pixels: columns from the left, the rows kept free above and below."""
WIDTH, LEAST_HEIGHT, LINE = 1080, 520, 19
FAR_BUDGET = 3.0
"""A budget of so many times the slowest candidate is not drawn to scale."""
TICKS = 6
"""At most about so many an axis."""


@dataclass(frozen=True)
class Candidate:
    """One graph that could be deployed."""

    name: str
    latency_ms: float
    """p90 measured, or the roofline bound."""
    estimated: bool
    accuracy: float
    """Vehicle AP within 30 m or mean AP on the clips, as asked."""
    megabytes: float


def is_pareto(candidate: Candidate, others: list[Candidate]) -> bool:
    """Nothing is both faster and more accurate."""
    return not any(
        o.latency_ms <= candidate.latency_ms
        and o.accuracy >= candidate.accuracy
        and (o.latency_ms, o.accuracy) != (candidate.latency_ms, candidate.accuracy)
        for o in others
    )


def table(candidates: list[Candidate], best: Candidate, budget_ms: float) -> Table:
    """All candidates for people, fastest first."""
    result = Table("candidate", "ms", "accuracy", "MB", "Pareto", "", title=f"budget {budget_ms:g} ms")
    for entry in sorted(candidates, key=lambda c: c.latency_ms):
        mark = "chosen" if entry is best else ("too slow" if entry.latency_ms > budget_ms else "")
        latency = f"{entry.latency_ms:.1f}{' (estimate)' if entry.estimated else ''}"
        result.add_row(
            entry.name, latency, f"{entry.accuracy:.4f}", f"{entry.megabytes:.1f}", "*" if is_pareto(entry, candidates) else "", mark
        )
    return result


def write_report(out: Path, candidates: list[Candidate], best: Candidate, budget_ms: float, device: str, metric: str) -> None:
    """The table as JSON and the plot as PNG beside `out`."""
    values = [{**asdict(entry), "pareto": is_pareto(entry, candidates)} for entry in candidates]
    report = {"budget_ms": budget_ms, "device": device, "metric": metric, "chosen": best.name, "candidates": values}
    write_json(Path(f"{out}.pareto.json"), report)
    with atomic_file(Path(f"{out}.pareto.png")) as temporary:
        cv2.imwrite(str(temporary), pareto_plot(candidates, best, budget_ms, device, metric))


def pareto_plot(candidates: list[Candidate], best: Candidate, budget_ms: float, device: str, metric: str) -> np.ndarray:
    """(H, 1080, 3) uint8 BGR: time to the right, accuracy upwards, the budget as a line, the chosen one ringed.

    Points carry numbers, by growing time; the list beside the plot tells their names, so that none hides another.
    """
    entries = sorted(candidates, key=lambda c: (c.latency_ms, -c.accuracy))
    image = np.full((max(LEAST_HEIGHT, TOP + BOTTOM + LINE * len(entries)), WIDTH, 3), 255, np.uint8)
    beyond = budget_ms > FAR_BUDGET * entries[-1].latency_ms
    values = [(entry.latency_ms, entry.accuracy) for entry in entries] + ([] if beyond else [(budget_ms, best.accuracy)])
    axes = Axes.around(np.array(values), len(image))
    where = "this machine" if device == "here" else device
    axes.draw(image, f"ms of one step on {where}{' (ESTIMATE)' if best.estimated else ''}", metric)
    if beyond:
        write(image, f"budget {budget_ms:g} ms, further right", (RIGHT - 90, TOP - 10), RED, centred=True)
    else:
        column = axes.place(budget_ms, 0)[0]
        cv2.line(image, (column, TOP), (column, axes.bottom_px), RED, 1)
        write(image, f"budget {budget_ms:g} ms", (column, TOP - 10), RED, centred=True)
    front = [entry for entry in entries if is_pareto(entry, entries)]
    for one, other in pairwise(front):  # what is to be had at a time: the one before, until the next fits
        corners = [(one.latency_ms, one.accuracy), (other.latency_ms, one.accuracy), (other.latency_ms, other.accuracy)]
        cv2.polylines(image, [np.array([axes.place(*corner) for corner in corners])], False, BLUE, 1, cv2.LINE_AA)
    points = [axes.place(entry.latency_ms, entry.accuracy) for entry in entries]
    reach = [11 if entry is best else 6 for entry in entries]
    taken = [(u - r, v - r, u + r, v + r) for (u, v), r in zip(points, reach, strict=True)]
    for number, (entry, point) in enumerate(zip(entries, points, strict=True), 1):
        colour = GREEN if entry is best else BLUE if entry in front else GREY
        cv2.circle(image, point, 4, colour, -1, cv2.LINE_AA)
        if entry is best:
            cv2.circle(image, point, 9, GREEN, 2, cv2.LINE_AA)
        label = free_place(str(number), point, taken, axes.bottom_px)
        taken.append(label)
        write(image, str(number), (label[0], label[3]), BLACK if colour == GREY else colour)
        row = TOP + LINE * (number - 1)
        latency, accuracy = f"{entry.latency_ms:.1f} ms", f"{entry.accuracy:.3f}"
        columns = (RIGHT + 22, RIGHT + 50, WIDTH - 80 - text_size(latency)[0], WIDTH - 20 - text_size(accuracy)[0])
        for text, at in zip((str(number), entry.name, latency, accuracy), columns, strict=True):
            write(image, text, (at, row), BLACK if colour == GREY else colour)
    write(image, "ringed: chosen; blue: nothing is both faster and more accurate", (RIGHT + 22, len(image) - 16), GREY)
    return image


@dataclass(frozen=True)
class Axes:
    """Where in the picture a time and an accuracy stand."""

    low: np.ndarray
    """(2,) ms and accuracy at the lower left corner."""
    high: np.ndarray
    """(2,) at the upper right one."""
    bottom_px: int

    @classmethod
    def around(cls, values: np.ndarray, height_px: int) -> "Axes":
        """Axes that hold the values (N, 2), a tenth of their extent wider on either side, not below 0."""
        low, high = values.min(axis=0), values.max(axis=0)
        margin = np.maximum(0.1 * (high - low), (1.0, 0.01))
        return cls(np.maximum(low - margin, 0), high + margin, height_px - BOTTOM)

    def place(self, ms: float, accuracy: float) -> tuple[int, int]:
        """Column and row."""
        right, up = (np.array([ms, accuracy]) - self.low) / (self.high - self.low)
        return round(LEFT + (RIGHT - LEFT) * right), round(self.bottom_px - (self.bottom_px - TOP) * up)

    def draw(self, image: np.ndarray, time_name: str, accuracy_name: str) -> None:
        """Frame, grid, ticks and names."""
        for ms in ticks(self.low[0], self.high[0]):
            column = self.place(ms, 0)[0]
            cv2.line(image, (column, TOP), (column, self.bottom_px), PALE, 1)
            write(image, f"{ms:g}", (column, self.bottom_px + 18), BLACK, centred=True)
        for accuracy in ticks(self.low[1], self.high[1]):
            row = self.place(0, accuracy)[1]
            cv2.line(image, (LEFT, row), (RIGHT, row), PALE, 1)
            write(image, f"{accuracy:g}", (LEFT - 8 - text_size(f"{accuracy:g}")[0], row + 4), BLACK)
        cv2.rectangle(image, (LEFT, TOP), (RIGHT, self.bottom_px), GREY, 1)
        write(image, time_name, ((LEFT + RIGHT) // 2, self.bottom_px + 42), BLACK, centred=True)
        write(image, accuracy_name, (12, TOP - 28), BLACK)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart."""
    unit = 10.0 ** np.floor(np.log10((high - low) / TICKS))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k * TICKS >= high - low)
    return [round(float(step * k), 9) for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def text_size(text: str) -> tuple[int, int]:
    """Width and height in pixels."""
    width, height = cv2.getTextSize(text, FONT, SCALE, 1)[0]
    return width, height


def write(image: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int], centred: bool = False) -> None:
    """Draws a text whose base line begins (or has its middle) at column and row `at`."""
    left = at[0] - text_size(text)[0] // 2 if centred else at[0]
    cv2.putText(image, text, (left, at[1]), FONT, SCALE, colour, 1, cv2.LINE_AA)


def free_place(text: str, point: tuple[int, int], taken: list[tuple[int, int, int, int]], bottom_px: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a text as near the point as nothing is in its way; beside it where there is no such place."""
    places = list(_places_near(text, point))
    inside = [p for p in places if p[0] > LEFT and p[1] > TOP and p[2] < RIGHT and p[3] < bottom_px]
    return next((p for p in inside if not any(_overlap(p, other) for other in taken)), places[0])


def _places_near(text: str, point: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    width, height = text_size(text)
    for distance, angle in product((14, 18, 24, 32, 42, 54, 70), np.deg2rad([-45, 45, 135, -135, -90, 90, 0, 180])):
        left = round(point[0] + distance * np.cos(angle) - width / 2)
        top = round(point[1] + distance * np.sin(angle) - height / 2)
        yield left, top, left + width, top + height


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
