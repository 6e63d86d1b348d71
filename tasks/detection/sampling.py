"""Which candidates a loss is computed on: a few of each picture, objects and background in a fixed proportion.

Girshick 2015, arXiv:1504.08083, section 2.3; Ren et al. 2015, arXiv:1506.01497, section 3.1.3; of background that
looks like objects Sermanet et al. 2013, arXiv:1312.6229, section 4.1.
"""

import torch
from torch import Tensor


def sample(
    positive: Tensor, negative: Tensor, size: int, fraction: float, offence: Tensor | None = None
) -> Tensor:
    """A random choice (n, a) bool of at most `size` candidates in each row, of those that are either kind (n, a) bool.

    At most `fraction` of `size` are positive; negatives fill the rest, half of it with those that offend most where
    `offence` (n, a), at least 0, says how much. Drawn from torch's global generator.
    """
    draw = torch.rand(positive.shape, device=positive.device)
    most = torch.full((len(positive),), int(size * fraction), device=positive.device)
    chosen = _first(positive, draw, most)
    if offence is not None:
        chosen |= _first(negative, offence, (size - chosen.sum(1)) // 2)
    return chosen | _first(negative & ~chosen, draw, size - chosen.sum(1))


def _first(kind: Tensor, draw: Tensor, counts: Tensor) -> Tensor:
    """In each row those of a kind with the largest draws (n, a), at least 0, `counts` (n,) of them."""
    most = min(int(counts.max()), kind.shape[1]) if len(counts) else 0
    chosen = torch.zeros_like(kind)
    if most:
        place = torch.where(kind, draw, -1.0).topk(most, 1).indices
        chosen.scatter_(1, place, torch.arange(most, device=kind.device) < counts[:, None])
    return chosen & kind
