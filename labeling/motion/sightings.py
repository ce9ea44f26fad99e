"""Which fixed points of the world were seen where, and how well do poses explain it?"""

from dataclasses import dataclass, replace

import numpy as np

from scenes.cameras import Camera
from scenes.geometry import invert_rigid, transform_points
from scenes.rigs import Rig


@dataclass(frozen=True)
class Sightings:
    """S observations of tracked points, as columns."""

    track: np.ndarray
    """(S,) int64: which point."""
    frame: np.ndarray
    """(S,) int64."""
    camera: np.ndarray
    """(S,) int64, index into the rig."""
    pixel_px: np.ndarray
    """(S, 2) float64 in the camera's own picture."""
    ray_cam: np.ndarray
    """(S, 3) unit rays through the true lens."""
    px_per_rad: np.ndarray
    """(S,) how many pixels a small angle is at that place of the picture."""
    spread: np.ndarray
    """(S,) how many times less exactly than a sharp corner it was found, from 1 on."""

    def __len__(self) -> int:
        return len(self.track)

    def select(self, index) -> "Sightings":
        """The rows of a mask or an index array."""
        return Sightings(*(value[index] for value in vars(self).values()))

    def renumbered(self) -> "Sightings":
        """The same rows sorted by track, tracks numbered from 0 without gaps."""
        order = np.lexsort((self.camera, self.frame, self.track))
        rows = self.select(order)
        return replace(rows, track=np.unique(rows.track, return_inverse=True)[1].astype(np.int64))

    @property
    def num_tracks(self) -> int:
        """Tracks of renumbered rows."""
        return int(self.track.max()) + 1 if len(self) else 0

    @staticmethod
    def of_pixels(
        rig: Rig, track: np.ndarray, frame: np.ndarray, camera: np.ndarray, pixel_px: np.ndarray, spread: np.ndarray | None = None
    ) -> "Sightings":  # fmt: skip
        """Sightings from pixels: rays and angular resolution follow from the lenses; sharp ones if nothing else is said."""
        ray, px_per_rad = np.zeros((len(track), 3)), np.ones(len(track))
        for index, lens in enumerate(rig.cameras):
            rows = camera == index
            if rows.any():
                ray[rows], px_per_rad[rows] = rays_and_resolution(lens, pixel_px[rows])
        track, frame, camera = (np.asarray(number, np.int64) for number in (track, frame, camera))
        return Sightings(track, frame, camera, pixel_px, ray, px_per_rad, np.ones(len(track)) if spread is None else spread)

    @staticmethod
    def join(parts: "list[Sightings]") -> "Sightings":
        """All rows of several, in order; track numbers as they are."""
        return Sightings(*(np.concatenate(column) for column in zip(*(vars(part).values() for part in parts), strict=True)))


def rays_and_resolution(camera: Camera, pixel_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit rays (S, 3) of pixels (S, 2) and pixels per radian (S,): the geometric mean over the two directions."""
    ray = camera.unproject(pixel_px)
    steps = [np.linalg.norm(camera.unproject(pixel_px + step) - ray, axis=-1) for step in (np.array([1.0, 0]), np.array([0, 1.0]))]
    return ray, 1 / np.sqrt(np.maximum(steps[0] * steps[1], 1e-12))


def triangulate(world_from_cam: np.ndarray, sightings: Sightings, num_tracks: int) -> tuple[np.ndarray, np.ndarray]:
    """The points (P, 3) nearest to all rays of each track, and how well each is founded (P,).

    Args:
        world_from_cam: (S, 4, 4) camera pose of every sighting.
        sightings: Renumbered rows.
        num_tracks: P.

    Returns:
        Points in the world frame; NaN where the rays are parallel. The second array is the parallax: the smallest eigenvalue of the
        mean projector across the rays, about the variance of the rays' directions (square radians).
    """
    ray_world = np.einsum("sij,sj->si", world_from_cam[:, :3, :3], sightings.ray_cam)
    across = np.eye(3) - ray_world[:, :, None] * ray_world[:, None, :]
    centre = world_from_cam[:, :3, 3]
    weight, points, parallax = np.ones(len(sightings)), np.zeros((num_tracks, 3)), None
    for _ in range(2):  # the second time by angles: metres off a ray count by distance, or far points come out too near
        matrix = _sums(sightings.track, across * weight[:, None, None], num_tracks)
        right = _sums(sightings.track, weight[:, None] * np.einsum("sij,sj->si", across, centre), num_tracks)
        total = np.maximum(_sums(sightings.track, weight, num_tracks), 1e-12)
        parallax = np.linalg.eigvalsh(matrix / total[:, None, None])[:, 0] if parallax is None else parallax
        points = np.full((num_tracks, 3), np.nan)
        good = parallax > 1e-9
        points[good] = np.linalg.solve(matrix[good], right[good][..., None])[..., 0]
        distance = np.nan_to_num(np.linalg.norm(points[sightings.track] - centre, axis=1), nan=1.0)
        weight = 1 / np.maximum(distance, 2.0) ** 2
    assert parallax is not None
    return points, parallax


def _sums(track: np.ndarray, values: np.ndarray, num_tracks: int) -> np.ndarray:
    """(num_tracks, ...) sums of the values of each track; the tracks are sorted."""
    total = np.zeros((num_tracks, *values.shape[1:]))
    if len(track):
        present, begin = np.unique(track, return_index=True)
        total[present] = np.add.reduceat(values, begin)
    return total


def reprojection_px(world_from_cam: np.ndarray, sightings: Sightings, points_world: np.ndarray) -> np.ndarray:
    """(S,) angle between ray and point, in pixels; infinite for points behind or unknown."""
    points_cam = transform_points(invert_rigid(world_from_cam), points_world[sightings.track])
    along = np.einsum("si,si->s", points_cam, sightings.ray_cam)
    across = np.linalg.norm(points_cam - along[:, None] * sightings.ray_cam, axis=1)
    error = np.arctan2(across, along) * sightings.px_per_rad
    return np.where(np.isfinite(error) & (along > 0), error, np.inf)
