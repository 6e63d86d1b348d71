"""Depth, normals and camera move together: planes and spheres rendered for the camera after the move."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moves import H, K, W, generator, warps

from retinue.datasets.geometry import move_points
from retinue.datasets.spatial import (
    CenterCrop,
    HorizontalFlip,
    RandomAffine,
    RandomResizedCrop,
    ResizeTo,
    VerticalFlip,
)
from retinue.datasets.targets import Sample
from retinue.datasets.transforms import Compose


def plane(normal, distance, k, h, w):
    """Depth (h, w) and unit normals (3, h, w) of the plane normal . X = distance, seen by camera k."""
    v, u = np.mgrid[:h, :w] + 0.5
    rays = np.tensordot(np.linalg.inv(k), np.stack([u, v, np.ones_like(u)]), 1)
    depth = distance / np.tensordot(normal, rays, 1)
    unit = np.asarray(normal) / np.linalg.norm(normal)
    unit = unit if unit[2] < 0 else -unit
    return depth.astype(np.float32), np.broadcast_to(unit[:, None, None], (3, h, w)).astype(np.float32)


NORMAL, DISTANCE = np.array([0.3, -0.2, -1.0]), -4.0


def plane_sample():
    depth, normals = plane(NORMAL, DISTANCE, K, H, W)
    inputs = {"intrinsics": K.copy()}
    return Sample("x", np.zeros((H, W, 3), np.uint8), {"depth": depth, "normals": normals}, inputs)


def turned(angle):
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


CASES = {
    "mirrored": (
        HorizontalFlip(p=1),
        NORMAL * [-1, 1, 1],
        np.array([[70.0, 0, W - 30], [0, 70, 25], [0, 0, 1]]),
    ),
    "upside down": (
        VerticalFlip(p=1),
        NORMAL * [1, -1, 1],
        np.array([[70.0, 0, 30], [0, 70, H - 25], [0, 0, 1]]),
    ),
    # (X, Y, Z) -> (X, Y, Z / s): n . X = d becomes (nx, ny, s nz) . X' = d
    "zoomed": (
        RandomAffine(scale=(1.6, 1.6)),
        NORMAL * [1, 1, 1.6],
        np.array([[70.0, 0, 32 + 1.6 * (30 - 32)], [0, 70, 24 + 1.6 * (25 - 24)], [0, 0, 1]]),
    ),
    "resized": (ResizeTo(H * 2, W * 2), NORMAL, np.diag([2.0, 2, 1]) @ K),
    "resized unevenly": (ResizeTo(H, W * 2), NORMAL, np.diag([2.0, 1, 1]) @ K),
    "cropped": (CenterCrop((40, 40)), NORMAL, K - np.array([[0, 0, 12], [0, 0, 4], [0, 0, 0]])),
}


@pytest.mark.parametrize("name", CASES)
def test_a_moved_plane_is_the_plane_seen_by_the_new_camera(name):
    transform, normal, k = CASES[name]
    out = transform(plane_sample(), generator())
    np.testing.assert_allclose(out.inputs["intrinsics"], k, atol=1e-9)
    depth, normals = plane(normal, DISTANCE, k, *out.image.shape[:2])
    known = out.targets["depth"] > 0
    np.testing.assert_allclose(out.targets["depth"][known], depth[known], rtol=0.01)  # half a pixel
    np.testing.assert_allclose(out.targets["normals"][:, known], normals[:, known], atol=1e-5)
    assert known.mean() > 0.95


def test_an_in_plane_turn_turns_the_normals():
    out = RandomAffine(degrees=(25.0, 25.0))(plane_sample(), generator())
    known = out.targets["depth"] > 0
    expected = turned(np.radians(25)) @ NORMAL / np.linalg.norm(NORMAL)
    np.testing.assert_allclose(
        out.targets["normals"][:, known].T, np.tile(expected, (known.sum(), 1)), atol=1e-5
    )
    k = out.inputs["intrinsics"]
    depth, _ = plane(turned(np.radians(25)) @ NORMAL, DISTANCE, k, H, W)
    np.testing.assert_allclose(out.targets["depth"][known], depth[known], rtol=0.01)
    np.testing.assert_allclose(k[:2, :2], np.eye(2) * 70, atol=1e-9)


def test_a_zoomed_crop_divides_depth_and_a_whole_one_does_not():
    sample = plane_sample()
    whole = RandomResizedCrop(H, scale=(0.75, 0.75), ratio=(1.0, 1.0))(sample, generator())  # 48 of 48 rows
    assert whole.targets["depth"].min() >= sample.targets["depth"].min() - 1e-6
    half = RandomResizedCrop(H, scale=(0.1875, 0.1875), ratio=(1.0, 1.0))(
        sample, generator()
    )  # 24 of 48 rows
    middle = move_points(np.array([24.0, 24.0]), half.to_file)
    seen = sample.targets["depth"][int(middle[1]), int(middle[0])]
    assert half.targets["depth"][24, 24] == pytest.approx(seen / 2, rel=0.01)
    np.testing.assert_allclose(half.inputs["intrinsics"][:2, :2], np.eye(2) * 70, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(warps(), st.integers(0, 10**6))
def test_depth_normals_and_camera_stay_true_to_each_other(steps, seed):
    """What the moved depth and camera say lies on one plane, and the moved normals are that plane's."""
    out = Compose(steps)(plane_sample(), generator(seed))
    depth, normals, k = out.targets["depth"], out.targets["normals"], out.inputs["intrinsics"]
    known = depth > 0
    if known.sum() < 200:
        return
    v, u = (np.mgrid[: depth.shape[0], : depth.shape[1]] + 0.5)[:, known]
    points = np.linalg.inv(k) @ np.stack([u, v, np.ones_like(u)]) * depth[known]
    normal = normals[:, known].mean(1)
    assert np.ptp(normals[:, known], axis=1).max() < 1e-5 and normal[2] < 0
    distances = normal @ points
    assert np.std(distances) < 0.012 * abs(np.mean(distances))


def test_a_zoomed_sphere_keeps_its_normals_true():
    """(X, Y, Z) -> (X, Y, Z / s) makes an ellipsoid of a sphere: its normals by its own gradient."""
    h = w = 80
    centre, radius, zoom = np.array([0.1, -0.1, 3.0]), 1.0, 1.5

    def render(squash):
        v, u = np.mgrid[:h, :w] + 0.5
        rays = np.stack([(u - 40) / 100, (v - 40) / 100, np.ones_like(u)])
        stretched = rays * np.array([1, 1, squash])[:, None, None]  # undo the squashing: a sphere again
        b = np.tensordot(centre, stretched, 1)
        a = (stretched**2).sum(0)
        root = b * b - a * (centre @ centre - radius**2)
        z = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, 0)
        gradient = (stretched * z - centre[:, None, None]) * np.array([1, 1, squash])[:, None, None]
        normals = gradient / np.linalg.norm(gradient, axis=0)
        return z.astype(np.float32), np.where(root > 0, normals, 0).astype(np.float32)

    depth, normals = render(1.0)
    sample = Sample("x", np.zeros((h, w, 3), np.uint8), {"depth": depth, "normals": normals})
    out = RandomAffine(scale=(zoom, zoom))(sample, generator())
    depth, normals = render(zoom)
    inner = cv2.erode(((depth > 0) & (out.targets["depth"] > 0)).astype(np.uint8), np.ones((9, 9))) > 0
    assert inner.sum() > 1000
    assert np.abs(out.targets["depth"] - depth)[inner].max() < 0.03
    assert (out.targets["normals"] * normals).sum(0)[inner].min() > np.cos(np.radians(3))
