"""Which roads, lanes, junctions and walkways does a scenario have?"""

from dataclasses import dataclass, field

import numpy as np

from scenes.layers import Lane, LaneType
from scenes.simulator.paths import Path2D, bend, join, straight

LANE_WIDTH_M = 3.5
GREEN_S = 9.0
"""How long one approach of a junction has green; then the next, at last everybody on foot."""


@dataclass(frozen=True)
class Street:
    """One road: its middle line, and what lies beside it on both sides."""

    middle: Path2D
    lanes_each_way: int
    lane_width_m: float = LANE_WIDTH_M
    median_m: float = 0.0
    """Width of the strip between the directions."""
    kerb_m: float = 0.5
    """Asphalt beyond the outer lane (shoulder, or the parking strip)."""
    sidewalk_m: float = 3.0

    @property
    def half_width_m(self) -> float:
        """From the middle line to the end of the asphalt."""
        return self.median_m / 2 + self.lanes_each_way * self.lane_width_m + self.kerb_m

    def lane(self, index: int, forward: bool) -> Path2D:
        """Centreline of lane `index` (0 innermost) in the direction of driving; traffic keeps right."""
        right_m = self.median_m / 2 + (index + 0.5) * self.lane_width_m
        return self.middle.offset(-right_m) if forward else self.middle.reversed().offset(-right_m)


@dataclass(frozen=True)
class Junction:
    """Where two streets cross: signals let one approach after the other go, then the people on foot."""

    center_world: np.ndarray
    half_m: float
    """Half of the side of the square that the streets share."""
    phase_s: float
    """Where in its cycle the signal is at time 0."""
    walk_s: float = 12.0

    def green(self, approach: int, time_s: float) -> bool:
        """Whether approach 0-3 may drive; the last second of its turn is already red."""
        into = (time_s + self.phase_s) % (4 * GREEN_S + self.walk_s) - approach * GREEN_S
        return 0 <= into < GREEN_S - 1.5

    def walk(self, time_s: float) -> bool:
        """Whether people on foot may start crossing."""
        into = (time_s + self.phase_s) % (4 * GREEN_S + self.walk_s) - 4 * GREEN_S
        return 1.0 <= into < self.walk_s - 6.0


@dataclass(frozen=True)
class Stop:
    """A stop line on a route."""

    arc_m: float
    junction: int
    approach: int


@dataclass(frozen=True)
class Route:
    """A way a vehicle may drive from end to end."""

    path: Path2D
    speed_mps: float
    stops: tuple[Stop, ...] = ()
    turn: str = "straight"
    half_room_m: float = LANE_WIDTH_M / 2
    slow_spans: tuple[tuple[float, float, float], ...] = ()
    """(from arc, to arc, speed): the bends."""

    def limit_mps(self, arc_m: float) -> float:
        """Allowed speed at an arc length, already falling ahead of a bend (comfortable braking)."""
        limit = self.speed_mps
        for start, end, speed in self.slow_spans:
            if arc_m <= end:
                limit = min(limit, float(np.sqrt(speed**2 + 2 * 1.5 * max(start - arc_m, 0.0))))
        return limit


@dataclass
class RoadMap:
    """Everything that is painted on the ground, and the ways over it."""

    streets: list[Street] = field(default_factory=list)
    junctions: list[Junction] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    walkways: list[Path2D] = field(default_factory=list)
    """Middle lines of sidewalks."""
    crosswalks: list[tuple[Path2D, int]] = field(default_factory=list)
    """Middle line over the road, and the junction whose signal rules it (-1: none)."""
    plazas: list[np.ndarray] = field(default_factory=list)
    """Asphalt polygons (P, 2) besides the streets: parking lots."""
    stalls: list[tuple[float, float, float]] = field(default_factory=list)
    """Parking places: x, y, yaw."""
    lanes: list[Lane] = field(default_factory=list)


def lane_truth(road_map: RoadMap) -> list[Lane]:
    """The polylines of the map as label-layer lanes: dividers, road edges, centrelines, crossings."""
    lanes: list[tuple[LaneType, np.ndarray]] = []
    for street in road_map.streets:
        for side in (1, -1):
            lanes += [(LaneType.DIVIDER, p) for p in _dividers(street, side, road_map.junctions)]
            edge = street.middle.offset(side * street.half_width_m)
            lanes += [(LaneType.ROAD_EDGE, p) for p in outside_junctions(edge, road_map.junctions)]
    lanes += [(LaneType.CENTRELINE, route.path.points_world) for route in road_map.routes]
    lanes += [(LaneType.CROSSING, crosswalk_outline(path)) for path, _ in road_map.crosswalks]
    return [Lane(i, kind, np.c_[points, np.zeros(len(points))]) for i, (kind, points) in enumerate(lanes)]


def _dividers(street: Street, side: int, junctions: list[Junction]) -> list[np.ndarray]:
    parts = []
    for index in range(street.lanes_each_way):
        if index == 0 and street.median_m == 0 and side < 0:
            continue  # the middle line belongs to one side only
        line = street.middle.offset(side * (street.median_m / 2 + index * street.lane_width_m))
        parts += outside_junctions(line, junctions)
    return parts


