"""torchvision's detectors by name, with their COCO weights: https://docs.pytorch.org/vision/stable/models.html."""

import logging
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from torch import Tensor

import retinue.backbones
from retinue.backbones.fpn import Extra
from retinue.datasets.targets import PERSON_KEYPOINTS, ClassMap
from retinue.tasks import torchvision_weights
from retinue.tasks.detection.detector import Detector
from retinue.tasks.detection.faster_rcnn import FasterRCNN
from retinue.tasks.detection.fcos import FCOS
from retinue.tasks.detection.keypoint_rcnn import KeypointRCNN
from retinue.tasks.detection.mask_rcnn import MaskRCNN
from retinue.tasks.detection.retinanet import RetinaNet
from retinue.tasks.detection.ssd import SSD
from retinue.tasks.detection.ssdlite import SSDLite
from retinue.tasks.detection.torchvision_names import translate
from retinue.tasks.task import Model

V2 = {"head": "conv", "rpn_depth": 2}
FIVE = {"anchor_sizes": [32, 64, 128, 256, 512], "rpn_score_threshold": 0.05}
SSD300 = {
    "box_scales": [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
    "box_steps": [8.0, 16.0, 32.0, 64.0, 100.0, 300.0],
}


@dataclass(frozen=True)
class Published:
    """How a published detector is put together. `imgsz`: the shorter side of its pictures."""

    task: type[Detector] = FasterRCNN
    backbone: str = "resnet50"
    options: dict[str, Any] = field(default_factory=dict)
    """Of the backbone."""
    levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    """That a pyramid is built on; none, no pyramid."""
    extra: Extra = "pool"
    norm: str | None = None
    light: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Mean and deviation that pictures are normalised by, where they are not the backbone's own."""
    imgsz: int = 800
    settings: dict[str, Any] = field(default_factory=dict)
    first_id: int = 1
    """The id of the first class: 0 where the place of the background, which has no score there, counts as one."""
    eps: float | None = None
    """Of the trunk's batch norms, where it is not the backbone's own."""
    no_eps: tuple[str, ...] = ()
    """Weights that were trained where a frozen batch norm had no epsilon."""


def _mobile(**more: Any) -> Published:
    return Published(backbone="mobilenet_v3_large", levels=("block13", "c5"), eps=1e-5, **more)


def _dense(task: type[Detector], extra: Extra = "p6p7", **more: Any) -> Published:
    return Published(task, levels=("c3", "c4", "c5"), extra=extra, first_id=0, **more)


DETECTORS = {
    "fasterrcnn_resnet50_fpn": Published(no_eps=("COCO_V1",)),
    "fasterrcnn_resnet50_fpn_v2": Published(norm="batch", settings=V2),
    "fasterrcnn_mobilenet_v3_large_fpn": _mobile(settings=FIVE),
    "fasterrcnn_mobilenet_v3_large_320_fpn": _mobile(
        imgsz=320, settings={**FIVE, "proposals": (2000, 150), "longest": 2.0}
    ),
    "maskrcnn_resnet50_fpn": Published(MaskRCNN, no_eps=("COCO_V1",)),
    "maskrcnn_resnet50_fpn_v2": Published(MaskRCNN, norm="batch", settings={**V2, "mask_norm": True}),
    "keypointrcnn_resnet50_fpn": Published(KeypointRCNN, no_eps=("COCO_V1", "COCO_LEGACY")),
    "retinanet_resnet50_fpn": _dense(RetinaNet, no_eps=("COCO_V1",)),
    "retinanet_resnet50_fpn_v2": _dense(
        RetinaNet, "p6p7_c5", settings={"coarser": "p6p7_c5", "tower_norm": "group", "box_loss": "giou"}
    ),
    "fcos_resnet50_fpn": _dense(FCOS, settings={"score_threshold": 0.2}),
    "ssd300_vgg16": Published(
        SSD,
        "vgg16",
        {"atrous": True},
        levels=(),
        light={"mean": (0.48235, 0.45882, 0.40784), "std": (1 / 255,) * 3},
        imgsz=300,
        settings=SSD300,
    ),
    "ssdlite320_mobilenet_v3_large": Published(
        SSDLite,
        "mobilenet_v3_large",
        {"reduced_tail": True},
        levels=(),
        light={"mean": (0.5,) * 3, "std": (0.5,) * 3},
        imgsz=320,
    ),
}


def names() -> list[str]:
    """The detectors that `build` knows."""
    return list(DETECTORS)


def build(name: str, weights: str | None = None) -> tuple[Model, dict[str, Any]]:
    """A published detector in evaluation mode, and what its header says beside its construction.

    weights: "coco" (the default, the best published ones), their name (COCO_V1), a local file or a URL of a
    torchvision `state_dict`; a published file is known by its content, whatever it is called. Raises WeightsError for
    weights that are unknown, unreadable or misfit.
    """
    tensors, known, origin = torchvision_weights.open_weights(name, weights)
    if known is None and (first := DETECTORS[name].no_eps):
        logging.getLogger("retinue").warning(
            "%s: none of %s's published files, so its batch norms have an epsilon of 1e-5. Weights that come from %s "
            "were trained without one and find less: give the published file, or weights=%s",
            origin.source, name, " or ".join(first), first[0],
        )  # fmt: skip
    model = construct(name, norm_eps(name, known.name if known else ""))
    insert(model, tensors, origin.source)
    model.backbone.weights = origin
    return model.eval(), {"imgsz": DETECTORS[name].imgsz, "batch": 1}


def norm_eps(name: str, weights: str) -> float | None:
    """The epsilon of the trunk's batch norms under these published weights, "" for others; None: the backbone's own."""
    return 0.0 if weights in DETECTORS[name].no_eps else DETECTORS[name].eps


def construct(name: str, eps: float | None = None) -> Model:
    """The detector with random weights; `eps` as `norm_eps` gives it."""
    asked = DETECTORS[name]
    norms: dict[str, Any] = {} if eps is None else {"norm_eps": eps}
    trunk = retinue.backbones.build(asked.backbone, **asked.options, **norms)
    if asked.light:
        trunk.prepare_for(replace(trunk.preprocessing, **asked.light, pad=()))  # type: ignore[arg-type]
    if asked.levels:
        trunk = retinue.backbones.FPN(trunk, asked.levels, 256, asked.extra, asked.norm)  # type: ignore[arg-type]
    trunk = asked.task.trunk_for(trunk, asked.settings)
    task = asked.task(trunk, classes_of(name), **asked.settings)  # type: ignore[call-arg, arg-type]
    return Model(trunk, {asked.task.__module__.rpartition(".")[2]: task})


@cache
def classes_of(name: str) -> ClassMap:
    """COCO's classes by their original ids 1 to 90; the ten that were never annotated are called "unused ID".

    The detectors that score each class by itself have one of id 0 too, in the place of the background.
    """
    (first, *_) = torchvision_weights.published_members(name)
    start = DETECTORS[name].first_id
    categories = {id: category for id, category in enumerate(first.meta["categories"]) if id >= start}
    names = tuple(
        f"unused {id}" if category in ("N/A", "__background__") else category
        for id, category in categories.items()
    )
    keypoints = PERSON_KEYPOINTS if "keypoint_names" in first.meta else {}
    return ClassMap(names, tuple(categories), keypoints)


def describe(name: str) -> dict[str, Any]:
    """`score` on COCO val2017 with its `metric`, `licence`, `source`, `parameters` of the default weights."""
    return torchvision_weights.describe(name, ("COCO-val2017", "box_map"), "box/AP")


def insert(model: Model, tensors: dict[str, Tensor], source: str) -> None:
    """Copy a torchvision detector's `state_dict` into a model put together alike; WeightsError where it is not."""
    (task,) = model.named_tasks
    torchvision_weights.insert(model, tensors, lambda key: translate(key, model.backbone, task), source)
