"""`surround4d reconstruct`: which clips get points, a mesh, voxels and a road, and under which layer's name?"""

import os
import shutil
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from labeling.reconstruction.settings import ReconstructionSettings
from labeling.reconstruction.stage import reconstruct_clip
from labeling.telling import tell
from scenes.atomic import atomic_folder, read_json
from scenes.clips import Clip, find_clips
from scenes.errors import ConfigError, DataError, SurroundError
from scenes.layers import LabelLayer, write_layer_files

CREATED_BY = "labeling.reconstruction"


def reconstruct(
    clips: Annotated[tuple[Path, ...], tyro.conf.Positional], layer: str = "auto@reconstruction", boxes: str | None = None
) -> int:
    """Reconstruct clips from their pictures and write occupancy and depth as a label layer; exit status 2 if any clip failed.

    Points (cloud.ply, cloud.pcd), mesh (mesh.ply) and road heights (road.npz) are left in CLIP/labeling/LAYER/reconstruction.

    Args:
        clips: Folders of clips, searched in depth.
        layer: Name of the layer to write, auto@NAME.
        boxes: Layer whose boxes say what moves; they are copied into the new layer. Without it nothing is taken to move.
    """
    if not layer.startswith("auto@") or "/" in layer or layer == boxes:
        raise ConfigError(f"reconstruct: expected a new layer name like auto@scene, got {layer!r}; rename it")
    if not clips:
        raise ConfigError("reconstruct: expected folders of clips, got none; give at least one")
    console, failures = Console(), 0
    for path in find_clips(list(clips)):
        try:
            counts = reconstruct_layer(Clip.open(path), layer, boxes, ReconstructionSettings())
            told = ", ".join(f"{name} {value:g}" for name, value in counts.items())
            console.print(f"{path.name}: {told}", highlight=False, markup=False, soft_wrap=True)
        except SurroundError as error:
            failures += 1
            tell(console, "failed", str(error))
    return 2 if failures else 0


def reconstruct_layer(clip: Clip, name: str, boxes: str | None, settings: ReconstructionSettings) -> dict[str, float]:
    """Reconstructs a clip and writes the result as a layer; one that another program wrote is refused with `DataError`."""
    target = clip.path / "layers" / name
    if (target / "layer.json").is_file() and read_json(target / "layer.json").get("meta", {}).get("created_by") != CREATED_BY:
        raise DataError(f"{target}: exists and was not written by `surround4d reconstruct`; choose another --layer or remove it")
    source = clip.layer(boxes) if boxes else LabelLayer(name)
    artefacts = clip.path / "labeling" / name / "reconstruction"
    counts = reconstruct_clip(clip, source.boxes_world, settings, artefacts)
    meta = {"created_by": CREATED_BY, "boxes": boxes, "config": settings.to_json()}
    with atomic_folder(target, replace=True) as folder:
        write_layer_files(folder, LabelLayer(name, source.boxes_world, source.lanes, meta))
        for kind in ("occupancy", "depth"):
            if (artefacts / kind).is_dir():
                shutil.copytree(artefacts / kind, folder / kind, copy_function=_link_or_copy)
    return counts


def _link_or_copy(src: str, dst: str) -> None:
    try:
        os.link(src, dst)
    except OSError:
        shutil.copyfile(src, dst)
