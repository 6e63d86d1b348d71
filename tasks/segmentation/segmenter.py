"""What every network of semantic segmentation shares: losses, the answer, its metric and drawing."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.fused import fuse
from retinue.datasets.targets import IGNORE, ClassMap, DataError, Pictures, Target
from retinue.tasks.dense import resize
from retinue.tasks.dense_task import DenseTask, canvas_of
from retinue.tasks.recipe import check_range
from retinue.tasks.segmentation.draw import draw_batch
from retinue.tasks.segmentation.losses import (
    cross_entropy,
    dice,
    focal,
    lovasz_softmax,
    median_frequency_weights,
)
from retinue.tasks.segmentation.metrics import SegmentationMetric
from retinue.tasks.segmentation.plots import segmentation_plots
from retinue.tasks.segmentation.results import Segmentation

Loss = Literal["cross_entropy", "focal"]
AUXILIARY = 0.4
"""The weight of Zhao et al. 2017 (arXiv:1612.01105, section 3.3)."""


class Segmenter(DenseTask, ABC):
    """A class at every pixel. A paper's file says how `logits` come from the backbone's maps.

    loss: of a pixel, the soft-max's cross-entropy or its focal form with `focal_gamma`. class_weights: one a class, or
    "median_frequency", worked out from the training masks. label_smoothing: in [0, 1), of the cross-entropy. hard: the
    share of the pixels, those with the largest losses, that count (online hard example mining); 1 for all of them.
    dice, lovasz: weights of these losses beside it. auxiliary: weight of the losses of further outputs; refused by
    networks that have none.
    The other settings are `DenseTask`'s.

    Raises DataError for settings out of range or that do not fit the classes.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"semantic"})
    headline: ClassVar[str] = "miou"
    shown: ClassVar[tuple[str, ...]] = ("pixel_accuracy",)
    default_side: ClassVar[int] = 512
    resolved: ClassVar[frozenset[str]] = frozenset({"class_frequencies"})
    helped: ClassVar[bool] = False
    """Whether further outputs help training, so that `auxiliary` has something to weigh."""
    classes: ClassMap
    weights: Tensor | None

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        loss: Loss = "cross_entropy",
        focal_gamma: float = 2.0,
        class_weights: Literal["median_frequency"] | Sequence[float] | None = None,
        class_frequencies: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        hard: float = 1.0,
        dice: float = 0.0,
        lovasz: float = 0.0,
        auxiliary: float = AUXILIARY,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, **settings)
        self.classes = classes
        self.settings |= {
            "loss": loss,
            "focal_gamma": focal_gamma,
            "class_weights": class_weights,
            "class_frequencies": class_frequencies,
            "label_smoothing": label_smoothing,
            "hard": hard,
            "dice": dice,
            "lovasz": lovasz,
            "auxiliary": auxiliary,
        }
        _check_settings(self.settings, classes)
        if not self.helped and auxiliary not in (0, AUXILIARY):  # 0 asks for what is so
            raise DataError(f"auxiliary={auxiliary}: this network has no further outputs; leave it out")
        weights = _weights(class_weights, class_frequencies, classes)
        self.register_buffer("weights", weights, persistent=False)

    @classmethod
    def recipe(cls, pretrained: bool) -> dict[str, Any]:
        """Small batches of large pictures; a decoder that begins at random on a backbone that does not."""
        return {"batch": 8, "epochs": 50} | ({"backbone_lr": 0.0003} if pretrained else {})

    @classmethod
    def classes_of(cls, dataset: Any) -> ClassMap | None:
        """The classes of `semantic`, which may be others than those of the data's boxes."""
        return getattr(dataset, "semantic_classes", dataset.classes)

    @classmethod
    def resolve_settings(cls, settings: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """`class_weights="median_frequency"` gets the training masks' `class_frequencies`."""
        asked = settings.get("class_weights") == "median_frequency"
        if not asked or settings.get("class_frequencies") is not None:
            return settings
        classes = cls.classes_of(dataset)
        assert classes is not None
        return {**settings, "class_frequencies": class_frequencies(dataset, len(classes))}

    @abstractmethod
    def logits(self, features: Features) -> list[Tensor]:
        """Logits (n, classes, h, w) at the network's own stride: the answer's, then, where it is `helped`, others.

        In evaluation the first alone need be computed.
        """

    def maps(self, features: Features, pictures: Pictures) -> Tensor:
        """Logits (n, classes, H, W) float32 at every pixel of the canvas, bilinear."""
        return self._enlarged(self.logits(features)[0].float(), canvas_of(pictures))

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`."""
        for name, part in list(self.named_children()):
            setattr(self, name, fuse(part, dtype))

    # Training

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """`pixel` of the answer's logits, `dice` and `lovasz` where asked for, `auxiliary` of further outputs."""
        canvas = canvas_of(pictures)
        truth = truth_on_canvas(targets, canvas)
        main, *others = (self._enlarged(each.float(), canvas) for each in self.logits(features))
        losses = {"pixel": self.pixel_loss(main, truth)}
        if self.settings["dice"]:
            losses["dice"] = self.settings["dice"] * dice(main, truth)
        if self.settings["lovasz"]:
            losses["lovasz"] = self.settings["lovasz"] * lovasz_softmax(main, truth)
        if others:
            total = torch.stack([self.pixel_loss(each, truth) for each in others]).sum()
            losses["auxiliary"] = self.settings["auxiliary"] * total
        return losses

    def _enlarged(self, logits: Tensor, canvas: tuple[int, int]) -> Tensor:
        return resize(logits, canvas)

    def pixel_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The mean over the pixels that count, of logits and truth at the canvas's size."""
        settings = self.settings
        if settings["loss"] == "focal":
            return focal(logits, truth, settings["focal_gamma"], self.weights)
        return cross_entropy(logits, truth, self.weights, settings["label_smoothing"], settings["hard"])

    # Prediction

    def answer_at(self, maps: Tensor) -> dict[str, Tensor]:
        """`labels` (n, h, w) uint8: the class of the largest logit."""
        return {"labels": maps.argmax(1).to(torch.uint8)}

    def averaged(self, maps: Sequence[Tensor]) -> Tensor:
        """Logarithms of the mean probabilities."""
        return torch.stack([each.float().softmax(1) for each in maps]).mean(0).clamp(min=1e-12).log()

    def result(self, id: str, values: dict[str, np.ndarray], inputs: Mapping[str, Tensor]) -> Segmentation:
        """The class of every pixel of the file."""
        return Segmentation(id, values["labels"], self.classes)

    # Around training

    def metric(self) -> SegmentationMetric:
        """Intersection over union, and what surrounds it."""
        return SegmentationMetric(self.classes)

    def draw_batch(
        self, pictures: Pictures, targets: Sequence[Target], results: Sequence[Segmentation] | None = None
    ) -> np.ndarray:
        """A contact sheet (h, w, 3) uint8 RGB of masks over pictures; with `results`, those beside the truth."""
        return draw_batch(pictures, targets, self.classes, results)

    def plots(self, metric: SegmentationMetric) -> dict[str, Callable[[str], None]]:
        """Confusion, and the classes' own figures."""
        return segmentation_plots(metric)


def truth_on_canvas(targets: Sequence[Target], canvas: tuple[int, int]) -> Tensor:
    """`semantic` of every picture at the top left of a canvas (n, H, W) int64; beside the pictures nothing counts."""
    truth = targets[0]["semantic"].new_full((len(targets), *canvas), IGNORE, dtype=torch.int64)
    for part, target in zip(truth, targets):
        h, w = target["semantic"].shape
        part[:h, :w] = target["semantic"]
    return truth


def class_frequencies(dataset: Any, classes: int) -> list[float]:
    """For each class, its share of the pixels of those pictures that show it; 0 for a class that none shows.

    Ignored pixels are not counted (Eigen & Fergus 2015, arXiv:1411.4734, section 4.3.3).
    """
    counts = dataset.picture_counts() if hasattr(dataset, "picture_counts") else _counted(dataset, classes)
    shown_in = np.where(counts > 0, counts.sum(1, keepdims=True), 0).sum(0)
    return (counts.sum(0) / np.maximum(shown_in, 1)).tolist()


def _counted(dataset: Any, classes: int) -> np.ndarray:
    """(pictures, classes) int64, the pixels of each class in each picture."""
    if hasattr(dataset, "with_keys"):
        dataset = dataset.with_keys(frozenset({"semantic"}))
    labels = (np.asarray(dataset[i].targets["semantic"]).ravel() for i in range(len(dataset)))
    return np.stack([np.bincount(each, minlength=IGNORE + 1)[:classes] for each in labels])


def classifier(inputs: int, classes: int, dropout: float = 0.0) -> nn.Module:
    """The last layer: a 1x1 convolution to the classes' logits."""
    last = nn.Conv2d(inputs, classes, 1)
    return nn.Sequential(nn.Dropout2d(dropout), last) if dropout else last


def _weights(
    weights: Literal["median_frequency"] | Sequence[float] | None,
    frequencies: Sequence[float] | None,
    classes: ClassMap,
) -> Tensor | None:
    """Class weights (k,) float32 from the settings."""
    if weights is None:
        return None
    if isinstance(weights, str):
        if frequencies is None:
            raise DataError(
                "class_weights='median_frequency' needs class_frequencies, which training works out"
            )
        return median_frequency_weights(frequencies)
    return torch.tensor(weights, dtype=torch.float32)


def _check_settings(settings: dict[str, Any], classes: ClassMap) -> None:
    if not 0 < len(classes) <= IGNORE:
        raise DataError(f"{len(classes)} classes: masks number at most {IGNORE} of them, and at least one")
    check_range(settings, "focal_gamma", 0, 100)
    check_range(settings, "label_smoothing", 0, 0.99)
    for name in ("dice", "lovasz", "auxiliary"):
        check_range(settings, name, 0, 1e3)
    if not 0 < settings["hard"] <= 1:
        raise DataError(f"hard={settings['hard']}: a share of the pixels above 0, at most 1")
    if settings["loss"] not in ("cross_entropy", "focal"):
        raise DataError(f"loss={settings['loss']}: say cross_entropy or focal")
    if settings["loss"] == "focal" and (settings["hard"] < 1 or settings["label_smoothing"]):
        raise DataError(
            f"hard={settings['hard']}, label_smoothing={settings['label_smoothing']}: these are of loss=cross_entropy; "
            "with loss=focal say hard=1 and label_smoothing=0"
        )
    weights = settings["class_weights"]
    if isinstance(weights, str) and weights != "median_frequency":
        raise DataError(f"class_weights={weights!r}: say median_frequency, or one number a class")
    for name in ("class_weights", "class_frequencies"):
        values = settings[name]
        if values is None or isinstance(values, str):
            continue
        if len(values) != len(classes):
            raise DataError(
                f"{len(values)} {name} for the {len(classes)} classes {list(classes.names)}: give one each"
            )
        if not all(0 <= value < math.inf for value in values):
            raise DataError(f"{name}={','.join(map(str, values))}: numbers from 0 on")
