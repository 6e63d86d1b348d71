"""Albumentations behind our own door: same keys, our generator, and no silent loss of truth."""

import subprocess
import sys
import zlib

import albumentations as A
import cv2
import numpy as np
import pytest

from retinue.datasets.geometry import mask_box
from retinue.datasets.spatial import CenterCrop, HorizontalFlip, RandomAffine
from retinue.datasets.targets import IGNORE, DataError, Sample
from retinue.datasets.transforms import Albumentations, Compose, load_albumentations


def generator(seed=0):
    return np.random.default_rng(seed)


def sample(n=2, **more):
    rng = generator(5)
    masks = np.zeros((n, 40, 50), bool)
    for i, mask in enumerate(masks):
        mask[4 + 9 * i : 14 + 9 * i, 20 * i : 20 * i + 12] = True
    boxes = np.array([[20 * i, 4 + 9 * i, 20 * i + 12, 14 + 9 * i] for i in range(n)], np.float32)
    targets = {
        "boxes": boxes.reshape(-1, 4),
        "box_labels": np.arange(n) + 7,
        "area": np.full(n, 120, np.float32),
        "crowd": np.zeros(n, bool),
        "masks": masks,
        "semantic": rng.integers(0, 20, (40, 50)),
        **more,
    }
    return Sample("a.jpg", rng.integers(0, 256, (40, 50, 3), np.uint8), targets)


def many():
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(scale=(0.7, 1.3), rotate=(-20, 20), translate_percent=0.1, p=0.9),
            A.OneOf([A.RandomBrightnessContrast(), A.HueSaturationValue(), A.GaussNoise()], p=0.9),
            A.CoarseDropout(p=0.5),
            A.RandomResizedCrop((32, 32), p=1),
        ]
    )


def digest(out):
    crc = zlib.crc32(np.ascontiguousarray(out.image))
    for key in sorted(out.targets):
        crc = zlib.crc32(np.ascontiguousarray(out.targets[key]), crc)
    return crc


def digests(seeds):
    transform = Albumentations(many())
    return [digest(transform(sample(), generator(seed))) for seed in seeds]


def test_a_flip_is_our_flip_for_every_key():
    ours = HorizontalFlip(p=1)(sample(depth=np.ones((40, 50), np.float32)), generator())
    theirs = Albumentations(A.HorizontalFlip(p=1))(sample(depth=np.ones((40, 50), np.float32)), generator())
    np.testing.assert_array_equal(ours.image, theirs.image)
    for key, value in ours.targets.items():
        assert theirs.targets[key].dtype == value.dtype, key
        np.testing.assert_allclose(theirs.targets[key], value, atol=1e-4, err_msg=key)
    assert np.isnan(theirs.to_file).all()


def test_a_crop_is_our_crop_and_drops_the_same_rows():
    ours = CenterCrop(20)(sample(), generator())
    theirs = Albumentations(A.CenterCrop(20, 20))(sample(), generator())
    np.testing.assert_array_equal(ours.image, theirs.image)
    np.testing.assert_array_equal(ours.targets["semantic"], theirs.targets["semantic"])
    for key in ("boxes", "box_labels", "masks", "area"):
        np.testing.assert_allclose(theirs.targets[key], ours.targets[key], atol=1e-3, err_msg=key)


def test_the_same_generator_gives_the_same_in_any_order_and_process():
    seeds = list(range(12))
    here = digests(seeds)
    assert len(set(here)) == 12
    assert digests(seeds[::-1]) == here[::-1]
    code = f"import runpy; print(runpy.run_path({__file__!r})['digests']({seeds[6:]} + {seeds[:6]}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == str(here[6:] + here[:6])


def test_its_steps_do_not_draw_the_same_numbers():
    """One seed given to every step would make two equal coins fall alike."""
    coins = Albumentations(A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]))
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = 255
    places = {tuple(np.argwhere(coins(Sample("x", image), generator(s)).image[..., 0])[0]) for s in range(40)}
    assert len(places) == 4


