"""How do corrections become labels? They are laid over the layer that was reviewed; the result is the `human` layer, which outranks it."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from labeling.layer_stage import DENSE_FOLDERS, link_or_copy
from labeling.review.cuboids import Cuboid, read_cuboids
from labeling.review.edits import Edits, Seen, TrackEdits, edits_of
from labeling.review.package import REVIEW_SCHEMA_VERSION, clip_hash, layer_hash
from labeling.review.queue import tracks_of
from labeling.review.rectangles import Rectangle, read_rectangles
from scenes.atomic import atomic_folder, check_schema_version, read_json
from scenes.boxes import CLASS_NAMES, Box3D, Boxes
from scenes.clips import Clip, find_clips
from scenes.errors import DataError, SurroundError
from scenes.geometry import NS_PER_S, path_velocity
from scenes.layers import LabelLayer, write_layer_files

CREATED_BY = "labeling.review"
HUMAN = "human"
SAME_TRACK_M = 0.5
"""In another version of the layer a track is found again by its place: this near on the whole."""
COUNTS = ("moved", "removed", "confirmed", "ignored", "reclassed", "added")


@dataclass
class ClipImport:
    """What became of one clip's corrections."""

    clip: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    notes: list[str] = field(default_factory=list)
    failure: str = ""
    """Why nothing of it was taken; "" if it was."""


@dataclass
class FlatLayer:
    """A layer's boxes as one table that is being corrected."""

    frame: np.ndarray
    boxes: Boxes
    """In the world frame."""

    @classmethod
    def of(cls, layer: LabelLayer) -> "FlatLayer":
        """All boxes of a layer."""
        indices = sorted(layer.boxes_world)
        frame = np.repeat(np.array(indices, dtype=np.int64), [len(layer.boxes_world[i]) for i in indices])
        return cls(frame, Boxes.concatenate([layer.boxes_world[i] for i in indices]))

    def rows(self, track: int, frame: int | None = None) -> np.ndarray:
        """Rows of a track, in all frames or in one."""
        mine = self.boxes.track_id == track
        return np.flatnonzero(mine if frame is None else mine & (self.frame == frame))

    def drop(self, rows: np.ndarray) -> None:
        """Takes rows out."""
        keep = np.setdiff1d(np.arange(len(self.frame)), rows)
        self.frame, self.boxes = self.frame[keep], self.boxes.select(keep)

    def add(self, frame: int, boxes: Boxes) -> None:
        """Puts boxes behind the others."""
        self.frame, self.boxes = np.append(self.frame, [frame] * len(boxes)), Boxes.concatenate([self.boxes, boxes])

    def confirm(self, rows: np.ndarray) -> None:
        """A person vouches for these."""
        self.boxes.score[rows], self.boxes.within[rows], self.boxes.ignore[rows] = 1.0, 1.0, False
        self.boxes.provenance[rows] = HUMAN


def import_package(package: Path, folders: list[Path]) -> list[ClipImport]:
    """Brings a package's corrections into the clips below the folders; a clip that cannot take them says why, the others go on."""
    header = read_json(package / "review.json")
    check_schema_version(header, package / "review.json", REVIEW_SCHEMA_VERSION)
    clips: dict[str, list[Path]] = {}
    for path in find_clips(folders):
        clips.setdefault(clip_hash(path), []).append(path)
    results = []
    for packed in header["clips"]:
        result = ClipImport(str(packed["clip"]))
        try:
            found, where = clips.get(packed["clip_hash"], []), f"{package / packed['folder']}: expected its clip {packed['clip']!r}"
            if not found:
                raise DataError(
                    f"{where} below {', '.join(map(str, folders))}, got other clips only; give the folder that it was exported from"
                )
            named = [path for path in found if path.name == packed["clip"]]
            found = named if len(named) == 1 else found
            if len(found) > 1:
                raise DataError(f"{where} once, got the copies {' and '.join(map(str, found))}; give the folder of the one that is meant")
            _import_clip(package, header, packed, found[0], result)
        except SurroundError as error:
            result.failure = str(error)
        results.append(result)
    return results


