"""What every detector shares: settings of its answer, augmentation, results in the file's pixels, metric, drawing."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from retinue.backbones.backbone import Features, Preprocessing
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target, Transform
from retinue.datasets.transforms import Compose, RandomResize, Resize
from retinue.tasks.detection.draw import draw_batch
from retinue.tasks.detection.metrics import DetectionMetric
from retinue.tasks.detection.plots import detection_plots
from retinue.tasks.detection.regions import Found, to_file
from retinue.tasks.detection.results import Detections
from retinue.tasks.recipe import check_range, check_recipe, jitter, looks
from retinue.tasks.task import Task

LONGEST = 5 / 3


class Detector(Task, ABC):
    """Boxes of classes. A paper's file says how they are found on the canvas, and from what losses it learns.

    score_threshold, nms_iou, detections: of the answer: the least score, the overlap above which the worse one of two
    boxes of a class is dropped, and how many of a picture there are at most. longest: bound of the longer side, as a
    multiple of the shorter one's `imgsz`. scales: range of the shorter side in training, as shares of `imgsz`. flip,
    vertical_flip: mirror half of the training pictures. colour: strength of the jitter of brightness, contrast and
    saturation, 0 for none.

    Its constructor reads the backbone's preprocessing when it is done with it. Raises DataError for settings out of
    range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"boxes", "box_labels"})
    uses: ClassVar[frozenset[str]] = frozenset({"crowd", "area"})
    kinds: ClassVar[tuple[str, ...]] = ("box",)
    square: ClassVar[bool] = False
    """Whether its canvas is a square of `imgsz`, so that `longest` has nothing to bound and is refused."""
    headline: ClassVar[str] = "box/AP"
    shown: ClassVar[tuple[str, ...]] = ("box/AP50",)
    groups_by_aspect: ClassVar[bool] = True
    default_side: ClassVar[int] = 800
    answer_settings: ClassVar[frozenset[str]] = frozenset({"score_threshold", "nms_iou", "detections"})
    classes: ClassMap
    preprocessing: Preprocessing

    def __init__(
        self,
        classes: ClassMap,
        *,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        detections: int = 100,
        longest: float = LONGEST,
        scales: tuple[float, float] = (1.0, 1.0),
        flip: bool = True,
        vertical_flip: bool = False,
        colour: float = 0.0,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.settings = {
            "score_threshold": score_threshold,
            "nms_iou": nms_iou,
            "detections": detections,
            "longest": longest,
            "scales": list(scales),
            "flip": flip,
            "vertical_flip": vertical_flip,
            "colour": colour,
        }
        check_range(self.settings, "score_threshold", 0, 1)
        check_range(self.settings, "nms_iou", 0, 1)
        check_range(self.settings, "detections", 1, 10**6)
        check_range(self.settings, "longest", 1, 100)
        if self.square and longest != LONGEST:
            raise DataError(f"longest={longest}: this detector's canvas is a square of imgsz; leave it out")
        check_recipe(self.settings)
        self.score_threshold, self.nms_iou, self.detections = score_threshold, nms_iou, detections

    @classmethod
    def recipe(cls, pretrained: bool) -> dict[str, Any]:
        """Small batches, whose statistics no batch norm should learn; heads that begin at random."""
        options = {"batch": 8, "epochs": 20, "lr": "0.0003", "warmup": 1.0, "clip": 10.0}
        return options | ({"frozen_norm": True, "backbone_lr": 0.0001} if pretrained else {})

    @abstractmethod
    def find(self, features: Features, pictures: Pictures) -> Found:
        """The objects of a batch, in canvas pixels."""

    def predict(self, features: Features, pictures: Pictures) -> list[Detections]:
        """The objects of every picture, in the file's pixels."""
        found = self.find(features, pictures)
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
        """What further branches (masks, keypoints) add to each picture's `Detections`; nothing here."""
        return [{} for _ in found.counts]

    # Around training

    def train_transform(self, side: int) -> Transform:
        """A shorter side of about `side`, mirrored, perhaps in other colours."""
        low, high = (round(side * scale) for scale in self.settings["scales"])
        return Compose([RandomResize(low, high, round(high * self.settings["longest"])), *self.looks()])

    def looks(self) -> list[Transform]:
        """Mirroring and colours (of RGB pictures only), as the settings say."""
        pairs = self.classes.keypoints.get("pairs", ())
        return looks(self.settings, self.preprocessing, self.colours, pairs)

    def colours(self, strength: float) -> Transform:
        """Random colours: brightness, contrast and saturation by factors from 1 - strength to 1 + strength."""
        return jitter(strength)

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
