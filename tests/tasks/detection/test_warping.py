"""Warped regions: against a slow reference, with hand-computed context and borders."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from retinue.tasks.detection.warping import surround, warp

FILL = torch.tensor([0.25, 0.5, 0.75])


def slow(picture: np.ndarray, box: list[float], side: int) -> np.ndarray:
    """(side, side) of one channel (h, w), 0 beyond it: the mean of samples, each of its four neighbours."""
    x1, y1, x2, y2 = box
    steps = [max(1, math.ceil(length / side)) for length in (y2 - y1, x2 - x1)]
    result = np.zeros((side, side))
    for i in range(side * steps[0]):
        for j in range(side * steps[1]):
            y = y1 + (i + 0.5) / (side * steps[0]) * (y2 - y1) - 0.5
            x = x1 + (j + 0.5) / (side * steps[1]) * (x2 - x1) - 0.5
            value = 0.0
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    if 0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]:
                        value += (1 - abs(y - row)) * (1 - abs(x - column)) * picture[row, column]
            result[i // steps[0], j // steps[1]] += value / (steps[0] * steps[1])
    return result


def one(
    pixels: Tensor, box: list[float], side: int, context: int, size: tuple[int, int] | None = None
) -> Tensor:
    sizes = [size or (pixels.shape[1], pixels.shape[2])]
    return warp(pixels[None], sizes, torch.tensor([box]), torch.tensor([0]), side, context, FILL)[0]


def test_a_box_of_the_squares_own_size_is_itself() -> None:
    pixels = torch.rand(3, 9, 11)
    torch.testing.assert_close(one(pixels, [2, 1, 8, 7], 6, 0), pixels[:, 1:7, 2:8])


def test_context_is_what_surrounds_the_box() -> None:
    """A box of 4 x 4 in a square of 8 with 2 of context: just the 8 x 8 pixels around it."""
    pixels = torch.rand(3, 12, 12)
    torch.testing.assert_close(one(pixels, [4, 5, 8, 9], 8, 2), pixels[:, 3:11, 2:10])


def test_the_papers_context() -> None:
    """16 pixels of 227 at each side: a box of 195 x 390 shows 16 and 32 pixels of what surrounds it."""
    expected = [[100 - 16, 100 - 32, 295 + 16, 490 + 32]]
    found = surround(torch.tensor([[100.0, 100, 295, 490]]), 227, 16)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def test_beyond_the_picture_all_is_of_the_mean_colour() -> None:
    """On the canvas other pixels may follow: they are not the picture's."""
    pixels = torch.rand(3, 10, 10)
    own = pixels.clone()
    own[:, 6:], own[:, :, 5:] = FILL[:, None, None], FILL[:, None, None]
    warped = one(pixels, [0, 0, 10, 10], 10, 0, size=(6, 5))
    torch.testing.assert_close(warped, own)
    outside = one(pixels, [-4, -4, 2, 2], 6, 0)
    torch.testing.assert_close(outside[:, 4:, 4:], pixels[:, :2, :2])
    assert torch.allclose(outside[:, :4], FILL[:, None, None]) and torch.allclose(
        outside[:, :, :4], FILL[:, None, None]
    )


def test_half_a_pixel_beyond_the_edge_half_is_the_mean_colour() -> None:
    """On all four sides alike."""
    pixels = torch.ones(3, 4, 4)
    for box in ([-0.5, 0, 3.5, 4], [0.5, 0, 4.5, 4], [0, -0.5, 4, 3.5], [0, 0.5, 4, 4.5]):
        warped = one(pixels, box, 4, 0)
        rim = {"x": warped[:, 1, 0 if box[0] < 0 else -1], "y": warped[:, 0 if box[1] < 0 else -1, 1]}
        torch.testing.assert_close(rim["x" if box[0] else "y"], (1 + FILL) / 2)


def test_fine_stripes_become_their_mean() -> None:
    pixels = (torch.arange(64) % 2).float().expand(3, 64, 64)
    torch.testing.assert_close(one(pixels, [0, 0, 64, 64], 16, 0)[:, :, 1:-1], torch.full((3, 16, 14), 0.5))


@given(
    st.tuples(*[st.floats(-6, 14, width=32)] * 2),
    st.tuples(*[st.floats(0, 25, width=32)] * 2),
    st.integers(1, 7),
    st.integers(0, 3),
)
def test_it_is_the_slow_reference(
    corner: tuple[float, float], sides: tuple[float, float], inner: int, context: int
) -> None:
    pixels = torch.rand(3, 9, 12, generator=torch.Generator().manual_seed(0))
    box = [corner[0], corner[1], corner[0] + sides[0], corner[1] + sides[1]]
    side = inner + 2 * context
    around = surround(torch.tensor([box]), side, context)[0].tolist()
    lengths = [around[2] - around[0], around[3] - around[1]]
    if any(abs(length / side - round(length / side)) < 1e-4 for length in lengths):
        return  # of so many samples or one more, rounding decides
    expected = np.stack([slow(channel.numpy(), around, side) for channel in pixels - FILL[:, None, None]])
    found = one(pixels, box, side, context) - FILL[:, None, None]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_boxes_of_several_pictures_and_none_at_all() -> None:
    pixels = torch.rand(2, 3, 8, 8)
    boxes, picture = torch.tensor([[1.0, 1, 5, 5], [1, 1, 5, 5]]), torch.tensor([1, 0])
    both = warp(pixels, [(8, 8)] * 2, boxes, picture, 4, 0, FILL)
    torch.testing.assert_close(both, torch.stack([pixels[1, :, 1:5, 1:5], pixels[0, :, 1:5, 1:5]]))
    assert warp(pixels, [(8, 8)] * 2, boxes[:0], picture[:0], 4, 0, FILL).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("side", [0.0, 0.25])
def test_a_sliver_is_taken_as_a_pixel(side: float) -> None:
    pixels = torch.rand(3, 8, 8)
    sliver = [3.5 - side / 2, 2, 3.5 + side / 2, 6]
    torch.testing.assert_close(one(pixels, sliver, 4, 0), one(pixels, [3, 2, 4, 6], 4, 0))
