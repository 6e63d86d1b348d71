"""torchvision's detectors by name, with their COCO weights: https://docs.pytorch.org/vision/stable/models.html."""

import logging
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

import retinue.backbones
from retinue.backbones.backbone import Backbone
from retinue.datasets.targets import PERSON_KEYPOINTS, ClassMap
from retinue.tasks import torchvision_weights
from retinue.tasks.detection.faster_rcnn import FasterRCNN
from retinue.tasks.detection.keypoint_rcnn import KeypointRCNN
from retinue.tasks.detection.mask_rcnn import MaskRCNN
from retinue.tasks.task import Model

V2 = {"head": "conv", "rpn_depth": 2}
FIVE = {"anchor_sizes": [32, 64, 128, 256, 512], "rpn_score_threshold": 0.05}
OLD_NAMES = (
    (re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
)
"""Of modules that torchvision has since put into Sequentials: its first published files have them."""


@dataclass(frozen=True)
class Detector:
    """How a published detector is put together. `imgsz`: the shorter side of its pictures."""

    task: type[FasterRCNN] = FasterRCNN
    backbone: str = "resnet50"
    levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    norm: str | None = None
    imgsz: int = 800
    settings: dict[str, Any] = field(default_factory=dict)
    eps: float | None = None
    """Of the trunk's batch norms, where it is not the backbone's own."""
    no_eps: tuple[str, ...] = ()
    """Weights that were trained where a frozen batch norm had no epsilon."""


MOBILE = {"backbone": "mobilenet_v3_large", "levels": ("block13", "c5"), "eps": 1e-5}
DETECTORS = {
    "fasterrcnn_resnet50_fpn": Detector(no_eps=("COCO_V1",)),
    "fasterrcnn_resnet50_fpn_v2": Detector(norm="batch", settings=V2),
    "fasterrcnn_mobilenet_v3_large_fpn": Detector(**MOBILE, settings=FIVE),  # type: ignore[arg-type]
    "fasterrcnn_mobilenet_v3_large_320_fpn": Detector(
        **MOBILE,  # type: ignore[arg-type]
        imgsz=320,
        settings={**FIVE, "proposals": (2000, 150), "longest": 2.0},
    ),
    "maskrcnn_resnet50_fpn": Detector(MaskRCNN, no_eps=("COCO_V1",)),
    "maskrcnn_resnet50_fpn_v2": Detector(MaskRCNN, norm="batch", settings={**V2, "mask_norm": True}),
    "keypointrcnn_resnet50_fpn": Detector(KeypointRCNN, no_eps=("COCO_V1", "COCO_LEGACY")),
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
    detector = DETECTORS[name]
    options: dict[str, Any] = {} if eps is None else {"norm_eps": eps}
    body = retinue.backbones.build(detector.backbone, **options)
    trunk = retinue.backbones.FPN(body, detector.levels, 256, "pool", detector.norm)  # type: ignore[arg-type]
    task = detector.task(trunk, classes_of(name), **detector.settings)
    return Model(trunk, {detector.task.__module__.rpartition(".")[2]: task})


@cache
def classes_of(name: str) -> ClassMap:
    """COCO's classes by their original ids 1 to 90; the ten that were never annotated are called "unused ID"."""
    (first, *_) = torchvision_weights.published_members(name)
    categories = first.meta["categories"][1:]  # without background
    names = tuple(f"unused {i}" if n == "N/A" else n for i, n in enumerate(categories, 1))
    keypoints = PERSON_KEYPOINTS if "keypoint_names" in first.meta else {}
    return ClassMap(names, tuple(range(1, len(names) + 1)), keypoints)


def describe(name: str) -> dict[str, Any]:
    """`score` on COCO val2017 with its `metric`, `licence`, `source`, `parameters` of the default weights."""
    return torchvision_weights.describe(name, ("COCO-val2017", "box_map"), "box/AP")


def insert(model: Model, tensors: dict[str, Tensor], source: str) -> None:
    """Copy a torchvision detector's `state_dict` into a model put together alike; WeightsError where it is not."""
    (task,) = model.named_tasks
    torchvision_weights.insert(model, tensors, lambda key: translate(key, model.backbone, task), source)


def translate(key: str, backbone: Backbone, task: str) -> str:
    """torchvision's name of a tensor -> ours.

    Theirs are backbone.body, backbone.fpn, rpn and roi_heads; of a MobileNet's body only the numbered `features`.
    """
    for pattern, new in OLD_NAMES:
        key = pattern.sub(new, key)
    key = re.sub(r"mask_fcn(\d)\.", lambda found: f"{int(found.group(1)) - 1}.0.", key)
    if key.startswith("backbone.fpn."):
        return key.replace("backbone.fpn.", "backbone.", 1)
    if key.startswith("backbone.body.") and hasattr(backbone.body, "features"):
        return key.replace("backbone.body.", "backbone.body.features.", 1)
    if key.startswith("backbone."):
        return key
    return f"tasks.{task}.{key.removeprefix('roi_heads.')}"
