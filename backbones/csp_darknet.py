"""CSPDarknet as YOLOX has it (Ge et al. 2021, arXiv:2107.08430): Darknet's stages as cross-stage partial blocks.

Cross-stage partial: half of a stage's channels pass by its bottlenecks (Wang et al. 2019, arXiv:1911.11929).
Modules have the names of the published checkpoints.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retinue.backbones.backbone import Backbone, Level, Preprocessing
from retinue.backbones.weights import load

NORM_EPS, NORM_MOMENTUM = 1e-3, 0.03
PREPROCESSING = Preprocessing(
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    order="BGR",
    white=255.0,
    antialias=False,
    pad=(114 / 255,) * 3,
    divisor=32,
)
"""Of the published weights since release 0.1.1rc0: pictures as OpenCV reads them, not normalised."""
SIZES = {  # the paper's tables 2 and 3: depth, width, depth-wise
    "nano": (0.33, 0.25, True),
    "tiny": (0.33, 0.375, False),
    "s": (0.33, 0.5, False),
    "m": (0.67, 0.75, False),
    "l": (1.0, 1.0, False),
    "x": (1.33, 1.25, False),
}


class ConvBlock(nn.Sequential):
    """Convolution, batch norm, SiLU: (n, inputs, h, w) -> (n, outputs, ceil(h / stride), ceil(w / stride))."""

    conv: nn.Conv2d

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        norm = nn.BatchNorm2d(outputs, NORM_EPS, NORM_MOMENTUM)
        super().__init__(OrderedDict(conv=convolution, bn=norm, act=nn.SiLU(inplace=True)))


def conv3x3(inputs: int, outputs: int, stride: int = 1, depthwise: bool = False) -> nn.Sequential:
    """A 3x3 block; `depthwise`, as in the nano network: channel by channel, then a 1x1 block."""
    if not depthwise:
        return ConvBlock(inputs, outputs, 3, stride)
    each = ConvBlock(inputs, inputs, 3, stride, groups=inputs)
    return nn.Sequential(OrderedDict(dconv=each, pconv=ConvBlock(inputs, outputs, 1)))


class Bottleneck(nn.Module):
    """1x1 and 3x3 at the same width, perhaps beside a shortcut."""

    def __init__(self, channels: int, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = ConvBlock(channels, channels, 1)
        self.conv2 = conv3x3(channels, channels, 1, depthwise)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> the same shape."""
        y = self.conv2(self.conv1(x))
        return y + x if self.shortcut else y


