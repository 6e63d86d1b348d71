"""Very Deep Convolutional Networks (Simonyan and Zisserman 2014, arXiv:1409.1556), table 1.

The variants with batch norm are torchvision's; its module names are kept, so that its weights load.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from retinue.backbones.backbone import Backbone, Level, Top
from retinue.backbones.weights import load

WIDTHS = (64, 128, 256, 512, 512)


class VGG(Backbone):
    """Five blocks of 3x3 convolutions, each ended by a pooling.

    Levels: `conv1_2`-like, the last convolution of each block after its ReLU (strides 1, 2, 4, 8, 16; the
    second number is the variant's own), and `c1`..`c5`, after each pooling (strides 2 to 32). Freezing and
    cutting go by these names: stage `c1` is the pooling of block 1 alone.
    """

    top_modules = ("avgpool", "classifier")

    def __init__(
        self,
        convolutions: Sequence[int],
        norm: bool = False,
        *,
        in_channels: int = 3,
        classes: int = 1000,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(in_channels)
        self.levels = {"image": Level(in_channels, 1)}
        self.features = nn.Sequential()
        self._ends: dict[str, int] = {}  # level -> number of modules of `features` up to its map
        inputs = in_channels
        for block, (count, width) in enumerate(zip(convolutions, WIDTHS), start=1):
            for _ in range(count):
                self.features.append(nn.Conv2d(inputs, width, 3, padding=1))
                if norm:
                    self.features.append(nn.BatchNorm2d(width))
                self.features.append(nn.ReLU(inplace=True))
                inputs = width
            self._end(f"conv{block}_{count}", Level(width, 2 ** (block - 1)))
            self.features.append(nn.MaxPool2d(2, 2))
            self._end(f"c{block}", Level(width, 2**block))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, classes),
        )
        initialise(self)

    def _end(self, name: str, level: Level) -> None:
        self.levels[name] = level
        self._ends[name] = len(self.features)

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """Each block's convolutions, then its pooling."""
        ends = [0, *self._ends.values()]
        modules = list(self.features)
        return {name: modules[a:b] for name, a, b in zip(self._ends, ends, ends[1:])}

    def top(self) -> Top:
        """fc6 and fc7 of the 7x7 map, and the classifier."""
        embed = nn.Sequential(self.avgpool, nn.Flatten(), *self.classifier[:-1])
        return Top("c5", 4096, embed, self.classifier[-1])


def initialise(network: nn.Module) -> None:
    """Kaiming's normal distribution for convolutions, a narrow one for the fully connected layers."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)


def _vgg(
    architecture: str, weights: str | None, convolutions: Sequence[int], norm: bool, **options: Any
) -> VGG:
    return load(VGG(convolutions, norm, **options), architecture, weights, options)


def vgg11(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-11, configuration A; `options` as in `VGG`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg11", weights, (1, 1, 2, 2, 2), False, **options)


def vgg13(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-13, configuration B; `options` as in `VGG`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg13", weights, (2, 2, 2, 2, 2), False, **options)


def vgg16(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-16, configuration D; `options` as in `VGG`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg16", weights, (2, 2, 3, 3, 3), False, **options)


def vgg19(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-19, configuration E; `options` as in `VGG`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg19", weights, (2, 2, 4, 4, 4), False, **options)


def vgg11_bn(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-11 with batch norm; `options` as in `VGG`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg11_bn", weights, (1, 1, 2, 2, 2), True, **options)


def vgg13_bn(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-13 with batch norm; `options` as in `VGG`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg13_bn", weights, (2, 2, 2, 2, 2), True, **options)


def vgg16_bn(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-16 with batch norm; `options` as in `VGG`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg16_bn", weights, (2, 2, 3, 3, 3), True, **options)


def vgg19_bn(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-19 with batch norm; `options` as in `VGG`."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg19_bn", weights, (2, 2, 4, 4, 4), True, **options)
