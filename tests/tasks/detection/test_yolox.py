"""YOLOX by hand: cells and codes, losses of a perfect answer, what the last epochs and crowds change, its settings."""

from typing import Any

import numpy as np
import pytest
import torch
from detectors import CLASSES, THREE, batch, sample, small
from torch import Tensor

from retinue.backbones import build
from retinue.backbones.fpn import FPN
from retinue.backbones.pafpn import PAFPN
from retinue.datasets.targets import DataError, Sample
from retinue.tasks.detection.decoupled_head import PRIOR, Raw, cells_of
from retinue.tasks.detection.simota import Truth
from retinue.tasks.detection.yolox import YOLOX, l1_loss, object_losses, paired_iou
from retinue.tasks.task import Model

CELLS = cells_of(((4, 6, 8), (2, 3, 16)), "cpu")


def test_cells_and_codes_by_hand() -> None:
    """A code of 0 is a box of one stride around the cell's corner."""
    assert CELLS.corners[[0, 1, 6, 24, 25]].tolist() == [[0, 0], [8, 0], [0, 8], [0, 0], [16, 0]]
    assert CELLS.centres[[1, 25]].tolist() == [[12, 4], [24, 8]]
    codes = torch.zeros(1, 30, 4)
    codes[0, 25] = torch.tensor([0.5, 0.25, np.log(2), np.log(3)])
    boxes = CELLS.decode(codes)
    assert boxes[0, 1].tolist() == [4, -4, 12, 4]
    torch.testing.assert_close(boxes[0, 25], torch.tensor([8.0, -20.0, 40.0, 28.0]))
    assert CELLS.decode(torch.full((1, 30, 4), 1e9)).isfinite().all()


def test_decoding_is_the_inverse_of_encoding() -> None:
    corner = torch.rand(50, 2) * 40
    boxes = torch.cat([corner, corner + 0.1 + torch.rand(50, 2) * 30], 1)
    rows = torch.randint(30, (50,))
    torch.testing.assert_close(CELLS.decode(CELLS.encode(boxes, rows), rows), boxes, rtol=1e-5, atol=1e-4)


def perfect(truth: Truth, matched: Tensor, logit: float) -> Raw:
    """What says the truth at every matched cell."""
    codes, logits = torch.zeros(1, 30, 4), torch.full((1, 30, 3), -logit)
    (cells,) = torch.where(matched[0] >= 0)
    rows = matched[0, cells]
    codes[0, cells] = CELLS.encode(truth.boxes[0, rows], cells)
    logits[0, cells, truth.labels[0, rows]] = logit
    return Raw(codes, torch.zeros(1, 30), logits)


def test_a_perfect_answer_costs_nothing_and_half_an_overlap_three_quarters() -> None:
    boxes = torch.tensor([[[8.0, 8, 24, 24], [0, 0, 10, 20]]])
    truth = Truth(boxes, torch.tensor([[2, 0]]), torch.ones(1, 2, dtype=torch.bool))
    matched = torch.full((1, 30), -1)
    matched[0, [3, 25]] = torch.tensor([1, 0])
    raw = perfect(truth, matched, 30.0)
    losses = object_losses(raw, CELLS.decode(raw.codes), truth, matched)
    assert losses["box"] < 1e-4 and losses["class"] < 1e-4 and l1_loss(raw, CELLS, truth, matched) == 0
    half = CELLS.decode(raw.codes)
    half[0, 3] = torch.tensor([0.0, 0, 10, 10])
    losses = object_losses(raw, half, truth, matched)
    assert losses["box"].item() == pytest.approx(5 * (1 - 0.25))
    # cross entropy of a certain class against 0.5: half of the logit
    assert losses["class"].item() == pytest.approx(15)


def test_overlap_of_pairs() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1], [3, 3, 3, 3]])
    b = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [3, 3, 3, 3]])
    torch.testing.assert_close(paired_iou(a, b), torch.tensor([1, 1 / 3, 0, 0]))


def losses_of(model: Model, samples: list[Sample], late: bool = False) -> dict[str, float]:
    model.named_tasks["it"].late = late
    with torch.no_grad():
        return {name.removeprefix("it/"): v.item() for name, v in model.eval()(*batch(*samples)).items()}


def test_the_last_epochs_have_an_l1_loss_beside_the_others() -> None:
    model = small(YOLOX)
    before, after = losses_of(model, [sample(THREE)]), losses_of(model, [sample(THREE)], late=True)
    assert after.pop("l1") > 0 and after == pytest.approx(before)
    assert losses_of(model, [sample([])], late=True)["l1"] == 0


