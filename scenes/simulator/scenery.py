"""What stands beside the road? Buildings, trees, poles, fences and clutter that never move and carry no label."""

from dataclasses import dataclass, field

import numpy as np

from scenes.simulator.ground import CELL_M, ROAD_MATERIALS, Ground, GroundRaster
from scenes.simulator.meshes import Mesh, Texture, ball, box, cylinder, merge, mesh_of
from scenes.simulator.paths import Path2D
from scenes.simulator.roads import RoadMap


@dataclass(frozen=True)
class Solid:
    """An upright prism that fills space: occupancy and shadows are made of these."""

    outline_world: np.ndarray
    """(P, 2) convex."""
    z0_m: float
    z1_m: float


@dataclass
class Scenery:
    """Everything static and unlabelled of a clip."""

    meshes: list[Mesh] = field(default_factory=list)
    solids: list[Solid] = field(default_factory=list)
    lamps_world: list[np.ndarray] = field(default_factory=list)
    """(3,) positions of street lamps."""

    def add(self, mesh: Mesh, solids: list[Solid]) -> None:
        """Adds a thing."""
        self.meshes.append(mesh)
        self.solids += solids

    def mesh(self) -> Mesh:
        """All meshes in one."""
        return merge(self.meshes)


WALLS = np.array(
    [(0.75, 0.7, 0.6), (0.6, 0.3, 0.22), (0.55, 0.5, 0.45), (0.8, 0.78, 0.74), (0.45, 0.48, 0.52), (0.7, 0.6, 0.42), (0.5, 0.25, 0.2)]
)


def build_scenery(scenario: str, road_map: RoadMap, raster: GroundRaster, rng: np.random.Generator) -> Scenery:
    """Random scenery beside the roads; buildings mark their ground in `raster`, so that nothing overlaps."""
    scenery = Scenery()
    if scenario == "highway":
        _line_highway(scenery, road_map, raster, rng)
    else:
        for street in road_map.streets:
            for side in (-1, 1):
                _line_street(scenery, street.middle.offset(side * (street.half_width_m + street.sidewalk_m)), side, raster, rng)
                if street.sidewalk_m > 0:
                    _furnish_sidewalk(scenery, street.middle.offset(side * (street.half_width_m + 0.7)), side, raster, rng)
        _add_signals(scenery, road_map)
        if scenario == "parking":
            _border_plaza(scenery, road_map, raster, rng)
    _scatter_plants(scenery, raster, rng, 160 if scenario == "highway" else 60)
    return scenery


def scenery_along(way: Path2D, raster: GroundRaster, rng: np.random.Generator) -> Scenery:
    """Scenery for a recorded drive whose surroundings are unknown: buildings and plants on the free ground along the way."""
    scenery = Scenery()
    for side in (-1, 1):
        for left_m in (16.0, 30.0):
            _line_street(scenery, way.offset(side * left_m), side, raster, rng)
        line = way.offset(side * 11.0)
        for arc in np.arange(rng.uniform(0, 20), line.length_m, 28.0):
            point, yaw = line.at(arc), float(line.yaw_at(arc))
            if raster.at(point) not in ROAD_MATERIALS:
                _add_lamp(scenery, point, -side * np.array([-np.sin(yaw), np.cos(yaw)]), rng)
    _scatter_plants(scenery, raster, rng, 90)
    return scenery


def rectangle(center, along, length_m: float, width_m: float) -> np.ndarray:
    """Corners (4, 2) of a rectangle whose length runs along the unit vector `along`."""
    along, left = np.asarray(along) * length_m / 2, np.array([-along[1], along[0]]) * width_m / 2
    return np.asarray(center) + np.stack([along + left, -along + left, -along - left, along - left])


