"""What every backbone promises, asked of every builder in the package; nothing is listed by hand."""

import importlib
import inspect
import pkgutil
import typing
from copy import deepcopy
from functools import cache

import pytest
import torch
from small_trunks import few_classes
from torch import nn

import retinue.backbones
from retinue.backbones import build, names
from retinue.backbones.backbone import Backbone
from retinue.backbones.fpn import FPN
from retinue.backbones.pafpn import PAFPN

SIZE = (65, 97)
HEAVY = 5e7
"""Parameters, the classifier's included, from which it takes seconds only to make a network: VGG, ZFNet, AlexNet."""
NAMES = names()


@cache
def on_meta(name):
    """The network without memory; shared, so copy it before you change it."""
    with torch.device("meta"):
        return build(name)


def size_of(name):
    return sum(p.numel() for p in on_meta(name).parameters())


def run(limit=HEAVY):
    """The smallest of every family; all the others with -m slow."""
    families = {}
    for name in NAMES:
        families.setdefault(type(on_meta(name)), []).append(name)
    default = {name for name in (min(f, key=size_of) for f in families.values()) if size_of(name) < limit}
    return [pytest.param(n, marks=() if n in default else pytest.mark.slow) for n in NAMES]


EVERY = run(limit=float("inf"))
RUN = [*run(), "fpn", "pafpn", "timm/resnet10t"]


def construct(name, in_channels=3):
    torch.manual_seed(0)
    if name == "fpn":
        body = build("mobilenet_v2", classes=4, in_channels=in_channels)
        return FPN(body, channels=16, extra="p6p7", norm="batch")
    if name == "pafpn":
        body = build("mobilenet_v2", classes=4, in_channels=in_channels)
        return PAFPN(body, width=0.0625)
    if name.startswith("timm/"):
        pytest.importorskip("timm")
        return build(name, in_channels=in_channels)
    return build(name, in_channels=in_channels, **few_classes(name))


def pictures(channels=3, size=SIZE):
    return torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(1))


def norms(backbone):
    return [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


# On the meta device: every builder, every size


def test_every_builder_in_the_package_is_exported():
    found = set()
    for module in pkgutil.iter_modules(retinue.backbones.__path__, "retinue.backbones."):
        for key, value in vars(importlib.import_module(module.name)).items():
            if inspect.isfunction(value) and value.__module__ == module.name and not key.startswith("_"):
                returned = typing.get_type_hints(value).get("return")
                if inspect.isclass(returned) and issubclass(returned, Backbone):
                    found.add(key)
    assert found - {"from_timm"} == set(NAMES)
    assert {"mobilenet_v2", "resnet50", "lenet5"} <= found


@pytest.mark.parametrize("name", EVERY)
def test_strides_are_what_a_larger_picture_adds(name):
    """256 more pixels give every map 256 / stride more positions, exactly, whatever happens at the borders."""
    backbone = on_meta(name)
    small, large = backbone.output_sizes(257, 259), backbone.output_sizes(513, 771)
    assert list(small) == list(backbone.levels)
    for level, (height, width) in small.items():
        stride = backbone.levels[level].stride
        assert (large[level][0] - height, large[level][1] - width) == (256 // stride, 512 // stride)
        assert abs(height - 257 / stride) < 4


@pytest.mark.parametrize("name", NAMES)
def test_state_has_no_classifier_after_chop(name):
    backbone = deepcopy(on_meta(name))
    before, top = set(backbone.state_dict()), backbone.chop()
    left = set(backbone.state_dict())
    assert left == {key for key in before if key.split(".")[0] not in backbone.top_modules}
    assert (top is None) == (left == before)
    assert backbone.chop() is None


@pytest.mark.parametrize("name", NAMES)
def test_stages_end_in_levels_and_share_no_module(name):
    backbone = on_meta(name)
    stages = backbone.stages()
    assert list(stages) == [level for level in backbone.levels if level != "image"]
    modules = [id(m) for part in stages.values() for module in part for m in module.modules()]
    assert len(modules) == len(set(modules))
    parameters = {id(p) for part in stages.values() for m in part for p in m.parameters()}
    below = (p for key, p in backbone.named_parameters() if key.split(".")[0] not in backbone.top_modules)
    assert parameters == {id(p) for p in below}


# For real: the smallest of every family by default


@pytest.mark.parametrize("name", RUN)
def test_maps_are_as_declared_at_an_odd_size(name):
    backbone = construct(name).eval()
    maps = backbone(pictures())
    sizes = backbone.output_sizes(*SIZE)
    assert list(maps) == list(backbone.levels) == list(sizes)
    strides = [level.stride for level in backbone.levels.values()]
    assert strides == sorted(strides)
    for level, value in maps.items():
        assert value.shape == (2, backbone.levels[level].channels, *sizes[level])
        assert value.isfinite().all()


@pytest.mark.parametrize("name", [*EVERY, "fpn", "pafpn", "timm/resnet10t"])
def test_each_level_alone_equals_the_full_pass(name):
    """Also fails where a later module in place writes into a map that was handed out."""
    backbone = construct(name).eval()
    with torch.no_grad():
        maps = backbone(pictures())
        for level in backbone.levels:
            alone = backbone(pictures(), (level,))
            assert list(alone) == [level]
            assert torch.equal(alone[level], maps[level]), level
    with pytest.raises(KeyError, match="c99"):
        backbone(pictures(), ("c99",))


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(name, channels):
    backbone = construct(name, channels).eval()
    first = list(backbone.levels)[-1]
    assert backbone(pictures(channels), (first,))[first].isfinite().all()
    with pytest.raises(ValueError, match="in_channels=3"):
        backbone(pictures(3))


@pytest.mark.parametrize("name", RUN)
def test_frozen_means_no_gradient_and_evaluation_mode(name):
    backbone = construct(name).train()
    backbone.chop()
    backbone.freeze("all")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.train()
    maps = backbone(pictures())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(m.training for m in norms(backbone))
    assert not any(value.requires_grad for value in maps.values())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    backbone.freeze(None)
    backbone.train()
    assert all(p.requires_grad for p in backbone.parameters())
    assert all(m.training for m in norms(backbone))


@pytest.mark.parametrize("name", RUN)
def test_backward_reaches_the_picture_and_every_parameter(name):
    backbone = construct(name).train()
    backbone.chop()
    images = pictures().requires_grad_()
    sum(value.float().square().mean() for value in backbone(images).values()).backward()
    assert images.grad is not None and images.grad.abs().max() > 0
    without = [key for key, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize("name", RUN)
def test_bf16_autocast_is_finite_and_near(name):
    backbone = construct(name).eval()
    with torch.no_grad():
        exact = backbone(pictures())
        with torch.autocast("cpu", torch.bfloat16):
            maps = backbone(pictures())
    for level, value in maps.items():
        assert value.isfinite().all()
        error = (value.float() - exact[level]).square().mean().sqrt() / exact[level].std()
        assert error < 0.1, (level, error)


@pytest.mark.parametrize("name", RUN)
def test_top_classifies_the_level_that_it_names(name):
    backbone = construct(name).eval()
    top = backbone.top()
    if top is None:
        assert not backbone.top_modules
        return
    features = backbone(pictures())
    embedding = top.embed(features[top.level])
    assert embedding.shape == (2, top.embedding)
    assert top(features).shape == (2, 4)
    kept = features[top.level].clone()
    top.train()(features)
    assert torch.equal(features[top.level], kept)
    top.replace_last(3)
    assert top(features).shape == (2, 3)
