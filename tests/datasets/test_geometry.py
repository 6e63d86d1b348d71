"""Every key moves with the picture: identities, hand-computed cases, and planes rendered for the new camera."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.datasets.geometry import Warp, clip_boxes, mask_box, move_points
from retinue.datasets.resample import _whole_pixels, inverse, resize_like_pil, warp_image, warp_nearest
from retinue.datasets.spatial import (
    CenterCrop,
    HorizontalFlip,
    Letterbox,
    RandomAffine,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    ResizeTo,
    ScaleJitter,
    VerticalFlip,
)
from retinue.datasets.targets import IGNORE, DataError, Sample
from retinue.datasets.transforms import Compose

H, W = 48, 64
K = np.array([[70.0, 0, 30], [0, 70, 25], [0, 0, 1]])


def generator(seed=0):
    return np.random.default_rng(seed)


def full_sample(seed=0, n=3, h=H, w=W):
    """A sample with every key; boxes are their masks' own."""
    rng = generator(seed)
    masks = np.zeros((n, h, w), bool)
    for mask in masks:
        y, x = rng.integers(0, h - 12), rng.integers(0, w - 12)
        mask[y : y + rng.integers(6, 12), x : x + rng.integers(6, 12)] = True
    boxes = np.array([mask_box(m) for m in masks], np.float32).reshape(-1, 4)
    keypoints = np.concatenate([rng.uniform(1, 40, (n, 4, 2)), rng.integers(1, 3, (n, 4, 1))], 2)
    normals = rng.normal(size=(3, h, w)).astype(np.float32)
    targets = {
        "label": np.int64(3),
        "boxes": boxes,
        "box_labels": np.arange(n),
        "crowd": np.zeros(n, bool),
        "area": masks.sum((1, 2)).astype(np.float32),
        "masks": masks,
        "keypoints": keypoints.astype(np.float32),
        "semantic": rng.integers(0, 20, (h, w)),
        "depth": rng.uniform(1, 5, (h, w)).astype(np.float32),
        "normals": normals / np.linalg.norm(normals, axis=0),
        "clean": rng.random((3, h, w), np.float32),
        "hole": rng.random((1, h, w)) < 0.3,
    }
    inputs = {
        "hole": rng.random((1, h, w)) < 0.3,
        "sigma": np.float32(0.1),
        "proposals": boxes.copy(),
        "intrinsics": K.copy(),
    }
    return Sample("a.png", rng.integers(0, 256, (h, w, 3), np.uint8), targets, inputs)


def assert_alike(a, b, atol=1e-4):
    np.testing.assert_array_equal(a.image, b.image)
    assert a.targets.keys() == b.targets.keys() and a.inputs.keys() == b.inputs.keys()
    for left, right in ((a.targets, b.targets), (a.inputs, b.inputs)):
        for key in left:
            assert left[key].dtype == right[key].dtype, key
            np.testing.assert_allclose(left[key], right[key], atol=atol, err_msg=key)
    np.testing.assert_allclose(a.to_file, b.to_file, atol=1e-9)


def warps():
    """Random chains of transforms."""
    one = st.sampled_from(
        [
            Resize(40),
            ResizeTo(33, 71),
            Letterbox(50, divisor=8),
            Letterbox(50, centred=True),
            CenterCrop(40),
            RandomCrop(38),
            RandomResizedCrop(37),
            HorizontalFlip(p=0.7),
            VerticalFlip(p=0.7),
            RandomAffine(20, (0.1, 0.1), (0.7, 1.5), 5),
            ScaleJitter(45, (0.5, 1.5)),
        ]
    )
    return st.lists(one, min_size=1, max_size=4)


# Identities


@pytest.mark.parametrize("flip", [HorizontalFlip(p=1), VerticalFlip(p=1)])
def test_a_flip_twice_is_the_identity_for_every_key(flip):
    sample = full_sample()
    once = flip(sample, generator())
    assert (once.image != sample.image).any() and (once.targets["normals"] != sample.targets["normals"]).any()
    assert_alike(flip(once, generator()), sample)