def test_cells_in_a_crowd_are_no_background() -> None:
    """With the whole picture a crowd nothing is left to learn."""
    model = small(YOLOX)
    everywhere = sample([[0, 0, 64, 64]], crowd=[True])
    assert losses_of(model, [everywhere])["objectness"] == 0 < losses_of(model, [sample([])])["objectness"]
    beside = losses_of(model, [sample([*THREE, [0, 0, 64, 64]], crowd=[False] * 3 + [True])])
    alone = losses_of(model, [sample(THREE)])
    assert beside["box"] == pytest.approx(alone["box"]) and 0 < beside["objectness"] < alone["objectness"]


def test_nothing_is_expected_before_anything_is_learnt() -> None:
    model = small(YOLOX, score_threshold=0.0, nms_iou=1.0).eval()
    (result,) = model.predict(batch(sample(THREE))[0])["it"]
    assert np.abs(result.scores - PRIOR**2).max() < PRIOR**2
    assert len(result.boxes) == 8 * 8 + 4 * 4 + 2 * 2  # one label a cell


def test_batches_change_their_size_with_their_boxes() -> None:
    model = small(YOLOX, scales=(0.5, 2.0))
    task, sides = model.named_tasks["it"], set()
    pictures, targets = batch(sample(THREE), sample([]))
    for seed in range(40):
        torch.manual_seed(seed)
        moved, truth = task.prepare(pictures, targets)
        side = moved.pixels.shape[2]
        sides.add(side)
        assert moved.pixels.shape == (2, 3, side, side) and moved.sizes == [(side, side)] * 2
        torch.testing.assert_close(truth[0]["boxes"], targets[0]["boxes"] * side / 64)
        corner = moved.to_file[0] @ torch.tensor([side, side, 1.0], dtype=torch.float64)
        torch.testing.assert_close(corner, torch.tensor([64.0, 64], dtype=torch.float64))
    assert sides == {32, 64, 96, 128} and pictures.pixels.shape[2] == 64
    same = small(YOLOX, scales=(1.0, 1.0)).named_tasks["it"].prepare(pictures, targets)
    assert same == (pictures, targets)


def noise(i: int) -> Sample:
    image = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    targets: dict[str, Any] = {
        "boxes": np.array([[8, 8, 40, 40]], np.float32),
        "box_labels": np.array([i % 3]),
    }
    return Sample(str(i), image, targets)


def test_training_pictures_are_of_four_and_in_the_end_of_one() -> None:
    task = small(YOLOX, close_mosaic=3, mixup=0.5).named_tasks["it"]
    assert task.last_epochs == 3
    counts = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        moved = task.train_transform(64)(noise(0), rng, noise)
        assert moved.image.shape == (64, 64, 3) and np.isnan(moved.to_file).all()
        counts.add(len(moved.targets["boxes"]))
        calm = task.late_transform(64)(noise(0), rng, None)
        assert calm.image.shape == (64, 64, 3) and len(calm.targets["boxes"]) == 1
        assert (calm.image[48:] == calm.image[63, 63]).all()
    assert max(counts) > 3


def test_pictures_lie_at_the_top_left_of_a_square_rounded_down() -> None:
    task = small(YOLOX).named_tasks["it"]
    image = np.full((427, 640, 3), 200, np.uint8)
    moved = task.eval_transform(416)(Sample("a", image), np.random.default_rng(0), None)
    assert moved.image.shape == (416, 416, 3)
    assert (moved.image[:277] == 200).all() and (moved.image[277:] == 114).all()  # 427 * 0.65 = 277.55


@pytest.mark.parametrize("name", ["resnet18", "csp_darknet_nano"])
def test_the_neck_is_as_the_backbone_or_as_asked(name: str) -> None:
    nano = name.endswith("nano")
    neck = YOLOX.trunk_for(build(name), {})
    assert isinstance(neck, PAFPN)
    assert (neck.width, neck.depthwise) == ((0.25, True) if nano else (0.5, False))
    assert YOLOX.trunk_for(neck, {}) is neck
    asked = YOLOX.trunk_for(build(name), {"width_multiple": 0.125, "depthwise": False})
    assert isinstance(asked, PAFPN) and (asked.width, asked.depthwise) == (0.125, False)
    with pytest.raises(DataError, match=r"width_multiple=0\.5: the model that is begun with has 0\.125"):
        YOLOX(asked, CLASSES, width_multiple=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mosaic": 1.5}, "mosaic=1.5"),
        ({"mixup": -0.1}, "mixup=-0.1"),
        ({"zoom": (2.0, 0.5)}, "zoom="),
        ({"close_mosaic": -1}, "close_mosaic=-1"),
        ({"width_multiple": 0.0}, "width_multiple=0.0"),
        ({"depth_multiple": -1.0}, "depth_multiple=-1.0"),
        ({"longest": 2.0}, "longest=2.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        small(YOLOX, **settings)


def test_backbones_without_its_maps_are_refused() -> None:
    with pytest.raises(DataError, match="lenet5 has no c"):
        YOLOX.trunk_for(build("lenet5"), {})
    with pytest.raises(DataError, match="path aggregation"):
        YOLOX(FPN(build("resnet18")), CLASSES)
