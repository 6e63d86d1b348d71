"""How a box is told relative to another one: centre shifts over its sides, logarithms of the ratios of sides.

Girshick et al. 2014, arXiv:1311.2524, appendix C. Always float32: in bfloat16 a coordinate near 1000 has steps of 4.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Weights = tuple[float, float, float, float]
UNIT: Weights = (1.0, 1.0, 1.0, 1.0)
REGION_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)
"""1 / the deviations by which Girshick's Fast R-CNN normalises its targets (0.1 of shifts, 0.2 of logarithms)."""
LARGEST = math.log(1000 / 16)
"""Of a decoded logarithm, so that exp stays finite: a 16 pixel anchor may grow to 1000."""


def encode(boxes: Tensor, anchors: Tensor, weights: Weights = UNIT) -> Tensor:
    """dx dy dw dh (..., 4) float32 that lead from `anchors` to `boxes`, both (..., 4) x1 y1 x2 y2 of positive sides."""
    x, y, w, h = _centred(boxes)
    ax, ay, aw, ah = _centred(anchors)
    code = ((x - ax) / aw, (y - ay) / ah, (w / aw).log(), (h / ah).log())
    return torch.stack([part * weight for part, weight in zip(code, weights)], -1)


def decode(codes: Tensor, anchors: Tensor, weights: Weights = UNIT) -> Tensor:
    """The inverse of `encode`: boxes (..., 4) float32. Both arguments broadcast."""
    ax, ay, aw, ah = _centred(anchors)
    dx, dy, dw, dh = (part / weight for part, weight in zip(codes.float().unbind(-1), weights))
    x, y = dx * aw + ax, dy * ah + ay
    w, h = dw.clamp(max=LARGEST).exp() * aw / 2, dh.clamp(max=LARGEST).exp() * ah / 2
    return torch.stack([x - w, y - h, x + w, y + h], -1)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.float().unbind(-1)
    w, h = x2 - x1, y2 - y1
    return x1 + 0.5 * w, y1 + 0.5 * h, w, h


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (..., 4) cut to pictures of `sizes` (..., 2) height, width, which broadcast against them."""
    limits = sizes.to(boxes).flip(-1).repeat_interleave(2, -1)[..., [0, 2, 1, 3]]
    return boxes.clamp(min=0).minimum(limits)


def large_enough(boxes: Tensor, side: float) -> Tensor:
    """(...,) bool: both sides of boxes (..., 4) are at least `side`."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= side).all(-1)


def picture_sizes(sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Pairs (height, width) as a tensor (n, 2) float32 on the device of `like`."""
    return torch.tensor(sizes, dtype=torch.float32, device=like.device).view(-1, 2)
