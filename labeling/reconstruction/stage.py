"""How does a labeling job reconstruct a clip? The stage between the tracks and the label layer."""

from pathlib import Path

from labeling.reconstruction.scene import reconstruct, write_reconstruction
from labeling.reconstruction.settings import ReconstructionSettings
from labeling.stages import ClipWork, Stage, read_arrays
from labeling.track_stage import tracks_from_arrays
from labeling.tracks.tracking import boxes_of_tracks
from scenes.atomic import atomic_folder
from scenes.boxes import Boxes
from scenes.clips import Clip


def reconstruct_clip(clip: Clip, boxes_world: dict[int, Boxes], settings: ReconstructionSettings, path: Path) -> dict[str, float]:
    """Reconstructs a clip into the folder `path`, atomically: `cloud.ply`, `cloud.pcd`, `mesh.ply`, `road.npz`, `occupancy/`, `depth/`.

    `boxes_world` (by frame, may be empty) says what moves and fills the voxels. Returns counts for the report; a clip without parallax
    raises `DataError`.
    """
    found = reconstruct(clip, boxes_world, settings)
    with atomic_folder(path, replace=True) as folder:
        return write_reconstruction(folder, clip, found, boxes_world, settings)


def _reconstruction(work: ClipWork, path: Path) -> dict[str, float]:
    boxes_world: dict[int, Boxes] = {}
    if work.has("tracks"):
        tracks = tracks_from_arrays(read_arrays(work.artefact("tracks")))
        boxes_world = boxes_of_tracks(tracks, len(work.clip), work.settings.tracking)
    return reconstruct_clip(work.clip, boxes_world, work.settings.reconstruction, path)


RECONSTRUCTION = Stage(
    "reconstruction",
    "reconstruction",
    _reconstruction,
    after=("motion", "tracks"),
    settings=lambda work: work.settings.reconstruction.to_json(),
    wanted=lambda settings: settings.reconstruct,
)
