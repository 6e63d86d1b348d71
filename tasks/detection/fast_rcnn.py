"""Fast R-CNN (Girshick 2015, arXiv:1504.08083): the trunk once a picture, then a small network on every proposal.

Proposals come with the pictures, as the input `proposals`: (r, 4) float32, x1 y1 x2 y2 in the picture's pixels.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.fused import fuse
from retinue.datasets.targets import ClassMap, Pictures, Target
from retinue.tasks.detection.box_coding import REGION_WEIGHTS, encode
from retinue.tasks.detection.detector import Detector, check_range
from retinue.tasks.detection.losses import region_losses
from retinue.tasks.detection.pyramid import on_whole_cells, with_pyramid
from retinue.tasks.detection.region_heads import BoxPredictor, Head, build_head, fuse_head
from retinue.tasks.detection.regions import Found, Sampled, proposals_of, rows_of, sample_regions, select
from retinue.tasks.detection.roi_pooling import RoIAlign

PYRAMID = ("c2", "c3", "c4", "c5")


class FastRCNN(Detector):
    """Boxes of given proposals.

    head: "mlp" or "conv" (four convolutions with batch norm before it) on a pyramid, "fc" with the classifier's own
    fc6 and fc7 (VGG, the paper's form), "c4" with res5 per region (ResNet); "auto" takes the first of mlp, fc and c4
    that the backbone can have. pyramid: put a feature pyramid of `pyramid_channels` over the `pyramid_levels` of a
    plain backbone; without c2 it is twice as fast, and coarser about what is smaller than some 16 pixels.
    sampled: regions a picture that the losses are computed on, `positive_fraction` of them objects at most, which are
    those with an IoU of `foreground_iou` or more with a true box. The other settings are `Detector`'s.

    Raises DataError for settings out of range, or that the backbone cannot have.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"proposals"})

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        head: Head = "auto",
        pyramid: bool = True,
        pyramid_channels: int = 256,
        pyramid_levels: Sequence[str] = PYRAMID,
        sampled: int = 512,
        positive_fraction: float = 0.25,
        foreground_iou: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(classes, **settings)
        self.settings |= {
            "head": head,
            "pyramid": pyramid,
            "pyramid_channels": pyramid_channels,
            "pyramid_levels": list(pyramid_levels),
            "sampled": sampled,
            "positive_fraction": positive_fraction,
            "foreground_iou": foreground_iou,
        }
        for name, most in (("positive_fraction", 1), ("foreground_iou", 1)):
            check_range(self.settings, name, 0, most)
        for name, most in (("sampled", 10**6), ("pyramid_channels", 10**5)):
            check_range(self.settings, name, 1, most)
        self.preprocessing = on_whole_cells(backbone)
        self.box_head, self.region_levels, side = build_head(backbone, head)
        self.levels = self.region_levels
        self.strides = {name: level.stride for name, level in backbone.levels.items()}
        self.region_channels = backbone.levels[self.region_levels[-1]].channels
        self.box_pool = RoIAlign(self.strides, self.region_levels, side)
        self.box_predictor = BoxPredictor(self.box_head.outputs, len(classes))  # type: ignore[arg-type]

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone with a pyramid over its `pyramid_levels`, as far as it has them, unless `pyramid` is off."""
        if not settings.get("pyramid", True):
            return backbone
        asked, channels = settings.get("pyramid_levels", PYRAMID), settings.get("pyramid_channels", 256)
        return with_pyramid(backbone, asked, channels, "pool", "; or use pyramid=false")

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`; scores and box codes of regions are computed in float32."""
        self.box_head = fuse_head(self.box_head, dtype)
        self.box_predictor = fuse(self.box_predictor, torch.float32)  # type: ignore[assignment]

    def forget_classes(self) -> None:
        """A new box predictor."""
        self.box_predictor = BoxPredictor(self.box_head.outputs, len(self.classes))  # type: ignore[arg-type]

    # Training

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """`class` and `box` of sampled regions."""
        return self.learn(features, targets, proposals_of(pictures, "fast_rcnn"))

    def learn(
        self, features: Features, targets: Sequence[Target], proposals: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """The losses of a sample of the proposals and the true boxes themselves."""
        settings = self.settings
        regions = sample_regions(
            proposals, targets, settings["sampled"], settings["positive_fraction"], settings["foreground_iou"]
        )
        logits, codes = self.box_predictor(self.box_head(self.box_pool(features, [r.boxes for r in regions])))
        truth = torch.cat([rows_of(t["boxes"], r.truth) for t, r in zip(targets, regions)])
        boxes, labels = torch.cat([r.boxes for r in regions]), torch.cat([r.labels for r in regions])
        positive = labels > 0  # background has no true box, and its code is not read
        truth = torch.where(positive[:, None], truth, boxes)
        return region_losses(logits, codes, labels, encode(truth, boxes, REGION_WEIGHTS)) | self.learn_more(
            features, regions, targets
        )

    def learn_more(
        self, features: Features, regions: Sequence[Sampled], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Losses of further branches on the sampled regions (masks, keypoints); none here."""
        return {}

    # Prediction

    def find(self, features: Features, pictures: Pictures) -> Found:
        """The objects of a batch, in canvas pixels."""
        return self.judge(features, pictures, proposals_of(pictures, "fast_rcnn"))

    def judge(self, features: Features, pictures: Pictures, proposals: Sequence[Tensor]) -> Found:
        """The objects among proposals in canvas pixels."""
        logits, codes = self.box_predictor(self.box_head(self.box_pool(features, proposals)))
        return select(
            logits, codes, proposals, pictures.sizes, self.score_threshold, self.nms_iou, self.detections
        )
