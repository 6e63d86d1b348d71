"""ImageNet Classification with Deep CNNs (Krizhevsky et al. 2012), on one processor.

The single column and its widths are of "One weird trick" (Krizhevsky 2014, arXiv:1404.5997), without local
response normalisation, as in torchvision, whose weights load.
"""

from collections.abc import Sequence

from torch import nn

from retinue.backbones.backbone import Backbone, Level, Top
from retinue.backbones.weights import load

ENDS = {"conv1": 2, "c2": 3, "conv2": 5, "c3": 6, "conv3": 8, "conv4": 10, "conv5": 12, "c5": 13}
"""Level -> number of modules of `features` up to its map."""


class AlexNet(Backbone):
    """Levels `conv1`..`conv5` after each convolution's ReLU; `c2`, `c3`, `c5` after the three poolings.

    The strides 4, 8, 16, 32 are the product of the layers' strides, but large kernels and unpadded poolings
    lose less than two cells of margin: 224 gives maps of 55, 27, 13 and 6. `output_sizes` is exact.
    """

    top_modules = ("avgpool", "classifier")

    def __init__(self, *, in_channels: int = 3, classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__(in_channels)
        self.levels = {
            "image": Level(in_channels, 1),
            "conv1": Level(64, 4),
            "c2": Level(64, 8),
            "conv2": Level(192, 8),
            "c3": Level(192, 16),
            "conv3": Level(384, 16),
            "conv4": Level(256, 16),
            "conv5": Level(256, 16),
            "c5": Level(256, 32),
        }
        self.features = nn.Sequential(
            *(nn.Conv2d(in_channels, 64, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            *(nn.Dropout(dropout), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True)),
            *(nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(inplace=True)),
            nn.Linear(4096, classes),
        )

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """Each convolution with its ReLU, each pooling."""
        ends = [0, *ENDS.values()]
        modules = list(self.features)
        return {name: modules[a:b] for name, a, b in zip(ENDS, ends, ends[1:])}

    def top(self) -> Top:
        """fc6 and fc7 of the 6x6 map, and the classifier."""
        embed = nn.Sequential(self.avgpool, nn.Flatten(), *self.classifier[:-1])
        return Top("c5", 4096, embed, self.classifier[-1])


def alexnet(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, dropout: float = 0.5
) -> AlexNet:
    """AlexNet, 61 million parameters, most of them in fc6."""
    options = {"in_channels": in_channels, "classes": classes, "dropout": dropout}
    return load(
        AlexNet(in_channels=in_channels, classes=classes, dropout=dropout), "alexnet", weights, options
    )
