"""Who moves or stands on the road, and where is everybody at any instant?"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from scenes.boxes import CLASS_NAMES
from scenes.geometry import wrap_angle
from scenes.simulator.bodies import Body
from scenes.simulator.paths import Path2D
from scenes.simulator.roads import RoadMap, Route

TICK_S = 0.1
"""Step of the traffic simulation; between ticks everything moves straight on."""
REACTION_TICKS = 2
"""Drivers look ahead every so many ticks."""
MIN_GAP_M = 2.0
SIDE_ROOM_M = 0.2
"""Drivers brake for what is nearer than this to the strip that their vehicle sweeps."""
HEADWAY_S = 1.3
BRAKE_MPS2 = 2.5
EGO_CENTER_AHEAD_M = 1.4
"""From the rear axle (ego origin) to the middle of the ego vehicle."""


@dataclass
class Actor:
    """One labelled object; subclasses say how it moves."""

    track_id: int
    body: Body
    x_m: float
    y_m: float
    yaw_rad: float
    speed_mps: float = 0.0

    @property
    def class_name(self) -> str:
        """Name of the class."""
        return CLASS_NAMES[self.body.class_id]

    @property
    def is_static(self) -> bool:
        """Whether it never moves during the clip."""
        return type(self) is Actor

    def step(self, world: "Traffic", time_s: float) -> None:
        """Moves on by one tick (standing things do not)."""


@dataclass
class Driver(Actor):
    """A vehicle on a route: intelligent driver model (Treiber et al. 2000), stops at red, brakes for whatever stands in its way."""

    route: Route | None = None
    arc_m: float = 0.0
    """Arc length of the box centre (of the rear axle for the ego vehicle)."""
    lateral_m: float = 0.0
    """Offset to the left of the route."""
    wish_mps: float = 10.0
    towing: "Towed | None" = None
    leader: tuple[float, float] = (1e3, 0.0)
    """Free distance ahead and speed of what ends it, as last looked at."""

    def place(self) -> None:
        """Sets the pose from the arc length."""
        assert self.route is not None
        self.x_m, self.y_m, self.yaw_rad = self.route.path.pose_at(self.arc_m, 0.6 * self.body.size_m[0], self.lateral_m)
        if self.towing is not None:
            self.towing.follow(self)

    def step(self, world: "Traffic", time_s: float) -> None:
        """One tick of the driver model."""
        assert self.route is not None
        if round(time_s / TICK_S) % REACTION_TICKS == 0:
            self.leader = world.leader(self, time_s)
        gap, leader_mps = self.leader
        self.leader = max(gap - max(self.speed_mps - leader_mps, 0.0) * TICK_S, 0.0), leader_mps
        wish = max(min(self.wish_mps, self.route.limit_mps(self.arc_m)), 0.1)
        speed = self.speed_mps
        dynamic_gap = MIN_GAP_M + max(0.0, speed * HEADWAY_S + speed * (speed - leader_mps) / (2 * np.sqrt(1.5 * BRAKE_MPS2)))
        push = 1.5 * (1 - (speed / wish) ** 4 - (dynamic_gap / max(gap, 0.1)) ** 2)
        self.speed_mps = float(max(0.0, speed + TICK_S * np.clip(push, -8.0, 1.5)))
        if gap < 0.3:
            self.speed_mps = 0.0
        self.arc_m += self.speed_mps * TICK_S
        self.place()


@dataclass
class Towed(Actor):
    """A trailer: its middle follows the towing vehicle's route some metres behind."""

    def follow(self, driver: Driver) -> None:
        """Takes its place behind the towing vehicle."""
        assert driver.route is not None
        length = self.body.size_m[0]
        arc = driver.arc_m - driver.body.size_m[0] / 2 - 0.6 - length / 2
        self.x_m, self.y_m, self.yaw_rad = driver.route.path.pose_at(arc, 0.7 * length, driver.lateral_m)
        self.speed_mps = driver.speed_mps


