"""What do blank surfaces between matched pixels look like? Planes through the matched ones, not across edges of the picture."""

import cv2
import numpy as np

from labeling.reconstruction.settings import FillSettings

PASSES = 2
FARTHEST = 2.0


def fill_depth(
    image_rgb: np.ndarray, depth_m: np.ndarray, is_ground: np.ndarray, ground_m: np.ndarray, settings: FillSettings
) -> np.ndarray:
    """(H, W) float32 depth everywhere where the surroundings agree on one (0 elsewhere), from known depths (0 unknown).

    Around each pixel, within its edge-aware surroundings, known depths vote: if most lie on the ground (`is_ground`), the pixel lies where
    its ray meets the ground (`ground_m`, 0 where it does not); else on the plane (inverse depth is linear in the picture) through them.
    """
    scale = settings.shrink
    height, width = (n // scale * scale for n in depth_m.shape)
    small = (width // scale, height // scale)
    image = cv2.resize(image_rgb[:height, :width], small, interpolation=cv2.INTER_AREA)
    pick = np.s_[:height, :width]
    known = depth_m[pick] > 0
    free = known & ~is_ground[pick]
    inverse = np.where(free, 1 / np.maximum(depth_m[pick], 0.1), 0).astype(np.float32)
    number = _pooled(free, scale)
    mean_inverse = _pooled(inverse, scale) / np.maximum(number, 1e-6)
    channels = _moments(number, mean_inverse)
    channels = np.concatenate([channels, _pooled(known & is_ground[pick], scale)[..., None]], axis=-1)
    spread = edge_aware_mean(image, channels, settings.reach_px / scale, settings.edge)
    plane, misfit = _planes(spread[..., :10])
    weight_free, weight_ground = spread[..., 0], spread[..., 10]
    plane, misfit, weight_free, weight_ground = (
        cv2.resize(x.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        for x in (plane, misfit, weight_free, weight_ground)
    )
    on_ground = (ground_m[pick] > 0) & (weight_ground > settings.ground_share * (weight_free + weight_ground))
    fits = (misfit < settings.misfit * plane) & (plane > 1 / settings.far_m)
    enough = weight_free + weight_ground > settings.min_weight
    free_depth = np.where(fits, 1 / np.maximum(plane, 1e-4), 0)
    filled = np.zeros_like(depth_m)
    filled[pick] = np.where(enough, np.where(on_ground, ground_m[pick], free_depth), 0)
    return np.where(depth_m > 0, depth_m, filled)


def _pooled(values: np.ndarray, scale: int) -> np.ndarray:
    height, width = values.shape
    return values.reshape(height // scale, scale, width // scale, scale).astype(np.float32).mean(axis=(1, 3))


def _moments(weight: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(h, w, 10): weight times 1, u, v, uu, uv, vv, w, uw, vw, ww; u, v in units of a hundred pixels."""
    v, u = np.indices(weight.shape, dtype=np.float32) / 100
    terms = [np.ones_like(u), u, v, u * u, u * v, v * v, value, u * value, v * value, value * value]
    return np.stack([weight * term for term in terms], axis=-1).astype(np.float32)


def _planes(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value at each pixel (h, w) of the weighted plane through its surroundings, and the root mean square misfit (h, w), huge where
    the pixel lies farther from the middle of what is known than `FARTHEST` of its standard deviations."""
    n = np.maximum(moments[..., 0], 1e-9)
    _, mu, mv, muu, muv, mvv, mw, muw, mvw, mww = np.moveaxis(moments / n[..., None], -1, 0)
    v, u = np.indices(n.shape, dtype=np.float32) / 100
    cuu, cvv, cuv = muu - mu * mu + 4e-3, mvv - mv * mv + 4e-3, muv - mu * mv
    cuw, cvw, cww = muw - mu * mw, mvw - mv * mw, np.maximum(mww - mw * mw, 0)
    det = np.maximum(cuu * cvv - cuv * cuv, 1e-9)
    a, b = (cvv * cuw - cuv * cvw) / det, (cuu * cvw - cuv * cuw) / det
    misfit = np.sqrt(np.maximum(cww - a * cuw - b * cvw, 0))
    du, dv = u - mu, v - mv
    outside = (cvv * du * du - 2 * cuv * du * dv + cuu * dv * dv) / det
    return mw + a * du + b * dv, np.where(outside < FARTHEST**2, misfit, 1e3)


def edge_aware_mean(image_rgb: np.ndarray, channels: np.ndarray, reach_px: float, edge: float) -> np.ndarray:
    """Channels (h, w, C) averaged along paths that avoid the picture's edges: the recursive domain transform.

    Gastal and Oliveira 2011, "Domain Transform for Edge-Aware Image and Video Processing". A difference of `edge` grey levels (summed
    over the colours) is as far as `reach_px` pixels.
    """
    picture = image_rgb.astype(np.float32)
    result = channels.astype(np.float32)
    across = 1 + reach_px / edge * np.abs(np.diff(picture, axis=1)).sum(-1)
    down = 1 + reach_px / edge * np.abs(np.diff(picture, axis=0)).sum(-1)
    for turn in range(PASSES):
        sigma = reach_px * np.sqrt(3) * 2 ** (PASSES - turn - 1) / np.sqrt(4**PASSES - 1)
        decay = np.exp(-np.sqrt(2) / sigma)
        result = _recursive(result.swapaxes(0, 1), (decay**across).T).swapaxes(0, 1)
        result = _recursive(result, decay**down)
    return result


def _recursive(values: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Values (N, M, C) smoothed along the first axis, forth and back; `keep` (N - 1, M) is what one place takes from the one before."""
    result = np.array(values)
    for k in range(1, len(result)):
        result[k] += keep[k - 1][:, None] * (result[k - 1] - result[k])
    for k in range(len(result) - 2, -1, -1):
        result[k] += keep[k][:, None] * (result[k + 1] - result[k])
    return result
