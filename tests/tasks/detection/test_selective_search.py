"""Selective search: parts by hand and against the slow definition, and boxes that are the objects'."""

import itertools

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import DataError
from retinue.tasks.detection import selective_search as module
from retinue.tasks.detection.selective_search import (
    MODES,
    Growing,
    Regions,
    bounding_boxes,
    describe,
    group,
    histograms,
    in_colour,
    selective_search,
    shrink,
    texture,
    touching,
)

WHITE, RED, GREEN = (255, 255, 255), (200, 20, 20), (10, 160, 40)


def painted(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (90, 120)) -> np.ndarray:
    """White, with a red and a green rectangle x1 y1 x2 y2."""
    image = np.full((*size, 3), WHITE, np.uint8)
    for (x1, y1, x2, y2), colour in zip(boxes, (RED, GREEN)):
        image[y1:y2, x1:x2] = colour
    return image


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# The whole


@settings(max_examples=3, deadline=None)
@given(st.integers(5, 20), st.integers(5, 30), st.integers(25, 35), st.integers(25, 60))
def test_boxes_of_flat_rectangles_are_exact(x: int, y: int, width: int, height: int) -> None:
    one, other = (x, y, x + width, y + height - 20), (70, 30, 110, 80)
    found = selective_search(painted(one, other)).tolist()
    assert list(one) in found and list(other) in found and [0, 0, 120, 90] in found
    assert len(found) < 60  # the smoothed edges have regions too


def test_the_seed_decides_the_order_alone() -> None:
    image = Scenes(4, 128)[1].image
    boxes, again, other = (selective_search(image, seed=seed) for seed in (0, 0, 1))
    assert boxes.dtype == np.float32 and boxes.shape[1] == 4 and len(boxes) > 100
    assert np.array_equal(boxes, again) and not np.array_equal(boxes, other)
    assert len(np.unique(boxes, axis=0)) == len(boxes) == len(other)
    assert np.array_equal(np.unique(boxes, axis=0), np.unique(other, axis=0))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= 128).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    assert areas[: len(areas) // 4].mean() > 2 * areas[-len(areas) // 4 :].mean()


def test_most_objects_of_rendered_scenes_are_found() -> None:
    found = []
    for i in range(8):
        sample = Scenes(8, 128)[i]
        boxes = sample.targets["boxes"]
        large = boxes[(boxes[:, 2:] - boxes[:, :2]).min(1) > 12]
        overlaps = box_iou(torch.from_numpy(large), torch.from_numpy(selective_search(sample.image)))
        found += (overlaps.amax(1) >= 0.5).tolist()
    assert len(found) >= 8 and np.mean(found) > 0.7


def test_quality_finds_what_fast_finds_and_more() -> None:
    image = Scenes(4, 96)[1].image
    fast, quality = (
        {tuple(box) for box in selective_search(image, mode).tolist()} for mode in ("fast", "quality")
    )
    assert fast < quality and len(MODES["quality"].colours) * 4 * 4 == 80 > 8


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (30, 40)])
def test_a_flat_picture_is_one_box(size: tuple[int, int]) -> None:
    assert selective_search(np.full((*size, 3), 77, np.uint8)).tolist() == [[0, 0, size[1], size[0]]]


def test_a_large_picture_is_searched_small_and_answered_in_its_own_pixels() -> None:
    small = painted((12, 10, 50, 70), (70, 30, 110, 80))
    large = cv2.resize(small, (480, 360), interpolation=cv2.INTER_NEAREST)
    boxes = selective_search(large, side=104)
    for box in ([48, 40, 200, 280], [280, 120, 440, 320], [0, 0, 480, 360]):
        assert np.abs(boxes - box).max(1).min() < 3
    assert boxes.max(0)[2] == 480 and boxes.max(0)[3] == 360


