"""Pictures of ray-cast surfaces: patterns in metres, sun, sky, shadow, haze; and the exact geometry beside.

Lambert and Blinn-Phong shading under a distant sun and an ambient sky. What is known of a pixel is what the
ray through its centre meets; only the colour is averaged, over four rays, where a pixel lies on an edge
(Whitted 1980).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retinue.datasets.raycast import Surface, cast, dot, normals, rotate, shadowed

FAR = 20.0
"""Metres along the optical axis beyond which all is haze: no depth and no normal is known there."""
CLEAR = 7.0
"""Metres up to which there is no haze."""
LATTICE = np.random.default_rng(0).random((32, 32, 32), dtype=np.float32).ravel()
"""Random values on a periodic grid, the ground of `noise` and of the tint of tiles."""


@dataclass(frozen=True)
class Material:
    """What a surface looks like.

    pattern: "plain", "checker", "stripes", "noise", "tiles" or "bricks". cell: its size in metres. colours:
    (2, 3) float32, linear RGB in [0, 1], the pattern mixes them. phase: (3,) float32, where the pattern
    starts, metres. gloss: strength of the highlight.
    """

    pattern: str
    cell: float
    colours: np.ndarray
    phase: np.ndarray
    gloss: float = 0.0


@dataclass(frozen=True)
class Light:
    """A distant sun and a sky. towards: (3,) unit vector to the sun; up: (3,) unit vector to the zenith.

    sun, ambient: (3,) colours of the two lights. horizon, zenith: (3,) colours of the sky. All linear RGB.
    """

    towards: np.ndarray
    up: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    horizon: np.ndarray
    zenith: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Surfaces in the camera's frame, a material for each, and the light.

    The first `solids` surfaces are objects, the others scenery (planes, which cast no shadow). focal: focal
    length in units of the picture's shorter side. noise: standard deviation of the sensor's noise, colours
    in [0, 1].
    """

    surfaces: Sequence[Surface]
    materials: Sequence[Material]
    solids: int
    light: Light
    focal: float
    noise: float


@dataclass(frozen=True)
class View:
    """A rendered scene. colour: (h, w, 3) float32, display RGB in [0, 1], without the sensor's noise.

    which: (h, w) int8, the surface that is seen, -1 none. depth (h, w), normals (3, h, w): as in
    `targets.KEYS`.
    """

    colour: np.ndarray
    which: np.ndarray
    depth: np.ndarray
    normals: np.ndarray


def intrinsics(focal: float, height: int, width: int) -> np.ndarray:
    """The camera's matrix (3, 3) float32 in pixels; the optical axis goes through the middle of the picture.

    The focal length follows the shorter side: pictures of any shape show the same central square.
    """
    f = focal * min(height, width)
    return np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]], np.float32)


def render(scene: Scene, height: int, width: int) -> View:
    """Cast one ray through the centre of every pixel, and four more through those on edges."""
    f = scene.focal * min(height, width)
    x, y = np.meshgrid((np.arange(width) + 0.5 - width / 2) / f, (np.arange(height) + 0.5 - height / 2) / f)
    rays = np.stack([x.ravel(), y.ravel(), np.ones(height * width)]).astype(np.float32)
    colour, which, depth, normal, lit = look(scene, rays, 1 / f)
    shape = (height, width)
    edges = np.flatnonzero(on_edge(which.reshape(shape), normal.reshape(3, *shape), lit.reshape(shape)))
    if edges.size:
        corners = np.array([(-1, -1, 0), (-1, 1, 0), (1, -1, 0), (1, 1, 0)], np.float32) * np.float32(
            0.25 / f
        )
        around = (corners.T[:, :, None] + rays[:, None, edges]).reshape(3, -1)
        finer = look(scene, around, 0.5 / f)[0].reshape(3, 4, edges.size)
        colour[:, edges] = (finer[:, 0] + finer[:, 1] + finer[:, 2] + finer[:, 3]) / 4
    display = np.sqrt(np.clip(colour, 0, 1)).reshape(3, *shape)  # gamma 2
    picture = np.ascontiguousarray(display.transpose(1, 2, 0))
    return View(picture, which.reshape(shape), depth.reshape(shape), normal.reshape(3, *shape))


