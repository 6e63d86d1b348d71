"""Losses of semantic segmentation, as plain functions of logits (n, c, h, w) and truth (n, h, w).

Logits are of any float type and computed in float32 at least; truth is int64, 255 ignored, everything else a class.
Each loss is () and finite: 0, with a gradient of 0, where no pixel counts. Several processes give the loss and, with
their gradients averaged, the gradient of one that has all their pictures; only of `lovasz_softmax` it is near that.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from retinue.datasets.targets import IGNORE
from retinue.tasks.focal import focused
from retinue.tasks.task import mean_over_ranks


def cross_entropy(
    logits: Tensor,
    truth: Tensor,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    hard: float = 1.0,
) -> Tensor:
    """The soft-max's cross-entropy, its mean over the pixels.

    weights: (c,), of the classes; the mean is then over the weights of the pixels' true classes, as torch has it.
    label_smoothing: in [0, 1), the share of a pixel's truth that is spread evenly over all classes. hard: in (0, 1],
    the share of each picture's pixels that counts, see `hard_pixels`.
    """
    losses = _pixel_losses(logits, truth, weights, label_smoothing)
    counted = hard_pixels(losses, truth, hard) if hard < 1 else truth != IGNORE
    return _mean(losses, truth, counted, weights)


def focal(logits: Tensor, truth: Tensor, gamma: float = 2.0, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy times (1 - p)^gamma, p the probability of the true class; its mean over the pixels.

    Lin et al. 2017, arXiv:1708.02002, equations 4 and 5, with the soft-max for the sigmoid and class weights (c,) for
    alpha. The mean is that of `cross_entropy`, which this is for gamma 0.
    """
    losses = focused(_pixel_losses(logits, truth), gamma)
    if weights is not None:
        losses = losses * _at(weights, truth)
    return _mean(losses, truth, truth != IGNORE, weights)


def hard_pixels(losses: Tensor, truth: Tensor, keep: float) -> Tensor:
    """(n, h, w) bool: of each picture's pixels that are not ignored, the share `keep` with the largest losses.

    losses: (n, h, w). keep: in (0, 1]; at least one pixel is kept of a picture that has any, and with the last one all
    that equal it. Online hard example mining (Shrivastava et al. 2016, arXiv:1604.03540) as Wu et al. 2016
    (arXiv:1604.04339) have it for pixels, with a share in place of their number of pixels. Chosen within each picture,
    the pixels do not depend on what else is in the batch.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep}: a share of the pixels, above 0 and at most 1")
    counted = truth != IGNORE
    kept = torch.zeros_like(counted)
    for i, own in enumerate(losses.detach()):
        if total := int(counted[i].sum()):
            rank = total - max(1, round(keep * total)) + 1
            least = own[counted[i]].kthvalue(rank).values
            kept[i] = counted[i] & ~(own < least)  # so that NaN, which is never less, is kept and seen
    return kept


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - 2 sum(p g) / (sum(p) + sum(g)), its mean over the classes that are present in the truth.

    The sums run over all pixels of the batch that are not ignored: p is the soft-max's probability of the class, g 1
    where it is the truth and 0 elsewhere. Milletari et al. 2016, arXiv:1606.04797, with p in place of p^2 in the
    denominator, as Sudre et al. 2017, arXiv:1707.03237, have it.
    """
    probabilities = _softmax(logits)
    of_class = truth[:, None] == torch.arange(logits.shape[1], device=truth.device)[:, None, None]
    overlap = (probabilities * of_class).sum((0, 2, 3))
    said = (probabilities * (truth != IGNORE)[:, None]).sum((0, 2, 3))
    true = of_class.sum((0, 2, 3))
    overlap, said, true = _sum_over_ranks(torch.stack([overlap, said, true.to(said)]))
    present = true > 0
    losses = 1 - 2 * overlap / (said + true).clamp(min=1)
    return (losses * present).sum() / present.sum().clamp(min=1)