def test_a_flip_is_numpys_slicing_for_every_dense_key():
    sample = full_sample()
    out = HorizontalFlip(p=1)(sample, generator())
    np.testing.assert_array_equal(out.image, sample.image[:, ::-1])
    for key in ("masks", "semantic", "depth", "clean", "hole"):
        np.testing.assert_array_equal(out.targets[key], sample.targets[key][..., ::-1], err_msg=key)
    expected = sample.targets["normals"][..., ::-1] * np.array([-1, 1, 1])[:, None, None]
    np.testing.assert_allclose(out.targets["normals"], expected, atol=1e-6)


def test_a_crop_is_numpys_slicing_for_every_dense_key():
    sample = full_sample()
    warp = Warp(np.array([[1.0, 0, -5], [0, 1, -7]]), (30, 40))
    out = warp(sample)
    np.testing.assert_array_equal(out.image, sample.image[7:37, 5:45])
    for key in ("semantic", "depth", "normals", "clean", "hole"):
        np.testing.assert_array_equal(out.targets[key], sample.targets[key][..., 7:37, 5:45], err_msg=key)
    np.testing.assert_array_equal(out.inputs["hole"], sample.inputs["hole"][..., 7:37, 5:45])
    np.testing.assert_allclose(out.inputs["intrinsics"], [[70, 0, 25], [0, 70, 18], [0, 0, 1]])


def test_beyond_the_picture_is_padding_and_nothing_known():
    out = CenterCrop((H + 20, W + 10), pad=0.5)(full_sample(), generator())
    corner = (slice(None), slice(0, 10), slice(0, 5))
    assert out.image.shape == (H + 20, W + 10, 3)
    assert (out.image[:10] == 128).all() and np.allclose(out.targets["clean"][corner], 0.5)
    assert (out.targets["semantic"][:10] == IGNORE).all()
    for key in ("masks", "normals", "hole"):
        assert not out.targets[key][corner].any(), key
    assert not out.targets["depth"][:10].any() and not out.inputs["hole"][corner].any()
    np.testing.assert_array_equal(out.targets["depth"][10:-10, 5:-5], full_sample().targets["depth"])


@pytest.mark.parametrize("size", [(96, 128), (144, 192), (48, 128)])
def test_enlarging_the_whole_is_cv2_resize(size):
    sample = full_sample()
    out = ResizeTo(*size)(sample, generator())
    np.testing.assert_array_equal(out.image, cv2.resize(sample.image, size[::-1]))
    np.testing.assert_array_equal(
        out.targets["semantic"],
        cv2.resize(
            sample.targets["semantic"].astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT
        ),
    )


def test_the_general_path_agrees_with_the_fast_one():
    image = cv2.GaussianBlur(full_sample().image, (0, 0), 1.5)
    matrix = np.array([[1.5, 0, -10.2], [0, 1.5, -8.3]])
    tilt = matrix + np.array([[0, 1e-7, 0], [0, 0, 0]])  # enough to leave the fast path
    fast, general = (warp_image(image, m, (60, 70)).astype(int) for m in (matrix, tilt))
    assert np.abs(fast - general)[2:-2, 2:-2].max() <= 2
    labels = full_sample().targets["semantic"].astype(np.uint8)[None]
    assert (
        warp_nearest(labels, matrix, (60, 70), 0) == warp_nearest(labels, tilt, (60, 70), 0)
    ).mean() > 0.97


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_quarter_turns_are_numpys(turn):
    sample = full_sample(h=40, w=40)
    out = RandomAffine(degrees=(-90.0 * turn, -90.0 * turn))(sample, generator())
    np.testing.assert_array_equal(out.image, np.rot90(sample.image, turn))
    np.testing.assert_array_equal(out.targets["semantic"], np.rot90(sample.targets["semantic"], turn))
    np.testing.assert_array_equal(out.targets["masks"].sum((1, 2)), sample.targets["masks"].sum((1, 2)))


# Boxes, points and rows


