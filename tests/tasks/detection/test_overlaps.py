import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.tasks.detection import overlaps
from retinue.tasks.detection.overlaps import best_truth, match, overlapping

A, B = (0, 0, 10, 10), (0, 0, 10, 5)


@pytest.mark.parametrize(
    ("crowd", "options", "expected"),
    [
        (False, {}, 0.5),
        (True, {}, 1.0),  # all of the detection lies in the crowd
        (True, {"regions": False}, 0.5),
        (False, {"inclusive": True}, 66 / 121),
    ],
)
def test_overlap_by_hand(judge, crowd, options, expected):
    pairs = overlapping(judge(([(A, 0, crowd)], [(B, 1, 0.5)])), 0.1, **options)
    assert [column.tolist() for column in pairs] == [[0], [0], [pytest.approx(expected, abs=1e-15)]]


def test_only_boxes_of_one_picture_meet_and_an_edge_is_no_overlap(judge):
    judged = judge(
        ([(A, 0)], []), ([], [(A, 0, 0.5)]), ([(A, 0)], [((10, 0, 20, 10), 0, 0.5), ((0, 0, 0, 0), 0, 0.4)])
    )
    assert len(overlapping(judged, 1e-9).iou) == 0


def test_chunks_do_not_show(scattered, monkeypatch):
    judged = scattered(3, pictures=30)
    whole = overlapping(judged, 0.1)
    monkeypatch.setattr(overlaps, "CHUNK", 5)
    assert all(np.array_equal(a, b) for a, b in zip(whole, overlapping(judged, 0.1)))
    assert len(whole.iou) > 100


def test_torchvision_has_the_same_overlaps(scattered):
    import torch
    from torchvision.ops import box_iou

    judged = scattered(1, pictures=1, truths=8, detections=40)
    pairs = overlapping(judged, 1e-9, regions=False)
    dense = np.zeros((len(judged.boxes), len(judged.truth_boxes)))
    dense[pairs.detection, pairs.truth] = pairs.iou
    expected = box_iou(torch.from_numpy(judged.boxes), torch.from_numpy(judged.truth_boxes)).numpy()
    assert np.abs(dense - expected).max() < 1e-15 and dense.max() > 0.5


def test_the_best_scored_detection_chooses_first_and_the_next_falls_back(judge):
    near, far = (0, 0, 10, 10), (0, 0, 10, 14)
    judged = judge(
        ([(near, 0), (far, 0)], [((0, 0, 10, 11), 0, 0.3), ((0, 0, 10, 9), 0, 0.9), (near, 0, 0.1)])
    )
    matched, ignored = match(judged, overlapping(judged, 0.5), 0.5)
    assert matched.tolist() == [1, 0, -1] and not ignored.any()
    assert match(judged, overlapping(judged, 0.5), 0.8)[0].tolist() == [-1, 0, -1]


def test_a_detection_in_a_crowd_is_ignored_unless_it_finds_a_truth(judge):
    crowd = ((0, 0, 100, 100), 0, True)
    found = [(A, 0, 0.9), (A, 0, 0.8), ((50, 50, 60, 60), 0, 0.7), ((50, 50, 60, 60), 1, 0.7)]
    judged = judge(([crowd, (A, 0)], found))
    matched, ignored = match(judged, overlapping(judged, 0.5), 0.5)
    assert matched.tolist() == [1, -1, -1, -1] and ignored.tolist() == [False, True, True, False]


def test_best_truth(judge):
    judged = judge(([(A, 0), (B, 0), (B, 1)], [(B, 0, 0.1), (A, 1, 0.5), ((50, 50, 60, 60), 0, 0.7)]))
    truth, iou = best_truth(overlapping(judged, 0.1), 3)
    assert truth.tolist() == [1, 0, -1] and iou.tolist() == [1, 1, 0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_nobody_finds_twice(scattered, seed):
    judged = scattered(seed)
    matched, ignored = match(judged, overlapping(judged, 0.5), 0.5)
    found = matched[matched >= 0]
    assert len(set(found.tolist())) == len(found) and not judged.truth_crowd[found].any()
    assert np.array_equal(judged.labels[matched >= 0], judged.truth_labels[found])
    assert np.array_equal(judged.picture[matched >= 0], judged.truth_picture[found])
    assert not (ignored & (matched >= 0)).any()
