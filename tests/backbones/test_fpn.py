import json
from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from retinue.backbones import build
from retinue.backbones.backbone import Backbone, Level, Preprocessing
from retinue.backbones.fpn import FPN
from retinue.backbones.mobilenet_v3 import mobilenet_v3_large
from retinue.backbones.squeezenet import squeezenet1_1

LEVELS = ("c2", "c3", "c4", "c5")


class Small(Backbone):
    """Strided convolutions: maps of 4, 6, 8, 10 and 12 channels at strides 2 to 32."""

    top_modules = ("fc",)

    def __init__(self):
        super().__init__()
        widths = (3, 4, 6, 8, 10, 12)
        self.convs = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b)) for a, b in pairwise(widths))
        )
        self.fc = nn.Linear(12, 2)
        self.levels = {f"c{i}": Level(widths[i], 2**i) for i in range(1, 6)}

    def trunk(self):
        return {f"c{i}": [conv] for i, conv in enumerate(self.convs, 1)}


@pytest.fixture
def body():
    return Small().eval()


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("extra", [None, "pool", "p6p7", "p6p7_c5"])
@pytest.mark.parametrize("size", [(128, 96), (193, 161)])
def test_equals_torchvision(body, spread, extra, norm, size):
    blocks = {
        None: None,
        "pool": LastLevelMaxPool(),
        "p6p7": LastLevelP6P7(16, 16),
        "p6p7_c5": LastLevelP6P7(12, 16),
    }
    inputs = [body.levels[name].channels for name in LEVELS]
    norm_layer = nn.BatchNorm2d if norm else None
    theirs = spread(FeaturePyramidNetwork(inputs, 16, blocks[extra], norm_layer)).eval()
    ours = FPN(body, LEVELS, 16, extra, norm).eval()
    state = {f"body.{key}": value for key, value in body.state_dict().items()} | theirs.state_dict()
    ours.load_state_dict(state)
    images = torch.rand(2, 3, *size)
    features = ours(images)
    expected = theirs(OrderedDict((name, features[name]) for name in LEVELS))
    names = {"pool": "p6", "p6": "p6", "p7": "p7"} | {f"c{i}": f"p{i}" for i in range(2, 6)}
    for name, value in expected.items():
        assert torch.allclose(features[names[name]], value, rtol=1e-5, atol=1e-5 * value.std().item())
    assert len(expected) == len([name for name in features if name.startswith("p")])
    for name, value in body(images).items():
        assert torch.equal(features[name], value)


@pytest.mark.parametrize("extra", [None, "pool", "p6p7", "p6p7_c5"])
def test_levels_are_declared_finest_first_and_true(body, extra):
    pyramid = FPN(body, LEVELS, 16, extra).eval()
    maps = pyramid(torch.rand(1, 3, 193, 161))
    assert list(maps) == list(pyramid.levels)
    sizes = pyramid.output_sizes(193, 161)
    for name, level in pyramid.levels.items():
        assert (level.channels, sizes[name]) == (maps[name].shape[1], tuple(maps[name].shape[2:]))
    strides = [level.stride for level in pyramid.levels.values()]
    assert strides == sorted(strides)
    expected = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
    expected |= {None: {}, "pool": {"p6": 64}}.get(extra, {"p6": 64, "p7": 128})
    assert {n: v.stride for n, v in pyramid.levels.items() if n.startswith("p")} == expected


@pytest.mark.parametrize("extra", ["pool", "p6p7", "p6p7_c5"])
def test_each_level_alone_equals_the_full_pass(body, extra):
    pyramid = FPN(body, LEVELS, 16, extra).eval()
    images = torch.rand(1, 3, 97, 64)
    maps = pyramid(images)
    for name in pyramid.levels:
        alone = pyramid(images, (name,))
        assert list(alone) == [name]
        assert torch.equal(alone[name], maps[name])


def test_computes_only_what_is_asked_for(body):
    pyramid = FPN(body, LEVELS, 16, "p6p7")
    called = []
    for name, module in pyramid.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    pyramid(torch.rand(1, 3, 64, 64), ("c2",))
    assert called == ["body.convs.0.0", "body.convs.1.0"]
    called.clear()
    pyramid(torch.rand(1, 3, 64, 64), ("p4",))
    expected = [
        "inner_blocks.3.0",
        "inner_blocks.2.0",
        "layer_blocks.2.0",
    ]
    assert [name for name in called if "blocks" in name] == expected
    called.clear()
    pyramid(torch.rand(1, 3, 64, 64), ("p6",))
    expected = ["inner_blocks.3.0", "layer_blocks.3.0", "extra_blocks.p6"]
    assert [name for name in called if "blocks" in name] == expected


