"""OverFeat: its windows are crops of the picture, its edges lie in their frame, its answers become boxes."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from detectors import CLASSES, THREE, batch, sample
from small_trunks import SmallVGG
from torch import nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from retinue.backbones import build
from retinue.backbones.backbone import Backbone
from retinue.datasets.targets import DataError, Pictures
from retinue.tasks.detection.overfeat import (
    OverFeat,
    Seen,
    boxes_of,
    edges_of,
    own_windows,
    window_losses,
    windows,
)
from retinue.tasks.fused import fused_model
from retinue.tasks.task import Model

SIDE, STRIDE = 18, 4
"""Of the windows of `unpadded`, whose fc6 reads 3x3 cells."""


def make(backbone: Backbone, **settings: Any) -> tuple[Model, OverFeat]:
    torch.manual_seed(0)
    for parameter in backbone.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    backbone = OverFeat.trunk_for(backbone, settings)
    task = OverFeat(backbone, CLASSES, **{"width": 8, **settings})
    return Model(backbone, {"it": task}).eval(), task


def unpadded(**settings: Any) -> tuple[Model, OverFeat]:
    """On a trunk without padding, whose maps are exact crops of those of larger pictures."""
    return make(SmallVGG(3, padding=0, blocks=2), window=SIDE, **settings)


@torch.no_grad()
def look(model: Model, pictures: Pictures) -> Seen:
    task: Any = model.named_tasks["it"]
    return task.look(model.backbone(pictures.pixels, task.levels), pictures)


@torch.no_grad()
def answers(model: Model, crop: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and edges (n, values) of pictures of exactly one window."""
    task: Any = model.named_tasks["it"]
    maps = model.backbone(crop, task.levels)[task.level]
    return task.classifier(maps)[..., 0, 0], task.regressor(maps)[..., 0, 0]


