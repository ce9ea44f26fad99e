"""Where do corners of the static world go from picture to picture of one camera? Optical flow that starts where the rough motion says."""

from dataclasses import dataclass

import cv2
import numpy as np

from labeling.motion.pictures import GreyPictures, inside_any
from labeling.motion.settings import FeatureSettings
from labeling.motion.sightings import Sightings
from scenes.cameras import Camera
from scenes.clips import Clip
from scenes.geometry import invert_rigid, transform_points

FAR_M = 40.0
"""How far a new corner is believed to be where nothing else is known."""
GRID = (5, 2)
"""Columns and rows of a picture that are filled with corners one by one."""
MOVER_MARGIN_PX = 4.0


@dataclass
class _Live:
    """Corners being followed in one camera; L rows."""

    track: np.ndarray
    pixel: np.ndarray
    """(L, 2) in followed pixels, float32."""
    sigma_px: np.ndarray
    """(L,) of the latest step, see `flow_sigma_px`; 0 for new ones."""
    age: np.ndarray
    origin_world: np.ndarray
    """(L, 3) camera centre where the corner was first seen ..."""
    ray_world: np.ndarray
    """(L, 3) ... and the ray to it."""
    point_world: np.ndarray
    """(L, 3) the best guess."""

    def select(self, index) -> "_Live":
        return _Live(*(value[index] for value in vars(self).values()))

    def join(self, other: "_Live") -> "_Live":
        return _Live(*(np.concatenate([a, b]) for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def follow_corners(clip: Clip, pictures: GreyPictures, world_from_cam: np.ndarray, settings: FeatureSettings) -> Sightings:
    """Sightings of all cameras by flow within each; tracks of one camera only.

    Args:
        clip: For the rig and the frames.
        pictures: What to look at.
        world_from_cam: (F, N, 4, 4) rough pose of every picture.
        settings: How.

    Returns:
        Renumbered sightings; a track has at least two.
    """
    parts, begin = [], 0
    for index, camera in enumerate(clip.rig.cameras):
        track, frame, pixel, sigma_px = _follow_camera(clip, camera, index, pictures, world_from_cam[:, index], settings)
        own = pictures.to_own(index, pixel)
        parts.append((track + begin, frame, np.full(len(track), index), own, sigma_px))
        begin += int(track.max()) + 1 if len(track) else 0
    track, frame, camera_index, pixel, sigma_px = (np.concatenate(column) for column in zip(*parts, strict=True))
    steps = np.maximum(np.bincount(track, minlength=begin) - 1, 0)
    spread = spread_of(np.bincount(track, sigma_px, minlength=begin) / np.maximum(steps, 1), settings)
    often = steps[track] >= 1
    columns = (column[often] for column in (track, frame, camera_index, pixel, spread[track]))
    return Sightings.of_pixels(clip.rig, *columns).renumbered()


def spread_of(sigma_px: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """(P,) `Sightings.spread` of tracks whose steps are known to `sigma_px` (P,) on average: weak patches err far more than noise says."""
    return np.maximum(sigma_px / settings.sharp_sigma_px, 1.0) ** 3


def _follow_camera(
    clip: Clip, camera: Camera, index: int, pictures: GreyPictures, world_from_cam: np.ndarray, settings: FeatureSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    rows: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros(0))]
    live, before, next_track = _none_live(), -1, 0
    factor = pictures.factor[index]
    lens = camera.resize(int(camera.width_px // factor), int(camera.height_px // factor))
    for frame in range(len(clip)):
        grey = pictures.pictures.get((frame, index))
        if grey is None:
            continue
        movers = pictures.movers_px.get((frame, index), np.zeros((0, 4)))
        movers = np.concatenate([pictures.to_small(index, movers[:, :2]), pictures.to_small(index, movers[:, 2:])], axis=1)
        if len(live.track):
            live = _step(lens, live, pictures.pictures[before, index], grey, world_from_cam[before], world_from_cam[frame], settings)
            live = live.select(~inside_any(live.pixel, movers, MOVER_MARGIN_PX) & (live.age < settings.longest_frames))
        fresh = _new_corners(grey, live.pixel, movers, settings)
        started = _start(lens, fresh, next_track, world_from_cam[frame], clip.frames[frame].world_from_ego)
        next_track += len(fresh)
        live, before = live.join(started), frame
        rows.append((live.track, np.full(len(live.track), frame), live.pixel.astype(np.float64), live.sigma_px))
    track, frames, pixel, sigma_px = (np.concatenate(column) for column in zip(*rows, strict=True))
    return track, frames, pixel, sigma_px


def _none_live() -> _Live:
    nothing = np.zeros((0, 3))
    return _Live(np.zeros(0, np.int64), np.zeros((0, 2), np.float32), np.zeros(0), np.zeros(0, np.int64), nothing, nothing, nothing)


def _step(lens: Camera, live: _Live, grey: np.ndarray, next_grey: np.ndarray, world_from_cam: np.ndarray, world_from_next: np.ndarray,
          settings: FeatureSettings) -> _Live:  # fmt: skip
    """Follows corners into the next picture: those that return when followed back, with better guesses of their places."""
    here, _ = lens.project(transform_points(invert_rigid(world_from_cam), live.point_world))
    there, _ = lens.project(transform_points(invert_rigid(world_from_next), live.point_world))
    guess = (live.pixel + np.where(np.isfinite(there - here), there - here, 0)).astype(np.float32)
    size = np.array([lens.width_px, lens.height_px])
    window = {"winSize": (settings.window_px, settings.window_px), "maxLevel": 2, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    found, good, mismatch = cv2.calcOpticalFlowPyrLK(grey, next_grey, live.pixel, guess.copy(), **window)  # type: ignore[call-overload]
    back, good_back, _ = cv2.calcOpticalFlowPyrLK(next_grey, grey, found, live.pixel.copy(), **window)  # type: ignore[call-overload]
    inside = ((found > 2) & (found < size - 3)).all(axis=1)
    stays = np.linalg.norm(back - live.pixel, axis=1) < settings.forth_back_px
    mismatch[good == 0] = np.inf  # OpenCV leaves whatever was there
    sigma_px = flow_sigma_px(grey, live.pixel, mismatch[:, 0], settings.window_px)
    keep = (good[:, 0] > 0) & (good_back[:, 0] > 0) & inside & stays & (sigma_px < settings.most_sigma_px)
    live, found = live.select(keep), found[keep]
    live.pixel, live.sigma_px, live.age = found, sigma_px[keep], live.age + 1
    live.point_world = _better_points(live, world_from_next, lens.unproject(found))
    return live


def flow_sigma_px(grey: np.ndarray, pixel: np.ndarray, mismatch: np.ndarray, window_px: int) -> np.ndarray:
    """(L,) standard deviation of a followed patch along its weakest direction, for patches at pixels (L, 2).

    Least squares over the window: noise over the root of the sum of squared slopes. The noise is the patches' own `mismatch` (L,), their
    mean absolute difference in grey levels, so that what noise and coarse sampling leave of a patch counts. Weak patches do not only
    scatter: they stick to the picture's own pattern and fall behind, which looks like a shorter way.
    """
    slope2 = cv2.cornerMinEigenVal(grey, window_px) * (255.0 / 2) ** 2  # OpenCV's scale: the mean squared slope over the window
    height, width = grey.shape
    column, row = np.clip(np.round(pixel).astype(np.int64), 0, [width - 1, height - 1]).T
    noise = mismatch * np.sqrt(np.pi / 2)
    return noise / (window_px * np.sqrt(np.maximum(slope2[row, column], 1e-9)))


def _better_points(live: _Live, world_from_cam: np.ndarray, ray_cam: np.ndarray) -> np.ndarray:
    """(L, 3): nearest to the first ray and this one, where they differ enough; else the old guess."""
    ray = ray_cam @ world_from_cam[:3, :3].T
    between = live.origin_world - world_from_cam[:3, 3]
    cos = np.einsum("li,li->l", live.ray_world, ray)
    sine2 = np.maximum(1 - cos**2, 1e-12)
    along = (np.einsum("li,li->l", ray, between) * cos - np.einsum("li,li->l", live.ray_world, between)) / sine2
    good = (sine2 > 0.01**2) & (along > 0.5) & (along < 300)
    return np.where(good[:, None], live.origin_world + along[:, None] * live.ray_world, live.point_world)


def _start(lens: Camera, pixel: np.ndarray, first_track: int, world_from_cam: np.ndarray, world_from_ego: np.ndarray) -> _Live:
    ray = lens.unproject(pixel.astype(np.float64)) @ world_from_cam[:3, :3].T
    origin = np.repeat(world_from_cam[None, :3, 3], len(pixel), axis=0)
    depth = np.minimum(road_distance(origin, ray, world_from_ego), FAR_M)
    point = origin + depth[:, None] * ray
    new = np.zeros(len(pixel), np.int64)
    return _Live(first_track + np.arange(len(pixel)), pixel, new.astype(np.float64), new, origin, ray, point)


def road_distance(origin_world: np.ndarray, ray_world: np.ndarray, world_from_ego: np.ndarray) -> np.ndarray:
    """(S,) metres along unit rays (S, 3) from centres (S, 3) to the ego vehicle's ground plane; infinite for rays that never meet it."""
    up, foot = world_from_ego[..., :3, 2], world_from_ego[..., :3, 3]
    height = np.einsum("si,...i->s" if up.ndim == 1 else "si,si->s", origin_world - foot, up)
    sinking = -np.einsum("si,...i->s" if up.ndim == 1 else "si,si->s", ray_world, up)
    return np.where(sinking > 1e-6, height / np.maximum(sinking, 1e-6), np.inf)


def _new_corners(grey: np.ndarray, taken: np.ndarray, movers: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """(K, 2) float32 corners in parts of the picture that have few."""
    height, width = grey.shape
    distance = settings.min_distance_px * max(width / 528, 0.5)
    quota = settings.corners_per_camera // (GRID[0] * GRID[1])
    free = np.full(grey.shape, 255, np.uint8)
    for u, v in taken:
        cv2.circle(free, (int(u), int(v)), int(distance), 0, -1)
    for u0, v0, u1, v1 in movers - [MOVER_MARGIN_PX, MOVER_MARGIN_PX, -MOVER_MARGIN_PX, -MOVER_MARGIN_PX]:
        free[max(int(v0), 0) : max(int(v1) + 1, 0), max(int(u0), 0) : max(int(u1) + 1, 0)] = 0
    edges_u, edges_v = np.linspace(0, width, GRID[0] + 1).astype(int), np.linspace(0, height, GRID[1] + 1).astype(int)
    found = [np.zeros((0, 2), np.float32)]
    for column in range(GRID[0]):
        for row in range(GRID[1]):
            low = np.array([edges_u[column], edges_v[row]])
            high = np.array([edges_u[column + 1], edges_v[row + 1]])
            missing = quota - int(((taken >= low) & (taken < high)).all(axis=1).sum())
            if missing < quota // 3:
                continue
            part, mask = (image[low[1] : high[1], low[0] : high[0]] for image in (grey, free))
            corners = cv2.goodFeaturesToTrack(np.ascontiguousarray(part), missing, settings.quality, distance, mask=mask)
            if corners is not None:
                found.append(corners.reshape(-1, 2) + low.astype(np.float32))
    corners = np.concatenate(found)
    inner = ((corners > 6) & (corners < [width - 7, height - 7])).all(axis=1)
    return corners[inner].astype(np.float32)
