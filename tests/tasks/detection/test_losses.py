import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.ops import sigmoid_focal_loss

from retinue.tasks.detection.losses import (
    class_truth,
    keypoint_loss,
    mask_loss,
    proposal_losses,
    region_losses,
    sigmoid_focal,
    smooth_l1,
)


def test_smooth_l1_by_hand() -> None:
    codes = torch.tensor([[0.0, 1.0, 0.0, 1 / 9]])
    expected = (1 - 1 / 18) + 0.5 * (1 / 9)  # linear beyond 1/9, a parabola up to it
    torch.testing.assert_close(smooth_l1(codes, torch.zeros(1, 4)), torch.tensor(expected))


def test_region_losses_are_torchvisions() -> None:
    torch.manual_seed(0)
    logits, codes, labels = torch.randn(9, 4), torch.randn(9, 4, 4), torch.tensor([0, 1, 2, 3, 0, 0, 2, 1, 0])
    truth = torch.randn(9, 4)
    expected = fastrcnn_loss(logits, codes.flatten(1), [labels], [truth])
    found = region_losses(logits, codes, labels, truth)
    torch.testing.assert_close((found["class"], found["box"]), expected)


def test_without_objects_the_box_losses_are_zero_and_descend_nowhere() -> None:
    logits, codes = torch.zeros(5, 3, requires_grad=True), torch.zeros(5, 3, 4, requires_grad=True)
    found = region_losses(logits, codes, torch.zeros(5, dtype=torch.int64), torch.zeros(5, 4))
    assert found["box"] == 0 and math.isclose(found["class"].item(), math.log(3), rel_tol=1e-6)
    (found["box"] + found["class"]).backward()
    assert codes.grad is not None and not codes.grad.any()
    empty = region_losses(logits[:0], codes[:0], torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert empty["class"] == 0 and empty["box"] == 0
    none = proposal_losses(
        torch.zeros(4), torch.zeros(4, 4), torch.zeros(4, dtype=torch.bool), torch.zeros(0, 4)
    )
    assert none["proposal_box"] == 0 and math.isclose(none["objectness"].item(), math.log(2), rel_tol=1e-6)
    assert mask_loss(torch.zeros(0, 4, 4), torch.zeros(0, 4, 4)) == 0
    nothing = torch.zeros(0, 2, dtype=torch.int64)
    assert keypoint_loss(torch.zeros(0, 2, 4, 4), nothing, nothing.bool()) == 0


def test_masks_and_keypoints_by_hand() -> None:
    torch.testing.assert_close(
        mask_loss(torch.zeros(2, 3, 3), torch.ones(2, 3, 3)), torch.tensor(math.log(2))
    )
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 0, 1, 0] = 100.0
    seen = torch.tensor([[True, True]])
    found = keypoint_loss(logits, torch.tensor([[2, 0]]), seen)
    torch.testing.assert_close(found, torch.tensor(math.log(4) / 2))
    assert keypoint_loss(logits, torch.tensor([[2, 0]]), torch.tensor([[True, False]])) < 1e-6


@given(st.integers(0, 2**31), st.floats(0, 1), st.sampled_from([0.0, 1.0, 2.0, 5.0]))
def test_focal_losses_are_torchvisions(seed: int, alpha: float, gamma: float) -> None:
    g = torch.Generator().manual_seed(seed)
    logits, truth = torch.randn(7, 3, generator=g) * 4, torch.randint(2, (7, 3), generator=g).float()
    expected = sigmoid_focal_loss(logits, truth, alpha, gamma)
    torch.testing.assert_close(sigmoid_focal(logits, truth, alpha, gamma), expected, rtol=1e-4, atol=1e-6)


def test_focal_loss_by_hand() -> None:
    """At a probability of a half: a quarter of the square of a half of log 2 for what is there, three for what not."""
    found = sigmoid_focal(torch.zeros(2), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor([0.25, 0.75]) * 0.25 * math.log(2))
    assert sigmoid_focal(torch.tensor([-200.0, 200.0]), torch.tensor([0.0, 1.0])).tolist() == [0, 0]


def test_the_truth_of_classes() -> None:
    truth = class_truth(torch.tensor([[2, -1], [0, 1]]), 3)
    assert truth.tolist() == [[[0, 0, 1], [0, 0, 0]], [[1, 0, 0], [0, 1, 0]]]
