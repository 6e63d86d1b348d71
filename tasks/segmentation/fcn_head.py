"""The small head of networks that read one map of a deep trunk, for their answer or beside it for training only."""

from torch import nn

from retinue.backbones.backbone import Backbone
from retinue.datasets.targets import DataError
from retinue.tasks.dense import conv_norm, deepest_level
from retinue.tasks.segmentation.segmenter import classifier


class FCNHead(nn.Sequential):
    """3x3 convolution to a quarter of the channels, batch norm, ReLU, dropout, 1x1 convolution to the logits.

    (n, inputs, h, w) -> (n, classes, h, w). The auxiliary head of Zhao et al. 2017 (arXiv:1612.01105, section 3.3) in
    their implementation; torchvision's FCN and DeepLabV3 have it in every place. Modules are numbered as torchvision's.
    """

    def __init__(self, inputs: int, classes: int, dropout: float = 0.1) -> None:
        width = max(1, inputs // 4)
        super().__init__(*conv_norm(inputs, width), nn.Dropout(dropout), classifier(width, classes))
        self.width = width

    def forget_classes(self, classes: int) -> None:
        """A new last layer."""
        self[-1] = classifier(self.width, classes)


def read_levels(
    backbone: Backbone, level: str | None, auxiliary_level: str | None, auxiliary: bool
) -> tuple[str, str | None]:
    """(the level that the head reads, that of the auxiliary head or None where there is to be none).

    By default the deepest map of the backbone and the stage before it. Raises DataError for levels that it has not.
    """
    names = list(backbone.levels)
    for setting, name in (("level", level), ("auxiliary_level", auxiliary_level)):
        if name is not None and name not in names:
            raise DataError(f"{setting}={name}: the backbone has only {', '.join(names)}")
    level = level or deepest_level(backbone)
    if level == "image":
        raise DataError(
            f"{backbone.architecture} has only the picture itself: take a backbone with stages (resnet50)"
        )
    if not auxiliary:
        return level, None
    before = [name for name in names[: names.index(level)] if name[0] in "cp" and name[1:].isdigit()]
    if not (auxiliary_level or before):
        raise DataError(
            f"the backbone has no stage before {level} for the auxiliary head: say auxiliary=0, or name an "
            "auxiliary_level"
        )
    return level, auxiliary_level or before[-1]
