"""Losses of one-stage detectors on random answers of their heads: torchvision's, hand-computed ones, and crowds."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from detectors import batch, sample, small
from torch import Tensor, nn
from torchvision.models import detection as theirs
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from retinue.datasets.targets import Pictures, Target
from retinue.tasks.detection import fcos, retinanet
from retinue.tasks.detection.fcos import FCOS
from retinue.tasks.detection.matching import BELOW
from retinue.tasks.detection.retinanet import RetinaNet
from retinue.tasks.detection.ssd import SSD, hardest
from retinue.tasks.detection.ssdlite import SSDLite

BOXES = [[5, 8, 60, 90], [30, 4, 100, 70], [40.5, 30.25, 62, 49], [2, 60, 20, 90]]
SIZE = (96, 128)


class Nothing(nn.Module):
    """In the place of a trunk that is never run."""

    out_channels = 16


def scene(*counts: int) -> tuple[Pictures, list[Target], list[dict[str, Tensor]]]:
    """Pictures with so many objects, and their targets as torchvision takes them."""
    pictures, targets = batch(*(sample(BOXES[:count], SIZE) for count in counts))
    return pictures, targets, [{"boxes": t["boxes"], "labels": t["box_labels"]} for t in targets]


def random_answer(scored: Any) -> Any:
    """As what the heads say, but of spread values."""
    g = torch.Generator().manual_seed(1)
    answers = [[torch.randn(x.shape, generator=g) for x in part] for part in scored[:-1]]
    return type(scored)(*answers, scored[-1])


def answered(task: Any, model: Any, pictures: Pictures) -> Any:
    """The task's heads say random values from now on: what they say."""
    with torch.no_grad():
        answer = random_answer(task.score(model.backbone(pictures.pixels, task.levels), pictures))
    task.score = lambda features, pictures: answer
    return answer


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
def test_retinanets_are_torchvisions(box_loss: str) -> None:
    """Of pictures with many objects, with few and with none."""
    model = small(RetinaNet, box_loss=box_loss)
    task: Any = model.named_tasks["it"]
    pictures, targets, given = scene(4, 1, 0)
    answer = answered(task, model, pictures)
    network = theirs.RetinaNet(Nothing(), 3, head=RetinaNetHead(16, 9, 3))
    network.head.regression_head._loss_type = box_loss
    outputs = {"cls_logits": torch.cat(answer.logits, 1), "bbox_regression": torch.cat(answer.codes, 1)}
    expected = network.compute_loss(given, outputs, [torch.cat(answer.anchors)] * 3)
    losses = task.losses({}, pictures, targets)
    torch.testing.assert_close(losses["class"], expected["classification"])
    torch.testing.assert_close(losses["box"], expected["bbox_regression"])


def test_anchors_of_retinanet_are_torchvisions() -> None:
    task: Any = small(RetinaNet).named_tasks["it"]
    expected = theirs.retinanet._default_anchorgen().cell_anchors
    for own, their in zip(task.anchors.cells, expected, strict=True):
        torch.testing.assert_close(torch.tensor(own), their, rtol=0, atol=0)


def test_fcoss_are_torchvisions() -> None:
    model = small(FCOS)
    task: Any = model.named_tasks["it"]
    pictures, targets, given = scene(4, 1, 0)
    answer = answered(task, model, pictures)
    answer.sides[:] = [part.relu() for part in answer.sides]
    network = theirs.FCOS(Nothing(), 3, head=theirs.fcos.FCOSHead(32, 1, 3))
    points = torch.cat(answer.points)
    squares = torch.cat([points[:, :2] - points[:, 2:] / 2, points[:, :2] + points[:, 2:] / 2], 1)
    outputs = {
        "cls_logits": torch.cat(answer.logits, 1),
        "bbox_regression": torch.cat(answer.sides, 1),
        "bbox_ctrness": torch.cat(answer.centreness, 1)[..., None],
    }
    counts = [len(part) for part in answer.points]
    expected = network.compute_loss(given, outputs, [squares] * 3, counts)
    losses = task.losses({}, pictures, targets)
    for ours, their in (
        ("class", "classification"),
        ("box", "bbox_regression"),
        ("centreness", "bbox_ctrness"),
    ):
        torch.testing.assert_close(losses[ours], expected[their])


