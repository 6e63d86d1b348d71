"""Squeeze-and-Excitation Networks (Hu et al. 2017, arXiv:1709.01507): the picture weighs its channels."""

from typing import Any

from torch import Tensor, nn

from retinue.backbones.resnet import Bottleneck, ResNet
from retinue.backbones.weights import load


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in (0, 1) computed from all channels' means (equations 2 to 4)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> the same shape."""
        squeezed = x.mean((2, 3), keepdim=True)
        return x * self.fc2(self.fc1(squeezed).relu()).sigmoid()


class SEBottleneck(Bottleneck):
    """A ResNet bottleneck whose residual is recalibrated before the sum (figure 3)."""

    def __init__(self, inputs: int, planes: int, *shape: int) -> None:
        super().__init__(inputs, planes, *shape)
        self.se = SqueezeExcitation(planes * self.expansion)

    def residual(self, x: Tensor) -> Tensor:
        """What the block adds to its shortcut."""
        return self.se(super().residual(x))


def seresnet50(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any
) -> ResNet:
    """SE-ResNet-50, 28 million parameters; `options` as in `ResNet`. torchvision publishes no weights."""
    options |= {"in_channels": in_channels, "classes": classes}
    return load(ResNet(SEBottleneck, (3, 4, 6, 3), **options), "seresnet50", weights, options)
