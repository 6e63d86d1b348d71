"""Ray casting: where rays first meet spheres, boxes, cylinders, cones and planes, and which way these face.

All in the camera's frame: x right, y down, z forward, metres. Vectors lie component first, (3, n) float32;
no sum is longer than three terms and none goes through BLAS, so that results are the same bytes for any
thread count. A ray is origin + t * direction; a direction need not be a unit vector. With z = 1 in it and
the origin at the camera, t is the depth along the optical axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEAR = 1e-4
"""Hits nearer than this (as t) are none: the ray has just left this surface."""
TINY = np.float32(1e-12)


@dataclass(frozen=True)
class Surface:
    """A solid or a plane.

    kind: "sphere", "box", "cylinder", "cone" or "plane". centre: (3,) float32. axes: (3, 3) float32, the
    columns are its own x, y, z. size: (3,) float32, half its extent along them: a sphere is (r, r, r), a
    cylinder or cone (r, r, half height) with the axis along its own z and the cone's tip at +z. A plane has
    no size; it is seen from the side to which its own z points.
    """

    kind: str
    centre: np.ndarray
    axes: np.ndarray
    size: np.ndarray

    @property
    def radius(self) -> float:
        """Radius of a sphere around the centre that holds the solid; infinite for a plane."""
        x, y, z = (float(s) for s in self.size)
        bounds = {"sphere": x, "box": (x * x + y * y + z * z) ** 0.5, "plane": float("inf")}
        return bounds.get(self.kind, (x * x + z * z) ** 0.5)

    def below(self, up: np.ndarray) -> float:
        """How far the solid reaches from its centre against the unit vector `up` (its support function)."""
        x, y, z = (abs(float(c)) for c in up @ self.axes)
        tilt = float(up @ self.axes[:, 2])
        r, _, h = (float(s) for s in self.size)
        rim = r * max(0.0, 1 - z * z) ** 0.5
        if self.kind == "sphere":
            return r
        if self.kind == "box":
            return float(self.size @ np.array([x, y, z]))
        if self.kind == "cylinder":
            return z * h + rim
        return max(-tilt * h, tilt * h + rim)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products of (3, n) and (3, n), either n may be 1 -> (n,)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def rotate(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """matrix (3, 3) @ vectors (3, n) -> (3, n)."""
    x, y, z = vectors
    out = np.empty(vectors.shape, vectors.dtype)
    for row, result in zip(matrix, out):
        np.multiply(row[0], x, out=result)
        result += row[1] * y
        result += row[2] * z
    return out


def cast(surfaces: Sequence[Surface], directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first surface that each ray from the camera meets.

    directions (3, n) -> t (n,) float32, infinite where there is none, and the surface's index (n,) int8 or
    -1.
    """
    origin = np.zeros((3, 1), np.float32)
    n = directions.shape[1]
    nearest, which = np.full(n, np.inf, np.float32), np.full(n, -1, np.int8)
    squared = dot(directions, directions)
    for i, surface in enumerate(surfaces):
        rays, t = intersect(surface, origin, directions, squared)
        closer = t < nearest[rays]
        rays = rays[closer]
        nearest[rays], which[rays] = t[closer], i
    return nearest, which


