"""How does a labeling job reconstruct a clip? The stage between the tracks and the label layer."""

from pathlib import Path

from labeling.layer_stage import label_boxes
from labeling.reconstruction.scene import NoDepthError, reconstruct, write_reconstruction
from labeling.reconstruction.settings import ReconstructionSettings
from labeling.stages import ClipWork, Stage, read_arrays
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
    within = read_arrays(work.artefact("confidence"))["within"]
    boxes_world = label_boxes(work.clip, read_arrays(work.artefact("tracks")), within, work.settings.tracking)
    try:
        return reconstruct_clip(work.clip, boxes_world, work.settings.reconstruction, path)
    except NoDepthError as error:  # the boxes are labels all the same
        work.notes.append(str(error))
        with atomic_folder(path, replace=True):
            return {"views": 0}


RECONSTRUCTION = Stage(
    "reconstruction",
    "reconstruction",
    _reconstruction,
    after=("motion", "tracks", "confidence"),
    settings=lambda work: [work.settings.reconstruction.to_json(), work.settings.tracking.to_json()],
    wanted=lambda settings: settings.reconstruct,
)
