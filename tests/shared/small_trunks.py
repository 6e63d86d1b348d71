"""Backbones of a few thousand parameters, for what is built on backbones."""

import inspect
from collections.abc import Sequence

from torch import nn

import retinue.backbones
from retinue.backbones.backbone import Backbone, Level, Top

WIDTHS = (6, 8, 8, 12, 16)


class SmallTrunk(Backbone):
    """Levels c1 to c5 of strides 2 to 32, each a convolution with batch norm; it has no classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.architecture = "small"
        self.levels = {"image": Level(3, 1)}
        self.parts, inputs = nn.ModuleList(), 3
        for i, width in enumerate(WIDTHS, 1):
            convolution = nn.Conv2d(inputs, width, 3, 2, 1, bias=False)
            self.parts.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
            self.levels[f"c{i}"], inputs = Level(width, 2**i), width

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """A part a level."""
        return {f"c{i}": [part] for i, part in enumerate(self.parts, 1)}


class SmallVGG(Backbone):
    """Five convolutions, each with a pooling behind it, and fc6 and fc7 on a map of `grid` x `grid` cells.

    padding: of the 3x3 convolutions; without it, maps are exact crops of those of larger pictures.
    """

    top_modules = ("avgpool", "classifier")

    def __init__(self, grid: int = 7, padding: int = 1, blocks: int = 5) -> None:
        super().__init__()
        self.architecture = "small_vgg"
        self.levels, self.features = {"image": Level(3, 1)}, nn.ModuleList()
        inputs = 3
        for i, width in enumerate(WIDTHS[:blocks], 1):
            convolution = nn.Conv2d(inputs, width, 3, padding=padding)
            self.features.append(nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2)))
            self.levels[f"c{i}"], inputs = Level(width, 2**i), width
        self.avgpool = nn.AdaptiveAvgPool2d(grid)
        fc6 = nn.Linear(inputs * grid**2, 20)
        self.classifier = nn.Sequential(
            fc6, nn.ReLU(), nn.Dropout(), nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 7)
        )

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """A block a level."""
        return {f"c{i}": [part] for i, part in enumerate(self.features, 1)}

    def top(self) -> Top:
        """fc6 and fc7."""
        embed = nn.Sequential(self.avgpool, nn.Flatten(), *self.classifier[:-1])
        return Top(f"c{len(self.features)}", 24, embed, self.classifier[-1])


def few_classes(name: str) -> dict[str, int]:
    """Options of a builder that make its classifier small, where it has one."""
    parameters = inspect.signature(getattr(retinue.backbones, name)).parameters
    return {"classes": 4} if "classes" in parameters else {}
