import cv2
import numpy as np
import pytest

from retinue.tasks.plots import cut, draw_matrix


@pytest.mark.parametrize("k", [1, 4, 30])
def test_a_matrix_of_few_and_many_classes(tmp_path, k):
    counts = 9 * np.eye(k, dtype=np.int64) + np.eye(k, k, 1, dtype=np.int64)
    names = [f"class {i}" for i in range(k)]
    draw_matrix(counts, names, str(tmp_path / "m.png"), "title", [*names[:-1], "none"])
    picture = cv2.imread(str(tmp_path / "m.png"))
    assert min(picture.shape[:2]) > 400 and picture.std() > 5


def test_other_columns_have_other_names(tmp_path):
    for name in ("a.png", "b.png"):
        columns = ["cat", "nothing"] if name == "b.png" else None
        draw_matrix(np.eye(2, dtype=np.int64), ["cat", "dog"], str(tmp_path / name), "title", columns)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_long_names_are_cut():
    assert cut("a" * 24) == "a" * 24 and len(cut("a" * 25)) == 24 and cut("abcdef", 4) == "abc…"
