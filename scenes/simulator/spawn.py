"""Who is on the road when a clip starts?"""

from dataclasses import dataclass

import numpy as np

from scenes.simulator.actors import Actor, Driver, Towed, Traffic, Walker
from scenes.simulator.bodies import Body, make_body
from scenes.simulator.paths import Path2D
from scenes.simulator.roads import RoadMap, Route, Street

EGO_SIZE_M = (4.7, 1.9, 1.5)


@dataclass(frozen=True)
class Density:
    """How full a scenario is: numbers of objects tried within the clip's reach."""

    moving: tuple[int, int]
    parked: float
    """Share of the kerb places taken."""
    walkers: tuple[int, int]
    crossers: tuple[int, int]
    cyclists: tuple[int, int]
    work_zones: tuple[int, int]
    large: float
    """Share of trucks, buses and the like among moving vehicles."""


DENSITIES = {
    "highway": Density((22, 36), 0.05, (0, 0), (0, 0), (1, 4), (1, 3), 0.3),
    "city": Density((14, 24), 0.6, (8, 22), (1, 5), (2, 6), (1, 3), 0.18),
    "intersection": Density((20, 32), 0.5, (8, 18), (3, 8), (2, 6), (1, 3), 0.2),
    "parking": Density((3, 7), 0.68, (6, 14), (0, 0), (0, 2), (0, 1), 0.04),
    "crossing": Density((10, 18), 0.5, (14, 28), (12, 26), (3, 8), (0, 2), 0.14),
}