class CSPLayer(nn.Module):
    """Two halves of a map, one through `repeats` bottlenecks, joined by a 1x1 block."""

    def __init__(self, inputs: int, outputs: int, repeats: int, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1, self.conv2 = ConvBlock(inputs, half, 1), ConvBlock(inputs, half, 1)
        self.conv3 = ConvBlock(2 * half, outputs, 1)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut, depthwise) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)."""
        first, second = self.conv1(x), self.conv2(x)
        return self.conv3(torch.cat([self.m(first), second], 1))


class SPPBottleneck(nn.Module):
    """Maxima over 5, 9 and 13 cells beside the map itself (spatial pyramid pooling, He et al. 2014)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvBlock(inputs, inputs // 2, 1), ConvBlock(inputs // 2 * 4, outputs, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w). The maximum over 9 cells is that over 5 of those over 5."""
        maps = [self.conv1(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.conv2(torch.cat(maps, 1))


class Focus(nn.Module):
    """Every 2x2 pixels become one of four times the channels, then a 3x3 block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBlock(4 * inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, ceil(h / 2), ceil(w / 2)); odd sides gain a line of zeros."""
        x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
        top, bottom = x[:, :, ::2], x[:, :, 1::2]
        corners = [top[..., ::2], bottom[..., ::2], top[..., 1::2], bottom[..., 1::2]]
        return self.conv(torch.cat(corners, 1))


class CSPDarknet(Backbone):
    """CSPDarknet; it comes from a detector, and has no classifier.

    depth: multiple of 3, 9, 9 and 3 bottlenecks a stage. width: multiple of 64 to 1024 channels. depthwise: 3x3
    convolutions channel by channel.
    """

    def __init__(self, depth: float, width: float, depthwise: bool = False, in_channels: int = 3) -> None:
        super().__init__(in_channels, PREPROCESSING)
        self.depth, self.width, self.depthwise = depth, width, depthwise
        base, few = int(width * 64), bottlenecks(depth)
        self.stem = Focus(in_channels, base)
        self.dark2 = self._stage(base, 2 * base, few)
        self.dark3 = self._stage(2 * base, 4 * base, 3 * few)
        self.dark4 = self._stage(4 * base, 8 * base, 3 * few)
        self.dark5 = nn.Sequential(
            conv3x3(8 * base, 16 * base, 2, depthwise),
            SPPBottleneck(16 * base, 16 * base),
            CSPLayer(16 * base, 16 * base, few, False, depthwise),
        )
        self.levels = {"image": Level(in_channels, 1)}
        self.levels |= {f"c{i}": Level(base * 2 ** (i - 1), 2**i) for i in range(1, 6)}

    def _stage(self, inputs: int, outputs: int, repeats: int) -> nn.Sequential:
        strided = conv3x3(inputs, outputs, 2, self.depthwise)
        return nn.Sequential(strided, CSPLayer(outputs, outputs, repeats, True, self.depthwise))

    def absorb_normalisation(self) -> bool:
        """Order and scale of the channels go into the stem, unless there is a mean, which padding would not have."""
        if self.preprocessing.mean != (0.0,) * self.in_channels:
            return False
        conv = self.stem.conv.conv
        weight = conv.weight.detach().unflatten(1, (4, self.in_channels))
        if self.preprocessing.order == "BGR":
            weight = weight.flip(2)
        scale = self.preprocessing.white / self.std
        conv.weight = nn.Parameter((weight * scale).flatten(1, 2))
        return True

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """The stem, then a stage a level."""
        return {
            "c1": [self.stem],
            "c2": [self.dark2],
            "c3": [self.dark3],
            "c4": [self.dark4],
            "c5": [self.dark5],
        }


def bottlenecks(depth: float) -> int:
    """How many bottlenecks the shortest stage has, and each join of the neck: 3 times `depth`, at least 1."""
    return max(1, round(3 * depth))


def csp_darknet_nano(weights: str | None = None, *, in_channels: int = 3) -> CSPDarknet:
    """YOLOX-nano's trunk, depth-wise."""
    return _build("nano", weights, in_channels)


def csp_darknet_tiny(weights: str | None = None, *, in_channels: int = 3) -> CSPDarknet:
    """YOLOX-tiny's trunk."""
    return _build("tiny", weights, in_channels)


def csp_darknet_s(weights: str | None = None, *, in_channels: int = 3) -> CSPDarknet:
    """YOLOX-s's trunk."""
    return _build("s", weights, in_channels)


def csp_darknet_m(weights: str | None = None, *, in_channels: int = 3) -> CSPDarknet:
    """YOLOX-m's trunk."""
    return _build("m", weights, in_channels)


def csp_darknet_l(weights: str | None = None, *, in_channels: int = 3) -> CSPDarknet:
    """YOLOX-l's trunk."""
    return _build("l", weights, in_channels)


def csp_darknet_x(weights: str | None = None, *, in_channels: int = 3) -> CSPDarknet:
    """YOLOX-x's trunk."""
    return _build("x", weights, in_channels)


def _build(size: str, weights: str | None, in_channels: int) -> CSPDarknet:
    backbone = CSPDarknet(*SIZES[size], in_channels=in_channels)
    return load(backbone, f"csp_darknet_{size}", weights, {"in_channels": in_channels})