def shadowed(surfaces: Sequence[Surface], points: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Whether a surface stands between points (3, n) and a distant light in direction (3,) -> (n,) bool."""
    dark = np.zeros(points.shape[1], bool)
    squared = dot(light, light)
    for surface in surfaces:
        rays, t = intersect(surface, points, light[:, None], squared)
        dark[rays[t < np.inf]] = True
    return dark


def intersect(
    surface: Surface, origin: np.ndarray, direction: np.ndarray, squared: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Meet one surface with rays from outside it.

    origin and direction (3, n), either n may be 1; squared: dot(direction, direction).
    -> indices of the rays that come near it, and their t, infinite where they miss.
    """
    offset = origin - surface.centre[:, None]
    if surface.kind == "plane":
        normal = surface.axes[:, 2]
        slope = dot(normal, direction)
        t = -dot(normal, offset) / np.where(slope < 0, slope, -TINY)
        return np.arange(t.size), np.where((slope < 0) & (t > NEAR), t, np.inf)
    middle = -dot(offset, direction) / squared
    apart = dot(offset, offset) - middle * middle * squared
    bound = surface.radius
    rays = np.flatnonzero((apart < bound * bound * 1.001 + 1e-5) & (middle * squared > -bound * squared**0.5))
    middle = middle[rays]
    direction = direction.take(rays, 1) if direction.shape[1] > 1 else direction
    offset = offset.take(rays, 1) if offset.shape[1] > 1 else offset
    # Start at the point nearest to the centre: the roots below are then small and lose no digits.
    inward = surface.axes.T
    o, d = rotate(inward, offset + middle * direction), rotate(inward, direction)
    enters, leaves = CROSSINGS[surface.kind](o, d, surface.size)
    t = middle + enters
    return rays, np.where((enters < leaves) & (t > NEAR), t, np.inf)


def cross_sphere(o: np.ndarray, d: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays (own frame) enter and leave a sphere; enters >= leaves for a miss."""
    return cross_circle(dot(o, o), dot(o, d), dot(d, d), size[0])


def cross_circle(oo: np.ndarray, od: np.ndarray, dd: np.ndarray, r: float) -> tuple[np.ndarray, np.ndarray]:
    """Solve |o + t d| = r from the scalar products of o and d; half a chord either side of its middle."""
    dd = np.maximum(dd, TINY)
    middle = -od / dd
    half = np.sqrt(np.maximum((r * r - oo - od * middle) / dd, 0))
    return middle - half, middle + half


def cross_slab(o: np.ndarray, d: np.ndarray, half: float) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave |z| <= half (Kay and Kajiya 1986), o and d (n,) along z."""
    inverse = 1 / np.where(np.abs(d) < TINY, TINY, d)
    middle, reach = -o * inverse, half * np.abs(inverse)
    return middle - reach, middle + reach


def cross_box(o: np.ndarray, d: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave a box: inside all three slabs."""
    (x0, x1), (y0, y1), (z0, z1) = (cross_slab(o[k], d[k], size[k]) for k in range(3))
    return np.maximum(np.maximum(x0, y0), z0), np.minimum(np.minimum(x1, y1), z1)


def cross_cylinder(o: np.ndarray, d: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave a cylinder: inside the circle and the slab."""
    oo, od, dd = (a[0] * b[0] + a[1] * b[1] for a, b in ((o, o), (o, d), (d, d)))
    (r0, r1), (z0, z1) = cross_circle(oo, od, dd, size[0]), cross_slab(o[2], d[2], size[2])
    return np.maximum(r0, z0), np.minimum(r1, z1)


def cross_cone(o: np.ndarray, d: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave a cone: x² + y² <= k² (z - tip)², inside the slab that leaves one nappe."""
    k2 = (size[0] / (2 * size[2])) ** 2
    z = o[2] - size[2]
    a = d[0] * d[0] + d[1] * d[1] - k2 * d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] - k2 * z * d[2]
    c = o[0] * o[0] + o[1] * o[1] - k2 * z * z
    a = np.where(np.abs(a) < 1e-7, np.float32(1e-7), a)
    discriminant = b * b - a * c
    root = np.sqrt(np.maximum(discriminant, 0)) / np.abs(a)
    first, last = -b / a - root, -b / a + root
    # A steep ray (a < 0) is inside before its first root, in one nappe, and after its last, in the other.
    steep, falling = a < 0, d[2] < 0
    enters = np.where(steep, np.where(falling, last, -np.inf), first)
    leaves = np.where(steep, np.where(falling, np.inf, first), last)
    z0, z1 = cross_slab(o[2], d[2], size[2])
    missed = ~steep & (discriminant <= 0)
    return np.where(missed, np.inf, np.maximum(enters, z0)), np.minimum(leaves, z1)


CROSSINGS = {"sphere": cross_sphere, "box": cross_box, "cylinder": cross_cylinder, "cone": cross_cone}


def normals(surface: Surface, p: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Unit normals at points p (3, n) of a surface, met by rays d (3, n); all in the surface's own frame.

    On an edge the face that the ray can see is taken.
    """
    out = np.zeros_like(p)
    if surface.kind == "plane":
        out[2] = 1
    elif surface.kind == "sphere":
        out[:] = p / np.sqrt(dot(p, p))
    elif surface.kind == "box":
        face = np.where(p * d < 0, np.abs(p) / surface.size[:, None], 0).argmax(0)
        columns = np.arange(p.shape[1])
        out[face, columns] = -np.sign(d[face, columns])
    else:
        r, _, h = surface.size
        slope = r / (2 * h) if surface.kind == "cone" else np.float32(0)
        rho = np.maximum(np.sqrt(p[0] * p[0] + p[1] * p[1]), TINY)
        scale = 1 / (rho * np.sqrt(1 + slope * slope))
        out[:2], out[2] = p[:2] * scale, slope / np.sqrt(1 + slope * slope)
        off_side = np.abs(slope * (h - p[2]) - rho if surface.kind == "cone" else r - rho)
        flat = (h - np.abs(p[2]) < off_side) | (dot(out, d) >= 0)
        flat &= (p[2] * d[2] < 0) & ((p[2] < 0) | (surface.kind == "cylinder"))
        out[:, flat] = 0
        out[2, flat] = -np.sign(d[2, flat])
    return out
