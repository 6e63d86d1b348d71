"""A classifier's top as a sliding window: its fully connected layers are convolutions, and a larger map gives a map.

Sermanet et al. 2013 (arXiv:1312.6229), section 3.5; Long, Shelhamer & Darrell 2015 (arXiv:1411.4038), section 3.1.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from retinue.backbones.backbone import TAKEN, Backbone, Top
from retinue.backbones.fused import fuse
from retinue.backbones.squeezenet import SqueezeTop
from retinue.datasets.targets import DataError
from retinue.tasks.classification.classification import MeanMax


def as_sliding(backbone: Backbone, top: Top, side: int) -> nn.Sequential:
    """A classifier's top for maps of any size.

    Maps (n, c, h, w) of `top.level` -> logits (n, classes, h - k + 1, w - k + 1), k being the side of that map for
    pictures of `side` pixels. The layers share their weights with the top.
    Raises DataError where such pictures' maps are brought to a grid of which they are no multiple (fc6 reads 7x7).
    """
    size, other = backbone.output_sizes(side, side)[top.level]
    assert size == other, "square pictures give square maps"
    if isinstance(top, SqueezeTop):
        return nn.Sequential(top.last, nn.ReLU(), nn.AvgPool2d(size, 1))
    pooling, *layers = _flat(top.embed)
    if isinstance(pooling, MeanMax):
        return nn.Sequential(_MeanMaxWindow(size), *as_convolutions(layers, 1), _convolution(top.last, 1))
    grid = _grid(pooling)
    if size % grid:
        raise DataError(
            f"pictures of {side} pixels give this classifier a map of {size}x{size}, which it stretches or shrinks to "
            f"{grid}x{grid}: it is no sliding window; one of another side is, such as "
            f"{backbone.preprocessing.crop} (imgsz of a classifier's training, window of OverFeat's)"
        )
    cell = size // grid
    pooled = [nn.AvgPool2d(cell, 1)] if cell > 1 else []
    return nn.Sequential(*pooled, *as_convolutions(layers, grid, cell), _convolution(top.last, 1))


def fuse_sliding(layers: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    """`fuse` of layers that end in a map of answers, which are computed in float32."""
    *lower, last = layers
    return nn.Sequential(fuse(nn.Sequential(*lower), dtype), fuse(last, torch.float32))


def as_convolutions(
    layers: list[nn.Module], grid: int, dilation: int = 1, padded: bool = False
) -> list[nn.Module]:
    """Layers that read a map of `grid` x `grid` cells, as a vector or by convolution, made ones for maps of any size.

    A fully connected layer on the map is a convolution of its size, those after it are 1x1; weights are shared.
    dilation: distance of the cells in the map that they are given. padded: zeros around the map keep its size; of a
    kernel of even size the odd row is at the right and at the bottom.
    """
    made: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.Flatten):
            continue
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer = _convolution(layer, grid, dilation)
            side = layer.kernel_size[0]
            if padded and side > 1:
                made.append(nn.ZeroPad2d(((side - 1) // 2, side // 2) * 2))
            grid -= side - 1
        made.append(layer)
    return made


def upper_layers(top: Top) -> tuple[list[nn.Module], int]:
    """A classifier's layers between its map and its last one without the first, a pooling, and the grid of that."""
    pooling, *layers = _flat(top.embed)
    return layers, _grid(pooling)


def _convolution(layer: nn.Module, grid: int, dilation: int = 1) -> nn.Conv2d:
    """A layer that reads all of a `grid` x `grid` map, or convolves it, as a convolution without padding."""
    assert isinstance(layer, nn.Linear | nn.Conv2d), "what a classifier ends in"
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        weight = weight.view(len(weight), -1, grid, grid)
    outputs, inputs, side, _ = weight.shape
    has_bias = layer.bias is not None
    made = nn.Conv2d(
        inputs, outputs, side, dilation=dilation, bias=has_bias, device="meta"
    )  # no memory, no draw
    made.weight = nn.Parameter(weight)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach())
    if hasattr(layer, TAKEN):
        setattr(made, TAKEN, getattr(layer, TAKEN))
    return made


class _MeanMaxWindow(nn.Module):
    """`MeanMax` of every window of `side` x `side` cells."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.mean, self.max = nn.AvgPool2d(side, 1), nn.MaxPool2d(side, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, 2c, h - side + 1, w - side + 1)."""
        return torch.cat([self.mean(x), self.max(x)], 1)


def _flat(layers: nn.Module) -> Iterator[nn.Module]:
    for layer in layers if isinstance(layers, nn.Sequential) else [layers]:
        yield from _flat(layer) if isinstance(layer, nn.Sequential) else [layer]


def _grid(pooling: nn.Module) -> int:
    """The side of the grid that an adaptive pooling gives."""
    assert isinstance(pooling, nn.AdaptiveAvgPool2d), "every top begins with one"
    size: Any = pooling.output_size
    return int(size if isinstance(size, int) else size[0])