def outside_junctions(path: Path2D, junctions: list[Junction], extra_m: float = 0.0) -> list[np.ndarray]:
    """The pieces (P, 2) of a curve that lie outside every junction's circle."""
    free = np.ones(len(path.points_world), dtype=bool)
    for junction in junctions:
        free &= np.linalg.norm(path.points_world - junction.center_world, axis=1) > junction.half_m * 1.25 + extra_m
    cuts = np.flatnonzero(np.diff(free.astype(int))) + 1
    return [piece for piece, ok in zip(np.split(path.points_world, cuts), np.split(free, cuts), strict=True) if ok[0] and len(piece) >= 2]


def crosswalk_outline(path: Path2D, half_width_m: float = 1.8) -> np.ndarray:
    """Closed outline (5, 2) of a crosswalk."""
    start, end = path.points_world[0], path.points_world[-1]
    across = (end - start) / np.linalg.norm(end - start)
    normal = half_width_m * np.array([-across[1], across[0]])
    return np.stack([start + normal, end + normal, end - normal, start - normal, start + normal])


def _winding(rng: np.random.Generator, length_m: float, bend_rad: float) -> Path2D:
    """A middle line through the origin along +x that turns smoothly by at most `bend_rad` to each side."""
    s = np.arange(-length_m / 2, length_m / 2 + 1)
    amplitude, wavelength, phase = rng.uniform(0, bend_rad), rng.uniform(250, 500), rng.uniform(0, 2 * np.pi)
    yaw = amplitude * (np.sin(2 * np.pi * s / wavelength + phase) - np.sin(phase))
    points = np.cumsum(np.c_[np.cos(yaw), np.sin(yaw)], axis=0)
    return Path2D(points - points[len(s) // 2])


def highway(rng: np.random.Generator, reach_m: float) -> RoadMap:
    """Two carriageways of two or three lanes, no junction."""
    lanes = int(rng.integers(2, 4))
    middle = _winding(rng, 2 * reach_m + 260, 0.25)
    street = Street(middle, lanes, 3.7, median_m=rng.uniform(2, 6), kerb_m=2.5, sidewalk_m=0.0)
    speed = rng.uniform(17, 26)
    routes = [Route(street.lane(i, forward), speed * (1.12 - 0.12 * i)) for forward in (True, False) for i in range(lanes)]
    return RoadMap([street], routes=routes)


def town(rng: np.random.Generator, reach_m: float, num_junctions: int, lanes: int, bend_rad: float = 0.12) -> RoadMap:
    """A main street with crossing streets, sidewalks and crosswalks."""
    parking = 2.4 if rng.random() < 0.8 else 0.6
    main = Street(
        _winding(rng, 2 * reach_m + 220, bend_rad), lanes, rng.uniform(3.2, 3.6), kerb_m=parking, sidewalk_m=rng.uniform(2.5, 4.5)
    )
    road_map = RoadMap([main])
    spread = [0.0] if num_junctions == 1 else np.linspace(-0.5, 0.5, num_junctions) * rng.uniform(90, 130) * (num_junctions - 1)
    first = rng.uniform(15, 45)
    for k, along in enumerate(spread):
        arc = main.middle.length_m / 2 + first + along
        _add_junction(rng, road_map, k, arc)
    _add_routes(rng, road_map, rng.uniform(9, 14))
    _add_walkways(road_map)
    return road_map


def _add_junction(rng: np.random.Generator, road_map: RoadMap, index: int, arc_m: float) -> None:
    main = road_map.streets[0]
    center, yaw = main.middle.at(arc_m), float(main.middle.yaw_at(arc_m)) + np.pi / 2 + rng.uniform(-0.1, 0.1)
    direction = np.array([np.cos(yaw), np.sin(yaw)])
    lanes = 1 if rng.random() < 0.7 else main.lanes_each_way
    cross = Street(straight(center - 110 * direction, center + 110 * direction), lanes, main.lane_width_m, kerb_m=main.kerb_m,
                   sidewalk_m=main.sidewalk_m)  # fmt: skip
    half = max(main.half_width_m, cross.half_width_m) + 1.0
    road_map.streets.append(cross)
    road_map.junctions.append(Junction(center, half, rng.uniform(0, 4 * GREEN_S)))
    for street, middle_arc in ((main, arc_m), (cross, cross.middle.length_m / 2)):
        for side in (-1, 1):
            _add_crosswalk(road_map, street, middle_arc + side * (half + 3.0), index)


def _add_crosswalk(road_map: RoadMap, street: Street, arc_m: float, junction: int) -> None:
    point, yaw = street.middle.at(arc_m), float(street.middle.yaw_at(arc_m)) + np.pi / 2
    normal = np.array([np.cos(yaw), np.sin(yaw)]) * (street.half_width_m + 0.3)
    road_map.crosswalks.append((straight(point - normal, point + normal), junction))


def _add_routes(rng: np.random.Generator, road_map: RoadMap, speed_mps: float) -> None:
    """Straight routes along every lane, then a turn from every approach of every junction."""
    for number, street in enumerate(road_map.streets):
        speed = speed_mps if number == 0 else 0.8 * speed_mps
        for forward in (True, False):
            for index in range(street.lanes_each_way):
                path = street.lane(index, forward)
                road_map.routes.append(Route(path, speed, _stops(road_map, number, path, forward)))
    for junction in range(len(road_map.junctions)):
        main, cross = road_map.streets[0], road_map.streets[junction + 1]
        for source, target in ((main, cross), (cross, main)):
            for forward in (True, False):
                for turn in ("left", "right"):
                    road_map.routes.append(_turn_route(road_map, junction, source, target, forward, turn, speed_mps))


def _stops(road_map: RoadMap, street_number: int, path: Path2D, forward: bool) -> tuple[Stop, ...]:
    """Stop lines of a path along a street: approaches 0, 1 are the main street's directions, 2, 3 the crossing one's."""
    stops = []
    for k, junction in enumerate(road_map.junctions):
        if street_number in (0, k + 1):
            approach = (0 if street_number == 0 else 2) + (0 if forward else 1)
            stops.append(Stop(path.nearest_arc(junction.center_world) - junction.half_m - 6.0, k, approach))
    return tuple(sorted(stops, key=lambda stop: stop.arc_m))


def _turn_route(road_map: RoadMap, junction: int, source: Street, target: Street, forward: bool, turn: str, speed_mps: float) -> Route:
    index = source.lanes_each_way - 1 if turn == "right" else 0
    entry = source.lane(index, forward)
    center = road_map.junctions[junction].center_world
    half = road_map.junctions[junction].half_m + 1.0
    entry_arc = entry.nearest_arc(center) - half
    heading = entry.yaw_at(entry_arc) + (np.pi / 2 if turn == "left" else -np.pi / 2)
    middle_yaw = target.middle.yaw_at(target.middle.nearest_arc(center))
    exit_forward = bool(np.cos(heading - middle_yaw) > 0)
    leave = target.lane(target.lanes_each_way - 1 if turn == "right" else 0, exit_forward)
    leave_arc = leave.nearest_arc(center) + half
    into, out = entry.cut(0, entry_arc), leave.cut(leave_arc, leave.length_m)
    curve = bend(into.points_world[-1], into.tangents[-1], out.points_world[0], out.tangents[0])
    street_number = next(i for i, street in enumerate(road_map.streets) if street is source)
    stops = tuple(stop for stop in _stops(road_map, street_number, entry, forward) if stop.arc_m < entry_arc)
    slow = (into.length_m, into.length_m + curve.length_m, 6.5 if turn == "left" else 4.5)
    return Route(join([into, curve, out]), speed_mps, stops, turn, slow_spans=(slow,))


def _add_walkways(road_map: RoadMap) -> None:
    for street in road_map.streets:
        if street.sidewalk_m > 0:
            for side in (1, -1):
                line = street.middle.offset(side * (street.half_width_m + street.sidewalk_m / 2))
                for piece in outside_junctions(line, road_map.junctions):
                    if len(piece) > 12:
                        road_map.walkways.append(Path2D(piece))


def parking_lot(rng: np.random.Generator) -> RoadMap:
    """Aisles between rows of perpendicular stalls, a street along one side."""
    road_map = RoadMap()
    depth, aisle, width = 5.3, 7.2, rng.uniform(2.55, 2.8)
    columns = int(rng.integers(18, 28))
    half = columns * width / 2
    aisles = [k * (2 * depth + aisle) for k in (-1, 0, 1)]
    for y in aisles:
        street = Street(straight((-half - 40, y), (half + 40, y)), 1, aisle / 2, kerb_m=0.0, sidewalk_m=0.0)
        road_map.streets.append(street)
        road_map.routes += [Route(street.lane(0, forward), rng.uniform(2.5, 4.5)) for forward in (True, False)]
        for x in (np.arange(columns) - columns / 2 + 0.5) * width:
            road_map.stalls += [(x, y + side * (aisle + depth) / 2, side * np.pi / 2) for side in (1, -1)]
        road_map.walkways += [straight((-half, y + side * (aisle / 2 - 0.3)), (half, y + side * (aisle / 2 - 0.3))) for side in (1, -1)]
    top = aisles[-1] + aisle / 2 + depth + 1
    road_map.plazas.append(np.array([[-half - 42, -top], [half + 42, -top], [half + 42, top], [-half - 42, top]]))
    return road_map


def build_road_map(scenario: str, rng: np.random.Generator, reach_m: float) -> RoadMap:
    """The roads of a scenario around the origin, long enough to drive `reach_m`."""
    if scenario == "highway":
        road_map = highway(rng, reach_m)
    elif scenario == "parking":
        road_map = parking_lot(rng)
    elif scenario == "city":
        road_map = town(rng, reach_m, int(rng.integers(1, 3)), int(rng.integers(1, 3)), 0.3)
    else:
        road_map = town(rng, reach_m, 1, 2 if rng.random() < 0.6 else 1)
    road_map.lanes = lane_truth(road_map)
    return road_map
