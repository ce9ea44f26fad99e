"""Where does another camera see a point that one camera has followed? A patch is turned as the other should see it, and searched there.

The same point seen from two places of the vehicle ties the cameras to each other. Their distance is known in metres, so this gives the
scale of the motion; the vehicle moves between their captures, so this gives the clocks.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from labeling.motion.pictures import GreyPictures
from labeling.motion.settings import CrossingSettings
from labeling.motion.sightings import Sightings
from scenes.cameras import Camera
from scenes.clips import Clip
from scenes.geometry import invert_rigid, transform_points

ROAD_HEIGHT_M = 0.25
"""Points this near to the ground plane are taken to lie on a level surface, others on an upright one."""
FEWEST_FRAMES_BETWEEN = 3
"""Between two looks at one point by one camera."""
LOOKS_PER_CAMERA = 3
"""How often one point is looked for in one other camera."""


@dataclass(frozen=True)
class Candidates:
    """Places to look at: a tracked point's picture (a row of the sightings) should be found in another picture. M rows."""

    row: np.ndarray
    """(M,) int64 row of the sightings that gives the template."""
    frame: np.ndarray
    """(M,) int64 where to look ..."""
    camera: np.ndarray
    """(M,) int64 ... with which camera ..."""
    pixel_px: np.ndarray
    """(M, 2) ... and at which of its pixels."""
    angle_rad: np.ndarray
    """(M,) between the two rays to the point."""

    def select(self, index) -> "Candidates":
        return Candidates(*(value[index] for value in vars(self).values()))


def find_candidates(
    clip: Clip, sightings: Sightings, points_world: np.ndarray, cameras_at: np.ndarray, settings: CrossingSettings
) -> Candidates:  # fmt: skip
    """Pictures of other cameras that should show tracked points from a similar side.

    Args:
        clip: Rig and frames.
        sightings: Renumbered rows, one camera a track or several.
        points_world: (P, 3).
        cameras_at: (F, N, 4, 4) `world_from_cam`.
        settings: How different the two looks may be.
    """
    centre = cameras_at[sightings.frame, sightings.camera, :3, 3]
    to_point = points_world[sightings.track] - centre
    distance = np.linalg.norm(to_point, axis=1)
    resolution = sightings.px_per_rad / distance
    found: list[Candidates] = []
    for index, camera in enumerate(clip.rig.cameras):
        other = np.flatnonzero(sightings.camera != index)
        for frame in range(len(clip)):
            if not clip.frames[frame].views[camera.name].alive:
                continue
            pixel, seen = _project_inside(camera, transform_points(invert_rigid(cameras_at[frame, index]), points_world))
            rows = other[seen[sightings.track[other]]]
            if not len(rows):
                continue
            ray = points_world[sightings.track[rows]] - cameras_at[frame, index, :3, 3]
            far = np.linalg.norm(ray, axis=1)
            cos = np.einsum("si,si->s", ray, to_point[rows]) / np.maximum(far * distance[rows], 1e-9)
            scale = np.abs(np.log(camera.fx_px / far / resolution[rows]))
            near = (cos > np.cos(settings.max_angle_rad)) & (scale < np.log(settings.max_scale))
            rows, cos, scale = rows[near], cos[near], scale[near]
            best = _first_of_each(sightings.track[rows], np.arccos(np.clip(cos, -1, 1)) + 0.3 * scale)
            rows = rows[best]
            count = len(rows)
            angle = np.arccos(np.clip(cos[best], -1, 1)) + 0.3 * scale[best]
            found.append(Candidates(rows, np.full(count, frame), np.full(count, index), pixel[sightings.track[rows]], angle))
    if not found:
        nothing = np.zeros(0, np.int64)
        return Candidates(nothing, nothing, nothing, np.zeros((0, 2)), np.zeros(0))
    joined = Candidates(*(np.concatenate([getattr(part, name) for part in found]) for name in vars(found[0])))
    return joined.select(_best_looks(joined, sightings, len(clip.rig), settings))


