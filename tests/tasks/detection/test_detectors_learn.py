"""Detectors in training: torchvision's losses on the same weights, and a few scenes learned by heart."""

from typing import Any

import pytest
import torch
from detectors import CLASSES, batch, make, sample
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN as TheirFasterRCNN
from torchvision.models.detection import KeypointRCNN as TheirKeypointRCNN
from torchvision.models.detection import MaskRCNN as TheirMaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import collate
from retinue.tasks.detection import published
from retinue.tools.loader import View

# torchvision's losses

LOSSES = {
    "class": "loss_classifier",
    "box": "loss_box_reg",
    "objectness": "loss_objectness",
    "proposal_box": "loss_rpn_box_reg",
    "mask": "loss_mask",
    "keypoint": "loss_keypoint",
}
MANY = {"sampled": 10**5, "rpn_sampled": 10**6, "positive_fraction": 0.5, "proposals": (150, 40)}
"""Of so many sampled none is left out, and nothing is drawn by lot."""


def theirs(kind: str, classes: int) -> nn.Module:
    """torchvision's detector on a ResNet-18, which takes every anchor and every proposal into its losses."""
    settings: dict[str, Any] = {
        "rpn_batch_size_per_image": 2 * 10**6, "box_batch_size_per_image": 10**5, "box_positive_fraction": 0.5,
        "rpn_pre_nms_top_n_train": 150, "rpn_post_nms_top_n_train": 150, "min_size": 96, "max_size": 500,
    }  # fmt: skip
    if kind == "keypoint":
        settings["keypoint_head"] = KeypointRCNNHeads(256, (8, 8))
        settings["keypoint_predictor"] = KeypointRCNNPredictor(8, 3)
    network = {"faster": TheirFasterRCNN, "mask": TheirMaskRCNN, "keypoint": TheirKeypointRCNN}[kind]
    return network(_resnet_fpn_extractor(resnet18(), 5), classes + 1, **settings)


@pytest.mark.parametrize("kind", ["faster", "mask", "keypoint"])
def test_the_losses_are_torchvisions(kind: str) -> None:
    """Same weights, same pictures, one without objects: targets are assigned and losses normalised alike."""
    torch.manual_seed(3)
    network = theirs(kind, len(CLASSES))
    model = make(kind, classes=CLASSES, **MANY, pyramid_channels=256, mask_width=256)
    published.insert(model, network.state_dict(), "here")
    boxes = [[5, 8, 60, 90], [30, 4, 100, 70], [40.5, 30.25, 62, 49], [2, 60, 20, 90]]
    pictures, targets = batch(sample(boxes, (96, 128)), sample([], (96, 128)), sample(boxes[:2], (96, 128)))
    for part in (network.train(), model.train()):
        for module in part.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    given = [
        {
            "boxes": target["boxes"],
            "labels": target["box_labels"] + 1,
            "masks": target["masks"].to(torch.uint8),
            "keypoints": target["keypoints"],
        }
        for target in targets
    ]
    with torch.no_grad():
        expected = network(list(pictures.pixels), given)
        losses = {name.removeprefix("it/"): value for name, value in model(pictures, targets).items()}
    assert len(losses) == len(expected)
    for name, value in losses.items():
        assert value > 1e-3
        torch.testing.assert_close(value, expected[LOSSES[name]], rtol=1e-4, atol=1e-5)


# Learning


def learned(kind: str, form: str, steps: int, sampled: int = 64) -> tuple[dict[str, float], dict[str, float]]:
    """The figures on the three scenes that are learned, before and after so many steps."""
    scenes = Scenes(3, 64)
    model = make(kind, form, Scenes.classes, sampled=sampled, rpn_sampled=64, proposals=(200, 50))
    task = model.named_tasks["it"]
    view = View(scenes, task.eval_transform(64), task.target_keys())
    pictures, targets = collate([view[0, i] for i in range(3)], divisor=32)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    figures = []
    for count in (0, steps):
        for _ in range(count):
            optimizer.zero_grad()
            torch.stack(list(model.train()(pictures, targets).values())).sum().backward()
            optimizer.step()
        metric = task.metric()
        metric.update(pictures.ids, model.eval().predict(pictures)["it"], targets)
        figures.append(metric.compute())
    return figures[0], figures[1]


def test_it_learns_a_few_scenes_by_heart() -> None:
    before, after = learned("faster", "pyramid", 30)
    assert before["box/AP50"] < 0.2 and after["box/AP50"] > 0.7 and after["box/AP"] > 0.4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "form", "steps", "sampled"),
    [("mask", "pyramid", 100, 64), ("faster", "c4", 50, 16), ("faster", "fc", 300, 64)],
)
def test_other_forms_learn_them_too(kind: str, form: str, steps: int, sampled: int) -> None:
    before, after = learned(kind, form, steps, sampled)
    for figure in {"box/AP50", "mask/AP50"} & after.keys():
        assert after[figure] > before[figure] + 0.4