@dataclass
class Walker(Actor):
    """A person on foot who goes along a way, and back at its end; at a crosswalk she waits for the signal."""

    way: Path2D | None = None
    arc_m: float = 0.0
    lateral_m: float = 0.0
    pace_mps: float = 1.3
    direction: int = 1
    junction: int = -1
    """Index of the junction whose signal rules the way; -1: none."""

    def step(self, world: "Traffic", time_s: float) -> None:
        """One tick: waits, turns or walks on."""
        assert self.way is not None
        waits = False
        if self.junction >= 0:
            off_road = self.arc_m <= 0.0 or self.arc_m >= self.way.length_m
            waits = off_road and not world.road_map.junctions[self.junction].walk(time_s)
            if self.arc_m <= -1.0 or self.arc_m >= self.way.length_m + 1.0:
                self.direction = 1 if self.arc_m <= -1.0 else -1
        elif not 0.0 < self.arc_m < self.way.length_m:
            self.direction = 1 if self.arc_m <= 0 else -1
        if not waits and round(time_s / TICK_S) % REACTION_TICKS == 0 and world.vehicle_ahead(self):
            self.direction = -self.direction  # rather back than into a car
            self.place()
        self.speed_mps = 0.0 if waits else self.pace_mps
        self.arc_m += self.direction * self.speed_mps * TICK_S
        self.place()

    def place(self) -> None:
        """Sets the pose from the arc length."""
        assert self.way is not None
        self.x_m, self.y_m, yaw = self.way.pose_at(self.arc_m, left_m=self.lateral_m)
        self.yaw_rad = float(wrap_angle(yaw + (0 if self.direction > 0 else np.pi)))


