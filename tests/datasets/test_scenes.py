"""The embedded data set: targets agree with the analytic scene and with each other; nothing depends on chance."""

import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from retinue.datasets.raycast import Surface
from retinue.datasets.render import FAR, Light, Material, Scene, render
from retinue.datasets.scenery import turn
from retinue.datasets.scenes import Scenes, objects, splits, tight_boxes
from retinue.datasets.targets import KEYS, DataError, collate


@pytest.fixture(scope="module")
def samples():
    return list(Scenes(40, 64))


@pytest.fixture(scope="module")
def many():
    return list(Scenes(200, 32))


def digest(sample):
    parts = [sample.id.encode(), sample.image.tobytes(), sample.inputs["intrinsics"].tobytes()]
    parts += [key.encode() + value.tobytes() for key, value in sorted(sample.targets.items())]
    return sha256(b"".join(parts)).hexdigest()


def back_project(sample):
    """Points (3, h, w) of the camera's frame from depth and intrinsics, at pixel centres."""
    depth, k = sample.targets["depth"], sample.inputs["intrinsics"].astype(np.float64)
    h, w = depth.shape
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    return np.stack([(x - k[0, 2]) / k[0, 0] * depth, (y - k[1, 2]) / k[1, 1] * depth, depth])


def bare_scene(*surfaces, sun=(0, -1, 0)):
    """These surfaces, all solids, in plain white under a sun."""
    white = Material("plain", 1.0, np.ones((2, 3), np.float32), np.zeros(3, np.float32))
    one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    up = np.float32((0, -1, 0))
    light = Light(np.float32(sun), up, sun=one * 0.5, ambient=one * 0.2, horizon=zero, zenith=zero)
    return Scene(surfaces, [white] * len(surfaces), len(surfaces), light, focal=1.0, noise=0.0)


def solid(kind, centre, size, axes=None):
    axes = np.eye(3) if axes is None else axes
    return Surface(kind, np.float32(centre), np.float32(axes), np.float32(size))


# The contract


def test_types_and_shapes_are_those_of_the_contract():
    data = Scenes(3, (24, 40))
    sample = data[1]
    h, w, t, n = 24, 40, sample.targets, len(sample.targets["boxes"])
    assert sample.id == "train/000001"
    assert sample.image.shape == (h, w, 3) and sample.image.dtype == np.uint8
    assert set(t) == data.keys <= set(KEYS)
    expected = {
        "label": ((), np.int64),
        "boxes": ((n, 4), np.float32),
        "box_labels": ((n,), np.int64),
        "crowd": ((n,), np.bool_),
        "area": ((n,), np.float32),
        "masks": ((n, h, w), np.bool_),
        "semantic": ((h, w), np.int64),
        "depth": ((h, w), np.float32),
        "normals": ((3, h, w), np.float32),
    }
    assert {key: (value.shape, value.dtype.type) for key, value in t.items()} == expected
    k = sample.inputs["intrinsics"]
    assert k.dtype == np.float32 and k[0, 0] == k[1, 1] > 0 and (k[0, 2], k[1, 2]) == (20, 12)
    pictures, targets = collate([data[0], data[1]])
    assert pictures.pixels.shape == (2, 3, h, w) and len(targets) == 2


def test_length_iteration_and_bounds():
    data = Scenes(3, 16)
    assert len(data) == 3 and [s.id for s in data] == ["train/000000", "train/000001", "train/000002"]
    for index in (-1, 3):
        with pytest.raises(IndexError, match=str(index)):
            data[index]
    for bad in ({"count": 0}, {"count": 5, "size": 0}, {"count": 5, "size": (3, 4, 5)}):
        with pytest.raises(DataError, match="scenes"):
            Scenes(**bad)