def test_hand_computed_merge(body):
    """With identity-like weights p4 is c4's first channel plus c5's, repeated over 2x2."""
    pyramid = FPN(body, ("c4", "c5"), 1)
    with torch.no_grad():
        for block in (*pyramid.inner_blocks, *pyramid.layer_blocks):
            block[0].weight.zero_()
            middle = block[0].kernel_size[0] // 2
            block[0].weight[0, 0, middle, middle] = 1
    maps = pyramid(torch.rand(1, 3, 64, 64))
    expected = maps["c4"][:, :1] + maps["c5"][:, :1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(maps["p4"], expected)


def test_stages_freeze_through_the_body_and_the_pyramid(body):
    body.freeze("c2")
    pyramid = FPN(body, LEVELS, 16, norm="batch").train()
    assert not body.convs[1][1].training
    assert list(pyramid.stages()) == ["c1", "c2", "c3", "c4", "c5", "fpn"]
    pyramid.freeze("c5")
    assert not any(p.requires_grad for p in body.convs.parameters())
    assert all(p.requires_grad for p in pyramid.inner_blocks.parameters())
    pyramid.freeze(None)
    assert all(p.requires_grad for p in pyramid.parameters())
    assert body.convs[1][1].training
    pyramid.freeze("all")
    assert not any(
        p.requires_grad for part in pyramid.stages().values() for m in part for p in m.parameters()
    )
    pyramid.train()
    assert not any(m.training for m in pyramid.modules() if isinstance(m, nn.BatchNorm2d))


def test_frozen_norm_holds_for_the_body_and_not_for_the_new_pyramid(body):
    pyramid = FPN(body, LEVELS, 16, norm="batch").train()
    pyramid.freeze(None, norm=True)
    norms = {n: m for n, m in pyramid.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert len(norms) == 5 + 8
    for name, norm in norms.items():
        assert norm.training == norm.weight.requires_grad == (not name.startswith("body.")), name


def test_what_is_taken_off_knows_its_place_below_the_body():
    pyramid = FPN(build("vgg11", classes=2), ("c3", "c4"), 8)
    stage, top = pyramid.cut("c5"), pyramid.chop()
    assert stage[0].taken_from == "body.features.20"
    assert [m.taken_from for m in top.embed if isinstance(m, nn.Linear)] == [
        "body.classifier.0",
        "body.classifier.3",
    ]
    assert not hasattr(top.last, "taken_from")
    assert pyramid.pretrained_stages() == [name for name in pyramid.stages() if name != "fpn"]


def test_chop_and_cut_reach_the_body():
    pyramid = FPN(squeezenet1_1(classes=2), ("c2", "c3"), 8)
    assert pyramid.chop() is not None
    assert pyramid.chop() is None
    with pytest.raises(ValueError, match="pyramid reads"):
        pyramid.cut("c3")
    before = pyramid.eval()(torch.rand(1, 3, 64, 64))
    removed = pyramid.cut("c4")
    assert sum(p.numel() for p in removed.parameters()) > 0
    maps = pyramid(torch.rand(1, 3, 64, 64))
    assert list(maps) == [name for name in before if name != "c4"]


def test_other_weights_change_the_bodys_normalisation(body):
    pyramid = FPN(body, LEVELS, 16)
    images = torch.rand(1, 3, 64, 64)
    pyramid.prepare_for(Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)))
    assert torch.equal(pyramid(images)["c1"], body.convs[0](images))
    assert torch.equal(pyramid.normalise(images), images)


def test_published_mobilenet_detector_reads_a_tap_and_the_last_map():
    pyramid = FPN(mobilenet_v3_large(classes=2), ("block13", "c5"), 256, "pool").eval()
    assert [n for n in pyramid.levels if n.startswith("p")] == ["p_block13", "p5", "p6"]
    maps = pyramid(torch.rand(1, 3, 64, 96), ("p_block13", "p5", "p6"))
    assert [tuple(m.shape) for m in maps.values()] == [(1, 256, 2, 3), (1, 256, 2, 3), (1, 256, 1, 2)]


def test_errors_name_what_is_wrong(body):
    with pytest.raises(KeyError, match="c9"):
        FPN(body, ("c2", "c9"))
    with pytest.raises(KeyError, match="c1"):
        FPN(body, ())
    with pytest.raises(ValueError, match="p6p8"):
        FPN(body, LEVELS, extra="p6p8")
    with pytest.raises(ValueError, match="layer"):
        FPN(body, LEVELS, norm="layer")
    with pytest.raises(ValueError, match="block13"):
        FPN(mobilenet_v3_large(classes=2), ("c4", "block13"), extra="pool")
    with pytest.raises(KeyError, match="p6"):
        FPN(body, LEVELS)(torch.rand(1, 3, 64, 64), ("p6",))


def test_architecture_and_options_rebuild_it():
    first = FPN(mobilenet_v3_large(classes=2, in_channels=1), ("block13", "c5"), 32, "pool", "batch")
    again = build(first.architecture, **json.loads(json.dumps(first.options)))
    assert again.levels == first.levels
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in first.state_dict().items()
    }
    assert again.body.architecture == "mobilenet_v3_large"
