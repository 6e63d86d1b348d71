"""Compose, recipes, mosaic, and evaluation pixel for pixel as torchvision's."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retinue.datasets.geometry import mask_box
from retinue.datasets.targets import IGNORE, DataError, Sample, collate
from retinue.datasets.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    Either,
    EvalTransform,
    GaussianNoise,
    HorizontalFlip,
    Letterbox,
    MixUp,
    Mosaic,
    RandomAffine,
    RandomCrop,
    RandomResize,
    RandomResizedCrop,
    Resize,
    ResizeTo,
    ScaleJitter,
    VerticalFlip,
    detection_style,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def generator(seed=0):
    return np.random.default_rng(seed)


def smooth(h=60, w=80, seed=0):
    """A picture without sharp edges, on which resampling twice costs little."""
    y, x = np.mgrid[:h, :w]
    rng = generator(seed)
    planes = [
        128 + 100 * np.sin(x * rng.uniform(0.05, 0.12) + y * rng.uniform(0.05, 0.12) + c) for c in range(3)
    ]
    return np.stack(planes, 2).astype(np.uint8)


def boxed(index=0, h=60, w=80, n=2):
    rng = generator(index)
    masks = np.zeros((n, h, w), bool)
    for mask in masks:
        y, x = rng.integers(0, h - 20), rng.integers(0, w - 20)
        mask[y : y + 20, x : x + 16] = True
    targets = {
        "boxes": np.array([mask_box(m) for m in masks], np.float32).reshape(-1, 4),
        "box_labels": np.full(n, index % 5),
        "area": masks.sum((1, 2)).astype(np.float32),
        "crowd": np.zeros(n, bool),
        "masks": masks,
        "semantic": np.full((h, w), index % 5),
    }
    return Sample(f"{index}.jpg", smooth(h, w, index), targets)


# Compose


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_a_fused_chain_is_its_steps_one_by_one(seed):
    steps = [
        Letterbox(90, pad=0.0),
        HorizontalFlip(),
        RandomAffine(8, (0.05, 0.05), (1.2, 1.6), 3),
        RandomCrop(70),
        VerticalFlip(),
    ]
    sample, rng = boxed(seed % 9), generator(seed)
    sample.targets["box_labels"] = np.arange(2)
    fused = Compose(steps)(sample, generator(seed))
    for step in steps:
        sample = step(sample, rng)
    np.testing.assert_allclose(fused.to_file, sample.to_file, atol=1e-9)
    difference = np.abs(fused.image.astype(int) - sample.image)
    assert np.median(difference) <= 2 and np.percentile(difference, 90) <= 12
    assert (fused.targets["semantic"] != sample.targets["semantic"]).mean() < 0.04
    moved = dict(zip(sample.targets["box_labels"], sample.targets["boxes"]))
    for label, box in zip(fused.targets["box_labels"], fused.targets["boxes"]):
        if (box[2:] - box[:2]).min() > 10:
            ends = np.stack([box, moved[label]])
            both = np.concatenate([ends[:, :2].max(0), ends[:, 2:].min(0)])
            either = np.concatenate([ends[:, :2].min(0), ends[:, 2:].max(0)])
            assert np.prod(both[2:] - both[:2]) / np.prod(either[2:] - either[:2]) > 0.75


def test_a_resized_crop_fuses_with_what_stands_around_it():
    steps = [Compose([Resize(64), RandomCrop(56)]), ColorJitter(0.1), HorizontalFlip(p=1)]
    recipe = Compose(steps)
    assert [len(run) for _, run in recipe.runs] == [2, 1, 1]
    out = recipe(boxed(), generator())
    assert out.image.shape == (56, 56, 3) and out.to_file.shape == (2, 3)


def test_an_empty_compose_changes_nothing():
    sample = boxed()
    assert Compose([])(sample, generator()) is sample


def test_recipes_are_functions_of_the_generator_alone():
    recipe = Compose(
        [Mosaic(64, p=0.5), RandomResizedCrop(40), ScaleJitter(40), detection_style(48), GaussianNoise(p=1)]
    )
    results = [recipe(boxed(), generator(seed), boxed) for seed in (3, 7, 3)]
    for key, value in results[0].targets.items():
        np.testing.assert_array_equal(value, results[2].targets[key], err_msg=key)
    np.testing.assert_array_equal(results[0].image, results[2].image)
    assert (results[0].image != results[1].image).any()


def test_transforms_do_not_write_to_what_they_are_given():
    sample, same = boxed(), boxed()
    for seed in range(5):
        detection_style(48)(sample, generator(seed), boxed)
        Mosaic(48)(sample, generator(seed), boxed)
    np.testing.assert_array_equal(sample.image, same.image)
    for key, value in same.targets.items():
        np.testing.assert_array_equal(sample.targets[key], value, err_msg=key)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_detection_style_gives_a_batch(n):
    samples = [detection_style(64)(boxed(i, n=n), generator(i)) for i in range(4)]
    pictures, targets = collate(samples)
    assert pictures.pixels.shape == (4, 3, 64, 64)
    assert all(t["boxes"].shape[1] == 4 and t["boxes"].dtype == torch.float32 for t in targets)


def test_sizes():
    sample = Sample("x", np.zeros((60, 100, 3), np.uint8))
    sizes = {
        Resize(30): (30, 50),
        Resize(31): (31, 51),  # 51.67, rounded down
        Resize(60, longest=80): (48, 80),
        Letterbox(50): (50, 50),
        Letterbox(50, divisor=32): (32, 64),
        Letterbox(50, divisor=1): (30, 50),
        CenterCrop((20, 30)): (20, 30),
        RandomCrop(128): (128, 128),
        ScaleJitter(33): (33, 33),
    }
    for transform, size in sizes.items():
        assert transform(sample, generator()).image.shape[:2] == size


def test_random_resize_draws_every_side_and_keeps_the_longest():
    sample = Sample("x", np.zeros((20, 50, 3), np.uint8), {"boxes": np.array([[0, 0, 50, 20]], np.float32)})
    resize, drawn = RandomResize(10, 13, longest=30), set()
    for seed in range(60):
        out = resize(sample, generator(seed))
        height, width = out.image.shape[:2]
        drawn.add((height, width))
        np.testing.assert_allclose(out.targets["boxes"], [[0, 0, width, height]], atol=1e-5)
        np.testing.assert_allclose(out.to_file @ (width, height, 1), (50, 20))
    assert drawn == {(10, 25), (11, 27), (12, 30)}  # 13 x 32 would pass the bound
    tall = Sample("x", np.zeros((50, 20, 3), np.uint8))
    assert RandomResize(10, 10)(tall, generator()).image.shape == (25, 10, 3)


def test_random_resized_crop_draws_what_the_paper_says():
    crop = RandomResizedCrop(10, scale=(0.2, 0.5))
    windows = [crop.window((200, 300), generator(seed)) for seed in range(400)]
    share = np.array([h * w / 60000 for _, _, h, w in windows])
    ratio = np.array([w / h for _, _, h, w in windows])
    assert 0.19 < share.min() < 0.22 and 0.48 < share.max() < 0.51 and abs(share.mean() - 0.35) < 0.02
    assert 0.74 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.35 and abs(np.log(ratio).mean()) < 0.02
    assert all(t >= 0 and x >= 0 and t + h <= 200 and x + w <= 300 for t, x, h, w in windows)
    assert RandomResizedCrop(10, scale=(1.0, 1.0)).window((10, 100), generator()) == (0, 43, 10, 13)


# Mosaic


def test_mosaic_joins_four_pictures_with_their_rows():
    for seed in range(8):
        out = Mosaic(64, pad=0.5)(boxed(1), generator(seed), boxed)
        t = out.targets
        assert out.image.shape == (64, 64, 3) and t["masks"].shape[1:] == (64, 64)
        assert len({len(t[key]) for key in ("boxes", "box_labels", "area", "crowd", "masks")}) == 1
        assert {a.dtype for a in t.values()} == {a.dtype for a in boxed().targets.values()}
        for box, mask, label in zip(t["boxes"], t["masks"], t["box_labels"]):
            np.testing.assert_allclose(mask_box(mask), box, atol=1.01)
            assert (t["semantic"][mask] == label).all()  # each row lies in its own picture
        assert ((t["semantic"] == IGNORE) == (out.image == 128).all(2)).mean() > 0.97
        assert np.isnan(out.to_file).all()


def test_mosaic_of_empty_pictures_and_keypoints():
    def others(index):
        points = np.array([[[10, 10, 2], [40, 30, 1], [0, 0, 0]]], np.float32)
        box = np.array([[5, 5, 45, 35]], np.float32)
        return Sample(str(index), smooth(), {"boxes": box, "keypoints": points})

    out = Mosaic(100)(others(0), generator(1), others).targets
    seen = out["keypoints"][out["keypoints"][..., 2] > 0]
    assert len(seen) and (seen[:, :2] >= 0).all() and (seen[:, :2] <= 100).all()
    assert not out["keypoints"][:, 2].any()
    for box, points in zip(out["boxes"], out["keypoints"]):
        for x, y, v in points:
            assert v == 0 or (box[0] <= x <= box[2] and box[1] <= y <= box[3])
    empty = Mosaic(64)(boxed(n=0), generator(), lambda i: boxed(i, n=0)).targets
    assert empty["boxes"].shape == (0, 4) and empty["masks"].shape == (0, 64, 64)


def test_mosaic_says_what_it_cannot_join():
    labelled = Sample("a.jpg", smooth(), {"label": np.int64(1)})
    with pytest.raises(DataError, match="label"):
        Mosaic(64)(labelled, generator(), lambda i: labelled)
    with pytest.raises(DataError, match="others"):
        Mosaic(64)(boxed(), generator())
    with pytest.raises(DataError, match="boxes"):
        Mosaic(64)(Sample("a.jpg", smooth()), generator(), boxed)


# Evaluation, against torchvision


def photos():
    found = sorted((DATA / "imagenet_sample").glob("*.JPEG"))[:25]
    if not found:
        pytest.skip("imagenet_sample is not at hand")
    return [Image.open(path).convert("RGB") for path in found]


def torchvision_pixels(image, resize, crop, interpolation):
    from torchvision.transforms import v2

    mode = v2.InterpolationMode(interpolation)
    chain = v2.Compose([v2.Resize(resize, mode), v2.CenterCrop(crop), v2.PILToTensor()])
    return chain(image).permute(1, 2, 0).numpy()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(8, 90),
    st.integers(8, 90),
    st.integers(5, 60),
    st.integers(5, 70),
    st.sampled_from(["bilinear", "bicubic"]),
    st.sampled_from(["RGB", "L"]),
)
def test_evaluation_s_pixels_are_torchvision_s(h, w, resize, crop, interpolation, mode):
    array = generator(h * w).integers(0, 256, (h, w, 3), np.uint8)
    image = Image.fromarray(array).convert(mode)
    ours = EvalTransform(resize, crop, interpolation)(
        Sample("x", np.asarray(image).reshape(h, w, -1)), generator()
    )
    np.testing.assert_array_equal(ours.image, torchvision_pixels(image, resize, crop, interpolation))


def test_evaluation_s_pixels_on_photos_are_those_of_torchvision_s_weights():
    from torchvision.models import ConvNeXt_Tiny_Weights, ResNet50_Weights, ViT_B_16_Weights

    all_photos = photos()
    for weights in (
        ResNet50_Weights.IMAGENET1K_V1,
        ResNet50_Weights.IMAGENET1K_V2,
        ConvNeXt_Tiny_Weights.DEFAULT,
        ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1,
    ):
        theirs = weights.transforms()
        ours = EvalTransform(theirs.resize_size[0], theirs.crop_size[0], theirs.interpolation.value)
        mean, std = torch.tensor(theirs.mean).view(-1, 1, 1), torch.tensor(theirs.std).view(-1, 1, 1)
        for image in all_photos[:: 1 if theirs.crop_size[0] < 300 else 6]:
            moved = ours(Sample("x", np.asarray(image)), generator()).image
            tensor = torch.from_numpy(moved).permute(2, 0, 1).float() / 255
            torch.testing.assert_close((tensor - mean) / std, theirs(image), atol=1e-6, rtol=0)


def test_evaluation_without_antialias_is_torch_s_interpolation():
    array = smooth(90, 120)
    ours = EvalTransform(40, 40, antialias=False)(Sample("x", array), generator()).image
    tensor = torch.from_numpy(array).permute(2, 0, 1)[None].float()
    theirs = torch.nn.functional.interpolate(tensor, (40, 53), mode="bilinear", antialias=False)
    left = round((53 - 40) / 2)
    assert np.abs(ours - theirs[0, :, :, left : left + 40].permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_evaluation_keeps_the_type_and_moves_the_targets(dtype):
    light = 1 if dtype == np.float32 else 257
    sample = boxed().with_(
        image=(smooth() / 255).astype(dtype) if light == 1 else smooth().astype(dtype) * light
    )
    out = EvalTransform(50, 40)(sample, generator())
    eight = EvalTransform(50, 40)(boxed(), generator())
    scale = 255 if dtype == np.float32 else 1 / 257
    assert out.image.dtype == dtype and np.abs(out.image * scale - eight.image).max() <= 1.01
    crop = CenterCrop(40)(Resize(50)(boxed(), generator()), generator())
    for key, value in crop.targets.items():
        np.testing.assert_allclose(out.targets[key], value, atol=1e-4, err_msg=key)
    np.testing.assert_allclose(out.to_file, crop.to_file)


def test_a_prediction_imports_no_augmentation_library():
    code = (
        "import sys, numpy as np\n"
        "from retinue.datasets.transforms import EvalTransform\n"
        "from retinue.datasets.targets import Sample\n"
        "EvalTransform()(Sample('x', np.zeros((30, 30, 3), np.uint8)), np.random.default_rng(0))\n"
        "print([m for m in ('albumentations', 'accelerate', 'torchvision') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# MixUp and a choice between two


def grey(level: int, boxes: list[list[float]], side: int = 40, id: str = "a") -> Sample:
    image = np.full((side, side, 3), level, np.uint8)
    targets = {"boxes": np.array(boxes, np.float32).reshape(-1, 4), "box_labels": np.arange(len(boxes))}
    return Sample(id, image, targets)


def test_mixup_is_the_mean_of_two_with_the_boxes_of_both():
    one, other = grey(100, [[1, 2, 30, 40]]), grey(201, [[0, 0, 20, 10], [5, 5, 9, 9]], 80, "b")
    mixed = MixUp(ResizeTo(40, 40))(one, generator(), lambda i: other)
    assert set(np.unique(mixed.image)) <= {150, 151}  # of 150.5
    assert mixed.targets["boxes"].tolist() == [[1, 2, 30, 40], [0, 0, 10, 5], [2.5, 2.5, 4.5, 4.5]]
    assert mixed.targets["box_labels"].tolist() == [0, 0, 1] and mixed.id == "a"
    assert np.isnan(mixed.to_file).all() and (one.image == 100).all()
    assert MixUp(ResizeTo(40, 40), p=0)(one, generator()) is one
    empty = MixUp(ResizeTo(40, 40))(grey(0, []), generator(), lambda i: grey(9, []))
    assert empty.targets["boxes"].shape == (0, 4)


def test_mixup_says_what_it_cannot_join():
    one = grey(100, [[1, 2, 30, 40]])
    with pytest.raises(DataError, match="MixUp needs other samples"):
        MixUp(ResizeTo(40, 40))(one, generator())
    with pytest.raises(DataError, match=r"a has \(40, 40, 3\), b \(30, 30, 3\)"):
        MixUp(ResizeTo(30, 30))(one, generator(), lambda i: grey(0, [[1, 2, 3, 4]], id="b"))
    semantic = one.with_(targets={**one.targets, "semantic": np.zeros((40, 40), np.int64)})
    with pytest.raises(DataError, match="semantic"):
        MixUp(ResizeTo(40, 40))(semantic, generator(), lambda i: semantic)


def test_either_takes_one_of_two_as_often_as_it_is_told():
    choice = Either(0.25, ResizeTo(4, 4), ResizeTo(8, 8))
    sides = [choice(grey(0, []), generator(seed)).image.shape[0] for seed in range(400)]
    assert 0.18 < np.mean(np.array(sides) == 4) < 0.32 and set(sides) == {4, 8}


def test_a_letterbox_may_round_down():
    picture = Sample("a", np.full((427, 640, 3), 9, np.uint8))
    heights = [
        (Letterbox(416, 1.0, down=down)(picture, generator()).image[:, 0, 0] == 9).sum() for down in (0, 1)
    ]
    assert heights == [278, 277]  # of 277.55
