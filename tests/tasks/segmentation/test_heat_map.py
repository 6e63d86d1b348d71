"""A class's heat map: its best window, its plain values, its drawing."""

import json

import numpy as np
import pytest

from retinue.tasks.segmentation.heat_map import HeatMap


def found(values: list[list[float]]) -> HeatMap:
    """Windows of 20 x 10 pixels, the first one's centre at (10, 5), the next ones 8 and 4 pixels further."""
    return HeatMap("a.jpg", "bee", np.array(values, np.float32), (10.0, 5.0, 8.0, 4.0), (20.0, 10.0))


def test_the_best_window() -> None:
    result = found([[0.1, 0.2, 0.1], [0.0, 0.1, 0.9]])
    assert result.best == (16.0, 4.0, 36.0, 14.0)
    assert str(result) == "bee: at most 0.90, in the window 16, 4, 36, 14"
    assert json.loads(json.dumps(result.to_json())) == {
        "label": "bee",
        "score": pytest.approx(0.9),
        "box": [16.0, 4.0, 36.0, 14.0],
        "probabilities": [[0.1, 0.2, 0.1], [0.0, 0.1, 0.9]],
        "grid": [10.0, 5.0, 8.0, 4.0],
        "window": [20.0, 10.0],
    }


def test_it_is_warm_where_it_is_probable_and_stays_a_picture_of_that_size() -> None:
    picture = np.full((120, 200, 3), 128, np.uint8)
    result = HeatMap("", "bee", np.eye(1, 4, 3, dtype=np.float32), (40.0, 60.0, 40.0, 40.0), (60.0, 60.0))
    drawn = result.draw(picture)
    assert drawn.shape == picture.shape and drawn.dtype == np.uint8 and (picture == 128).all()
    warm, cold = drawn[20, 180].astype(int), drawn[20, 10].astype(int)
    assert warm[0] > warm[2] + 30 and cold[2] >= cold[0]
    assert (drawn[110, 20] != drawn[30, 20]).any()  # the bar


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (40, 30), (900, 500)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pictures_of_any_size_are_drawn(size: tuple[int, int], value: float) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    result = HeatMap(
        "", "a very long name of a class", np.full((1, 1), value, np.float32), (3, 3, 1, 1), (6, 6)
    )
    assert result.draw(picture).shape == picture.shape
