"""YOLO (Redmon et al. 2016, arXiv:1506.02640): one network from the picture to boxes, a few for each cell of a grid.

Detection as regression: a cell predicts some boxes with their confidence, and the classes of what is centred in it.
"""

from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.darknet import convolution
from retinue.backbones.fused import fuse
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target, Transform
from retinue.datasets.transforms import Compose, HSVJitter, RandomAffine, ResizeTo
from retinue.tasks.detection.batch_truth import in_crowd, objects_of
from retinue.tasks.detection.box_coding import clip, picture_sizes
from retinue.tasks.detection.detector import Detector
from retinue.tasks.detection.regions import Found, best_of, refuse_nan
from retinue.tasks.recipe import check_range
from retinue.tasks.task import mean_over_ranks

Head = Literal["fc", "conv"]
GREY = 0.5
"""Light beyond the picture where training moves it."""


class YOLOv1(Detector):
    """Boxes of a grid's cells, on pictures that are resized to a square whatever their aspect.

    grid: cells a side (S). cell_boxes: boxes that a cell predicts (B). head: after four convolutions of `width`
    channels on the backbone's coarsest map, "fc" has one hidden layer of `units` with dropout that sees the whole
    picture, as published; "conv" predicts each cell from its own column, with a twentieth of the weights. lambda_coord,
    lambda_noobj: weights of the loss of boxes, and of the confidence of boxes that stand for no object (equation 3).
    shift: largest shift of a training picture, as a part of its sides. colour: exposure and saturation change by a
    factor of up to 1 + colour. The other settings are `Detector`'s; `longest` is refused.

    Raises DataError for settings out of range.
    """

    square: ClassVar[bool] = True
    groups_by_aspect: ClassVar[bool] = False
    default_side: ClassVar[int] = 448

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        grid: int = 7,
        cell_boxes: int = 2,
        head: Head = "fc",
        width: int = 1024,
        units: int = 4096,
        lambda_coord: float = 5.0,
        lambda_noobj: float = 0.5,
        score_threshold: float = 0.01,
        scales: tuple[float, float] = (0.8, 1.2),
        shift: float = 0.2,
        colour: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(classes, score_threshold=score_threshold, scales=scales, colour=colour, **settings)
        own = {
            "grid": grid, "cell_boxes": cell_boxes, "head": head, "width": width, "units": units,
            "lambda_coord": lambda_coord, "lambda_noobj": lambda_noobj, "shift": shift,
        }  # fmt: skip
        self.settings |= own
        for name, most in {"grid": 100, "cell_boxes": 100, "width": 10**5, "units": 10**6}.items():
            check_range(self.settings, name, 1, most)
        for name, limit in {"lambda_coord": 1e6, "lambda_noobj": 1e6, "shift": 1}.items():
            check_range(self.settings, name, 0, limit)
        if head not in get_args(Head):
            raise DataError(f"head={head!r}: use one of {', '.join(get_args(Head))}")
        backbone.chop()
        backbone.prepare_for(replace(backbone.preprocessing, pad=(GREY,) * backbone.in_channels))
        self.preprocessing = backbone.preprocessing
        self.levels = (max(backbone.levels, key=lambda name: backbone.levels[name].stride),)
        level = backbone.levels[self.levels[0]]
        reduced = 2 if level.stride * grid * 2 <= self.default_side else 1
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(grid * reduced),  # nothing at the default size; others come to the same grid
            convolution(level.channels, width, 3),
            convolution(width, width, 3, reduced),
            convolution(width, width, 3),
            convolution(width, width, 3),
        )
        if head == "fc":
            hidden = nn.Linear(width * grid**2, units)
            self.body.extend([nn.Flatten(), hidden, nn.LeakyReLU(0.1), nn.Dropout(0.5)])
        self.forget_classes()

    def forget_classes(self) -> None:
        """A new last layer: boxes in the middle of their cells, a quarter of the picture's sides."""
        settings = self.settings
        grid, count = settings["grid"], settings["cell_boxes"]
        bias = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0] * count + [1 / len(self.classes)] * len(self.classes))
        last: nn.Conv2d | nn.Linear
        if settings["head"] == "fc":
            last, bias = nn.Linear(settings["units"], grid**2 * len(bias)), bias.repeat(grid**2)
        else:
            last = nn.Conv2d(settings["width"], len(bias), 1)
        nn.init.normal_(last.weight, 0, 0.01)
        last.bias = nn.Parameter(bias)
        self.last = last

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`; what is predicted is computed in float32."""
        self.body = fuse(self.body, dtype)  # type: ignore[assignment]
        self.last = fuse(self.last, torch.float32)  # type: ignore[assignment]

    def score(self, features: Features) -> tuple[Tensor, Tensor]:
        """Of the cells, row by row, float32: boxes (n, cells, B, 5), x y in the cell, roots of the sides as parts of
        the canvas's, confidence; and the classes (n, cells, C)."""
        grid, count = self.settings["grid"], self.settings["cell_boxes"]
        values = self.last(self.body(features[self.levels[0]])).float()
        if values.dim() == 4:
            values = values.permute(0, 2, 3, 1)
        boxes, classes = values.reshape(len(values), grid**2, -1).split([5 * count, len(self.classes)], 2)
        return boxes.unflatten(2, (count, 5)), classes

    # Training

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """The terms of equation 3, sums over a picture, means over pictures: `box` (the first two), `objectness` (the
        next two, of confidence, which is to be the IoU with the object) and `class`.

        Where several objects are centred in a cell, each pulls at the box that is nearest to it and at the classes.
        """
        predicted, classes = self.score(features)
        canvas = (pictures.pixels.shape[-2], pictures.pixels.shape[-1])
        grid, weights = self.settings["grid"], self.settings
        picture, boxes, labels = objects_of(targets)
        with torch.no_grad():
            decoded = decode(predicted[..., :4], grid, canvas)
            cell, codes = encode(boxes, grid, canvas)
            slot, overlap = responsible(decoded[picture, cell], boxes)
            empty = ~in_crowd(decoded.flatten(1, 2), targets).view(predicted.shape[:3])
            empty[picture, cell, slot] = False
        own = predicted[picture, cell, slot]
        box = (own[:, :4] - codes).square().sum()
        objects = (own[:, 4] - overlap).square().sum()
        nothing = (predicted[..., 4].square() * empty).sum()
        truth = nn.functional.one_hot(labels, classes.shape[2]).to(classes)
        totals = {
            "box": weights["lambda_coord"] * box,
            "objectness": objects + weights["lambda_noobj"] * nothing,
            "class": (classes[picture, cell] - truth).square().sum(),
        }
        return {name: mean_over_ranks(total, len(targets)) for name, total in totals.items()}

    # Prediction

    def find(self, features: Features, pictures: Pictures) -> Found:
        """The objects of a batch, in canvas pixels: a score is confidence times the class's (equation 1)."""
        predicted, classes = self.score(features)
        refuse_nan(predicted)
        refuse_nan(classes)
        canvas = (pictures.pixels.shape[-2], pictures.pixels.shape[-1])
        scores = predicted[..., 4:].clamp(0, 1) * classes[:, :, None].clamp(0, 1)
        picture, cell, slot, labels = torch.where(scores > self.score_threshold)
        boxes = decode(predicted[..., :4], self.settings["grid"], canvas)[picture, cell, slot]
        boxes = clip(boxes, picture_sizes(pictures.sizes, boxes)[picture])
        scores = scores[picture, cell, slot, labels]
        return best_of(boxes, scores, labels, picture, len(pictures), self.nms_iou, self.detections)

    # Around training

    def train_transform(self, side: int) -> Transform:
        """A square, moved and zoomed, mirrored, in other colours (section 2.2)."""
        shift = self.settings["shift"]
        moved = RandomAffine(translate=(shift, shift), scale=tuple(self.settings["scales"]), pad=GREY)
        return Compose([ResizeTo(side, side), moved, *self.looks()])

    def colours(self, strength: float) -> Transform:
        """Exposure and saturation."""
        return HSVJitter(1 + strength, 1 + strength)

    def eval_transform(self, side: int) -> Transform:
        """A square of `side`, whatever the aspect."""
        return ResizeTo(side, side, antialias=False)


def decode(codes: Tensor, grid: int, canvas: tuple[int, int]) -> Tensor:
    """Boxes (..., cells, B, 4) float32 in canvas pixels, of x y in the cell and roots of relative sides."""
    cells = torch.arange(grid**2, device=codes.device)
    corner = torch.stack([cells % grid, cells // grid], 1)[:, None]
    whole = codes.new_tensor([canvas[1], canvas[0]])
    centre = (codes[..., :2] + corner) / grid * whole
    half = codes[..., 2:].square() * whole / 2
    return torch.cat([centre - half, centre + half], -1)


def encode(boxes: Tensor, grid: int, canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The cell (m,) int64 that the centre of each of boxes (m, 4) lies in, and the codes (m, 4) that `decode` to it."""
    whole = boxes.new_tensor([canvas[1], canvas[0]])
    centre, sides = (boxes[:, :2] + boxes[:, 2:]) / 2 / whole * grid, (boxes[:, 2:] - boxes[:, :2]) / whole
    corner = centre.long().clamp(0, grid - 1)
    return corner[:, 1] * grid + corner[:, 0], torch.cat([centre - corner, sides.sqrt()], 1)


def responsible(boxes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Which of its cell's boxes (m, B, 4) stands for each true one (m, 4), (m,) int64, and their IoU (m,).

    The one that overlaps it most; where none does, the one whose corners are nearest.
    """
    overlap = box_iou(boxes, truth[:, None])[..., 0].nan_to_num()
    far = (boxes - truth[:, None]).square().sum(2)
    best = torch.where(overlap.amax(1) > 0, overlap.argmax(1), far.argmin(1))
    return best, overlap.gather(1, best[:, None])[:, 0]