def _is_free(raster: GroundRaster, center, along, length_m: float, width_m: float) -> bool:
    a, b = np.meshgrid(np.linspace(-0.5, 0.5, max(2, int(length_m))), np.linspace(-0.5, 0.5, max(2, int(width_m))))
    points = np.asarray(center) + a[..., None] * length_m * along + b[..., None] * width_m * np.array([-along[1], along[0]])
    return bool((raster.at(points) == Ground.GRASS).all())


def _line_street(scenery: Scenery, line: Path2D, side: int, raster: GroundRaster, rng: np.random.Generator) -> None:
    arc, setback = rng.uniform(0, 10), rng.uniform(0.6, 6.0)
    while arc < line.length_m - 8:
        length, depth = rng.uniform(8, 24), rng.uniform(8, 16)
        yaw = float(line.yaw_at(arc + length / 2, length))
        along, outward = np.array([np.cos(yaw), np.sin(yaw)]), side * np.array([-np.sin(yaw), np.cos(yaw)])
        center = line.at(arc + length / 2) + outward * (setback + depth / 2)
        if rng.random() < 0.88 and _is_free(raster, center, along, length, depth):
            _add_building(scenery, raster, center, along, length, depth, rng)
        arc += length + (0.2 if rng.random() < 0.5 else rng.uniform(1, 9))


def _add_building(scenery: Scenery, raster: GroundRaster, center, along, length: float, depth: float, rng: np.random.Generator) -> None:
    height = rng.uniform(4, 9) if rng.random() < 0.5 else rng.uniform(9, 32)
    color = np.clip(WALLS[rng.integers(len(WALLS))] * rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, 3), 0.05, 1)
    texture = Texture(int(rng.choice([Texture.WINDOWS, Texture.WINDOWS, Texture.OFFICE, Texture.BRICK, Texture.PLASTER])))
    parts = [box(-length / 2, length / 2, -depth / 2, depth / 2, 0, height, color, texture)]
    parts.append(
        box(
            -length / 2 - 0.02,
            length / 2 + 0.02,
            -depth / 2 - 0.02,
            depth / 2 + 0.02,
            0,
            rng.uniform(0.4, 1.2),
            color * 0.6,
            Texture.PLASTER,
        )
    )
    if height < 9 and rng.random() < 0.7:  # gable roof
        ridge, eave = height + rng.uniform(1.5, 3.5), 0.4
        x, y = length / 2 + eave, depth / 2 + eave
        a, b, c, d, e, f = (-x, -y, height), (x, -y, height), (x, y, height), (-x, y, height), (-x, 0, ridge), (x, 0, ridge)
        roof = np.array([(a, b, f), (a, f, e), (c, d, e), (c, e, f), (a, e, d), (b, c, f)])
        parts.append(mesh_of(roof, rng.uniform(0.2, 0.5) * np.array([1.2, 0.8, 0.7]), Texture.CORRUGATED))
    else:
        parts.append(
            box(
                -length / 2 - 0.15,
                length / 2 + 0.15,
                -depth / 2 - 0.15,
                depth / 2 + 0.15,
                height,
                height + 0.5,
                color * 0.8,
                Texture.PLASTER,
            )
        )
    for _ in range(int(rng.integers(0, 4))):  # shop fronts, doors, awnings
        x, w = rng.uniform(-length / 2 + 1.5, length / 2 - 1.5), rng.uniform(0.8, 2.6)
        shade = rng.uniform(0.1, 0.9, 3)
        for y in (-depth / 2, depth / 2):
            parts.append(box(x - w / 2, x + w / 2, y - 0.05, y + 0.05, 0, 2.4, shade * 0.5, Texture.GLASS))
            if w > 1.5:
                parts.append(box(x - w / 2 - 0.2, x + w / 2 + 0.2, y - 0.5, y + 0.5, 2.6, 2.9, shade, Texture.CLOTH))
    yaw = float(np.arctan2(along[1], along[0]))
    outline = rectangle(center, along, length, depth)
    scenery.add(merge(parts).moved(center[0], center[1], 0, yaw), [Solid(outline, 0, height)])
    raster.fill(outline, Ground.BUILT)


