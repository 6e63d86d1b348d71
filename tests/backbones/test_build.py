import inspect
import json

import pytest
import torch

import retinue.backbones
from retinue.backbones import build, names
from retinue.backbones.backbone import Backbone, Pixels
from retinue.backbones.weights import WeightsError, published

BUILDERS = names()
LARGE = {name for name in BUILDERS for found in published(name).values() if found.parameters > 3e7}


def marked(chosen):
    return [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in chosen]


def shapes(backbone):
    return {key: (value.shape, value.dtype) for key, value in backbone.state_dict().items()}


def changed(name):
    """Options of the builder with no default left, where we know another value."""
    other = {"in_channels": 4, "classes": 5}
    return {key: value for key, value in other.items() if key in inspect.signature(builder(name)).parameters}


def builder(name):
    return getattr(retinue.backbones, name)


@pytest.mark.parametrize("name", marked(BUILDERS))
def test_every_builder_is_rebuilt_from_what_it_remembers(name):
    options = changed(name)
    with torch.device("meta"):
        first = builder(name)(**options)
        assert first.architecture == name
        assert options.items() <= first.options.items()
        again = build(first.architecture, **json.loads(json.dumps(first.options)))
    assert isinstance(first, Backbone) and type(again) is type(first)
    assert shapes(again) == shapes(first) and again.levels == first.levels
    assert first.in_channels == 4 and first.weights is None and first.categories == ()


@pytest.mark.parametrize("name", BUILDERS)
def test_every_builder_has_the_one_signature(name):
    parameters = inspect.signature(builder(name)).parameters
    first, *rest = parameters.values()
    assert (first.name, first.default) == ("weights", None)
    assert "in_channels" in parameters
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in rest)


@pytest.mark.parametrize("name", marked(name for name in BUILDERS if published(name)))
def test_every_published_size_is_ours(name):
    with torch.device("meta"):
        backbone = builder(name)()
    own = sum(p.numel() for p in backbone.parameters())
    auxiliary = sum(p.numel() for key, p in backbone.named_parameters() if key.startswith("aux"))
    assert {found.parameters for found in published(name).values()} == {own - auxiliary}


def test_a_family_option_is_remembered():
    with torch.device("meta"):
        backbone = build("resnet50", replace_stride_with_dilation=[False, False, True])
        again = build(backbone.architecture, **json.loads(json.dumps(backbone.options)))
    assert again.levels["c5"].stride == 16


def test_pixels_are_built_by_name():
    backbone = build("pixels", in_channels=1)
    assert isinstance(backbone, Pixels) and backbone.levels["image"].channels == 1
    with pytest.raises(WeightsError, match="imagenet"):
        build("pixels", "imagenet")


def test_an_unknown_name_is_met_with_near_ones():
    with pytest.raises(WeightsError, match=r"resnet51.*did you mean.*resnet50"):
        build("resnet51")
    with pytest.raises(WeightsError, match="there are alexnet"):
        build("zzz")


@pytest.mark.parametrize("name", ["build", "names", "Backbone", "weights"])
def test_only_builders_are_built(name):
    with pytest.raises(WeightsError, match=name):
        build(name)


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="depth"):
        build("resnet18", depth=3)
