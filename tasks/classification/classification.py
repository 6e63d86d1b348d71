"""Classification: one label a picture, from a linear layer on a backbone's embedding."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from retinue.backbones.backbone import Backbone, Features, Top
from retinue.backbones.fused import fuse
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target, Transform
from retinue.datasets.transforms import Compose, EvalTransform, RandomResizedCrop
from retinue.tasks.classification.draw import draw_batch, draw_predictions
from retinue.tasks.classification.fit import Method, fit_linear
from retinue.tasks.classification.losses import balanced_weights, cross_entropy, mix_labels
from retinue.tasks.classification.metrics import Accuracy
from retinue.tasks.classification.plots import draw_confusion, draw_per_class
from retinue.tasks.classification.results import Classification
from retinue.tasks.recipe import looks
from retinue.tasks.task import Task, mean_over_ranks

Head = Literal["linear", "mean_max", "pool", "published"]


class MeanMax(nn.Module):
    """Mean and maximum of a map, (n, c, h, w) -> (n, 2c): what is there on the whole, and what is there at all."""

    def forward(self, x: Tensor) -> Tensor:
        """The means first."""
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


class Classifier(Task):
    """One label a picture.

    head: "linear" puts a new linear layer on the backbone's embedding (VGG's fc7, a ResNet's pooled c5), and
    on the pooled coarsest level where the backbone has none (FPN); "mean_max" puts the maximum of the map
    beside its mean, where the embedding is that mean; "pool" always takes the pooled coarsest level;
    "published" keeps the publication's own classifier, with a new last layer only if it has another number
    of classes. GoogLeNet's auxiliary classifiers add 0.3 of their loss each in training.

    dropout: on the embedding, beside what the backbone's own top has. label_smoothing: in [0, 1).
    class_weights: one a class, or "balanced", which needs `class_counts`, the training pictures of each
    class. mixup: alpha of Zhang et al. 2018 (arXiv:1710.09412), 0 for none; 0.2 is theirs for ImageNet.
    crop_scale: range of a training crop's area as a share of the picture's. flip: mirror half of the
    training pictures. whole: evaluation sees the whole middle square, not only the published share of it
    (224 of 256 pixels). colour: strength of the jitter of brightness, contrast and saturation, 0 for none.

    Raises DataError for settings out of range or that do not fit the classes.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"label"})
    headline: ClassVar[str] = "top1"
    shown: ClassVar[tuple[str, ...]] = ("top5", "loss")
    FITTED: ClassVar[dict[str, dict[str, Any]]] = {
        method: {"head": "mean_max", "whole": True} for method in get_args(Method)
    }
    """Settings under which a layer is fitted to features unless others are asked for: with 256 pixels a side,
    cross-validation on the training pictures of ants and bees (MobileNetV2) gave 0.961 and a log loss of 0.086,
    against 0.950 and 0.157 for the mean over 224 of 256 pixels."""
    resolved: ClassVar[frozenset[str]] = frozenset({"class_counts"})
    classes: ClassMap
    weights: Tensor | None

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        head: Head = "linear",
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
        class_counts: Sequence[int] | None = None,
        mixup: float = 0.0,
        crop_scale: tuple[float, float] = (0.25, 1.0),
        flip: bool = True,
        whole: bool = False,
        colour: float = 0.1,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.settings = {
            "head": head,
            "dropout": dropout,
            "label_smoothing": label_smoothing,
            "class_weights": class_weights,
            "class_counts": class_counts,
            "mixup": mixup,
            "crop_scale": crop_scale,
            "flip": flip,
            "whole": whole,
            "colour": colour,
        }
        _check_settings(dropout, label_smoothing, mixup, crop_scale, colour)
        self.label_smoothing, self.mixup = label_smoothing, mixup
        self.preprocessing = backbone.preprocessing
        self.top = classifier_top(backbone, len(classes), head, dropout)
        self.levels = (self.top.level, *self.top.auxiliary)
        weights = _weights(class_weights, class_counts, classes)
        self.register_buffer("weights", weights, persistent=False)

    @classmethod
    def published(cls, backbone: Backbone) -> Self:
        """The classifier that the backbone's weights were published with: their last layer, their classes.

        Names that occur twice get their index. Raises DataError for a backbone without published classes.
        """
        if not backbone.categories:
            raise DataError(
                "this backbone has no published classes: build it with published weights ('imagenet')"
            )
        count = Counter(backbone.categories)
        names = (f"{name} ({i})" if count[name] > 1 else name for i, name in enumerate(backbone.categories))
        return cls(backbone, ClassMap(tuple(names)), head="published")

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`; logits are computed in float32."""
        self.top.embed, self.top.last = fuse(self.top.embed, dtype), fuse(self.top.last, torch.float32)

    def forget_classes(self) -> None:
        """A new last layer, and new last layers of the auxiliary classifiers."""
        self.top.replace_last(len(self.classes))

    def prepare(self, pictures: Pictures, targets: list[Target]) -> tuple[Pictures, list[Target]]:
        """Mixup: blend every picture with another of the batch, by one Beta(alpha, alpha) weight a batch.

        The targets get `mix_label` () int64, the other picture's, and `mix_weight` () float32, its share.
        """
        if not self.mixup or not self.training or len(pictures) < 2:
            return pictures, targets
        weight = torch.distributions.Beta(self.mixup, self.mixup).sample()
        order = torch.randperm(len(pictures))
        pixels = pictures.pixels.lerp(pictures.pixels[order.to(pictures.pixels.device)], float(weight))
        mixed = [
            {**target, "mix_label": targets[other]["label"], "mix_weight": weight}
            for target, other in zip(targets, order.tolist())
        ]
        return replace(pictures, pixels=pixels), mixed

    def embed(self, features: Features) -> Tensor:
        """What the last layer reads, (n, d): features to fit a linear layer to, in evaluation mode."""
        return self.top.embed(features[self.top.level])

    def examples(
        self, features: Features, pictures: Pictures, targets: list[Target]
    ) -> tuple[Tensor, Tensor]:
        """The embedding (n, d) float32 and the labels (n,) of a batch."""
        return self.embed(features).float(), torch.stack([target["label"] for target in targets])

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """`ce`, the mean cross entropy, and in training `aux`, that of the auxiliary classifiers."""
        logits = self.top(features)
        labels = self._labels(targets, logits.device)
        loss = partial(cross_entropy, labels=labels, weights=self.weights, smoothing=self.label_smoothing)
        total, count = loss(logits)
        losses = {"ce": mean_over_ranks(total, count)}
        if self.training and len(self.top.auxiliary):
            totals = [loss(head(features[level]))[0] for level, head in self.top.auxiliary.items()]
            losses["aux"] = self.top.auxiliary_weight * mean_over_ranks(torch.stack(totals).sum(), count)
        return losses

    def _labels(self, targets: list[Target], device: torch.device) -> Tensor:
        """Labels (n,) int64, or (n, k) shares of blended pictures."""
        labels = torch.stack([target["label"] for target in targets]).to(device)
        if "mix_label" not in targets[0]:
            return labels
        others = torch.stack([target["mix_label"] for target in targets]).to(device)
        weights = torch.stack([target["mix_weight"] for target in targets]).to(device)
        return mix_labels(labels, others, weights, len(self.classes))

    def predict(self, features: Features, pictures: Pictures) -> list[Classification]:
        """The probability of every class, softmax in float32; ValueError names a picture if one is not finite."""
        probabilities = self.top(features).float().softmax(1).cpu().numpy()
        return [Classification(id, row, self.classes) for id, row in zip(pictures.ids, probabilities)]

    def fit(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        method: Method = "linear",
        seed: int = 0,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Fit the last layer to embeddings (n, d) of training pictures and labels (n,) instead of descending.

        Raises DataError where the last layer is not a linear one on the embedding (a published SqueezeNet's).
        """
        if type(self.top) is not Top or not isinstance(self.top.last, nn.Linear):
            raise DataError("the published classifier of this backbone cannot be fitted: use head='linear'")
        say(f"fitting the last layer ({method})")
        fitted = fit_linear(features, labels, len(self.classes), method, seed)
        self.top.last.load_state_dict(fitted.state_dict())

    def draw_batch(
        self, pictures: Pictures, targets: Sequence[Target], results: Sequence[Classification] | None = None
    ) -> np.ndarray:
        """A contact sheet (h, w, 3) uint8 RGB with class names; with `results`, right in green, wrong in red."""
        if results is None:
            return draw_batch(pictures, targets, self.classes)
        return draw_predictions(pictures, results, targets)

    def train_transform(self, side: int) -> Transform:
        """A random part of the picture as a square, mirrored, in slightly other colours (RGB pictures only)."""
        low, high = self.settings["crop_scale"]
        crop = RandomResizedCrop(side, (low, high), antialias=self.preprocessing.antialias)
        return Compose([crop, *looks(self.settings, self.preprocessing)])

    def eval_transform(self, side: int) -> Transform:
        """The middle square, resized as when the weights' published score was measured (224 of 256 pixels)."""
        p = self.preprocessing
        shorter = side if self.settings["whole"] else round(side * p.resize / p.crop)
        return EvalTransform(shorter, side, p.interpolation, p.antialias)

    @classmethod
    def resolve_settings(cls, settings: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """What depends on the data: `class_weights="balanced"` gets their counts as `class_counts`, and where a label
        belongs to the whole picture (`whole_pictures`), crops take nearly all of it unless asked otherwise."""
        if getattr(dataset, "whole_pictures", False):
            settings = {"crop_scale": (0.9, 1.0), **settings}
        if settings.get("class_weights") != "balanced" or settings.get("class_counts") is not None:
            return settings
        if hasattr(dataset, "class_counts"):
            counts = dataset.class_counts()
        else:
            labels = [int(dataset[i].targets["label"]) for i in range(len(dataset))]
            counts = np.bincount(labels, minlength=len(dataset.classes))
        return {**settings, "class_counts": [int(count) for count in counts]}

    def metric(self) -> Accuracy:
        """Accuracy and what surrounds it."""
        return Accuracy(self.classes)

    def plots(self, metric: Accuracy) -> dict[str, Callable[[str], None]]:
        """The confusion matrix and the accuracy of every class."""
        return {
            "confusion.png": lambda path: draw_confusion(metric.confusion(), self.classes.names, path),
            "per_class.png": lambda path: draw_per_class(metric.per_class(), path),
        }


def classifier_top(backbone: Backbone, classes: int, head: Head = "linear", dropout: float = 0.0) -> Top:
    """What sits on the backbone's maps, as `Classifier` says it; takes the backbone's own classifier off."""
    top = backbone.chop()
    if head == "published":
        return _published_top(top, classes, dropout)
    if head not in get_args(Head):
        raise DataError(f"unknown head {head!r}: use one of {', '.join(get_args(Head))}")
    if head == "pool" or top is None:
        deepest_first = reversed(list(backbone.levels))
        level = max(deepest_first, key=lambda name: backbone.levels[name].stride)
        channels = backbone.levels[level].channels
        embed: nn.Module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        auxiliary: dict[str, nn.Module] = {}
    else:
        level, channels, embed, auxiliary = top.level, top.embedding, top.embed, dict(top.auxiliary.items())
        for inner in auxiliary.values():
            inner.replace_last(classes)  # type: ignore[operator]
    if head == "mean_max" and not list(embed.parameters()):
        embed, channels = MeanMax(), 2 * channels
    if dropout:
        parts = embed if isinstance(embed, nn.Sequential) else [embed]
        embed = nn.Sequential(*parts, nn.Dropout(dropout))  # flat, so that dropout renames no weights
    return Top(level, channels, embed, nn.Linear(channels, classes), auxiliary)


def _published_top(top: Top | None, classes: int, dropout: float) -> Top:
    if top is None:
        raise DataError("head='published' needs a backbone with its classifier: use head='linear'")
    if dropout:
        raise DataError(
            f"head='published' keeps its own dropout: leave dropout={dropout} out, or use head='linear'"
        )
    if list(top.last.parameters())[-1].shape[0] != classes:
        top.replace_last(classes)
    return top


def _weights(
    weights: Literal["balanced"] | Sequence[float] | None, counts: Sequence[int] | None, classes: ClassMap
) -> Tensor | None:
    """Class weights (k,) float32 from the settings; DataError where they do not fit the classes."""
    if weights is None:
        return None
    if isinstance(weights, str):
        if weights != "balanced":
            raise DataError(f"unknown class_weights {weights!r}: use 'balanced' or one number a class")
        if counts is None:
            raise DataError("class_weights='balanced' needs class_counts, the pictures of each class")
        _check_length("class_counts", counts, classes)
        weights = balanced_weights(counts)
    _check_length("class_weights", weights, classes)
    return torch.tensor(weights, dtype=torch.float32)


def _check_settings(
    dropout: float, label_smoothing: float, mixup: float, crop_scale: Sequence[float], colour: float
) -> None:
    for name, value, fits, rule in (
        ("dropout", dropout, 0 <= dropout < 1, "in [0, 1)"),
        ("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "in [0, 1)"),
        ("mixup", mixup, 0 <= mixup < float("inf"), "at least 0"),
        ("colour", colour, 0 <= colour <= 1, "in [0, 1]"),
        (
            "crop_scale",
            crop_scale,
            len(crop_scale) == 2 and 0 < crop_scale[0] <= crop_scale[1] <= 1,
            "two shares of the area, 0 < least <= most <= 1",
        ),
    ):
        if not fits:
            raise DataError(f"{name}={value}: {name} is {rule}")


def _check_length(name: str, values: Sequence[float], classes: ClassMap) -> None:
    if len(values) != len(classes):
        raise DataError(f"{len(values)} {name} for the {len(classes)} classes {list(classes.names)}")
