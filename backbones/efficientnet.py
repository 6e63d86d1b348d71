"""EfficientNet (Tan and Le 2019, arXiv:1905.11946) and EfficientNetV2 (Tan and Le 2021, arXiv:2104.00298)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation, StochasticDepth

from retinue.backbones.backbone import Backbone, Level, Top
from retinue.backbones.mobilenet_v2 import initialise
from retinue.backbones.mobilenet_v3 import round_channels
from retinue.backbones.weights import load

Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Stage:
    """One row of table 1 (V1) or table 4 (V2)."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    repeats: int
    fused: bool = False

    def scaled(self, width: float, depth: float) -> "Stage":
        """The row under compound scaling (V1, section 3.3)."""
        channels, repeats = round_channels(self.channels * width), math.ceil(self.repeats * depth)
        return replace(self, channels=channels, repeats=repeats)


V1 = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
V2_S = (
    Stage(1, 3, 1, 24, 2, fused=True),
    Stage(4, 3, 2, 48, 4, fused=True),
    Stage(4, 3, 2, 64, 4, fused=True),
    Stage(4, 3, 2, 128, 6),
    Stage(6, 3, 1, 160, 9),
    Stage(6, 3, 2, 256, 15),
)
V2_M = (
    Stage(1, 3, 1, 24, 3, fused=True),
    Stage(4, 3, 2, 48, 5, fused=True),
    Stage(4, 3, 2, 80, 5, fused=True),
    Stage(4, 3, 2, 160, 7),
    Stage(6, 3, 1, 176, 14),
    Stage(6, 3, 2, 304, 18),
    Stage(6, 3, 1, 512, 5),
)
V2_L = (
    Stage(1, 3, 1, 32, 4, fused=True),
    Stage(4, 3, 2, 64, 7, fused=True),
    Stage(4, 3, 2, 96, 7, fused=True),
    Stage(4, 3, 2, 192, 10),
    Stage(6, 3, 1, 224, 19),
    Stage(6, 3, 2, 384, 25),
    Stage(6, 3, 1, 640, 7),
)
NORM = nn.BatchNorm2d
NORM_LARGE = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)  # the publishers' change of recipe from B5 up
NORM_V2 = partial(nn.BatchNorm2d, eps=0.001)


