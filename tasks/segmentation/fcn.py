"""Fully convolutional networks, FCN-32s, -16s and -8s (Long, Shelhamer & Darrell 2015, arXiv:1411.4038).

The classifier is made convolutional (section 3.1), scores its coarsest map, and the scores are upsampled to the picture
(section 3.3); FCN-16s and FCN-8s first add the scores of finer maps, one after the other (section 4.2, figure 3). Train
them in stages, each from the last one's weights:

    retinue train fcn data=DIR backbone=vgg16 weights=imagenet stride=32
    retinue train fcn data=DIR model=runs/fcn/vgg16 stride=16

Frames. The paper pads pictures by 100 pixels, so that fc6 without padding has something to read at their borders, and
cuts the rest off after upsampling. Here fc6 pads its map instead; canvases are multiples of 32, so that the maps lie
upon each other cell by cell; and where a network's maps are larger or smaller than that nonetheless, they are cut or
extended by whole cells, never stretched. A deconvolution that begins bilinear is the interpolation of `resize` inside
the map. At its borders, where it would fade out, it reads the border's own values once more, so that both agree there
too: the last one, which the paper fixes, is the interpolation.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retinue.backbones.backbone import Backbone, Features, Top
from retinue.backbones.fused import fuse
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.dense import enlarged, fitted, plain_levels, whole_cells
from retinue.tasks.segmentation.segmenter import Segmenter
from retinue.tasks.sliding import as_convolutions, upper_layers

COARSEST = 32
STRIDES = (32, 16, 8)


class FCN(Segmenter):
    """A class at every pixel, by scores of maps of stride 32, 16 and 8.

    stride: of the finest map whose scores are added: 32, 16 or 8 for FCN-32s, -16s or -8s. The other settings are
    `Segmenter`'s. What the backbone's classifier has between its map and its last layer (VGG's fc6 and fc7) is kept,
    with its weights, as convolutions. New score layers are zero: an FCN-16s that goes on from an FCN-32s begins with
    its answer.
    """

    def __init__(self, backbone: Backbone, classes: ClassMap, *, stride: int = 8, **settings: Any) -> None:
        top = backbone.chop()
        whole_cells(backbone, COARSEST)
        super().__init__(backbone, classes, **settings)
        self.settings |= {"stride": stride}
        self.stride = stride
        self.levels = _levels(backbone, stride)
        coarsest, *finer = reversed(self.levels)
        self.top, width = _convolutional_top(top, backbone, coarsest)
        self.widths = (width, *(backbone.levels[name].channels for name in finer))
        self.forget_classes()

    def forget_classes(self) -> None:
        """New score layers, zero, and deconvolutions, bilinear; the coarsest first."""
        classes = len(self.classes)
        self.scores = nn.ModuleList(_zero(nn.Conv2d(width, classes, 1)) for width in self.widths)
        self.upsampling = nn.ModuleList(Deconvolution(classes, 2) for _ in self.widths[1:])

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`; scores are computed in float32."""
        self.top = fuse(self.top, dtype)
        self.scores = fuse(self.scores, torch.float32)  # type: ignore[assignment]

    def logits(self, features: Features) -> list[Tensor]:
        """Scores at `stride`."""
        coarsest, *finer = reversed(self.levels)
        score, *skips = self.scores
        x = score(self.top(features[coarsest]))
        for level, skip, upsample in zip(finer, skips, self.upsampling):
            added = skip(features[level])
            x = fitted(upsample(x), added.shape[-2:]) + added
        return [x]

    def _enlarged(self, logits: Tensor, canvas: tuple[int, int]) -> Tensor:
        return enlarged(logits, self.stride, canvas)


class Deconvolution(nn.ConvTranspose2d):
    """Learnt upsampling by an even factor: (n, channels, h, w) -> (n, channels, factor * h, factor * w).

    The kernel has twice the factor's side and begins as bilinear interpolation of each channel (section 3.3).
    """

    def __init__(self, channels: int, factor: int) -> None:
        # One cell of border on each side, and what it becomes taken off again.
        padding = factor + factor // 2
        super().__init__(channels, channels, 2 * factor, factor, padding, bias=False)
        with torch.no_grad():
            self.weight.copy_(torch.eye(channels)[:, :, None, None] * bilinear_kernel(factor))

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As the class says."""
        return super().forward(F.pad(x, (1, 1, 1, 1), mode="replicate"), output_size)


def bilinear_kernel(factor: int) -> Tensor:
    """(2 factor, 2 factor) weights with which a cell takes part in the pixels around it, linear in either direction."""
    side = 1 - (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    return side[:, None] * side


def _levels(backbone: Backbone, stride: int) -> tuple[str, ...]:
    """The levels that are read, finest first."""
    if stride not in STRIDES:
        raise DataError(f"stride={stride}: say {', '.join(map(str, STRIDES))} for FCN-32s, -16s or -8s")
    found = {backbone.levels[name].stride: name for name in plain_levels(backbone)}
    wanted = [s for s in reversed(STRIDES) if s >= stride]
    if missing := [s for s in wanted if s not in found]:
        raise DataError(
            f"fcn with stride={stride} reads maps of stride {', '.join(map(str, wanted))}; {backbone.architecture} has "
            f"none of stride {', '.join(map(str, missing))}: take another backbone, such as vgg16 or resnet50"
        )
    return tuple(found[s] for s in wanted)


def _convolutional_top(top: Top | None, backbone: Backbone, level: str) -> tuple[nn.Module, int]:
    """The classifier's layers before its last one, as convolutions that keep the size, and the channels they give."""
    if top is None or top.level != level:
        return nn.Sequential(), backbone.levels[level].channels
    layers, grid = upper_layers(top)
    return nn.Sequential(*as_convolutions(layers, grid, padded=True)), top.embedding


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
