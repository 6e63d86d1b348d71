import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.tasks.segmentation.boundary import boundary_width, near_boundary


def eroded_away(mask, width):
    """Which pixels of a mask (h, w) bool are lost by eroding it `width` times, the picture padded with zeros."""
    padded = np.pad(mask.astype(np.uint8), width)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[width:-width, width:-width]
    return mask & ~eroded.astype(bool)


def slowly(labels, known, width):
    """`near_boundary` class by class; ignored pixels are first taken into the class, so that they make no boundary."""
    near = np.zeros(labels.shape, bool)
    for c in np.unique(labels):
        own = (labels == c) & known
        near |= own & eroded_away(own | ~known, width)
    return near


def patches(seed, height, width, classes):
    """Labels in patches of several sizes."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(classes, size=(rng.integers(1, 6), rng.integers(1, 6))).astype(np.uint8)
    labels = cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)
    lone = rng.random(labels.shape) < rng.choice([0, 0.002, 0.05])
    return np.where(lone, rng.integers(classes, size=labels.shape), labels).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "width"), [((1, 1), 1), ((7, 24), 1), ((45, 60), 2), ((360, 480), 12), ((512, 512), 14)]
)
def test_the_width_is_two_percent_of_the_diagonal(size, width):
    assert boundary_width(*size) == width


def test_by_hand():
    labels = np.zeros((9, 9), np.uint8)
    labels[:, 6:] = 3
    near = near_boundary(labels, np.ones((9, 9), bool), 1)
    expected = np.ones((9, 9), bool)
    expected[1:8, 1:5] = expected[1:8, 7] = False  # the inside of both classes
    assert near.dtype == bool and (near == expected).all()


@given(
    st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 5, 255]),
    st.integers(1, 8), st.sampled_from([0.0, 0.1, 0.6]),
)  # fmt: skip
def test_two_filters_give_what_eroding_every_class_gives(seed, height, width, classes, d, ignored):
    labels = patches(seed, height, width, classes)
    known = np.random.default_rng(seed).random(labels.shape) >= ignored
    near = near_boundary(labels, known, d)
    assert (near[known] == slowly(labels, known, d)[known]).all()


def test_a_band_of_ignored_pixels_makes_no_boundary_but_does_not_hide_one():
    labels, known = np.zeros((60, 60), np.uint8), np.ones((60, 60), bool)
    known[:, 29:31] = False
    near = near_boundary(labels, known, 3)
    assert not near[3:-3, 3:-3][known[3:-3, 3:-3]].any()
    labels[:, 30:] = 1
    near = near_boundary(labels, known, 3)
    assert near[30, [27, 28, 31, 32]].tolist() == [False, True, True, False], "3 pixels on is the other class"


def test_what_is_labelled_at_ignored_pixels_does_not_matter():
    labels = patches(3, 40, 50, 5)
    known = patches(4, 40, 50, 2) > 0
    other = np.where(known, labels, 255 - labels)
    one, two = (near_boundary(each, known, 2) for each in (labels, other))
    assert 0 < known.mean() < 1 and (one[known] == two[known]).all()


def test_a_picture_narrower_than_the_width_is_all_boundary():
    assert near_boundary(np.zeros((3, 500), np.uint8), np.ones((3, 500), bool), 10).all()
