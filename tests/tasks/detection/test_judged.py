import numpy as np
import pytest

from retinue.datasets.targets import DataError
from retinue.tasks.detection.judged import JudgedBoxes, PictureBoxes

ONE = PictureBoxes([[0, 0, 2, 2]], [1], [True], [[0, 0, 3, 3], [1, 1, 2, 2]], [0.5, 0.9], [1, 0])
NONE = PictureBoxes([], [], [], [], [], [])


def test_pictures_are_joined_in_the_order_of_their_ids():
    judged = JudgedBoxes.from_pictures({"b": ONE, "a": NONE, "c": ONE})
    assert judged.picture_ids == ("a", "b", "c")
    assert judged.truth_picture.tolist() == [1, 2] and judged.picture.tolist() == [1, 1, 2, 2]
    assert judged.boxes.shape == (4, 4) and judged.boxes.dtype == judged.scores.dtype == np.float64
    assert judged.truth_crowd.tolist() == [True, True] and judged.truth_crowd.dtype == bool
    assert judged.order.tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("pictures", [{}, {"a": NONE}, {"a": NONE, "b": NONE}])
def test_nothing_has_shapes_too(pictures):
    judged = JudgedBoxes.from_pictures(pictures)
    assert judged.boxes.shape == judged.truth_boxes.shape == (0, 4)
    assert judged.truths(3).tolist() == [0, 0, 0] and len(judged.top(1).scores) == 0


@pytest.mark.parametrize(
    ("field", "value"), [("scores", [np.nan]), ("boxes", [[0, 0, np.inf, 1]]), ("labels", [-1])]
)
def test_what_is_no_number_is_named_with_its_picture(field, value):
    fields = {"boxes": [[0, 0, 1, 1]], "scores": [0.5], "labels": [0], field: value}
    with pytest.raises(DataError, match=r"x/y\.jpg.*(nan|inf|-1)"):
        JudgedBoxes.from_pictures({"x/y.jpg": NONE._replace(**fields)})


def test_columns_of_different_lengths():
    with pytest.raises(ValueError, match="1 rows of box for 2"):
        JudgedBoxes.from_pictures({"a": ONE._replace(boxes=[[0, 0, 1, 1]])})


def test_a_label_outside_the_classes(judge):
    judged = judge(([((0, 0, 1, 1), 0)], [((0, 0, 1, 1), 3, 0.5)]))
    with pytest.raises(DataError, match="label 3 is none of the 3 classes"):
        judged.truths(3)


def test_top_keeps_the_best_of_each_picture_and_class(scattered):
    judged = scattered(0, pictures=6, detections=20)
    kept = judged.top(2)
    for picture in range(6):
        for label in range(2):
            rows = (judged.picture == picture) & (judged.labels == label)
            left = (kept.picture == picture) & (kept.labels == label)
            assert sorted(kept.scores[left]) == sorted(judged.scores[rows])[-2:]
    assert len(judged.top(100).scores) == len(judged.scores)