def _circle(center, radius_m: float, sides: int = 8) -> np.ndarray:
    angle = np.arange(sides) * 2 * np.pi / sides
    return np.asarray(center) + radius_m * np.c_[np.cos(angle), np.sin(angle)]


def add_tree(scenery: Scenery, point, rng: np.random.Generator) -> None:
    """A broad-leaved tree, a conifer or a bush."""
    kind = rng.choice(["leaf", "leaf", "conifer", "bush"])
    green = np.array([0.24, 0.36, 0.12]) * rng.uniform(0.6, 1.3) * rng.uniform(0.85, 1.15, 3)
    if rng.random() < 0.12:
        green = np.array([0.55, 0.35, 0.12]) * rng.uniform(0.7, 1.1)
    if kind == "bush":
        radius = rng.uniform(0.5, 1.2)
        mesh = ball((radius, radius, radius * 0.9), green, Texture.LEAVES, 7, 4, rng).moved(point[0], point[1], radius * 0.7)
        scenery.add(mesh, [Solid(_circle(point, 0.8 * radius), 0, 1.5 * radius)])
        return
    height, trunk = rng.uniform(4.5, 10), rng.uniform(0.12, 0.25)
    bole = cylinder(trunk, 0, height * 0.5, (0.3, 0.22, 0.15), 6, trunk * 0.7, Texture.BARK).moved(point[0], point[1])
    if kind == "conifer":
        radius, low = height * rng.uniform(0.16, 0.24), 0.8
        crown = merge(
            [
                cylinder(radius * (1 - 0.28 * k), low + 0.26 * k * height, height * (0.45 + 0.27 * k), green, 8, 0.02, Texture.LEAVES)
                for k in range(3)
            ]
        )
    else:
        radius, low = height * rng.uniform(0.24, 0.36), height * 0.35
        crown = merge([ball((radius * f, radius * f, height * 0.3 * f), green * rng.uniform(0.85, 1.1), Texture.LEAVES, 8, 5, rng).moved(
            *(rng.uniform(-0.4, 0.4, 2) * radius), low + height * 0.33) for f in (1.0, 0.75)])  # fmt: skip  # pyright: ignore[reportCallIssue]
    solids = [Solid(_circle(point, trunk + 0.05), 0, low + 0.5), Solid(_circle(point, radius * 0.85), low + 0.3, height * 0.95)]
    scenery.add(merge([bole, crown.moved(point[0], point[1])]), solids)


def _pole(scenery: Scenery, point, height_m: float, radius_m: float = 0.08, color=(0.35, 0.36, 0.37)) -> None:
    scenery.add(
        cylinder(radius_m, 0, height_m, color, 6).moved(point[0], point[1]), [Solid(_circle(point, radius_m + 0.05, 4), 0, height_m)]
    )


def _add_lamp(scenery: Scenery, point, toward_road, rng: np.random.Generator) -> None:
    height, reach = rng.uniform(6.5, 8.5), rng.uniform(1.2, 2.2)
    _pole(scenery, point, height)
    yaw = float(np.arctan2(toward_road[1], toward_road[0]))
    arm = merge([box(0, reach, -0.05, 0.05, height - 0.1, height, (0.35, 0.36, 0.37)),
                 box(reach - 0.5, reach, -0.15, 0.15, height - 0.18, height - 0.08, (1.0, 0.95, 0.8), glow=1.5)])  # fmt: skip
    scenery.add(arm.moved(point[0], point[1], 0, yaw), [])
    scenery.lamps_world.append(np.array([*(np.asarray(point) + reach * toward_road), height - 0.2]))


