"""YOLO v3 (Redmon and Farhadi 2018, arXiv:1804.02767): boxes from anchors at every cell of three maps, in one pass.

Objectness and classes are logistic, so that classes need not exclude each other. Where the paper says nothing, its
program, darknet, is followed.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.darknet import convolution
from retinue.backbones.fused import fuse
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target, Transform
from retinue.datasets.transforms import Compose, HSVJitter, Letterbox, RandomAffine
from retinue.tasks.detection.anchor_clusters import box_sizes, cluster
from retinue.tasks.detection.batch_truth import best_overlap, in_crowd, objects_of
from retinue.tasks.detection.box_coding import LARGEST, clip, picture_sizes
from retinue.tasks.detection.detector import Detector
from retinue.tasks.detection.regions import Found, best_of, refuse_nan
from retinue.tasks.recipe import check_range
from retinue.tasks.task import mean_over_ranks

COCO = (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326)
"""Widths and heights, in pixels, of the nine anchors of section 2.3: clusters of COCO's boxes on pictures of 416."""
LEVELS = ("c3", "c4", "c5")
DIVISOR = 32
GREY = 0.5
"""Light of what pads the letterboxed picture."""
PRIOR = 0.01
"""Objectness that a new network begins with (Lin et al. 2017, arXiv:1708.02002, section 3.3)."""

Size = tuple[int, int]


class Stage(nn.Module):
    """What reads one scale: five convolutions for the next scale too, and one more to predict from."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.five = nn.Sequential(
            convolution(inputs, half, 1),
            convolution(half, width, 3),
            convolution(width, half, 1),
            convolution(half, width, 3),
            convolution(width, half, 1),
        )
        self.expand = convolution(half, width, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, inputs, h, w) -> the maps (n, width / 2, h, w) and (n, width, h, w)."""
        x = self.five(x)
        return x, self.expand(x)


