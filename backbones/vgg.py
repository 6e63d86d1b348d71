"""Very Deep Convolutional Networks (Simonyan and Zisserman 2014, arXiv:1409.1556), table 1.

The variants with batch norm are torchvision's; its module names are kept, so that its weights load.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from retinue.backbones.backbone import NEW, Backbone, Level, Top
from retinue.backbones.weights import load

WIDTHS = (64, 128, 256, 512, 512)


class VGG(Backbone):
    """Five blocks of 3x3 convolutions, each ended by a pooling.

    Levels: `conv1_2`-like, the last convolution of each block after its ReLU (strides 1, 2, 4, 8, 16; the
    second number is the variant's own), and `c1`..`c5`, after each pooling (strides 2 to 32). Freezing and
    cutting go by these names: stage `c1` is the pooling of block 1 alone. `make_atrous` adds `fc7`.
    classifier: nine tenths of the parameters; without it there is no `top`.
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
        classifier: bool = True,
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
        if classifier:
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
        """Each block's convolutions, then its pooling; of an atrous one fc6 and fc7 behind them."""
        ends = [0, *self._ends.values()]
        modules = list(self.features)
        stages: dict[str, Sequence[nn.Module]] = {
            name: modules[a:b] for name, a, b in zip(self._ends, ends, ends[1:])
        }
        return stages | ({"fc7": list(self.fc)} if hasattr(self, "fc") else {})

    def make_atrous(self) -> None:
        """Change the network, in place, into the trunk that SSD reads (Liu et al. 2016, arXiv:1512.02325, section 3).

        The pooling of block 3 rounds up, that of block 5 has stride 1, and fc6 and fc7 become convolutions on its map,
        level `fc7` of 1024 channels and stride 16: every fourth of their neurons, and of fc6's 7x7 positions every
        third, spaced out by 6 (Chen et al. 2014, arXiv:1412.7062, section 3). Where no weights of theirs were loaded
        they begin at random, as new parts. `options` remember it as `atrous`. Nothing happens a second time.
        """
        if "fc7" in self.levels:
            return
        known = self.weights is not None and not self.new_top and hasattr(self, "classifier")
        fc6, fc7 = nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.Conv2d(1024, 1024, 1)
        self.fc = nn.Sequential(fc6, nn.ReLU(inplace=True), fc7, nn.ReLU(inplace=True))
        for layer in (fc6, fc7):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if known:
            linear6: Any = self.classifier[0]
            linear7: Any = self.classifier[3]
            every_third = linear6.weight.detach().view(4096, 512, 7, 7)[::4, :, ::3, ::3]
            fc6.load_state_dict({"weight": every_third, "bias": linear6.bias.detach()[::4]})
            fc7.load_state_dict(
                {"weight": linear7.weight.detach()[::4, ::4, None, None], "bias": linear7.bias.detach()[::4]}
            )
        for module in self.fc.modules() if not known else ():
            setattr(module, NEW, True)
        for name in self.top_modules:
            if hasattr(self, name):
                delattr(self, name)
        pools: dict[str, Any] = {name: self.features[self._ends[name] - 1] for name in ("c3", "c5")}
        pools["c3"].ceil_mode = True
        pools["c5"].kernel_size, pools["c5"].stride, pools["c5"].padding = 3, 1, 1
        self.levels |= {"c5": Level(512, 16), "fc7": Level(1024, 16)}
        self.options["atrous"] = True

    def top(self) -> Top | None:
        """fc6 and fc7 of the 7x7 map, and the classifier."""
        if not hasattr(self, "classifier"):
            return None
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
    architecture: str,
    weights: str | None,
    convolutions: Sequence[int],
    norm: bool,
    *,
    atrous: bool = False,
    **options: Any,
) -> VGG:
    classifier = not atrous or weights is not None  # no need to draw what fc6 and fc7 do not become
    network = load(VGG(convolutions, norm, classifier=classifier, **options), architecture, weights, options)
    if atrous:
        network.make_atrous()
    return network


def vgg11(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-11, configuration A; `options` as in `VGG`, and `atrous` (`VGG.make_atrous`)."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg11", weights, (1, 1, 2, 2, 2), False, **options)


def vgg13(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-13, configuration B; `options` as in `VGG`, and `atrous` (`VGG.make_atrous`)."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg13", weights, (2, 2, 2, 2, 2), False, **options)


def vgg16(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-16, configuration D; `options` as in `VGG`, and `atrous` (`VGG.make_atrous`)."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg16", weights, (2, 2, 3, 3, 3), False, **options)


def vgg19(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-19, configuration E; `options` as in `VGG`, and `atrous` (`VGG.make_atrous`)."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg19", weights, (2, 2, 4, 4, 4), False, **options)


def vgg11_bn(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-11 with batch norm; `options` as in `VGG`, and `atrous` (`VGG.make_atrous`)."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg11_bn", weights, (1, 1, 2, 2, 2), True, **options)


def vgg13_bn(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-13 with batch norm; `options` as in `VGG`, and `atrous` (`VGG.make_atrous`)."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg13_bn", weights, (2, 2, 2, 2, 2), True, **options)


def vgg16_bn(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-16 with batch norm; `options` as in `VGG`, and `atrous` (`VGG.make_atrous`)."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg16_bn", weights, (2, 2, 3, 3, 3), True, **options)


def vgg19_bn(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, **options: Any) -> VGG:
    """VGG-19 with batch norm; `options` as in `VGG`, and `atrous` (`VGG.make_atrous`)."""
    options |= {"in_channels": in_channels, "classes": classes}
    return _vgg("vgg19_bn", weights, (2, 2, 4, 4, 4), True, **options)
