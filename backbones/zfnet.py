"""ZFNet (Zeiler and Fergus 2013, arXiv:1311.2901): AlexNet with a finer first layer."""

from collections.abc import Sequence

from torch import nn

from retinue.backbones.backbone import Backbone, Level, Top
from retinue.backbones.weights import load


class ZFNet(Backbone):
    """ZFNet, figure 3: maps of 110, 55, 26, 13 and 6 for a picture of 224.

    `c1` and `c3` follow the convolutions of stride 2, `c2` the first pooling and its contrast normalisation,
    `c4` the fifth convolution, `c5` the last pooling. SPPnet and Faster R-CNN read `c4`.
    """

    top_modules = ("classifier", "avgpool")

    def __init__(self, in_channels: int = 3, classes: int = 1000) -> None:
        super().__init__(in_channels)
        self.conv1 = _layer(in_channels, 96, 7, 2, 1)
        self.pool1 = _pool_and_norm()
        self.conv2 = _layer(96, 256, 5, 2, 0)
        self.pool2 = _pool_and_norm()
        self.conv3 = _layer(256, 384, 3, 1, 1)
        self.conv4 = _layer(384, 384, 3, 1, 1)
        self.conv5 = _layer(384, 256, 3, 1, 1)
        self.pool5 = nn.MaxPool2d(3, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            *(nn.Flatten(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(4096, classes),
        )
        self.levels = {
            "image": Level(in_channels, 1),
            "c1": Level(96, 2),
            "c2": Level(96, 4),
            "c3": Level(256, 8),
            "c4": Level(256, 16),
            "c5": Level(256, 32),
        }
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(
                    module.weight, 0, 0.01
                )  # section 3.1 says 0.01 for all, which none can learn from
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """Layers 1 to 5 of figure 3."""
        return {
            "c1": [self.conv1],
            "c2": [self.pool1],
            "c3": [self.conv2],
            "c4": [self.pool2, self.conv3, self.conv4, self.conv5],
            "c5": [self.pool5],
        }

    def top(self) -> Top:
        """fc6, fc7 with dropout, and the classifier; a map of another size than 6x6 is averaged to it."""
        *layers, last = self.classifier
        return Top("c5", 4096, nn.Sequential(self.avgpool, *layers), last)


def _layer(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU(inplace=True))


def _pool_and_norm() -> nn.Sequential:
    """Section 3: pooling first, then the contrast normalisation, with Krizhevsky's constants (2012, 3.3)."""
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    return nn.Sequential(pool, nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2))


def zfnet(weights: str | None = None, *, in_channels: int = 3, classes: int = 1000) -> ZFNet:
    """ZFNet, 62 million parameters."""
    options = {"in_channels": in_channels, "classes": classes}
    return load(ZFNet(**options), "zfnet", weights, options)
