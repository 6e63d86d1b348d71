"""Deep Residual Learning for Image Recognition (He et al. 2015, arXiv:1512.03385), and its wider kin.

ResNeXt: Xie et al. 2016, arXiv:1611.05431. Wide ResNet: Zagoruyko and Komodakis 2016, arXiv:1605.07146.
The stride of a bottleneck stands at its 3x3 convolution ("v1.5"), as in torchvision, whose weights load.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from retinue.backbones.backbone import Backbone, Level, Top
from retinue.backbones.weights import load


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size at stride 1, without bias: batch norm follows."""
    return nn.Conv2d(
        inputs, outputs, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False
    )


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def projection(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """The shortcut where a block changes the shape (section 4.1, option B); None where it is the identity."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (figure 5, left)."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        if (groups, base_width, dilation) != (1, 64, 1):
            raise ValueError("a basic block has no groups, width or dilation: use a ResNet of bottlenecks")
        self.conv1 = conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = projection(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, planes, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1x1 to narrow, 3x3, 1x1 to widen, around a shortcut (figure 5, right).

    `groups` and `base_width` make it a ResNeXt block (groups > 1) or a wide one (base_width > 64).
    """

    expansion = 4

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        width = planes * base_width // 64 * groups
        outputs = planes * self.expansion
        self.conv1 = conv1x1(inputs, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride, groups, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(inputs, outputs, stride)

    def residual(self, x: Tensor) -> Tensor:
        """What the block adds to its shortcut."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, 4 planes, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.residual(x) + shortcut)


Block = type[BasicBlock] | type[Bottleneck]


class ResNet(Backbone):
    """Levels `image` and `c1`..`c5`: the stem (64 channels, stride 2), then the four stages of blocks.

    `replace_stride_with_dilation`: for c3, c4, c5, keep the stride of the stage before and dilate instead
    (Chen et al. 2017, arXiv:1706.05587, section 3). `zero_init_residual`: every block begins as the identity
    (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
    """

    top_modules = ("avgpool", "fc")
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        block: Block,
        blocks: Sequence[int],
        groups: int = 1,
        base_width: int = 64,
        *,
        in_channels: int = 3,
        classes: int = 1000,
        replace_stride_with_dilation: Sequence[bool] = (False, False, False),
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__(in_channels)
        if len(replace_stride_with_dilation) != 3:
            raise ValueError(
                f"replace_stride_with_dilation={replace_stride_with_dilation!r}: three bools are needed"
            )
        self.levels = {"image": Level(in_channels, 1), "c1": Level(64, 2)}
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs, stride, dilation = 64, 4, 1
        for i, dilate in enumerate((False, *replace_stride_with_dilation)):
            step, before = (1, dilation) if i == 0 or dilate else (2, dilation)
            dilation *= 2 if dilate else 1
            stride *= step
            stage = nn.Sequential()
            for j in range(blocks[i]):
                first = j == 0  # strides, and still sees the map of the stage before
                shape = (step, before) if first else (1, dilation)
                stage.append(block(inputs, 64 * 2**i, *shape, groups, base_width))
                inputs = 64 * 2**i * block.expansion
            setattr(self, f"layer{i + 1}", stage)
            self.levels[f"c{i + 2}"] = Level(inputs, stride)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)
        initialise(self, zero_init_residual)

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """The stem, then the four stages; c2 begins with the stem's pooling."""
        return {
            "c1": (self.conv1, self.bn1, self.relu),
            "c2": (self.maxpool, self.layer1),
            "c3": (self.layer2,),
            "c4": (self.layer3,),
            "c5": (self.layer4,),
        }

    def top(self) -> Top:
        """Global average pooling and the classifier."""
        return Top("c5", self.fc.in_features, nn.Sequential(self.avgpool, nn.Flatten()), self.fc)


def initialise(network: nn.Module, zero_init_residual: bool = False) -> None:
    """He et al. 2015, arXiv:1502.01852, for the convolutions; `zero_init_residual` as in `ResNet`."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if zero_init_residual:
        for module in network.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)


def _resnet(
    architecture: str,
    weights: str | None,
    block: Block,
    blocks: Sequence[int],
    groups: int = 1,
    base_width: int = 64,
    **options: Any,
) -> ResNet:
    return load(ResNet(block, blocks, groups, base_width, **options), architecture, weights, options)


def resnet18(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any
) -> ResNet:
    """ResNet-18; `options` as in `ResNet`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _resnet("resnet18", weights, BasicBlock, (2, 2, 2, 2), **options)


def resnet34(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any
) -> ResNet:
    """ResNet-34; `options` as in `ResNet`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _resnet("resnet34", weights, BasicBlock, (3, 4, 6, 3), **options)


def resnet50(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any
) -> ResNet:
    """ResNet-50; `options` as in `ResNet`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _resnet("resnet50", weights, Bottleneck, (3, 4, 6, 3), **options)


def resnet101(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any
) -> ResNet:
    """ResNet-101; `options` as in `ResNet`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _resnet("resnet101", weights, Bottleneck, (3, 4, 23, 3), **options)


def resnet152(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any
) -> ResNet:
    """ResNet-152; `options` as in `ResNet`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _resnet("resnet152", weights, Bottleneck, (3, 8, 36, 3), **options)


def resnext50_32x4d(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any
) -> ResNet:
    """ResNeXt-50, 32 groups of 4 channels; `options` as in `ResNet`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _resnet("resnext50_32x4d", weights, Bottleneck, (3, 4, 6, 3), 32, 4, **options)


def resnext101_32x8d(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any
) -> ResNet:
    """ResNeXt-101, 32 groups of 8 channels; `options` as in `ResNet`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _resnet("resnext101_32x8d", weights, Bottleneck, (3, 4, 23, 3), 32, 8, **options)


def resnext101_64x4d(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any
) -> ResNet:
    """ResNeXt-101, 64 groups of 4 channels; `options` as in `ResNet`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _resnet("resnext101_64x4d", weights, Bottleneck, (3, 4, 23, 3), 64, 4, **options)


def wide_resnet50_2(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any
) -> ResNet:
    """ResNet-50 with twice the width in its 3x3 convolutions; `options` as in `ResNet`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _resnet("wide_resnet50_2", weights, Bottleneck, (3, 4, 6, 3), 1, 128, **options)


def wide_resnet101_2(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any
) -> ResNet:
    """ResNet-101 with twice the width in its 3x3 convolutions; `options` as in `ResNet`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _resnet("wide_resnet101_2", weights, Bottleneck, (3, 4, 23, 3), 1, 128, **options)