def test_crop_moves_boxes_points_and_drops_rows_together():
    masks = np.zeros((3, 20, 20), bool)
    masks[0, 2:6, 2:6] = masks[1, 8:14, 8:18] = masks[2, 0:4, 16:20] = True
    points = np.array([[[3, 3, 2]], [[17, 9, 1]], [[18, 1, 2]]], np.float32)
    targets = {
        "boxes": np.array([[2, 2, 6, 6], [8, 8, 18, 14], [16, 0, 20, 4]], np.float32),
        "box_labels": np.array([5, 6, 7]),
        "crowd": np.array([False, True, False]),
        "area": np.array([16, 60, 16], np.float32),
        "masks": masks,
        "keypoints": points,
    }
    warp = Warp(np.array([[1.0, 0, -4], [0, 1, -4]]), (12, 10))
    out = warp(Sample("x", np.zeros((20, 20, 1), np.uint8), targets)).targets
    np.testing.assert_array_equal(out["boxes"], [[0, 0, 2, 2], [4, 4, 10, 10]])
    np.testing.assert_array_equal(out["box_labels"], [5, 6])
    np.testing.assert_array_equal(out["crowd"], [False, True])
    np.testing.assert_allclose(out["area"], [4, 36])
    assert out["masks"].shape == (2, 12, 10) and out["masks"].sum() == 4 + 36
    np.testing.assert_array_equal(out["keypoints"], [[[0, 0, 0]], [[0, 0, 0]]])
    inside = Warp(np.array([[1.0, 0, -2], [0, 1, -2]]), (12, 18))(
        Sample("x", np.zeros((20, 20, 1), np.uint8), targets)
    )
    np.testing.assert_array_equal(inside.targets["keypoints"][:2, 0], [[1, 1, 2], [15, 7, 1]])


def test_clip_keeps_small_whole_boxes_and_drops_slivers():
    boxes = np.array([[1, 1, 1.5, 1.5], [-9.5, 0, 0.5, 5], [-99, 0, 2, 50], [5, 5, 5, 9], [20, 20, 30, 30]])
    cut, keep, visible = clip_boxes(boxes, (10, 10))
    np.testing.assert_array_equal(keep, [True, False, False, False, False])
    np.testing.assert_allclose(visible[:2], [1, 0.05])
    assert cut.dtype == np.float32 and cut.min() >= 0 and cut.max() <= 10


def test_mirrors_swap_keypoint_pairs_and_two_mirrors_do_not():
    points = np.array([[[2, 3, 2], [8, 3, 1], [5, 7, 2]]], np.float32)
    sample = Sample("x", np.zeros((10, 10, 3), np.uint8), {"keypoints": points})
    flip = HorizontalFlip(p=1, pairs=[(0, 1)])
    np.testing.assert_array_equal(
        flip(sample, generator()).targets["keypoints"], [[[2, 3, 1], [8, 3, 2], [5, 7, 2]]]
    )
    turned = Compose([flip, VerticalFlip(p=1)])(sample, generator()).targets["keypoints"]
    np.testing.assert_array_equal(turned, [[[8, 7, 2], [2, 7, 1], [5, 3, 2]]])


@settings(max_examples=60, deadline=None)
@given(warps(), st.integers(0, 10**6))
def test_the_box_of_a_moved_mask_is_the_moved_box(steps, seed):
    out = Compose(steps)(full_sample(seed % 7), generator(seed))
    for mask, box in zip(out.targets["masks"], out.targets["boxes"]):
        own = mask_box(mask)
        assert own is not None
        np.testing.assert_allclose(own, box, atol=1.01)
    rows = {len(out.targets[key]) for key in ("boxes", "box_labels", "crowd", "area", "masks", "keypoints")}
    assert len(rows) == 1
    h, w = out.image.shape[:2]
    boxes = out.targets["boxes"]
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all() and (boxes <= [w, h, w, h]).all()


