"""The heads on deep maps: which maps they read by themselves, and what is refused."""

from typing import Any

import pytest
import torch
from torch import nn

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.segmentation.dilated_fcn import DilatedFCN
from retinue.tasks.segmentation.fcn_head import FCNHead, read_levels

CLASSES = ClassMap(("a", "b", "c"))


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("resnet18", ("c4", "c5")),
        ("mobilenet_v2", ("c4", "block17")),  # whose c5 only widens for a classifier
        ("mobilenet_v3_large", ("c4", "block15")),
        ("vgg11", ("c4", "c5")),
        ("lenet5", ("c1", "c2")),
    ],
)
def test_the_deepest_map_and_the_stage_before(name: str, levels: tuple[str, str]) -> None:
    with torch.device("meta"):
        backbone = build(name, classes=2)
    assert read_levels(backbone, None, None, True) == levels[::-1]
    assert read_levels(backbone, None, None, False) == (levels[-1], None)
    assert DilatedFCN(backbone, CLASSES).levels == levels
    assert DilatedFCN(backbone, CLASSES, auxiliary=0).levels == levels[-1:]


def test_other_maps_by_name() -> None:
    backbone = build("mobilenet_v3_small", classes=2)
    assert read_levels(backbone, "c3", None, True) == ("c3", "c2")
    assert read_levels(backbone, "c4", "block2", True) == ("c4", "block2")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet18", {"level": "c6"}, "level=c6: the backbone has only image, c1"),
        ("resnet18", {"auxiliary_level": "c0"}, "auxiliary_level=c0: the backbone has only"),
        ("resnet18", {"level": "c1"}, "no stage before c1 .* say auxiliary=0"),
        ("pixels", {}, "pixels has only the picture itself: take a backbone"),
    ],
)
def test_levels_that_are_not_there(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DilatedFCN(build(name), CLASSES, **settings)


def test_the_trunk_is_dilated_as_torchvisions() -> None:
    with torch.device("meta"):
        backbone = DilatedFCN.trunk_for(build("resnet50"), {})
        theirs = build("resnet50", replace_stride_with_dilation=(False, True, True))
        coarse = DilatedFCN.trunk_for(build("vgg11"), {"output_stride": 32})
        with pytest.raises(DataError, match=r"output_stride=8: .*; say output_stride=32"):
            DilatedFCN.trunk_for(build("vgg11"), {})
    assert [backbone.levels[name].stride for name in ("c3", "c4", "c5")] == [8, 8, 8]
    spaced = [[m.dilation for m in b.modules() if isinstance(m, nn.Conv2d)] for b in (backbone, theirs)]
    assert spaced[0] == spaced[1]
    assert coarse.levels["c5"].stride == 32


def test_the_auxiliary_loss_teaches_the_stage_before_and_nothing_deeper() -> None:
    torch.manual_seed(0)
    backbone = build("resnet18", classes=2)
    task = DilatedFCN(backbone, CLASSES).train()
    features = backbone(torch.rand(2, 3, 64, 64), task.levels)
    _, auxiliary = task.logits(features)
    auxiliary.sum().backward()
    assert backbone.layer3[0].conv1.weight.grad is not None  # type: ignore[union-attr, index]
    assert backbone.layer4[0].conv1.weight.grad is None  # type: ignore[union-attr, index]
    assert len(task.eval().logits(features)) == 1


def test_a_head_of_few_channels() -> None:
    head = FCNHead(3, 2).eval()
    assert head.width == 1 and head(torch.rand(1, 3, 5, 4)).shape == (1, 2, 5, 4)
