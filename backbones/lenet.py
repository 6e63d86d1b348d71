"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning...")."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retinue.backbones.backbone import Backbone, Level, Preprocessing, Top
from retinue.backbones.weights import load

# Table I: which of the six maps of S2 each of the sixteen maps of C3 reads
CONNECTIONS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


class ScaledTanh(nn.Module):
    """1.7159 tanh(2/3 a), which is 1 at 1 and -1 at -1 (appendix A)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same, within 1.7159."""
        return 1.7159 * torch.tanh(x * (2 / 3))


class SubSampling(nn.Module):
    """Mean over 2x2, times a trained coefficient, plus a trained bias, both per channel (section II-B)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, channels, h // 2, w // 2)."""
        return F.avg_pool2d(x, 2) * self.coefficient + self.bias


class PartialConv2d(nn.Conv2d):
    """A convolution whose every output reads only the inputs that `connections` lists for it."""

    mask: Tensor

    def __init__(self, inputs: int, connections: Sequence[Sequence[int]], kernel: int) -> None:
        super().__init__(inputs, len(connections), kernel)
        mask = torch.zeros(len(connections), inputs, 1, 1)
        for output, reads in enumerate(connections):
            mask[output, list(reads)] = 1
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h - kernel + 1, w - kernel + 1)."""
        return F.conv2d(x, self.weight * self.mask, self.bias)


class LeNet5(Backbone):
    """LeNet-5: levels `c1` (the paper's S2, 14x14 for a 32x32 picture) and `c2` (S4, 5x5).

    The convolutions have no padding, so that a map is a little smaller than the picture over its stride. The
    classifier reads 5x5; the map of a larger picture is averaged down to that. A linear layer stands for the
    paper's distances to fixed bitmaps of characters. Characters are bright (1) on dark (0), as in MNIST's files;
    they become 1.175 on -0.1, as in the paper.
    """

    top_modules = ("output", "avgpool", "layer5", "layer6")

    def __init__(self, in_channels: int = 3, classes: int = 1000) -> None:
        mean, std = 0.1 / 1.275, 1 / 1.275  # 0 becomes -0.1, 1 becomes 1.175 (section II-B)
        super().__init__(in_channels, Preprocessing((mean,) * 3, (std,) * 3, resize=32, crop=32))
        self.layer1 = nn.Sequential(nn.Conv2d(in_channels, 6, 5), ScaledTanh())
        self.layer2 = nn.Sequential(SubSampling(6), ScaledTanh())
        self.layer3 = nn.Sequential(PartialConv2d(6, CONNECTIONS, 5), ScaledTanh())
        self.layer4 = nn.Sequential(SubSampling(16), ScaledTanh())
        self.avgpool = nn.AdaptiveAvgPool2d(5)
        self.layer5 = nn.Sequential(nn.Conv2d(16, 120, 5), ScaledTanh(), nn.Flatten())
        self.layer6 = nn.Sequential(nn.Linear(120, 84), ScaledTanh())
        self.output = nn.Linear(84, classes)
        self.levels = {"image": Level(in_channels, 1), "c1": Level(6, 2), "c2": Level(16, 4)}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                _initialise(module)

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """Convolution and subsampling, twice."""
        return {"c1": [self.layer1, self.layer2], "c2": [self.layer3, self.layer4]}

    def top(self) -> Top:
        """C5 and F6, then the linear layer."""
        return Top("c2", 84, nn.Sequential(self.avgpool, self.layer5, self.layer6), self.output)


def _initialise(layer: nn.Conv2d | nn.Linear) -> None:
    """Uniform within 2.4 over the number of inputs of a unit (appendix A)."""
    inputs = layer.weight[0].numel()
    with torch.no_grad():
        bound = torch.full_like(layer.weight[:, :1], 2.4 / inputs)
        if isinstance(layer, PartialConv2d):
            bound *= layer.in_channels / layer.mask.sum(1, keepdim=True)
        layer.weight.uniform_(-1, 1).mul_(bound)
        if layer.bias is not None:
            layer.bias.zero_()


def lenet5(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000) -> LeNet5:
    """LeNet-5, 60,000 trained parameters below the output layer with one input channel; made for 32x32."""
    options = {"in_channels": in_channels, "classes": classes}
    return load(LeNet5(**options), "lenet5", weights, options)