def _furnish_sidewalk(scenery: Scenery, line: Path2D, side: int, raster: GroundRaster, rng: np.random.Generator) -> None:
    spacing, treed, arc = rng.uniform(22, 34), rng.random() < 0.65, rng.uniform(0, 15)
    next_lamp = arc
    while arc < line.length_m:
        point, yaw = line.at(arc), float(line.yaw_at(arc))
        if raster.at(point) == Ground.PAVING:
            toward_road = -side * np.array([-np.sin(yaw), np.cos(yaw)])
            if arc >= next_lamp:
                _add_lamp(scenery, point, toward_road, rng)
                next_lamp = arc + spacing
            elif treed and rng.random() < 0.45:
                add_tree(scenery, point, rng)
            elif rng.random() < 0.5:
                _add_clutter(scenery, point, yaw, rng)
        arc += rng.uniform(4, 9)


def _add_clutter(scenery: Scenery, point, yaw: float, rng: np.random.Generator) -> None:
    """A bin, a hydrant, a mail box, a bench, a sign or a cabinet."""
    kind, color = rng.choice(["bin", "hydrant", "box", "bench", "sign", "cabinet"]), rng.uniform(0.1, 0.7, 3)
    if kind == "sign":
        _pole(scenery, point, 2.6, 0.04)
        face = [(0.8, 0.1, 0.1), (0.1, 0.2, 0.6), (0.9, 0.9, 0.9), (0.9, 0.75, 0.1)][rng.integers(4)]
        scenery.add(box(-0.03, 0.03, -0.32, 0.32, 1.95, 2.55, face).moved(point[0], point[1], 0, yaw), [])
        return
    length, width, height = {"bin": (0.5, 0.5, 1.0), "hydrant": (0.3, 0.3, 0.75), "box": (0.55, 0.5, 1.3), "bench": (1.7, 0.55, 0.8),
                             "cabinet": (1.2, 0.5, 1.5)}[str(kind)]  # fmt: skip
    if kind in ("bin", "hydrant"):
        mesh = cylinder(length / 2, 0, height, (0.75, 0.1, 0.08) if kind == "hydrant" else color, 8)
    else:
        mesh = box(-length / 2, length / 2, -width / 2, width / 2, 0.1 if kind == "bench" else 0, height, color, Texture.PLASTER)
    direction = np.array([np.cos(yaw), np.sin(yaw)])
    scenery.add(mesh.moved(point[0], point[1], 0, yaw), [Solid(rectangle(point, direction, length, width), 0, height)])


def _add_signals(scenery: Scenery, road_map: RoadMap) -> None:
    for path, junction in road_map.crosswalks:
        if junction < 0:
            continue
        for end, yaw in ((0.0, 0.0), (path.length_m, np.pi)):
            point = path.at(end + (-0.5 if end == 0 else 0.5))
            heading = float(path.yaw_at(path.length_m / 2)) + yaw
            _pole(scenery, point, 4.2, 0.09, (0.2, 0.2, 0.2))
            lamps = [box(-0.14, 0.14, -0.16, 0.16, 3.2, 4.2, (0.06, 0.06, 0.06))]
            lamps += [
                box(-0.155, 0.155, -0.1, 0.1, z, z + 0.22, c, glow=0.6) for z, c in ((3.9, (0.6, 0.06, 0.05)), (3.3, (0.05, 0.45, 0.12)))
            ]
            scenery.add(merge(lamps).moved(point[0], point[1], 0, heading + np.pi / 2), [])


