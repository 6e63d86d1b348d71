import pytest
import torch
import torchvision
from torch import nn

from retinue.backbones import resnet

NODES = {"c1": "relu", "c2": "layer1", "c3": "layer2", "c4": "layer3", "c5": "layer4"}
SMALL = ["resnet18", "resnet50", "resnext50_32x4d"]
LARGE = [
    "resnet34",
    "resnet101",
    "resnet152",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]


@pytest.mark.parametrize("name", SMALL + [pytest.param(name, marks=pytest.mark.slow) for name in LARGE])
def test_maps_and_logits_are_torchvisions(name, check_parity):
    check_parity(getattr(resnet, name)(), torchvision.models.get_model(name), NODES)


def test_dilated_maps_are_torchvisions(check_parity):
    dilate = (False, True, True)
    ours = resnet.resnet50(replace_stride_with_dilation=dilate)
    check_parity(ours, torchvision.models.resnet50(replace_stride_with_dilation=dilate), NODES)
    assert [level.stride for level in ours.levels.values()] == [1, 2, 4, 8, 8, 8]


def test_a_plain_pyramid_is_declared():
    levels = resnet.resnet50(classes=3).levels
    assert {name: (level.channels, level.stride) for name, level in levels.items()} == {
        "image": (3, 1),
        "c1": (64, 2),
        "c2": (256, 4),
        "c3": (512, 8),
        "c4": (1024, 16),
        "c5": (2048, 32),
    }


@pytest.mark.parametrize(("name", "last"), [("resnet18", "bn2"), ("resnet50", "bn3")])
def test_zero_initialised_blocks_begin_as_their_shortcut(name, last):
    network = getattr(resnet, name)(zero_init_residual=True)
    block = network.layer1[1]
    assert getattr(block, last).weight.abs().sum() == 0
    x = torch.rand(1, network.levels["c2"].channels, 8, 8)
    torch.testing.assert_close(block.eval()(x), x)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_initial_spread_is_torchvisions(name):
    torch.manual_seed(0)
    ours = getattr(resnet, name)().state_dict()
    theirs = torchvision.models.get_model(name).state_dict()
    for key, value in theirs.items():
        if value.dim() > 1:
            assert ours[key].std().item() == pytest.approx(value.std().item(), rel=0.1), key
        elif "fc" not in key:
            assert torch.equal(ours[key], value), key


def test_a_basic_block_cannot_dilate():
    with pytest.raises(ValueError, match="bottlenecks"):
        resnet.resnet18(replace_stride_with_dilation=(False, False, True))


def test_three_bools_are_asked_for():
    with pytest.raises(ValueError, match="three bools"):
        resnet.resnet50(replace_stride_with_dilation=(True,))


def test_the_embedding_is_the_pooled_last_map():
    network = resnet.resnet18(classes=7).eval()
    features = network(torch.rand(2, 3, 64, 48))
    top = network.top()
    torch.testing.assert_close(top.embed(features["c5"]), features["c5"].mean((2, 3)))
    assert (top.embedding, top.level) == (512, "c5")
    assert isinstance(top.last, nn.Linear) and top(features).shape == (2, 7)
