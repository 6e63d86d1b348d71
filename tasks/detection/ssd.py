"""SSD (Liu et al. 2016, arXiv:1512.02325): default boxes on ever smaller maps, in one pass over a square picture.

On VGG-16 it is the paper's network: conv4_3 with its norm, the classifier's fc6 and fc7 as convolutions, and the extra
layers of SSD300. Any other trunk lends its c3, c4 and c5.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.fused import fuse
from retinue.backbones.vgg import VGG
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target, Transform
from retinue.datasets.transforms import (
    Compose,
    RandomIoUCrop,
    RandomZoomOut,
    ResizeTo,
    photometric_distortion,
)
from retinue.tasks.detection.box_coding import REGION_WEIGHTS, clip, decode, encode, picture_sizes
from retinue.tasks.detection.default_boxes import DefaultBoxes
from retinue.tasks.detection.dense_head import best_above, rows
from retinue.tasks.detection.detector import Detector
from retinue.tasks.detection.losses import smooth_l1
from retinue.tasks.detection.matching import BELOW, assign, matched_rows
from retinue.tasks.detection.regions import Found, best_of, refuse_nan
from retinue.tasks.recipe import check_range
from retinue.tasks.task import mean_over_ranks

NORM = 20.0
"""What the norm of conv4_3 at each position is at first (section 3.1)."""


class SSD(Detector):
    """Boxes of default boxes on maps of the trunk and of extra layers above it.

    feature_levels: of the trunk; None takes the paper's for VGG, and c3, c4 and c5 elsewhere. extra_channels: of the
    extra maps. box_scales: sides of square default boxes as shares of the canvas's, one a map and one beyond; None
    spreads them from 0.2 to 1.05, with 0.1 on the first map. box_ratios: how many times as long as wide others are;
    the finest map and the two coarsest have the first ratio only, unless `every_ratio`. box_steps: pixels from one
    position to the next, of each map; None divides the canvas by the map's size. foreground_iou: a default box is an
    object from this overlap with a true box on, or where none fits it better. negatives: how many background boxes
    count for each object, the hardest ones. candidates: of each class of a picture into suppression. zoom_out, crop:
    how much smaller training pictures may become on a grey canvas, and whether parts of them are taken. colour: of the
    photometric distortion, 0.5 as published. The others are `Detector`'s.

    Raises DataError for settings out of range, or that the backbone cannot have.
    """

    square: ClassVar[bool] = True
    groups_by_aspect: ClassVar[bool] = False
    default_side: ClassVar[int] = 300

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        feature_levels: Sequence[str] | None = None,
        extra_channels: Sequence[int] = (512, 256, 256, 256),
        box_scales: Sequence[float] | None = None,
        box_ratios: Sequence[float] = (2.0, 3.0),
        every_ratio: bool = False,
        box_steps: Sequence[float] | None = None,
        foreground_iou: float = 0.5,
        negatives: float = 3.0,
        candidates: int = 400,
        zoom_out: float = 4.0,
        crop: bool = True,
        score_threshold: float = 0.01,
        nms_iou: float = 0.45,
        detections: int = 200,
        colour: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(
            classes,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            detections=detections,
            colour=colour,
            **settings,
        )
        self.settings |= {
            "feature_levels": None if feature_levels is None else list(feature_levels),
            "extra_channels": list(extra_channels),
            "box_scales": None if box_scales is None else list(box_scales),
            "box_ratios": list(box_ratios),
            "every_ratio": every_ratio,
            "box_steps": None if box_steps is None else list(box_steps),
            "foreground_iou": foreground_iou,
            "negatives": negatives,
            "candidates": candidates,
            "zoom_out": zoom_out,
            "crop": crop,
        }
        self.levels = tuple(feature_levels or self.default_levels(backbone))
        _check_settings(self.settings, backbone, self.levels)
        self.preprocessing = backbone.preprocessing
        published = self.levels[-1] == "fc7"
        self.scale = (
            nn.Parameter(torch.full((backbone.levels[self.levels[0]].channels,), NORM)) if published else None
        )
        channels = [backbone.levels[name].channels for name in self.levels] + list(extra_channels)
        self.extra = nn.ModuleList(
            self.extra_layer(inputs, outputs, strided=not published or i < len(extra_channels) - 2)
            for i, (inputs, outputs) in enumerate(zip(channels[len(self.levels) - 1 :], extra_channels))
        )
        short, all_ratios, maps = list(box_ratios[:1]), list(box_ratios), len(channels)
        few = set() if every_ratio else {0, maps - 2, maps - 1}
        ratios = [short if i in few else all_ratios for i in range(maps)]
        self.default_boxes = DefaultBoxes(box_scales or self.default_scales(maps), ratios, box_steps)
        self.channels = channels
        self.class_head = self._head(1 + len(classes))
        self.box_head = self._head(4)

    # The network

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone itself; VGG with fc6 and fc7 as convolutions."""
        if isinstance(backbone, VGG) and not settings.get("feature_levels"):
            backbone.make_atrous()
        return backbone

    @staticmethod
    def default_levels(backbone: Backbone) -> list[str]:
        """The levels that are read unless others are asked for."""
        if "fc7" in backbone.levels:
            return [next(name for name in backbone.levels if name.startswith("conv4_")), "fc7"]
        return ["c3", "c4", "c5"]

    @staticmethod
    def default_scales(maps: int) -> list[float]:
        """Section 3.1: 0.1 on the first map, the others evenly from 0.2 on (for SSD300 in the authors' figures)."""
        return [0.1, *np.linspace(0.2, 1.05, maps).tolist()]

    def extra_layer(self, inputs: int, outputs: int, strided: bool) -> nn.Module:
        """One extra map of half the side, or without stride and zeros around, two pixels smaller."""
        stride, padding = (2, 1) if strided else (1, 0)
        layers = (
            nn.Conv2d(inputs, outputs // 2, 1),
            nn.Conv2d(outputs // 2, outputs, 3, stride, padding),
        )
        for layer in layers:
            xavier(layer)
        return nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[1], nn.ReLU(inplace=True))

    def predictor(self, inputs: int, outputs: int) -> nn.Module:
        """What says `outputs` values at each position of a map."""
        return xavier(nn.Conv2d(inputs, outputs, 3, padding=1))

    def _head(self, columns: int) -> nn.ModuleList:
        counts = self.default_boxes.per_position
        return nn.ModuleList(self.predictor(c, columns * n) for c, n in zip(self.channels, counts))

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`."""
        for name in ("extra", "class_head", "box_head"):
            setattr(self, name, nn.ModuleList(fuse(part, dtype) for part in getattr(self, name)))

    def forget_classes(self) -> None:
        """A new class head."""
        self.class_head = self._head(1 + len(self.classes))

    def maps(self, features: Features) -> list[Tensor]:
        """The trunk's maps and the extra ones, finest first. Raises DataError where the picture is too small."""
        maps = [features[name] for name in self.levels]
        x = maps[-1]
        if self.scale is not None:
            maps[0] = F.normalize(maps[0].float()) * self.scale.float()[:, None, None]
        for i, layer in enumerate(self.extra):
            if self.scale is not None and i >= len(self.extra) - 2 and min(x.shape[-2:]) < 3:
                raise DataError("pictures are too small for SSD's extra layers on VGG: imgsz=300 or more")
            x = layer(x)
            maps.append(x)
        return maps

    def score(self, features: Features, pictures: Pictures) -> tuple[Tensor, Tensor, Tensor]:
        """(logits (n, a, 1 + classes), background first, codes (n, a, 4), default boxes (a, 4))."""
        maps = self.maps(features)
        columns = 1 + len(self.classes)
        logits = torch.cat([rows(part(x), columns) for part, x in zip(self.class_head, maps)], 1)
        codes = torch.cat([rows(part(x), 4) for part, x in zip(self.box_head, maps)], 1)
        canvas = (pictures.pixels.shape[-2], pictures.pixels.shape[-1])
        grids = [(x.shape[-2], x.shape[-1]) for x in maps]
        return logits, codes, self.default_boxes(canvas, grids, logits.device)

    # Training

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """`class` of objects and of the hardest background, `box` of objects, divided by the number of objects (eq. 1).

        A picture without objects has the background of one, so that it says that there is nothing.
        """
        logits, codes, anchors = self.score(features, pictures)
        iou = self.settings["foreground_iou"]
        matched = torch.stack(
            [assign(anchors, t["boxes"], t.get("crowd"), iou, iou, every_truth="own") for t in targets]
        )
        positive = matched >= 0
        labels = torch.zeros_like(matched)
        labels[positive] = matched_rows(matched, targets, "box_labels") + 1
        wrong = F.cross_entropy(logits.float().movedim(2, 1), labels, reduction="none")
        wanted = self.settings["negatives"] * positive.sum(1).clamp(min=1)
        counted = positive | hardest(wrong.detach(), matched == BELOW, wanted)
        truth = encode(
            matched_rows(matched, targets, "boxes"), anchors[torch.where(positive)[1]], REGION_WEIGHTS
        )
        count = positive.sum()
        return {
            "class": mean_over_ranks(wrong[counted].sum(), count, least=1),
            "box": mean_over_ranks(smooth_l1(codes[positive], truth, beta=1.0), count, least=1),
        }

    # Prediction

    def find(self, features: Features, pictures: Pictures) -> Found:
        """The objects of a batch, in canvas pixels."""
        logits, codes, anchors = self.score(features, pictures)
        refuse_nan(logits)
        refuse_nan(codes)
        scores = logits.float().softmax(2)[..., 1:]
        best = best_above(scores, self.score_threshold, self.settings["candidates"], by_class=True)
        boxes = decode(codes[best.picture, best.place], anchors[best.place], REGION_WEIGHTS)
        boxes = clip(boxes, picture_sizes(pictures.sizes, boxes)[best.picture])
        count = len(pictures)
        return best_of(
            boxes, best.scores, best.labels, best.picture, count, self.nms_iou, self.detections, smallest=0
        )

    # Around training

    def train_transform(self, side: int) -> Transform:
        """Smaller on a grey canvas, a part that shows an object, a square, mirrored, in other colours (section 2.2)."""
        most, grey = self.settings["zoom_out"], float(np.mean(self.preprocessing.mean))
        away = [RandomZoomOut(most, pad=grey)] if most > 1 else []
        parts = [RandomIoUCrop()] if self.settings["crop"] else []
        return Compose([*away, *parts, ResizeTo(side, side, antialias=False), *self.looks()])

    def colours(self, strength: float) -> Transform:
        """Photometric distortion (section 3.6)."""
        return photometric_distortion(strength)

    def eval_transform(self, side: int) -> Transform:
        """A square of `side`, whatever the picture's aspect."""
        return ResizeTo(side, side, antialias=False)


def hardest(losses: Tensor, negative: Tensor, wanted: Tensor) -> Tensor:
    """(n, a) bool: in each row the negatives with the largest losses, fewer than `wanted` (n,) + 1 of them.

    Hard negative mining (section 2.2). losses: (n, a). negative: (n, a) bool.
    """
    order = losses.where(negative, -torch.inf).argsort(1, descending=True)
    rank = torch.arange(losses.shape[1], device=losses.device).expand_as(order)
    return negative & (torch.empty_like(order).scatter_(1, order, rank) < wanted[:, None])


def xavier(layer: nn.Conv2d) -> nn.Conv2d:
    """Weights by Glorot's uniform distribution, biases of 0, in place. Returns it."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _check_settings(settings: dict[str, Any], backbone: Backbone, levels: Sequence[str]) -> None:
    if unknown := [name for name in levels if name not in backbone.levels]:
        raise DataError(
            f"feature_levels={','.join(levels)}: no {unknown}; the backbone has {list(backbone.levels)}"
        )
    if settings["scales"] != [1.0, 1.0]:
        raise DataError(
            f"scales={settings['scales']}: pictures become squares of imgsz; see zoom_out and crop"
        )
    maps = len(levels) + len(settings["extra_channels"])
    for name, count in (("box_scales", maps + 1), ("box_steps", maps)):
        if settings[name] is not None and len(settings[name]) != count:
            raise DataError(f"{name}={settings[name]}: {count} numbers for {maps} maps")
    for name in ("box_scales", "box_ratios", "box_steps", "extra_channels"):
        if not all(0 < value < 1e6 for value in settings[name] or ()):
            raise DataError(f"{name}={settings[name]}: give numbers above 0")
    check_range(settings, "foreground_iou", 0, 1)
    check_range(settings, "negatives", 0, 10**6)
    check_range(settings, "candidates", 1, 10**6)
    check_range(settings, "zoom_out", 1, 16)
