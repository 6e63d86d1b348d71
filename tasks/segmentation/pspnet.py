"""PSPNet (Zhao et al. 2017, arXiv:1612.01105): the deep map beside its means over ever larger parts of the picture.

The trunk is dilated, so that its last map has stride 8 (section 3.2); a second head on the stage before it helps
training, with 0.4 of the weight (section 3.3).
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from retinue.backbones.backbone import Backbone, Features
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.dense import PyramidPooling, conv_norm, dilated
from retinue.tasks.segmentation.fcn_head import FCNHead, read_levels
from retinue.tasks.segmentation.segmenter import Segmenter, classifier


class PSPNet(Segmenter):
    """A class at every pixel, by pyramid pooling.

    output_stride: the strides of the backbone beyond this one become dilations; 16 trains three times as fast as
    the paper's 8. bins: sides of the grids that the map is averaged to. width: channels of each grid and of the last
    3x3 convolution; by default the map's, shared among the grids (512 for ResNet-50, as in the paper). dropout: of
    whole channels before the last layer. level: the map that is read, by default the deepest; auxiliary_level: that of
    the auxiliary head, by default the stage before; auxiliary=0 leaves that head out. The other settings are
    `Segmenter`'s.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        output_stride: int = 8,
        bins: Sequence[int] = (1, 2, 3, 6),
        width: int | None = None,
        dropout: float = 0.1,
        level: str | None = None,
        auxiliary_level: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, classes, **settings)
        self.settings |= {
            "output_stride": output_stride,
            "bins": list(bins),
            "width": width,
            "dropout": dropout,
            "level": level,
            "auxiliary_level": auxiliary_level,
        }
        _check(self.settings)
        self.level, self.auxiliary_level = read_levels(
            backbone, level, auxiliary_level, self.settings["auxiliary"] > 0
        )
        inputs = backbone.levels[self.level].channels
        self.width, self.dropout = width or max(1, inputs // len(bins)), dropout
        self.pyramid = PyramidPooling(inputs, self.width, bins)
        self.fuse_scales = conv_norm(self.pyramid.channels, self.width)
        self.classifier = classifier(self.width, len(classes), dropout)
        self.levels: tuple[str, ...] = (self.level,)
        self.auxiliary: FCNHead | None = None
        if self.auxiliary_level is not None:
            self.levels = (self.auxiliary_level, self.level)
            self.auxiliary = FCNHead(backbone.levels[self.auxiliary_level].channels, len(classes))

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone, dilated to `output_stride`."""
        return dilated(backbone, settings.get("output_stride", 8))

    def forget_classes(self) -> None:
        """New last layers."""
        self.classifier = classifier(self.width, len(self.classes), self.dropout)
        if self.auxiliary is not None:
            self.auxiliary.forget_classes(len(self.classes))

    def logits(self, features: Features) -> list[Tensor]:
        """Logits at the stride of the deep map; in training, those of the auxiliary head too."""
        answers = [self.classifier(self.fuse_scales(self.pyramid(features[self.level])))]
        if self.training and self.auxiliary is not None and self.auxiliary_level is not None:
            answers.append(self.auxiliary(features[self.auxiliary_level]))
        return answers


def _check(settings: dict[str, Any]) -> None:
    bins, width = settings["bins"], settings["width"]
    if not bins or min(bins) < 1:
        raise DataError(f"bins={','.join(map(str, bins))}: sides of grids, at least one, each at least 1")
    if (width is not None and width < 1) or not 0 <= settings["dropout"] < 1:
        raise DataError(
            f"width={width}, dropout={settings['dropout']}: width is at least 1, dropout in [0, 1)"
        )