def _import_clip(package: Path, header: dict, packed: dict, path: Path, result: ClipImport) -> None:
    clip, folder = Clip.open(path), package / packed["folder"]
    edits = _read_edits(folder)
    result.notes += [f"{packed['clip']}: {note}" for note in edits.notes]
    base, same_version = _base_layer(clip, header, packed["layer_hash"])
    exported = read_json(folder / "exported.json")["cuboids"]
    home = {int(values["track"]): int(values["track"]) for values in exported if values["track"].isdigit()}
    if not same_version:
        result.notes.append(
            f"{packed['clip']}: layer {base.name!r} is not the version that was exported; tracks are found again by their places"
        )
        home = _found_again(clip, base, exported)
    table = FlatLayer.of(base)
    earlier = base.meta.get("new_tracks", {}) if base.name == HUMAN else {}
    table.drop(np.flatnonzero(np.isin(table.boxes.track_id, earlier.get(header["package"], []))))
    for track, edit in edits.tracks.items():
        if track not in home or not len(table.rows(home[track])):
            if header["package"] in base.meta.get("packages", []) and (edit.removed or edit.track_verdict == "track_wrong"):
                continue  # gone as this package asked when it was imported before
            result.notes.append(
                f"{packed['clip']}: track {track} no longer exists in layer {base.name!r}; its {edit.count} correction(s) are left out"
            )
            continue
        _apply(clip, table, home[track], edit, result.counts)
    added = _add_new(clip, table, edits.new, home, result.counts)
    meta = {
        "created_by": CREATED_BY,
        "base": base.meta["base"] if base.name == HUMAN else {"layer": base.name, "hash": layer_hash(path, base.name)},
        "same_tracks": _versions_of_same_tracks(path, base),
        "packages": sorted({*base.meta.get("packages", []), header["package"]}) if base.name == HUMAN else [header["package"]],
        "new_tracks": {**earlier, header["package"]: added},
        "counts": result.counts,
    }
    _write_human(clip, base, table, meta)


def _read_edits(folder: Path) -> Edits:
    exported = read_json(folder / "exported.json")
    cuboids = [Cuboid(**{**values, "box_ego": tuple(values["box_ego"])}) for values in exported["cuboids"]]
    rectangles = [Rectangle(**{**values, "box_xyxy_px": tuple(values["box_xyxy_px"])}) for values in exported["rectangles"]]
    given = Seen(cuboids, set(exported["frames"]), rectangles, {(r.frame, r.camera) for r in rectangles})
    pictures = next((p for p in (folder / "pictures_annotations.zip", folder / "pictures_annotations.xml") if p.is_file()), None)
    clouds = folder / "cloud_annotations.zip"
    seen_clouds = read_cuboids(clouds) if clouds.is_file() else ([], set())
    seen_pictures = read_rectangles(pictures) if pictures else ([], set())
    return edits_of(given, Seen(*seen_clouds, *seen_pictures))


def _base_layer(clip: Clip, header: dict, exported_hash: str) -> tuple[LabelLayer, bool]:
    """The layer that corrections are laid over, and whether its track numbers are those that were exported.

    A package that alone made the human layer is laid over the layer below again: what it says now replaces what it said before.
    """
    name = header["layer"]
    if HUMAN not in clip.layer_names:
        return clip.layer(name), layer_hash(clip.path, name) == exported_hash
    human = clip.layer(HUMAN)
    if human.meta.get("created_by") != CREATED_BY:
        raise DataError(f"{human.path}: exists and was not written by `surround4d review`; rename that layer, then import again")
    below, alone = human.meta["base"], human.meta["packages"] == [header["package"]]
    if alone and below["layer"] in clip.layer_names and layer_hash(clip.path, below["layer"]) == below["hash"] == exported_hash:
        return clip.layer(below["layer"]), True
    return human, exported_hash in _versions_of_same_tracks(clip.path, human)


def _versions_of_same_tracks(clip_path: Path, layer: LabelLayer) -> list[str]:
    """Hashes of the layers whose track numbers mean the same as in `layer`: itself, and those that corrections were laid over."""
    earlier = layer.meta.get("same_tracks", [layer.meta["base"]["hash"]]) if layer.name == HUMAN else []
    return sorted({*earlier, layer_hash(clip_path, layer.name)})


def _found_again(clip: Clip, layer: LabelLayer, exported: list[dict]) -> dict[int, int]:
    """Track as exported to the track of another version of the layer that lies in the same places; those that have none are left out."""
    places: dict[int, dict[int, np.ndarray]] = {}
    for values in exported:
        if not values["track"].isdigit():
            continue
        center_ego = np.append(values["box_ego"][:3], 1.0)
        center_world = clip.frames[values["frame"]].world_from_ego @ center_ego
        places.setdefault(int(values["track"]), {})[values["frame"]] = center_world[:2]
    now = {track: dict(zip(f.tolist(), boxes.box[:, :2], strict=True)) for track, (f, boxes) in tracks_of(layer).items()}
    home: dict[int, int] = {}
    for track, by_frame in places.items():
        apart_m = {
            other: float(np.median([np.linalg.norm(by_frame[f] - there[f]) for f in common]))
            for other, there in now.items()
            if (common := sorted(set(by_frame) & set(there))) and 2 * len(common) >= len(by_frame)
        }
        nearest = min(apart_m, key=lambda other: apart_m[other], default=None)
        if nearest is not None and apart_m[nearest] <= SAME_TRACK_M:
            home[track] = nearest
    return home


