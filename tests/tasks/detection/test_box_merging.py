"""Merging by hand: which two boxes become one, where it lies, what its score is, and when it ends."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from retinue.tasks.detection.box_merging import match_score, merge, merged
from retinue.tasks.detection.regions import Found


def score(a: list[float], b: list[float]) -> float:
    return float(match_score(np.array(a, float), np.array(b, float)))


def test_match_scores_by_hand() -> None:
    square = [0, 0, 10, 10]
    assert score(square, square) == 0
    assert score(square, [2, 0, 12, 10]) == round(0.2 + 1 - 80 / 120, 3)  # a fifth of a side to the right
    assert score(square, [2.5, 2.5, 7.5, 7.5]) == 0.75  # one centre, a quarter of the union shared
    assert score(square, [30, 40, 40, 50]) == 5 + 1  # a 3-4-5 triangle of sides
    large, shifted = [10 * v for v in square], [20, 0, 120, 100]
    assert score(large, shifted) == score(square, [2, 0, 12, 10])  # whatever the size


def test_two_become_their_average_weighted_by_what_they_have_gathered() -> None:
    boxes, scores = merge(np.array([[0, 0, 10, 10], [4, 0, 14, 10.0]]), np.array([0.9, 0.3]), 1.0)
    np.testing.assert_allclose(boxes, [[1, 0, 11, 10]])
    np.testing.assert_allclose(scores, [1.2])


def test_the_best_match_is_first_and_its_average_meets_the_next() -> None:
    """B and C are merged before A is near enough to B; A then matches their average no more."""
    a, b, c = [0, 0, 10, 10], [3, 0, 13, 10], [5, 0, 15, 10]
    assert score(b, c) < score(a, b) < 0.9 < score(a, [4, 0, 14, 10])
    boxes, scores = merge(np.array([a, b, c], float), np.full(3, 0.5), 0.9)
    np.testing.assert_allclose(boxes, [a, [4, 0, 14, 10]])
    np.testing.assert_allclose(scores, [0.5, 1.0])
    boxes, scores = merge(np.array([a, b, c], float), np.full(3, 0.5), score(a, [4, 0, 14, 10]))
    np.testing.assert_allclose(boxes, [[8 / 3, 0, 8 / 3 + 10, 10]])  # all three weigh the same
    np.testing.assert_allclose(scores, [1.5])


def test_nothing_far_and_nothing_at_all() -> None:
    apart = np.array([[0, 0, 10, 10], [50, 0, 60, 10.0]])
    boxes, scores = merge(apart, np.array([0.5, 0.7]), 1.0)
    assert np.array_equal(boxes, apart) and scores.tolist() == [0.5, 0.7]
    boxes, scores = merge(np.zeros((0, 4)), np.zeros(0), 1.0)
    assert boxes.shape == (0, 4) and scores.shape == (0,)


@given(st.integers(0, 30), st.floats(0, 2), st.integers(0, 2**31))
def test_scores_add_up_boxes_stay_within_and_no_two_match_any_more(n: int, limit: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 30, (n, 2))
    boxes = np.concatenate([corner, corner + rng.integers(5, 20, (n, 2))], 1).astype(float)
    scores = rng.uniform(0.05, 1, n)
    made, total = merge(boxes, scores, limit)
    assert np.isclose(total.sum(), scores.sum()) and len(made) == len(total) <= n
    if n:
        assert (made >= boxes.min(0) - 1e-9).all() and (made <= boxes.max(0) + 1e-9).all()
    left = match_score(made[:, None], made[None])[~np.eye(len(made), dtype=bool)]
    assert (left > limit).all()


def find(rows: list[list[float]], count: int, **more: int) -> Found:
    """Rows of x1 y1 x2 y2, score, label, picture."""
    table = torch.tensor(rows).reshape(-1, 7)
    settings = {"candidates": 300, "most": 100} | more
    return merged(table[:, :4], table[:, 4], table[:, 5].long(), table[:, 6].long(), count, 0.8, **settings)


ROWS = [
    [0, 0, 10, 10, 0.5, 0, 0],
    [0, 0, 10, 10, 0.5, 0, 0],
    [0, 0, 10, 10, 0.7, 1, 0],
    [0, 0, 0.001, 10, 0.7, 1, 0],
    [50, 50, 60, 60, 0.9, 0, 0],
    [0, 0, 10, 10, 0.25, 0, 2],
]


def test_classes_and_pictures_apart_the_surest_first() -> None:
    found = find(ROWS, 3)
    assert found.counts == [3, 0, 1] and found.labels.tolist() == [0, 0, 1, 0]
    expected = [1 / 2, 0.9 / 1.9, 0.7 / 1.7, 0.2]  # of s, s / (1 + s)
    torch.testing.assert_close(found.scores, torch.tensor(expected))
    assert found.boxes[1].tolist() == [50, 50, 60, 60] and found.boxes.dtype == torch.float32


def test_the_best_are_kept_and_the_best_are_merged() -> None:
    found = find(ROWS, 3, most=1)
    assert found.counts == [1, 0, 1] and found.labels.tolist() == [0, 0]
    found = find(ROWS, 3, candidates=2)  # of class 0 in picture 0 the two best, which lie apart
    torch.testing.assert_close(found.scores[:2], torch.tensor([0.9 / 1.9, 0.7 / 1.7]))
    assert found.counts == [3, 0, 1]


def test_no_candidates() -> None:
    found = find([], 2)
    assert found.boxes.shape == (0, 4) and found.labels.dtype == torch.int64 and found.counts == [0, 0]
