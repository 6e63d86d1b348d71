"""Every detector in small, and pictures with objects for it."""

from typing import Any

import numpy as np
import torch
from torch import nn

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, Pictures, Sample, Target, collate
from retinue.tasks import find
from retinue.tasks.detection.detector import Detector
from retinue.tasks.detection.fast_rcnn import FastRCNN
from retinue.tasks.detection.faster_rcnn import FasterRCNN
from retinue.tasks.detection.keypoint_rcnn import KeypointRCNN
from retinue.tasks.detection.mask_rcnn import MaskRCNN
from retinue.tasks.detection.region_heads import ConvHead, MLPHead, Res5Head, TopHead
from retinue.tasks.task import Model

POINTS = {"names": ["a", "b", "c"], "pairs": [[0, 1]], "sigmas": [0.1, 0.1, 0.1]}
CLASSES = ClassMap(("cat", "dog", "owl"), (3, 7, 90), POINTS)
KINDS: dict[str, Any] = {"fast": FastRCNN, "faster": FasterRCNN, "mask": MaskRCNN, "keypoint": KeypointRCNN}
ALL: list[type[Detector]] = [kind for kind in map(find.find, find.names()) if issubclass(kind, Detector)]
"""Every detector, by discovery."""
FORMS: dict[str, tuple[str, dict[str, Any], type[nn.Module]]] = {
    "pyramid": ("resnet18", {"pyramid_channels": 16}, MLPHead),
    "conv": ("resnet18", {"pyramid_channels": 16, "head": "conv", "rpn_depth": 2, "mask_norm": True}, ConvHead),
    "c4": ("resnet18", {"pyramid": False}, Res5Head),
    "fc": ("lenet5", {"pyramid": False}, TopHead),
    "coarsest": ("mobilenet_v3_small", {"pyramid": False}, MLPHead),
}  # fmt: skip
"""Backbone, settings, and the head that they lead to."""
SMALL = {
    "sampled": 12, "proposals": (60, 12), "rpn_sampled": 32, "mask_width": 8, "keypoint_width": 8,
    "keypoint_depth": 2, "zooms": (1.0, 0.5), "candidates": 40, "width": 16,
    "units": 32,
    "region_side": 32, "context": 3,
}  # fmt: skip


def small(kind: type[Detector], classes: ClassMap = CLASSES, **settings: Any) -> Model:
    """The detector as it comes, only narrow, on the backbone that its recipe names or on a small one."""
    torch.manual_seed(0)
    settings = own(kind, {**SMALL, "pyramid_channels": 16, **settings})
    backbone = kind.trunk_for(build(kind.recipe(False).get("backbone", "resnet18")), settings)
    model = Model(backbone, {"it": kind(backbone, classes, **settings)})  # type: ignore[call-arg]
    model.freeze_unread()
    return model


def own(kind: type[Detector], settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that the task has."""
    known = {name for base in kind.__mro__ for name in getattr(base.__init__, "__kwdefaults__", None) or ()}
    return {name: value for name, value in settings.items() if name in known}


def make(kind: str, form: str = "pyramid", classes: ClassMap = CLASSES, **more: Any) -> Model:
    torch.manual_seed(0)
    architecture, settings, head = FORMS[form]
    settings = own(KINDS[kind], {**SMALL, **settings, **more})
    backbone = KINDS[kind].trunk_for(build(architecture), settings)
    task = KINDS[kind](backbone, classes, **settings)
    assert isinstance(task.box_head, head)
    model = Model(backbone, {"it": task})
    model.freeze_unread()
    return model


def sample(boxes: Any, size: tuple[int, int] = (64, 64), id: str = "0", crowd: Any = None) -> Sample:
    """A noisy picture with these objects: full masks, keypoints at two corners and at the centre, proposals near."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    y, x = (np.arange(side) + 0.5 for side in size)
    inside = (boxes[:, :1] <= x) & (x < boxes[:, 2:3]), (boxes[:, 1:2] <= y) & (y < boxes[:, 3:])
    points = np.stack([boxes[:, :2], boxes[:, 2:], (boxes[:, :2] + boxes[:, 2:]) / 2], 1)
    rng = np.random.default_rng(len(boxes))
    targets = {
        "boxes": boxes,
        "box_labels": np.arange(len(boxes)) % 3,
        "crowd": np.zeros(len(boxes), bool) if crowd is None else np.array(crowd),
        "masks": inside[1][:, :, None] & inside[0][:, None],
        "keypoints": np.concatenate([points, np.full_like(points[..., :1], 2)], 2).astype(np.float32),
    }
    corner = rng.uniform(0, 0.5, (9, 2)) * size[::-1]
    others = np.concatenate([corner, corner + rng.uniform(0.1, 0.5, (9, 2)) * size[::-1]], 1)
    proposals = np.concatenate([boxes + 0.5, others.astype(np.float32)])
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return Sample(id, image, targets, {"proposals": proposals})


def batch(*samples: Sample) -> tuple[Pictures, list[Target]]:
    return collate([s.with_(id=str(i)) for i, s in enumerate(samples)], divisor=32)


THREE = [[4, 4, 30, 40], [20, 10, 60, 50], [33.5, 2.25, 50, 20]]


def descend(
    model: Model, pictures: Pictures, targets: list[Target], steps: int = 2
) -> list[dict[str, float]]:
    """The losses of a few steps, all finite; every trained parameter has a gradient, and nothing breaks on the way."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.01)
    said = []
    for _ in range(steps):
        losses = model.train()(pictures, targets)
        said.append({name.removeprefix("it/"): value.item() for name, value in losses.items()})
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        optimizer.step()
    assert np.isfinite([list(losses.values()) for losses in said]).all(), said
    assert all(value.isfinite().all() for value in model.state_dict().values())
    return said
