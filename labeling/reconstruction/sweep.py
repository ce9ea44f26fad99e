"""How far away is what each pixel shows? A coarse sweep of planes, smoothed along scan lines, then finer steps around the best."""

from dataclasses import dataclass

import cv2
import numpy as np

from labeling.reconstruction.ground import PathGround, ground_depth
from labeling.reconstruction.matching import BLIND, Matcher
from labeling.reconstruction.settings import MatchSettings
from labeling.reconstruction.views import PinholeView

HALF_STEPS, FULL_STEPS = (1.0, 3), (0.5, 2)
"""Steps of the refinement at half and at full size: pixels in the neighbour that moves most, and how many to each side."""
COARSE_NEIGHBOURS = 3
"""The coarse sweep looks at this many of the neighbours."""


@dataclass
class DepthMap:
    """What matching says about one view."""

    view: PinholeView
    depth_m: np.ndarray
    """(H, W) float32 along the axis; 0 unknown."""
    is_ground: np.ndarray
    """(H, W) bool: found on the ground's planes."""


def inverse_depths(settings: MatchSettings) -> np.ndarray:
    """(D,) float32 planes of the coarse sweep from far to near; denser (in inverse depth) far away."""
    share = np.linspace(0, 1, settings.levels) ** 1.25
    return (1 / settings.far_m + share * (1 / settings.near_m - 1 / settings.far_m)).astype(np.float32)


def sweep_view(view: PinholeView, others: list[PinholeView], ground: PathGround, settings: MatchSettings) -> DepthMap:
    """The depth of a view from its neighbours (at least one): swept and decided at half size, refined at full size."""
    small, small_others = view.half(), [other.half() for other in others]
    coarse = Matcher(small, small_others[:COARSE_NEIGHBOURS], max(5, settings.window_px - 2), settings.texture)
    expected = ground_depth(small, ground, 0.0, settings.far_m)
    free, height = coarse_seeds(coarse, expected, settings)
    matcher = Matcher(small, small_others, max(5, settings.window_px - 2), settings.texture)
    w_free, cost_free = refine(matcher, free, *HALF_STEPS)
    w_ground, cost_ground = refine(matcher, _raised(expected, height, small), *HALF_STEPS)
    soft_free, soft_ground = (cv2.blur(cost, (5, 5)) for cost in (cost_free, np.where(expected > 0, cost_ground, np.float32(BLIND))))
    is_ground = soft_ground < soft_free + settings.ground_bonus
    size = view.grey.shape
    seed = _enlarged(cv2.medianBlur(np.where(is_ground, w_ground, w_free).astype(np.float32), 3), size)
    w, cost = refine(Matcher(view, others, settings.window_px, settings.texture), seed, *FULL_STEPS)
    known = view.usable & (cost < settings.max_cost) & (w > 1 / settings.far_m)
    on_ground = cv2.resize(is_ground.astype(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_NEAREST) > 0
    return DepthMap(view, np.where(known, 1 / np.maximum(w, 1e-4), 0).astype(np.float32), on_ground & known)


def coarse_seeds(matcher: Matcher, expected_m: np.ndarray, settings: MatchSettings) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth (h, w) of the smoothed sweep, and height over the expected ground (h, w) of the best ground plane."""
    planes = inverse_depths(settings)
    volume = np.stack([matcher.cost(w) for w in planes], axis=-1)
    rows, columns = np.indices(volume.shape[:2])
    heights, height_costs = np.array(settings.ground_heights_m, dtype=np.float32), []
    for height in heights:
        w = np.maximum(_raised(expected_m, float(height), matcher.view), planes[0])
        cost = np.where(expected_m > 0, matcher.cost(w), np.float32(BLIND))
        height_costs.append(cv2.blur(cost, (9, 5)))
        level = np.clip(np.searchsorted(planes, w), 1, len(planes) - 1)
        level = level - ((w - planes[level - 1]) < (planes[level] - w))
        volume[rows, columns, level] = np.minimum(volume[rows, columns, level], cost)
    smooth = semi_global(volume, settings.small_step, settings.large_step)
    best = smooth.argmin(axis=-1)
    best_height = heights[cv2.medianBlur(np.argmin(height_costs, axis=0).astype(np.uint8), 5)]
    return cv2.medianBlur(planes[best], 5), best_height


def _enlarged(values: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    return cv2.resize(values, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def _raised(expected_depth: np.ndarray, height_m: np.ndarray | float, view: PinholeView) -> np.ndarray:
    """Inverse depth of the ground raised by `height_m` (number or (H, W)): rays reach it earlier, by its share of the camera's height."""
    pose = view.world_from_ego_at_cam
    camera_height = max(float((view.center_world - pose[:3, 3]) @ pose[:3, 2]), 0.3)
    share = np.clip(1 - height_m / camera_height, 0.2, None)
    return (1 / np.where(expected_depth > 0, expected_depth * share, 1e4)).astype(np.float32)


def refine(matcher: Matcher, inverse_depth: np.ndarray, pixels: float, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth and cost (H, W) after steps around a first guess, `reach` to each side, by a parabola between the steps."""
    step = matcher.step(inverse_depth, pixels)
    costs = np.stack([matcher.cost(np.maximum(inverse_depth + k * step, 1e-4)) for k in range(-reach, reach + 1)])
    best = costs.argmin(axis=0)
    offset, cost = _parabola(costs, best)
    return np.maximum(inverse_depth + (best - reach + offset) * step, 1e-4).astype(np.float32), cost


def _parabola(costs: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offset in (-0.5, 0.5) of the minimum from the best step and the cost of the best step."""
    middle = np.clip(best, 1, len(costs) - 2)[None]
    before, here, after = (np.take_along_axis(costs, middle + k, axis=0)[0] for k in (-1, 0, 1))
    bend = before - 2 * here + after
    offset = np.where((bend > 1e-4) & (best == middle[0]), 0.5 * (before - after) / np.maximum(bend, 1e-4), 0)
    return np.clip(offset, -0.5, 0.5), np.take_along_axis(costs, best[None], axis=0)[0]


def semi_global(volume: np.ndarray, small_step: float, large_step: float) -> np.ndarray:
    """(H, W, D) costs summed over four scan-line directions, each charging for changes of plane (Hirschmueller 2008, "Stereo
    Processing by Semiglobal Matching and Mutual Information")."""
    total = np.zeros_like(volume)
    for by_columns in (False, True):
        costs = np.ascontiguousarray(volume.swapaxes(0, 1)) if by_columns else volume
        for backwards in (False, True):
            scanned = _scan(costs[::-1] if backwards else costs, small_step, large_step)
            scanned = scanned[::-1] if backwards else scanned
            total += scanned.swapaxes(0, 1) if by_columns else scanned
    return total


def _scan(costs: np.ndarray, small_step: float, large_step: float) -> np.ndarray:
    """Costs (N, M, D) accumulated along the first axis."""
    result = np.empty_like(costs)
    result[0] = costs[0]
    padded = np.full((costs.shape[1], costs.shape[2] + 2), np.inf, dtype=costs.dtype)
    for row in range(1, len(costs)):
        before = result[row - 1]
        least = before.min(axis=-1, keepdims=True)
        padded[:, 1:-1] = before
        steps = np.minimum(padded[:, :-2], padded[:, 2:])
        steps += small_step
        np.minimum(steps, before, out=steps)
        np.minimum(steps, least + large_step, out=steps)
        steps -= least
        np.add(costs[row], steps, out=result[row])
    return result