def test_labels_are_never_mixed():
    labels = np.array([0, 7, 200])[generator().integers(0, 3, (5, 5))].repeat(8, 0).repeat(10, 1)
    bending = A.Compose(
        [A.ElasticTransform(alpha=30, p=1), A.Affine(scale=(0.5, 1.5), rotate=(-40, 40), p=1)]
    )
    for seed in range(5):
        moved = Albumentations(bending)(sample(semantic=labels), generator(seed)).targets["semantic"]
        assert set(np.unique(moved)) <= {0, 7, 200, IGNORE}
    blending = A.Resize(20, 25, mask_interpolation=cv2.INTER_LINEAR)
    with pytest.raises(
        DataError, match=r"\['Resize'\] would blend classes into others; leave out their mask_interp"
    ):
        Albumentations(blending)(sample(semantic=labels), generator())


def test_what_comes_in_from_outside_is_ignored():
    pad = Albumentations(A.PadIfNeeded(60, 60, border_mode=cv2.BORDER_CONSTANT))
    out = pad(sample(), generator()).targets["semantic"]
    assert (out == IGNORE).sum() == 60 * 60 - 40 * 50 and out.dtype == np.int64
    np.testing.assert_array_equal(out[10:50, 5:55], sample().targets["semantic"])


def test_boxes_a_hair_outside_and_without_extent_are_no_error():
    boxes = np.array([[-1e-6, 2, 50.0001, 30], [10, 10, 10, 20], [3, 3, 9, 9]], np.float32)
    targets = {"boxes": boxes, "box_labels": np.array([1, 2, 3])}
    out = Albumentations(A.VerticalFlip(p=1))(
        Sample("x", np.zeros((40, 50, 3), np.uint8), targets), generator()
    ).targets
    np.testing.assert_allclose(out["boxes"], [[0, 10, 50, 38], [3, 31, 9, 37]], atol=1e-4)
    np.testing.assert_array_equal(out["box_labels"], [1, 3])


def test_no_boxes_and_no_targets():
    out = Albumentations(many())(sample(n=0), generator())
    assert out.targets["boxes"].shape == (0, 4) and out.targets["boxes"].dtype == np.float32
    assert out.targets["masks"].shape == (0, 32, 32) and out.targets["box_labels"].shape == (0,)
    labelled = Sample("x", sample().image, {"label": np.int64(2)})
    assert Albumentations(many())(labelled, generator()).targets == {"label": 2}


def test_keypoints_move_and_leave():
    points = np.array([[[10, 10, 2], [49, 39, 1], [0, 0, 0]]], np.float32)
    boxes = np.array([[5, 5, 50, 40]], np.float32)
    given = Sample("x", np.zeros((40, 50, 3), np.uint8), {"boxes": boxes, "keypoints": points})
    out = Albumentations(A.Crop(0, 0, 30, 30))(given, generator()).targets["keypoints"]
    np.testing.assert_allclose(out, [[[10, 10, 2], [0, 0, 0], [0, 0, 0]]], atol=1e-5)
    with pytest.raises(DataError, match=r"HorizontalFlip.*keypoints"):
        Albumentations(A.HorizontalFlip())(given, generator())


def objects():
    """Three slanted triangles with all that an object can have; the keypoints are two corners of each."""
    masks, points = np.zeros((3, 80, 100), np.uint8), np.zeros((3, 2, 3), np.float32)
    for i in range(3):
        corners = np.array([[10 + 28 * i, 10], [34 + 28 * i, 20 + 5 * i], [14 + 28 * i, 60]])
        cv2.fillPoly(masks[i], [corners], 1)
        points[i] = [[*(corners[0] + 0.5), 2], [*(corners[2] + 0.5), 1]]
    masks = masks.astype(bool)
    targets = {
        "boxes": np.array([mask_box(mask) for mask in masks], np.float32),
        "box_labels": np.arange(3),
        "crowd": np.arange(3) == 1,
        "area": masks.sum((1, 2)).astype(np.float32),
        "masks": masks,
        "keypoints": points,
    }
    return Sample("x", np.zeros((80, 100, 3), np.uint8), targets)


