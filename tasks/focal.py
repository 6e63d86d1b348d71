"""The focal factor, which dense detection and segmentation put before their cross-entropies."""

import torch
from torch import Tensor


def focused(entropy: Tensor, gamma: float) -> Tensor:
    """A cross-entropy, -log(p) of the truth's probability p, times (1 - p)^gamma; of any shape.

    Lin et al. 2017, arXiv:1708.02002, equation 4.
    """
    wrong = -torch.expm1(-entropy)
    return wrong.clamp(min=1e-6) ** gamma * entropy  # a power below 1 has no slope at 0
