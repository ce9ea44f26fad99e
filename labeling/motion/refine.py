"""How is a clip's rough motion refined? Follow, match between cameras, solve, and again with the better motion."""

from dataclasses import dataclass, replace

import numpy as np

from labeling.motion.adjustment import Adjusted, RoadContacts, Sigmas, adjust, road_contacts
from labeling.motion.consistency import agreeing, doubts, measure_crossings, vote_on_clocks
from labeling.motion.crossing import match_crossings
from labeling.motion.features import follow_corners, road_distance
from labeling.motion.pictures import GreyPictures, Rectangles, read_pictures
from labeling.motion.settings import FeatureSettings, MotionSettings
from labeling.motion.sightings import Sightings, reprojection_px, triangulate
from labeling.motion.state import MotionState, frame_stamps, refined_cameras_at
from scenes.clips import Clip
from scenes.geometry import NS_PER_S

FIRST_LIMIT_PX, LAST_LIMIT_PX = 8.0, 2.5
"""Sightings further than this from what the poses say are no fixed points: before and after the first solution."""
SIGHTINGS_PER_TRACK = 10
"""Of the flow, spread over the track's time; those of other cameras come on top."""
NEAREST_M = 0.7
"""What seems nearer to a camera has rays from one place, which meet in the camera itself."""
UNMOVED_M, UNMOVED_SPREAD = 100.0, 1.5
"""What stays in its place in the picture seems so far away at least; a weak corner that does may be the picture's own pattern."""
CROSSING_LIMIT_PX = 5.0
"""A crossing further than this from where the voted clocks expect it shows something that moves, in the first round."""
LATER_SEARCH = 0.5
"""The share of the first search radius that is searched once the motion has been refined."""
STANDING_M = 1.0
"""A vehicle that gets no further than this from where it began learns neither scale nor clocks: what would be found is noise."""
LOSS_SIGMAS = 2.0
"""As in the solver: errors beyond so many standard deviations lose weight."""
FIRST_STEPS, LAST_STEPS = 5, 14
"""Steps of the solver: a rough solution is enough to find more matches."""


@dataclass(frozen=True)
class Found:
    """What a solution rests on and says."""

    state: MotionState
    sightings: Sightings
    points_world: np.ndarray
    before_px: float
    """Median reprojection error of everything that was followed and may stand still, with the stored motion ..."""
    after_px: float
    """... and with the refined one."""
    before_loss: float
    """Mean robust squared error of the sightings that the solution rests on, in their standard deviations, with the stored motion ..."""
    after_loss: float
    """... and with the refined one."""
    sigmas: Sigmas
    num_tracks: int
    num_crossings: int
    """Sightings of a point by another camera than the one that followed it."""
    num_road: int

    @property
    def gain(self) -> float:
        """Share of the stored motion's loss that the refined one explains away."""
        return 1 - self.after_loss / max(self.before_loss, 1e-12)


def refine(clip: Clip, settings: MotionSettings, pictures: GreyPictures | None = None, movers_px: Rectangles | None = None) -> Found | None:
    """The motion that explains the clip's pictures; None if too few fixed points were found to say anything."""
    if not can_be_followed(clip, settings.features):
        return None
    pictures = pictures or read_pictures(clip, settings.features.max_width_px, movers_px)
    if stands(clip):
        settings = replace(settings, priors=settings.priors.of_a_standing_vehicle())
    stored = state = MotionState.stored(clip)
    flows = follow_corners(clip, pictures, refined_cameras_at(clip, state), settings.features)
    found: Found | None = None
    for turn in range(settings.rounds):
        problem, state = _collect(clip, pictures, flows, state, settings, turn)
        if problem.num_tracks < settings.decision.min_tracks:
            return None
        found = _solve(clip, problem, state, settings, turn == settings.rounds - 1)
        state = found.state
    assert found is not None
    before_px, after_px = (median_error_px(clip, flows, one, settings.features) for one in (stored, state))
    before, after = (mean_loss(clip, found.sightings, one, settings.priors.pixel_px) for one in (stored, state))
    return replace(found, before_px=before_px, after_px=after_px, before_loss=before, after_loss=after)


def mean_loss(clip: Clip, sightings: Sightings, state: MotionState, pixel_px: float) -> float:
    """Cauchy's loss of sightings, points put where the state says: what a motion does not explain."""
    world_from_cam = refined_cameras_at(clip, state)[sightings.frame, sightings.camera]
    points, _ = triangulate_or_far(world_from_cam, sightings)
    error = reprojection_px(world_from_cam, sightings, points) / (pixel_px * sightings.spread)
    return float((LOSS_SIGMAS**2 * np.log1p((np.minimum(error, 1e3) / LOSS_SIGMAS) ** 2)).mean())


