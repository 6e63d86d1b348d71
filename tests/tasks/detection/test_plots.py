import cv2
import numpy as np
import pytest

from retinue.datasets.targets import ClassMap
from retinue.tasks.detection.confusion import ClassRow
from retinue.tasks.detection.errors import KINDS, Errors
from retinue.tasks.detection.plots import detection_plots, draw_errors, draw_per_class

FILES = ["pr.png", "f1.png", "confusion.png", "per_class.png", "errors.png", "sizes.png"]


def drawn(path):
    """The picture in a file, after making sure that it is not blank."""
    picture = cv2.imread(str(path))
    assert picture is not None and picture.std() > 5 and min(picture.shape[:2]) > 200
    return picture


def share_of(picture, colour):
    """The share of pixels of a colour, "#rrggbb"."""
    bgr = [int(colour[i : i + 2], 16) for i in (5, 3, 1)]
    return (np.abs(picture.astype(int) - bgr).max(-1) < 12).mean()


@pytest.mark.parametrize("k", [3, 25])
def test_every_plot_of_few_and_many_classes(scattered, tmp_path, k):
    judged = scattered(0, pictures=60, classes=k)
    plots = detection_plots(judged, ClassMap(tuple(f"class {i}" for i in range(k))))
    assert list(plots) == FILES
    for name, draw in plots.items():
        draw(str(tmp_path / name))
        drawn(tmp_path / name)


@pytest.mark.parametrize("case", ["nothing", "no detections", "only crowds"])
def test_what_is_not_there_is_drawn_as_empty(judge, tmp_path, case):
    box = (0, 0, 10, 10)
    truths = {"no detections": [(box, 0)], "only crowds": [(box, 0, True)]}.get(case, [])
    found = [] if case in ("nothing", "no detections") else [(box, 1, 0.5)]
    for name, draw in detection_plots(judge((truths, found)), ClassMap(("cat", "dog"))).items():
        draw(str(tmp_path / name))
        drawn(tmp_path / name)


def test_scores_beyond_one_are_drawn(judge, tmp_path):
    box = (0, 0, 10, 10)
    judged = judge(([(box, 0)], [(box, 0, 7.5), (box, 0, -3.0)]))
    detection_plots(judged, ClassMap(("cat",)))["f1.png"](str(tmp_path / "f1.png"))
    drawn(tmp_path / "f1.png")


def test_bars_are_as_long_as_their_values(tmp_path):
    def blue(value):
        rows = [ClassRow("cat", 3, value, 1.0, *[value] * 4), ClassRow("dog", 0, *[np.nan] * 6)]
        draw_per_class(rows, str(tmp_path / "p.png"))
        return share_of(drawn(tmp_path / "p.png"), "#2e7dbe")

    assert blue(0.8) == pytest.approx(2 * blue(0.4), rel=0.05) and blue(0) < 0.01 * blue(0.8)


def test_the_longest_bar_is_the_worst_error(tmp_path):
    def bars(**gains):
        errors = Errors(0.5, {**dict.fromkeys(KINDS, 0.0), **gains}, dict.fromkeys(KINDS, 1), 0.0, 0.0)
        draw_errors(errors, str(tmp_path / "e.png"))
        picture = drawn(tmp_path / "e.png")
        return (np.abs(picture.astype(int) - (0xBE, 0x7D, 0x2E)).max(-1) < 12).sum(1)

    first, last = bars(classification=0.3, missed=0.1), bars(missed=0.3)
    middle = len(first) // 2
    assert first[:middle].max() == pytest.approx(3 * first[middle:].max(), rel=0.05)
    assert last[:middle].max() < 0.05 * last[middle:].max()


def test_many_classes_grow_the_bars_but_not_for_ever(tmp_path):
    heights = []
    for k in (2, 90, 1000):
        rows = [ClassRow(f"class {i}", 1, i / k, i / k, *[0.5] * 4) for i in range(k)]
        draw_per_class(rows, str(tmp_path / "p.png"))
        heights.append(drawn(tmp_path / "p.png").shape[0])
    assert heights[0] < heights[2] < heights[1] < 4000
