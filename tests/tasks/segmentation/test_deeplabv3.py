"""Atrous spatial pyramid pooling: rates, the pooled branch, and the batch of one picture that others stumble over."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.segmentation.deeplabv3 import (
    AtrousSpatialPyramidPooling,
    DeepLabV3,
    ImagePooling,
)

CLASSES = ClassMap(("a", "b", "c"))


@pytest.mark.parametrize(("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
def test_the_rates_span_the_same_pixels_at_every_stride(stride: int, rates: list[int]) -> None:
    settings = {"output_stride": stride, "width": 8}
    task = DeepLabV3(DeepLabV3.trunk_for(build("resnet18", classes=2), settings), CLASSES, **settings)
    assert task.settings["rates"] == rates
    found = [
        m.dilation[0]
        for m in task.classifier.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    assert found == [*rates, 1]


def test_each_branch_sees_as_far_as_its_rate() -> None:
    """One cell is lit: a branch of rate r answers there and r cells away, the pooled branch everywhere."""
    pyramid = AtrousSpatialPyramidPooling(1, 1, (2, 3), dropout=0.0).eval()
    lit = torch.zeros(1, 1, 9, 9)
    lit[..., 4, 4] = 1
    reached = []
    with torch.no_grad():
        for branch in pyramid.convs:
            for convolution in (m for m in branch.modules() if isinstance(m, nn.Conv2d)):
                convolution.weight.fill_(1.0)
            reached.append((branch(lit)[0, 0] > 0).nonzero())
    assert reached[0].tolist() == [[4, 4]]
    for seen, rate in zip(reached[1:3], (2, 3)):
        places = [4 - rate, 4, 4 + rate]
        assert seen.tolist() == [[y, x] for y in places for x in places]
    assert len(reached[3]) == 81


def test_one_picture_alone_is_normalised_by_the_statistics_so_far() -> None:
    torch.manual_seed(0)
    pooling, x = ImagePooling(4, 3), torch.rand(1, 4, 5, 6)
    with torch.no_grad():
        for _ in range(3):
            pooling(torch.rand(4, 4, 5, 6))
    before = deepcopy(pooling.state_dict())
    alone = pooling(x)
    assert all(torch.equal(value, before[key]) for key, value in pooling.state_dict().items())
    assert torch.equal(alone, pooling.eval()(x)) and alone.shape == (1, 3, 5, 6)
    alone.sum().backward()
    assert pooling[1].weight.grad is not None and pooling[1].weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rates": (6, 0)}, "rates=6,0, width=256, dropout=0.5: rates and width are at least 1"),
        ({"width": 0}, "width=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DeepLabV3(build("resnet18", classes=2), CLASSES, **settings)
