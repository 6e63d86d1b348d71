"""SqueezeNet (Iandola et al. 2016, arXiv:1602.07360): AlexNet's accuracy from 1.2 million parameters."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from retinue.backbones.backbone import Backbone, Features, Level, Top
from retinue.backbones.weights import load


class Fire(nn.Module):
    """Squeeze by 1x1, then expand by 1x1 and 3x3 side by side (section 3.2)."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, 2 * expand, h, w)."""
        x = self.relu(self.squeeze(x))
        return self.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeTop(Top):
    """Classifies every position of the map by a 1x1 convolution and averages the answers.

    `embed` is the average of the map (n, 512), for those who fit on it; `forward` does not go through it,
    because a ReLU stands between the convolution `last` and the average.
    """

    def __init__(self, level: str, dropout: nn.Module, last: nn.Conv2d) -> None:
        embed = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(level, last.in_channels, embed, last)
        self.dropout = dropout

    def forward(self, features: Features) -> Tensor:
        """Logits (n, classes), none below 0."""
        return self.last(self.dropout(features[self.level])).relu().mean((2, 3))

    def replace_last(self, classes: int) -> None:
        """Swap the last convolution for a new one with `classes` outputs."""
        self.last = _classifying(self.embedding, classes)


class SqueezeNet(Backbone):
    """SqueezeNet; its deepest map has stride 16, and the classifier reads that one (figure 2)."""

    top_modules = ("classifier",)

    def __init__(
        self,
        features: Sequence[nn.Module],
        ends: Sequence[int],
        levels: Mapping[str, Level],
        in_channels: int = 3,
        classes: int = 1000,
    ) -> None:
        super().__init__(in_channels)
        self.features = nn.Sequential(*features)
        self.ends = dict(zip(levels, ends, strict=True))
        self.levels = {"image": Level(in_channels, 1), **levels}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.classifier = nn.Sequential(nn.Dropout(0.5), _classifying(512, classes))

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """A map ends before the next pooling."""
        modules, starts = list(self.features), (0, *self.ends.values())
        return {name: modules[start:end] for start, (name, end) in zip(starts, self.ends.items())}

    def top(self) -> Top:
        """Dropout, 1x1 convolution, ReLU, average."""
        return SqueezeTop("c4", *self.classifier)


def _classifying(inputs: int, classes: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, classes, 1)
    nn.init.normal_(conv.weight, 0, 0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def squeezenet1_0(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000) -> SqueezeNet:
    """SqueezeNet as in the paper's table 1."""
    features = [
        *(nn.Conv2d(in_channels, 96, 7, 2), nn.ReLU(inplace=True)),
        *(_pool(), Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128)),
        *(_pool(), Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256)),
        *(_pool(), Fire(512, 64, 256)),
    ]
    levels = {"c1": Level(96, 2), "c2": Level(256, 4), "c3": Level(512, 8), "c4": Level(512, 16)}
    backbone = SqueezeNet(features, (2, 6, 11, 13), levels, in_channels, classes)
    return load(backbone, "squeezenet1_0", weights, {"in_channels": in_channels, "classes": classes})


def squeezenet1_1(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000) -> SqueezeNet:
    """The authors' second version: pooling earlier, 2.4 times less work, no less accurate."""
    features = [
        *(nn.Conv2d(in_channels, 64, 3, 2), nn.ReLU(inplace=True)),
        *(_pool(), Fire(64, 16, 64), Fire(128, 16, 64)),
        *(_pool(), Fire(128, 32, 128), Fire(256, 32, 128)),
        *(_pool(), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
    ]
    levels = {"c1": Level(64, 2), "c2": Level(128, 4), "c3": Level(256, 8), "c4": Level(512, 16)}
    backbone = SqueezeNet(features, (2, 5, 8, 13), levels, in_channels, classes)
    return load(backbone, "squeezenet1_1", weights, {"in_channels": in_channels, "classes": classes})
