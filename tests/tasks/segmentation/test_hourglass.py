"""The stacked hourglass: its answers, its stem and what stands in its place, and frames that fit at any size."""

from typing import Any

import pytest
import torch
from canvases import pictures_of
from small_trunks import SmallTrunk

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.segmentation.hourglass import Hourglass, StackedHourglass

CLASSES = ClassMap(("road", "sky", "tree"))
SMALL = {"width": 8, "depth": 2}


def test_every_stack_answers_the_last_one_first() -> None:
    torch.manual_seed(0)
    task = StackedHourglass(build("pixels"), CLASSES, stacks=3, **SMALL)
    features = {"image": torch.rand(2, 3, 45, 70)}
    answers = task.eval().logits(features)
    assert [answer.shape for answer in answers] == [(2, 3, 12, 18)] * 3
    with torch.no_grad():
        task.classifiers[0].bias.add_(1)  # type: ignore[union-attr, operator]
        changed = task.logits(features)
    torch.testing.assert_close(changed[2], answers[2] + 1)
    assert (changed[0] - answers[0]).abs().max() > 0  # the earlier answers go on into the later hourglasses
    assert task.settings["auxiliary"] == 1.0


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (17, 9)])
def test_an_hourglass_keeps_any_size(size: tuple[int, int], depth: int) -> None:
    assert Hourglass(4, depth).eval()(torch.rand(2, 4, *size)).shape == (2, 4, *size)


@torch.no_grad()
def test_cells_cover_the_same_pixels_on_the_way_up() -> None:
    """With convolutions that do nothing, each cell gets the largest value of its own block back."""
    hourglass = Hourglass(4, 1).eval()
    for part in hourglass.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.weight.zero_(), part.bias.zero_()  # type: ignore[union-attr]
    x = torch.rand(1, 4, 7, 5)
    blocks = torch.nn.functional.max_pool2d(x, 2, ceil_mode=True)
    expected = x + blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :7, :5]
    torch.testing.assert_close(hourglass(x), expected)


def test_on_a_backbone_its_map_of_stride_4_stands_for_the_stem() -> None:
    backbone = SmallTrunk()
    task = StackedHourglass(backbone, CLASSES, stacks=1, **SMALL).eval()
    assert task.levels == ("c2",) and task.inner_stride == 16
    images = torch.rand(1, 3, 50, 37)
    answer = task.maps(backbone.eval()(images, task.levels), pictures_of(images))
    assert answer.shape == (1, 3, 50, 37)


def test_without_weights_it_is_the_paper_s_network() -> None:
    assert StackedHourglass.recipe(False)["backbone"] == "pixels"
    assert "backbone" not in StackedHourglass.recipe(True)
    assert StackedHourglass(build("pixels", in_channels=1), CLASSES, **SMALL).levels == ("image",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"stacks": 0}, "stacks=0"), ({"depth": 0}, "depth=0"), ({"width": 2}, "width=2")],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        StackedHourglass(build("pixels"), CLASSES, **settings)


def test_a_backbone_without_a_map_of_stride_4_is_named() -> None:
    backbone = SmallTrunk()
    backbone.levels = {name: level for name, level in backbone.levels.items() if name != "c2"}
    with pytest.raises(DataError, match="backbone=pixels"):
        StackedHourglass(backbone, CLASSES)
