"""ShuffleNet V2 (Ma et al. 2018, arXiv:1807.11164): split, transform one half, concatenate, shuffle."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from retinue.backbones.backbone import Backbone, Level, Top
from retinue.backbones.weights import load

REPEATS = (4, 8, 4)  # table 5


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of the groups; (n, c, h, w) stays.

    >>> channel_shuffle(torch.arange(6).view(1, 6, 1, 1), 2).flatten().tolist()
    [0, 3, 1, 4, 2, 5]
    """
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


class Unit(nn.Module):
    """The unit of figure 3c (stride 1: half of the channels pass untouched) and 3d (stride 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.branch1 = nn.Sequential()
        if stride == 2:
            self.branch1.extend(_depthwise(inputs, 2) + _pointwise(inputs, half))
        self.branch2 = nn.Sequential(
            *_pointwise(inputs if stride == 2 else half, half),
            *_depthwise(half, stride),
            *_pointwise(half, half),
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, ceil(h / stride), ceil(w / stride))."""
        left, right = x.chunk(2, 1) if self.stride == 1 else (x, x)
        return channel_shuffle(torch.cat([self.branch1(left), self.branch2(right)], 1), 2)


class ShuffleNetV2(Backbone):
    """ShuffleNet V2; `stage4` is the map of stride 32 before the last 1x1 convolution.

    `channels`: of stages 2, 3, 4 and of the last convolution (table 5).
    """

    top_modules = ("fc",)
    stage2: nn.Sequential
    stage3: nn.Sequential
    stage4: nn.Sequential

    def __init__(self, channels: Sequence[int], in_channels: int = 3, classes: int = 1000) -> None:
        super().__init__(in_channels)
        *widths, last = channels
        conv = nn.Conv2d(in_channels, 24, 3, 2, 1, bias=False)
        self.conv1 = nn.Sequential(conv, nn.BatchNorm2d(24), nn.ReLU(inplace=True))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 24
        for i, (width, repeats) in enumerate(zip(widths, REPEATS, strict=True), 2):
            units = [Unit(inputs, width, 2)] + [Unit(width, width, 1) for _ in range(repeats - 1)]
            setattr(self, f"stage{i}", nn.Sequential(*units))
            inputs = width
        self.conv5 = nn.Sequential(*_pointwise(inputs, last))
        self.fc = nn.Linear(last, classes)
        self.levels = {
            "image": Level(in_channels, 1),
            "c1": Level(24, 2),
            "c2": Level(24, 4),
            "c3": Level(widths[0], 8),
            "c4": Level(widths[1], 16),
            "stage4": Level(widths[2], 32),
            "c5": Level(last, 32),
        }

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """The parts of table 5; c2 is the stem's pooling."""
        return {
            "c1": [self.conv1],
            "c2": [self.maxpool],
            "c3": [self.stage2],
            "c4": [self.stage3],
            "stage4": [self.stage4],
            "c5": [self.conv5],
        }

    def top(self) -> Top:
        """Global average pooling and one linear layer."""
        return Top("c5", self.fc.in_features, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), self.fc)


def _build(
    name: str, channels: Sequence[int], weights: str | None, in_channels: int, classes: int
) -> ShuffleNetV2:
    options = {"in_channels": in_channels, "classes": classes}
    return load(ShuffleNetV2(channels, **options), name, weights, options)


def shufflenet_v2_x0_5(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000
) -> ShuffleNetV2:
    """ShuffleNet V2 at half width, 1.4 million parameters."""
    return _build("shufflenet_v2_x0_5", (48, 96, 192, 1024), weights, in_channels, classes)


def shufflenet_v2_x1_0(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000
) -> ShuffleNetV2:
    """ShuffleNet V2, 2.3 million parameters."""
    return _build("shufflenet_v2_x1_0", (116, 232, 464, 1024), weights, in_channels, classes)


def shufflenet_v2_x1_5(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000
) -> ShuffleNetV2:
    """ShuffleNet V2 at width 1.5, 3.5 million parameters."""
    return _build("shufflenet_v2_x1_5", (176, 352, 704, 1024), weights, in_channels, classes)


def shufflenet_v2_x2_0(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000
) -> ShuffleNetV2:
    """ShuffleNet V2 at double width, 7.4 million parameters."""
    return _build("shufflenet_v2_x2_0", (244, 488, 976, 2048), weights, in_channels, classes)