def test_shrinking_keeps_the_aspect_and_never_a_side_of_nothing() -> None:
    assert shrink(noise(40, 90), 30).shape == (20, 45, 3)
    assert shrink(noise(30, 30), 30).shape == (30, 30, 3)
    assert shrink(noise(1, 3000), 10).shape == (1, 548, 3)
    assert selective_search(noise(2, 3000), side=20).max() <= 3000


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"reads \(h, w, 3\) uint8 RGB, this is"):
        selective_search(image)


# What is known of regions


def test_colour_spaces_over_their_full_range() -> None:
    image = np.array([[[255, 0, 0], [0, 0, 255], [0, 0, 0], [100, 100, 50]]], np.uint8)
    assert in_colour(image, "HSV")[0].tolist() == [[0, 255, 255], [171, 255, 255], [0, 0, 0], [43, 128, 100]]
    assert in_colour(image, "H")[0].tolist() == [[0], [171], [0], [43]]
    assert in_colour(image, "I")[0, :, 0].tolist() == [76, 29, 0, 94]
    assert in_colour(image, "rgI")[0].tolist() == [[255, 0, 76], [0, 0, 29], [0, 0, 0], [102, 102, 94]]
    assert in_colour(image, "Lab").shape == (1, 4, 3)


def test_an_edge_shows_in_the_directions_across_it() -> None:
    channel = np.zeros((20, 20, 1), np.uint8)
    channel[:, 10:] = 200  # brighter to the right
    bins = texture(channel)
    assert bins.shape == (8, 20, 20) and bins.dtype == np.uint8
    right, left, down, up, right_down, left_up, right_up, left_down = bins.max((1, 2)).tolist()
    assert right == right_down == right_up == 9 and down == up == left == left_up == left_down == 0
    assert (bins[0].argmax(1) // 2 == 4).all()  # columns 9 and 10
    assert texture(np.full((5, 5, 3), 9, np.uint8)).shape == (24, 5, 5)
    assert not texture(np.full((5, 5, 3), 9, np.uint8)).any()


def test_histograms_by_hand() -> None:
    labels = np.array([[0, 0, 1], [0, 0, 1]])
    planes = np.array([[[0, 0, 2], [1, 2, 2]], [[2, 2, 0], [2, 2, 1]]], np.uint8)
    table = histograms(labels, planes, 3, 2)
    assert table.dtype == np.float32
    assert table.tolist() == [[0.25, 0.125, 0.125, 0, 0, 0.5], [0, 0, 0.5, 0.25, 0.25, 0]]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 6), st.integers(0, 1000))
def test_boxes_and_neighbours_are_those_of_the_pixels(height: int, width: int, most: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, most, (height, width))
    labels = np.unique(labels, return_inverse=True)[1].reshape(height, width)
    count = labels.max() + 1
    for box, label in zip(bounding_boxes(labels, count).tolist(), range(count)):
        y, x = np.nonzero(labels == label)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    pairs = {
        tuple(sorted((labels[y, x], labels[y + dy, x + dx])))
        for y, x, (dy, dx) in itertools.product(range(height), range(width), ((0, 1), (1, 0)))
        if y + dy < height and x + dx < width and labels[y, x] != labels[y + dy, x + dx]
    }
    assert {tuple(pair) for pair in touching(labels, count).tolist()} == pairs


# Grouping


def row_of_three() -> Regions:
    """Regions of 2, 2 and 4 pixels beside each other in a picture of 2 x 4."""
    return Regions(
        sizes=np.array([2, 2, 4], np.float32),
        boxes=np.array([[0, 0, 1, 2], [1, 0, 2, 2], [2, 0, 4, 2]], np.int32),
        colour=np.array([[1, 0], [0.5, 0.5], [0, 1]], np.float32),
        texture=np.array([[0.25, 0.75], [0.25, 0.75], [1, 0]], np.float32),
        neighbours=np.array([[0, 1], [1, 2]]),
        area=8,
    )


