"""YOLO v3: cells and anchors, which of them stand for objects, the losses, by hand; anchors from data."""

import math

import numpy as np
import pytest
import torch
from detectors import CLASSES, THREE, batch, descend, sample, small
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from retinue.backbones import build
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import DataError, Sample
from retinue.tasks.detection.yolov3 import COCO, Cells, YOLOv3, class_loss, decode, encode

ANCHORS = torch.tensor(COCO, dtype=torch.float32).view(3, 3, 2)


def cells(canvas: tuple[int, int] = (64, 96)) -> Cells:
    return Cells(canvas, [(canvas[0] // s, canvas[1] // s) for s in (8, 16, 32)], ANCHORS)


def test_places_are_map_by_map_row_by_row() -> None:
    places = cells().places()
    assert places.shape == (3 * (8 * 12 + 4 * 6 + 2 * 3), 6)
    assert places[0].tolist() == [0, 0, 8, 8, 10, 13] and places[5].tolist() == [1, 0, 8, 8, 33, 23]
    assert places[3 * 13 + 1].tolist() == [1, 1, 8, 8, 16, 30]
    assert places[3 * 96].tolist() == [0, 0, 16, 16, 30, 61]
    assert places[-1].tolist() == [2, 1, 32, 32, 373, 326]


def test_the_anchor_of_the_best_shape_in_the_cell_of_the_centre_is_responsible() -> None:
    """A box like the second anchor about (50, 20), and one larger than all about (40, 63.9)."""
    boxes = torch.tensor([[42.0, 5, 58, 35], [-400, -300, 480, 427.8], [95, 63, 96, 64]])
    chosen = cells().responsible(boxes)
    assert chosen.tolist() == [
        3 * (2 * 12 + 6) + 1,
        3 * (96 + 24) + 3 * (1 * 3 + 1) + 2,
        3 * (7 * 12 + 11),
    ]


@settings(deadline=None)
@given(
    st.lists(st.floats(0.01, 0.99), min_size=4, max_size=4), st.sampled_from([(64, 96), (96, 64), (32, 320)])
)
def test_what_is_responsible_can_say_the_box(values: list[float], canvas: tuple[int, int]) -> None:
    x, y, w, h = values
    height, width = canvas
    box = torch.tensor([[0, 0, w * width, h * height]]) + torch.tensor([x * width, y * height]).repeat(2)
    box -= torch.tensor([w * width, h * height]).repeat(2) / 2
    grid = cells(canvas)
    place = grid.places()[grid.responsible(box)]
    code = encode(box, place)
    assert (code[:, :2] >= 0).all() and (code[:, :2] <= 1).all()
    code[:, :2] = code[:, :2].clamp(1e-6, 1 - 1e-6).logit()
    torch.testing.assert_close(decode(code, place), box, atol=1e-2, rtol=1e-3)


def test_a_box_by_hand() -> None:
    """sigma(0) is the middle of the cell; exp(0) is the anchor itself."""
    box = decode(torch.tensor([0.0, 0, 0, math.log(2)]), torch.tensor([3.0, 1, 16, 16, 30, 61]))
    torch.testing.assert_close(box, torch.tensor([56.0 - 15, 24 - 61, 56 + 15, 24 + 61]))


def test_a_prediction_of_two_objects_has_both_classes() -> None:
    logits = torch.randn(2, 5, 3)
    rows = torch.tensor([0, 1, 1]), torch.tensor([4, 2, 2]), torch.tensor([1, 0, 2])
    truth = torch.tensor([[0.0, 1, 0], [1, 0, 1]])
    expected = F.binary_cross_entropy_with_logits(
        torch.stack([logits[0, 4], logits[1, 2]]), truth, reduction="sum"
    )
    torch.testing.assert_close(class_loss(logits, *rows), expected)
    none = torch.zeros(0, dtype=torch.int64)
    assert class_loss(logits, none, none, none) == 0


class Said(YOLOv3):
    """Whose network says what it is told."""

    said: Tensor

    def score(self, features: dict[str, Tensor], pictures: object) -> tuple[Tensor, Cells]:
        return self.said, cells((64, 64))


def told() -> Said:
    task = Said(build("resnet18"), CLASSES, width=8)
    task.said = torch.zeros(1, 3 * (64 + 16 + 4), 8)
    task.said[..., 4] = -3.0
    return task


def test_the_losses_by_hand() -> None:
    """One object of 26 x 50 about (36, 28), nearest in shape to the anchor 30 x 61 on 4 x 4 cells."""
    task = told()
    pictures, targets = batch(sample([[23, 3, 49, 53]]))
    place = 3 * 64 + 3 * (1 * 4 + 2)
    assert task.score({}, pictures)[1].responsible(targets[0]["boxes"]).tolist() == [place]
    losses = task.losses({}, pictures, targets)
    cross = -0.25 * math.log(0.5) - 0.75 * math.log(0.5)
    sides = (math.log(26 / 30) ** 2 + math.log(50 / 61) ** 2) / 2
    assert losses["box"].item() == pytest.approx((2 - 1300 / 4096) * (2 * cross + sides), rel=1e-5)
    assert losses["class"].item() == pytest.approx(3 * math.log(2), rel=1e-5)
    grid = task.score({}, pictures)[1]
    boxes = decode(task.said[0, :, :4], grid.places())
    truth = targets[0]["boxes"]
    low, high = torch.maximum(boxes[:, :2], truth[:, :2]), torch.minimum(boxes[:, 2:], truth[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    iou = common / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + 1300 - common)
    assert 0 < (iou > 0.5).sum() < 40
    background = (iou <= 0.5).sum() - (iou[place] <= 0.5).long()
    expected = background * math.log1p(math.exp(-3)) + math.log1p(math.exp(3))
    assert losses["objectness"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_crowds_are_neither_objects_nor_background() -> None:
    task = told()
    everything = batch(sample([[-500, -500, 600, 600]], crowd=[True]))
    assert all(value == 0 for value in task.losses({}, *everything).values())
    losses = task.losses({}, *batch(sample([])))
    assert losses["box"] == losses["class"] == 0
    assert losses["objectness"].item() == pytest.approx(252 * math.log1p(math.exp(-3)), rel=1e-5)


def test_a_score_is_objectness_times_class() -> None:
    task = told()
    task.said[0, 3 * 64 + 3 * 6] = torch.tensor([0, 0, 0, 0, 2.0, 1.0, -9, 3.0])
    pictures, _ = batch(sample([]))
    found = task.find({}, pictures)
    sure = torch.tensor(2.0).sigmoid()
    keep = found.scores > 0.1  # beside the faint ones
    assert found.labels[keep].tolist() == [2, 0]
    expected = sure * torch.tensor([3.0, 1.0]).sigmoid()
    torch.testing.assert_close(found.scores[keep], expected)
    torch.testing.assert_close(found.boxes[keep][0], torch.tensor([25.0, 0, 55, 54.5]))


def test_it_learns_pictures() -> None:
    model = small(YOLOv3)
    losses = descend(model, *batch(sample(THREE), sample([])), steps=8)
    assert sum(losses[-1].values()) < 0.8 * sum(losses[0].values())


# Anchors


def test_anchors_from_the_training_data() -> None:
    scenes = Scenes(8, 64)
    asked = {"anchors": "kmeans", "width": 16}
    resolved = YOLOv3.resolve_settings(asked, scenes)
    assert len(resolved["clusters"]) == 18 and max(resolved["clusters"]) <= 1
    assert YOLOv3.resolve_settings(resolved, None) == resolved
    assert YOLOv3.resolve_settings({"anchors": "coco"}, None) == {"anchors": "coco"}
    task = YOLOv3(build("resnet18"), Scenes.classes, **resolved)
    shares = torch.tensor(resolved["clusters"]).view(3, 3, 2)
    torch.testing.assert_close(task.anchors(416), shares * 416)
    assert (task.anchors(64).prod(2).flatten().diff() >= -1e-3).all()
    again = YOLOv3(build("resnet18"), Scenes.classes, **task.settings)
    assert torch.equal(again.priors, task.priors)
    assert "clusters" in YOLOv3.resolved


def test_anchors_that_are_given() -> None:
    task = YOLOv3(build("resnet18"), CLASSES, anchors=[8, 8, 16, 16, 64, 32], width=8)
    assert task.anchors(999).tolist() == [[[8, 8]], [[16, 16]], [[64, 32]]]
    assert task.predictors[0].out_channels == 8
    descend(small(YOLOv3, anchors=[8, 8, 16, 16, 64, 32]), *batch(sample(THREE)), steps=1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"anchors": "kmeans"}, "anchors=kmeans: their clusters come from training data"),
        ({"anchors": [1, 2, 3, 4]}, r"anchors=\[1, 2, 3, 4\]: say coco, kmeans, or widths and heights"),
        ({"anchors": [1, 2, 3, 4, 5, -6]}, r"-6\]: say coco"),
        ({"anchors": "voc"}, "anchors=voc: say coco"),
        ({"width": 1}, "width=1: width is from 2"),
        ({"ignore_iou": 1.5}, "ignore_iou=1.5"),
        ({"longest": 1.0}, "longest=1.0: this detector's canvas is a square"),
    ],
)
def test_settings_that_cannot_be(setting: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        YOLOv3(build("resnet18"), CLASSES, **setting)  # type: ignore[arg-type]


def test_a_backbone_without_three_maps_is_refused() -> None:
    with pytest.raises(DataError, match="yolov3 reads c3, c4 and c5, and this backbone has no c3, c4, c5"):
        YOLOv3(build("lenet5"), CLASSES)


# Letterboxing


@pytest.mark.parametrize("size", [(48, 100), (100, 48), (333, 500), (416, 416), (7, 5)])
def test_the_letterbox_is_centred_grey_and_undone_exactly(size: tuple[int, int]) -> None:
    task = YOLOv3(build("resnet18"), CLASSES, width=8)
    picture = np.full((*size, 3), 200, np.uint8)
    height, width = size
    corners = np.array([[0, 0, width, height]], np.float32)
    there = task.eval_transform(416)(Sample("a", picture, {"boxes": corners}), np.random.default_rng(0))
    inside = (there.image == 200).all(2)
    assert set(np.unique(there.image)) <= {128, 200} and there.image.shape[:2] == (416, 416)
    ((x1, y1, x2, y2),) = there.targets["boxes"]
    assert inside.sum() == (x2 - x1) * (y2 - y1) == inside[int(y1) : int(y2), int(x1) : int(x2)].sum()
    assert max(x2 - x1, y2 - y1) == 416 and abs(x1 - (416 - x2)) <= 1 and abs(y1 - (416 - y2)) <= 1
    back = np.array([[x1, y1], [x2, y2]]) @ there.to_file[:, :2].T + there.to_file[:, 2]
    np.testing.assert_allclose(back.ravel(), corners[0], atol=1e-4)