@dataclass
class Traffic:
    """All actors of a clip and the ego vehicle, stepped together."""

    road_map: RoadMap
    ego: Driver
    """Its `arc_m` is the rear axle's; never labelled, never drawn."""
    actors: list[Actor] = field(default_factory=list)
    history: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3)))
    """(ticks, 1 + actors, 3) x, y, yaw from time 0 on; column 0 is the ego vehicle."""

    @cached_property
    def sizes_m(self) -> np.ndarray:
        """(A, 3) length, width, height of every actor; like the other tables, to be asked for only once all are there."""
        return np.array([actor.body.size_m for actor in self.actors], dtype=np.float64).reshape(-1, 3)

    @cached_property
    def class_ids(self) -> np.ndarray:
        """(A,) class of every actor."""
        return np.array([actor.body.class_id for actor in self.actors], dtype=np.int64)

    @cached_property
    def track_ids(self) -> np.ndarray:
        """(A,) track id of every actor."""
        return np.array([actor.track_id for actor in self.actors], dtype=np.int64)

    @cached_property
    def is_static(self) -> np.ndarray:
        """(A,) bool: does it never move?"""
        return np.array([actor.is_static for actor in self.actors], dtype=bool)

    def run(self, seconds: float, start_s: float = 0.0) -> None:
        """Simulates from `start_s` on and fills the history, one tick beyond the end."""
        everybody = [self.ego, *self.actors]
        history = [[(actor.x_m, actor.y_m, actor.yaw_rad) for actor in everybody]]
        for tick in range(math.ceil(seconds / TICK_S) + 2):
            self._refresh()
            for actor in everybody:
                actor.step(self, start_s + tick * TICK_S)
            history.append([(actor.x_m, actor.y_m, actor.yaw_rad) for actor in everybody])
        self.history = np.array(history)
        self.history[..., 2] = np.unwrap(self.history[..., 2], axis=0)

    def poses_at(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        """x, y, yaw (1 + A, 3) and velocity in m/s (1 + A, 2) of the ego vehicle and all actors at an instant from 0 on."""
        left = min(max(int(time_s / TICK_S), 0), len(self.history) - 2)
        before, after = self.history[left], self.history[left + 1]
        share = time_s / TICK_S - left
        return before + share * (after - before), (after - before)[:, :2] / TICK_S

    def _refresh(self) -> None:
        """Discs (three an object, along its length) that stand for everybody in the search for leaders."""
        rows = []
        for number, actor in enumerate([self.ego, *self.actors]):
            length, width, _ = actor.body.size_m
            cos, sin, speed = math.cos(actor.yaw_rad), math.sin(actor.yaw_rad), actor.speed_mps
            ahead = EGO_CENTER_AHEAD_M if actor is self.ego else 0.0
            reach = max(length - width, 0) / 2
            for share in (-1, 0, 1) if reach > 0.3 else (0,):
                along = ahead + share * reach
                rows.append((actor.x_m + along * cos, actor.y_m + along * sin, width / 2, speed * cos, speed * sin, number))
        self._discs = np.array(rows)
        self._numbers = {id(actor): number for number, actor in enumerate([self.ego, *self.actors])}

    def leader(self, driver: Driver, time_s: float) -> tuple[float, float]:
        """Free distance ahead (m) on the driver's route, and the speed along it of what ends it; 1e3 where all is free."""
        assert driver.route is not None
        length, width, _ = driver.body.size_m
        front = driver.arc_m + (length / 2 if driver is not self.ego else EGO_CENTER_AHEAD_M + length / 2)
        reach = 8.0 + 2.5 * driver.speed_mps + driver.speed_mps**2 / (2 * BRAKE_MPS2)
        gap, leader_mps = self._red_light(driver, front, time_s)
        discs = self._discs_near(driver, front, reach)
        if not len(discs):
            return gap, leader_mps
        points, directions = driver.route.path.metre_points
        first_point = min(max(int(front), 0), len(points) - 2)
        window = slice(first_point, first_point + int(reach) + 1)
        ahead, along = points[window], directions[window]
        ahead = ahead + driver.lateral_m * np.stack([-along[:, 1], along[:, 0]], axis=1)
        apart = discs[:, None, :2] - ahead[None]
        hit = (apart**2).sum(axis=2) < (discs[:, 2] + width / 2 + SIDE_ROOM_M)[:, None] ** 2  # (discs, metres)
        first = np.where(hit.any(axis=1), np.argmax(hit, axis=1), len(ahead))
        nearest = int(np.argmin(first))
        if first[nearest] == len(ahead):
            return gap, leader_mps
        free = max(float(first_point + first[nearest] - 0.5 - front), 0.0)
        return (free, max(float(discs[nearest, 3:5] @ along[first[nearest]]), 0.0)) if free < gap else (gap, leader_mps)

    def vehicle_ahead(self, walker: "Walker") -> bool:
        """Whether something wider than a person is right in front of someone on foot."""
        x = walker.x_m + 0.7 * math.cos(walker.yaw_rad)
        y = walker.y_m + 0.7 * math.sin(walker.yaw_rad)
        wide = self._discs[self._discs[:, 2] > 0.5]
        return bool(((wide[:, 0] - x) ** 2 + (wide[:, 1] - y) ** 2 < (wide[:, 2] + 0.35) ** 2).any())

    def _discs_near(self, driver: Driver, front_arc_m: float, reach_m: float) -> np.ndarray:
        """Rows of the discs of others within reach of the way ahead."""
        assert driver.route is not None
        own = self._numbers[id(driver)]
        towed = -1 if driver.towing is None else self._numbers[id(driver.towing)]
        x, y, _ = driver.route.path.pose_at(front_arc_m + reach_m / 2)
        discs = self._discs
        near = (np.abs(discs[:, 0] - x) < reach_m / 2 + 4) & (np.abs(discs[:, 1] - y) < reach_m / 2 + 4)
        return discs[near & (discs[:, 5] != own) & (discs[:, 5] != towed)]

    def _red_light(self, driver: Driver, front_arc_m: float, time_s: float) -> tuple[float, float]:
        assert driver.route is not None
        for stop in driver.route.stops:
            distance = stop.arc_m - front_arc_m
            too_late = distance < driver.speed_mps**2 / (2 * 5.0) - 1.0
            if distance > -1.0 and not too_late and not self.road_map.junctions[stop.junction].green(stop.approach, time_s):
                return max(distance + 1.5, 0.0), 0.0
        return 1e3, driver.speed_mps
