"""Heads that say something at every position of a map: towers of convolutions, and what is read from their answers.

Lin et al. 2017, arXiv:1708.02002, section 4; Tian et al. 2019, arXiv:1904.01355, section 3.
"""

import math
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from retinue.tasks.detection.nms import best_of_each

TowerNorm = Literal["none", "group"]


def tower(channels: int, depth: int, norm: TowerNorm = "none", bias: bool | None = None) -> list[nn.Module]:
    """`depth` 3x3 convolutions with ReLU, of N(0, 0.01); "group": with group norm, of 32 groups where they fit.

    bias: of the convolutions; None where there is no norm only.
    """
    groups = (
        1 if channels % 2 else math.gcd(32, channels // 2)
    )  # of two at least: a 1x1 map has a deviation too
    norm_layer = partial(nn.GroupNorm, groups) if norm == "group" else None
    blocks = [
        Conv2dNormActivation(channels, channels, norm_layer=norm_layer, bias=bias) for _ in range(depth)
    ]
    for module in (module for block in blocks for module in block.modules()):
        if isinstance(module, nn.Conv2d):
            narrow(module)
    return list(blocks)


def last_layer(channels: int, outputs: int, prior: float | None = None) -> nn.Conv2d:
    """A 3x3 convolution of N(0, 0.01). prior: what its logits say first of all (Lin et al., section 4.1)."""
    layer = nn.Conv2d(channels, outputs, 3, padding=1)
    narrow(layer)
    if prior is not None and layer.bias is not None:
        nn.init.constant_(layer.bias, -math.log((1 - prior) / prior))
    return layer


def narrow(layer: nn.Conv2d) -> None:
    """Weights from N(0, 0.01), biases of 0, in place."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def rows(x: Tensor, columns: int) -> Tensor:
    """A map (n, a * columns, h, w) -> (n, h * w * a, columns), position by position, as anchors are."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, columns)


class Candidates(NamedTuple):
    """Scores that go on, flat: (r,) int64 each, but scores (r,) float32.

    picture: whose they are. place: the row of the anchor. labels: class indices from 0.
    """

    picture: Tensor
    place: Tensor
    labels: Tensor
    scores: Tensor


def best_above(scores: Tensor, threshold: float, most: int, by_class: bool = False) -> Candidates:
    """Those of scores (n, a, classes) above the threshold: the `most` best of each picture, or of its every class."""
    picture, place, labels = torch.where(scores > threshold)
    found = scores[picture, place, labels]
    groups = picture * scores.shape[2] + labels if by_class else picture
    kept = best_of_each(found, groups, most)
    return Candidates(picture[kept], place[kept], labels[kept], found[kept])
