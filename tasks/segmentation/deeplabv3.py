"""DeepLabV3 (Chen et al. 2017, arXiv:1706.05587): one deep map seen at several rates of dilation, and as a whole.

The trunk is dilated, so that its last map keeps the stride 16 or 8 (section 3.1). The auxiliary head is not the
paper's: torchvision's networks have it, whose weights load.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retinue.backbones.backbone import Backbone
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.dense import conv_norm, dilated
from retinue.tasks.segmentation.fcn_head import DeepSegmenter
from retinue.tasks.segmentation.segmenter import classifier

SPANS = (96, 192, 288)
"""Pixels of the picture between the centre of a 3x3 convolution and its neighbours, by branch."""


class DeepLabV3(DeepSegmenter):
    """A class at every pixel, by atrous spatial pyramid pooling.

    output_stride: strides of the backbone beyond this one become dilations. rates: dilations of the 3x3 convolutions,
    in cells of the map; by default those that span 96, 192 and 288 pixels: 6, 12, 18 at stride 16, twice that at 8
    (section 4). width: channels of each branch. dropout: of the values of their mixture. The other
    settings are `DeepSegmenter`'s.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        output_stride: int = 16,
        rates: Sequence[int] | None = None,
        width: int = 256,
        dropout: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, classes, **settings)
        stride = backbone.levels[self.level].stride
        rates = list(rates or (max(1, span // stride) for span in SPANS))
        self.settings |= {
            "output_stride": output_stride,
            "rates": rates,
            "width": width,
            "dropout": dropout,
        }
        if min(width, *rates) < 1 or not 0 <= dropout < 1:
            raise DataError(
                f"rates={','.join(map(str, rates))}, width={width}, dropout={dropout}: rates and width are at least "
                "1, dropout is in [0, 1)"
            )
        self.width = width
        pyramid = AtrousSpatialPyramidPooling(backbone.levels[self.level].channels, width, rates, dropout)
        self.classifier = nn.Sequential(pyramid, *conv_norm(width, width), classifier(width, len(classes)))

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone, dilated to `output_stride`."""
        return dilated(backbone, settings.get("output_stride", 16))

    def forget_classes(self) -> None:
        """New last layers."""
        super().forget_classes()
        self.classifier[-1] = classifier(self.width, len(self.classes))

    def judge(self, deep: Tensor) -> Tensor:
        """As in `DeepSegmenter`."""
        return self.classifier(deep)


class AtrousSpatialPyramidPooling(nn.Module):
    """(n, inputs, h, w) -> (n, width, h, w): branches side by side, mixed by a 1x1 convolution (section 3.3, figure 5).

    The branches are a 1x1 convolution, 3x3 convolutions of the `rates`, and the mean of the whole map.
    """

    def __init__(self, inputs: int, width: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        branches = [conv_norm(inputs, width, 1), *(conv_norm(inputs, width, 3, rate) for rate in rates)]
        self.convs = nn.ModuleList([*branches, ImagePooling(inputs, width)])
        self.project = nn.Sequential(*conv_norm(len(self.convs) * width, width, 1), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, width, h, w)."""
        return self.project(torch.cat([branch(x) for branch in self.convs], 1))


class ImagePooling(nn.Sequential):
    """The mean of each channel, through a 1x1 convolution, at every place: (n, inputs, h, w) -> (n, width, h, w)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *conv_norm(inputs, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, width, h, w)."""
        layers: list[Any] = list(self)
        pool, convolution, norm, relu = layers
        pooled = convolution(pool(x))
        if (
            self.training and len(pooled) == 1
        ):  # one value a channel has no variance: the statistics so far are taken
            pooled = F.batch_norm(
                pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        else:
            pooled = norm(pooled)
        return F.interpolate(relu(pooled), size=x.shape[-2:], mode="bilinear", align_corners=False)
