"""The scenes' random design: solids, camera, walls, materials and light, drawn from a generator.

Lengths are metres; the world's z is up and its ground is z = 0. Patterns have the same size in every scene,
so that distance can be told from one picture.
"""

from dataclasses import dataclass
from math import atan2, cos, hypot, pi, sin

import numpy as np
import numpy.typing as npt

from retinue.datasets.raycast import Surface
from retinue.datasets.render import Light, Material, Scene

KINDS = ("sphere", "box", "cylinder", "cone")
"""The solids, in the order of their class index."""
GROUND_CELLS = {"checker": 0.5, "tiles": 0.5, "noise": 0.2}
WALL_CELLS = {"bricks": 0.25, "tiles": 0.5, "noise": 0.3}
SOLID_CELLS = {"plain": 1.0, "checker": 0.2, "stripes": 0.12, "noise": 0.15}
"""Patterns and their size in metres: the same in every scene."""
SKIES = (
    ((0.80, 0.89, 0.96), (0.27, 0.53, 0.85)),  # noon
    ((0.98, 0.85, 0.72), (0.45, 0.55, 0.80)),  # evening
    ((0.86, 0.88, 0.90), (0.60, 0.66, 0.73)),  # overcast
    ((0.99, 0.80, 0.78), (0.42, 0.38, 0.66)),  # dusk
    ((0.87, 0.95, 0.92), (0.30, 0.63, 0.72)),  # morning
)
"""Display RGB at the horizon and at the zenith."""


@dataclass(frozen=True)
class Camera:
    """Pose in the world, whose z is up and whose ground is z = 0.

    axes: (3, 3), rows right, down, forward; position: (3,); distance: metres to the first object.
    """

    axes: np.ndarray
    position: np.ndarray
    distance: float
    focal: float

    def see(self, surface: Surface) -> Surface:
        """A surface of the world in the camera's frame, in single precision."""
        centre = (self.axes @ (surface.centre - self.position)).astype(np.float32)
        return Surface(
            surface.kind,
            centre,
            (self.axes @ surface.axes).astype(np.float32),
            surface.size.astype(np.float32),
        )


def draw_scene(rng: np.random.Generator) -> Scene:
    """A random scene. The first object is near the middle of the picture; the others stand around it."""
    first = stand(rng, draw_solid(rng), np.zeros(2))
    camera = draw_camera(rng, first)
    walls = draw_walls(rng, camera, first)
    solids = [first]
    for _ in range(rng.choice(6, p=(0.15, 0.2, 0.2, 0.2, 0.15, 0.1))):
        solids += place(rng, camera, walls, solids)
    ground = plane(np.zeros(3), np.array([0.0, 0, 1]), np.array([1.0, 0, 0]))
    materials = [
        draw_material(rng, SOLID_CELLS, hue) for hue in (rng.random() + 0.618 * np.arange(len(solids))) % 1
    ]
    materials += [draw_material(rng, GROUND_CELLS)] + [draw_material(rng, WALL_CELLS) for _ in walls]
    surfaces = [camera.see(surface) for surface in (*solids, ground, *walls)]
    light = draw_light(rng, camera, walls)
    return Scene(surfaces, materials, len(solids), light, camera.focal, noise=rng.uniform(0.003, 0.014))


def turn(axis: int, angle: float) -> np.ndarray:
    """Rotation (3, 3) by an angle in radians about the x, y or z axis."""
    c, s = cos(angle), sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[[i, j, i, j], [i, j, j, i]] = c, c, -s, s
    return matrix


def draw_solid(rng: np.random.Generator) -> Surface:
    """A solid at the origin: upright for the most part, else lying on its side, or tumbling."""
    kind = KINDS[rng.integers(4)]
    size = {
        "sphere": np.full(3, rng.uniform(0.27, 0.45)),
        "box": rng.uniform(0.2, 0.4, 3),
        "cylinder": np.array([1, 1, rng.uniform(0.8, 2.0)]) * rng.uniform(0.2, 0.32),
        "cone": np.array([1, 1, rng.uniform(0.8, 1.4)]) * rng.uniform(0.28, 0.44),
    }[kind]
    yaw, spin, pose = turn(2, rng.uniform(0, 2 * pi)), turn(2, rng.uniform(0, 2 * pi)), rng.random()
    tilt = 0.0
    if pose < 0.2:
        tilt = pi / 2 + (atan2(size[0], 2 * size[2]) if kind == "cone" else 0)
    elif pose < 0.35:
        tilt = rng.uniform(0, pi)
    return Surface(kind, np.zeros(3), yaw @ turn(0, tilt) @ spin, size)


def stand(rng: np.random.Generator, solid: Surface, at: np.ndarray) -> Surface:
    """The solid moved over the point `at` (2,) of the ground: touching it, or one time in five afloat."""
    gap = rng.uniform(0.05, 0.5) if rng.random() < 0.2 else 0.0
    height = solid.below(np.array([0.0, 0, 1])) + gap
    return Surface(solid.kind, np.array([*at, height]), solid.axes, solid.size)