def _project_inside(camera: Camera, points_cam: np.ndarray, margin_px: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    pixel, seen = camera.project(points_cam)
    size = np.array([camera.width_px, camera.height_px])
    return pixel, seen & ((pixel > margin_px) & (pixel < size - 1 - margin_px)).all(axis=1)


def _first_of_each(group: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Index of the cheapest row of each group."""
    order = np.lexsort((cost, group))
    return order[np.unique(group[order], return_index=True)[1]]


def _best_looks(candidates: Candidates, sightings: Sightings, cameras: int, settings: CrossingSettings) -> np.ndarray:
    """Rows to try: for each point and camera the most alike looks, some frames apart; at most so many a picture."""
    group = sightings.track[candidates.row] * cameras + candidates.camera
    order = np.lexsort((candidates.angle_rad, group))
    kept: list[int] = []
    looks: list[int] = []
    previous = -1
    for row in order:
        if group[row] != previous:
            previous, looks = int(group[row]), []
        frame = int(candidates.frame[row])
        if len(looks) < LOOKS_PER_CAMERA and all(abs(frame - look) >= FEWEST_FRAMES_BETWEEN for look in looks):
            looks.append(frame)
            kept.append(int(row))
    rows = np.array(kept, dtype=np.int64)
    picture = candidates.frame[rows] * cameras + candidates.camera[rows]
    order = np.lexsort((candidates.angle_rad[rows], picture))
    starts = np.unique(picture[order], return_index=True)[1]
    rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    return rows[order[rank < settings.pairs_per_frame]]


def match_crossings(
    clip: Clip, pictures: GreyPictures, sightings: Sightings, points_world: np.ndarray, cameras_at: np.ndarray,
    settings: CrossingSettings, search_px: float,
) -> Sightings:  # fmt: skip
    """New sightings of the tracked points by other cameras, numbered as the tracks are."""
    candidates = find_candidates(clip, sightings, points_world, cameras_at, settings)
    height = _height_over_road(clip, sightings, points_world)
    parts = []
    for index in range(len(clip.rig)):
        rows = candidates.select(candidates.camera == index)
        if len(rows.row):
            pixel, good = _search(clip, pictures, sightings, points_world, cameras_at, rows, height, settings, search_px)
            track = sightings.track[rows.row[good]]
            parts.append((track, rows.frame[good], rows.camera[good], pixel[good], sightings.spread[rows.row[good]]))
    if not parts:
        return sightings.select(np.zeros(0, np.int64))
    return Sightings.of_pixels(clip.rig, *(np.concatenate(column) for column in zip(*parts, strict=True)))


def _height_over_road(clip: Clip, sightings: Sightings, points_world: np.ndarray) -> np.ndarray:
    """(P,) height over the ego plane at the frame in which each point was seen first."""
    first = np.unique(sightings.track, return_index=True)[1]
    ego = invert_rigid(np.stack([frame.world_from_ego for frame in clip.frames]))[sightings.frame[first]]
    return transform_points(ego, points_world)[:, 2]


def _search(
    clip: Clip, pictures: GreyPictures, sightings: Sightings, points_world: np.ndarray, cameras_at: np.ndarray, rows: Candidates,
    height_m: np.ndarray, settings: CrossingSettings, search_px: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Pixels (M, 2) where candidates of one camera were found, and which were."""
    index = int(rows.camera[0])
    factor, half = float(pictures.factor[index]), settings.patch_px // 2
    centre = pictures.to_small(index, rows.pixel_px)
    middle = np.round(centre).astype(np.int64)
    offset = np.stack(np.meshgrid(np.arange(-half, half + 1), np.arange(-half, half + 1)), axis=-1)
    patch_px = pictures.to_own(index, middle[:, None, None] + offset)  # (M, 15, 15, 2) around the predicted place
    maps = _source_pixels(clip, sightings, points_world, cameras_at, rows, height_m, patch_px)
    radius = max(3, round(search_px * max(clip.rig.cameras[index].width_px / factor / 528, 0.5)))
    found, good = np.zeros((len(rows.row), 2)), np.zeros(len(rows.row), dtype=bool)
    for k, row in enumerate(rows.row):
        source = pictures.pictures.get((int(sightings.frame[row]), int(sightings.camera[row])))
        target = pictures.pictures.get((int(rows.frame[k]), index))
        if source is None or target is None or not np.isfinite(maps[k]).all():
            continue
        small = pictures.to_small(int(sightings.camera[row]), maps[k])
        template = cv2.remap(source, small.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        place = _best_place(template, target, middle[k], half, radius, settings)
        if place is not None:
            found[k], good[k] = pictures.to_own(index, place + (centre[k] - middle[k])), True
    return found, good


def _source_pixels(
    clip: Clip, sightings: Sightings, points_world: np.ndarray, cameras_at: np.ndarray, rows: Candidates, height_m: np.ndarray,
    patch_px: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """(M, h, w, 2) own pixels of the template's picture for every pixel of the patch: both look at one plane through the point."""
    index = int(rows.camera[0])
    world_from_target = cameras_at[rows.frame, index]
    centre_px = rows.pixel_px[:, None, None]
    middle = patch_px[:, patch_px.shape[1] // 2, patch_px.shape[2] // 2][:, None, None]
    rays = clip.rig.cameras[index].unproject(patch_px - middle + centre_px)  # the patch is centred on the predicted place
    rays_world = np.einsum("mij,mhwj->mhwi", world_from_target[:, :3, :3], rays)
    track = sightings.track[rows.row]
    point = points_world[track]
    target_centre = world_from_target[:, :3, 3]
    source_pose = cameras_at[sightings.frame[rows.row], sightings.camera[rows.row]]
    normal = (target_centre + source_pose[:, :3, 3]) / 2 - point
    normal[:, 2] = 0
    normal[np.abs(height_m[track]) < ROAD_HEIGHT_M] = (0, 0, 1)
    depth = np.einsum("mi,mi->m", normal, point - target_centre)[:, None, None] / np.einsum("mi,mhwi->mhw", normal, rays_world)
    depth = np.where(depth > 0.3, depth, np.nan)
    surface = target_centre[:, None, None] + depth[..., None] * rays_world
    result = np.full(patch_px.shape, np.nan)
    for source in np.unique(sightings.camera[rows.row]):
        these = sightings.camera[rows.row] == source
        cam_from_world = invert_rigid(source_pose[these])[:, None, None]
        pixel, seen = clip.rig.cameras[source].project(np.nan_to_num(transform_points(cam_from_world, surface[these]), nan=-1.0))
        # The template is anchored where the source camera saw the point, not where the pose says it should have.
        anchor, _ = clip.rig.cameras[source].project(transform_points(cam_from_world[:, 0, 0], point[these]))
        shift = sightings.pixel_px[rows.row[these]] - anchor
        result[these] = np.where(seen[..., None], pixel + shift[:, None, None], np.nan)
    return result


def _best_place(template: np.ndarray, target: np.ndarray, middle: np.ndarray, half: int, radius: int, settings: CrossingSettings):
    """The pixel (2,) of the template's centre in the target, to a fraction of a pixel; None if it is not found beyond doubt."""
    reach = half + radius
    u, v = int(middle[0]), int(middle[1])
    left, top = max(u - reach, 0), max(v - reach, 0)
    window = target[top : v + reach + 1, left : u + reach + 1]
    if min(window.shape) < 2 * half + 4 or template.std() < 4:
        return None
    score = cv2.matchTemplate(window, template, cv2.TM_CCOEFF_NORMED)
    _, best, _, (x, y) = cv2.minMaxLoc(score)
    if best < settings.min_correlation or not (0 < x < score.shape[1] - 1 and 0 < y < score.shape[0] - 1):
        return None
    rivals = score.copy()
    rivals[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = -1
    if best - rivals.max() < settings.min_lead:
        return None
    dx = _peak(score[y, x - 1], best, score[y, x + 1])
    dy = _peak(score[y - 1, x], best, score[y + 1, x])
    return np.array([left + x + dx + half, top + y + dy + half], dtype=np.float64)


def _peak(before: float, here: float, after: float) -> float:
    """Where between -0.5 and 0.5 the parabola through three values is highest."""
    bend = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < -1e-9 else 0.0