@settings(max_examples=60, deadline=None)
@given(warps(), st.integers(0, 10**6))
def test_to_file_maps_points_and_boxes_back(steps, seed):
    rng = generator(seed)
    inner = np.array([[20, 18, 30, 28.0]], np.float32)
    points = np.concatenate([rng.uniform(20, 28, (1, 4, 2)), np.full((1, 4, 1), 2)], 2).astype(np.float32)
    sample = Sample("x", np.zeros((H, W, 3), np.uint8), {"boxes": inner, "keypoints": points})
    out = Compose(steps)(sample, generator(seed))
    for moved, point in zip(out.targets["keypoints"], points):
        seen = moved[:, 2] > 0
        back = move_points(moved[:, :2].astype(np.float64), out.to_file)
        np.testing.assert_allclose(back[seen], point[seen, :2], atol=1e-3)
    h, w = out.image.shape[:2]
    upright = abs(out.to_file[0, 1]) < 1e-9 and abs(out.to_file[1, 0]) < 1e-9
    for box in out.targets["boxes"]:
        if upright and box.min() > 0 and box[2] < w and box[3] < h:
            corners = move_points(box.reshape(2, 2).astype(np.float64), out.to_file)
            np.testing.assert_allclose(np.sort(corners, 0).ravel(), inner[0], atol=1e-3)
    assert out.file_size == (H, W)


@settings(max_examples=40, deadline=None)
@given(warps(), st.integers(0, 10**6))
def test_nothing_there_stays_nothing_there(steps, seed):
    sample = full_sample(n=0)
    out = Compose(steps)(sample, generator(seed))
    shapes = {"boxes": (0, 4), "box_labels": (0,), "crowd": (0,), "area": (0,), "keypoints": (0, 4, 3)}
    for key, shape in shapes.items():
        assert out.targets[key].shape == shape and out.targets[key].dtype == sample.targets[key].dtype, key
    assert out.targets["masks"].shape == (0, *out.image.shape[:2])
    assert out.inputs["proposals"].shape == (0, 4)


@settings(max_examples=40, deadline=None)
@given(warps(), st.integers(0, 10**6))
def test_every_type_and_the_size_of_every_dense_key_hold(steps, seed):
    sample = full_sample()
    out = Compose(steps)(sample, generator(seed))
    for before, after in ((sample.targets, out.targets), (sample.inputs, out.inputs)):
        assert {k: v.dtype for k, v in before.items()} == {k: v.dtype for k, v in after.items()}
    for key in ("masks", "semantic", "depth", "normals", "clean", "hole"):
        assert out.targets[key].shape[-2:] == out.image.shape[:2], key
    length = np.linalg.norm(out.targets["normals"], axis=0)
    assert np.all((np.abs(length - 1) < 1e-5) | (length == 0))
    assert out.inputs["sigma"] == sample.inputs["sigma"]


def test_unknown_keys_are_refused_by_name():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(DataError, match="flow"):
        HorizontalFlip(p=1)(Sample("x", image, {"flow": np.zeros((2, 4, 4))}), generator())
    with pytest.raises(DataError, match="guide"):
        HorizontalFlip(p=1)(Sample("x", image, {}, {"guide": np.zeros((4, 4))}), generator())


# Depth and normals: planes and spheres rendered directly for the camera after the move


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


# Snapping to whole pixels


@settings(max_examples=80, deadline=None)
@given(
    st.floats(0.4, 2.5),
    st.floats(0.4, 2.5),
    st.floats(-80, 80),
    st.floats(-80, 80),
    st.sampled_from([1, -1]),
)
def test_a_snapped_map_is_nearly_the_same_and_resizes_whole_pixels(a, d, x, y, sign):
    picture, size = (200, 240), (220, 210)
    warp = Warp(np.array([[sign * a, 0, x if sign > 0 else 240 * a + x], [0, d, y]]), size)
    snapped = warp.snap(picture)
    frame = np.array([[0.0, 0], [210, 0], [0, 220], [210, 220]])
    seen = np.clip(move_points(np.array([[0.0, 0], [240, 200]]), warp.matrix), 0, size[::-1])
    inside = np.clip(frame, seen.min(0), seen.max(0))
    moved = move_points(move_points(inside, inverse(warp.matrix)), snapped.matrix)
    assert np.abs(moved - inside).max() <= 0.51 * max(1, a, d) + 1e-6
    ratio = snapped.matrix[[0, 1], [0, 1]] / warp.matrix[[0, 1], [0, 1]]
    np.testing.assert_allclose(snapped.view, np.diag(ratio))
    assert np.abs(ratio - 1).max() < 0.025
    if np.abs(np.ptp(inside, 0)).min() > 66 and np.abs(np.ptp(inside, 0) / [a, d]).min() > 66:
        assert _whole_pixels(snapped.matrix, picture, size) is not None