def look(scene: Scene, rays: np.ndarray, pixel: float) -> tuple[np.ndarray, ...]:
    """What rays (3, n) with z = 1 see. pixel: a pixel's width at a depth of one metre.

    -> colour (3, n) linear RGB, which (n,) int8, depth (n,), normals (3, n), lit by the sun (n,) bool.
    """
    depth, which = cast(scene.surfaces, rays)
    which[depth >= FAR] = -1
    # Sorted by surface, with the sky before all, every surface is a slice.
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(len(scene.surfaces) + 1))
    rays, depth, known = rays.take(order, 1), depth[order], slice(starts[0], None)
    depth[: starts[0]] = 0
    points, normal, albedo = rays * depth, np.zeros_like(rays), np.zeros_like(rays)
    shine, lit = np.zeros_like(depth), np.zeros(depth.shape, bool)
    for surface, material, start, stop in zip(scene.surfaces, scene.materials, starts, starts[1:]):
        part, inward = slice(start, stop), surface.axes.T
        local = rotate(inward, points[:, part] - surface.centre[:, None])
        facing = normals(surface, local, rotate(inward, rays[:, part]))
        normal[:, part] = rotate(surface.axes, facing)
        slant = np.maximum(-dot(normal[:, part], rays[:, part]), 0.05)
        albedo[:, part] = paint(material, local, depth[part] * pixel / slant)
        if material.gloss:
            shine[part] = material.gloss * highlight(scene.light, rays[:, part], normal[:, part])
    colour, haze = sky(scene.light, rays), np.clip((depth[known] - CLEAR) / (FAR - CLEAR), 0, 1)
    shaded, lit[known] = shade(scene, points[:, known], normal[:, known], albedo[:, known], shine[known])
    colour[:, known] = shaded + haze * (scene.light.horizon[:, None] - shaded)
    back = np.empty_like(order)
    back[order] = np.arange(order.size)
    return colour.take(back, 1), which, depth[back], normal.take(back, 1), lit[back]