class Spawner:
    """Places objects where nothing else is."""

    def __init__(self, scenario: str, road_map: RoadMap, rng: np.random.Generator, ego: Driver, drive_m: float) -> None:
        self.density, self.road_map, self.rng = DENSITIES[scenario], road_map, rng
        self.scenario = scenario
        self.actors: list[Actor] = []
        self.discs: list[tuple[float, float, float]] = []
        heading = np.array([np.cos(ego.yaw_rad), np.sin(ego.yaw_rad)])
        self.start, self.end = np.array([ego.x_m, ego.y_m]), np.array([ego.x_m, ego.y_m]) + drive_m * heading
        for share in (-0.2, 1.4, 3.0):
            self.discs.append((*(self.start + share * heading), 1.6))

    def near(self, point, reach_m: float = 75.0) -> bool:
        """Whether a point comes near the ego vehicle's drive."""
        return bool(self.distances(np.asarray(point)) < reach_m)

    def distances(self, points: np.ndarray) -> np.ndarray:
        """Distances (...) of points (..., 2) from the straight line of the ego vehicle's drive."""
        along = self.end - self.start
        share = np.clip((points - self.start) @ along / max(along @ along, 1e-6), 0, 1)
        return np.linalg.norm(self.start + share[..., None] * along - points, axis=-1)

    def take(self, x: float, y: float, yaw: float, size_m, margin_m: float = 0.25) -> bool:
        """Reserves the place of a box if it is free."""
        length, width = size_m[0] + 2 * margin_m, size_m[1] + 2 * margin_m
        count = max(1, int(np.ceil(length / width)))
        shares = (np.arange(count) - (count - 1) / 2) * ((length - width) / max(count - 1, 1))
        discs = [(x + s * np.cos(yaw), y + s * np.sin(yaw), width / 2) for s in shares]
        known = np.array(self.discs)
        for dx, dy, radius in discs:
            if (np.hypot(known[:, 0] - dx, known[:, 1] - dy) < known[:, 2] + radius).any():
                return False
        self.discs += discs
        return True

    def add_static(self, body: Body, x: float, y: float, yaw: float, margin_m: float = 0.2) -> bool:
        """Puts a standing object down if there is room."""
        if not self.take(x, y, yaw, body.size_m, margin_m):
            return False
        self.actors.append(Actor(len(self.actors), body, float(x), float(y), float(yaw)))
        return True

    def _body(self, large: float, ridden: bool = True) -> Body:
        if self.rng.random() < large:
            name = str(self.rng.choice(["truck", "bus", "construction_vehicle"], p=[0.62, 0.3, 0.08]))
        else:
            name = str(self.rng.choice(["car", "motorcycle"], p=[0.93, 0.07]))
        return make_body(name, self.rng, ridden=ridden)

    def add_driver(self, route: Route, arc_m: float, body: Body, lateral_m: float, wish_mps: float, trailer: Body | None = None) -> bool:
        """Puts a vehicle on a route, perhaps with a trailer behind."""
        length = body.size_m[0] + (0.0 if trailer is None else trailer.size_m[0] + 0.6)
        if arc_m < length or arc_m > route.path.length_m - 5:
            return False
        driver = Driver(len(self.actors), body, 0.0, 0.0, 0.0, route=route, arc_m=arc_m, lateral_m=lateral_m, wish_mps=wish_mps)
        driver.place()
        middle = arc_m + body.size_m[0] / 2 - length / 2
        point, yaw = route.path.at(middle), float(route.path.yaw_at(middle))
        point = point + lateral_m * np.array([-np.sin(yaw), np.cos(yaw)])
        if any(np.linalg.norm(point - junction.center_world) < junction.half_m + 5 for junction in self.road_map.junctions):
            return False
        if not self.near(point, 110.0 if self.scenario == "highway" else 80.0) or not self.take(*point, yaw, (length, body.size_m[1]), 0.7):  # pyright: ignore[reportCallIssue]
            return False
        driver.speed_mps = min(min(wish_mps, route.limit_mps(arc_m)) * float(self.rng.uniform(0.6, 1.0)), self._stopping_speed(driver))
        self.actors.append(driver)
        if trailer is not None:
            driver.towing = Towed(len(self.actors), trailer, 0.0, 0.0, 0.0)
            self.actors.append(driver.towing)
            driver.place()
        return True

    def _stopping_speed(self, driver: Driver) -> float:
        """The speed from which the driver can still stop gently at the next line, whatever the signal shows."""
        assert driver.route is not None
        front = driver.arc_m + driver.body.size_m[0] / 2
        ahead = [stop.arc_m - front for stop in driver.route.stops if stop.arc_m > front - 1.0]
        return float(np.sqrt(2 * 2.0 * max(min(ahead) - 1.0, 0.0))) if ahead else np.inf

    def moving(self) -> None:
        """Vehicles on the routes; straight ones more often than turns."""
        routes = self.road_map.routes
        weights = np.array([3.0 if route.turn == "straight" else 1.0 for route in routes])
        wanted = int(self.rng.integers(*self.density.moving, endpoint=True))
        for _ in range(4 * wanted):
            if len(self.actors) >= wanted:
                break
            route = routes[int(self.rng.choice(len(routes), p=weights / weights.sum()))]
            body = self._body(self.density.large)
            trailer = None
            if body.class_id == 1 and self.rng.random() < 0.35 and self.scenario != "parking":
                trailer = make_body("trailer", self.rng)
            lateral = float(self.rng.normal(0, 0.2))
            self.add_driver(route, self._arc_near(route.path, 75.0), body, lateral,
                            route.speed_mps * float(self.rng.uniform(0.75, 1.15)), trailer)  # fmt: skip

    def cyclists(self) -> None:
        """Bicycles and motorcycles at the right edge of a lane."""
        for _ in range(int(self.rng.integers(*self.density.cyclists, endpoint=True))):
            route = self.road_map.routes[int(self.rng.integers(len(self.road_map.routes)))]
            name = "bicycle" if self.scenario != "highway" and self.rng.random() < 0.7 else "motorcycle"
            wish = float(self.rng.uniform(3, 6)) if name == "bicycle" else route.speed_mps
            for _ in range(6):
                arc = self._arc_near(route.path, 70.0)
                if self.add_driver(route, arc, make_body(name, self.rng), -route.half_room_m + 0.8, wish):
                    break

    def parked(self) -> None:
        """Vehicles at the kerb and in stalls; bicycles and motorcycles leaning on the sidewalk."""
        for x, y, yaw in self.road_map.stalls:
            if self.rng.random() < self.density.parked:
                body = make_body("car" if self.rng.random() < 0.95 else "motorcycle", self.rng, ridden=False)
                turn = np.pi if self.rng.random() < 0.4 else 0.0
                self.add_static(
                    body, x + self.rng.normal(0, 0.12), y + self.rng.normal(0, 0.15), yaw + turn + self.rng.normal(0, 0.03), 0.05
                )
        for street in self.road_map.streets:
            if street.kerb_m > 1.5:
                for side in (-1, 1):
                    self._park_along(street, side)

    def _park_along(self, street: Street, side: int) -> None:
        line = street.middle.offset(side * (street.half_width_m - street.kerb_m + min(street.kerb_m, 2.4) / 2 + 0.1))
        arc, taken = float(self.rng.uniform(4, 8)), self.density.parked * self.rng.uniform(0.5, 1.3)
        while arc < line.length_m - 4:
            if self.rng.random() < taken and self.near(line.at(arc)) and self._clear_of_junctions(line.at(arc)):
                body = self._body(0.07, ridden=False)
                arc += body.size_m[0] / 2
                x, y, yaw = line.pose_at(arc)
                self.add_static(body, x, y, yaw + (0.0 if side < 0 else np.pi) + self.rng.normal(0, 0.03))
                arc += body.size_m[0] / 2 + self.rng.uniform(0.8, 2.5)
            else:
                arc += 6.0

    def _clear_of_junctions(self, point: np.ndarray) -> bool:
        return all(np.linalg.norm(point - junction.center_world) > junction.half_m + 13 for junction in self.road_map.junctions)

    def walkers(self) -> None:
        """People on sidewalks, some in pairs, some standing; parked bicycles."""
        ways = [way for way in self.road_map.walkways if self._some_near(way)]
        if not ways:
            return
        for _ in range(int(self.rng.integers(*self.density.walkers, endpoint=True))):
            way = ways[int(self.rng.integers(len(ways)))]
            arc = self._arc_near(way)
            room = 0.9 if self.scenario != "parking" else 0.15
            lateral, direction = float(self.rng.uniform(-room, room)), int(self.rng.choice([-1, 1]))
            pace = 0.0 if self.rng.random() < 0.2 else float(self.rng.normal(1.3, 0.25))
            for k in range(int(self.rng.choice([1, 2, 3], p=[0.7, 0.22, 0.08]))):
                self._walk(way, arc + 0.3 * k, lateral + 0.65 * k, pace, direction, -1)
        for _ in range(int(self.rng.integers(0, 4))):
            way = ways[int(self.rng.integers(len(ways)))]
            arc = self._arc_near(way)
            point = way.at(arc)
            name = "bicycle" if self.rng.random() < 0.75 else "motorcycle"
            self.add_static(make_body(name, self.rng, ridden=False), point[0], point[1], float(way.yaw_at(arc) + self.rng.normal(0, 0.6)))

    def crossers(self) -> None:
        """People at and on crosswalks."""
        ways = [(way, junction) for way, junction in self.road_map.crosswalks if self._some_near(way)]
        if not ways:
            return
        for _ in range(int(self.rng.integers(*self.density.crossers, endpoint=True))):
            way, junction = ways[int(self.rng.integers(len(ways)))]
            walking = junction < 0 or self.road_map.junctions[junction].walk(0.0)
            arc = (
                float(self.rng.uniform(0, way.length_m))
                if walking
                else float(self.rng.choice([-0.6, way.length_m + 0.6])) + float(self.rng.normal(0, 0.2))
            )
            direction = int(self.rng.choice([-1, 1])) if walking else (1 if arc < 1 else -1)
            self._walk(way, arc, float(self.rng.uniform(-1.5, 1.5)), float(self.rng.normal(1.35, 0.2)), direction, junction)

    def _walk(self, way: Path2D, arc_m: float, lateral_m: float, pace_mps: float, direction: int, junction: int) -> None:
        body = make_body("pedestrian", self.rng)
        walker = Walker(len(self.actors), body, 0.0, 0.0, 0.0, way=way, arc_m=arc_m, lateral_m=lateral_m, pace_mps=max(pace_mps, 0.0),
                        direction=direction, junction=junction)  # fmt: skip
        walker.place()
        if self.take(walker.x_m, walker.y_m, walker.yaw_rad, body.size_m, 0.05):
            self.actors.append(walker)

    def work_zones(self) -> None:
        """Cones, barriers and a machine on the kerb strip."""
        wanted = int(self.rng.integers(*self.density.work_zones, endpoint=True))
        for _ in range(4 * wanted):
            street = self.road_map.streets[int(self.rng.integers(len(self.road_map.streets)))]
            side = int(self.rng.choice([-1, 1]))
            line = street.middle.offset(side * (street.half_width_m - max(street.kerb_m, 0.6) / 2))
            arc = self._arc_near(line)
            if wanted and all(np.linalg.norm(line.at(arc) - j.center_world) > j.half_m + 14 for j in self.road_map.junctions):
                self._work_zone(line, arc, side, street.kerb_m)
                wanted -= 1

    def _work_zone(self, line: Path2D, arc_m: float, side: int, kerb_m: float) -> None:
        yaw = float(line.yaw_at(arc_m))
        outward = side * np.array([-np.sin(yaw), np.cos(yaw)])
        if self.rng.random() < 0.6 and kerb_m > 1.5:
            point = line.at(arc_m) + 0.6 * outward
            self.add_static(make_body("construction_vehicle", self.rng), point[0], point[1], yaw)
        name = str(self.rng.choice(["traffic_cone", "barrier"]))
        step = self.rng.uniform(2.0, 3.5)
        inner = -(max(kerb_m, 0.6) / 2 - 0.35)
        for k in range(int(self.rng.integers(4, 10))):
            point = line.at(arc_m + (k - 4) * step) + inner * outward
            body = make_body(name, self.rng)
            self.add_static(body, point[0], point[1], yaw + (np.pi / 2 if name == "barrier" else 0) + self.rng.normal(0, 0.05), 0.02)
        for k in range(int(self.rng.integers(2, 6))):
            point = line.at(arc_m + (k - 3) * 2.7) + 2.6 * outward
            body = make_body("barrier" if name == "traffic_cone" else "traffic_cone", self.rng)
            self.add_static(body, point[0], point[1], yaw + np.pi / 2 + self.rng.normal(0, 0.05), 0.02)

    def _some_near(self, way: Path2D) -> bool:
        return bool((self.distances(way.points_world) < 75.0).any())

    def _arc_near(self, way: Path2D, reach_m: float = 55.0) -> float:
        """A random arc length whose point comes near the ego vehicle's drive, if any does."""
        points, _ = way.metre_points
        near = np.flatnonzero(self.distances(points[: max(int(way.length_m), 1)]) < reach_m)
        start = float(near[int(self.rng.integers(len(near)))]) if len(near) else float(self.rng.uniform(0, way.length_m))
        return min(start + float(self.rng.uniform(0, 1)), way.length_m)