@pytest.mark.parametrize("kind", [SSD, SSDLite])
def test_ssds_are_torchvisions(kind: type[SSD]) -> None:
    model = small(kind)
    task: Any = model.named_tasks["it"]
    pictures, targets, given = scene(4, 1)
    with torch.no_grad():
        logits, codes, anchors = task.score(model.backbone(pictures.pixels, task.levels), pictures)
    logits, codes = (
        x + torch.randn(x.shape, generator=torch.Generator().manual_seed(2)) for x in (logits, codes)
    )
    task.score = lambda features, pictures: (logits, codes, anchors)
    network = theirs.ssd.SSD(Nothing(), DefaultBoxGenerator([[2]]), SIZE, 4, head=nn.Identity())
    for target in given:
        target["labels"] = target["labels"] + 1
    matched = [network.proposal_matcher(box_iou(t["boxes"], anchors)) for t in given]
    outputs = {"cls_logits": logits, "bbox_regression": codes}
    expected = network.compute_loss(given, outputs, [anchors] * 2, matched)
    losses = task.losses({}, pictures, targets)
    torch.testing.assert_close(losses["class"], expected["classification"])
    torch.testing.assert_close(losses["box"], expected["bbox_regression"])


@pytest.mark.parametrize("kind", [RetinaNet, FCOS, SSD, SSDLite])
def test_background_in_a_crowd_does_not_count(kind: Any) -> None:
    """Beside the same picture without it, by just the crowd's candidates; all in a crowd, nothing is learnt."""
    model = small(kind).eval()
    task: Any = model.named_tasks["it"]
    everything = [[-500, -500, 900, 900]]
    pictures, hidden = batch(sample(everything, SIZE, crowd=[True]))
    with torch.no_grad():
        features = model.backbone(pictures.pixels, task.levels)
        assert all(value == 0 for value in task.losses(features, pictures, hidden).values())
        half, empty = (
            batch(sample(b, SIZE, crowd=c))[1] for b, c in (([[0, 0, 64, 96]], [True]), ([], None))
        )
        some, every = (task.losses(features, pictures, targets)["class"] for targets in (half, empty))
    assert some > 0
    if kind in (RetinaNet, FCOS):  # SSD counts as many, the hardest, of what is left
        assert some < every


def test_the_hardest_by_hand() -> None:
    losses = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.3, 0.2, 0.1, 0.0]])
    negative = torch.tensor([[True, False, True, True], [True, True, False, False]])
    chosen = hardest(losses, negative, torch.tensor([2.0, 3.0]))
    assert chosen.tolist() == [[False, False, True, True], [True, True, False, False]]
    assert not hardest(losses, negative & False, torch.tensor([2.0, 3.0])).any()


def test_classes_begin_rare() -> None:
    for task in (small(kind).named_tasks["it"] for kind in (RetinaNet, FCOS)):
        layer: Any = task.class_head[-1]  # type: ignore[union-attr, index]
        assert torch.allclose(layer.bias.sigmoid(), torch.tensor(0.01))


# FCOS by hand


def test_points_by_hand() -> None:
    points = torch.tensor([[8.0, 8, 8], [16, 16, 8], [40, 40, 8], [16, 16, 16]])
    reach = torch.tensor([[0.0, 64], [0, 64], [0, 64], [64, 128]])
    boxes = torch.tensor([[0.0, 0, 32, 32], [10, 10, 30, 26], [8, 8, 50, 50]])
    own = partial(fcos.assign_points, points, reach)
    # 1: in the first box only (on the border of the third is outside). 2: in all, the second is the smallest.
    assert own(boxes, None, 1.5).tolist() == [0, 1, 2, BELOW]
    assert own(boxes, None, 0.5).tolist() == [BELOW, 0, BELOW, BELOW]  # nearer than four pixels to the centre
    assert own(boxes[:0], None, 1.5).tolist() == [BELOW] * 4
    large = torch.tensor([[0.0, 0, 90, 32]])
    assert own(large, None, 9.0).tolist() == [BELOW, BELOW, BELOW, 0]  # its right side is 74 and more away
    crowd = torch.tensor([False, True, False])
    assert own(boxes, crowd, 1.5).tolist()[:3] == [0, 0, 2]
    assert own(boxes[1:2], crowd[1:2], 1.5).tolist() == [BELOW, -2, BELOW, -2]


def test_sides_lead_back_to_the_box() -> None:
    points, boxes = torch.tensor([[10.0, 20, 8]]), torch.tensor([[2.0, 4, 30, 28]])
    sides = fcos.sides_of(points, boxes)
    assert sides.tolist() == [[8, 16, 20, 8]]
    assert torch.equal(fcos.box_around(points, sides / 8), boxes)
    torch.testing.assert_close(fcos.centreness(sides), torch.tensor([math.sqrt(8 / 20 * 8 / 16)]))
    assert fcos.centreness(torch.tensor([[3.0, 3, 3, 3], [0, 3, 3, 3], [0, 0, 0, 0]])).tolist() == [1, 0, 0]


def test_prior_is_the_papers() -> None:
    assert retinanet.PRIOR == fcos.PRIOR == 0.01