def can_be_followed(clip: Clip, settings: FeatureSettings) -> bool:
    """Whether there are enough frames, near enough to each other."""
    return len(clip) >= 3 and frame_step_s(clip) <= settings.longest_step_s


def stands(clip: Clip) -> bool:
    """Whether the vehicle stays within `STANDING_M` of where it began."""
    place_world = np.stack([frame.world_from_ego[:3, 3] for frame in clip.frames])
    return bool(np.linalg.norm(place_world - place_world[0], axis=1).max() < STANDING_M)


def frame_step_s(clip: Clip) -> float:
    """The usual time between two frames (median)."""
    return float(np.median(np.diff(frame_stamps(clip)))) / NS_PER_S


def median_error_px(clip: Clip, flows: Sightings, state: MotionState, settings: FeatureSettings) -> float:
    """Over all that flow followed, but what moves or was mistaken beyond doubt."""
    cameras_at = refined_cameras_at(clip, state)
    kept, points, _ = fixed_points(clip, flows, state, cameras_at, settings, FIRST_LIMIT_PX)
    return float(np.median(reprojection_px(cameras_at[kept.frame, kept.camera], kept, points))) if len(kept) else float("inf")


def _collect(
    clip: Clip, pictures: GreyPictures, flows: Sightings, state: MotionState, settings: MotionSettings, turn: int
) -> tuple[Sightings, MotionState]:  # fmt: skip
    """The sightings of one round: what flow followed and stands still, and where other cameras see it; clocks as the crossings vote."""
    cameras_at = refined_cameras_at(clip, state)
    kept, points, parallax = fixed_points(clip, flows, state, cameras_at, settings.features, FIRST_LIMIT_PX if turn == 0 else LAST_LIMIT_PX)
    thin = thinned(kept, parallax, settings.max_tracks, clip)
    if not settings.use_crossings or not len(thin):
        return thin.renumbered(), state
    source = kept.camera[np.unique(kept.track, return_index=True)[1]]
    usable = thin.select((parallax > 1e-5)[thin.track])
    track_of = np.unique(usable.track)
    radius = settings.crossing.search_px * (1 if turn == 0 else LATER_SEARCH)
    matched = match_crossings(clip, pictures, usable.renumbered(), points[track_of], cameras_at, settings.crossing, radius)
    matched = replace(matched, track=track_of[matched.track])
    crossings = measure_crossings(clip, state, matched, points, source, doubts(kept, points, parallax, cameras_at))
    clocks = vote_on_clocks(crossings, len(clip.rig))
    good = agreeing(crossings, clocks, CROSSING_LIMIT_PX if turn == 0 else LAST_LIMIT_PX)
    balance = np.bincount(matched.track, np.where(good, 1, -1), minlength=len(points))
    fixed = thin.select((balance >= 0)[thin.track])
    both = Sightings.join([fixed, matched.select(good & (balance >= 0)[matched.track])])
    return both.renumbered(), replace(state, clock_s=state.clock_s + clocks)


def fixed_points(
    clip: Clip, sightings: Sightings, state: MotionState, cameras_at: np.ndarray, settings: FeatureSettings, limit_px: float
) -> tuple[Sightings, np.ndarray, np.ndarray]:  # fmt: skip
    """Sightings of what stands still, its points (P, 3) and parallax (P,): movers, mismatches and the vehicle's own body drop out."""
    for _ in range(2):
        world_from_cam = cameras_at[sightings.frame, sightings.camera]
        points, _ = triangulate_or_far(world_from_cam, sightings)
        error = reprojection_px(world_from_cam, sightings, points)
        above = _above_road(clip, sightings, state, world_from_cam, points, settings)
        sightings = sightings.select((error < limit_px) & above)
        counts = np.bincount(sightings.track, minlength=1)
        sightings = sightings.select(counts[sightings.track] >= 3).renumbered()
        if not len(sightings):
            break
    world_from_cam = cameras_at[sightings.frame, sightings.camera]
    points, parallax = triangulate_or_far(world_from_cam, sightings)
    first = np.unique(sightings.track, return_index=True)[1]
    distance = np.linalg.norm(points - world_from_cam[first, :3, 3], axis=1)
    kept = (distance < UNMOVED_M) | (sightings.spread[first] < UNMOVED_SPREAD)
    return sightings.select(kept[sightings.track]).renumbered(), points[kept], parallax[kept]


