"""YOLOX's head (Ge et al. 2021, arXiv:2107.08430, section 2.1): classes and boxes of cells, from separate branches."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from retinue.backbones.csp_darknet import ConvBlock, conv3x3
from retinue.backbones.fused import fuse

PRIOR = 0.01
"""Of an object, and of a class, before anything is learnt."""
LARGEST_LOG = 10.0
"""Of a side over its stride, so that exp stays finite."""


class Raw(NamedTuple):
    """What the head says of all cells, the finest map's first, row by row; float32.

    codes: (n, a, 4) x, y, log w, log h. objectness: (n, a), logits: (n, a, classes), before the sigmoid.
    """

    codes: Tensor
    objectness: Tensor
    logits: Tensor


class DecoupledHead(nn.Module):
    """Section 2.1, figure 2: a 1x1 stem, then two 3x3 blocks for the class and two for box and objectness, a map each.

    Modules have the names of the published checkpoints. The last layers compute in float32.
    """

    def __init__(self, channels: Sequence[int], width: int, classes: int, depthwise: bool) -> None:
        super().__init__()

        def branch() -> nn.Sequential:
            return nn.Sequential(*(conv3x3(width, width, 1, depthwise) for _ in range(2)))

        def last(outputs: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(width, outputs, 1) for _ in channels)

        self.stems = nn.ModuleList(ConvBlock(inputs, width, 1) for inputs in channels)
        self.cls_convs = nn.ModuleList(branch() for _ in channels)
        self.reg_convs = nn.ModuleList(branch() for _ in channels)
        self.cls_preds, self.reg_preds, self.obj_preds = last(classes), last(4), last(1)
        for layer in (*self.cls_preds, *self.obj_preds):
            _expect_little(layer)

    def forward(self, maps: Sequence[Tensor]) -> Raw:
        """Maps (n, channels, h, w), finest first."""
        classes, codes, objects = [], [], []
        for k, x in enumerate(maps):
            x = self.stems[k](x)
            of_class = self.cls_convs[k](x)
            classes.append(_in_float32(self.cls_preds[k], of_class))
            of_box = self.reg_convs[k](x)
            codes.append(_in_float32(self.reg_preds[k], of_box))
            objects.append(_in_float32(self.obj_preds[k], of_box))
        return Raw(_by_cell(codes), _by_cell(objects)[..., 0], _by_cell(classes))

    def forget_classes(self) -> None:
        """New last layers of the class branch."""
        for layer in self.cls_preds:
            layer.reset_parameters()  # type: ignore[operator]
            _expect_little(layer)

    def fused(self, dtype: torch.dtype) -> nn.Module:
        """A copy for prediction, called in the same way: see `retinue.backbones.fused.fuse`."""
        names = ("cls_preds", "reg_preds", "obj_preds")
        last = {name: fuse(getattr(self, name), torch.float32) for name in names}
        copy = fuse(self, dtype)
        for name, layers in last.items():
            setattr(copy, name, layers)
        return copy


def _expect_little(layer: nn.Module) -> None:
    """Biases by which everything has the probability PRIOR."""
    nn.init.constant_(layer.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]


def _in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


def _by_cell(maps: Sequence[Tensor]) -> Tensor:
    """Maps (n, c, h, w) -> (n, all cells, c)."""
    return torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps], 1)


class Cells(NamedTuple):
    """All cells of the maps, the finest map's first, row by row, in canvas pixels: corners (a, 2), strides (a,)."""

    corners: Tensor
    strides: Tensor

    @property
    def centres(self) -> Tensor:
        """(a, 2)."""
        return self.corners + self.strides[:, None] / 2

    @property
    def boxes(self) -> Tensor:
        """(a, 4) x1 y1 x2 y2."""
        return torch.cat([self.corners, self.corners + self.strides[:, None]], 1)

    def decode(self, codes: Tensor, rows: Tensor | None = None) -> Tensor:
        """Boxes (..., a, 4) float32 x1 y1 x2 y2, in canvas pixels, of codes (..., a, 4): of all cells, or of `rows`."""
        corners, strides = (
            (self.corners, self.strides) if rows is None else (self.corners[rows], self.strides[rows])
        )
        centre = codes[..., :2] * strides[:, None] + corners
        half = codes[..., 2:].clamp(max=LARGEST_LOG).exp() * strides[:, None] / 2
        return torch.cat([centre - half, centre + half], -1)

    def encode(self, boxes: Tensor, rows: Tensor) -> Tensor:
        """The codes (m, 4) with which the cells `rows` (m,) say these boxes (m, 4), whose sides are above 0."""
        strides = self.strides[rows, None]
        centre = ((boxes[:, :2] + boxes[:, 2:]) / 2 - self.corners[rows]) / strides
        return torch.cat([centre, ((boxes[:, 2:] - boxes[:, :2]) / strides).log()], 1)


@lru_cache(maxsize=64)  # training at several scales meets the same few grids again and again
def cells_of(grids: tuple[tuple[int, int, int], ...], device: str) -> Cells:
    """The cells of maps of (rows, columns, stride)."""
    corners, strides = [], []
    for rows, columns, stride in grids:
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        corners.append(torch.stack([x, y], -1).view(-1, 2) * float(stride))
        strides.append(torch.full((rows * columns,), float(stride)))
    return Cells(torch.cat(corners).to(device), torch.cat(strides).to(device))
