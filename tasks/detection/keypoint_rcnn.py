"""Keypoint R-CNN (He et al. 2017, arXiv:1703.06870, section 5): in every box a heat map for each keypoint."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.fused import fuse
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target
from retinue.tasks.detection.faster_rcnn import FasterRCNN
from retinue.tasks.detection.keypoints import heatmap_cells, heatmaps_to_keypoints
from retinue.tasks.detection.losses import keypoint_loss
from retinue.tasks.detection.region_heads import Res5Head, kaiming
from retinue.tasks.detection.regions import Found, Sampled
from retinue.tasks.detection.roi_pooling import RoIAlign

SIDE = 14
"""Of the pooled maps that the keypoint branch reads; it quadruples them."""


class KeypointHead(nn.Sequential):
    """Convolutions 3x3 with a ReLU each, eight as published."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        layers: list[nn.Module] = []
        for inputs in [channels, *[width] * (depth - 1)]:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
        super().__init__(*layers)
        kaiming(self)


class KeypointPredictor(nn.Module):
    """A transposed convolution and bilinear upsampling, twice the side each: heat maps of all keypoints."""

    def __init__(self, inputs: int, keypoints: int) -> None:
        super().__init__()
        self.kps_score_lowres = nn.ConvTranspose2d(inputs, keypoints, 4, 2, 1)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """(r, inputs, m, m) -> logits (r, keypoints, 4m, 4m)."""
        x = self.kps_score_lowres(x.to(self.kps_score_lowres.weight.dtype))
        return F.interpolate(x, scale_factor=2.0, mode="bilinear")


class KeypointRCNN(FasterRCNN):
    """Boxes, and in each the place of every keypoint that the classes have.

    keypoint_width, keypoint_depth: channels and convolutions of the branch. The other settings are `FasterRCNN`'s.
    Raises DataError for classes without keypoints (`ClassMap.keypoints["names"]`).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"boxes", "box_labels", "keypoints"})
    kinds: ClassVar[tuple[str, ...]] = ("box", "keypoints")
    shown: ClassVar[tuple[str, ...]] = ("box/AP50", "keypoints/AP")

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        keypoint_width: int = 512,
        keypoint_depth: int = 8,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, classes, **settings)
        names = classes.keypoints.get("names", ())
        if not names:
            raise DataError(
                f"the classes {list(classes.names)[:5]} have no keypoints: give data that have them"
            )
        if min(keypoint_width, keypoint_depth) < 1:
            raise DataError(
                f"keypoint_width={keypoint_width}, keypoint_depth={keypoint_depth}: both are at least 1"
            )
        if isinstance(self.box_head, Res5Head):
            raise DataError("keypoint_rcnn has no form with res5 per region: use a pyramid, or head=mlp")
        self.settings |= {"keypoint_width": keypoint_width, "keypoint_depth": keypoint_depth}
        self.keypoint_pool = RoIAlign(self.strides, self.region_levels, SIDE)
        self.keypoint_head = KeypointHead(self.region_channels, keypoint_width, keypoint_depth)
        self.keypoint_predictor = KeypointPredictor(keypoint_width, len(names))

    def forget_classes(self) -> None:
        """New predictors of boxes and of keypoints."""
        super().forget_classes()
        inputs = self.keypoint_predictor.kps_score_lowres.in_channels
        self.keypoint_predictor = KeypointPredictor(inputs, len(self.classes.keypoints["names"]))

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`; heat maps are computed in float32: bfloat16 has 256 values between 1 and 2."""
        super().fuse(dtype)
        self.keypoint_head = fuse(self.keypoint_head, dtype)  # type: ignore[assignment]

    def heat(self, features: Features, boxes: Sequence[Tensor]) -> Tensor:
        """Logits (r, keypoints, 56, 56) of regions."""
        return self.keypoint_predictor(self.keypoint_head(self.keypoint_pool(features, boxes)))

    def learn_more(
        self, features: Features, regions: Sequence[Sampled], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """`keypoint`, on the regions that are objects."""
        positive = [Sampled(*(part[region.labels > 0] for part in region)) for region in regions]
        logits = self.heat(features, [region.boxes for region in positive])
        points = [target["keypoints"][region.truth] for target, region in zip(targets, positive)]
        cells, seen = heatmap_cells(
            torch.cat(points), torch.cat([region.boxes for region in positive]), logits.shape[-1]
        )
        return {"keypoint": keypoint_loss(logits, cells, seen)}

    def answer_more(self, features: Features, found: Found, pictures: Pictures) -> list[dict[str, Any]]:
        """`keypoints` (n, k, 3) in the file's pixels, and `keypoint_scores` (n, k), the logits at their places."""
        boxes = found.boxes.split(found.counts)
        points, scores = heatmaps_to_keypoints(self.heat(features, boxes).float(), found.boxes)
        moved = points_to_file(points.split(found.counts), pictures)
        return [
            {"keypoints": rows, "keypoint_scores": s.cpu().numpy()}
            for rows, s in zip(moved, scores.split(found.counts))
        ]


def points_to_file(points: Sequence[Tensor], pictures: Pictures) -> list[np.ndarray]:
    """Each picture's keypoints (r, k, 3) from canvas pixels to the file's; the third number stays. float32."""
    moved = []
    for rows, matrix in zip(points, pictures.to_file.numpy()):
        values = rows.cpu().double().numpy()
        values[..., :2] = values[..., :2] @ matrix[:, :2].T + matrix[:, 2]
        moved.append(values.astype(np.float32))
    return moved
