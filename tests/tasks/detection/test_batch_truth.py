"""The truth of a batch: flat, without crowds and slivers; overlaps with it, picture by picture."""

import torch

from retinue.tasks.detection.batch_truth import best_overlap, in_crowd, objects_of

TARGETS = [
    {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 60, 60], [5, 5, 5.001, 50]]),
        "box_labels": torch.tensor([2, 1, 0]),
        "crowd": torch.tensor([False, True, False]),
    },
    {"boxes": torch.zeros(0, 4), "box_labels": torch.zeros(0, dtype=torch.int64)},
    {"boxes": torch.tensor([[0.0, 0, 20, 10]]), "box_labels": torch.tensor([0])},
]


def test_what_is_learnt() -> None:
    picture, boxes, labels = objects_of(TARGETS)
    assert picture.tolist() == [0, 2] and labels.tolist() == [2, 0]
    assert boxes.tolist() == [[0, 0, 10, 10], [0, 0, 20, 10]]
    picture, boxes, _ = objects_of(TARGETS[1:2])
    assert picture.shape == (0,) and boxes.shape == (0, 4)


def test_overlaps_stay_in_their_picture() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 0, 0], [30, 30, 40, 40], [50, 50, 70, 60]]).repeat(3, 1, 1)
    expected = [[1, 0, 0, 0], [0, 0, 0, 0], [0.5, 0, 0, 0]]
    torch.testing.assert_close(best_overlap(boxes, TARGETS), torch.tensor(expected, dtype=torch.float32))
    assert in_crowd(boxes, TARGETS).tolist() == [[False, False, True, False], [False] * 4, [False] * 4]
    assert not in_crowd(boxes[1:], TARGETS[1:]).any() and not best_overlap(boxes[1:2], TARGETS[1:2]).any()
