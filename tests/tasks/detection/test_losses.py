import math

import torch
from torchvision.models.detection.roi_heads import fastrcnn_loss

from retinue.tasks.detection.losses import keypoint_loss, mask_loss, proposal_losses, region_losses, smooth_l1


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
