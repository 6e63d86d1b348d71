"""Losses of detectors, as plain functions; totals are sums, and their caller divides by the count."""

import torch
from torch import Tensor
from torch.nn import functional as F

from retinue.tasks.focal import focused
from retinue.tasks.task import mean_over_ranks

BETA = 1 / 9
"""Where smooth L1 turns from a parabola into a line (sigma = 3 in Ren's code)."""


def smooth_l1(codes: Tensor, truth: Tensor, beta: float = BETA) -> Tensor:
    """The sum over box codes (r, 4) of the robust loss of Girshick 2015, arXiv:1504.08083, equation 3; () float32."""
    return F.smooth_l1_loss(codes.float(), truth, beta=beta, reduction="sum")


def region_losses(logits: Tensor, codes: Tensor, labels: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """`class` and `box` of sampled regions (Girshick 2015, equation 1): means over all regions, background included.

    logits: (r, 1 + classes), background first. codes: (r, 1 + classes, 4). labels: (r,) int64, 0 is background.
    truth: (r, 4) codes of the matched boxes, read where there is one.
    """
    positive = torch.where(labels > 0)[0]
    wrong = F.cross_entropy(logits.float(), labels, reduction="sum")
    off = smooth_l1(codes[positive, labels[positive]], truth[positive])
    return {"class": mean_over_ranks(wrong, len(labels)), "box": mean_over_ranks(off, len(labels))}


def proposal_losses(logits: Tensor, codes: Tensor, positive: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """`objectness` and `proposal_box` of sampled anchors (Ren et al. 2015, equation 1): means over all of them.

    logits: (r,). codes: (r, 4). positive: (r,) bool. truth: (positives, 4), codes of their true boxes.
    """
    wrong = F.binary_cross_entropy_with_logits(logits.float(), positive.float(), reduction="sum")
    off = smooth_l1(codes[positive], truth)
    count = len(positive)
    return {"objectness": mean_over_ranks(wrong, count), "proposal_box": mean_over_ranks(off, count)}


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean binary cross entropy of masks (r, m, m), of the true class each (He et al. 2017, arXiv:1703.06870).

    truth: (r, m, m) in [0, 1]. 0 where there is no region.
    """
    wrong = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="sum")
    return mean_over_ranks(wrong, truth.numel())


def keypoint_loss(logits: Tensor, cells: Tensor, seen: Tensor) -> Tensor:
    """Mean cross entropy over the cells of a heat map, of the keypoints that are seen (He et al. 2017, section 5).

    logits: (r, k, m, m). cells: (r, k) int64, row * m + column. seen: (r, k) bool. 0 where none is seen.
    """
    wrong = F.cross_entropy(logits.flatten(2)[seen].float(), cells[seen], reduction="sum")
    return mean_over_ranks(wrong, seen.sum())


def sigmoid_focal(logits: Tensor, truth: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The focal loss of each logit, float32 and of their shape (Lin et al. 2017, arXiv:1708.02002, equation 5).

    truth: of the same shape, 1 where the logit's class is the candidate's and 0 elsewhere. alpha: what a 1 weighs,
    1 - alpha is what a 0 does. gamma: how much less an easy one counts.
    """
    entropy = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none")
    return (alpha * truth + (1 - alpha) * (1 - truth)) * focused(entropy, gamma)


def class_truth(labels: Tensor, classes: int) -> Tensor:
    """(..., classes) float32, 1 at each label, for `sigmoid_focal`; a negative label has none."""
    truth = torch.zeros(*labels.shape, classes, device=labels.device)
    own = torch.where(labels >= 0)
    truth[(*own, labels[own])] = 1
    return truth
