"""The small head of networks that read one map of a deep trunk, for their answer or beside it for training only."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from retinue.backbones.backbone import Backbone, Features
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.dense import conv_norm, deepest_level
from retinue.tasks.segmentation.segmenter import Segmenter, classifier


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


class DeepSegmenter(Segmenter, ABC):
    """A class at every pixel, judged on one deep map; in training an auxiliary head on the stage before helps.

    level: the map that is judged, by default the deepest. auxiliary_level: that of the auxiliary head, by default the
    stage before; auxiliary=0 leaves that head out. The other settings are `Segmenter`'s.
    """

    helped = True

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        level: str | None = None,
        auxiliary_level: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, classes, **settings)
        self.settings |= {"level": level, "auxiliary_level": auxiliary_level}
        self.level, self.auxiliary_level = read_levels(
            backbone, level, auxiliary_level, self.settings["auxiliary"] > 0
        )
        self.levels: tuple[str, ...] = (self.level,)
        self.aux_classifier: FCNHead | None = None
        if self.auxiliary_level is not None:
            self.levels = (self.auxiliary_level, self.level)
            self.aux_classifier = FCNHead(backbone.levels[self.auxiliary_level].channels, len(classes))

    @abstractmethod
    def judge(self, deep: Tensor) -> Tensor:
        """Logits (n, classes, h, w) of the deep map (n, channels, h, w)."""

    def forget_classes(self) -> None:
        """A new last layer of the auxiliary head; a subclass adds its own."""
        if self.aux_classifier is not None:
            self.aux_classifier.forget_classes(len(self.classes))

    def logits(self, features: Features) -> list[Tensor]:
        """Logits at the stride of the deep map; in training, those of the auxiliary head too."""
        answers = [self.judge(features[self.level])]
        if self.training and self.aux_classifier is not None and self.auxiliary_level is not None:
            answers.append(self.aux_classifier(features[self.auxiliary_level]))
        return answers


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
