import cv2
import numpy as np
import pytest

from retinue.tasks import plots
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


def test_shares_are_written_in_per_cent_where_asked(tmp_path, monkeypatch):
    written = []
    figure = plots.new_figure(4, 4)
    monkeypatch.setattr(type(figure.subplots()), "text", lambda self, x, y, text, **kw: written.append(text))
    counts = np.array([[99_950, 50, 0], [5, 0, 95], [0, 0, 0]])
    draw_matrix(counts, ["a", "b", "c"], str(tmp_path / "m.png"), "title", percent=True)
    assert written == ["100", "0.1", "0", "5.0", "0", "95", "0", "0", "0"]


@pytest.mark.parametrize("k", [2, 20, 21, 120, 150, 255, 1000])
def test_names_have_room(k):
    """Every class is named up to 150; of more no more than fit at five points each."""
    figure = plots.new_figure(4, 4)
    axes = figure.subplots()
    side = float(np.clip(3 + 0.42 * k if k <= 20 else 5 + 0.11 * k, 4.5, 18))
    plots._name_ticks(
        axes, [f"class {i}" for i in range(k)], [f"class {i}" for i in range(k)], 0.8 * side / k
    )
    labels = axes.get_yticklabels()
    step = axes.get_yticks()[1] - axes.get_yticks()[0]
    assert step * 0.8 * side / k * 72 >= 1.2 * labels[0].get_fontsize()
    assert len(labels) == k or k > 150