class MBConv(nn.Module):
    """MobileNetV2's block with squeeze-and-excitation; fused, one full convolution replaces the first two.

    V2, figure 2. `drop` is the probability with which a picture passes by the shortcut alone in training.
    """

    def __init__(self, inputs: int, stage: Stage, stride: int, drop: float, norm: Norm) -> None:
        super().__init__()
        self.shortcut = stride == 1 and inputs == stage.channels
        layers = _fused if stage.fused else _separable
        self.block = nn.Sequential(*layers(inputs, stage, stride, norm))
        self.stochastic_depth = StochasticDepth(drop, "row")

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, ceil(h / stride), ceil(w / stride))."""
        return x + self.stochastic_depth(self.block(x)) if self.shortcut else self.block(x)


def _separable(inputs: int, stage: Stage, stride: int, norm: Norm) -> list[nn.Module]:
    hidden = round_channels(inputs * stage.expansion)
    layer = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.SiLU)
    layers: list[nn.Module] = [layer(inputs, hidden, 1)] if hidden != inputs else []
    squeezed = max(1, inputs // 4)
    return [
        *layers,
        layer(hidden, hidden, stage.kernel, stride, groups=hidden),
        SqueezeExcitation(hidden, squeezed, activation=nn.SiLU),
        Conv2dNormActivation(hidden, stage.channels, 1, norm_layer=norm, activation_layer=None),
    ]


def _fused(inputs: int, stage: Stage, stride: int, norm: Norm) -> list[nn.Module]:
    layer = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.SiLU)
    if stage.expansion == 1:
        return [layer(inputs, stage.channels, stage.kernel, stride)]
    hidden = round_channels(inputs * stage.expansion)
    return [
        layer(inputs, hidden, stage.kernel, stride),
        Conv2dNormActivation(hidden, stage.channels, 1, norm_layer=norm, activation_layer=None),
    ]


class EfficientNet(Backbone):
    """EfficientNet: `c5` follows the last 1x1 convolution, `block6` or `block7` is the last stage before it.

    EfficientDet's pyramid is c3, c4 and that block. `stochastic_depth`: the drop probability that the blocks
    rise to linearly. `head`: channels of the last convolution.
    """

    top_modules = ("classifier", "avgpool")

    def __init__(
        self,
        stages: Sequence[Stage],
        stem: int,
        head: int,
        dropout: float,
        norm: Norm,
        stochastic_depth: float = 0.2,
        in_channels: int = 3,
        classes: int = 1000,
    ) -> None:
        super().__init__(in_channels)
        layer = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.SiLU)
        features: list[nn.Module] = [layer(in_channels, stem, 3, 2)]
        inputs, done, total = stem, 0, sum(stage.repeats for stage in stages)
        for stage in stages:
            blocks = []
            for i in range(stage.repeats):
                drop = stochastic_depth * done / total
                blocks.append(MBConv(inputs, stage, stage.stride if i == 0 else 1, drop, norm))
                inputs, done = stage.channels, done + 1
            features.append(nn.Sequential(*blocks))
        features.append(layer(inputs, head, 1))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.embedding, last = head, nn.Linear(head, classes)
        self.classifier = nn.Sequential(nn.Dropout(dropout), last)
        self._declare(in_channels, stages, head)
        initialise(self)
        bound = 1 / math.sqrt(classes)
        nn.init.uniform_(last.weight, -bound, bound)

    def _declare(self, in_channels: int, stages: Sequence[Stage], head: int) -> None:
        """A level is the last stage of its stride."""
        self.levels, self.ends = {"image": Level(in_channels, 1)}, {}
        stride = 2
        for i, stage in enumerate(stages, 1):
            stride *= stage.stride
            name = f"block{len(stages)}" if stride == 32 else f"c{int(math.log2(stride))}"
            self.levels[name] = Level(stage.channels, stride)
            self.ends[name] = i
        self.levels["c5"], self.ends["c5"] = Level(head, stride), len(stages) + 1

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """The stages by stride."""
        features, starts = list(self.features), (-1, *self.ends.values())
        return {name: features[start + 1 : end + 1] for start, (name, end) in zip(starts, self.ends.items())}

    def top(self) -> Top:
        """Global average pooling, dropout, one linear layer."""
        dropout, last = self.classifier
        return Top("c5", self.embedding, nn.Sequential(self.avgpool, nn.Flatten(), dropout), last)


V1_SIZES: dict[str, tuple[float, float, float, Norm]] = {  # width, depth, dropout
    "efficientnet_b0": (1.0, 1.0, 0.2, NORM),
    "efficientnet_b1": (1.0, 1.1, 0.2, NORM),
    "efficientnet_b2": (1.1, 1.2, 0.3, NORM),
    "efficientnet_b3": (1.2, 1.4, 0.3, NORM),
    "efficientnet_b4": (1.4, 1.8, 0.4, NORM),
    "efficientnet_b5": (1.6, 2.2, 0.4, NORM_LARGE),
    "efficientnet_b6": (1.8, 2.6, 0.5, NORM_LARGE),
    "efficientnet_b7": (2.0, 3.1, 0.5, NORM_LARGE),
}
V2_SIZES: dict[str, tuple[Sequence[Stage], float]] = {  # stages, dropout
    "efficientnet_v2_s": (V2_S, 0.2),
    "efficientnet_v2_m": (V2_M, 0.3),
    "efficientnet_v2_l": (V2_L, 0.4),
}


def _build(name: str, weights: str | None, in_channels: int, classes: int, drop: float) -> EfficientNet:
    if name in V1_SIZES:
        width, depth, dropout, norm = V1_SIZES[name]
        stages: Sequence[Stage] = [stage.scaled(width, depth) for stage in V1]
        stem, head = round_channels(32 * width), 4 * stages[-1].channels
    else:
        stages, dropout = V2_SIZES[name]
        stem, head, norm = stages[0].channels, 1280, NORM_V2
    backbone = EfficientNet(stages, stem, head, dropout, norm, drop, in_channels, classes)
    options = {"in_channels": in_channels, "classes": classes, "stochastic_depth": drop}
    return load(backbone, name, weights, options)


def efficientnet_b0(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.2
) -> EfficientNet:
    """EfficientNet-B0, 5.3 million parameters, measured at 224."""
    return _build("efficientnet_b0", weights, in_channels, classes, stochastic_depth)


def efficientnet_b1(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.2
) -> EfficientNet:
    """EfficientNet-B1, 7.8 million parameters, measured at 240."""
    return _build("efficientnet_b1", weights, in_channels, classes, stochastic_depth)


def efficientnet_b2(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.2
) -> EfficientNet:
    """EfficientNet-B2, 9.1 million parameters, measured at 288."""
    return _build("efficientnet_b2", weights, in_channels, classes, stochastic_depth)


def efficientnet_b3(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.2
) -> EfficientNet:
    """EfficientNet-B3, 12 million parameters, measured at 300."""
    return _build("efficientnet_b3", weights, in_channels, classes, stochastic_depth)


def efficientnet_b4(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.2
) -> EfficientNet:
    """EfficientNet-B4, 19 million parameters, measured at 380."""
    return _build("efficientnet_b4", weights, in_channels, classes, stochastic_depth)


def efficientnet_b5(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.2
) -> EfficientNet:
    """EfficientNet-B5, 30 million parameters, measured at 456."""
    return _build("efficientnet_b5", weights, in_channels, classes, stochastic_depth)


def efficientnet_b6(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.2
) -> EfficientNet:
    """EfficientNet-B6, 43 million parameters, measured at 528."""
    return _build("efficientnet_b6", weights, in_channels, classes, stochastic_depth)


def efficientnet_b7(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.2
) -> EfficientNet:
    """EfficientNet-B7, 66 million parameters, measured at 600."""
    return _build("efficientnet_b7", weights, in_channels, classes, stochastic_depth)


def efficientnet_v2_s(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.2
) -> EfficientNet:
    """EfficientNetV2-S, 21 million parameters, measured at 384."""
    return _build("efficientnet_v2_s", weights, in_channels, classes, stochastic_depth)


def efficientnet_v2_m(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.2
) -> EfficientNet:
    """EfficientNetV2-M, 54 million parameters, measured at 480."""
    return _build("efficientnet_v2_m", weights, in_channels, classes, stochastic_depth)


def efficientnet_v2_l(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.2
) -> EfficientNet:
    """EfficientNetV2-L, 119 million parameters, measured at 480."""
    return _build("efficientnet_v2_l", weights, in_channels, classes, stochastic_depth)
