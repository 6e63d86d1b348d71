"""Darknet-53 (Redmon and Farhadi 2018, arXiv:1804.02767, table 1): residual blocks, no pooling, leaky rectifiers."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from retinue.backbones.backbone import Backbone, Level, Preprocessing, Top
from retinue.backbones.darknet_files import file_order, is_darknet_file, read_values, take
from retinue.backbones.mobilenet_v2 import initialise
from retinue.backbones.weights import Tensors, load, read_tensors

STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
"""Table 1: channels and residual blocks of each stage, which begins with a convolution of stride 2."""
TRUNK = ("conv", "features")
EPSILON = 1e-6
"""Of batch norms, as in darknet, which adds it to the deviation; inside the root it is what OpenCV reads."""
PREPROCESSING = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, resize=256, crop=256)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    """darknet's layer: convolution, batch norm, leaky rectifier of slope 0.1."""
    norm, activation = partial(nn.BatchNorm2d, eps=EPSILON), partial(nn.LeakyReLU, 0.1)
    return Conv2dNormActivation(inputs, outputs, kernel, stride, norm_layer=norm, activation_layer=activation)


class Residual(nn.Module):
    """Halve the channels by 1x1, restore them by 3x3, add what was there."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.halve = convolution(channels, channels // 2, 1)
        self.restore = convolution(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) stays."""
        return x + self.restore(self.halve(x))


class Darknet53(Backbone):
    """Darknet-53; pictures go in as they are, in [0, 1]."""

    top_modules = ("fc",)

    def __init__(self, in_channels: int = 3, classes: int = 1000) -> None:
        super().__init__(in_channels, PREPROCESSING)
        self.conv = convolution(in_channels, 32, 3)
        self.features = nn.ModuleList()
        inputs = 32
        for channels, blocks in STAGES:
            down = convolution(inputs, channels, 3, 2)
            self.features.append(nn.Sequential(down, *(Residual(channels) for _ in range(blocks))))
            inputs = channels
        self.fc = nn.Linear(inputs, classes)
        self.levels = {"image": Level(in_channels, 1)}
        self.levels |= {f"c{i}": Level(channels, 2**i) for i, (channels, _) in enumerate(STAGES, 1)}
        initialise(self)

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """The stages of table 1; the first convolution is part of c1."""
        first, *others = self.features
        return {"c1": [self.conv, first], **{f"c{i}": [stage] for i, stage in enumerate(others, 2)}}

    def top(self) -> Top:
        """Global average pooling and one linear layer."""
        return Top("c5", self.fc.in_features, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), self.fc)


def read_trunk(path: str | Path) -> Tensors:
    """The tensors of a torch or safetensors file, or of one of darknet's: a whole classifier's or the trunk's alone.

    Such are darknet53.weights and darknet53.conv.74 (https://pjreddie.com/darknet/imagenet). Raises WeightsError.
    """
    if not Path(path).is_file() or not is_darknet_file(path):
        return read_tensors(path)
    _, values = read_values(path)
    with torch.device("meta"):
        network = Darknet53()
    trunk = file_order(network, TRUNK)
    own = network.state_dict()
    further = len(values) - sum(own[name].numel() for name in trunk)
    classes, rest = divmod(further, network.fc.in_features + 1)
    if classes <= 0 or rest:
        return take(values, own, trunk, str(path))
    with torch.device("meta"):
        own = Darknet53(classes=classes).state_dict()
    return take(values, own, [*trunk, "fc.bias", "fc.weight"], str(path))


def darknet53(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000) -> Darknet53:
    """Darknet-53, 41.6 million parameters. weights: also a file or URL of darknet's own, as `read_trunk` has it."""
    options = {"in_channels": in_channels, "classes": classes}
    return load(Darknet53(**options), "darknet53", weights, options, read_trunk)
