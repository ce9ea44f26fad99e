"""What do the tables of a nuScenes version folder say, and do they fit together?"""

from functools import cached_property
from pathlib import Path

import numpy as np

from scenes.errors import DataError
from scenes.geometry import rigid_from_pose
from scenes.readers.json_lists import read_json_list
from scenes.readers.nuscenes_schema import TABLE_NAMES

OPTIONAL_TABLES = frozenset({"attribute", "map", "log", "visibility"})
"""Tables that the reader can do without."""


def find_version(source: Path, version: str = "") -> Path:
    """The folder that holds the JSON tables: `source/version`, or the only one at or below `source`."""
    if version:
        if not (source / version / "scene.json").is_file():
            raise DataError(f"{source / version}: expected nuScenes tables (scene.json, ...) there, got none; check --version")
        return source / version
    found = [p.parent for p in [source / "scene.json", *sorted(source.glob("*/scene.json"))] if p.is_file()]
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise DataError(f"{source}: expected one folder of nuScenes tables (scene.json, ...), got {names}; name it with --version")
    return found[0]


class NuscenesTables:
    """The JSON tables of one version folder, read when first asked for and indexed by token."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        missing = [n for n in TABLE_NAMES if n not in OPTIONAL_TABLES and not (self.folder / f"{n}.json").is_file()]
        if missing:
            raise DataError(f"{self.folder}: missing table(s) {', '.join(f'{n}.json' for n in missing)}; download the metadata again")
        self._rows: dict[str, list[dict]] = {}
        self._by_token: dict[str, dict[str, dict]] = {}

    @property
    def root(self) -> Path:
        """The folder that pictures are named relative to."""
        return self.folder.parent

    def path(self, table: str) -> Path:
        """The table's file."""
        return self.folder / f"{table}.json"

    def rows(self, table: str) -> list[dict]:
        """All rows of a table; an absent optional table has none."""
        if table not in self._rows:
            absent = table in OPTIONAL_TABLES and not self.path(table).is_file()
            self._rows[table] = [] if absent else read_json_list(self.path(table))
            for number, row in enumerate(self._rows[table]):
                if not isinstance(row, dict) or "token" not in row:
                    raise DataError(f"{self.path(table)}, row {number}: expected an object with a token, got {row!r}; restore the table")
        return self._rows[table]

    def get(self, table: str, token: str, named_by: str) -> dict:
        """The row of a token; a token that leads nowhere is refused, saying which row `named_by` names it."""
        if table not in self._by_token:
            self._by_token[table] = {row["token"]: row for row in self.rows(table)}
        row = self._by_token[table].get(token)
        if row is None:
            raise DataError(f"{self.path(table)}: expected a row with token {token!r}, named by {named_by}, got none; restore the tables")
        return row

    def field(self, table: str, row: dict, name: str):
        """A field of a row; a missing one is refused with the row's token."""
        if name not in row:
            raise DataError(f"{self.path(table)}, token {row['token']}: expected field {name!r}, got {', '.join(row)}; restore the table")
        return row[name]

    def rigid(self, table: str, row: dict) -> np.ndarray:
        """(4, 4): the transform of a row's `translation` (x, y, z) and `rotation` (w, x, y, z)."""
        where = f"{self.path(table)}, token {row['token']}"
        try:
            values = [*self.field(table, row, "translation"), *self.field(table, row, "rotation")]
            numbers = np.array(values, dtype=np.float64).reshape(7)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: expected translation x, y, z and rotation w, x, y, z, got {row}; restore the row") from error
        if not np.isfinite(numbers).all() or not abs(np.linalg.norm(numbers[3:]) - 1) < 1e-3:
            raise DataError(f"{where}: expected finite numbers and a unit quaternion, got {numbers.tolist()}; correct or drop the row")
        return rigid_from_pose(numbers)

    def scene_names(self) -> list[str]:
        """Names of all scenes, in the table's order; doubles are refused."""
        names = [str(self.field("scene", row, "name")) for row in self.rows("scene")]
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise DataError(f"{self.path('scene')}: expected distinct scene names, got {', '.join(doubles)} twice; rename one")
        return names

    def scene(self, name: str) -> dict:
        """The row of a scene by name."""
        return next(row for row in self.rows("scene") if row["name"] == name)

    def samples(self, scene: dict) -> list[dict]:
        """A scene's keyframes in order of time, following `next`."""
        chain, token, named_by = [], self.field("scene", scene, "first_sample_token"), f"scene {scene['name']!r}"
        while token:
            if len(chain) > len(self.rows("sample")):
                raise DataError(f"{self.path('sample')}: the samples of scene {scene['name']!r} run in a circle; restore the table")
            chain.append(self.get("sample", token, named_by))
            token, named_by = self.field("sample", chain[-1], "next"), f"sample {token}"
        return chain

    @cached_property
    def data_of_sample(self) -> dict[str, list[dict]]:
        """Sensor readings (keyframes and sweeps) by the sample they belong to."""
        return self._grouped("sample_data")

    @cached_property
    def annotations_of_sample(self) -> dict[str, list[dict]]:
        """Annotations by sample."""
        return self._grouped("sample_annotation")

    def _grouped(self, table: str) -> dict[str, list[dict]]:
        groups: dict[str, list[dict]] = {}
        for row in self.rows(table):
            groups.setdefault(self.field(table, row, "sample_token"), []).append(row)
        return groups

    def sensor_of(self, data: dict) -> dict:
        """The sensor row (channel, modality) behind a reading."""
        named_by = f"sample_data {data['token']}"
        calibrated = self.get("calibrated_sensor", self.field("sample_data", data, "calibrated_sensor_token"), named_by)
        return self.get("sensor", self.field("calibrated_sensor", calibrated, "sensor_token"), f"calibrated_sensor {calibrated['token']}")

    def ego_pose_of(self, data: dict) -> np.ndarray:
        """(4, 4) world_from_ego at the instant of a reading."""
        row = self.get("ego_pose", self.field("sample_data", data, "ego_pose_token"), f"sample_data {data['token']}")
        return self.rigid("ego_pose", row)
