"""The fully convolutional network with a dilated trunk, as torchvision's `fcn_resnet50` and `fcn_resnet101` are built.

Long, Shelhamer & Darrell 2015 (arXiv:1411.4038) without deconvolutions and skips: the trunk's last stages are dilated
in place of strided (Yu & Koltun 2016, arXiv:1511.07122), so that its last map keeps the stride 8, and a small head on
it gives logits that are interpolated. A second head, on the stage before, helps training (Zhao et al. 2017,
arXiv:1612.01105, section 3.3).
"""

from typing import Any

from torch import Tensor

from retinue.backbones.backbone import Backbone, Features
from retinue.datasets.targets import ClassMap
from retinue.tasks.dense import dilated
from retinue.tasks.segmentation.fcn_head import FCNHead, read_levels
from retinue.tasks.segmentation.segmenter import Segmenter


class DilatedFCN(Segmenter):
    """A class at every pixel, by one convolutional head on a deep map.

    output_stride: strides of the backbone beyond this one become dilations. level: the map that the head reads, by
    default the deepest. auxiliary_level: that of the auxiliary head, by default the stage before; auxiliary=0 leaves
    that head out. The other settings are `Segmenter`'s.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        output_stride: int = 8,
        level: str | None = None,
        auxiliary_level: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, classes, **settings)
        self.settings |= {"output_stride": output_stride, "level": level, "auxiliary_level": auxiliary_level}
        self.level, self.auxiliary_level = read_levels(
            backbone, level, auxiliary_level, self.settings["auxiliary"] > 0
        )
        self.levels: tuple[str, ...] = (self.level,)
        self.classifier = FCNHead(backbone.levels[self.level].channels, len(classes))
        self.aux_classifier: FCNHead | None = None
        if self.auxiliary_level is not None:
            self.levels = (self.auxiliary_level, self.level)
            self.aux_classifier = FCNHead(backbone.levels[self.auxiliary_level].channels, len(classes))

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone, dilated to `output_stride`."""
        return dilated(backbone, settings.get("output_stride", 8))

    def forget_classes(self) -> None:
        """New last layers."""
        for head in (self.classifier, self.aux_classifier):
            if head is not None:
                head.forget_classes(len(self.classes))

    def logits(self, features: Features) -> list[Tensor]:
        """Logits at the stride of the head's map; in training, those of the auxiliary head too."""
        answers = [self.classifier(features[self.level])]
        if self.training and self.aux_classifier is not None and self.auxiliary_level is not None:
            answers.append(self.aux_classifier(features[self.auxiliary_level]))
        return answers
