"""Detections and masks: painted as torchvision paints, encoded as pycocotools encodes, small until then."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from retinue.datasets.rle import is_rle
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.detection.masks import EncodedMasks, Masks, encode, encode_crop, union
from retinue.tasks.detection.results import Detections

CLASSES = ClassMap(("person", "dog", "kite"), (1, 18, 38))


def some(n: int = 4, size: tuple[int, int] = (40, 60), seed: int = 0, **more: object) -> Detections:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (n, 2, 2)) * (size[1], size[0]), 1).astype(np.float32)
    scores = np.sort(rng.uniform(0, 1, n).astype(np.float32))[::-1]
    return Detections("a.jpg", corners.reshape(n, 4), scores, rng.integers(0, 3, n), CLASSES, size, **more)  # type: ignore[arg-type]


def whole(masks: Masks | EncodedMasks, i: int) -> np.ndarray:
    canvas = np.zeros(masks.size, bool)
    y, x, mask = masks.one(i)
    canvas[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return canvas


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([1, 7, 14, 28]),
    st.booleans(),
)
def test_painting_is_torchvisions(seed: int, height: int, width: int, cells: int, inside: bool) -> None:
    rng = np.random.default_rng(seed)
    grid = rng.random((3, cells, cells), dtype=np.float32)
    corners = np.sort(rng.uniform(-30, 120, (3, 2, 2)).astype(np.float32), 1)
    if inside:
        corners = corners.clip(0, np.array([width, height], np.float32))
    boxes = corners.reshape(3, 4)
    masks = Masks(grid, boxes, (height, width))
    try:
        theirs = paste_masks_in_image(
            torch.from_numpy(grid)[:, None], torch.from_numpy(boxes), (height, width)
        )
    except RuntimeError:  # a box that lies outside the picture has a negative slice there
        for i in range(3):
            masks.one(i)
        return
    for i in range(3):
        y, x, mine = masks.probabilities_of(i)
        canvas = np.zeros((height, width), np.float32)
        canvas[y : y + mine.shape[0], x : x + mine.shape[1]] = mine
        assert np.abs(canvas - theirs[i, 0].numpy()).max() < 2e-6
        near = np.abs(canvas - 0.5) < 2e-6  # where the order of additions may decide
        assert (whole(masks, i) == (theirs[i, 0].numpy() > 0.5))[~near].all()


def test_a_hundred_masks_of_a_photo_are_torchvisions() -> None:
    rng = np.random.default_rng(0)
    grid = rng.random((100, 28, 28), dtype=np.float32)
    corners = np.sort(rng.uniform(0, 1, (100, 2, 2)) * (640, 427), 1).astype(np.float32).reshape(100, 4)
    theirs = (
        paste_masks_in_image(torch.from_numpy(grid)[:, None], torch.from_numpy(corners), (427, 640))[:, 0]
        > 0.5
    )
    masks = Masks(grid, corners, (427, 640))
    mine = np.stack([whole(masks, i) for i in range(100)])
    assert (
        mine != theirs.numpy()
    ).sum() <= 1  # of 3.2 million; the order of additions decides one in 32 million
    assert masks.rles() == [encode(mask) for mask in mine]
    assert (union(masks) == mine.any(0)).all()


def test_a_box_far_larger_than_the_picture_costs_no_more_than_the_picture() -> None:
    masks = Masks(np.ones((1, 28, 28), np.float32), np.array([[-1e9, -1e9, 1e9, 1e9]], np.float32), (30, 40))
    assert whole(masks, 0).all() and masks.one(0)[2].shape == (30, 40)


def test_bytes_are_probabilities_too() -> None:
    grid = np.random.default_rng(0).integers(0, 256, (2, 14, 14), np.uint8)
    boxes = np.array([[3, 4, 30, 33], [0, 0, 9, 5]], np.float32)
    both = (Masks(g, boxes, (40, 50)) for g in (grid, grid.astype(np.float32) / 255))
    one, other = ([m.one(i)[2] for i in range(2)] for m in both)
    assert all((a == b).all() for a, b in zip(one, other)) and one[0].any()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_crops_code_is_that_of_the_whole_picture(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    y, x = data.draw(st.integers(0, height)), data.draw(st.integers(0, width))
    h, w = data.draw(st.integers(0, height - y)), data.draw(st.integers(0, width - x))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    crop = rng.random((h, w)) < data.draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    canvas = np.zeros((height, width), bool)
    canvas[y : y + h, x : x + w] = crop
    code = encode_crop(y, x, crop, (height, width))
    assert code == encode(canvas) and is_rle(code, (height, width))
    assert (coco_mask.decode(code) == canvas).all()
    again = EncodedMasks((code,), (height, width))
    assert (whole(again, 0) == canvas).all() and again.rles() == [code]
    assert (union(again) == canvas).all()


@pytest.mark.parametrize("code", [{"size": [2, 2], "counts": "P"}, {"size": [2, 3], "counts": "6"}, {}, None])
def test_what_is_no_code_never_reaches_pycocotools(code: object) -> None:
    with pytest.raises(ValueError, match="no run-length code"):
        EncodedMasks((code,), (2, 2))  # type: ignore[arg-type]


def test_only_those_above_a_score_are_shown() -> None:
    masks = Masks(np.ones((4, 2, 2), np.float32), some().boxes, (40, 60))
    points = np.ones((4, 5, 3), np.float32) * np.arange(4, dtype=np.float32)[:, None, None]
    full = some(masks=masks, keypoints=points, keypoint_scores=points[..., 0])
    part = full.above(float(full.scores[1]))
    assert len(part) == 2 == len(part.masks or ()) and (part.boxes == full.boxes[:2]).all()
    assert (part.keypoints == points[:2]).all() and (part.keypoint_scores == points[:2, :, 0]).all()
    assert len(full.above(1.1)) == 0 and str(full.above(1.1)) == "no objects"


def test_a_line_counts_the_classes() -> None:
    boxes, scores = np.zeros((4, 4), np.float32), np.ones(4, np.float32)
    assert str(Detections("a", boxes, scores, np.array([1, 0, 0, 0]), CLASSES, (9, 9))) == "3 person, 1 dog"


def test_json_has_names_and_original_ids() -> None:
    masks = Masks(np.ones((1, 2, 2), np.float32), np.array([[0, 0, 4, 4]], np.float32), (8, 8))
    points = np.array([[[1, 2, 1], [3, 4.5, 1]]], np.float32)
    one = Detections(
        "a", np.array([[0, 0, 4, 4.5]], np.float32), np.array([0.5], np.float32), np.array([1]), CLASSES, (8, 8),
        masks, points, np.array([[0.25, 7]], np.float32),
    )  # fmt: skip
    value = json.loads(json.dumps(one.to_json(), allow_nan=False))
    assert value == {
        "id": "a", "size": [8, 8], "boxes": [[0, 0, 4, 4.5]], "scores": [0.5], "labels": ["dog"], "label_ids": [18],
        "masks": masks.rles(), "keypoints": [[[1, 2, 1], [3, 4.5, 1]]], "keypoint_scores": [[0.25, 7]],
    }  # fmt: skip


def test_json_has_no_more_digits_than_are_worth_their_place() -> None:
    points = np.array([[[1.23456, 2.999, 1]]], np.float32)
    box, score = np.array([[0, 1 / 3, 400.126, 799.999]], np.float32), np.array([0.123456], np.float32)
    found = Detections("a", box, score, np.array([1]), CLASSES, (800, 600), None, points, points[..., 0])
    value = found.to_json()
    assert value["boxes"] == [[0, 0.33, 400.13, 800]] and value["scores"] == [0.1235]
    assert value["keypoints"] == [[[1.23, 3, 1]]] and value["keypoint_scores"] == [[1.2346]]


def test_nothing_found_is_a_result_like_any_other() -> None:
    nothing = Detections.none("a", CLASSES, (20, 30))
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert len(nothing) == 0 and nothing.to_json()["boxes"] == [] and str(nothing) == "no objects"
    assert (nothing.draw(picture) == picture).all() and len(nothing.above(0.5)) == 0
    empty = Masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (20, 30))
    assert empty.rles() == [] and not union(empty).any()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"boxes": np.zeros((4, 5), np.float32)}, ValueError),
        ({"scores": np.array([0.1, 0.2, 0.3, 0.4], np.float32)}, ValueError),
        ({"labels": np.array([0, 1, 2, 3])}, ValueError),
        ({"labels": np.array([0, 1, 2, -1])}, ValueError),
        ({"boxes": np.full((4, 4), np.nan, np.float32)}, DataError),
        ({"scores": np.array([np.inf, 0.2, 0.1, 0], np.float32)}, DataError),
        ({"keypoints": np.zeros((4, 5, 2), np.float32)}, ValueError),
        ({"keypoints": np.zeros((4, 5, 3), np.float32), "keypoint_scores": np.zeros((4, 4))}, ValueError),
        ({"masks": Masks(np.zeros((4, 2, 2)), np.zeros((4, 4)), (41, 60))}, ValueError),
        ({"masks": Masks(np.zeros((3, 2, 2)), np.zeros((3, 4)), (40, 60))}, ValueError),
    ],
)
def test_arrays_that_do_not_fit_are_refused(wrong: dict[str, np.ndarray], error: type[Exception]) -> None:
    good = some()
    values = {"boxes": good.boxes, "scores": good.scores, "labels": good.labels, **wrong}
    with pytest.raises(error, match=r"a\.jpg"):
        Detections("a.jpg", classes=CLASSES, size=(40, 60), **values)  # type: ignore[arg-type]