def _apply(clip: Clip, table: FlatLayer, track: int, edit: TrackEdits, counts: dict[str, int]) -> None:
    """One track's corrections, in place."""
    if edit.class_name:
        table.boxes.class_id[table.rows(track)] = CLASS_NAMES.index(edit.class_name)
        counts["reclassed"] += 1
    for frame, (box_ego, differs) in edit.moved.items():
        rows = table.rows(track, frame)
        if len(rows):
            _move(clip, table, rows[0], frame, box_ego, differs)
            counts["moved"] += 1
    for frame, verdict in edit.verdicts.items():
        rows = table.rows(track, frame)
        if verdict == "right":
            table.confirm(rows)
            counts["confirmed"] += len(rows)
        elif verdict == "ignore":
            table.boxes.ignore[rows] = True
            counts["ignored"] += len(rows)
    if edit.track_verdict == "track_right":
        table.confirm(table.rows(track))
        counts["confirmed"] += len(table.rows(track))
    wrong = edit.removed | {frame for frame, verdict in edit.verdicts.items() if verdict == "wrong"}
    mine = table.rows(track)
    gone = mine if edit.track_verdict == "track_wrong" else mine[np.isin(table.frame[mine], list(wrong))]
    counts["removed"] += len(gone)
    _renew_velocities(clip, table, track, {frame for frame, (_, differs) in edit.moved.items() if differs[:2].any()})
    table.drop(gone)


def _move(clip: Clip, table: FlatLayer, row: int, frame: int, box_ego: np.ndarray, differs: np.ndarray) -> None:
    """Puts place, size and heading, each only where it was corrected, into a row; the person vouches for it."""
    corrected_ego = Boxes.make(np.append(box_ego, [0.0, 0.0]), [0])
    corrected_world = corrected_ego.transform(clip.frames[frame].world_from_ego).box[0]
    for columns in (slice(Box3D.X, Box3D.Z + 1), slice(Box3D.LENGTH, Box3D.HEIGHT + 1), slice(Box3D.YAW, Box3D.YAW + 1)):
        if differs[columns].any():
            table.boxes.box[row, columns] = corrected_world[columns]
    table.confirm(np.array([row]))


def _renew_velocities(clip: Clip, table: FlatLayer, track: int, moved: set[int]) -> None:
    """Velocities of the moved boxes and of their neighbours in time, as differences over the neighbours."""
    rows = table.rows(track)
    rows = rows[np.argsort(table.frame[rows])]
    if len(rows) < 2 or not moved:
        return
    seconds = np.array([clip.frames[f].timestamp_ns for f in table.frame[rows]]) / NS_PER_S
    velocity = path_velocity(table.boxes.box[rows, :2], seconds - seconds[0])
    touched = np.isin(table.frame[rows], list(moved))
    touched |= np.append(touched[1:], False) | np.append(False, touched[:-1])
    table.boxes.box[rows[touched], Box3D.VX : Box3D.VY + 1] = velocity[touched]


def _add_new(clip: Clip, table: FlatLayer, new: dict[str, list[Cuboid]], home: dict, counts: dict[str, int]) -> list[int]:
    """Adds what reviewers drew; returns the numbers of new tracks."""
    added = []
    for name, cuboids in new.items():
        known = home.get(int(name)) if name.isdigit() else None
        track = known if known is not None else 1 + max([-1, *table.boxes.track_id.tolist()])
        if known is None:
            added.append(track)
        for cuboid in cuboids:
            table.drop(table.rows(track, cuboid.frame))
            box_ego = Boxes.make([*cuboid.box_ego, 0.0, 0.0], [CLASS_NAMES.index(cuboid.class_name)], [track], provenance=[HUMAN])
            table.add(cuboid.frame, replace(box_ego.transform(clip.frames[cuboid.frame].world_from_ego), within=np.ones((1, 3))))
        _renew_velocities(clip, table, track, {cuboid.frame for cuboid in cuboids})
        counts["added"] += len(cuboids)
    return added


def _write_human(clip: Clip, base: LabelLayer, table: FlatLayer, meta: dict) -> None:
    boxes_world = {frame: table.boxes.select(table.frame == frame) for frame in base.boxes_world}
    with atomic_folder(clip.path / "layers" / HUMAN, replace=True) as folder:
        write_layer_files(folder, LabelLayer(HUMAN, boxes_world, base.lanes, meta))
        for kind in DENSE_FOLDERS:
            if base.path is not None and (base.path / kind).is_dir():
                shutil.copytree(base.path / kind, folder / kind, copy_function=link_or_copy)
