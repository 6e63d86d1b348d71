"""LR-ASPP: the maps that it reads, and its answer by hand."""

import pytest
import torch

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.segmentation.lraspp import LRASPP

CLASSES = ClassMap(("a", "b"))


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("mobilenet_v3_large", ("block4", "c5")),  # torchvision's
        ("mobilenet_v2", ("c3", "c5")),
        ("resnet18", ("c3", "c5")),
    ],
)
def test_the_first_map_of_stride_8_and_the_deepest_of_stride_16(name: str, levels: tuple[str, str]) -> None:
    backbone = LRASPP.trunk_for(build(name, classes=2), {})
    task = LRASPP(backbone, CLASSES)
    assert task.levels == levels
    assert [backbone.levels[level].stride for level in levels] == [8, 16]


@torch.no_grad()
def test_logits_by_hand() -> None:
    """sigmoid(scale * mean) gates relu(narrowed); the enlarged sum of the channels, plus the finer map's own logits."""
    task = LRASPP(build("resnet18", classes=2), CLASSES, low="c4", high="c5", width=1).eval()
    for layer in (task.cbr[0], task.scale[1], task.low_classifier, task.high_classifier):
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
    task.cbr[0].weight[0, 0], task.scale[1].weight[0, 1] = 1.0, 2.0
    task.high_classifier.weight[1, 0], task.low_classifier.weight[0, 5] = 3.0, 1.0
    low, high = torch.rand(1, 256, 4, 4), torch.randn(1, 512, 1, 1)
    high[0, 0], high[0, 1] = 0.5, -0.25
    (logits,) = task.logits({"c4": low, "c5": high})
    gated = 0.5 / (1 + 1e-5) ** 0.5 * torch.sigmoid(torch.tensor(-0.5))
    torch.testing.assert_close(logits[0, 0], low[0, 5])
    torch.testing.assert_close(logits[0, 1], torch.full((4, 4), 3 * float(gated)))


def test_maps_that_are_not_there() -> None:
    with pytest.raises(DataError, match="low=c9: the backbone has only"):
        LRASPP(build("resnet18", classes=2), CLASSES, low="c9")
    with pytest.raises(DataError, match="no map of stride 8 before c2: name a low level of image, c1, c2"):
        LRASPP(build("lenet5"), CLASSES)
    with pytest.raises(DataError, match="width=0: at least one channel"):
        LRASPP(build("resnet18", classes=2), CLASSES, width=0)
