import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.ops import box_iou

from retinue.tasks.detection.matching import BELOW, BETWEEN, assign, match, matched_rows, overlap_of


def test_by_hand() -> None:
    iou = torch.tensor([[0.9, 0.4, 0.1, 0.0, 0.2], [0.8, 0.2, 0.6, 0.1, 0.2]])
    assert match(iou, 0.7, 0.3).tolist() == [0, BETWEEN, BETWEEN, BELOW, BELOW]
    assert match(iou * 0.5, 0.7, 0.3, every_truth=True).tolist() == [0, BELOW, BETWEEN, BELOW, BELOW]


def test_without_truth_all_is_background() -> None:
    assert match(torch.empty(0, 3), 0.7, 0.3, True).tolist() == [BELOW] * 3
    assert match(torch.empty(2, 0), 0.7, 0.3, True).tolist() == []


def test_a_truth_that_no_candidate_touches_has_none() -> None:
    iou = torch.tensor([[0.0, 0.0, torch.nan], [0.2, 0.0, 0.0]])
    assert match(iou, 0.7, 0.3, every_truth=True).tolist() == [1, BELOW, BELOW]
    assert match(iou[:1], 0.7, 0.3, every_truth=True).tolist() == [BELOW] * 3


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**31), st.booleans())
def test_as_torchvision(truths: int, candidates: int, seed: int, every: bool) -> None:
    iou = torch.randint(0, 11, (truths, candidates), generator=torch.Generator().manual_seed(seed)) / 10
    iou[:, 0] += 0.1  # theirs takes all candidates for objects where a truth touches none
    expected = Matcher(0.7, 0.3, every)(iou.clone())
    assert torch.equal(match(iou, 0.7, 0.3, every), expected)


def test_each_truth_has_the_candidate_that_fits_it_best() -> None:
    """Even if that one fits another truth better; no candidate is its own where none touches it."""
    iou = torch.tensor([[0.9, 0.4, 0.1], [0.3, 0.2, 0.1], [0.0, 0.0, 0.0]])
    assert match(iou, 0.5, 0.5, every_truth="own").tolist() == [1, BELOW, BELOW]
    assert match(iou, 0.5, 0.5, every_truth=True).tolist() == [0, BELOW, BELOW]
    assert match(iou[:, 1:], 0.5, 0.5, every_truth="own").tolist() == [1, BELOW]
    assert match(iou[2:], 0.5, 0.5, every_truth="own").tolist() == [BELOW] * 3


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**31))
def test_own_candidates_are_torchvisions(truths: int, candidates: int, seed: int) -> None:
    iou = torch.rand(truths, candidates, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(match(iou, 0.5, 0.5, "own"), SSDMatcher(0.5)(iou.clone()))


def test_what_matches_have_comes_picture_by_picture() -> None:
    targets = [{"box_labels": torch.tensor(labels, dtype=torch.int64)} for labels in ([5, 6], [], [7])]
    matched = torch.tensor([[1, BELOW, 0], [BELOW, BETWEEN, BELOW], [BELOW, 0, 0]])
    assert matched_rows(matched, targets, "box_labels").tolist() == [6, 5, 7, 7]
    assert matched_rows(matched[1:2], targets[1:2], "box_labels").tolist() == []


def test_a_crowd_is_never_matched_and_what_lies_in_it_is_no_background() -> None:
    boxes = torch.tensor([[0.0, 0, 100, 100], [200, 0, 220, 20]])
    candidates = torch.tensor([[0.0, 0, 100, 100], [10, 10, 20, 20], [200, 0, 220, 20], [300, 300, 320, 320]])
    crowd = torch.tensor([True, False])
    assert assign(candidates, boxes, crowd, 0.7, 0.3).tolist() == [BETWEEN, BETWEEN, 1, BELOW]
    assert assign(candidates, boxes, None, 0.7, 0.3).tolist() == [0, BELOW, 1, BELOW]
    only = assign(candidates, boxes[:1], crowd[:1], 0.7, 0.3, every_truth=True)
    assert only.tolist() == [BETWEEN, BETWEEN, BELOW, BELOW]


def test_overlap_is_of_the_candidate() -> None:
    one, other = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 105, 10], [0, 0, 5, 5]])
    torch.testing.assert_close(overlap_of(one, other), torch.tensor([[0.5], [0.25]]))
    assert box_iou(one, other)[0, 0] < 0.05