def test_splits():
    assert {name: len(part) for name, part in splits("scenes:2000").items()} == {
        "train": 2000,
        "val": 200,
        "test": 200,
    }
    assert len(splits("scenes")["train"]) == 1000 and len(splits("scenes:3")["val"]) == 1
    assert splits("scenery") == splits("/data/scenes") == splits("coco:5") == splits("") == {}
    for bad in ("scenes:", "scenes:0", "scenes:-5", "scenes:many", "scenes:1.5"):
        with pytest.raises(DataError, match=bad):
            splits(bad)


# Determinism


def test_a_scene_is_the_same_whatever_was_asked_before_and_however_many_there_are(samples):
    assert digest(Scenes(8, 64)[7]) == digest(samples[7])
    assert digest(pickle.loads(pickle.dumps(Scenes(8, 64)))[7]) == digest(samples[7])
    assert digest(Scenes(8, 16).with_size(64)[7]) == digest(samples[7])


def test_bytes_do_not_depend_on_process_or_threads(samples):
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_scenes import *; print(digest(Scenes(9, 64)[5]))"
    for threads in ("1", "3"):
        env = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-c", code, os.path.dirname(__file__)]
        out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
        assert out.strip() == digest(samples[5])


def test_no_scene_is_in_two_splits_or_seeds():
    parts = [Scenes(20, 16, seed, split) for split in ("train", "val", "test") for seed in (0, 1)]
    assert len({sample.image.tobytes() for part in parts for sample in part}) == 120


def test_other_sizes_show_the_same_scene():
    data = Scenes(10, 32)
    for index in range(10):
        small, large = data[index].targets, data.with_size(96)[index].targets
        # Every third centre of the larger picture is a centre of the smaller.
        assert np.allclose(small["depth"], large["depth"][1::3, 1::3], rtol=1e-3, atol=1e-3) or (
            np.mean(np.abs(small["depth"] - large["depth"][1::3, 1::3]) > 1e-3) < 0.005
        )
        assert np.mean(small["semantic"] != large["semantic"][1::3, 1::3]) < 0.005
        wide = data.with_size((32, 64))[index].targets
        assert np.array_equal(wide["depth"][:, 16:48], small["depth"])
        tall = data.with_size((48, 32))[index].targets
        assert np.array_equal(tall["depth"][8:40], small["depth"])


# Geometry


def test_back_projected_points_lie_on_the_analytic_surfaces(samples):
    data = Scenes(40, 64)
    for index, sample in enumerate(samples):
        scene = data.scene(index)
        points, depth = back_project(sample), sample.targets["depth"]
        view = render(scene, 64, 64)
        assert np.array_equal(view.depth, depth) and np.array_equal(depth > 0, view.which >= 0)
        for i, surface in enumerate(scene.surfaces):
            seen = view.which == i
            p = surface.axes.T.astype(np.float64) @ (points[:, seen] - surface.centre[:, None])
            assert np.abs(distance(surface, p)).max(initial=0) < 2e-4


def distance(surface, p):
    """Signed distance, to first order, of points (3, n) of the surface's own frame."""
    if surface.kind == "plane":
        return p[2]
    a, _, c = (float(s) for s in surface.size)
    rho = np.hypot(p[0], p[1])
    if surface.kind == "sphere":
        return np.hypot(rho, p[2]) - a
    if surface.kind == "box":
        return (np.abs(p) - surface.size[:, None]).max(0)
    if surface.kind == "cylinder":
        return np.maximum(rho - a, np.abs(p[2]) - c)
    side = (rho - a * (c - p[2]) / (2 * c)) * 2 * c / np.hypot(a, 2 * c)
    return np.maximum(side, -c - p[2])


def test_normals_are_unit_and_face_the_camera(samples):
    for sample in samples:
        normals, known = sample.targets["normals"], sample.targets["depth"] > 0
        length = np.linalg.norm(normals, axis=0)
        assert np.allclose(length[known], 1, atol=1e-5) and (length[~known] == 0).all()
        towards = (normals * back_project(sample)).sum(0)
        assert (towards[known] <= 1e-4).all()
        assert sample.targets["depth"].max() < FAR


