"""What the networks of dense tasks share: the way from a pyramid of maps back to the picture's size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torchvision.ops import Conv2dNormActivation

from retinue.backbones.backbone import Backbone, Features, Level
from retinue.backbones.dilate import dilate
from retinue.datasets.targets import DataError

Upsampling = Literal["bilinear", "nearest"]


def resize(x: Tensor, size: Sequence[int], mode: Upsampling = "bilinear") -> Tensor:
    """Maps (n, c, h, w) at another size (height, width); the frames' outer edges coincide, whatever the sizes."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return interpolate(x, size=tuple(size), mode=mode, align_corners=False if mode == "bilinear" else None)


def enlarged(x: Tensor, factor: int, size: Sequence[int], mode: Upsampling = "bilinear") -> Tensor:
    """Maps (n, c, h, w) `factor` times as large, fitted to a frame of `size`.

    Whatever the size, cell i of the map covers pixels i * factor to (i + 1) * factor - 1, as it does of pooling that
    rounds up, whose inverse this is.
    """
    h, w = x.shape[-2:]
    return fitted(resize(x, (h * factor, w * factor), mode), size)


def fitted(x: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (n, c, h, w) on a frame of another size (height, width), with their cells where they are.

    What is too much goes at the right and at the bottom, where maps are rounded up. What is missing is made of the
    border's values, as much on either side: convolutions without padding lose as much at each (AlexNet).
    """
    height, width = size
    x = x[..., :height, :width]
    below, beside = height - x.shape[-2], width - x.shape[-1]
    if not below and not beside:
        return x
    sides = (beside // 2, beside - beside // 2, below // 2, below - below // 2)
    return pad(x, sides, mode="replicate")


def conv_norm(inputs: int, outputs: int, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; the size stays."""
    return Conv2dNormActivation(inputs, outputs, kernel, dilation=dilation, inplace=True)


def plain_levels(backbone: Backbone) -> list[str]:
    """The levels of a backbone's plain pyramid, finest first: one a stride, the last that it has there.

    MobileNet's inner taps (the expansion in a block) are left out; of a feature pyramid these are its p levels.
    """
    by_stride: dict[int, str] = {}
    for name, level in backbone.levels.items():
        if level.stride > 1 and name[0] in "cp" and name[1:].isdigit():
            by_stride[level.stride] = name
    return [by_stride[stride] for stride in sorted(by_stride)]


def deepest_level(backbone: Backbone) -> str:
    """The last level; where it is no more than 1x1 convolutions that widen the one before for a classifier, that one.

    MobileNets', EfficientNets' and ShuffleNets' c5 is of this kind, with 4 to 8 times the channels of what it reads.
    """
    names = list(backbone.levels)
    last = [
        m for part in backbone.stages().get(names[-1], ()) for m in part.modules() if isinstance(m, nn.Conv2d)
    ]
    only_wider = bool(last) and all(tuple(layer.kernel_size) == (1, 1) for layer in last)
    return names[-2] if only_wider and len(names) > 2 else names[-1]


def whole_cells(backbone: Backbone, stride: int) -> None:
    """Make canvases multiples of `stride`, the coarsest map's: no cell reaches beyond them.

    On others a map has a part of a cell more than the canvas, and enlarged to the size of a finer one, or of the canvas
    itself, it would be squeezed: at the right and at the bottom by up to a cell.
    """
    preprocessing = backbone.preprocessing
    backbone.prepare_for(replace(preprocessing, divisor=math.lcm(preprocessing.divisor, stride)))


def dilated(backbone: Backbone, output_stride: int) -> Backbone:
    """The backbone, for `Task.trunk_for`, with no map coarser than `output_stride`: strides have become dilations.

    Canvases are of whole cells of that stride.

    Raises DataError where that cannot be, or where the maps are finer than that because they were dilated before.
    """
    if output_stride < 1:
        raise DataError(f"output_stride={output_stride}: at least 1, such as 8 or 16")
    coarsest = max(level.stride for level in backbone.levels.values())
    before = backbone.options.get("max_stride", coarsest)
    if before < output_stride and _has_dilations(backbone):
        raise DataError(
            f"output_stride={output_stride}: this model's backbone is dilated to {before}; keep that"
        )
    try:
        dilate(backbone, output_stride)
    except ValueError as error:
        raise DataError(
            f"output_stride={output_stride}: {error}; say output_stride={coarsest}, or take another backbone "
            "(resnet50, mobilenet_v2)"
        ) from error
    whole_cells(backbone, output_stride)
    return backbone


def _has_dilations(backbone: Backbone) -> bool:
    return any(isinstance(m, nn.Conv2d) and max(m.dilation) > 1 for m in backbone.modules())


class Decoder(nn.Module):
    """From the coarsest map back to the finest (Ronneberger et al. 2015, arXiv:1505.04597, the right half of figure 1).

    At each step the map is enlarged to the exact size of the next finer level, put beside it, and mixed by `depth`
    3x3 convolutions with batch norm and ReLU. Enlarging by interpolation, not by a strided deconvolution, leaves no
    checkerboard (Odena et al. 2016). The coarsest map first becomes as narrow as the first step's output.

    levels: name -> `Level`, finest first. widths: channels after each step, from the coarsest on; their number is that
    of the levels less one. `channels` is the output's width, `stride` its stride.
    """

    def __init__(
        self,
        levels: Mapping[str, Level],
        widths: Sequence[int],
        upsampling: Upsampling = "bilinear",
        depth: int = 2,
    ) -> None:
        super().__init__()
        names = list(levels)
        if len(widths) != len(names) - 1:
            raise ValueError(
                f"{len(names)} levels have {len(names) - 1} steps, not the {len(widths)} widths given"
            )
        self.upsampling: Upsampling = upsampling
        self.coarsest, *self.skips = reversed(names)
        self.narrow = conv_norm(levels[self.coarsest].channels, widths[0], 1)
        self.steps = nn.ModuleList()
        before = widths[0]
        for name, width in zip(self.skips, widths):
            convolutions = [conv_norm(before + levels[name].channels, width)]
            convolutions += [conv_norm(width, width) for _ in range(depth - 1)]
            self.steps.append(nn.Sequential(*convolutions))
            before = width
        self.channels, self.stride = before, levels[names[0]].stride

    def forward(self, features: Features) -> Tensor:
        """A pyramid's maps -> (n, channels, h, w) at the size of the finest level."""
        x = self.narrow(features[self.coarsest])
        for name, step in zip(self.skips, self.steps):
            skip = features[name]
            x = step(torch.cat([resize(x, skip.shape[-2:], self.upsampling), skip], 1))
        return x


class PyramidPooling(nn.Module):
    """The whole picture's context at every place (Zhao et al. 2017, arXiv:1612.01105, section 3.2).

    The map is averaged over grids of `bins` x `bins` cells, each narrowed by a 1x1 convolution, enlarged again and put
    beside the map: (n, inputs, h, w) -> (n, inputs + len(bins) * width, h, w). The convolutions have a bias and no
    batch norm where the grid is a single cell, whose statistics a batch of one picture does not have.
    """

    def __init__(self, inputs: int, width: int, bins: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.narrow = nn.ModuleList(
            conv_norm(inputs, width, 1)
            if size > 1
            else nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU(True))
            for size in bins
        )
        self.channels = inputs + len(self.bins) * width

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, channels, h, w)."""
        pooled = [
            resize(narrow(nn.functional.adaptive_avg_pool2d(x, size)), x.shape[-2:])
            for size, narrow in zip(self.bins, self.narrow)
        ]
        return torch.cat([x, *pooled], 1)
