"""How high is the ground near the path, and where is it road?"""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from labeling.reconstruction.ground import PathGround
from labeling.reconstruction.settings import RoadSettings

NEAR_PATH_M = 8.0
DRIVEN_M = 1.2
"""The vehicle itself vouches for ground this near to its path."""
TONE_SPREAD = np.array([0.08, 0.012, 0.012])
"""How much logarithm of brightness, share of red and share of green of one surface vary."""
GAP_M, PIECE_M2 = 4.0, 15.0
"""Road goes on behind a gap this wide (stripes of a crossing) if the piece behind is this large."""
ALIKE = 6.0
"""Squared distance, in spreads, within which two tones are alike; up to `PERHAPS_ALIKE` if they differ by less than `SAME_STEP` spreads
from cell to cell all the way."""
PERHAPS_ALIKE, SAME_STEP = 25.0, 1.2
ROBUST_M = 0.04
"""Residual of a cell's height at which its weight begins to fall."""


@dataclass(frozen=True)
class RoadGrid:
    """Cells in the world, index (i, j) grows with x, y; cell (0, 0) is centred on `origin_world`."""

    origin_world: np.ndarray
    """(2,) float64."""
    cell_m: float
    height_world_m: np.ndarray
    """(I, J) float32 z of the ground, everywhere: measured, interpolated or expected."""
    known: np.ndarray
    """(I, J) bool: enough was seen in the cell itself."""
    seen: np.ndarray
    """(I, J) bool: a picture shows ground there, matched or on a blank surface between matched places."""
    is_road: np.ndarray
    """(I, J) bool: looks like what the vehicle drove on, and connects to it."""
    rgb: np.ndarray
    """(I, J, 3) uint8 mean colour, 0 where nothing was seen."""

    def cells(self, xy_world: np.ndarray) -> np.ndarray:
        """Continuous (i, j) (..., 2) of places (..., 2)."""
        return (xy_world - self.origin_world) / self.cell_m

    def height(self, xy_world: np.ndarray) -> np.ndarray:
        """z (...) of the ground at places (..., 2), bilinear; NaN outside the grid."""
        cells = self.cells(xy_world)
        flat = cells.reshape(1, -1, 2).astype(np.float32)
        value = _remap(self.height_world_m, flat, cv2.INTER_LINEAR, np.nan)
        return value.reshape(cells.shape[:-1])

    def look_up(self, grid: np.ndarray, xy_world: np.ndarray) -> np.ndarray:
        """bool (...) of a grid of this shape at places (..., 2), nearest cell; False outside."""
        cells = self.cells(xy_world)
        return (
            _remap(grid.astype(np.float32), cells.reshape(1, -1, 2).astype(np.float32), cv2.INTER_NEAREST, 0.0).reshape(cells.shape[:-1])
            > 0.5
        )