def test_normals_are_at_right_angles_to_the_neighbouring_points():
    agree = []
    for sample in Scenes(10, 160):
        points, normals = back_project(sample), sample.targets["normals"].astype(np.float64)
        right, down = (
            (points[:, 1:-1, 2:] - points[:, 1:-1, :-2]),
            (points[:, 2:, 1:-1] - points[:, :-2, 1:-1]),
        )
        cross = np.cross(down, right, axis=0)
        n = normals[:, 1:-1, 1:-1]
        neighbours = [
            normals[:, 1:-1, 2:],
            normals[:, 1:-1, :-2],
            normals[:, 2:, 1:-1],
            normals[:, :-2, 1:-1],
        ]
        depth = points[2]
        flat = np.abs(np.diff(depth, axis=0))[:-1, 1:-1] + np.abs(np.diff(depth, axis=1))[1:-1, :-1]
        smooth = np.min([(n * m).sum(0) for m in neighbours], axis=0) > 0.995
        smooth &= (flat < 0.03 * depth[1:-1, 1:-1]) & (depth[1:-1, 1:-1] > 0)
        cosine = (cross * n).sum(0) / np.maximum(np.linalg.norm(cross, axis=0), 1e-12)
        agree.append(cosine[smooth] > np.cos(np.deg2rad(3)))
    assert np.concatenate(agree).size > 50_000 and np.concatenate(agree).mean() > 0.995


def test_a_ball_straight_ahead():
    view = render(bare_scene(solid("sphere", (0, 0, 5), (1, 1, 1))), 65, 65)
    assert view.depth[32, 32] == view.depth.max(initial=0, where=view.depth == 4) == 4
    assert view.depth[view.depth > 0].min() == 4
    assert np.allclose(view.normals[:, 32, 32], (0, 0, -1))
    assert (view.depth[0] == 0).all() and (view.normals[:, 0] == 0).all()
    assert (view.which >= 0).sum() == pytest.approx(np.pi * 65**2 / 24, rel=0.03)  # radius f / √(5² - 1)


def test_a_wall_ahead():
    wall = solid("plane", (0, 0, 3), (0, 0, 0), turn(0, np.pi))
    view = render(bare_scene(wall), 20, 30)
    assert np.allclose(view.depth, 3) and np.allclose(view.normals.reshape(3, -1).T, (0, 0, -1), atol=1e-6)


def test_a_box_s_silhouette_gives_the_box():
    box = solid("box", (0, 0, 4.5), (1, 0.5, 0.5))  # its front spans 0.25 by 0.125 focal lengths each way
    view = render(bare_scene(box), 64, 64)
    targets = objects(view.which, np.array([1]))
    assert targets["boxes"].tolist() == [[16, 24, 48, 40]]
    assert targets["area"].tolist() == [32 * 16] and targets["label"] == 1
    assert np.allclose(view.depth[24:40, 16:48], 4)


def test_the_sun_casts_a_shadow():
    ground = solid("plane", (0, 1, 4), (0, 0, 0), turn(0, np.pi / 2))
    ball = solid("sphere", (0, 0, 4), (0.5, 0.5, 0.5))
    scene = replace(bare_scene(ball, ground), solids=1)
    view = render(scene, 64, 64)
    # The ball's shadow lies straight below it, around (0, 1, 4): pixel (32, 32 + 64 / 4).
    assert view.which[48, 32] == 1 and view.which[48, 60] == 1
    assert view.colour[48, 32].mean() < 0.6 * view.colour[48, 60].mean()