def shade(
    scene: Scene, points: np.ndarray, normal: np.ndarray, albedo: np.ndarray, shine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Light on points (3, n) that are seen -> colour (3, n) and whether the sun reaches them (n,)."""
    light, solids = scene.light, scene.surfaces[: scene.solids]
    slope = dot(normal, light.towards[:, None])
    lit = slope > 0
    front = np.flatnonzero(lit)
    outside = points.take(front, 1) + np.float32(2e-3) * normal.take(front, 1)
    lit[front] = ~shadowed(solids, outside, light.towards)
    sun = slope * lit
    open_sky = (0.7 + 0.3 * dot(normal, light.up[:, None])) * openness(solids, points, normal)
    shine = shine * lit
    colour = np.empty_like(points)
    for k in range(3):
        colour[k] = albedo[k] * (light.ambient[k] * open_sky + light.sun[k] * sun) + light.sun[k] * shine
    return colour, lit


def highlight(light: Light, rays: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The mirrored sun on a glossy surface (Blinn 1977): cosine to the half vector, to the 32nd power."""
    half = light.towards[:, None] - rays / np.sqrt(dot(rays, rays))
    shine = np.maximum(dot(half, normal), 0) / np.sqrt(dot(half, half))
    for _ in range(5):
        shine *= shine
    return shine


def openness(solids: Sequence[Surface], points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Share of the sky that the solids leave open over points (3, n), each taken for a sphere -> (n,)."""
    free = np.ones(points.shape[1], np.float32)
    for solid in solids:
        x, y, z = (float(s) for s in solid.size)
        squared = np.float32((x * y * z) ** (2 / 3))
        away = solid.centre[:, None] - points
        distance = np.maximum(dot(away, away), squared)
        free *= 1 - np.maximum(dot(away, normal), 0) * squared / (distance * np.sqrt(distance))
    return free


def sky(light: Light, rays: np.ndarray) -> np.ndarray:
    """Colour of the sky in the direction of rays (3, n): a gradient from the horizon to the zenith."""
    height = np.clip(dot(rays, light.up[:, None]) / np.sqrt(dot(rays, rays)) * 1.6, 0, 1)
    height = height * (2 - height)
    return np.stack([h + (z - h) * height for h, z in zip(light.horizon, light.zenith)])


def on_edge(which: np.ndarray, normal: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """Pixels whose neighbour shows another surface or face, or the other side of a shadow -> (h, w) bool."""
    edge = np.zeros(which.shape, bool)
    for first, second in (
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
    ):
        differs = (which[first] != which[second]) | (lit[first] != lit[second])
        differs |= (dot(normal[:, *first], normal[:, *second]) < 0.85) & (which[first] >= 0)
        edge[first] |= differs
        edge[second] |= differs
    return edge


def paint(material: Material, p: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Colour (3, n) of a material at points p (3, n) of its surface's own frame, in metres.

    width: (n,) metres of the surface that one pixel covers; a pattern finer than that fades to its mean.
    """
    first, second = material.colours
    if material.pattern == "plain":
        return np.repeat(first[:, None], p.shape[1], axis=1)
    share = PATTERNS[material.pattern]((p + material.phase[:, None]) / material.cell, width / material.cell)
    return first[:, None] + (second - first)[:, None] * share


def wave(x: np.ndarray, width: np.ndarray) -> np.ndarray:
    """A square wave of -1 and 1 over cells of side 1, averaged over `width`."""
    x = x + 0.5
    x = x - 2 * np.floor(x / 2)
    return np.clip((0.5 - np.abs(x - 1)) * 2 / np.maximum(width, 1e-4), -1, 1)


def checker(p: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Cubes in two colours -> share of the second (n,)."""
    return 0.5 + 0.5 * wave(p[0], width) * wave(p[1], width) * wave(p[2], width)


def stripes(p: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Slices across a slanted axis."""
    return 0.5 + 0.5 * wave(0.6 * p[0] + 0.8 * p[2], width)


def joints(x: np.ndarray, width: np.ndarray, half: float = 0.03) -> np.ndarray:
    """Lines of half a width `half` between cells of side 1, averaged over `width` -> coverage (n,)."""
    width = np.maximum(width, 1e-4)
    distance = np.abs(x - np.floor(x + 0.5))
    return np.clip((half + width / 2 - distance) / width, 0, np.minimum(1, 2 * half / width))


def tiles(p: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Square tiles on the plane, each with its tint, between joints."""
    u, v = np.floor(p[0]).astype(np.int32), np.floor(p[1]).astype(np.int32)
    tint = LATTICE[(u & 31) * 32 + (v & 31)]
    tint = 0.25 + (tint - 0.5) * 0.5 * np.clip(2 - width, 0, 1)
    return np.maximum(tint, np.maximum(joints(p[0], width), joints(p[1], width)))


def bricks(p: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Courses of bricks, two by one, every other course moved by half a brick."""
    row = np.floor(p[1])
    return tiles(np.stack([p[0] / 2 + row / 2, p[1], p[2]]), width)


def noise(p: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Value noise of two octaves: random values on a grid, smoothly interpolated."""
    coarse, fine = np.clip(2 - width, 0, 1), np.clip(2 - 2 * width, 0, 1)
    return np.clip(0.5 + 1.2 * coarse * (value(p) - 0.5) + 0.8 * fine * (value(p * 2.3) - 0.5), 0, 1)


def value(p: np.ndarray) -> np.ndarray:
    """Trilinear interpolation in `LATTICE` with smoothed weights, p (3, n) in cells -> (n,)."""
    cell = np.floor(p)
    f = p - cell
    f = f * f * (3 - 2 * f)
    low = cell.astype(np.int32) & 31
    high = (low + 1) & 31
    (x0, y0, z0), (x1, y1, z1) = low * STEPS, high * STEPS
    planes = []
    for x in (x0, x1):
        rows = [LATTICE[x + y + z0] + f[2] * (LATTICE[x + y + z1] - LATTICE[x + y + z0]) for y in (y0, y1)]
        planes.append(rows[0] + f[1] * (rows[1] - rows[0]))
    return planes[0] + f[0] * (planes[1] - planes[0])


STEPS = np.array([[1024], [32], [1]], np.int32)
PATTERNS = {"checker": checker, "stripes": stripes, "noise": noise, "tiles": tiles, "bricks": bricks}
