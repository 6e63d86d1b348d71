"""Full-resolution residual network A (Pohlen et al. 2017, arXiv:1611.08323): one stream keeps every pixel, one pools.

It has no pretrained trunk: it reads the picture itself (`backbone=pixels`) and learns from scratch. What table 1 leaves
open (norms and ReLUs of the streams, how they are enlarged, biases) is as in the authors' own code.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from retinue.backbones.backbone import Backbone, Features
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.dense import conv_norm, enlarged
from retinue.tasks.segmentation.segmenter import Segmenter, classifier

DOWN = ((3, 2, 2), (4, 4, 4), (2, 8, 8), (2, 8, 16))
UP = ((2, 4, 8), (2, 4, 4), (2, 2, 2))
"""Table 1: number of units, channels in multiples of `width` and stride, after each pooling and each unpooling."""


class FRRN(Segmenter):
    """A class at every pixel, by a stream that keeps the full resolution and one that pools; from scratch.

    width: channels at full resolution, of which all others of the pooling stream are multiples; lanes: those of the
    residual stream; the paper has 48 and 32. hard: as in `Segmenter`; the paper bootstraps its cross-entropy (section
    4.2), with an eighth of the pixels for FRRN A in the authors' code. The other settings are `Segmenter`'s.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        width: int = 48,
        lanes: int = 32,
        hard: float = 0.125,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, classes, hard=hard, **settings)
        self.settings |= {"width": width, "lanes": lanes}
        if min(width, lanes) < 1:
            raise DataError(f"width={width}, lanes={lanes}: at least one channel each")
        self.levels, self.width, self.inner_stride = ("image",), width, DOWN[-1][-1]
        self.stem = nn.Sequential(
            conv_norm(backbone.levels["image"].channels, width, 5),
            *(ResidualUnit(width, width) for _ in range(3)),
        )
        self.split = nn.Sequential(nn.Conv2d(width, lanes, 1, bias=False), nn.BatchNorm2d(lanes))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        inputs = width
        for table, stages in ((DOWN, self.down), (UP, self.up)):
            for units, multiple, stride in table:
                stages.append(Stage(units, inputs, multiple * width, lanes, stride))
                inputs = multiple * width
        self.join = nn.Sequential(
            ResidualUnit(inputs + lanes, width), *(ResidualUnit(width, width) for _ in range(2))
        )
        self.classifier = classifier(width, len(classes))

    @classmethod
    def recipe(cls, pretrained: bool) -> dict[str, Any]:
        """Without a trunk; few pictures a batch, which are large at full resolution."""
        return {"backbone": "pixels", "batch": 4, "epochs": 50}

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone; DataError for one that has anything to learn, of which nothing would be read."""
        if next(backbone.parameters(), None) is not None:
            raise DataError(
                f"frrn reads the picture itself, and nothing of {backbone.architecture}: leave out backbone, weights "
                "and model, or say backbone=pixels"
            )
        return backbone

    def forget_classes(self) -> None:
        """A new last layer."""
        self.classifier = classifier(self.width, len(self.classes))

    def logits(self, features: Features) -> list[Tensor]:
        """Logits of every pixel."""
        y = self.stem(features["image"])
        z = self.split(y)
        for stage in self.down:
            y, z = stage(max_pool2d(y, 2, ceil_mode=True), z)
        for (_, _, stride), stage in zip(UP, self.up):
            y, z = stage(enlarged(y, 2, pooled_size(z, stride)), z)
        y = enlarged(y, 2, z.shape[-2:])
        return [self.classifier(self.join(torch.cat([y, z], 1)))]


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions, added to what they read (figure 2 a): (n, inputs, h, w) -> (n, outputs, h, w)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = conv_norm(inputs, outputs)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)."""
        return self.second(self.first(x)) + self.shortcut(x)


class FullResolutionResidualUnit(nn.Module):
    """Both streams, seen at the pooling stream's stride, make its next value and a residual of the other (figure 3).

    y: (n, inputs, ceil(h / stride), ceil(w / stride)), the pooling stream. z: (n, lanes, h, w), the residual stream.
    """

    def __init__(self, inputs: int, outputs: int, lanes: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.mix = nn.Sequential(conv_norm(inputs + lanes, outputs), conv_norm(outputs, outputs))
        self.residual = nn.Conv2d(outputs, lanes, 1)

    def forward(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The next y, with `outputs` channels, and z."""
        seen = max_pool2d(z, self.stride, ceil_mode=True)
        y = self.mix(torch.cat([y, seen], 1))
        return y, z + enlarged(self.residual(y), self.stride, z.shape[-2:], "nearest")


class Stage(nn.Module):
    """The units between two changes of the pooling stream's size, one after the other."""

    def __init__(self, units: int, inputs: int, outputs: int, lanes: int, stride: int) -> None:
        super().__init__()
        channels = [inputs] + [outputs] * units
        self.units = nn.ModuleList(
            FullResolutionResidualUnit(before, after, lanes, stride) for before, after in pairwise(channels)
        )

    def forward(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams, before and after."""
        for unit in self.units:
            y, z = unit(y, z)
        return y, z


def pooled_size(z: Tensor, stride: int) -> tuple[int, int]:
    """Height and width of maps (n, c, h, w) pooled by `stride`, the last incomplete cell included."""
    return -(-z.shape[2] // stride), -(-z.shape[3] // stride)
