"""Drawings show every class where it is, name those that occur, and fit any picture."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.datasets.targets import IGNORE, ClassMap
from retinue.tasks.segmentation import overlay
from retinue.tasks.segmentation.overlay import (
    count_labels,
    draw_labels,
    hatch,
    legend,
    legend_row,
    outlines,
    paint_labels,
    percent,
)
from retinue.tasks.segmentation.palette import VOID, palette

CLASSES = ClassMap(("road", "sky", "a traffic sign that hangs far too high"))


def halves(height: int = 60, width: int = 80) -> np.ndarray:
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 1
    return labels


def test_a_region_is_the_class_s_colour_over_the_picture_s_light() -> None:
    picture = np.full((60, 80, 3), (100, 160, 40), np.uint8)
    light = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[0, 0]
    drawn = paint_labels(picture, halves(), CLASSES, 0.75)
    for columns, index in ((slice(0, 39), 0), (slice(41, 80), 1)):
        expected = 0.75 * palette(2)[index].astype(float) + 0.25 * light
        assert np.abs(drawn[:, columns] - expected).max() <= 1
    assert (picture == (100, 160, 40)).all()


def test_outlines_run_between_regions_only() -> None:
    assert np.unique(np.nonzero(outlines(halves()))[1]).tolist() == [40]
    wide = np.unique(np.nonzero(outlines(halves(1800, 2400)))[1])
    assert len(wide) == 3 and abs(wide.mean() - 1200) <= 1
    picture = np.full((60, 80, 3), 200, np.uint8)
    drawn = paint_labels(picture, halves(), CLASSES)
    assert (drawn[:, 40].sum(1) < 0.5 * drawn[:, 45].sum(1)).all()
    assert not outlines(np.full((60, 80), 7, np.uint8)).any()


def test_void_is_hatched_in_grey() -> None:
    labels = halves()
    labels[:, 40:] = IGNORE
    drawn = paint_labels(np.full((60, 80, 3), 128, np.uint8), labels, CLASSES, 1.0)
    void = drawn[:, 42:]
    assert set(np.unique(void)) == {VOID[0] - 50, VOID[0] + 50} and (void == void[..., :1]).all()
    stripes = hatch((30, 40), 3)[..., 0]
    assert (stripes[0, :6] == [100, 100, 100, 200, 200, 200]).all()
    assert (stripes[1:, :-1] == stripes[:-1, 1:]).all()
    assert (stripes[13:] == hatch((17, 40), 3, 13)[..., 0]).all()


def test_bands_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (60, 80, 3), np.uint8)
    labels = rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), (6, 8)).repeat(10, 0).repeat(10, 1)
    whole = paint_labels(picture, labels, CLASSES)
    for band in (1, 7 * 80):
        monkeypatch.setattr(overlay, "BAND", band)
        assert (paint_labels(picture, labels, CLASSES) == whole).all()


def test_every_pixel_is_counted() -> None:
    labels = np.random.default_rng(0).integers(0, 256, (4099, 4101), np.uint8)  # more than 2^24
    assert (count_labels(labels) == np.bincount(labels.ravel(), minlength=256)).all()
    assert not count_labels(np.zeros((0, 5), np.uint8)).any()


def test_the_picture_keeps_its_place_and_the_legend_its_width() -> None:
    picture = np.full((60, 80, 3), 128, np.uint8)
    two, one = (draw_labels(picture, labels, CLASSES) for labels in (halves(), np.ones((60, 80), np.uint8)))
    assert two.shape == one.shape and two.shape[0] == 60 and two.shape[1] > 160
    assert (two[:, :80] == paint_labels(picture, halves(), CLASSES)).all()


def swatches(panel: np.ndarray, row: int) -> list[tuple[int, ...]]:
    """Colours in the middle of the lines' swatches, down to the first line without one."""
    margin = max(2, row // 3)
    middles = panel[margin + row // 2 : -row // 2 : row, margin + row // 2 + 1]
    found = [tuple(colour) for colour in middles.tolist()]
    return found[: found.index((250, 250, 250))] if (250, 250, 250) in found else found


def test_a_legend_names_what_occurs_the_most_frequent_first_and_void_last() -> None:
    counts = np.zeros(256, np.int64)
    counts[[0, 2, IGNORE]] = 10, 30, 100
    panel = legend(counts, CLASSES, 200, 16)
    found = swatches(panel, 16)
    colours = [tuple(colour) for colour in palette(3).tolist()]
    assert found[:2] == [colours[2], colours[0]] and len(found) == 3
    assert found[2] in {(100,) * 3, (200,) * 3}
    assert (panel[16 * 3 + 10 :] == 250).all()


@pytest.mark.parametrize(("height", "named"), [(200, 9), (90, 4), (42, 1), (26, 0), (12, 0)])
def test_a_legend_says_how_many_have_no_room(height: int, named: int) -> None:
    many = ClassMap(tuple("abcdefghi"))
    counts = np.zeros(256, np.int64)
    counts[:9] = 1
    panel = legend(counts, many, height, 16)
    assert len(panel) == height
    below = panel[5 + 16 * named : 5 + 16 * (named + 1)]
    assert (below != 250).any() == (named < 9 and height >= 26)
    colours = [tuple(colour) for colour in palette(9).tolist()]
    assert swatches(panel, 16)[:named] == colours[:named]


def test_lines_grow_with_the_picture() -> None:
    sizes = ((64, 64), (360, 480), (1080, 1920), (3000, 4000))
    assert [legend_row(*size) for size in sizes] == [11, 16, 34, 94]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 90), st.integers(1, 90), st.integers(1, 255), st.booleans())
def test_any_picture_can_be_drawn(seed: int, height: int, width: int, count: int, void: bool) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3), np.uint8)
    labels = rng.integers(0, count, (height, width)).astype(np.uint8)
    if void:
        labels[rng.random(labels.shape) < 0.3] = IGNORE
    before = picture.copy(), labels.copy()
    drawn = draw_labels(picture, labels, ClassMap(tuple(f"class {i}" for i in range(count))))
    assert drawn.dtype == np.uint8 and drawn.shape[0] == height and drawn.shape[1] > width
    assert (picture == before[0]).all() and (labels == before[1]).all()
    mirrored = draw_labels(
        picture[:, ::-1], labels[:, ::-1], ClassMap(tuple(f"class {i}" for i in range(count)))
    )
    assert mirrored.shape == drawn.shape


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels of \(60, 80\) for a picture of \(60, 81\) pixels"):
        draw_labels(np.zeros((60, 81, 3), np.uint8), halves(), CLASSES)


def test_shares_in_words() -> None:
    assert [percent(share) for share in (1, 0.414, 0.0051, 0.005)] == ["100 %", "41 %", "1 %", "<1 %"]
