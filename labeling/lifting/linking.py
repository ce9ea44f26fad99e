"""Which rectangles of one camera are the same object? Expected places from the camera's turn and the motion so far, then assignment."""

from dataclasses import dataclass

import numpy as np

from labeling.lifting.image_boxes import ImageBoxes
from labeling.lifting.settings import LinkingSettings
from labeling.tracks.association import REFUSED, assign
from scenes.clips import Clip
from scenes.detector2d import iou_matrix
from scenes.geometry import NS_PER_S

PACE_MEMORY = 0.5
"""Share of the newest step in the remembered motion."""
GROWTH_COST = 0.5
"""What a change of size by a factor e costs, in overlap."""
WIDENED = 0.15
"""Both rectangles are widened by this share of their size on every side before they are compared: small ones jump by their own size."""


@dataclass
class Running:
    """One 2D track while it grows."""

    rows: list[int]
    box: np.ndarray
    """(4,) where it is now, pixels; moved with the camera's turn while unseen."""
    pace: np.ndarray
    """(4,) pixels a second of its edges, the camera's turn taken out."""
    seen_s: float
    strong: bool


def link_boxes(clip: Clip, boxes: ImageBoxes, settings: LinkingSettings) -> list[np.ndarray]:
    """Tracks of each camera as ascending arrays of row numbers of `boxes`; short and weak ones are left out."""
    chains: list[np.ndarray] = []
    fewest = min(settings.fewest, max(1, len(clip) // 2))
    for number, name in enumerate(clip.rig.names):
        rows = np.flatnonzero(boxes.camera == number)
        if len(rows):
            found = _link_camera(clip, name, boxes, rows, settings)
            chains += [np.array(track.rows) for track in found if track.strong and len(track.rows) >= fewest]
    return chains


def _link_camera(clip: Clip, name: str, boxes: ImageBoxes, rows: np.ndarray, settings: LinkingSettings) -> list[Running]:
    begun_ns = clip.frames[0].timestamp_ns
    running: list[Running] = []
    done: list[Running] = []
    before: tuple[float, np.ndarray] | None = None
    for frame in clip.frames:
        view = frame.views[name]
        if not view.alive:
            continue
        now_s = (view.timestamp_ns - begun_ns) / NS_PER_S
        world_from_cam = (view.world_from_ego_at_cam @ clip.rig[name].ego_from_cam)[:3, :3]
        if before is not None:
            _move(clip, name, running, now_s - before[0], world_from_cam.T @ before[1])
        gone = [now_s - track.seen_s > settings.coast_s for track in running]
        done += [track for track, over in zip(running, gone, strict=True) if over]
        running = [track for track, over in zip(running, gone, strict=True) if not over]
        running += _observe(running, boxes, rows[boxes.frame[rows] == frame.index], now_s, settings)
        before = (now_s, world_from_cam)
    return done + running


def _move(clip: Clip, name: str, running: list[Running], step_s: float, now_from_before: np.ndarray) -> None:
    """Carries the tracks over to the next picture: turned with the camera, moved on at their pace."""
    if not running:
        return
    camera, box = clip.rig[name], np.stack([track.box for track in running])
    middle = (box[:, :2] + box[:, 2:]) / 2
    ray = camera.unproject(middle) @ now_from_before.T
    if camera.lens.value == "pinhole":
        ray[:, 2] = np.maximum(ray[:, 2], 0.05)
    shift = camera.project(ray)[0] - middle
    shift[np.abs(shift).max(axis=1) > camera.width_px / 2] = 0.0
    for track, moved in zip(running, box + np.tile(shift, 2), strict=True):
        track.box = moved + track.pace * step_s


def _observe(running: list[Running], boxes: ImageBoxes, rows: np.ndarray, now_s: float, settings: LinkingSettings) -> list[Running]:
    """Gives each running track its rectangle, strong ones first; returns the tracks that begin."""
    free = np.ones(len(running), dtype=bool)
    born: list[Running] = []
    for band in (rows[boxes.score[rows] >= settings.high_score], rows[boxes.score[rows] < settings.high_score]):
        tracks = np.flatnonzero(free)
        taken = np.zeros(len(band), dtype=bool)
        if len(tracks) and len(band):
            k, d = assign(_costs([running[t] for t in tracks], boxes, band, settings))
            for a, b in zip(tracks[k].tolist(), band[d].tolist(), strict=True):
                _extend(running[a], boxes, b, now_s, settings)
            free[tracks[k]], taken[d] = False, True
        for row in band[~taken].tolist():
            strong = bool(boxes.score[row] >= settings.high_score)
            born.append(Running([row], boxes.box_xyxy_px[row].copy(), np.zeros(4), now_s, strong))
    return born


def _costs(tracks: list[Running], boxes: ImageBoxes, band: np.ndarray, settings: LinkingSettings) -> np.ndarray:
    expected, found = np.stack([track.box for track in tracks]), boxes.box_xyxy_px[band]
    overlap = iou_matrix(_widened(expected), _widened(found))
    kind = boxes.kind
    other = kind[[track.rows[-1] for track in tracks]][:, None] != kind[band][None]
    size_of = [np.log(np.maximum(box[:, 2:] - box[:, :2], 1.0)) for box in (expected, found)]
    grown = np.abs(size_of[0][:, None] - size_of[1][None]).max(axis=-1)
    refused = (overlap < settings.least_iou) | other | (grown > np.log(settings.most_growth))
    return np.where(refused, REFUSED, 1 - overlap + GROWTH_COST * grown)


def _widened(box: np.ndarray) -> np.ndarray:
    margin = np.tile(box[:, 2:] - box[:, :2], 2) * WIDENED
    return box + margin * np.array([-1, -1, 1, 1])


def _extend(track: Running, boxes: ImageBoxes, row: int, now_s: float, settings: LinkingSettings) -> None:
    elapsed_s = max(now_s - track.seen_s, 1e-3)
    step = (boxes.box_xyxy_px[row] - track.box) / elapsed_s
    track.pace = track.pace + PACE_MEMORY * step
    track.box = boxes.box_xyxy_px[row].copy()
    track.rows.append(row)
    track.seen_s = now_s
    track.strong |= bool(boxes.score[row] >= settings.high_score)