def draw_camera(rng: np.random.Generator, first: Surface) -> Camera:
    """A camera that looks down by 3 to 65 degrees, rolled, with `first` near the middle of the picture.

    The distance follows from how large `first` shall appear: its bounding sphere spans 0.2 to 1.1 sides.
    """
    pitch, roll, yaw = np.deg2rad([rng.uniform(3, 65), rng.uniform(-30, 30), rng.uniform(0, 360)])
    axes = turn(2, roll) @ turn(0, pi / 2 + pitch) @ turn(2, yaw)
    focal = rng.uniform(1.0, 1.2)
    distance = 2 * first.radius * focal / rng.uniform(0.2, 1.1)
    shift = rng.uniform(-0.22, 0.22, 2) * distance / focal
    position = first.centre - axes.T @ np.array([*shift, distance])
    position[2] = max(position[2], 0.15)
    return Camera(axes, position, distance, focal)


def plane(point: np.ndarray, normal: np.ndarray, along: np.ndarray) -> Surface:
    """The plane through a point with a unit normal; `along` is a unit vector in it, its own x."""
    return Surface("plane", point, np.stack([along, np.cross(normal, along), normal], 1), np.zeros(3))


def draw_walls(rng: np.random.Generator, camera: Camera, first: Surface) -> list[Surface]:
    """No wall, one, or the two of a corner, behind `first` and at an angle."""
    back = -camera.axes[2, :2] / hypot(*camera.axes[2, :2])
    towards_camera = atan2(back[1], back[0])
    turns = {0: [], 1: [rng.uniform(-65, 65)], 2: [rng.uniform(-75, -25), rng.uniform(25, 75)]}
    walls = []
    for angle in np.deg2rad(turns[int(rng.choice(3, p=(0.5, 0.34, 0.16)))]) + towards_camera:
        normal = np.array([cos(angle), sin(angle), 0])
        point = first.centre * [1, 1, 0] - normal * (first.radius + rng.uniform(0.1, 2.0))
        walls.append(plane(point, normal, np.array([-normal[1], normal[0], 0])))
    return walls


def place(
    rng: np.random.Generator, camera: Camera, walls: list[Surface], solids: list[Surface]
) -> list[Surface]:
    """One more solid, clear of the others, of the walls and of the camera; none where no room is found."""
    solid = draw_solid(rng)
    forward = camera.axes[2, :2] / hypot(*camera.axes[2, :2])
    side = np.array([forward[1], -forward[0]])
    depth = 0.5 / max(-camera.axes[2, 2], 0.1)  # of the ground in view, seen more steeply it is less
    for _ in range(8):
        away = camera.distance * rng.uniform(-min(0.3, depth), min(1.2, depth))
        reach = (camera.distance + away) / camera.focal * 0.55
        placed = stand(rng, solid, away * forward + rng.uniform(-reach, reach) * side)
        free = all(hypot(*(placed.centre - s.centre)[:2]) > placed.radius + s.radius for s in solids)
        free &= all((placed.centre - w.centre) @ w.axes[:, 2] > placed.radius for w in walls)
        if free and np.linalg.norm(placed.centre - camera.position) > placed.radius + 0.35 * camera.distance:
            return [placed]
    return []


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Linear RGB (3,) of a colour given as hue, saturation and value of its display RGB, each in [0, 1]."""
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return (value * (1 - saturation + saturation * wheel)) ** 2


def single(values: npt.ArrayLike) -> np.ndarray:
    """Values as an array in single precision."""
    return np.asarray(values, np.float32)


def draw_material(rng: np.random.Generator, cells: dict[str, float], hue: float | None = None) -> Material:
    """A pattern of two related colours: vivid in the hue that is given to a solid, quiet for scenery."""
    pattern = list(cells)[rng.integers(len(cells))]
    if hue is None:
        hue, saturation, bright = rng.random(), rng.uniform(0.04, 0.32), rng.uniform(0.66, 0.94)
        pair = rgb(hue, saturation, bright), rgb(hue + 0.03, saturation, bright * rng.uniform(0.62, 0.8))
        phase = np.array([*rng.uniform(0, 9, 2), cells[pattern] / 2])  # z: in the middle of a cell
        gloss = 0.0
    else:
        saturation, bright = rng.uniform(0.5, 0.8), rng.uniform(0.75, 0.95)
        other = rgb(hue, 0.12, 0.95) if rng.random() < 0.5 else rgb(hue + 0.05, saturation, bright * 0.55)
        pair, phase, gloss = (
            (rgb(hue, saturation, bright), other),
            rng.uniform(0, 9, 3),
            rng.choice([0.0, 0.15, 0.5]),
        )
    return Material(pattern, cells[pattern], single(pair), single(phase), float(gloss))


def draw_light(rng: np.random.Generator, camera: Camera, walls: list[Surface]) -> Light:
    """A sun 25 to 65 degrees high that shines on every wall's front, and one of the skies."""
    height, azimuth = np.deg2rad([rng.uniform(25, 65), rng.uniform(0, 360)])
    towards = np.array([cos(azimuth) * cos(height), sin(azimuth) * cos(height), sin(height)])
    for wall in walls:
        normal = wall.axes[:, 2]
        towards += max(0.25 - towards @ normal, 0) * normal
    towards /= np.linalg.norm(towards)
    horizon, zenith = (single(colour) ** 2 for colour in SKIES[rng.integers(len(SKIES))])
    tint = zenith + horizon + 0.8
    warmth = np.array([1, rng.uniform(0.88, 0.98), rng.uniform(0.7, 0.95)])
    return Light(
        towards=(camera.axes @ towards).astype(np.float32),
        up=camera.axes[:, 2].astype(np.float32),
        sun=single(warmth * rng.uniform(0.65, 0.95)),
        ambient=single(tint / tint.mean() * rng.uniform(0.3, 0.46)),
        horizon=horizon,
        zenith=zenith,
    )
