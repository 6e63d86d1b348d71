"""Mask R-CNN (He et al. 2017, arXiv:1703.06870): Faster R-CNN with a third branch, a small mask for every class."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, roi_align

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.fused import fuse
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target
from retinue.tasks.detection.faster_rcnn import FasterRCNN
from retinue.tasks.detection.losses import mask_loss
from retinue.tasks.detection.masks import Masks
from retinue.tasks.detection.region_heads import Res5Head, kaiming
from retinue.tasks.detection.regions import Found, Sampled, to_file
from retinue.tasks.detection.roi_pooling import RoIAlign

SIDE = 14
"""Of the pooled maps that the mask branch reads; it doubles them."""


class MaskHead(nn.Sequential):
    """Convolutions 3x3 on a region's map (figure 4, right)."""

    def __init__(self, channels: int, width: int, depth: int, norm: bool) -> None:
        layer = nn.BatchNorm2d if norm else None
        inputs = [channels, *[width] * (depth - 1)]
        super().__init__(*(Conv2dNormActivation(n, width, 3, norm_layer=layer) for n in inputs))
        kaiming(self)


class MaskPredictor(nn.Module):
    """Twice the side, then one map of logits for background and each class."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(inputs, width, 2, 2)
        self.mask_fcn_logits = nn.Conv2d(width, 1 + classes, 1)
        kaiming(self)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(r, inputs, m, m) and labels (r,), 0 for background -> logits (r, 2m, 2m) of these classes.

        Only those are computed: of 80 classes the others would cost 80 times as much.
        """
        x = self.conv5_mask(x).relu()
        weight = self.mask_fcn_logits.weight[labels].flatten(1)  # (r, width)
        bias = self.mask_fcn_logits.bias
        assert bias is not None
        logits = torch.bmm(weight[:, None], x.flatten(2)).view(len(x), *x.shape[2:])
        return logits + bias[labels][:, None, None]


class MaskRCNN(FasterRCNN):
    """Boxes, and a mask inside each.

    mask_width, mask_depth: channels and convolutions of the mask branch over a pyramid; over res5 ("c4") it is only
    the doubling. mask_norm: batch norm after each. The other settings are `FasterRCNN`'s.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"boxes", "box_labels", "masks"})
    kinds: ClassVar[tuple[str, ...]] = ("box", "mask")
    shown: ClassVar[tuple[str, ...]] = ("box/AP50", "mask/AP", "mask/AP50")

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        mask_width: int = 256,
        mask_depth: int = 4,
        mask_norm: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, classes, **settings)
        if min(mask_width, mask_depth) < 1:
            raise DataError(f"mask_width={mask_width}, mask_depth={mask_depth}: both are at least 1")
        self.settings |= {"mask_width": mask_width, "mask_depth": mask_depth, "mask_norm": mask_norm}
        self.mask_pool = RoIAlign(self.strides, self.region_levels, SIDE)
        if isinstance(self.box_head, Res5Head):
            inputs, self.mask_head = self.box_head.outputs, None
        else:
            inputs = mask_width
            self.mask_head = MaskHead(self.region_channels, mask_width, mask_depth, mask_norm)
        self.mask_predictor = MaskPredictor(inputs, mask_width, len(classes))

    def forget_classes(self) -> None:
        """New predictors of boxes and of masks."""
        super().forget_classes()
        before = self.mask_predictor.conv5_mask
        self.mask_predictor = MaskPredictor(before.in_channels, before.out_channels, len(self.classes))

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`."""
        super().fuse(dtype)
        if self.mask_head is not None:
            self.mask_head = fuse(self.mask_head, dtype)  # type: ignore[assignment]
        self.mask_predictor.to(dtype)

    def mask_logits(self, features: Features, boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """(r, 28, 28) of regions and their labels (r,), 0 for background."""
        x = self.mask_pool(features, boxes)
        if self.mask_head is None:
            assert isinstance(self.box_head, Res5Head)
            return self.mask_predictor(self.box_head.maps(x), labels)
        return self.mask_predictor(self.mask_head(x), labels)

    def learn_more(
        self, features: Features, regions: Sequence[Sampled], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """`mask`, on the regions that are objects with an outline: data may have boxes without."""
        positive = [
            Sampled(*(part[outlined(target["masks"], region)] for part in region))
            for target, region in zip(targets, regions)
        ]
        labels = torch.cat([region.labels for region in positive])
        logits = self.mask_logits(features, [region.boxes for region in positive], labels)
        truth = [
            mask_targets(target["masks"], region.boxes, region.truth, logits.shape[-1])
            for target, region in zip(targets, positive)
        ]
        return {"mask": mask_loss(logits, torch.cat(truth))}

    def answer_more(self, features: Features, found: Found, pictures: Pictures) -> list[dict[str, Any]]:
        """`masks`, as probabilities on a grid over each box."""
        boxes = found.boxes.split(found.counts)
        logits = self.mask_logits(features, boxes, found.labels + 1)
        probabilities = logits.float().sigmoid().split(found.counts)
        return [
            {"masks": Masks(p.cpu().numpy(), in_file, size)}
            for p, in_file, size in zip(probabilities, to_file(boxes, pictures), pictures.file_sizes)
        ]


def outlined(masks: Tensor, region: Sampled) -> Tensor:
    """(r,) bool, which regions are objects whose mask, of masks (n, h, w) bool, is not empty."""
    positive = region.labels > 0
    has_mask = torch.cat([masks.flatten(1).any(1), masks.new_zeros(1)])  # the last for background's row of -1
    return positive & has_mask[torch.where(positive, region.truth, -1)]


def mask_targets(masks: Tensor, boxes: Tensor, rows: Tensor, side: int) -> Tensor:
    """What masks (n, h, w) bool show in boxes (r, 4), mask `rows[i]` in box i: (r, side, side) float32 in [0, 1]."""
    if not len(boxes):
        return boxes.new_zeros(0, side, side)
    used, place = rows.unique(return_inverse=True)  # the others need not be converted
    regions = torch.cat([place[:, None].to(boxes), boxes], 1)
    return roi_align(masks[used][:, None].to(boxes), regions, (side, side), 1.0)[:, 0]
