"""Fast R-CNN (Girshick 2015, arXiv:1504.08083): the trunk once a picture, then a small network on every proposal.

Proposals come with the pictures, as the input `proposals`: (r, 4) float32, x1 y1 x2 y2 in the picture's pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.fpn import FPN
from retinue.backbones.fused import fuse
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target, Transform
from retinue.datasets.transforms import (
    ColorJitter,
    Compose,
    HorizontalFlip,
    RandomResize,
    Resize,
    VerticalFlip,
)
from retinue.tasks.detection.box_coding import (
    REGION_WEIGHTS,
    encode,
)
from retinue.tasks.detection.draw import draw_batch
from retinue.tasks.detection.losses import region_losses
from retinue.tasks.detection.metrics import DetectionMetric
from retinue.tasks.detection.plots import detection_plots
from retinue.tasks.detection.region_heads import BoxPredictor, Head, build_head, fuse_head
from retinue.tasks.detection.regions import Found, Sampled, rows_of, sample_regions, select, to_file
from retinue.tasks.detection.results import Detections
from retinue.tasks.detection.roi_pooling import RoIAlign
from retinue.tasks.task import Task

PYRAMID = ("c2", "c3", "c4", "c5")
DIVISOR = 32
"""The canvas's sides are multiples of it."""


