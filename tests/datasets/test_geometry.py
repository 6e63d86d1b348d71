"""Every key moves with the picture: identities and hand-computed cases."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moves import H, K, W, generator, warps

from retinue.datasets.geometry import Warp, clip_boxes, mask_box, move_points
from retinue.datasets.resample import warp_image, warp_nearest
from retinue.datasets.spatial import (
    CenterCrop,
    HorizontalFlip,
    RandomAffine,
    ResizeTo,
    VerticalFlip,
)
from retinue.datasets.targets import IGNORE, DataError, Sample
from retinue.datasets.transforms import Compose, EvalTransform, Mosaic


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


# Labels are never mixed


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 255), min_size=2, max_size=6, unique=True),
    warps(),
    st.integers(0, 999),
    st.sampled_from([np.int64, np.uint8]),
)
def test_no_class_comes_from_a_warp_but_the_ignored_one(classes, chain, seed, dtype):
    rng = generator(seed)
    labels = rng.choice(classes, (H // 8, W // 8)).repeat(8, 0).repeat(8, 1).astype(dtype)
    sample = Sample("a", np.zeros((H, W, 3), np.uint8), {"semantic": labels})
    one_by_one = sample
    for step in chain:
        one_by_one = step(one_by_one, rng)
    evaluated = EvalTransform(37, 33)(sample, rng)
    mosaic = Mosaic(40)(sample, rng, lambda _: one_by_one)
    for out in (Compose(chain)(sample, rng), one_by_one, evaluated, mosaic):
        moved = out.targets["semantic"]
        assert moved.dtype == dtype and moved.shape == out.image.shape[:2]
        assert set(np.unique(moved)) <= {*np.unique(labels), IGNORE}


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


def test_an_object_that_never_had_an_outline_keeps_its_box_in_a_crop():
    boxes = np.array([[2, 2, 30, 30], [4, 4, 12, 12]], np.float32)
    masks = np.zeros((2, 40, 40), bool)
    masks[1, 4:12, 4:12] = True
    targets = {"boxes": boxes, "masks": masks}
    crop = Warp(np.array([[1.0, 0, -5], [0, 1, -5]]), (20, 20))
    moved = crop(Sample("a", np.zeros((40, 40, 3), np.uint8), targets)).targets
    assert moved["boxes"].tolist() == [[0, 0, 20, 20], [0, 0, 7, 7]]
    assert moved["masks"].any((1, 2)).tolist() == [False, True]
