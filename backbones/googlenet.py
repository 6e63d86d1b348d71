"""GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842): inception modules and auxiliary classifiers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from retinue.backbones.backbone import Backbone, Level, Top
from retinue.backbones.weights import load


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU: the published weights have the norm that the paper had not yet."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, ceil(h / stride), ceil(w / stride))."""
        return self.bn(self.conv(x)).relu_()


class Inception(nn.Module):
    """Four branches side by side (figure 2b); the arguments are the columns of table 1, in its order.

    The third branch's kernel is 3x3 where the paper has 5x5: the published weights have it so.
    """

    def __init__(
        self, inputs: int, n1: int, n3_reduce: int, n3: int, n5_reduce: int, n5: int, pool: int
    ) -> None:
        super().__init__()
        self.branch1 = ConvNorm(inputs, n1, 1)
        self.branch2 = nn.Sequential(ConvNorm(inputs, n3_reduce, 1), ConvNorm(n3_reduce, n3, 3))
        self.branch3 = nn.Sequential(ConvNorm(inputs, n5_reduce, 1), ConvNorm(n5_reduce, n5, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNorm(inputs, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, n1 + n3 + n5 + pool, h, w)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxiliaryHead(nn.Module):
    """A classifier on an inner map, for training only (section 5): 4x4 average, 1x1 layer, two linear ones."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.conv = ConvNorm(inputs, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) -> logits (n, classes)."""
        x = self.conv(self.pool(x)).flatten(1)
        return self.fc2(self.dropout(self.fc1(x).relu()))

    def replace_last(self, classes: int) -> None:
        """Swap the last layer for a new one with `classes` outputs."""
        self.fc2 = nn.Linear(1024, classes)


class GoogLeNet(Backbone):
    """GoogLeNet; `inception4a` and `inception4d` are the maps that the auxiliary classifiers read."""

    top_modules = ("fc", "avgpool", "dropout", "aux1", "aux2")

    def __init__(self, in_channels: int = 3, classes: int = 1000, aux: bool = True) -> None:
        super().__init__(in_channels)
        self.conv1 = ConvNorm(in_channels, 64, 7, 2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvNorm(64, 64, 1)
        self.conv3 = ConvNorm(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        self._add_top(classes, aux)
        self.levels = {
            "image": Level(in_channels, 1),
            "c1": Level(64, 2),
            "c2": Level(192, 4),
            "c3": Level(480, 8),
            "inception4a": Level(512, 16),
            "inception4d": Level(528, 16),
            "c4": Level(832, 16),
            "c5": Level(1024, 32),
        }
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-2, b=2)

    def _add_top(self, classes: int, aux: bool) -> None:
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, classes)
        if aux:
            self.aux1 = AuxiliaryHead(512, classes)
            self.aux2 = AuxiliaryHead(528, classes)

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """A map ends before the next pooling."""
        return {
            "c1": [self.conv1],
            "c2": [self.maxpool1, self.conv2, self.conv3],
            "c3": [self.maxpool2, self.inception3a, self.inception3b],
            "inception4a": [self.maxpool3, self.inception4a],
            "inception4d": [self.inception4b, self.inception4c, self.inception4d],
            "c4": [self.inception4e],
            "c5": [self.maxpool4, self.inception5a, self.inception5b],
        }

    def top(self) -> Top:
        """Global average pooling, dropout, one linear layer, and the auxiliary classifiers."""
        embed = nn.Sequential(self.avgpool, nn.Flatten(), self.dropout)
        aux = {"inception4a": self.aux1, "inception4d": self.aux2} if hasattr(self, "aux1") else None
        return Top("c5", 1024, embed, self.fc, aux)


def googlenet(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, aux: bool = True
) -> GoogLeNet:
    """GoogLeNet, 6.6 million parameters and as many again in the auxiliary classifiers (`aux`)."""
    options = {"in_channels": in_channels, "classes": classes, "aux": aux}
    return load(GoogLeNet(in_channels, classes, aux), "googlenet", weights, options)
