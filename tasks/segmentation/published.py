"""torchvision's segmenters by name, with weights trained on those pictures of COCO that show Pascal VOC's classes."""

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

import retinue.backbones
from retinue.backbones.backbone import Backbone
from retinue.datasets.targets import ClassMap
from retinue.tasks import torchvision_weights
from retinue.tasks.segmentation.deeplabv3 import DeepLabV3
from retinue.tasks.segmentation.dilated_fcn import DilatedFCN
from retinue.tasks.segmentation.lraspp import LRASPP
from retinue.tasks.segmentation.segmenter import Segmenter
from retinue.tasks.task import Model

SIDE = 520
"""The shorter side of their pictures."""
AUXILIARY = "aux_classifier."
"""What the names of the auxiliary head's tensors begin with; networks may be trained without it."""


@dataclass(frozen=True)
class Published:
    """How a published segmenter is put together."""

    task: type[Segmenter]
    backbone: str
    options: dict[str, Any]
    """Of the backbone: how it is dilated."""
    settings: dict[str, Any] = field(default_factory=dict)


STRIDE_8 = {"max_stride": 8}
STRIDE_16 = {"dilated": True}
SEGMENTERS = {
    "fcn_resnet50": Published(DilatedFCN, "resnet50", STRIDE_8),
    "fcn_resnet101": Published(DilatedFCN, "resnet101", STRIDE_8),
    "deeplabv3_resnet50": Published(DeepLabV3, "resnet50", STRIDE_8, {"output_stride": 8}),
    "deeplabv3_resnet101": Published(DeepLabV3, "resnet101", STRIDE_8, {"output_stride": 8}),
    "deeplabv3_mobilenet_v3_large": Published(
        DeepLabV3,
        "mobilenet_v3_large",
        STRIDE_16,
        {"rates": [12, 24, 36], "level": "c5", "auxiliary_level": "block4"},
    ),
    "lraspp_mobilenet_v3_large": Published(LRASPP, "mobilenet_v3_large", STRIDE_16),
}


def names() -> list[str]:
    """The segmenters that `build` knows."""
    return list(SEGMENTERS)


def build(name: str, weights: str | None = None) -> tuple[Model, dict[str, Any]]:
    """A published segmenter in evaluation mode, and what its header says beside its construction.

    weights: "coco" (the default), their name (COCO_WITH_VOC_LABELS_V1), a local file or a URL of a torchvision
    `state_dict`, with an auxiliary head or without. Raises WeightsError for weights that are unknown, unreadable or
    misfit.
    """
    tensors, _, origin = torchvision_weights.open_weights(name, weights)
    model = construct(name, any(key.startswith(AUXILIARY) for key in tensors))
    insert(model, tensors, origin.source)
    model.backbone.weights = origin
    return model.eval(), {"imgsz": SIDE, "batch": 1}


def construct(name: str, auxiliary: bool = True) -> Model:
    """The segmenter with random weights; `auxiliary`: with an auxiliary head, where it can have one."""
    segmenter = SEGMENTERS[name]
    backbone = retinue.backbones.build(segmenter.backbone, **segmenter.options)
    settings = {**segmenter.settings, **({} if auxiliary else {"auxiliary": 0.0})}
    task = segmenter.task(backbone, classes_of(name), **settings)
    return Model(backbone, {segmenter.task.__module__.rpartition(".")[2]: task})


@cache
def classes_of(name: str) -> ClassMap:
    """Pascal VOC's classes, numbered as in its masks: background first."""
    (first, *_) = torchvision_weights.published_members(name)
    names = tuple(category.strip("_") for category in first.meta["categories"])
    return ClassMap(names, tuple(range(len(names))))


def describe(name: str) -> dict[str, Any]:
    """`score` on COCO val2017 with VOC's classes, its `metric`, `licence`, `source`, `parameters` of the weights."""
    return torchvision_weights.describe(name, ("COCO-val2017-VOC-labels", "miou"), "miou")


def insert(model: Model, tensors: dict[str, Tensor], source: str) -> None:
    """Copy a torchvision segmenter's `state_dict` into a model put together alike; WeightsError where it is not."""
    (task,) = model.named_tasks
    torchvision_weights.insert(model, tensors, lambda key: translate(key, model.backbone, task), source)


def translate(key: str, backbone: Backbone, task: str) -> str:
    """torchvision's name of a tensor -> ours.

    Theirs are backbone, of a MobileNet only its numbered `features`, classifier, which in LR-ASPP has named parts, and
    aux_classifier.
    """
    if key.startswith("backbone."):
        return key.replace("backbone.", "backbone.features.", 1) if hasattr(backbone, "features") else key
    return f"tasks.{task}.{re.sub(r'^classifier[.](?=[a-z])', '', key)}"
