"""YOLO v1: cells, responsible boxes and the loss of equation 3, by hand."""

import pytest
import torch
from detectors import CLASSES, batch, descend, sample, small
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retinue.backbones import build
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import DataError, collate
from retinue.tasks.detection.yolov1 import YOLOv1, decode, encode, responsible
from retinue.tools.loader import View

CANVAS = (64, 128)


@settings(deadline=None)
@given(st.integers(1, 9), st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
def test_encoding_is_undone_by_decoding(grid: int, values: list[float]) -> None:
    x, y, w, h = values
    box = torch.tensor([[x * 128, y * 64, x * 128 + w * 60 + 1, y * 64 + h * 60 + 1]])
    cell, code = encode(box, grid, CANVAS)
    assert 0 <= cell.item() < grid**2
    whole = torch.zeros(1, grid**2, 1, 4)
    whole[0, cell.item(), 0] = code
    torch.testing.assert_close(decode(whole, grid, CANVAS)[0, cell, 0], box, atol=2e-3, rtol=1e-4)


def test_a_box_by_hand() -> None:
    """Centre (80, 24) on 7 cells of 128/7 by 64/7 pixels: column 4, row 2; an eighth wide, a quarter high."""
    cell, code = encode(torch.tensor([[72.0, 16, 88, 32]]), 7, CANVAS)
    assert cell.tolist() == [2 * 7 + 4]
    expected = [80 / 128 * 7 - 4, 24 / 64 * 7 - 2, (1 / 8) ** 0.5, 0.5]
    torch.testing.assert_close(code, torch.tensor([expected]))


def test_the_box_that_overlaps_most_is_responsible_and_the_nearest_where_none_does() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10]] * 2)
    boxes = torch.tensor([[[0.0, 0, 5, 10], [0, 0, 10, 8]], [[90, 90, 95, 95], [20, 0, 30, 10]]])
    best, overlap = responsible(boxes, truth)
    assert best.tolist() == [1, 1]
    torch.testing.assert_close(overlap, torch.tensor([0.8, 0.0]))


class Said(YOLOv1):
    """Whose network says what it is told."""

    said: Tensor

    def score(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        boxes, classes = self.said.split([10, 3], 2)
        return boxes.unflatten(2, (2, 5)), classes


def told(grid: int = 2) -> Said:
    return Said(build("resnet18"), CLASSES, grid=grid, head="conv", width=8)


def test_the_loss_by_hand() -> None:
    """Two cells a side on 64 pixels, one object in cell 3, whose second box is responsible."""
    task = told()
    task.said = torch.zeros(1, 4, 13)
    task.said[0, 3] = torch.tensor([0, 0, 0, 0, 0.3, 0.5, 0.5, 0.5, 0.4, 0.6, 0.1, 0.7, 0.2])
    task.said[0, 0, 4] = 0.2
    pictures, targets = batch(sample([[40, 40, 56, 56]]))  # its centre is the cell's, its sides are a quarter
    losses = task.losses({}, pictures, targets)
    overlap = (16 * 64 * 0.16) / 256  # 16 wide, 10.24 high, inside
    truth = torch.tensor([1.0, 0, 0])  # `sample` numbers the classes from 0
    torch.testing.assert_close(losses["box"], torch.tensor(5 * (0.5 - 0.4) ** 2))
    torch.testing.assert_close(
        losses["objectness"], torch.tensor((0.6 - overlap) ** 2 + 0.5 * (0.3**2 + 0.2**2))
    )
    torch.testing.assert_close(losses["class"], (torch.tensor([0.1, 0.7, 0.2]) - truth).square().sum())
    task.said[..., [0, 1, 2, 3, 5, 6, 7, 8]] = 0.5
    crowd = batch(sample([[0, 0, 64, 64]], crowd=[True]))
    assert all(value == 0 for value in task.losses({}, *crowd).values())  # nothing of it is background


def test_scores_are_confidence_times_class() -> None:
    task = told()
    task.said = torch.zeros(1, 4, 13)
    task.said[0, 1] = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.8, 0, 0, 0.1, 0.1, 1.7, 0.5, -1, 0.9])
    pictures, _ = batch(sample([]))
    found = task.find({}, pictures)
    assert found.counts == [4] and found.labels.tolist() == [2, 2, 0, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.72, 0.5, 0.4]))
    torch.testing.assert_close(found.boxes[1], torch.tensor([40.0, 8, 56, 24]))


@pytest.mark.parametrize("head", ["fc", "conv"])
def test_both_heads_learn_a_picture(head: str) -> None:
    model = small(YOLOv1, head=head)
    last = descend(model, *batch(sample([[4, 4, 30, 40], [20, 10, 60, 50]]), sample([])), steps=8)
    assert sum(last[-1].values()) < 0.85 * sum(last[0].values())


def test_the_grid_is_the_same_on_every_canvas() -> None:
    model = small(YOLOv1, Scenes.classes).eval()
    task = model.named_tasks["it"]
    assert isinstance(task, YOLOv1)
    for side in (32, 64, 160):
        view = View(Scenes(1, 64), task.eval_transform(side), task.needs)
        pictures, _ = collate([view[0, 0]])
        with torch.no_grad():
            boxes, classes = task.score(model.backbone(pictures.pixels, task.levels))
        assert boxes.shape == (1, 49, 2, 5) and classes.shape == (1, 49, len(Scenes.classes))
        assert pictures.pixels.shape[-2:] == (side, side)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"grid": 0}, "grid=0: grid is from 1"),
        ({"cell_boxes": 0}, "cell_boxes=0"),
        ({"head": "mlp"}, "head='mlp': use one of fc, conv"),
        ({"lambda_noobj": -1.0}, "lambda_noobj=-1.0"),
        ({"shift": 1.5}, "shift=1.5"),
        ({"longest": 2.0}, "longest=2.0: this detector's canvas is a square of imgsz; leave it out"),
    ],
)
def test_settings_that_cannot_be(setting: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        YOLOv1(build("lenet5"), CLASSES, **setting)  # type: ignore[arg-type]