def test_turned_maps_are_not_snapped():
    warp = RandomAffine(degrees=(10.0, 10.0)).warp((200, 200), generator())
    assert warp.snap((200, 200)) is warp


# Pictures of every kind


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pictures_of_every_type_and_number_of_channels(channels, dtype):
    light = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    image = (generator().random((H, W, channels)) * light).astype(dtype)
    steps = [
        HorizontalFlip(p=1),
        RandomResizedCrop(32),
        Resize(20),
        RandomAffine(10, p=1),
        Letterbox(40, pad=1.0),
    ]
    for transform in steps:
        out = transform(Sample("x", image), generator()).image
        assert out.dtype == dtype and out.ndim == 3 and out.shape[2] == channels and out.flags.c_contiguous
        assert out.max() > 0.5 * light
        assert np.allclose(out.mean() / light, 0.5, atol=0.16)


def test_a_16_bit_ramp_keeps_its_levels():
    ramp = np.tile(np.arange(2000, dtype=np.uint16)[None, :, None], (4, 1, 1)) * 30
    out = ResizeTo(4, 4000)(Sample("x", ramp), generator()).image
    assert len(np.unique(out)) > 2500 and out.max() == 1999 * 30


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="int32"):
        warp_image(np.zeros((4, 4, 3), np.int32), np.eye(2, 3), (4, 4))


def test_shrinking_averages_and_does_not_alias():
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    for matrix in (np.array([[0.2, 0, 0], [0, 0.2, 0]]), np.array([[0.2, 0.01, 0], [-0.01, 0.2, 0.5]])):
        averaged, sampled = (
            warp_image(stripes, matrix, (18, 18), antialias=a)[2:-2, 2:-2] for a in (True, False)
        )
        assert np.abs(averaged - 127.5).max() < 32
        assert np.ptp(sampled) > 100


@pytest.mark.parametrize("factor", [1.3, 1.9, 2.6, 4.0])
@pytest.mark.parametrize("tilt", [0.0, 1e-6])
def test_training_pictures_are_as_sharp_as_evaluation_s(factor, tilt):
    """Gradient energy against PIL's antialiased bilinear, on noise with a natural (1 / f) spectrum."""
    side = 256
    rng = generator(1)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / np.maximum(f, 1 / side)).real
    image = np.repeat(((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)[..., None], 3, 2)
    new = round(side / factor)
    matrix = np.array([[new / side, tilt, 0], [0, new / side, 0]])
    ours = warp_image(image, matrix, (new, new))
    pil = resize_like_pil(image, (new, new))
    energy = [np.square(np.diff(x[2:-2, 2:-2, 0].astype(float), axis=1)).mean() for x in (ours, pil)]
    assert 0.85 < energy[0] / energy[1] < 1.15
    assert np.abs(ours.astype(int) - pil)[2:-2, 2:-2].mean() < 1.8


def test_inverse_is_the_inverse():
    matrix = np.array([[1.2, 0.3, 4], [-0.2, 0.8, 1]])
    point = np.array([3.0, 7.0])
    np.testing.assert_allclose(move_points(move_points(point, matrix), inverse(matrix)), point, atol=1e-12)


def test_an_object_that_never_had_an_outline_keeps_its_box_in_a_crop():
    boxes = np.array([[2, 2, 30, 30], [4, 4, 12, 12]], np.float32)
    masks = np.zeros((2, 40, 40), bool)
    masks[1, 4:12, 4:12] = True
    targets = {"boxes": boxes, "masks": masks}
    crop = Warp(np.array([[1.0, 0, -5], [0, 1, -5]]), (20, 20))
    moved = crop(Sample("a", np.zeros((40, 40, 3), np.uint8), targets)).targets
    assert moved["boxes"].tolist() == [[0, 0, 20, 20], [0, 0, 7, 7]]
    assert moved["masks"].any((1, 2)).tolist() == [False, True]
