import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.tasks.detection.confusion import best_confidence, class_table, confusion_matrix
from retinue.tasks.detection.curves import Curve, class_curves

BOX, FAR, THIRD = (0, 0, 10, 10), (50, 50, 60, 60), (80, 80, 90, 90)
CAT, DOG = 0, 1


def test_a_matrix_by_hand(judge):
    judged = judge(
        (
            [(BOX, CAT), (FAR, DOG), (THIRD, DOG)],
            [(BOX, CAT, 0.9), (FAR, CAT, 0.8), (BOX, DOG, 0.7), (THIRD, DOG, 0.2)],
        ),
        ([], [(BOX, DOG, 0.6)]),
    )
    # rows: cat, dog, background; columns: taken for cat, for dog, not seen
    assert confusion_matrix(judged, 2, 0.5).tolist() == [[1, 0, 0], [1, 0, 1], [0, 2, 0]]
    assert confusion_matrix(judged, 2, 0.1).tolist() == [[1, 0, 0], [1, 1, 0], [0, 2, 0]]
    assert confusion_matrix(judged, 2, 0.95).tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 0]]


def test_the_right_class_has_the_truth_though_a_wrong_one_scores_higher(judge):
    judged = judge(([(BOX, CAT)], [(BOX, DOG, 0.9), ((0, 0, 10, 8), CAT, 0.8)]))
    assert confusion_matrix(judged, 2, 0.5).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_crowds_are_not_counted(judge):
    judged = judge(([(BOX, CAT, True)], [(BOX, CAT, 0.9), (BOX, DOG, 0.8)]))
    assert confusion_matrix(judged, 2, 0.5).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_nothing(judge):
    assert confusion_matrix(judge(), 2, 0.5).tolist() == np.zeros((3, 3)).tolist()
    rows = class_table(judge(), ["cat", "dog"])
    assert [row.name for row in rows] == ["cat", "dog"] and np.isnan([rows[0].ap, rows[1].confidence]).all()
    assert np.isnan(best_confidence(class_curves(judge(), 2))).all()
    (row,) = class_table(judge(([(BOX, CAT)], [])), ["cat"])
    assert (row.truths, row.ap, row.ap50) == (1, 0, 0)
    assert np.isnan([row.precision, row.recall, row.f1, row.confidence]).all()


def test_a_row_of_the_table_by_hand(judge):
    found = [(BOX, CAT, 0.9), (THIRD, CAT, 0.8), ((50, 50, 60, 58), CAT, 0.7), (THIRD, CAT, 0.6)]
    cat, dog = class_table(judge(([(BOX, CAT), (FAR, CAT)], found)), ["cat", "dog"])
    assert (cat.truths, cat.confidence) == (2, 0.7)
    assert (cat.precision, cat.recall, cat.f1) == pytest.approx((2 / 3, 1, 4 / 5))
    # The second box overlaps its truth by 0.8: it counts at 7 of the 10 thresholds.
    with_second, alone = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert cat.ap50 == pytest.approx(with_second) and cat.ap == pytest.approx(0.7 * with_second + 0.3 * alone)
    assert dog.truths == 0 and np.isnan([dog.ap, dog.ap50, dog.f1]).all()


def test_the_common_confidence_is_where_the_mean_f1_is_best():
    sure = Curve(np.array([0.9, 0.3]), np.array([True, False]), 1)
    shy = Curve(np.array([0.4, 0.2]), np.array([True, False]), 1)
    without = Curve(np.array([0.5]), np.array([False]), 0)
    assert best_confidence([sure, shy, without]) == (0.4, 1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), confidence=st.sampled_from([0.05, 0.5, 0.8]))
def test_the_matrix_agrees_with_the_curves(scattered, seed, confidence):
    judged = scattered(seed, classes=3)
    matrix = confusion_matrix(judged, 3, confidence)
    assert matrix.dtype == np.int64 and matrix[3, 3] == 0
    assert np.array_equal(matrix[:3].sum(1), judged.truths(3))
    for label, curve in enumerate(class_curves(judged, 3)):
        precision, recall, _ = curve.at(np.array(confidence))
        assert matrix[:, label].sum() == (curve.scores >= confidence).sum()
        if matrix[:, label].sum():
            assert matrix[label, label] / matrix[:, label].sum() == precision
        if curve.truths:
            assert matrix[label, label] / curve.truths == recall
