"""The encoder-decoder on several backbones: sizes, levels and settings."""

from typing import Any

import pytest
import torch
from canvases import pictures_of

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.segmentation.encoder_decoder import EncoderDecoder

CLASSES = ClassMap(("a", "b", "c"))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "convnext_tiny"])
def test_logits_lie_on_the_finest_level_at_odd_sizes(name: str) -> None:
    backbone = build(name)
    task = EncoderDecoder(backbone, CLASSES, widths=None).eval()
    with torch.no_grad():
        images = torch.rand(1, 3, 97, 75)
        features = backbone.eval()(images, task.levels)
        (logits,) = task.logits(features)
        assert logits.shape == (1, 3, *features[task.levels[0]].shape[-2:])
        assert task.maps(features, pictures_of(images)).shape == (1, 3, 97, 75)


@pytest.mark.parametrize("setting", [{"upsampling": "nearest"}, {"depth": 1}, {"context": False}])
def test_variants(setting: dict[str, Any]) -> None:
    backbone = build("resnet18").eval()
    task = EncoderDecoder(backbone, CLASSES, widths=(16, 8, 8, 4), **setting).eval()
    images = torch.rand(1, 3, 64, 64)
    assert task.maps(backbone(images, task.levels), pictures_of(images)).shape == images.shape
    assert task.settings | setting == task.settings


def test_levels_in_any_order_finest_first() -> None:
    task = EncoderDecoder(build("resnet18"), CLASSES, levels=("c5", "c3", "c4"))
    assert task.levels == ("c3", "c4", "c5") and task.settings["widths"] == [256, 128]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": ("c9",)}, "the backbone has no c9"),
        ({"levels": ("c5",)}, "at least two maps"),
        ({"widths": (8, 8)}, "have 4 steps"),
        ({"upsampling": "bicubic"}, "bilinear or nearest"),
        ({"depth": 0}, "depth=0"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        EncoderDecoder(build("resnet18"), CLASSES, **settings)


def test_a_backbone_without_a_pyramid_is_refused() -> None:
    with pytest.raises(DataError, match="at least two maps"):
        EncoderDecoder(build("pixels"), CLASSES)