@pytest.mark.parametrize(
    "transform",
    [A.CenterCrop(40, 40), A.Rotate((20, 20), p=1), A.Affine(rotate=30, scale=0.8, p=1), A.Crop(0, 0, 24, 80),
     A.RandomSizedBBoxSafeCrop(40, 40)],
)  # fmt: skip
def test_everything_of_an_object_moves_together(transform):
    out = Albumentations(transform)(objects(), generator(1)).targets
    n = len(out["boxes"])
    assert n and all(len(out[key]) == n for key in ("box_labels", "crowd", "area", "masks", "keypoints"))
    np.testing.assert_array_equal(out["crowd"], out["box_labels"] == 1)
    for box, mask, points in zip(out["boxes"], out["masks"], out["keypoints"]):
        np.testing.assert_allclose(box, mask_box(mask), atol=1)
        for x, y, v in points:
            near = mask[max(0, int(y) - 2) : int(y) + 3, max(0, int(x) - 2) : int(x) + 3]
            assert v == 0 or near.any()
    assert out["keypoints"][..., 2].max() > 0 or isinstance(transform, A.CenterCrop)


def test_a_cut_is_our_cut_with_masks_too():
    ours = CenterCrop(40)(objects(), generator()).targets
    theirs = Albumentations(A.CenterCrop(40, 40))(objects(), generator()).targets
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, atol=1e-4, err_msg=key)


def test_what_cannot_stay_true_is_refused_by_name():
    plane = np.ones((40, 50), np.float32)
    normals = np.ones((3, 40, 50), np.float32)
    with pytest.raises(DataError, match=r"ElasticTransform.*depth"):
        Albumentations(A.ElasticTransform())(sample(depth=plane), generator())
    with pytest.raises(DataError, match=r"HorizontalFlip.*normals"):
        Albumentations(A.HorizontalFlip())(sample(normals=normals), generator())
    with pytest.raises(DataError, match="clean"):
        Albumentations(A.GaussNoise())(sample(clean=normals), generator())
    with pytest.raises(DataError, match="uint16"):
        Albumentations(A.GaussNoise())(Sample("x", np.zeros((9, 9, 3), np.uint16)), generator())
    image_only = Albumentations(A.RandomBrightnessContrast(p=1))
    out = image_only(sample(normals=normals, depth=plane), generator())
    np.testing.assert_array_equal(out.targets["normals"], normals)
    np.testing.assert_array_equal(out.to_file, np.eye(2, 3))


def test_a_hole_moves_as_target_and_as_input():
    hole = generator().random((1, 40, 50)) < 0.3
    given = Sample("x", np.zeros((40, 50, 1), np.uint8), {"hole": hole}, {"hole": ~hole})
    out = Albumentations(A.VerticalFlip(p=1))(given, generator())
    np.testing.assert_array_equal(out.targets["hole"], hole[:, ::-1])
    np.testing.assert_array_equal(out.inputs["hole"], ~hole[:, ::-1])
    assert out.image.shape == (40, 50, 1)


def test_own_box_parameters_hold():
    params = A.BboxParams("pascal_voc", min_area=1000)
    keep_large = Albumentations(A.Compose([A.HorizontalFlip(p=1)], bbox_params=params))
    assert len(keep_large(sample(), generator()).targets["boxes"]) == 0


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_a_saved_pipeline_is_the_pipeline(tmp_path, kind):
    path = tmp_path / f"pipeline.{kind}"
    A.save(many(), path, data_format=kind)
    loaded = load_albumentations(path)
    assert [digest(loaded(sample(), generator(s))) for s in range(4)] == digests(range(4))


@pytest.mark.filterwarnings("ignore:Transform NoSuchThing")
def test_a_bad_pipeline_file_is_named(tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"transform": {"__class_fullname__": "NoSuchThing"}}')
    for path in (bad, tmp_path / "missing.json"):
        with pytest.raises(DataError, match=path.name):
            load_albumentations(path)


def test_it_stands_among_our_own():
    recipe = Compose([RandomAffine(10), Albumentations(A.CLAHE(p=1)), HorizontalFlip(p=1)])
    out = recipe(sample(), generator())
    assert out.image.shape == (40, 50, 3) and np.isfinite(out.to_file).all()
