"""R-CNN (Girshick et al. 2014, arXiv:1311.2524): proposals, warped to the classifier's own input, one at a time.

Three stages: the classifier is fine-tuned on warped regions; linear SVMs, one a class, and box regressors are fitted to
the features that it then gives (`rcnn_fit`). Each region goes through the whole network: what Fast R-CNN later shared.
Proposals come with the pictures, as the input `proposals`: (r, 4) float32, x1 y1 x2 y2 in the picture's pixels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.fused import fuse
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target
from retinue.tasks.detection.box_coding import UNIT, encode, large_enough
from retinue.tasks.detection.detector import Detector, check_range
from retinue.tasks.detection.matching import IN_CROWD, overlap_of
from retinue.tasks.detection.rcnn_fit import fit_boxes, fit_svms
from retinue.tasks.detection.region_heads import region_levels
from retinue.tasks.detection.regions import (
    SMALLEST,
    Found,
    proposals_of,
    refuse_nan,
    sample_regions,
    select_scored,
)
from retinue.tasks.detection.warping import warp
from retinue.tasks.task import mean_over_ranks

REGIONS_AT_ONCE = 64
"""Regions that are warped and computed together, unless they are learnt from: 39 MB of squares of 224 a side."""
STEEPNESS = math.log(19)
"""An SVM's value v is shown as the score sigmoid(STEEPNESS * v): its margins -1 and 1 become 0.05 and 0.95."""

Scores = Literal["svm", "softmax"]