def triangulate_or_far(world_from_cam: np.ndarray, sightings: Sightings, far_m: float = 200.0) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 3) and parallax (P,); a point without parallax, or behind, is put far away along its first ray."""
    points, parallax = triangulate(world_from_cam, sightings, sightings.num_tracks)
    first = np.unique(sightings.track, return_index=True)[1]
    ray = np.einsum("pij,pj->pi", world_from_cam[first, :3, :3], sightings.ray_cam[first])
    centre = world_from_cam[first, :3, 3]
    along = np.einsum("pi,pi->p", points - centre, ray)
    lost = ~(np.isfinite(along) & (along > NEAREST_M) & (along < far_m))
    lost &= (parallax < 1e-4) | (np.abs(along) <= NEAREST_M)
    return np.where(lost[:, None], centre + far_m * ray, points), parallax


def _above_road(clip: Clip, sightings: Sightings, state: MotionState, world_from_cam: np.ndarray, points: np.ndarray,
                settings: FeatureSettings) -> np.ndarray:  # fmt: skip
    """(S,) whether each sighting's point is not below the road: what is (cars driving ahead, the own bonnet) does not stand still."""
    ray = np.einsum("sij,sj->si", world_from_cam[:, :3, :3], sightings.ray_cam)
    centre = world_from_cam[:, :3, 3]
    ego = state.world_from_ego[sightings.frame]
    sinking = -np.einsum("si,si->s", ray, ego[:, :3, 2])
    limit = 1.35 * road_distance(centre, ray, ego) + 1.0
    distance = np.linalg.norm(points[sightings.track] - centre, axis=1)
    return (distance < limit) | (sinking < settings.horizon_clearance_rad)


def thinned(sightings: Sightings, parallax: np.ndarray, most_tracks: int, clip: Clip) -> Sightings:
    """The most telling tracks of each camera, and of each track some sightings spread over its time; track numbers stay."""
    length = np.bincount(sightings.track, minlength=len(parallax))
    first = np.unique(sightings.track, return_index=True)[1]
    worth = np.minimum(length, 30) * (0.3 + np.minimum(np.sqrt(np.maximum(parallax, 0)) / 0.05, 1.0)) / sightings.spread[first]
    quota = max(1, most_tracks // len(clip.rig))
    chosen = np.zeros(len(parallax), dtype=bool)
    for camera in range(len(clip.rig)):
        tracks = np.flatnonzero(sightings.camera[first] == camera)
        chosen[tracks[np.argsort(-worth[tracks], kind="stable")[:quota]]] = True
    position = np.arange(len(sightings)) - first[sightings.track]
    parts = np.minimum(length, SIGHTINGS_PER_TRACK)[sightings.track]
    # Row i of n is one of m spread rows if the share i / (n - 1) steps over a multiple of 1 / (m - 1) there.
    steps = np.maximum(length[sightings.track] - 1, 1)
    spread = np.floor(position * (parts - 1) / steps) != np.floor((position - 1) * (parts - 1) / steps)
    return sightings.select(chosen[sightings.track] & spread)


def _solve(clip: Clip, sightings: Sightings, state: MotionState, settings: MotionSettings, last: bool) -> Found:
    """Solve, drop what does not fit, solve again."""
    found, road = None, RoadContacts(np.zeros(0, np.int64), np.zeros(0, np.int64))
    for step in range(2):
        world_from_cam = refined_cameras_at(clip, state)[sightings.frame, sightings.camera]
        points, parallax = triangulate_or_far(world_from_cam, sightings)
        error = reprojection_px(world_from_cam, sightings, points)
        limit = FIRST_LIMIT_PX * 2 if found is None and step == 0 else LAST_LIMIT_PX
        good = error < limit
        count = np.bincount(sightings.track[good], minlength=len(points))
        keep = good & (count[sightings.track] >= 3)
        tracks = np.unique(sightings.track[keep])
        sightings, points, parallax = sightings.select(keep).renumbered(), points[tracks], parallax[tracks]
        if settings.use_road:
            road = road_contacts(clip, state, sightings, points, parallax)
        steps = LAST_STEPS if last and step == 1 else FIRST_STEPS
        found = adjust(clip, state, sightings, points, road, settings.priors, steps, last and step == 1)
        state = found.state
    assert isinstance(found, Adjusted)
    first = np.unique(sightings.track, return_index=True)[1]
    crossings = int((sightings.camera != sightings.camera[first][sightings.track]).sum())
    nan, num_road = float("nan"), len(road.track)  # errors are filled in by `refine`
    return Found(found.state, sightings, found.points_world, nan, nan, nan, nan, found.sigmas, sightings.num_tracks, crossings, num_road)
