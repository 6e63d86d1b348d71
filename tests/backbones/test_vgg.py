import copy

import pytest
import torch
import torchvision

from retinue.backbones import vgg

BLOCKS = {"11": (1, 1, 2, 2, 2), "13": (2, 2, 2, 2, 2), "16": (2, 2, 3, 3, 3), "19": (2, 2, 4, 4, 4)}
SMALL = ["vgg11_bn", "vgg16"]
LARGE = ["vgg11", "vgg13", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn"]


def nodes(name):
    """Our levels -> torchvision's modules, counted by hand from the configuration."""
    depth, _, norm = name.removeprefix("vgg").partition("_")
    found, index = {}, -1
    for block, count in enumerate(BLOCKS[depth], start=1):
        index += count * (3 if norm else 2)
        found[f"conv{block}_{count}"] = f"features.{index}"
        index += 1
        found[f"c{block}"] = f"features.{index}"
    return found


@pytest.mark.parametrize("name", SMALL + [pytest.param(name, marks=pytest.mark.slow) for name in LARGE])
def test_maps_and_logits_are_torchvisions(name, check_parity):
    check_parity(getattr(vgg, name)(), torchvision.models.get_model(name), nodes(name))


def test_levels_of_vgg16_are_the_papers():
    with torch.device("meta"):
        levels = vgg.VGG((2, 2, 3, 3, 3)).levels
    assert {name: (level.channels, level.stride) for name, level in levels.items()} == {
        "image": (3, 1),
        "conv1_2": (64, 1),
        "c1": (64, 2),
        "conv2_2": (128, 2),
        "c2": (128, 4),
        "conv3_3": (256, 4),
        "c3": (256, 8),
        "conv4_3": (512, 8),
        "c4": (512, 16),
        "conv5_3": (512, 16),
        "c5": (512, 32),
    }


@pytest.fixture(scope="module")
def small():
    return vgg.vgg11(classes=5).eval()


def test_taps_are_after_the_relu_and_unchanged_by_what_follows(small):
    picture = torch.rand(1, 3, 40, 40)
    everything = small(picture)
    alone = small(picture, ["conv2_1"])
    assert list(alone) == ["conv2_1"]
    assert torch.equal(alone["conv2_1"], everything["conv2_1"])
    assert alone["conv2_1"].min() == 0
    assert torch.equal(torch.nn.functional.max_pool2d(everything["conv2_1"], 2), everything["c2"])


def test_the_embedding_is_fc7(small):
    features = small(torch.rand(2, 3, 64, 64))
    top = small.top()
    embedding = top.embed(features["c5"])
    assert embedding.shape == (2, 4096) == (2, top.embedding)
    assert embedding.min() == 0 and top(features).shape == (2, 5)


def test_cutting_the_last_pooling_leaves_conv5_as_the_end(small):
    with torch.device("meta"):  # the classifier is large and not needed
        network = vgg.vgg11().eval()
    network.chop()
    network.features = copy.deepcopy(small.features)
    network.prepare_for(small.preprocessing)
    picture = torch.rand(1, 3, 64, 64)
    before = network(picture)
    pooling = network.cut("c5")
    after = network(picture)
    assert list(after)[-1] == "conv5_2" and "c5" not in after
    assert torch.equal(pooling(after["conv5_2"]), before["c5"])