class RCNN(Detector):
    """Boxes of given proposals, each seen by a classifier of its own.

    region_side: side of a warped region, by default that of the classifier's pictures; half of it is four times as
    fast. context: so many of its pixels at each side show what surrounds the proposal. sampled: regions a picture that
    fine-tuning learns from in a step, `positive_fraction` of them objects at most, which are those with an IoU of
    `foreground_iou` or more with a true box; the paper's 128 are 16 of each of eight pictures.
    scores: "svm", or "softmax" for those that fine-tuning learns (appendix B), which it is until SVMs are fitted;
    evaluation may ask for either.
    negative_iou: an SVM's negatives overlap the true boxes of its class by less. svm_strength: C of its hinge loss.
    box_iou: box regressors learn from proposals that overlap a true box by at least as much. ridge: how strongly these
    are regularised, lambda of appendix C. The other settings are `Detector`'s.

    Raises DataError for settings out of range, or that the backbone cannot have.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"proposals"})
    default_side: ClassVar[int] = 500
    FITTED: ClassVar[dict[str, dict[str, Any]]] = {"svm": {}}
    fitted_side: ClassVar[int] = default_side
    tuned_first: ClassVar[bool] = True
    answer_settings: ClassVar[frozenset[str]] = Detector.answer_settings | {"scores"}
    fitted: Tensor

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        region_side: int | None = None,
        context: int = 16,
        sampled: int = 16,
        positive_fraction: float = 0.25,
        foreground_iou: float = 0.5,
        scores: Scores = "svm",
        negative_iou: float = 0.3,
        svm_strength: float = 0.001,
        box_iou: float = 0.6,
        ridge: float = 1000.0,
        nms_iou: float = 0.3,
        **settings: Any,
    ) -> None:
        super().__init__(classes, nms_iou=nms_iou, **settings)
        self.settings |= {
            "region_side": region_side,
            "context": context,
            "sampled": sampled,
            "positive_fraction": positive_fraction,
            "foreground_iou": foreground_iou,
            "scores": scores,
            "negative_iou": negative_iou,
            "svm_strength": svm_strength,
            "box_iou": box_iou,
            "ridge": ridge,
        }
        for name in ("positive_fraction", "foreground_iou", "negative_iou", "box_iou"):
            check_range(self.settings, name, 0, 1)
        for name, least, most in (
            ("sampled", 1, 10**6),
            ("svm_strength", 1e-12, 1e12),
            ("ridge", 1e-9, 1e12),
        ):
            check_range(self.settings, name, least, most)
        if scores not in get_args(Scores):
            raise DataError(f"scores={scores!r}: use one of {', '.join(get_args(Scores))}")
        self.preprocessing = backbone.preprocessing
        self.side = region_side or self.preprocessing.crop
        check_range(self.settings, "context", 0, (self.side - 1) // 2)
        self.levels = ()  # the canvas itself is not looked at
        self.level, self.embedding, width = _embedding(backbone)
        _check_side(backbone, self.side)
        self.softmax = nn.Linear(width, 1 + len(classes))
        self.svms = nn.Linear(width, len(classes)).requires_grad_(False)
        self.boxes = nn.Linear(width, 4 * len(classes)).requires_grad_(False)
        self.register_buffer("fitted", torch.tensor(False))
        self.forget_classes()

    @classmethod
    def recipe(cls, pretrained: bool) -> dict[str, Any]:
        """As every detector's; fine-tuning is followed by SVMs."""
        return super().recipe(pretrained) | {"method": "svm", "epochs": 10}

    def attach(self, backbone: Backbone) -> None:
        """As in `Task`: it sees every region by itself."""
        self.attached = (backbone,)

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`; scores and box codes of regions are computed in float32."""
        self.embedding = fuse(self.embedding, dtype)
        for name in ("softmax", "svms", "boxes"):
            setattr(self, name, fuse(getattr(self, name), torch.float32))

    def forget_classes(self) -> None:
        """New last layers, of which SVMs and box regressors are not fitted: they say nothing, and move nothing."""
        nn.init.normal_(self.softmax.weight, 0, 0.01)
        nn.init.zeros_(self.softmax.bias)
        for layer in (self.svms, self.boxes):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.fitted.fill_(False)

    def embed(self, pictures: Pictures, regions: Sequence[Tensor], at_once: int = REGIONS_AT_ONCE) -> Tensor:
        """Features (r, d) of the pictures' regions [(r_i, 4)], canvas pixels, so many of them computed at once."""
        boxes = torch.cat(list(regions)).float()
        lengths = torch.tensor([len(part) for part in regions], device=boxes.device)
        picture = torch.arange(len(regions), device=boxes.device).repeat_interleave(lengths)
        fill = torch.tensor(self.preprocessing.mean)
        parts = []
        for some, of in zip(boxes.split(at_once), picture.split(at_once)):
            squares = warp(
                pictures.pixels, pictures.sizes, some, of, self.side, self.settings["context"], fill
            )
            squares = squares.contiguous(memory_format=torch.channels_last)
            parts.append(self.embedding(self.attached[0](squares, (self.level,))[self.level]))
        return torch.cat(parts)

    # Fine-tuning

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """`class`, the mean cross entropy of sampled regions, of which background is a class too (section 2.3)."""
        self.fitted.fill_(False)  # the features move away from what was fitted to them
        sampled, fraction, iou = (
            self.settings[name] for name in ("sampled", "positive_fraction", "foreground_iou")
        )
        regions = sample_regions(proposals_of(pictures, "rcnn"), targets, sampled, fraction, iou)
        labels = torch.cat([r.labels for r in regions])
        boxes = [r.boxes for r in regions]
        if not len(labels):  # nothing but crowds: all parameters take part nevertheless
            boxes = [boxes[0].new_tensor([[0, 0, w, h]]) for h, w in pictures.sizes]
        logits = self.softmax(self.embed(pictures, boxes, at_once=sum(map(len, boxes)))).float()
        wrong = F.cross_entropy(logits, labels, reduction="sum") if len(labels) else 0 * logits.sum()
        return {"class": mean_over_ranks(wrong, len(labels))}

    # Fitting

    def examples(
        self, features: Features, pictures: Pictures, targets: list[Target]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What `fit` reads of every true box and proposal: (r, d) float16 features, (r,) its class where it is a true
        box and -1 else, (r, classes) its overlap with a true box of each, (r,) the class of the true box that it stands
        for or -1, and (r, 4) the code that leads there."""
        regions, facts = [], []
        for proposals, target in zip(proposals_of(pictures, "rcnn"), targets):
            regions.append(torch.cat([_true_boxes(target)[0], proposals]))
            facts.append(stands_for(proposals, target, len(self.classes), self.settings["box_iou"]))
        vectors = self.embed(pictures, regions) if sum(map(len, regions)) else None
        if vectors is None:
            vectors = torch.zeros(0, self.svms.in_features)
        refuse_nan(vectors)
        truth, overlaps, matched, codes = (torch.cat(column) for column in zip(*facts))
        return vectors.half(), truth, overlaps, matched, codes

    def fit(
        self,
        features: np.ndarray,
        truth: np.ndarray,
        overlaps: np.ndarray,
        matched: np.ndarray,
        codes: np.ndarray,
        method: str = "svm",
        seed: int = 0,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        """SVMs and box regressors, from `examples` of all training pictures."""
        settings = self.settings
        iou, strength = settings["negative_iou"], settings["svm_strength"]
        say(f"SVMs with hard negatives, {len(self.classes)} of them")
        found = fit_svms(features, truth, overlaps, negative_iou=iou, strength=strength, seed=seed, say=say)
        _set(self.svms, *found)
        say(f"box regressors from {(matched >= 0).sum()} proposals")
        _set(self.boxes, *fit_boxes(features, matched, codes, len(self.classes), settings["ridge"]))
        self.fitted.fill_(True)

    # Prediction

    def find(self, features: Features, pictures: Pictures) -> Found:
        """The objects of a batch, in canvas pixels."""
        proposals = proposals_of(pictures, "rcnn")
        if not sum(map(len, proposals)):
            none = pictures.pixels.new_zeros(0)
            return Found(none.view(0, 4), none, none.long(), [0] * len(proposals))
        vectors = self.embed(pictures, proposals).float()
        with torch.autocast(vectors.device.type, enabled=False):  # an SVM's value is a small difference
            scores, codes = self.score(vectors), self.boxes(vectors).unflatten(1, (-1, 4))
        refuse_nan(scores)
        refuse_nan(codes)
        limits = (self.score_threshold, self.nms_iou, self.detections)
        return select_scored(scores, codes, UNIT, proposals, pictures.sizes, *limits)

    def score(self, vectors: Tensor) -> Tensor:
        """Scores (r, classes) in [0, 1] of regions by their features (r, d) float32."""
        if self.fitted and self.settings["scores"] == "svm":
            return (STEEPNESS * self.svms(vectors)).sigmoid()
        return self.softmax(vectors).softmax(1)[:, 1:]


def stands_for(
    proposals: Tensor, target: Target, classes: int, box_iou_least: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a picture's true boxes and then its proposals (p, 4) are examples of: `RCNN.examples` but its features.

    Whatever lies mostly in a crowd overlaps all classes by 1: it is no background.
    """
    own, labels = _true_boxes(target)
    boxes = torch.cat([own, proposals])
    truth = torch.cat([labels, labels.new_full((len(proposals),), -1)])
    overlaps = boxes.new_zeros(len(boxes), classes)
    matched, codes = torch.full_like(truth, -1), torch.zeros_like(boxes)
    if len(own):
        iou = box_iou(own, boxes).nan_to_num(0)
        overlaps.scatter_reduce_(1, labels.expand(len(boxes), -1), iou.T, "amax")
        most, best = iou.max(0)
        close = (most >= box_iou_least) & (truth < 0) & large_enough(boxes, SMALLEST)
        matched = torch.where(close, labels[best], -1)
        codes = torch.where(
            close[:, None], encode(own[best], torch.where(close[:, None], boxes, own[best])), 0
        )
    crowd = target.get("crowd")
    if crowd is not None and crowd.any():
        inside = overlap_of(boxes, target["boxes"][crowd]).amax(0) > IN_CROWD
        overlaps[inside] = 1
    return truth, overlaps, matched, codes


def _true_boxes(target: Target) -> tuple[Tensor, Tensor]:
    """Boxes (g, 4) and labels (g,) of objects that are no crowd and no slivers."""
    boxes, crowd = target["boxes"], target.get("crowd")
    good = large_enough(boxes, SMALLEST) & (~crowd if crowd is not None else True)
    return boxes[good], target["box_labels"][good]


def _embedding(backbone: Backbone) -> tuple[str, nn.Module, int]:
    """(the level that is read, what makes a vector of its map, that vector's length): what the classifier's last layer
    read, or the mean of the coarsest map of a backbone without a classifier."""
    if top := backbone.chop():
        return top.level, top.embed, top.embedding
    level = region_levels(backbone)[-1]
    return level, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), backbone.levels[level].channels


def _check_side(backbone: Backbone, side: int) -> None:
    try:
        backbone.output_sizes(side, side)
    except ValueError as error:
        raise DataError(f"region_side={side}: {error}") from None


def _set(layer: nn.Module, weight: np.ndarray, bias: np.ndarray) -> None:
    """Give a linear layer these weights, float64."""
    state = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
    layer.load_state_dict(state)
