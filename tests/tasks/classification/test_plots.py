import cv2
import numpy as np
import pytest

from retinue.tasks.classification import Shots, draw_confusion, draw_curve, draw_per_class


def drawn(path):
    """The picture in a file, after making sure that it is not blank."""
    picture = cv2.imread(str(path))
    assert picture is not None and picture.std() > 5
    return picture


@pytest.mark.parametrize("k", [1, 2, 20, 21, 130])
def test_confusion_of_few_and_many_classes(tmp_path, k):
    confusion = 9 * np.eye(k, dtype=np.int64) + np.eye(k, k, 1, dtype=np.int64)
    draw_confusion(confusion, [f"class {i}" for i in range(k)], str(tmp_path / "c.png"))
    assert min(drawn(tmp_path / "c.png").shape[:2]) > 400


def test_nothing_was_evaluated(tmp_path):
    draw_confusion(np.zeros((3, 3), np.int64), list("abc"), str(tmp_path / "c.png"))
    draw_per_class({"a": float("nan")}, str(tmp_path / "p.png"))
    draw_curve({}, str(tmp_path / "s.png"), chance=0.5)
    for name in ("c.png", "p.png", "s.png"):
        drawn(tmp_path / name)


def test_per_class_grows_with_the_classes_but_not_for_ever(tmp_path):
    heights = []
    for k in (2, 100, 1000):
        draw_per_class({f"class {i}": i / k for i in range(k)}, str(tmp_path / "p.png"))
        heights.append(drawn(tmp_path / "p.png").shape[0])
    assert heights[0] < heights[2] < heights[1] < 4000


def test_two_series_have_two_colours(tmp_path):
    rows = [Shots.of(1, [0.5, 0.7]), Shots.of(6, [0.8, 0.9])]
    plain = [tuple(row) for row in rows]
    draw_curve({"features": rows}, str(tmp_path / "one.png"))
    draw_curve({"features": rows, "from scratch": plain}, str(tmp_path / "two.png"), chance=0.5)
    assert not (
        drawn(tmp_path / "one.png")[..., 2].astype(int) - drawn(tmp_path / "one.png")[..., 0] > 90
    ).any()
    assert (drawn(tmp_path / "two.png")[..., 2].astype(int) - drawn(tmp_path / "two.png")[..., 0] > 90).any()
