"""PSPNet (Zhao et al. 2017, arXiv:1612.01105): the deep map beside its means over ever larger parts of the picture.

The trunk is dilated, so that its last map has stride 8 (section 3.2); a second head on the stage before it helps
training, with 0.4 of the weight (section 3.3).
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from retinue.backbones.backbone import Backbone
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.dense import PyramidPooling, conv_norm, dilated
from retinue.tasks.segmentation.fcn_head import DeepSegmenter
from retinue.tasks.segmentation.segmenter import classifier


class PSPNet(DeepSegmenter):
    """A class at every pixel, by pyramid pooling.

    output_stride: the strides of the backbone beyond this one become dilations; 16 trains three times as fast as
    the paper's 8. bins: sides of the grids that the map is averaged to. width: channels of each grid and of the last
    3x3 convolution; by default the map's, shared among the grids (512 for ResNet-50, as in the paper). dropout: of
    whole channels before the last layer. The other settings are `DeepSegmenter`'s.
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
        **settings: Any,
    ) -> None:
        super().__init__(backbone, classes, **settings)
        self.settings |= {
            "output_stride": output_stride,
            "bins": list(bins),
            "width": width,
            "dropout": dropout,
        }
        _check(self.settings)
        inputs = backbone.levels[self.level].channels
        self.width, self.dropout = width or max(1, inputs // len(bins)), dropout
        self.pyramid = PyramidPooling(inputs, self.width, bins)
        self.fuse_scales = conv_norm(self.pyramid.channels, self.width)
        self.classifier = classifier(self.width, len(classes), dropout)

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone, dilated to `output_stride`."""
        return dilated(backbone, settings.get("output_stride", 8))

    def forget_classes(self) -> None:
        """New last layers."""
        super().forget_classes()
        self.classifier = classifier(self.width, len(self.classes), self.dropout)

    def judge(self, deep: Tensor) -> Tensor:
        """As in `DeepSegmenter`."""
        return self.classifier(self.fuse_scales(self.pyramid(deep)))


def _check(settings: dict[str, Any]) -> None:
    bins, width = settings["bins"], settings["width"]
    if not bins or min(bins) < 1:
        raise DataError(f"bins={','.join(map(str, bins))}: sides of grids, at least one, each at least 1")
    if (width is not None and width < 1) or not 0 <= settings["dropout"] < 1:
        raise DataError(
            f"width={width}, dropout={settings['dropout']}: width is at least 1, dropout in [0, 1)"
        )