@pytest.mark.parametrize(
    ("similarity", "values"),
    [
        ("C", [0.5, 0.5, 0]),
        ("T", [1, 0.25, 0.25]),
        ("S", [0.5, 0.25, 0.25]),
        ("F", [1, 1, 0.75]),  # around the outer two is a box of 8, of which they fill 6
        ("CTSF", [3, 2, 1.25]),
        ("TSF", [2.5, 1.5, 1.25]),
    ],
)
def test_similarities_by_hand(similarity: str, values: list[float]) -> None:
    growing = Growing(row_of_three(), similarity)
    found = growing.similarity(np.array([0, 1, 0]), np.array([1, 2, 2]))
    assert found.tolist() == pytest.approx(values)
    assert growing.similarity(0, np.array([1, 2])).tolist() == pytest.approx([values[0], values[2]])


def test_a_joined_region_by_hand() -> None:
    growing = Growing(row_of_three(), "CT")
    assert growing.join(1, 2) == 3 and growing.sizes[3] == 6 and growing.boxes[3].tolist() == [1, 0, 4, 2]
    assert growing.histograms[3].tolist() == pytest.approx([1 / 6, 5 / 6, 0.75, 0.25])


def test_the_most_similar_neighbours_are_joined_first() -> None:
    assert group(row_of_three(), "CTSF")[3:].tolist() == [[0, 0, 2, 2], [0, 0, 4, 2]]
    other = row_of_three()._replace(texture=np.array([[0, 1], [1, 0], [1, 0]], np.float32))
    assert group(other, "T")[3:].tolist() == [[1, 0, 4, 2], [0, 0, 4, 2]]
    apart = row_of_three()._replace(neighbours=np.array([[1, 2], [0, 2]]))
    assert group(apart, "CTSF")[3].tolist() != [0, 0, 2, 2]  # alike, but no neighbours


def by_definition(
    labels: np.ndarray, pixels: np.ndarray, directions: np.ndarray, similarity: str
) -> list[list[int]]:
    """Algorithm 1, where every similarity is computed from the pixels of the regions, again in every step."""
    masks = {i: labels == i for i in range(labels.max() + 1)}
    boxes = bounding_boxes(labels, len(masks)).tolist()

    def known(mask: np.ndarray) -> Regions:
        return describe(np.where(mask, 0, 1), pixels, directions)

    def alike(i: int, j: int) -> float:
        a, b, both = known(masks[i]), known(masks[j]), known(masks[i] | masks[j])
        size = both.sizes[0] / labels.size
        x1, y1, x2, y2 = both.boxes[0]
        parts = {
            "C": np.minimum(a.colour[0], b.colour[0]).sum(),
            "T": np.minimum(a.texture[0], b.texture[0]).sum(),
            "S": 1 - size,
            "F": 1 - ((x2 - x1) * (y2 - y1) / labels.size - size),
        }
        return float(sum(parts[name] for name in similarity))

    while len(masks) > 1:
        current = np.zeros(labels.shape, np.int64)
        for i, mask in masks.items():
            current[mask] = i
        i, j = max(touching(current, len(boxes)).tolist(), key=lambda pair: alike(*pair))
        masks[len(boxes)] = masks.pop(i) | masks.pop(j)
        y, x = np.nonzero(masks[len(boxes)])
        boxes.append([int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1])
    return boxes


@pytest.mark.parametrize("similarity", ["CTSF", "TSF", "C"])
def test_grouping_is_that_of_the_definition(similarity: str) -> None:
    pixels = cv2.GaussianBlur(noise(24, 30, seed=3), (0, 0), 1.5)
    labels = cv2.resize(
        np.arange(12, dtype=np.uint8).reshape(3, 4), (30, 24), interpolation=cv2.INTER_NEAREST
    )
    labels = np.random.default_rng(0).permutation(12)[labels]
    directions = texture(pixels)
    regions = describe(labels, pixels, directions)
    assert group(regions, similarity).tolist() == by_definition(labels, pixels, directions, similarity)


def test_one_region_is_a_hierarchy() -> None:
    labels, pixels = np.zeros((3, 4), int), noise(3, 4)
    assert group(describe(labels, pixels, texture(pixels)), "CTSF").tolist() == [[0, 0, 4, 3]]
    assert module.touching(labels, 1).shape == (0, 2)
