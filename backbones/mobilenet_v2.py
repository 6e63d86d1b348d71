"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381): inverted residuals with linear bottlenecks."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from retinue.backbones.backbone import Backbone, Level, Top
from retinue.backbones.weights import load

# Table 2: expansion t, channels c, repeats n, stride s
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter by depth-wise 3x3, project by a linear 1x1 (section 3.3, figure 4d)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(Conv2dNormActivation(inputs, hidden, 1, activation_layer=nn.ReLU6))
        layers += [
            Conv2dNormActivation(hidden, hidden, 3, stride, groups=hidden, activation_layer=nn.ReLU6),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, ceil(h / stride), ceil(w / stride))."""
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(Backbone):
    """MobileNetV2 at width 1.

    Beside `c1`..`c5`, `expand14` is the expansion inside the last block of stride 2, where SSDLite begins
    (section 6.2); `block14` and `block17` are the maps of stride 32 before the last 1x1 convolution.
    """

    top_modules = ("classifier",)

    def __init__(self, in_channels: int = 3, classes: int = 1000) -> None:
        super().__init__(in_channels)
        features: list[nn.Module] = [Conv2dNormActivation(in_channels, 32, 3, 2, activation_layer=nn.ReLU6)]
        channels = 32
        for expansion, outputs, repeats, stride in STAGES:
            for i in range(repeats):
                features.append(InvertedResidual(channels, outputs, stride if i == 0 else 1, expansion))
                channels = outputs
        features.append(Conv2dNormActivation(channels, 1280, 1, activation_layer=nn.ReLU6))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        self.levels = {
            "image": Level(in_channels, 1),
            "c1": Level(16, 2),
            "c2": Level(24, 4),
            "c3": Level(32, 8),
            "c4": Level(96, 16),
            "expand14": Level(576, 16),
            "block14": Level(160, 32),
            "block17": Level(320, 32),
            "c5": Level(1280, 32),
        }
        initialise(self)

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """Parts by map; block 14 has no shortcut, so that it may be read between its layers."""
        blocks = list(self.features)
        strided = list(self.features[14].get_submodule("conv").children())
        return {
            "c1": blocks[:2],
            "c2": blocks[2:4],
            "c3": blocks[4:7],
            "c4": blocks[7:14],
            "expand14": strided[:1],
            "block14": strided[1:],
            "block17": blocks[15:18],
            "c5": blocks[18:],
        }

    def top(self) -> Top:
        """Global average pooling, dropout, one linear layer."""
        embed = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.classifier[0])
        return Top("c5", 1280, embed, self.classifier[1])


def initialise(network: nn.Module) -> None:
    """Convolutions by He et al. 2015 over the fan out, linear layers N(0, 0.01), in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


def mobilenet_v2(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000) -> MobileNetV2:
    """MobileNetV2, 3.5 million parameters."""
    options = {"in_channels": in_channels, "classes": classes}
    return load(MobileNetV2(**options), "mobilenet_v2", weights, options)