def _line_highway(scenery: Scenery, road_map: RoadMap, raster: GroundRaster, rng: np.random.Generator) -> None:
    street = road_map.streets[0]
    barrier = rng.random() < 0.7
    rows = [0.0] if barrier else [-street.median_m / 2 + 0.5, street.median_m / 2 - 0.5]
    rows += [-(street.half_width_m + 0.6), street.half_width_m + 0.6]
    for left in rows:
        _wall(scenery, street.middle.offset(left), 0.8, 0.12 if left or not barrier else 0.35, (0.6, 0.61, 0.62))
    for side in (-1, 1):
        if rng.random() < 0.35:
            _wall(
                scenery,
                street.middle.offset(side * (street.half_width_m + 4)),
                rng.uniform(2.5, 4.5),
                0.3,
                rng.uniform(0.3, 0.65) * np.ones(3),
                Texture.BRICK,
            )
        line = street.middle.offset(side * (street.half_width_m + 1.5))
        for arc in np.arange(rng.uniform(0, 30), line.length_m, rng.uniform(35, 55)):
            yaw = float(line.yaw_at(arc))
            _add_lamp(scenery, line.at(arc), -side * np.array([-np.sin(yaw), np.cos(yaw)]), rng)
        far = street.middle.offset(side * (street.half_width_m + rng.uniform(18, 28)))
        if rng.random() < 0.6:
            _line_street(scenery, far, side, raster, rng)
    _add_gantry(scenery, street.middle, street.half_width_m, float(rng.uniform(0.45, 0.75)) * street.middle.length_m)


def _add_gantry(scenery: Scenery, middle: Path2D, half_width_m: float, arc_m: float) -> None:
    point, yaw = middle.at(arc_m), float(middle.yaw_at(arc_m))
    left = np.array([-np.sin(yaw), np.cos(yaw)])
    for side in (-1, 1):
        _pole(scenery, point + side * (half_width_m + 1.2) * left, 7.2, 0.2)
    beam = box(-0.2, 0.2, -half_width_m - 1.2, half_width_m + 1.2, 6.6, 7.0, (0.5, 0.5, 0.52))
    signs = [box(-0.3, 0.3, y - 2.2, y + 2.2, 5.6, 7.8, (0.08, 0.3, 0.16)) for y in (-half_width_m / 2, half_width_m / 2)]
    scenery.add(merge([beam, *signs]).moved(point[0], point[1], 0, yaw), [])


def _wall(
    scenery: Scenery, line: Path2D, height_m: float, width_m: float, color, texture: Texture = Texture.PLASTER, step_m: float = 8.0
) -> None:
    arcs = np.append(np.arange(0, line.length_m, step_m), line.length_m)
    for start, end in zip(line.at(arcs[:-1]), line.at(arcs[1:]), strict=True):
        length, middle = float(np.linalg.norm(end - start)), (start + end) / 2
        direction = (end - start) / max(length, 1e-6)
        piece = box(-length / 2, length / 2, -width_m / 2, width_m / 2, 0, height_m, color, texture)
        piece = piece.moved(middle[0], middle[1], 0, float(np.arctan2(direction[1], direction[0])))
        scenery.add(piece, [Solid(rectangle(middle, direction, length, width_m), 0, height_m)])


def _border_plaza(scenery: Scenery, road_map: RoadMap, raster: GroundRaster, rng: np.random.Generator) -> None:
    polygon = road_map.plazas[0]
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        direction = (b - a) / np.linalg.norm(b - a)
        outward = np.array([direction[1], -direction[0]])
        line = Path2D(np.linspace(a, b, 60) + 2.5 * outward)
        if rng.random() < 0.5:
            _wall(scenery, Path2D(line.points_world - 1.5 * outward), 1.0, 0.5, (0.2, 0.32, 0.14), Texture.LEAVES)
        _line_street(scenery, line, -1, raster, rng)
    for x in np.linspace(polygon[:, 0].min() + 20, polygon[:, 0].max() - 20, 5):
        for y in (-8.4, 8.4):
            _add_lamp(scenery, np.array([x, y]), np.array([0.0, np.sign(y)]), rng)


def _scatter_plants(scenery: Scenery, raster: GroundRaster, rng: np.random.Generator, count: int) -> None:
    rows, columns = raster.material.shape
    points = raster.origin_world + rng.uniform(0, 1, (count * 2, 2)) * np.array([columns, rows]) * CELL_M
    for point in points:
        if _is_free(raster, point, np.array([1.0, 0.0]), 3.0, 3.0):
            add_tree(scenery, point, rng)
