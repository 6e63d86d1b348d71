import pytest
import torch
import torchvision.models

from retinue.backbones.backbone import Level
from retinue.backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small, round_channels

LARGE = {
    "c1": "features.1.add",
    "c2": "features.3.add",
    "block4": "features.4.block.3",
    "c3": "features.6.add",
    "block7": "features.7.block.2",
    "c4": "features.12.add",
    "expand13": "features.13.block.0",
    "block13": "features.13.block.3",
    "block15": "features.15.add",
    "c5": "features.16",
}
SMALL = {
    "c1": "features.0",
    "c2": "features.1.block.2",
    "block2": "features.2.block.2",
    "c3": "features.3.add",
    "block4": "features.4.block.3",
    "c4": "features.8.add",
    "expand9": "features.9.block.0",
    "block9": "features.9.block.3",
    "block11": "features.11.add",
    "c5": "features.12",
}


@pytest.mark.parametrize("options", [{}, {"dilated": True}, {"reduced_tail": True}], ids=str)
def test_large_equals_torchvision(check_parity, options):
    theirs = torchvision.models.mobilenet_v3_large(num_classes=10, **options)
    check_parity(mobilenet_v3_large(classes=10, **options), theirs, LARGE)


@pytest.mark.parametrize("options", [{}, {"dilated": True, "reduced_tail": True}], ids=str)
def test_small_equals_torchvision(check_parity, options):
    theirs = torchvision.models.mobilenet_v3_small(num_classes=10, **options)
    check_parity(mobilenet_v3_small(classes=10, **options), theirs, SMALL)


def test_levels_that_published_detectors_and_segmenters_read():
    levels = mobilenet_v3_large(classes=2).levels
    assert [levels[name] for name in ("block4", "block13", "c5", "expand13")] == [
        Level(40, 8),
        Level(160, 32),
        Level(960, 32),
        Level(672, 16),
    ]


def test_dilation_keeps_stride_16():
    backbone = mobilenet_v3_large(classes=2, dilated=True)
    assert [level.stride for level in list(backbone.levels.values())[-5:]] == [16] * 5
    assert backbone.output_sizes(97, 65)["c5"] == (7, 5)


def test_reduced_tail_halves_the_last_channels():
    levels = mobilenet_v3_large(classes=2, reduced_tail=True).levels
    assert (levels["expand13"].channels, levels["block13"].channels, levels["c5"].channels) == (672, 80, 480)


def test_parameters_as_published():
    with torch.device("meta"):
        counts = [sum(p.numel() for p in b().parameters()) for b in (mobilenet_v3_large, mobilenet_v3_small)]
    assert counts == [5_483_032, 2_542_856]


@pytest.mark.parametrize(
    ("channels", "rounded"), [(1, 8), (8, 8), (11, 16), (12, 16), (18, 24), (20, 24), (240, 240)]
)
def test_round_channels_never_loses_more_than_a_tenth(channels, rounded):
    assert round_channels(channels) == rounded >= 0.9 * channels
