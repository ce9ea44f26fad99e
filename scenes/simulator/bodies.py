"""What do the ten classes look like? Several low-poly bodies a class, in the box's own frame (x ahead, bottom at z = 0)."""

from dataclasses import dataclass

import numpy as np

from scenes.boxes import CLASS_NAMES
from scenes.simulator.meshes import Mesh, Texture, ball, box, cylinder, fitted, merge, mesh_of, plain_mesh, profile, wheel

CAR_COLORS = np.array(
    [(0.92, 0.92, 0.92), (0.93, 0.93, 0.9), (0.12, 0.12, 0.13), (0.08, 0.08, 0.09), (0.6, 0.62, 0.64), (0.42, 0.44, 0.46),
     (0.72, 0.09, 0.08), (0.55, 0.05, 0.07), (0.08, 0.16, 0.5), (0.12, 0.3, 0.62), (0.05, 0.3, 0.16), (0.5, 0.42, 0.3),
     (0.85, 0.7, 0.1), (0.85, 0.4, 0.08), (0.35, 0.55, 0.65), (0.3, 0.12, 0.3)]
)  # fmt: skip
GLASS = (0.09, 0.11, 0.14)
BLACK = (0.05, 0.05, 0.055)
CHROME = (0.6, 0.61, 0.63)
SKIN = np.array([(0.88, 0.68, 0.55), (0.75, 0.53, 0.4), (0.5, 0.33, 0.22), (0.33, 0.21, 0.14)])


@dataclass(frozen=True)
class Body:
    """A mesh that fills its box exactly."""

    class_id: int
    size_m: tuple[float, float, float]
    """Length, width, height."""
    mesh: Mesh


def make_body(class_name: str, rng: np.random.Generator, size_m: tuple[float, float, float] | None = None, ridden: bool = True) -> Body:
    """A random body of a class; `size_m` forces its box (replay), `ridden` puts a person on a bicycle or motorcycle."""
    maker = {
        "car": _car,
        "truck": _truck,
        "bus": _bus,
        "trailer": _trailer,
        "construction_vehicle": _construction_vehicle,
        "pedestrian": _pedestrian,
        "traffic_cone": _cone,
        "barrier": _barrier,
    }.get(class_name)
    mesh, size = maker(rng) if maker else _two_wheeler(rng, class_name == "motorcycle", ridden)
    size = size if size_m is None else size_m
    return Body(CLASS_NAMES.index(class_name), size, fitted(mesh, *size))