def spawn_traffic(scenario: str, road_map: RoadMap, rng: np.random.Generator, seconds: float) -> Traffic:
    """The ego vehicle and everybody else at time 0."""
    ego = _spawn_ego(scenario, road_map, rng)
    spawner = Spawner(scenario, road_map, rng, ego, ego.speed_mps * seconds)
    spawner.moving()
    spawner.cyclists()
    spawner.work_zones()
    spawner.parked()
    spawner.walkers()
    spawner.crossers()
    return Traffic(road_map, ego, spawner.actors)


def _spawn_ego(scenario: str, road_map: RoadMap, rng: np.random.Generator) -> Driver:
    body = Body(0, EGO_SIZE_M, make_body("car", rng).mesh)
    main_lanes = 2 * road_map.streets[0].lanes_each_way
    candidates = [r for k, r in enumerate(road_map.routes) if k < main_lanes or (r.turn != "straight" and rng.random() < 0.3)]
    if scenario == "parking":
        candidates = road_map.routes
    route = candidates[int(rng.integers(len(candidates)))]
    if scenario == "highway" or not route.stops:
        arc = route.path.length_m * (0.25 if scenario == "highway" else float(rng.uniform(0.25, 0.5)))
    else:
        back = rng.uniform(4, 14) if scenario == "crossing" else rng.uniform(8, 70)
        arc = max(route.stops[0].arc_m - EGO_SIZE_M[0] - back, 20.0)
    ego = Driver(-1, body, 0.0, 0.0, 0.0, route=route, arc_m=float(arc), wish_mps=route.speed_mps * float(rng.uniform(0.85, 1.05)))
    stands = rng.random() < {"crossing": 0.5, "parking": 0.3}.get(scenario, 0.08)
    if stands and scenario != "highway":
        ego.wish_mps = 0.1
    ego.place()
    ego.speed_mps = 0.0 if stands and scenario != "highway" else min(ego.wish_mps, route.limit_mps(arc)) * float(rng.uniform(0.5, 1.0))
    return ego
