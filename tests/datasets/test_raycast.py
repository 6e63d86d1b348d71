"""Intersections: hand-computed cases, and a march along the ray as an independent second opinion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.datasets.raycast import Surface, cast, dot, normals, rotate, shadowed
from retinue.datasets.scenery import KINDS, turn

UP_IS_MINUS_Y = turn(0, np.pi / 2).astype(np.float32)  # own z points up in the picture


def surface(kind, centre, size=(1, 1, 1), axes=None):
    axes = np.eye(3) if axes is None else axes
    return Surface(kind, np.float32(centre), np.float32(axes), np.float32(size))


def rays(*directions):
    return np.float32(directions).T


def inside(solid, points):
    """Whether points (3, n) of the solid's own frame are in it, from the solid's definition."""
    x, y, z = np.abs(points)
    a, b, c = (float(s) for s in solid.size)
    rho = np.hypot(x, y)
    return {
        "sphere": rho**2 + z**2 <= a**2,
        "box": (x <= a) & (y <= b) & (z <= c),
        "cylinder": (rho <= a) & (z <= c),
        "cone": (z <= c) & (rho <= a * (c - points[2]) / (2 * c)),
    }[solid.kind]


def test_sphere_ahead():
    sphere = surface("sphere", (0, 0, 5))
    t, which = cast([sphere], rays((0, 0, 1), (0.3, 0, 1), (0, 0, -1)))
    assert t.tolist() == [4, np.inf, np.inf]
    assert which.tolist() == [0, -1, -1]
    assert normals(sphere, rays((0, 0, -1)), rays((0, 0, 1)))[:, 0].tolist() == [0, 0, -1]


def test_sphere_at_a_slant():
    # The chord of x = z / 5 through a unit sphere at z = 5: t² (26 / 25) - 10 t + 24 = 0.
    t, _ = cast([surface("sphere", (0, 0, 5))], rays((0.2, 0, 1)))
    assert t[0] == pytest.approx((10 - np.sqrt(100 - 4 * 24 * 26 / 25)) / (2 * 26 / 25), rel=1e-6)


def test_wall_is_as_deep_everywhere_and_has_no_back():
    wall = surface("plane", (0, 0, 3), axes=turn(0, np.pi))
    assert np.allclose(wall.axes[:, 2], (0, 0, -1))
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 9), np.linspace(-0.5, 0.5, 9))
    fan = np.stack([x.ravel(), y.ravel(), np.ones(81)]).astype(np.float32)
    assert np.allclose(cast([wall], fan)[0], 3, rtol=1e-6)
    assert np.isinf(cast([surface("plane", (0, 0, 3))], fan)[0]).all()


def test_box_silhouette():
    box = surface(
        "box", (0, 0, 4.25), (1, 0.5, 0.25)
    )  # its front, at 4 m, spans 0.25 and 0.125 in x / z, y / z
    t, _ = cast([box], rays((0.249, 0.124, 1), (0.251, 0, 1), (0, 0.126, 1), (0, 0, 1)))
    assert np.allclose(t, [4, np.inf, np.inf, 4])


def test_box_face_seen_from_the_side():
    box = surface("box", (2, 0, 4), (1, 1, 1))
    t, _ = cast([box], rays((0.3, 0, 1)))  # meets x = 1 at t = 1 / 0.3
    assert t[0] == pytest.approx(1 / 0.3, rel=1e-6)
    local = rays((-1, 0, 1 / 0.3 - 4))
    assert normals(box, local, rays((0.3, 0, 1)))[:, 0].tolist() == [-1, 0, 0]


def test_cylinder_standing():
    cylinder = surface("cylinder", (0, 0, 5), (1, 1, 0.5), UP_IS_MINUS_Y)
    edge = 1 / np.sqrt(24)  # tangent to the circle from 5 m
    t, _ = cast([cylinder], rays((0, 0, 1), (edge - 1e-3, 0, 1), (edge + 1e-3, 0, 1), (0, 0.13, 1)))
    assert t[0] == pytest.approx(4, rel=1e-6)
    assert np.isfinite(t).tolist() == [True, True, False, False]


def test_cylinder_seen_along_its_axis_shows_its_lid():
    cylinder = surface("cylinder", (0, 0, 5), (1, 1, 0.5))
    t, _ = cast([cylinder], rays((0, 0, 1), (0.2, 0, 1), (0.23, 0, 1)))  # the rim of the lid is at 1 / 4.5
    assert np.allclose(t, [4.5, 4.5, np.inf])
    assert np.array_equal(normals(cylinder, rays((0, 0, -0.5)), rays((0, 0, 1)))[:, 0], (0, 0, -1))


def test_on_the_far_rim_rounding_never_picks_the_hidden_side():
    cylinder = surface("cylinder", (0, 0, 5), (1, 1, 0.5))
    lid = normals(cylinder, rays((0, 1, 0.4999999)), rays((0, 1, -0.3)))
    assert lid[:, 0].tolist() == [0, 0, 1]


def test_cone_standing():
    cone = surface("cone", (0, 0, 5), (1, 1, 1), UP_IS_MINUS_Y)  # tip at y = -1, base at y = 1
    t, _ = cast([cone], rays((0, 0, 1), (0, -0.21, 1), (0, 0.19, 1), (0, 0.27, 1)))
    assert t[0] == pytest.approx(4.5, rel=1e-6)  # half the base's radius at half height
    assert np.isfinite(t).tolist() == [True, False, True, False]
    normal = normals(cone, rays((0, -0.5, 0)), rays((0, 1, 0)))[:, 0]
    assert np.allclose(normal, np.array([0, -2, 1]) / np.sqrt(5))


def test_nearest_of_several_wins():
    scene = [surface("sphere", (0, 0, z), (0.5, 0.5, 0.5)) for z in (6, 3, 9)]
    t, which = cast(scene, rays((0, 0, 1)))
    assert (t[0], which[0]) == (2.5, 1)


def test_shadow_under_a_ball():
    ball = surface("sphere", (0, -1, 5), (0.5, 0.5, 0.5))
    light = np.float32((0, -1, 0))  # from straight above
    points = rays((0, 0, 5), (0.49, 0, 5), (0.51, 0, 5), (0, -2, 5))
    assert shadowed([ball], points, light).tolist() == [True, True, False, False]


poses = st.tuples(*[st.floats(-3.1, 3.1)] * 3)


@given(
    kind=st.sampled_from(KINDS),
    angles=poses,
    size=st.tuples(*[st.floats(0.2, 0.6)] * 3),
    far=st.floats(1.5, 8),
)
@settings(max_examples=80, deadline=None)
def test_a_march_along_the_ray_finds_the_same_surface(kind, angles, size, far):
    if kind != "box":
        size = (size[0], size[0], size[0] if kind == "sphere" else size[2])
    axes = turn(0, angles[0]) @ turn(1, angles[1]) @ turn(2, angles[2])
    solid = surface(kind, (0.1, -0.2, far), size, axes)
    x, y = np.meshgrid(*[np.linspace(-0.9, 0.9, 13) / far] * 2)
    fan = np.stack([x.ravel() + 0.1 / far, y.ravel() - 0.2 / far, np.ones(169)]).astype(np.float32)
    t, _ = cast([solid], fan)
    steps = np.linspace(far - 1.2, far + 1.2, 1201)
    local = np.einsum("ji,jrs->irs", axes, fan[:, :, None] * steps - solid.centre[:, None, None])
    within = inside(solid, local.reshape(3, -1)).reshape(169, -1)
    marched = within.any(1)
    first = steps[within.argmax(1)]
    assert np.isfinite(t[marched]).all()
    assert (t[marched] <= first[marched] + 1e-4).all()
    # A hit that the march stepped over is a corner or an edge shorter than a step or so.
    assert (np.isinf(t) | marched).mean() > 0.9
    met = np.flatnonzero(np.isfinite(t))
    p = rotate(solid.axes.T, fan[:, met] * t[met] - solid.centre[:, None])
    assert inside(solid, p * 0.999 * np.ones(3)[:, None]).all()
    shrunk = p + 2e-3 * rotate(solid.axes.T, fan[:, met]) * -1
    assert not inside(solid, shrunk).any()  # a little nearer to the camera is outside


@given(kind=st.sampled_from(KINDS), angles=poses)
@settings(max_examples=60, deadline=None)
def test_normals_are_unit_facing_and_at_right_angles_to_the_surface(kind, angles):
    axes = turn(0, angles[0]) @ turn(1, angles[1]) @ turn(2, angles[2])
    solid = surface(kind, (0, 0, 3), (0.5, 0.5, 0.5 if kind == "sphere" else 0.7), axes)
    rng = np.random.default_rng(0)
    fan = np.stack([*rng.uniform(-0.25, 0.25, (2, 400)), np.ones(400)]).astype(np.float32)
    offsets = (np.zeros((3, 1)), np.array([[1e-3], [0], [0]]), np.array([[0], [1e-3], [0]]))
    (p, _), (right, ok1), (down, ok2) = (hits(solid, fan + o.astype(np.float32)) for o in offsets)
    met = np.isfinite(p[2]) & ok1 & ok2
    d = rotate(solid.axes.T, fan[:, met])
    normal = normals(solid, p[:, met], d)
    assert np.allclose(dot(normal, normal), 1, atol=1e-5)
    assert (dot(normal, d) <= 1e-4).all()
    tangent = np.cross(down[:, met] - p[:, met], right[:, met] - p[:, met], axis=0)
    angle = dot(tangent / np.linalg.norm(tangent, axis=0), normal)
    steep = -dot(normal, d) < 0.1
    assert np.mean(angle[~steep] > 0.995) > 0.93  # the others straddle an edge


def hits(solid, directions):
    t, _ = cast([solid], directions)
    with np.errstate(invalid="ignore"):
        return rotate(solid.axes.T, directions * t - solid.centre[:, None]), np.isfinite(t)


@given(kind=st.sampled_from(KINDS), angles=poses)
@settings(max_examples=40, deadline=None)
def test_support_is_the_lowest_of_the_solid_s_points(kind, angles):
    axes = turn(0, angles[0]) @ turn(1, angles[1]) @ turn(2, angles[2])
    size = np.array({"sphere": (0.4, 0.4, 0.4), "box": (0.2, 0.3, 0.5)}.get(kind, (0.3, 0.3, 0.5)))
    solid = Surface(kind, np.zeros(3), axes, size)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 41)] * 3)).reshape(3, -1) * size[:, None]
    lowest = (axes @ grid[:, inside(solid, grid)])[2].min()
    assert solid.below(np.array([0, 0, 1.0])) == pytest.approx(-lowest, abs=0.03)
    assert np.linalg.norm(grid[:, inside(solid, grid)], axis=0).max() <= solid.radius + 1e-9
