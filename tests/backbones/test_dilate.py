"""Strides turned into dilations: what the old network gave lies in the new maps, and the options build it again."""

import json

import pytest
import torch
from torch import nn

from retinue.backbones import build
from retinue.backbones.backbone import Backbone
from retinue.backbones.dilate import dilate
from retinue.backbones.fpn import FPN
from retinue.backbones.fused import fuse

PLAIN = ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5")
"""Families without layers that average over the whole map."""


def made(name: str, **options: object) -> Backbone:
    torch.manual_seed(0)
    backbone = build(name, **({"classes": 4} | options)).eval()
    torch.manual_seed(1)
    for module in backbone.modules():  # so that borders and inner positions differ
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0, 0.2)
    return backbone


def pictures(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("max_stride", "size"), [(4, (64, 32)), (8, (61, 45))])
@pytest.mark.parametrize("name", PLAIN)
def test_the_old_maps_lie_in_the_new_ones(name: str, max_stride: int, size: tuple[int, int]) -> None:
    old, new = made(name), made(name)
    dilate(new, max_stride)
    with torch.no_grad():
        before, after = old(pictures(*size)), new(pictures(*size))
    for level in before:
        stride = old.levels[level].stride
        assert new.levels[level].stride == min(stride, max_stride)
        step = stride // new.levels[level].stride
        assert (before[level] - after[level][..., ::step, ::step]).abs().max() <= 1e-4, level
        assert tuple(after[level].shape[-2:]) == new.output_sizes(*size)[level]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "seresnet50"])
def test_every_position_is_kept_and_the_options_build_it_again(name: str) -> None:
    with torch.device("meta"):
        backbone = build(name, max_stride=8, classes=4)
        again = build(name, **json.loads(json.dumps(backbone.options)))
        assert backbone.options["max_stride"] == 8
        assert backbone.levels == again.levels and {level.stride for level in again.levels.values()} == {
            1,
            2,
            4,
            8,
        }
        assert backbone.output_sizes(64, 96) == again.output_sizes(64, 96)
        assert backbone.output_sizes(64, 96)["c5"] == (8, 12)
        assert str(backbone) == str(again)
        assert backbone.state_dict().keys() == build(name, classes=4).state_dict().keys()


def test_a_resnet_of_bottlenecks_is_the_published_form() -> None:
    with torch.device("meta"):
        ours = build("resnet50", max_stride=8)
        published = build("resnet50", replace_stride_with_dilation=[False, True, True])
    assert ours.levels == published.levels and len(str(ours)) > 1000
    assert str(ours) == str(published)


def test_fused_it_is_the_same() -> None:
    backbone = made("shufflenet_v2_x0_5", max_stride=8)
    with torch.no_grad():
        one, two = backbone(pictures())["c5"], fuse(backbone)(pictures())["c5"]
    assert (one - two).abs().max() <= 1e-4 * one.abs().max()


def test_what_is_fine_enough_stays() -> None:
    for name in ("pixels", "squeezenet1_1"):
        backbone = build(name)
        dilate(backbone, 16)
        assert "max_stride" not in backbone.options


@pytest.mark.parametrize("name", ["vgg11", "convnext_tiny", "googlenet", "alexnet", "timm/resnet10t"])
def test_what_cannot_be_dilated_says_so(name: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    with torch.device("meta"), pytest.raises(ValueError, match=f"strides of {name} cannot"):
        build(name, max_stride=8)


def test_a_pyramid_is_built_on_a_dilated_body() -> None:
    with pytest.raises(ValueError, match="dilate its body"):
        dilate(FPN(made("resnet18"), channels=8), 8)
    pyramid = FPN(made("resnet18", max_stride=8), channels=8)
    assert pyramid.levels["p5"].stride == 8
    again = build(pyramid.architecture, **json.loads(json.dumps(pyramid.options)))
    assert again.levels == pyramid.levels
    with torch.no_grad():
        assert again.eval()(pictures())["p5"].shape[-2:] == (8, 12)


def test_a_network_of_timm_is_dilated_and_built_again() -> None:
    pytest.importorskip("timm")
    with torch.device("meta"):
        backbone = build("timm/resnet18", max_stride=8)
        again = build(backbone.architecture, **json.loads(json.dumps(backbone.options)))
    assert again.levels == backbone.levels and str(again) == str(backbone)