def test_every_window_of_every_scale_answers_as_its_crop() -> None:
    model, _ = unpadded(zooms=(1, 0.6))
    pictures, _ = batch(sample([], (40, 60)), sample([], (40, 60), id="1"))
    seen = look(model, pictures)
    rows, columns = (40 - SIDE) // STRIDE + 1, (60 - SIDE) // STRIDE + 1
    canvas = pictures.pixels.shape[-2:]
    assert tuple(canvas) == (64, 64)
    small = F.interpolate(pictures.pixels, (38, 38), mode="bilinear", antialias=True)
    tried = 0
    for pixels, scale in ((pictures.pixels, 1.0), (small, 38 / 64)):
        for y in range(0, pixels.shape[-2] - SIDE + 1, STRIDE):
            for x in range(0, pixels.shape[-1] - SIDE + 1, STRIDE):
                logits, edges = answers(model, pixels[..., y : y + SIDE, x : x + SIDE])
                torch.testing.assert_close(seen.logits[:, tried], logits, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(seen.edges[:, tried], edges, rtol=1e-4, atol=1e-4)
                expected = [v / scale for v in (x, y, x + SIDE, y + SIDE)]
                np.testing.assert_allclose(seen.boxes[tried], expected, rtol=1e-5)
                tried += 1
    assert tried == seen.boxes.shape[0] == seen.logits.shape[1] and rows * columns <= seen.own[0].sum()
    assert seen.logits.std() > 0.01  # they do not agree by saying nothing


def test_a_mean_forgets_where_things_are_so_new_layers_read_all_cells() -> None:
    """Of a ResNet, or of a finer map than the classifier's own; what lies above that is taken off."""
    for level, name, cells, stages in (("c4", "c4", 3, 4), (None, "c5", 3, 5)):
        model, task = make(build("resnet18"), level=level, window=48)
        assert task.levels == (name,) and task.stride == 16 and len(model.backbone.stages()) == stages
        assert [layer.kernel_size[0] for layer in task.classifier if isinstance(layer, nn.Conv2d)] == [
            1,
            cells,
            1,
        ]
    _, task = unpadded()
    assert isinstance(task.classifier[0], nn.Conv2d) and task.classifier[0].out_channels == 20  # its own fc6


def test_windows_at_half_the_stride_are_the_offsets_interlaced() -> None:
    """Section 3.3: of the windows of the finer trunk, every second one in either direction is the coarser trunk's."""
    one, two = (make(build("resnet18"), output_stride=stride, window=16, zooms=(1,)) for stride in (32, 16))
    two[0].load_state_dict(one[0].state_dict())
    pictures, _ = batch(sample([], (96, 160)))
    coarse, fine = (look(model, pictures) for model, _ in (one, two))
    assert coarse.logits.shape[1] == 3 * 5 and fine.logits.shape[1] == 6 * 10
    every_second = fine.logits.view(6, 10, -1)[::2, ::2].reshape(15, -1)
    torch.testing.assert_close(every_second, coarse.logits[0], rtol=1e-4, atol=1e-4)
    places = fine.boxes.view(6, 10, 4)[::2, ::2].reshape(15, 4)
    assert torch.equal(places, coarse.boxes)


def test_a_picture_has_the_windows_that_it_has_alone() -> None:
    boxes = windows((4, 4), 16, 48, (1.0, 1.0), torch.device("cpu"))
    for size, rows, columns in (
        ((64, 80), 2, 3),
        ((65, 81), 3, 4),  # the last one reaches over the end
        ((10, 1), 1, 1),
        ((96, 48), 4, 1),
    ):
        own = own_windows(boxes, (4, 4), torch.tensor([size])).view(4, 4)
        assert own[:rows, :columns].all() and own.sum() == rows * columns, size


def test_a_picture_smaller_than_the_window_is_padded_to_one() -> None:
    model, task = unpadded(zooms=(1, 0.5))
    task.preprocessing = task.preprocessing.__class__(pad=(0.25, 0.5, 0.75))
    pixels = torch.rand(1, 3, 10, 12)
    pictures = Pictures(pixels, [(10, 12)], [(10, 12)], torch.eye(2, 3).double()[None], ["a"])
    with mock.patch.object(task, "attached", (model.backbone,)):
        seen = task.look(
            {task.level: torch.zeros(0)}, pictures
        )  # the map at hand is too small, and is not read
    assert seen.own.all() and seen.boxes.shape == (2, 4)
    np.testing.assert_allclose(seen.boxes, [[0, 0, SIDE, SIDE], [0, 0, 2 * SIDE, 2 * SIDE]])
    canvas = torch.tensor([0.25, 0.5, 0.75]).view(3, 1, 1).repeat(1, SIDE, SIDE)[None]
    canvas[..., :10, :12] = pixels
    torch.testing.assert_close(seen.logits[:, 0].detach(), answers(model, canvas)[0])


def test_edges_by_hand_and_back() -> None:
    window, box = torch.tensor([[0.0, 0, 50, 100]]), torch.tensor([[5.0, 10, 45, 120]])
    assert edges_of(box, window).tolist() == [[1, 1, -1, 2]]
    rng = torch.Generator().manual_seed(0)
    boxes, others = (torch.rand(2, 9, 4, generator=rng) * 50 + torch.tensor([0, 0, 60, 60]) for _ in "ab")
    torch.testing.assert_close(boxes_of(edges_of(boxes, others), others), boxes)


def test_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    edges = torch.tensor([[9.0] * 4, [9.0] * 4, [1.0, 2, 3, 4]], requires_grad=True)
    truth = torch.tensor([[torch.nan] * 4, [torch.inf] * 4, [1.0, 2, 3, 2]])  # read where there is an object
    losses = window_losses(logits, edges, torch.tensor([0, 0, 1]), truth)
    expected = (np.log(2) + np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 3
    np.testing.assert_allclose(losses["class"].item(), expected, rtol=1e-6)
    assert losses["box"].item() == 1
    none = window_losses(logits, edges, torch.zeros(3, dtype=torch.int64), truth)
    assert none["box"].item() == 0 and none["box"].requires_grad


def perfect(task: OverFeat, model: Model, pictures: Pictures, targets: Any) -> Seen:
    """Windows that say what a slow reading of the rules wants of them."""
    seen, high = look(model, pictures), task.settings["foreground_iou"]
    logits, edges = torch.zeros_like(seen.logits), torch.zeros_like(seen.edges)
    logits[..., 0] = 30
    for i, target in enumerate(targets):
        if not len(target["boxes"]):
            continue
        iou = box_iou(seen.boxes, target["boxes"])
        for k in torch.where(seen.own[i])[0].tolist():
            best = int(iou[k].argmax())
            if iou[k, best] >= high or (iou[k] >= iou[seen.own[i]].amax(0)).any():
                logits[i, k] = F.one_hot(1 + target["box_labels"][best], 4) * 30.0
                edges[i, k] = edges_of(target["boxes"][best], seen.boxes[k])
    return Seen(seen.boxes, seen.own, logits, edges)


def test_perfect_windows_cost_nothing_and_give_the_truth() -> None:
    model, task = unpadded(zooms=(1, 0.6), sampled=10**5)
    pictures, targets = batch(sample(THREE), sample([]), sample(THREE[:1], (50, 41)))
    seen = perfect(task, model, pictures, targets)
    with mock.patch.object(task, "look", return_value=seen):
        losses = task.losses({}, pictures, targets)
        found = task.find({}, pictures)
    assert losses["class"] < 1e-6 and losses["box"] < 1e-6, losses
    assert found.counts == [3, 0, 1]
    for boxes, labels, target in zip(
        found.boxes.split(found.counts), found.labels.split(found.counts), targets
    ):
        order = labels.argsort()  # one object a class
        torch.testing.assert_close(boxes[order], target["boxes"], rtol=0, atol=1e-3)
        assert torch.equal(labels[order], target["box_labels"])


def test_the_plain_sliding_window_of_the_same_answers() -> None:
    """Without regressor and merging, boxes are windows, and their scores what the windows say."""
    model, task = unpadded(zooms=(1, 0.6), regress=False, merge=False)
    pictures, targets = batch(sample(THREE))
    seen = perfect(task, model, pictures, targets)
    with mock.patch.object(task, "look", return_value=seen):
        found = task.find({}, pictures)
    assert len(found.boxes) >= 3 and (found.scores > 0.999).all()
    for box in found.boxes:
        inside = seen.boxes[seen.own[0]].clamp(max=64)
        assert ((inside - box).abs().amax(1) < 1e-4).any()
    for label in range(3):
        same = found.boxes[found.labels == label]
        assert (box_iou(same, same).fill_diagonal_(0) <= task.nms_iou).all()


def test_windows_in_a_crowd_are_neither() -> None:
    model, task = unpadded(zooms=(1,), sampled=10**5)
    pictures, targets = batch(sample([[0, 0, 64, 64]], crowd=[True]))
    seen = look(model, pictures)
    with mock.patch.object(task, "look", return_value=seen):
        assert all(value.item() == 0 for value in task.losses({}, pictures, targets).values())


@pytest.mark.parametrize("merge", [True, False])
def test_fused_it_finds_the_same(merge: bool) -> None:
    model, _ = unpadded(zooms=(1, 0.6), merge=merge, score_threshold=0.3)
    pictures, _ = batch(sample(THREE), sample([], (50, 41)))
    results = [part.predict(pictures)["it"] for part in (model, fused_model(model))]
    for one, other in zip(*results):
        assert len(one) == len(other) > 0
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
    fused_model(model, torch.bfloat16).predict(pictures)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zooms": (0.5, 1)}, "1 first"),
        ({"zooms": ()}, "1 first"),
        ({"zooms": (1, 2)}, "at most 1"),
        ({"window": 0}, "window=0"),
        ({"window": 3}, "window=3.*too small"),
        ({"window": 26}, "window=26.*stretches or shrinks to 3x3"),
        ({"background_iou": 0.6}, "at most foreground_iou=0.5"),
        ({"merge_threshold": -1}, "merge_threshold=-1"),
        ({"candidates": 0}, "candidates=0"),
        ({"level": "c3"}, "level=c3: the backbone has c1, c2"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(SmallVGG(3, padding=0, blocks=2), **{"window": SIDE, **settings})


def test_strides_that_stay_are_named() -> None:
    with pytest.raises(DataError, match="output_stride=32"):
        OverFeat.trunk_for(SmallVGG(), {})
