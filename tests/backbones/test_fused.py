"""A fused network computes what its original does: with oneDNN's private calls and without them."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from small_trunks import few_classes
from torch import nn

from retinue.backbones import build, names
from retinue.backbones.backbone import Backbone
from retinue.backbones.fpn import FPN
from retinue.backbones.fused import fuse
from retinue.backbones.onednn import FusedConv2d, has_onednn
from retinue.backbones.pafpn import PAFPN

HEAVY = 3e7
NEEDS_ONEDNN = pytest.mark.skipif(
    not has_onednn(torch.zeros(1), torch.float32), reason="this torch has not the private calls of oneDNN"
)


@cache
def on_meta(name):
    with torch.device("meta"):
        return build(name)


def run():
    """The smallest of every family; the others with -m slow."""
    families = {}
    for name in names():
        families.setdefault(type(on_meta(name)), []).append(name)
    sizes = {
        n: sum(p.numel() for key, p in on_meta(n).named_parameters() if "fc" not in key) for n in names()
    }
    default = {
        name for name in (min(f, key=sizes.__getitem__) for f in families.values()) if sizes[name] < HEAVY
    }
    default.add("seresnet50")
    return [pytest.param(n, marks=() if n in default else pytest.mark.slow) for n in names()]


def construct(name):
    torch.manual_seed(0)
    if name == "fpn":
        return FPN(build("resnet18", classes=4), channels=32, extra="pool")
    if name == "fpn p6p7 norm":
        body = build("mobilenet_v2", classes=4)
        return FPN(body, ("c3", "c4", "block17"), channels=16, norm="batch")
    if name == "pafpn":
        return PAFPN(build("csp_darknet_nano"), depth=0.33, width=0.25, depthwise=True)
    backbone = build(name, **few_classes(name))
    backbone.chop()
    return backbone


def pictures(height=96, width=81):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def deviation(ours, theirs):
    """Largest difference in standard deviations of the map."""
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().std()).item()


def rms(ours, theirs):
    return ((ours.double() - theirs.double()).square().mean().sqrt() / theirs.double().std()).item()


@pytest.mark.parametrize("name", [*run(), "fpn", "fpn p6p7 norm", "pafpn"])
@torch.no_grad()
def test_float32_is_as_near_to_exact_as_the_network_itself(name, spread):
    """Near to float64, at most three times as far as the unfused network in the same memory format, or 1e-5."""
    backbone = spread(construct(name)).eval()
    x = pictures()
    exact = deepcopy(backbone).double()(x.double())
    itself = deepcopy(backbone).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    for packed in (True, False):
        fast = fuse(backbone, packed=packed)
        maps = fast(x)
        assert list(maps) == list(exact)
        for level, value in maps.items():
            assert value.dtype == torch.float32 and value.is_contiguous(memory_format=torch.channels_last)
            own = deviation(itself[level], exact[level])
            if own < 1e-3:  # beyond that the random network amplifies any rounding
                assert deviation(value, exact[level]) <= max(1e-5, 3 * own), (level, packed)
    assert name in ("pixels", "lenet5") or any(isinstance(m, FusedConv2d) for m in fast.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny", "googlenet", "fpn"])
@torch.no_grad()
def test_each_level_alone_equals_the_full_pass(name, spread):
    """Also fails where a sum is written into a map that was handed out."""
    fast = fuse(spread(construct(name)))
    maps = fast(pictures())
    kept = {level: value.clone() for level, value in maps.items()}
    fast(pictures())
    for level in fast.levels:
        assert torch.equal(maps[level], kept[level])
        alone = fast(pictures(), (level,))
        assert list(alone) == [level]
        assert torch.equal(alone[level], maps[level]), level
    with pytest.raises(KeyError, match="c99"):
        fast(pictures(), ("c99",))


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "googlenet", "fpn", "lenet5", "squeezenet1_1"]
)
@pytest.mark.parametrize("packed", [True, False])
@torch.no_grad()
def test_bfloat16_is_near(name, packed, spread):
    backbone = spread(construct(name)).eval()
    exact, maps = backbone(pictures()), fuse(backbone, torch.bfloat16, packed)(pictures())
    for level, value in maps.items():
        assert value.dtype == torch.bfloat16
        assert rms(value, exact[level]) < 0.03, level


@torch.no_grad()
def test_contrast_normalisation_has_no_bfloat16(spread):
    layer = spread(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.LocalResponseNorm(5))).eval()
    assert rms(fuse(layer, torch.bfloat16)(pictures()), layer(pictures())) < 0.02


def test_the_original_stays_as_it_is_and_shares_nothing(spread):
    backbone = spread(construct("fpn")).train()
    backbone.freeze("c2", norm=True)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    gradients = {key: p.requires_grad for key, p in backbone.named_parameters()}
    fast = fuse(backbone)
    expected = fast(pictures())["p3"].clone()
    assert backbone.training and {k: p.requires_grad for k, p in backbone.named_parameters()} == gradients
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    with torch.no_grad():
        for tensor in backbone.state_dict().values():
            tensor.zero_()
    assert torch.equal(fast(pictures())["p3"], expected)


def test_what_a_backbone_says_of_itself_is_kept():
    backbone = construct("fpn")
    backbone.freeze("c3", norm=True)
    fast = fuse(backbone)
    assert isinstance(fast, Backbone) and not fast.training and not fast.train().training
    for name in (
        "levels",
        "preprocessing",
        "architecture",
        "options",
        "in_channels",
        "frozen_stages",
        "frozen_norm",
    ):
        assert getattr(fast, name) == getattr(backbone, name), name
    assert list(fast.stages()) == list(backbone.stages())
    assert fast.output_sizes(65, 97) == backbone.output_sizes(65, 97)
    assert fast.chop() is None
    with pytest.raises(ValueError, match="in_channels=4"):
        fast(torch.rand(1, 4, 64, 64))


class BranchingBackbone(Backbone):
    """A network that torch.fx cannot trace: a third-party one may be."""

    def __init__(self):
        super().__init__()
        inner = build("resnet18", classes=4)
        self.levels, self.inner = inner.levels, inner
        self.inner.chop()

    def trunk(self):
        return self.inner.trunk()

    def forward(self, images, levels=None):
        return super().forward(images.clamp(max=float(images.max())), levels)


@torch.no_grad()
def test_a_backbone_that_cannot_be_traced_keeps_its_own_code(spread):
    backbone = spread(BranchingBackbone()).eval()
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.03)):
        maps = fuse(backbone, dtype)(pictures(), ("c2", "c5"))
        assert list(maps) == ["c2", "c5"]
        for level, value in maps.items():
            assert value.dtype == dtype and rms(value, backbone(pictures())[level]) < bound


class Steps(nn.Module):
    """Code that no tracer follows, over parts in a list."""

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)) for _ in range(2))

    def forward(self, x):
        for step in self.steps:
            x = step(x) if min(x.shape) else x
        return x


def test_parts_in_a_list_are_fused_where_the_whole_cannot_be():
    network, x = Steps().eval(), torch.rand(1, 4, 9, 9)
    fast = fuse(network, torch.bfloat16)
    assert sum(isinstance(m, FusedConv2d) for m in fast.modules()) == 2
    torch.testing.assert_close(fuse(network)(x), network(x))
    torch.testing.assert_close(fast(x.bfloat16()).float(), network(x), atol=0.05, rtol=0.05)


@NEEDS_ONEDNN
def test_the_private_calls_are_used_where_they_are():
    fast = fuse(construct("resnet18"))
    layers = [m for m in fast.modules() if isinstance(m, FusedConv2d)]
    assert len(layers) == 20 and all(layer.packed for layer in layers)
    assert not any(isinstance(m, nn.BatchNorm2d | nn.ReLU) for m in fast.modules())


def test_without_the_private_calls_the_plain_path_is_taken(monkeypatch):
    class Nothing:
        pass

    monkeypatch.setattr(torch.ops, "mkldnn", Nothing())
    fast = fuse(construct("resnet18"))
    assert not any(m.packed for m in fast.modules() if isinstance(m, FusedConv2d))
    assert fast(pictures())["c5"].isfinite().all()
