"""Zooming out and in: every key moves along, and the window shows what it promises."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.datasets.targets import Sample
from retinue.datasets.transforms import Compose, RandomIoUCrop, RandomZoomOut, photometric_distortion
from retinue.datasets.zoom import _iou


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(boxes: object = ((10, 10, 30, 40), (50, 20, 70, 50)), size: tuple[int, int] = (60, 80)) -> Sample:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    masks = np.zeros((len(rows), *size), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, rows.astype(int)):
        mask[y1:y2, x1:x2] = True
    targets = {
        "boxes": rows,
        "box_labels": np.arange(len(rows)),
        "crowd": np.zeros(len(rows), bool),
        "masks": masks,
        "semantic": masks.any(0).astype(np.int64),
    }
    image = generator(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Sample("a.png", image, targets)


def test_zooming_out_keeps_the_picture_whole_somewhere() -> None:
    sample, sides = picture(), []
    for seed in range(60):
        out = RandomZoomOut(4.0, p=1, pad=0.5)(sample, generator(seed))
        height, width = out.image.shape[:2]
        x, y = (int(v) for v in out.targets["boxes"][0, :2] - 10)
        np.testing.assert_array_equal(out.image[y : y + 60, x : x + 80], sample.image)
        np.testing.assert_array_equal(
            out.targets["masks"][:, y : y + 60, x : x + 80], sample.targets["masks"]
        )
        np.testing.assert_allclose(out.to_file @ (x, y, 1), (0, 0))
        assert out.image.reshape(-1, 3).sum(0).max() <= sample.image.sum() + 128 * height * width
        assert abs(height / 60 - width / 80) < 0.05
        sides.append(height / 60)
    assert 1 <= min(sides) < 1.3 and 3.7 < max(sides) <= 4
    assert RandomZoomOut(p=0)(sample, generator()) is sample


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.3, 0.5]))
def test_a_part_shows_an_object_with_the_overlap_asked_for(seed: int, bound: float) -> None:
    sample, crop = picture(), RandomIoUCrop([bound])
    x1, y1, x2, y2 = window = crop.window(sample.targets["boxes"].astype(float), (60, 80), generator(seed))
    assert 0 <= x1 < x2 <= 80 and 0 <= y1 < y2 <= 60 and 0.5 <= (x2 - x1) / (y2 - y1) <= 2
    assert x2 - x1 >= 23 and y2 - y1 >= 17  # 0.3 of the sides
    assert _iou(np.array([window], float), sample.targets["boxes"]).max() >= bound
    out = crop(sample, generator(seed))
    np.testing.assert_array_equal(out.image, sample.image[y1:y2, x1:x2])
    np.testing.assert_array_equal(out.targets["semantic"], sample.targets["semantic"][y1:y2, x1:x2])
    centres = (sample.targets["boxes"][:, :2] + sample.targets["boxes"][:, 2:]) / 2
    inside = (centres > (x1, y1)).all(1) & (centres < (x2, y2)).all(1)
    assert out.targets["box_labels"].tolist() == np.flatnonzero(inside).tolist() != []
    expected = sample.targets["boxes"][inside].clip((x1, y1, x1, y1), (x2, y2, x2, y2)) - (x1, y1, x1, y1)
    np.testing.assert_allclose(out.targets["boxes"], expected)
    assert len(out.targets["masks"]) == inside.sum()


def test_whole_pictures_crowds_and_pictures_without_boxes() -> None:
    sample = picture()
    whole = RandomIoUCrop([None])(sample, generator())
    np.testing.assert_array_equal(whole.image, sample.image)
    empty = RandomIoUCrop([0.9])(picture(()), generator())
    assert empty.image.size < sample.image.size and empty.targets["boxes"].shape == (0, 4)
    crowded = sample.with_(targets={**sample.targets, "crowd": np.array([False, True])})
    seen = [RandomIoUCrop([0.3])(crowded, generator(seed)).targets for seed in range(40)]
    # Most of it may lie outside, as its centre does: what is left of it is no background.
    assert any(t["crowd"].any() and not (t["box_labels"] == 0).any() for t in seen)
    assert any((t["crowd"] & (t["boxes"][:, 2:] - t["boxes"][:, :2] < (10, 15)).any(1)).any() for t in seen)
    assert RandomIoUCrop([0.5])(sample.with_(targets={}), generator()).image.size < sample.image.size


def test_other_colours_move_nothing() -> None:
    sample = picture()
    looks = [photometric_distortion()(sample, generator(seed)) for seed in range(20)]
    assert all(look.targets is sample.targets or look.targets == sample.targets for look in looks)
    changed = [bool((look.image != sample.image).any()) for look in looks]
    assert any(changed) and len({look.image.tobytes() for look in looks}) > 10
    np.testing.assert_array_equal(photometric_distortion(0.0)(sample, generator(1)).image, sample.image)
    chain = Compose([photometric_distortion(), RandomZoomOut(), RandomIoUCrop()])
    one, two = (chain(sample, generator(5)) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