def lovasz_softmax(logits: Tensor, truth: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss, its mean over the classes that are present in the truth.

    Berman et al. 2018, arXiv:1705.08790, over all pixels of the batch that are not ignored. Where every probability is
    0 or 1 it is 1 - IoU. It is no sum over pixels: several processes give the mean of what each finds in its own
    pictures, weighted by the number of classes that these show.
    """
    labels, losses = truth.flatten(), []
    for index, probability in enumerate(_softmax(logits).movedim(1, 0).flatten(1)):
        of_class = labels == index
        if of_class.any():
            errors = torch.where(of_class, 1 - probability, probability).where(labels != IGNORE, 0)
            losses.append(errors @ jaccard_slopes(errors.detach(), of_class))
    total = torch.stack(losses).sum() if losses else 0 * _full(logits).sum()
    return mean_over_ranks(total, len(losses))


def jaccard_slopes(errors: Tensor, of_class: Tensor) -> Tensor:
    """The gradient (pixels,) of the Lovász extension of a class's Jaccard loss by the errors of the pixels.

    errors: (pixels,), not negative. of_class: (pixels,) bool, true at least once.

    Berman et al. 2018, algorithm 1. When pixels become wrong one by one, in the order of falling error, the slope is
    how much 1 - I / U grows: by 1 / U at a pixel of the class, where the intersection I loses one, and by I / U (U - 1)
    at any other, where the union has become U. (As differences of neighbouring losses, float32 would lose them.)
    """
    order = _falling(errors)
    inside = of_class[order]
    intersection = (of_class.sum() - inside.cumsum(0)).to(errors)
    others = (~inside).cumsum(0).to(errors)
    union = of_class.sum() + others
    grown = torch.where(inside, 1 / union, intersection / (union * (union - 1)))
    return torch.empty_like(errors).scatter_(0, order, grown)


def median_frequency_weights(frequencies: Sequence[float]) -> Tensor:
    """Class weights (c,) float32, median / frequency; 0 for a class that does not occur.

    frequencies: of each class, its pixels divided by all pixels of those pictures that show it (Eigen & Fergus 2015,
    arXiv:1411.4734). The median is that of the classes that occur.
    """
    values = np.asarray(frequencies, np.float64)
    median = np.median(values[values > 0]) if (values > 0).any() else 0.0
    weights = np.divide(median, values, out=np.zeros_like(values), where=values > 0)
    return torch.from_numpy(weights).float()


def _full(logits: Tensor) -> Tensor:
    """In float32, or float64 where they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _softmax(logits: Tensor) -> Tensor:
    return _full(logits).softmax(1)


def _pixel_losses(
    logits: Tensor, truth: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy (n, h, w), times the weight of the true class; 0 where it is ignored."""
    logits = _full(logits)
    weights = weights.to(logits) if weights is not None else None
    return F.cross_entropy(
        logits, truth, weights, ignore_index=IGNORE, reduction="none", label_smoothing=label_smoothing
    )


def _mean(losses: Tensor, truth: Tensor, counted: Tensor, weights: Tensor | None) -> Tensor:
    """Of pixels (n, h, w), those that are `counted`, by the weights of their true classes."""
    count = counted if weights is None else _at(weights, truth) * counted
    return mean_over_ranks(losses.where(counted, 0).sum(), count.sum())


def _at(weights: Tensor, truth: Tensor) -> Tensor:
    """The weight of every pixel's true class, (n, h, w) float32; 0 where it is ignored."""
    table = truth.new_zeros(IGNORE + 1, dtype=torch.float32)
    table[: len(weights)] = weights
    return table[truth]


def _falling(values: Tensor) -> Tensor:
    """The indices that put values (n,) in falling order."""
    if values.device.type == "cpu":  # NumPy sorts with vector instructions, three times as fast
        return torch.from_numpy(np.argsort(-values.numpy()))
    return values.argsort(descending=True)


def _sum_over_ranks(part: Tensor) -> Tensor:
    """The sum of all processes' parts, and a gradient that is right once the processes' gradients are averaged."""
    if not (dist.is_available() and dist.is_initialized()):
        return part
    total = part.detach().clone()
    dist.all_reduce(total)
    return total + dist.get_world_size() * (part - part.detach())