def test_patterns_do_not_touch_geometry_and_noise_is_mild():
    data = Scenes(4, 48)
    for index in range(4):
        scene, sample = data.scene(index), data[index]
        plain = replace(scene, materials=[replace(m, pattern="plain", gloss=0.0) for m in scene.materials])
        assert np.array_equal(render(plain, 48, 48).depth, sample.targets["depth"])
        clean = render(scene, 48, 48).colour * 255
        error = (sample.image - clean)[(clean > 20) & (clean < 235)]
        assert 0.5 < error.std() < 5 and abs(error.mean()) < 0.5


# Objects


def test_masks_boxes_and_semantic_agree(samples):
    for sample in samples:
        t = sample.targets
        masks, n = t["masks"], len(t["boxes"])
        assert masks.sum(0).max(initial=0) <= 1 and not t["crowd"].any()
        assert (masks.reshape(n, -1).sum(1) == t["area"]).all() and (t["area"] >= 2).all()
        for mask, label, box in zip(masks, t["box_labels"], t["boxes"]):
            assert (t["semantic"][mask] == label + 1).all()
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        left_over = (t["semantic"] > 0) & ~masks.any(0)
        assert left_over.sum() <= 2 * 6  # objects of fewer pixels than a box needs
        assert t["label"] == t["box_labels"][t["area"].argmax()]
        assert t["semantic"].min() >= 0 and t["semantic"].max() < len(Scenes.semantic_classes)
        assert (t["depth"][t["semantic"] > 0] > 0).all()


def test_objects_with_hardly_a_pixel_have_no_box_but_keep_their_class():
    which = np.full((128, 128), 3, np.int8)  # scenery
    which[:64] = -1
    which[70, 10:17], which[80:90, 20:30] = 0, 2  # 7 pixels, 100 pixels; object 1 is hidden
    targets = objects(which, np.array([3, 1, 0]))
    assert targets["box_labels"].tolist() == [0] and targets["area"].tolist() == [100]
    assert targets["boxes"].tolist() == [[20, 80, 30, 90]]
    assert np.bincount(targets["semantic"].ravel()).tolist() == [128 * 128 - 107, 100, 0, 0, 7]
    assert targets["label"] == 0


def test_nothing_visible_gives_empty_targets():
    targets = objects(np.full((32, 32), -1, np.int8), np.array([2]))
    assert targets["boxes"].shape == (0, 4) and targets["masks"].shape == (0, 32, 32)
    assert targets["label"] == 2 and not targets["semantic"].any()
    assert tight_boxes(np.zeros((0, 5, 6), bool)).dtype == np.float32


# What makes it a fair test


def test_every_picture_has_an_object_and_classes_are_balanced(many):
    labels = np.array([s.targets["label"] for s in many])
    shares = np.bincount(labels, minlength=4) / len(labels)
    assert (shares > 0.15).all() and (shares < 0.35).all()
    counts = np.array([len(s.targets["boxes"]) for s in many])
    assert counts.min() >= 1 and counts.max() <= 6 and 1.8 < counts.mean() < 3.5


def test_mean_answers_are_bad(many):
    depth = np.stack([s.targets["depth"] for s in many]).astype(np.float64)
    known = depth > 0
    assert 0.85 < known.mean() < 1
    for mean in (depth.sum(0) / known.sum(0), np.nanmedian(np.where(known, depth, np.nan), axis=0)):
        ratio = np.maximum(depth / mean, mean / np.maximum(depth, 1e-9))
        assert (ratio[known] < 1.25).mean() < 0.5
    normals = np.stack([s.targets["normals"] for s in many]).astype(np.float64)
    mean = normals.sum(0) / np.linalg.norm(normals.sum(0), axis=0)
    angle = np.rad2deg(np.arccos(np.clip((normals * mean).sum(1), -1, 1)))[known]
    assert angle.mean() > 28 and np.median(angle) > 28


@pytest.mark.slow
def test_speed_on_one_core():
    data = Scenes(60, 128)
    data[0]
    start = time.perf_counter()
    for _ in data:
        pass
    assert 60 / (time.perf_counter() - start) > 25
