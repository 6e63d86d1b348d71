"""Cross entropy as a sum and its normaliser, so that several processes can share one mean."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Softmax cross entropy of a batch in float32: (sum, count), two scalars; sum / count is the mean.

    logits: (n, k). labels: (n,) int64, or (n, k) float32 shares of every class that sum to 1 (`mix_labels`).
    weights: (k,) float32, one a class. smoothing: in [0, 1), the share of the target that is spread evenly
    over all classes (Szegedy et al. 2016, arXiv:1512.00567, section 7). The count is the sum of the weights of
    the true classes, as in torch's weighted mean.
    """
    classes = logits.shape[1]
    shares = F.one_hot(labels, classes).float() if labels.ndim == 1 else labels.float()
    weights = logits.new_ones(classes, dtype=torch.float32) if weights is None else weights.float()
    smooth = (1 - smoothing) * shares + smoothing / classes
    losses = -F.log_softmax(logits.float(), dim=1) * smooth * weights
    return losses.sum(), (shares * weights).sum()


def mix_labels(labels: Tensor, others: Tensor, share: Tensor, classes: int) -> Tensor:
    """The labels of blended pictures: (n, classes) float32, each row summing to 1.

    labels, others: (n,) int64. share: (n,) float32 in [0, 1], how much of the picture is the other one
    (Zhang et al. 2018, arXiv:1710.09412, equation 1, with lambda = 1 - share).
    """
    share = share.float().unsqueeze(1)
    return (1 - share) * F.one_hot(labels, classes) + share * F.one_hot(others, classes)


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Class weights n / (k count): every class counts the same in sum; k counts the classes that occur.

    counts: pictures of each class. A class without a picture gets the weight 0.
    """
    occurring = sum(count > 0 for count in counts)
    return [sum(counts) / (occurring * count) if count else 0.0 for count in counts]
