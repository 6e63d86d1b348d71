"""The fully convolutional network with a dilated trunk, as torchvision's `fcn_resnet50` and `fcn_resnet101` are built.

Long, Shelhamer & Darrell 2015 (arXiv:1411.4038) without deconvolutions and skips: the trunk's last stages are dilated
in place of strided (Yu & Koltun 2016, arXiv:1511.07122), so that its last map keeps the stride 8, and a small head on
it gives logits that are interpolated. A second head, on the stage before, helps training (Zhao et al. 2017,
arXiv:1612.01105, section 3.3).
"""

from typing import Any

from torch import Tensor

from retinue.backbones.backbone import Backbone
from retinue.datasets.targets import ClassMap
from retinue.tasks.dense import dilated
from retinue.tasks.segmentation.fcn_head import DeepSegmenter, FCNHead


class DilatedFCN(DeepSegmenter):
    """A class at every pixel, by one convolutional head on a deep map.

    output_stride: strides of the backbone beyond this one become dilations. The other settings are `DeepSegmenter`'s.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        output_stride: int = 8,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, classes, **settings)
        self.settings |= {"output_stride": output_stride}
        self.classifier = FCNHead(backbone.levels[self.level].channels, len(classes))

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone, dilated to `output_stride`."""
        return dilated(backbone, settings.get("output_stride", 8))

    def forget_classes(self) -> None:
        """New last layers."""
        super().forget_classes()
        self.classifier.forget_classes(len(self.classes))

    def judge(self, deep: Tensor) -> Tensor:
        """As in `DeepSegmenter`."""
        return self.classifier(deep)