class YOLOv3(Detector):
    """Boxes from anchors at three scales, on letterboxed squares.

    anchors: "coco", the paper's; "kmeans", the training boxes' own clusters, which `clusters` then holds, as parts of
    the canvas's side; or widths and heights in pixels, w, h, w, h ..., the smallest first, as many on each of the three
    maps. width: channels of the finest map that is predicted from; the next have twice and four times as many (256 as
    published). ignore_iou: a prediction that overlaps some object more than this is no background, though another one
    stands for that object. shift: largest shift of a training picture, as a part of its sides. colour: exposure and
    saturation change by a factor of up to 1 + colour. The other settings are `Detector`'s; `longest` is refused.

    Raises DataError for settings out of range, and for a backbone without c3, c4 and c5.
    """

    square: ClassVar[bool] = True
    groups_by_aspect: ClassVar[bool] = False
    default_side: ClassVar[int] = 416
    resolved: ClassVar[frozenset[str]] = frozenset({"clusters"})

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        anchors: Literal["coco", "kmeans"] | Sequence[float] = "coco",
        clusters: Sequence[float] | None = None,
        width: int = 256,
        ignore_iou: float = 0.5,
        score_threshold: float = 0.01,
        nms_iou: float = 0.45,
        scales: tuple[float, float] = (0.75, 1.4),
        shift: float = 0.2,
        colour: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(
            classes,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            scales=scales,
            colour=colour,
            **settings,
        )
        self.settings |= {
            "anchors": anchors if isinstance(anchors, str) else list(anchors),
            "clusters": list(clusters) if clusters is not None else None,
            "width": width,
            "ignore_iou": ignore_iou,
            "shift": shift,
        }
        check_range(self.settings, "width", 2, 10**5)
        check_range(self.settings, "ignore_iou", 0, 1)
        check_range(self.settings, "shift", 0, 1)
        if missing := [name for name in LEVELS if name not in backbone.levels]:
            raise DataError(f"yolov3 reads c3, c4 and c5, and this backbone has no {', '.join(missing)}")
        self.register_buffer("priors", _priors(self.settings), persistent=False)
        backbone.chop()
        grey = (GREY,) * backbone.in_channels
        backbone.prepare_for(replace(backbone.preprocessing, divisor=DIVISOR, pad=grey))
        self.preprocessing = backbone.preprocessing
        self.levels = LEVELS
        coarse, *finer = [backbone.levels[name].channels for name in reversed(LEVELS)]
        self.stages = nn.ModuleList([Stage(coarse, width * 4)])
        self.reductions = nn.ModuleList()
        for channels, own in zip(finer, (width * 2, width)):
            self.reductions.append(convolution(own, own // 2, 1))
            self.stages.append(Stage(own // 2 + channels, own))
        self.forget_classes()

    priors: Tensor
    """(3, k, 2) float32: the anchors of each map, the finest first, in pixels or, if clusters, parts of the side."""

    @classmethod
    def resolve_settings(cls, settings: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """`anchors="kmeans"` gets nine `clusters` of the training boxes."""
        if settings.get("anchors") != "kmeans" or settings.get("clusters") is not None:
            return settings
        centres = cluster(box_sizes(dataset), 9)
        return {**settings, "clusters": [round(side, 5) for side in centres.flatten().tolist()]}

    def forget_classes(self) -> None:
        """New last layers."""
        each, count = 5 + len(self.classes), self.priors.shape[1]
        widths = [self.settings["width"] * 2**i for i in reversed(range(len(LEVELS)))]
        self.predictors = nn.ModuleList(nn.Conv2d(width, count * each, 1) for width in widths)
        for predictor in self.predictors:
            nn.init.normal_(predictor.weight, 0, 0.01)  # type: ignore[arg-type]
            bias = torch.zeros(count, each)
            bias[:, 4] = -math.log((1 - PRIOR) / PRIOR)
            predictor.bias = nn.Parameter(bias.flatten())

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`; what is predicted is computed in float32."""
        self.stages = nn.ModuleList(fuse(stage, dtype) for stage in self.stages)
        self.reductions = nn.ModuleList(fuse(reduction, dtype) for reduction in self.reductions)
        self.predictors = nn.ModuleList(fuse(last, torch.float32) for last in self.predictors)

    # The network

    def maps(self, features: Features) -> list[Tensor]:
        """(n, k * (5 + classes), h, w) of every scale, finest first: of each anchor tx ty tw th to, then classes."""
        coarse, *finer = [features[name] for name in reversed(self.levels)]
        x, wide = self.stages[0](coarse)
        maps = [self.predictors[0](wide)]
        for own, reduce, stage, predictor in zip(
            finer, self.reductions, self.stages[1:], self.predictors[1:], strict=True
        ):
            enlarged = F.interpolate(reduce(x), own.shape[-2:], mode="nearest")
            x, wide = stage(torch.cat([enlarged, own.to(enlarged.dtype)], 1))
            maps.append(predictor(wide))
        return maps[::-1]

    def score(self, features: Features, pictures: Pictures) -> tuple[Tensor, "Cells"]:
        """Predictions (n, a, 5 + classes) float32 of all anchors of all cells, and these cells."""
        maps, count = self.maps(features), self.priors.shape[1]
        canvas = (pictures.pixels.shape[-2], pictures.pixels.shape[-1])
        rows = [m.float().unflatten(1, (count, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3) for m in maps]
        grids = [(m.shape[-2], m.shape[-1]) for m in maps]
        return torch.cat(rows, 1), Cells(canvas, grids, self.anchors(max(canvas)))

    def anchors(self, side: int) -> Tensor:
        """(3, k, 2) float32: width and height, in pixels of a canvas of `side`, of each map's anchors, finest first."""
        return self.priors * side if self.settings["anchors"] == "kmeans" else self.priors

    # Training

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """`box`, `objectness` and `class`: sums over a picture, means over pictures.

        Binary cross entropy of objectness, classes and of the position in the cell, whose gradient before the logistic
        is the plain difference of section 2.1; half the squared difference for sides. Small boxes count up to twice.
        """
        scored, cells = self.score(features, pictures)
        picture, boxes, labels = objects_of(targets)
        where, chosen = cells.places(), cells.responsible(boxes)
        positive = torch.zeros_like(scored[..., 4], dtype=torch.bool)
        positive[picture, chosen] = True
        with torch.no_grad():
            predicted = decode(scored[..., :4], where)
            ignored = best_overlap(predicted, targets) > self.settings["ignore_iou"]
            ignored |= in_crowd(predicted, targets)
        wrong = F.binary_cross_entropy_with_logits(scored[..., 4], positive.float(), reduction="none")
        objectness = (wrong * (positive | ~ignored)).sum()
        codes, truth = scored[picture, chosen, :4], encode(boxes, where[chosen])
        off_xy = F.binary_cross_entropy_with_logits(codes[:, :2], truth[:, :2], reduction="none")
        off_wh = (codes[:, 2:] - truth[:, 2:]).square() / 2
        small = 2 - (boxes[:, 2:] - boxes[:, :2]).prod(1) / math.prod(cells.canvas)
        totals = {
            "box": (small[:, None] * (off_xy + off_wh)).sum(),
            "objectness": objectness,
            "class": class_loss(scored[..., 5:], picture, chosen, labels),
        }
        return {name: mean_over_ranks(total, len(targets)) for name, total in totals.items()}

    # Prediction

    def find(self, features: Features, pictures: Pictures) -> Found:
        """The objects of a batch, in canvas pixels: a score is objectness times the class's probability."""
        scored, cells = self.score(features, pictures)
        refuse_nan(scored)
        objectness = scored[..., 4].sigmoid()
        picture, place = torch.where(objectness > self.score_threshold)
        rows = scored[picture, place]
        scores = objectness[picture, place, None] * rows[:, 5:].sigmoid()
        row, labels = torch.where(scores > self.score_threshold)
        picture, scores = picture[row], scores[row, labels]
        boxes = decode(rows[row, :4], cells.places()[place[row]])
        boxes = clip(boxes, picture_sizes(pictures.sizes, boxes)[picture])
        return best_of(boxes, scores, labels, picture, len(pictures), self.nms_iou, self.detections)

    # Around training

    def train_transform(self, side: int) -> Transform:
        """Letterboxed, moved and zoomed, mirrored, in other colours."""
        shift = self.settings["shift"]
        moved = RandomAffine(translate=(shift, shift), scale=tuple(self.settings["scales"]), pad=GREY)
        return Compose([Letterbox(side, GREY, centred=True), moved, *self.looks()])

    def colours(self, strength: float) -> Transform:
        """Exposure and saturation."""
        return HSVJitter(1 + strength, 1 + strength)

    def eval_transform(self, side: int) -> Transform:
        """In the middle of a grey square, by plain bilinear sampling, as darknet does it."""
        return Letterbox(side, GREY, centred=True, antialias=False)


# Cells and anchors


class Cells:
    """The anchors at every cell of several maps.

    canvas, grids: (height, width) in pixels, and in cells for each map. anchors: (maps, k, 2) float32, widths and
    heights in canvas pixels. Flat indices go map by map, row by row, cell by cell.
    """

    def __init__(self, canvas: Size, grids: Sequence[Size], anchors: Tensor) -> None:
        self.canvas, self.grids, self.anchors = canvas, grids, anchors
        self.each = anchors.shape[1]
        self.steps = anchors.new_tensor([[canvas[1] / columns, canvas[0] / rows] for rows, columns in grids])

    def places(self) -> Tensor:
        """(a, 6) float32 of every anchor: column and row, a cell's width and height, the anchor's width and height."""
        parts = []
        for (rows, columns), step, anchors in zip(self.grids, self.steps, self.anchors):
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            cells = torch.stack([x, y], -1).to(anchors)[:, :, None].expand(-1, -1, self.each, -1)
            parts.append(torch.cat([cells, step.expand_as(cells), anchors.expand_as(cells)], -1).view(-1, 6))
        return torch.cat(parts)

    def responsible(self, boxes: Tensor) -> Tensor:
        """(m,) int64: the one anchor that stands for each of boxes (m, 4): the best of all by shape, where it lies."""
        sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
        anchors = self.anchors.view(-1, 2)
        common = torch.minimum(sides[:, None], anchors).prod(2)
        best = (common / (sides.prod(1)[:, None] + anchors.prod(1) - common)).argmax(1)
        level, slot = best // self.each, best % self.each
        counts = torch.tensor(self.grids, device=boxes.device)
        first = counts.prod(1).cumsum(0) - counts.prod(1)
        cells = (centres / self.steps[level]).long().clamp(min=0).minimum(counts[level].flip(1) - 1)
        return (first[level] + cells[:, 1] * counts[level, 1] + cells[:, 0]) * self.each + slot


def decode(codes: Tensor, places: Tensor) -> Tensor:
    """Boxes (..., 4) float32 of predictions tx ty tw th (..., 4), figure 2; places (..., 6) broadcast."""
    cell, step, anchor = places.split(2, -1)
    centre = (codes[..., :2].float().sigmoid() + cell) * step
    half = codes[..., 2:].float().clamp(max=LARGEST).exp() * anchor / 2
    return torch.cat([centre - half, centre + half], -1)


def encode(boxes: Tensor, places: Tensor) -> Tensor:
    """The inverse of `decode`, logistic aside: where in the cell (0 to 1), logarithms of the sides' ratios."""
    cell, step, anchor = places.split(2, -1)
    centre, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    return torch.cat([(centre / step - cell).clamp(0, 1), (sides / anchor).log()], -1)


def class_loss(logits: Tensor, picture: Tensor, chosen: Tensor, labels: Tensor) -> Tensor:
    """The sum of binary cross entropies over classes, of the predictions (n, a, classes) that stand for objects.

    One that stands for several objects is to have all of their classes.
    """
    where, rows = torch.unique(torch.stack([picture, chosen]), dim=1, return_inverse=True)
    truth = logits.new_zeros(where.shape[1], logits.shape[2])
    truth[rows, labels] = 1
    return F.binary_cross_entropy_with_logits(logits[where[0], where[1]], truth, reduction="sum")


def _priors(settings: dict[str, Any]) -> Tensor:
    """The anchors of the three maps, (3, k, 2) float32; DataError for what are none."""
    given, clusters = settings["anchors"], settings["clusters"]
    if given == "kmeans" and clusters is None:
        raise DataError("anchors=kmeans: their clusters come from training data; train, or give clusters=")
    values = {"coco": COCO, "kmeans": clusters}.get(given) if isinstance(given, str) else given
    if not values or len(values) % (2 * len(LEVELS)) or not all(0 < value < 1e5 for value in values):
        raise DataError(
            f"anchors={given}: say coco, kmeans, or widths and heights above 0 of as many anchors on each of "
            f"{len(LEVELS)} maps: 6, 12, 18 ... numbers"
        )
    return torch.tensor(values, dtype=torch.float32).view(len(LEVELS), -1, 2)