class FastRCNN(Task):
    """Boxes of given proposals.

    head: "mlp" or "conv" (four convolutions with batch norm before it) on a pyramid, "fc" with the classifier's own
    fc6 and fc7 (VGG, the paper's form), "c4" with res5 per region (ResNet); "auto" takes the first of mlp, fc and c4
    that the backbone can have. pyramid: put a feature pyramid of `pyramid_channels` over the `pyramid_levels` of a
    plain backbone; without c2 it is twice as fast, and coarser about what is smaller than some 16 pixels.
    sampled: regions a picture that the losses are computed on, `positive_fraction` of them objects at most, which are
    those with an IoU of `foreground_iou` or more with a true box. score_threshold, nms_iou, detections: of results.
    longest: bound of the longer side, as a multiple of the shorter one's `imgsz`. scales: range of the shorter side in
    training, as shares of `imgsz`. flip, vertical_flip: mirror half of the training pictures. colour: strength of the
    jitter of brightness, contrast and saturation, 0 for none.

    Raises DataError for settings out of range, or that the backbone cannot have.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"boxes", "box_labels"})
    uses: ClassVar[frozenset[str]] = frozenset({"crowd", "area"})
    inputs: ClassVar[frozenset[str]] = frozenset({"proposals"})
    kinds: ClassVar[tuple[str, ...]] = ("box",)
    headline: ClassVar[str] = "box/AP"
    shown: ClassVar[tuple[str, ...]] = ("box/AP50",)
    groups_by_aspect: ClassVar[bool] = True
    default_side: ClassVar[int] = 800
    classes: ClassMap

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
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        detections: int = 100,
        longest: float = 5 / 3,
        scales: tuple[float, float] = (1.0, 1.0),
        flip: bool = True,
        vertical_flip: bool = False,
        colour: float = 0.0,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.settings = {
            "head": head,
            "pyramid": pyramid,
            "pyramid_channels": pyramid_channels,
            "pyramid_levels": list(pyramid_levels),
            "sampled": sampled,
            "positive_fraction": positive_fraction,
            "foreground_iou": foreground_iou,
            "score_threshold": score_threshold,
            "nms_iou": nms_iou,
            "detections": detections,
            "longest": longest,
            "scales": list(scales),
            "flip": flip,
            "vertical_flip": vertical_flip,
            "colour": colour,
        }
        _check_settings(self.settings)
        self.score_threshold, self.nms_iou, self.detections = score_threshold, nms_iou, detections
        # A canvas of whole steps of the coarsest map, as torchvision's: p5 and p6 are not rounded differently.
        backbone.prepare_for(replace(backbone.preprocessing, divisor=DIVISOR))
        self.preprocessing = backbone.preprocessing
        self.box_head, self.region_levels, side = build_head(backbone, head)
        self.levels = self.region_levels
        self.strides = {name: level.stride for name, level in backbone.levels.items()}
        self.region_channels = backbone.levels[self.region_levels[-1]].channels
        self.box_pool = RoIAlign(self.strides, self.region_levels, side)
        self.box_predictor = BoxPredictor(self.box_head.outputs, len(classes))  # type: ignore[arg-type]

    @classmethod
    def recipe(cls, pretrained: bool) -> dict[str, Any]:
        """Small batches, whose statistics no batch norm should learn; a pyramid and heads that begin at random."""
        options = {"batch": 8, "epochs": 20, "lr": "0.0003", "warmup": 1.0, "clip": 10.0}
        return options | ({"frozen_norm": True, "backbone_lr": 0.0001} if pretrained else {})

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone with a pyramid over its `pyramid_levels`, as far as it has them, unless `pyramid` is off."""
        if not settings.get("pyramid", True) or isinstance(backbone, FPN):
            return backbone
        asked, channels = settings.get("pyramid_levels", PYRAMID), settings.get("pyramid_channels", 256)
        if channels < 1:
            raise DataError(f"pyramid_channels={channels}: a pyramid's maps have at least one channel")
        levels = [name for name in backbone.levels if name in asked]  # finest first, however they are given
        if (
            not levels or not levels[-1][1:].isdigit()
        ):  # the coarser level above the last is numbered after it
            raise DataError(
                f"pyramid_levels={','.join(asked)}: the backbone has {list(backbone.levels)}, and the last one must "
                f"be a c; or use pyramid=false"
            )
        return FPN(backbone, levels, channels, "pool")

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
        return self.learn(features, targets, self.given(pictures))

    def given(self, pictures: Pictures) -> list[Tensor]:
        """The pictures' proposals; DataError where there are none."""
        if "proposals" not in pictures.inputs:
            raise DataError(
                "fast_rcnn reads the input 'proposals', which these pictures lack: give regions=FILE, which "
                "`retinue propose` writes; faster_rcnn makes its own"
            )
        return [boxes.float() for boxes in pictures.inputs["proposals"]]

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

    def predict(self, features: Features, pictures: Pictures) -> list[Detections]:
        """The objects of every picture."""
        return self.answer(features, pictures, self.given(pictures))

    def answer(self, features: Features, pictures: Pictures, proposals: Sequence[Tensor]) -> list[Detections]:
        """Results in the file's pixels from proposals in canvas pixels."""
        logits, codes = self.box_predictor(self.box_head(self.box_pool(features, proposals)))
        found = select(
            logits, codes, proposals, pictures.sizes, self.score_threshold, self.nms_iou, self.detections
        )
        return [
            Detections(
                id=id,
                boxes=boxes,
                scores=scores.cpu().numpy(),
                labels=labels.cpu().numpy(),
                classes=self.classes,
                size=size,
                **more,
            )
            for id, boxes, scores, labels, size, more in zip(
                pictures.ids,
                to_file(found.boxes.split(found.counts), pictures),
                found.scores.split(found.counts),
                found.labels.split(found.counts),
                pictures.file_sizes,
                self.answer_more(features, found, pictures),
            )
        ]

    def answer_more(self, features: Features, found: Found, pictures: Pictures) -> list[dict[str, Any]]:
        """What further branches add to each picture's `Detections`; nothing here."""
        return [{} for _ in found.counts]

    # Around training

    def train_transform(self, side: int) -> Transform:
        """A shorter side of about `side`, mirrored, perhaps in other colours (RGB pictures only)."""
        low, high = (round(side * scale) for scale in self.settings["scales"])
        steps: list[Transform] = [RandomResize(low, high, round(high * self.settings["longest"]))]
        pairs = self.classes.keypoints.get("pairs", ())
        if self.settings["flip"]:
            steps.append(HorizontalFlip(pairs=pairs))
        if self.settings["vertical_flip"]:
            steps.append(VerticalFlip(pairs=pairs))
        if (v := self.settings["colour"]) and len(self.preprocessing.mean) == 3:
            steps.append(ColorJitter(v, v, v))
        return Compose(steps)

    def eval_transform(self, side: int) -> Transform:
        """A shorter side of `side`, or less where the longer one would pass its bound."""
        return Resize(side, int(side * self.settings["longest"]), antialias=False)

    def metric(self) -> DetectionMetric:
        """COCO's average precision and what surrounds it."""
        return DetectionMetric(self.classes, self.kinds)

    def draw_batch(
        self, pictures: Pictures, targets: Sequence[Target], results: Sequence[Detections] | None = None
    ) -> np.ndarray:
        """A contact sheet (h, w, 3) uint8 RGB with boxes and class names; with `results`, those beside the truth."""
        return draw_batch(pictures, targets, self.classes, results)

    def plots(self, metric: DetectionMetric) -> dict[str, Callable[[str], None]]:
        """Precision and recall, confusion, classes and kinds of errors."""
        return detection_plots(metric.judged(), self.classes)


def _check_settings(settings: dict[str, Any]) -> None:
    for name, least, most in (
        ("positive_fraction", 0, 1),
        ("foreground_iou", 0, 1),
        ("score_threshold", 0, 1),
        ("nms_iou", 0, 1),
        ("colour", 0, 1),
        ("sampled", 1, 10**6),
        ("detections", 1, 10**6),
        ("pyramid_channels", 1, 10**5),
        ("longest", 1, 100),
    ):
        if not least <= settings[name] <= most:
            raise DataError(f"{name}={settings[name]}: {name} is from {least} to {most}")
    scales = settings["scales"]
    if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
        raise DataError(f"scales={scales}: two shares of imgsz, 0 < least <= most")
