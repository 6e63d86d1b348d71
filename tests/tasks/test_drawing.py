"""Sheets and text: every picture in its tile, nothing wider than its room."""

import numpy as np
import pytest
import torch

from retinue.datasets.targets import Pictures
from retinue.tasks.drawing import INK, PAPER, images_of, sheet, shorten, text_width, write


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_a_sheet_has_a_tile_and_a_caption_for_each_picture(count: int) -> None:
    images = [np.full((20 + i, 30, 3), 10 * i, np.uint8) for i in range(count)]
    made = sheet(images, ["x"] * count, [INK] * count, columns=2, tile=60)
    lines = max(1, -(-count // 2))
    assert made.shape == (4 + lines * (60 + 14 + 4), 4 + min(max(count, 1), 2) * 64, 3)
    for i in range(count):
        y, x = 4 + i // 2 * 78, 4 + i % 2 * 64
        assert (made[y + 30, x + 30] == 10 * i).all() and (made[y, x] == PAPER).all()
        assert (made[y + 60, x] == INK).all()


@pytest.mark.parametrize("size", [(20, 30), (30, 20), (200, 30), (3, 300)])
def test_tiles_that_are_not_square_show_the_whole_picture_in_their_middle(size: tuple[int, int]) -> None:
    made = sheet([np.zeros((*size, 3), np.uint8)], ["x"], [INK], tile=60, tile_height=40)
    assert made.shape == (4 + 40 + 14 + 4, 4 + 60 + 4, 3)
    rows, columns = np.nonzero((made[4:44, 4:64] == 0).all(2))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert (height, width) == tuple(max(1, round(min(40 / size[0], 60 / size[1]) * side)) for side in size)
    assert abs(rows.mean() - 19.5) <= 0.5 and abs(columns.mean() - 29.5) <= 0.5


def test_a_sheet_wants_a_caption_for_every_picture() -> None:
    with pytest.raises(ValueError):
        sheet([np.zeros((4, 4, 3), np.uint8)], [], [])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_are_shown_without_their_padding(channels: int) -> None:
    pixels = torch.full((2, channels, 8, 10), 0.5)
    pixels[0, :, 5:], pixels[0, 0] = 9.0, 0.25
    pictures = Pictures(
        pixels, [(5, 10), (8, 3)], [(5, 10), (8, 3)], torch.eye(2, 3).expand(2, 2, 3), ["a", "b"]
    )
    first, second = images_of(pictures)
    assert first.shape == (5, 10, 3) and second.shape == (8, 3, 3) and first.dtype == np.uint8
    assert (second == 128).all() and (first[..., 0] == 64).all()
    assert (first[..., 1:] == (128 if channels >= 3 else 64)).all()


def test_long_text_is_cut_to_its_width() -> None:
    cut = shorten("a" * 100, 80, 14)
    assert cut.endswith("..") and text_width(cut, 14) <= 80 and len(cut) > 4
    assert shorten("ants", 80, 14) == "ants"


@pytest.mark.parametrize("row", [10, 14, 40, 120])
def test_text_stays_in_its_row(row: int) -> None:
    image = np.zeros((3 * row, 40 * row, 3), np.uint8)
    write(image, "Affe", 0, row, row, (255, 255, 255))
    rows = np.flatnonzero(image.any((1, 2)))
    assert row <= rows.min() and rows.max() < 2 * row and len(rows) > row // 4