def _remap(grid: np.ndarray, cells: np.ndarray, how: int, outside: float) -> np.ndarray:
    """Values (N,) of a grid at cells (1, N, 2); OpenCV wants at most 32767 columns, so the list is folded."""
    count = cells.shape[1]
    width = 16384
    rows = -(-max(count, 1) // width)
    padded = np.full((rows * width, 2), -9.0, dtype=np.float32)
    padded[:count] = cells[0]
    folded = padded.reshape(rows, width, 2)
    columns, lines = np.ascontiguousarray(folded[..., 1]), np.ascontiguousarray(folded[..., 0])
    return cv2.remap(grid, columns, lines, how, borderMode=cv2.BORDER_CONSTANT, borderValue=outside).reshape(-1)[:count]


def fit_road(points_world: np.ndarray, weight: np.ndarray, ground: PathGround, settings: RoadSettings) -> RoadGrid:
    """The smoothest surface near the heights that were seen (points (P, 3), weights (P,)), robustly; colours are `paint_road`'s.

    Heights are counted from the tangent planes of the path; their common offset (an ego origin above or below the ground) is found first.
    """
    low = ground.origins_world[:, :2].min(axis=0) - settings.reach_m
    high = ground.origins_world[:, :2].max(axis=0) + settings.reach_m
    size = np.ceil((high - low) / settings.cell_m).astype(int) + 1
    shape = (int(size[0]), int(size[1]))
    centers = low + settings.cell_m * np.moveaxis(np.indices(shape), 0, -1)
    expected = ground.height(centers)
    above = points_world[:, 2] - ground.height(points_world[:, :2])
    near = (ground.distance(points_world[:, :2]) < NEAR_PATH_M) & (np.abs(above) < 2 * settings.band_m)
    offset = float(np.median(above[near])) if near.any() else 0.0
    index = np.round((points_world[:, :2] - low) / settings.cell_m).astype(np.int64)
    keep = (index >= 0).all(-1) & (index < np.array(shape)).all(-1) & (np.abs(above - offset) < settings.band_m)
    flat = index[keep, 0] * shape[1] + index[keep, 1]
    median, count = grouped_median(flat, above[keep] - offset, weight[keep], int(np.prod(shape)))
    inside = ground.distance(centers) <= settings.reach_m
    surface = smooth_surface(median.reshape(shape), np.minimum(count, 20.0).reshape(shape), inside, settings)
    known = count.reshape(shape) >= settings.min_points
    height = (expected + offset + surface).astype(np.float32)
    return RoadGrid(low, settings.cell_m, height, known, known, np.zeros(shape, dtype=bool), np.zeros((*shape, 3), dtype=np.uint8))


def paint_road(road: RoadGrid, points_world: np.ndarray, rgb: np.ndarray, weight: np.ndarray, ground: PathGround) -> RoadGrid:
    """The grid with the colours of ground points (P, 3), (P, 3), (P,), and with it what is road."""
    shape = road.known.shape
    index = np.round(road.cells(points_world[:, :2])).astype(np.int64)
    keep = (index >= 0).all(-1) & (index < np.array(shape)).all(-1)
    flat = index[keep, 0] * shape[1] + index[keep, 1]
    total = np.bincount(flat, weight[keep], minlength=road.known.size)
    color = np.stack([np.bincount(flat, rgb[keep, c] * weight[keep], minlength=total.size) for c in range(3)], axis=-1)
    color = (color / np.maximum(total, 1e-6)[:, None]).reshape(*shape, 3)
    seen = (total > 0).reshape(shape)
    centers = road.origin_world + road.cell_m * np.moveaxis(np.indices(shape), 0, -1)
    path_distance = ground.distance(centers)
    is_road = road_like(color, seen, path_distance, road.cell_m)
    return replace(road, seen=seen | road.known | (path_distance < DRIVEN_M), is_road=is_road, rgb=color.round().astype(np.uint8))


def grouped_median(group: np.ndarray, value: np.ndarray, weight: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Weighted medians (G,) of values by group (0 where a group is empty), and each group's total weight (G,)."""
    order = np.lexsort((value, group))
    group, value, weight = group[order], value[order], weight[order]
    total = np.bincount(group, weight, minlength=groups)
    running = np.cumsum(weight)
    before = np.concatenate([[0.0], np.cumsum(total)])[:-1]
    past_half = running - before[group] >= 0.5 * total[group]
    first = np.flatnonzero(past_half & np.concatenate([[True], ~past_half[:-1] | (group[1:] != group[:-1])]))
    median = np.zeros(groups)
    median[group[first]] = value[first]
    return median, total


def smooth_surface(value: np.ndarray, count: np.ndarray, inside: np.ndarray, settings: RoadSettings) -> np.ndarray:
    """(I, J) the surface that balances data (weights `count`), bending and a pull to 0; cells that disagree lose weight.

    It is 0 where `inside` (I, J) is false.
    """
    number = np.where(inside, np.cumsum(inside).reshape(inside.shape) - 1, -1)
    bend = sparse.vstack([_second_differences(number if axis == 0 else number.T, int(inside.sum())) for axis in (0, 1)])
    stiff = settings.stiffness * (bend.T @ bend) + settings.prior_weight * sparse.identity(int(inside.sum()))
    data, weight, surface = value[inside], count[inside], np.zeros(int(inside.sum()))
    for turn in range(3):
        trust = weight / (1 + ((data - surface) / ROBUST_M) ** 2) if turn else weight
        surface = splu(sparse.csc_matrix(stiff + sparse.diags(trust)), permc_spec="MMD_AT_PLUS_A").solve(trust * data)
    result = np.zeros(value.shape)
    result[inside] = surface
    return result


def _second_differences(number: np.ndarray, unknowns: int) -> sparse.csr_matrix:
    """Rows that take 1, -2, 1 of three cells in a line along the first axis; `number` (I, J) names the unknown of a cell, -1 none."""
    triples = np.stack([number[:-2], number[1:-1], number[2:]], axis=-1).reshape(-1, 3)
    triples = triples[(triples >= 0).all(axis=1)]
    line = np.repeat(np.arange(len(triples)), 3)
    weight = np.tile([1.0, -2.0, 1.0], len(triples))
    return sparse.csr_matrix((weight, (line, triples.reshape(-1))), shape=(len(triples), unknowns))


def road_like(color: np.ndarray, seen: np.ndarray, path_distance_m: np.ndarray, cell_m: float) -> np.ndarray:
    """(I, J) bool: cells whose colour is one of those under the wheels' path, connected to it; small holes closed."""
    driven = path_distance_m < DRIVEN_M
    sample = color[seen & (path_distance_m < 2.0)]
    if len(sample) < 8:
        return path_distance_m < 2.0
    tone = _tone(color)
    kinds = _common(_tone(sample))
    nearest = np.full(seen.shape, np.inf)
    for kind in kinds[:: max(1, len(kinds) // 60)]:
        nearest = np.minimum(nearest, (((tone - kind) / TONE_SPREAD) ** 2).sum(-1))
    alike = _grown((nearest < ALIKE) & seen, (nearest < PERHAPS_ALIKE) & seen, tone) | driven
    closed = cv2.morphologyEx(alike.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    opened = np.maximum(cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), driven.astype(np.uint8))
    joined = _joined(opened, driven, round(GAP_M / cell_m), round(PIECE_M2 / cell_m**2))
    gap = np.ones((round(GAP_M / cell_m) | 1,) * 2, np.uint8)
    return cv2.morphologyEx(joined.astype(np.uint8), cv2.MORPH_CLOSE, gap) > 0


def _joined(pieces: np.ndarray, start: np.ndarray, gap_cells: int, least_cells: int) -> np.ndarray:
    """(I, J) bool: the connected pieces that hold a cell of `start`, and large ones that follow behind a gap (a crossing's stripes)."""
    _, labels = cv2.connectedComponents(pieces, connectivity=4)
    size = np.bincount(labels.reshape(-1))
    chosen = set(np.unique(labels[start & (pieces > 0)]).tolist())
    while True:
        found = np.isin(labels, list(chosen)) & (pieces > 0)
        reach = cv2.dilate(found.astype(np.uint8), np.ones((2 * gap_cells + 1,) * 2, np.uint8)) > 0
        near = {int(k) for k in np.unique(labels[reach & (pieces > 0)]) if size[k] >= least_cells}
        if near <= chosen:
            return found
        chosen |= near


def _grown(sure: np.ndarray, perhaps: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """(I, J) bool: `sure` and what of `perhaps` is reached from it in small steps of tone."""
    found = sure.copy()
    steps = [(np.abs(np.diff(tone, axis=axis)) / TONE_SPREAD).max(-1) < SAME_STEP for axis in (0, 1)]
    while True:
        before = int(found.sum())
        for axis, small in enumerate(steps):
            along = found.swapaxes(0, axis)
            open_to, pass_on = perhaps.swapaxes(0, axis), small.swapaxes(0, axis)
            along[1:] |= along[:-1] & pass_on & open_to[1:]
            along[:-1] |= along[1:] & pass_on & open_to[:-1]
        if int(found.sum()) == before:
            return found


def _common(tone: np.ndarray) -> np.ndarray:
    """The tones (P, 3) whose brightness is frequent: the surface itself, not its markings."""
    step = np.floor(tone[:, 0] / 0.1).astype(np.int64)
    step -= step.min()
    share = np.bincount(step) / len(step)
    return tone[share[step] >= 0.5 * share.max()]


def _tone(color: np.ndarray) -> np.ndarray:
    """(..., 3): logarithm of the brightness, shares of red and green."""
    total = color.sum(axis=-1) + 6.0
    return np.stack([np.log(total / 3), (color[..., 0] + 2) / total, (color[..., 1] + 2) / total], axis=-1)


def write_road(path: Path, road: RoadGrid) -> None:
    """The grid as an npz file (the fields of `RoadGrid`)."""
    np.savez_compressed(
        path,
        origin_world=road.origin_world,
        cell_m=road.cell_m,
        height_world_m=road.height_world_m,
        known=road.known,
        seen=road.seen,
        is_road=road.is_road,
        rgb=road.rgb,
    )


def read_road(path: Path) -> RoadGrid:
    """The grid of `write_road`."""
    with np.load(path, allow_pickle=False) as values:
        columns = [values[name] for name in ("height_world_m", "known", "seen", "is_road", "rgb")]
        return RoadGrid(values["origin_world"], float(values["cell_m"]), *columns)