def _paint(rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.15:
        return rng.uniform(0.05, 0.95, 3)
    weights = np.array([4, 3, 4, 3, 4, 3, 2, 1, 1.5, 1, 0.7, 0.7, 0.7, 0.5, 0.7, 0.4])
    return np.clip(CAR_COLORS[rng.choice(len(CAR_COLORS), p=weights / weights.sum())] * rng.uniform(0.85, 1.1), 0, 1)


def _quad(x: float, y0: float, y1: float, z0: float, z1: float, color, glow: float) -> Mesh:
    """A plate across x (lamp, number plate) that faces away from the body's middle."""
    a, b, c, d = (x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)
    corners = np.array([(a, b, c), (a, c, d)] if x > 0 else [(a, c, b), (a, d, c)], dtype=np.float32)
    return plain_mesh(corners, corners[:, :, 1:], color, glow=glow)


def _lamps(front: float, rear: float, half: float, z: float, size: float = 0.14) -> list[Mesh]:
    """Head lamps, tail lamps and number plates."""
    parts = []
    for side in (-1, 1):
        y0, y1 = sorted((side * (half - 0.08), side * (half - 0.45)))
        parts.append(_quad(front + 0.012, y0, y1, z, z + size, (0.95, 0.95, 0.88), 1.6))
        parts.append(_quad(rear - 0.012, y0, y1, z + 0.05, z + size + 0.08, (0.7, 0.05, 0.04), 0.9))
    parts.append(_quad(rear - 0.014, -0.26, 0.26, z - 0.12, z, (0.92, 0.9, 0.75), 0.0))
    parts.append(_quad(front + 0.014, -0.26, 0.26, z - 0.22, z - 0.1, (0.92, 0.92, 0.9), 0.0))
    return parts


def _wheels(xs, half: float, radius: float, width: float = 0.22) -> list[Mesh]:
    return [wheel(radius, width).moved(x, side * (half - width / 2 - 0.02), radius) for x in xs for side in (-1, 1)]


def _car(rng: np.random.Generator):
    kind = rng.choice(["sedan", "hatch", "suv", "van", "pickup", "taxi"], p=[0.3, 0.25, 0.22, 0.1, 0.08, 0.05])
    length, width, height = {
        "sedan": (4.7, 1.84, 1.45), "taxi": (4.8, 1.85, 1.55), "hatch": (4.1, 1.76, 1.5), "suv": (4.65, 1.9, 1.7),
        "van": (5.1, 1.95, 2.05), "pickup": (5.4, 1.98, 1.85),
    }[str(kind)]  # fmt: skip
    length, width, height = (v * rng.normal(1, 0.03) for v in (length, width, height))
    paint = np.array([0.95, 0.75, 0.05]) if kind == "taxi" else _paint(rng)
    f, r, belt, low = length / 2, -length / 2, height * rng.uniform(0.52, 0.58), 0.22
    hood = f - length * (0.12 if kind == "van" else rng.uniform(0.22, 0.28))
    tail = {"sedan": r + 0.16 * length, "taxi": r + 0.16 * length, "pickup": r + 0.42 * length}.get(str(kind), r + 0.05)
    lower = [(r + 0.05, low), (f - 0.1, low), (f, low + 0.25), (f - 0.03, belt - 0.22), (hood, belt - 0.05), (tail, belt), (r, belt - 0.04)]
    roof0, roof1 = hood - rng.uniform(0.45, 0.75), tail + (rng.uniform(0.45, 0.7) if kind in ("sedan", "taxi") else 0.18)
    cabin = [(tail, belt - 0.03), (hood, belt - 0.08), (roof0, height - 0.04), (roof1, height - 0.04)]
    roof = [(roof1 - 0.02, height - 0.05), (roof0 + 0.05, height - 0.05), (roof0 - 0.1, height), (roof1 + 0.1, height)]
    top = rng.uniform(0.76, 0.86)
    parts = [profile(lower, width, paint, Texture.PAINT), profile(cabin, width * 0.96, GLASS, Texture.GLASS, top)]
    parts.append(profile(roof, width * 0.96 * (top + 0.02), paint * 0.97, Texture.PAINT))
    pillar = (hood + tail) / 2 + rng.uniform(-0.3, 0.1)
    for x in (pillar, *((tail + 0.75 * (pillar - tail) - 0.8,) if kind in ("suv", "van") else ())):
        parts.append(profile([(x - 0.06, belt - 0.02), (x + 0.06, belt - 0.02), (x + 0.03, height - 0.03), (x - 0.03, height - 0.03)],
                             width * 0.975, paint, Texture.PAINT, top + 0.015))  # fmt: skip
    if kind == "van" and rng.random() < 0.5:  # panel van: no rear windows
        parts.append(box(tail + 0.02, pillar, -width * 0.482, width * 0.482, belt - 0.05, height - 0.06, paint, Texture.PAINT))
    if kind == "pickup" and rng.random() < 0.5:
        parts.append(box(r + 0.2, tail - 0.1, -width * 0.35, width * 0.35, belt, belt + rng.uniform(0.1, 0.4), rng.uniform(0.2, 0.6, 3)))
    if kind == "taxi":
        parts.append(box(-0.2, 0.1, -0.3, 0.3, height, height + 0.14, (0.95, 0.9, 0.6), glow=0.7))
    radius = 0.31 if kind in ("sedan", "hatch", "taxi") else 0.36
    parts += _wheels((f - 0.19 * length, r + 0.19 * length), width / 2, radius) + _lamps(f, r, width / 2, belt - 0.27)
    parts += [
        box(hood - 0.35, hood - 0.2, s * width / 2 - 0.09 * (s < 0), s * width / 2 + 0.09 * (s > 0), belt, belt + 0.13, paint)
        for s in (-1, 1)
    ]
    parts.append(box(r - 0.01, f + 0.01, -width * 0.47, width * 0.47, low - 0.02, low + 0.12, BLACK))
    return merge(parts), (length, width + 0.18, height)


def _cab(front: float, length: float, width: float, height: float, base: float, paint) -> list[Mesh]:
    """A truck's cab."""
    rear = front - length
    outline = [(rear, base), (front - 0.05, base), (front, base + 0.5 * (height - base)), (front - 0.18, height), (rear, height)]
    middle = base + 0.52 * (height - base)
    glass = [(front - 0.002, middle), (front + 0.01, middle), (front - 0.1, height - 0.25), (front - 0.14, height - 0.25)]
    side = box(rear + 0.35 * length, front - 0.22, -width / 2 - 0.01, width / 2 + 0.01, middle, height - 0.3, GLASS, Texture.GLASS)
    return [profile(outline, width, paint, Texture.PAINT), profile(glass, width * 0.9, GLASS, Texture.GLASS), side]


def _truck(rng: np.random.Generator):
    kind = rng.choice(["box", "flatbed", "tipper", "tank", "tractor"], p=[0.45, 0.15, 0.15, 0.1, 0.15])
    length, width, height = rng.uniform(6.2, 9.5), rng.uniform(2.3, 2.55), rng.uniform(2.8, 3.7)
    if kind == "tractor":
        length, height = rng.uniform(6.0, 7.0), rng.uniform(3.2, 3.8)
    f, r, paint, cargo = length / 2, -length / 2, _paint(rng), _paint(rng)
    cab_length = rng.uniform(1.7, 2.3)
    parts = _cab(f, cab_length, width * 0.96, height * (0.97 if kind == "tractor" else 0.82), 0.5, paint)
    parts.append(box(r, f - 0.3, -0.45, 0.45, 0.5, 0.9, BLACK))
    back, low = f - cab_length - 0.15, 0.95
    if kind == "box":
        texture = Texture.CORRUGATED if rng.random() < 0.5 else Texture.PAINT
        parts.append(box(r, back, -width / 2, width / 2, low, height, cargo, texture))
        parts.append(box(r + 1, back - 1, -width / 2 - 0.01, width / 2 + 0.01, low + 0.5, height - 0.6, _paint(rng)))
    elif kind == "flatbed":
        parts.append(box(r, back, -width / 2, width / 2, low, low + 0.25, cargo))
        for x in np.arange(r + 0.8, back - 1.2, 1.6):
            parts.append(
                box(
                    x,
                    x + rng.uniform(0.8, 1.5),
                    -width * 0.42,
                    width * 0.42,
                    low + 0.25,
                    rng.uniform(low + 0.6, height * 0.8),
                    rng.uniform(0.2, 0.7, 3),
                    Texture.CLOTH,
                )
            )
    elif kind == "tipper":
        parts.append(profile([(r + 0.5, low), (back, low), (back, height * 0.85), (r, height * 0.85)], width, cargo, Texture.CORRUGATED))
    elif kind == "tank":
        angle = np.arange(8) * np.pi / 4
        ring = np.c_[np.sin(angle) * width / 2, 1.95 + np.cos(angle) * min(1.0, height / 2 - 0.9)]
        tank = profile(np.array([(r, low), (back, low), (back, low + 0.2), (r, low + 0.2)]), width * 0.8, BLACK)
        sides = [(x, y, z) for x in (r, back) for y, z in ring]
        parts += [tank, _prism_along_x(np.array(sides), 8, cargo)]
    parts += _wheels((f - 1.2, r + 1.0, r + 2.1), width / 2, 0.5, 0.3) + _lamps(f, r, width / 2, 0.75, 0.2)
    return merge(parts), (length, width, height)


def _prism_along_x(points: np.ndarray, sides: int, color) -> Mesh:
    rear, front = points[:sides], points[sides:]
    triangles = []
    for i in range(sides):
        j = (i + 1) % sides
        triangles += [(rear[i], rear[j], front[j]), (rear[i], front[j], front[i])]
    for i in range(1, sides - 1):
        triangles += [(rear[0], rear[i + 1], rear[i]), (front[0], front[i], front[i + 1])]
    return mesh_of(np.array(triangles), color, Texture.PAINT)


def _bus(rng: np.random.Generator):
    length, width, height = rng.uniform(9.5, 13), rng.uniform(2.5, 2.65), rng.uniform(3.0, 3.4)
    paint, band = _paint(rng), _paint(rng)
    f, r = length / 2, -length / 2
    parts = [box(r, f, -width / 2, width / 2, 0.35, height, paint, Texture.PAINT)]
    parts.append(box(r + 0.3, f - 0.3, -width / 2 - 0.008, width / 2 + 0.008, 0.4, 0.95, band, Texture.PAINT))
    for x in np.arange(r + 0.5, f - 1.4, 1.45):
        parts.append(box(x, x + 1.25, -width / 2 - 0.01, width / 2 + 0.01, 1.35, 2.45, GLASS, Texture.GLASS))
    parts.append(box(f, f + 0.012, -width * 0.46, width * 0.46, 1.1, 2.5, GLASS, Texture.GLASS))
    parts.append(box(f, f + 0.015, -width * 0.35, width * 0.35, 2.6, 2.9, (0.95, 0.6, 0.1), glow=1.0))
    parts.append(box(r - 0.012, r, -width * 0.4, width * 0.4, 1.6, 2.5, GLASS, Texture.GLASS))
    if rng.random() < 0.5:
        parts.append(box(-2.2, 1.0, -0.8, 0.8, height, height + 0.25, (0.75, 0.75, 0.75)))
    parts += _wheels((f - 2.6, r + 3.0), width / 2, 0.48, 0.3) + _lamps(f, r, width / 2, 0.65, 0.2)
    return merge(parts), (length, width, height)


def _trailer(rng: np.random.Generator):
    length, width, height = rng.uniform(8, 13), rng.uniform(2.4, 2.6), rng.uniform(3.2, 3.9)
    f, r, paint = length / 2, -length / 2, _paint(rng)
    parts = [box(r, f, -0.5, 0.5, 0.8, 1.1, BLACK)]
    kind = rng.choice(["box", "container", "flat"])
    if kind == "flat":
        height = rng.uniform(2.2, 2.8)
        parts.append(box(r, f, -width / 2, width / 2, 1.1, 1.3, paint))
        for x in np.arange(r + 0.5, f - 2, 2.6):
            parts.append(
                box(
                    x,
                    x + rng.uniform(1.5, 2.3),
                    -width * 0.45,
                    width * 0.45,
                    1.3,
                    rng.uniform(1.8, height),
                    rng.uniform(0.25, 0.7, 3),
                    Texture.BARK,
                )
            )
    else:
        texture = Texture.CORRUGATED if kind == "container" else Texture.PAINT
        parts.append(box(r, f, -width / 2, width / 2, 1.1, height, paint, texture))
        parts.append(box(r + 2, f - 2, -width / 2 - 0.01, width / 2 + 0.01, 1.7, height - 0.7, _paint(rng)))
    parts += _wheels((r + 1.0, r + 2.2, r + 3.4), width / 2, 0.5, 0.3)
    parts += [_quad(r - 0.012, s * width / 2 - 0.25, s * width / 2 + 0.25, 0.85, 1.05, (0.7, 0.05, 0.04), 0.9) for s in (-0.7, 0.7)]
    return merge(parts), (length, width, height)


def _construction_vehicle(rng: np.random.Generator):
    paint = np.array([0.93, 0.68, 0.08]) if rng.random() < 0.7 else np.array([0.9, 0.42, 0.06])
    kind = rng.choice(["excavator", "loader", "roller"])
    cab = box(-0.9, 0.5, -0.2, 0.8, 1.4, 2.9, GLASS, Texture.GLASS)
    roof = box(-1.0, 0.6, -0.3, 0.9, 2.9, 3.0, paint)
    if kind == "excavator":
        parts = [box(-1.9, 1.7, s - 0.28, s + 0.28, 0, 0.85, BLACK, Texture.CORRUGATED) for s in (-1.0, 1.0)]
        parts += [box(-2.1, 0.9, -1.25, 1.25, 0.95, 1.6, paint, Texture.PAINT), cab, roof, box(-2.1, -1.0, -1.2, -0.2, 1.6, 2.2, paint)]
        arm = [(0.6, 1.4), (1.0, 1.3), (3.4, 3.5), (3.1, 3.8)]
        stick = [(3.0, 3.7), (3.4, 3.6), (4.6, 1.0), (4.3, 0.9)]
        parts += [profile(arm, 0.35, paint), profile(stick[::-1], 0.3, paint), box(4.0, 4.8, -0.6, 0.6, 0.3, 1.1, BLACK)]
        return merge(parts), (rng.uniform(6.4, 7.4), 2.6, rng.uniform(3.1, 3.9))
    parts = [box(-2.6, 0.9, -0.9, 0.9, 0.8, 1.9, paint, Texture.PAINT), cab.moved(0, -0.3), roof.moved(0, -0.3)]
    if kind == "loader":
        parts += [wheel(0.75, 0.5).moved(x, s, 0.75) for x in (-1.8, 1.4) for s in (-1.0, 1.0)]
        parts += [box(0.9, 2.6, s - 0.15, s + 0.15, 0.7, 1.3, paint) for s in (-0.7, 0.7)]
        parts.append(profile([(2.5, 0.2), (3.5, 0.15), (3.0, 1.3), (2.5, 1.2)], 2.7, BLACK))
        return merge(parts), (rng.uniform(6.5, 7.5), 2.7, rng.uniform(3.0, 3.4))
    parts += [wheel(0.75, 2.0, (0.35, 0.35, 0.36), 12).moved(2.0, 0, 0.75), box(0.9, 2.0, -1.1, 1.1, 0.7, 0.95, paint)]
    parts += [wheel(0.7, 0.5).moved(-1.7, s, 0.7) for s in (-0.85, 0.85)]
    return merge(parts), (rng.uniform(5.0, 6.0), 2.2, rng.uniform(2.9, 3.2))


def _person(rng: np.random.Generator, stride: float, seated: bool = False) -> list[Mesh]:
    """A person of about 1.75 m facing +x."""
    shirt, trousers = rng.uniform(0.05, 0.9, 3), rng.uniform(0.05, 0.5, 3)
    skin, hair = SKIN[rng.integers(len(SKIN))], rng.uniform(0.03, 0.5) * np.array([1, 0.8, 0.6])
    parts = []
    for side in (-1, 1):
        reach = side * stride
        leg = [(-0.08, 0.85), (-0.08 + reach, 0.0), (0.1 + reach, 0.0), (0.1, 0.85)]
        if seated:
            leg = [(-0.1, 0.85), (0.28, 0.35), (0.42, 0.35), (0.15, 0.95)]
        parts.append(profile(leg, 0.16, trousers, Texture.CLOTH).moved(0, side * 0.1))
        arm = [(-0.06, 1.42), (-0.06 - reach, 0.82), (0.05 - reach, 0.82), (0.06, 1.42)]
        if seated:
            arm = [(-0.02, 1.4), (0.38, 1.08), (0.42, 1.16), (0.08, 1.46)]
        parts.append(profile(arm, 0.1, shirt, Texture.CLOTH).moved(0, side * 0.26))
    parts.append(profile([(-0.11, 0.82), (0.12, 0.82), (0.14, 1.45), (-0.1, 1.45)], 0.44, shirt, Texture.CLOTH, 0.9))
    parts.append(ball((0.105, 0.09, 0.13), skin, sides=6).moved(0.02, 0, 1.62))
    parts.append(ball((0.11, 0.1, 0.09), hair, sides=6).moved(-0.015, 0, 1.69))
    if rng.random() < 0.3:
        parts.append(box(-0.32, -0.1, -0.16, 0.16, 0.95, 1.4, rng.uniform(0.1, 0.8, 3), Texture.CLOTH))
    return parts


def _pedestrian(rng: np.random.Generator):
    height = rng.uniform(1.1, 1.4) if rng.random() < 0.1 else rng.normal(1.72, 0.08)
    mesh = merge(_person(rng, rng.uniform(0.0, 0.3)))
    extent = mesh.corners.max(axis=(0, 1)) - mesh.corners.min(axis=(0, 1))
    factor = height / extent[2]
    return mesh, tuple(float(v) for v in extent * factor * np.array([1, rng.uniform(0.9, 1.15), 1]))


def _two_wheeler(rng: np.random.Generator, motor: bool, ridden: bool):
    paint = _paint(rng)
    length, radius = (rng.uniform(1.9, 2.3), 0.31) if motor else (rng.uniform(1.6, 1.85), 0.34)
    reach = length / 2 - radius
    parts = [wheel(radius, 0.14 if motor else 0.05).moved(x, 0, radius) for x in (-reach, reach)]
    if motor:
        parts.append(profile([(-reach, 0.45), (0.35, 0.3), (0.55, 0.85), (0.1, 0.95), (-reach - 0.1, 0.8)], 0.32, paint, Texture.PAINT))
        parts.append(profile([(0.35, 0.7), (0.62, 0.75), (0.5, 1.15), (0.4, 1.15)], 0.38, paint, Texture.PAINT))
        parts.append(_quad(0.63, -0.1, 0.1, 0.78, 0.95, (0.95, 0.95, 0.9), 1.5))
        parts.append(_quad(-reach - 0.12, -0.1, 0.1, 0.7, 0.8, (0.7, 0.05, 0.04), 0.9))
    else:
        frame = (
            [(-reach, 0.33), (-0.1, 0.8), (-0.05, 0.85), (-reach + 0.05, 0.33)],
            [(-0.1, 0.75), (0.38, 0.8), (0.38, 0.86), (-0.1, 0.82)],
            [(-0.05, 0.3), (0.02, 0.3), (0.42, 0.85), (0.35, 0.85)],
            [(reach - 0.04, 0.34), (reach + 0.03, 0.34), (0.42, 0.98), (0.35, 0.98)],
        )
        for line in frame:
            parts.append(profile(line, 0.05, paint))
        parts.append(box(-0.22, 0.05, -0.08, 0.08, 0.88, 0.94, BLACK))
    parts.append(box(0.36, 0.42, -0.3, 0.3, 1.0, 1.04, BLACK))
    height = 1.1
    if ridden:
        lift = 0.02 if motor else 0.12
        parts += [part.moved(-0.15, 0, lift) for part in _person(rng, 0.0, seated=True)]
        if motor or rng.random() < 0.5:
            parts.append(ball((0.15, 0.13, 0.15), _paint(rng), Texture.PAINT).moved(-0.14, 0, 1.66 + lift))
        height = 1.78 + lift
    mesh = merge(parts)
    width = float(mesh.corners[..., 1].max() - mesh.corners[..., 1].min())
    return mesh, (length, width, height * rng.uniform(0.96, 1.04))


def _cone(rng: np.random.Generator):
    height, base = rng.uniform(0.5, 1.0), rng.uniform(0.34, 0.45)
    orange = np.array([0.95, 0.36, 0.07]) * rng.uniform(0.8, 1.05)
    parts = [box(-base / 2, base / 2, -base / 2, base / 2, 0, 0.05, BLACK)]
    for k, (low, high) in enumerate(((0.05, 0.4), (0.4, 0.62), (0.62, 0.8), (0.8, 1.0))):
        radius = lambda share: base * 0.42 * (1.08 - share)  # noqa: E731
        color = np.minimum(orange, 1) if k % 2 == 0 else (0.93, 0.93, 0.93)
        parts.append(cylinder(radius(low), low * height, high * height, color, 8, radius(high)))
    return merge(parts), (base, base, height)


def _barrier(rng: np.random.Generator):
    width = rng.uniform(1.6, 2.6)
    if rng.random() < 0.5:  # concrete or plastic wall element, long side across the heading as in nuScenes
        color = (0.62, 0.61, 0.58) if rng.random() < 0.6 else (0.85, 0.3, 0.1)
        outline = [(-0.3, 0.0), (0.3, 0.0), (0.12, 0.35), (0.09, 0.95), (-0.09, 0.95), (-0.12, 0.35)]
        return profile(outline, width, color, Texture.PLASTER), (0.6, width, 0.95 * rng.uniform(0.9, 1.1))
    parts = [box(-0.03, 0.03, -width / 2, width / 2, z, z + 0.2, (0.95, 0.95, 0.95), Texture.STRIPES) for z in (0.45, 0.8)]
    parts += [
        profile([(-0.25, 0), (-0.2, 0), (0.03, 1.02), (-0.03, 1.02)], 0.05, (0.9, 0.9, 0.9)).moved(0, s)
        for s in (-width / 2 + 0.1, width / 2 - 0.1)
    ]
    parts += [
        profile([(0.2, 0), (0.25, 0), (0.03, 1.02), (-0.03, 1.02)], 0.05, (0.9, 0.9, 0.9)).moved(0, s)
        for s in (-width / 2 + 0.1, width / 2 - 0.1)
    ]
    return merge(parts), (0.5, width, 1.02)
