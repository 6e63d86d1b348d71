import copy

import pytest
import torch
import torchvision
from torchvision.models.detection.ssd import _vgg_extractor

from retinue.backbones import vgg
from retinue.backbones.backbone import Origin

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


def test_atrous_maps_are_ssds():
    """torchvision's own trunk of SSD on the same weights, fc6 and fc7 included."""
    torch.manual_seed(0)
    theirs = _vgg_extractor(torchvision.models.vgg16(), False, 5).eval()
    ours = vgg.vgg16(atrous=True).eval()
    ours.features.load_state_dict(
        {
            f"{i}.{k}": v
            for i, m in enumerate([*theirs.features, *theirs.extra[0][:7]])
            for k, v in m.state_dict().items()
        }
    )
    ours.fc.load_state_dict(
        {f"{int(k[0]) - 1}{k[1:]}": v for k, v in theirs.extra[0][7].state_dict().items()}
    )
    picture = torch.rand(1, 3, 75, 100)
    with torch.no_grad():
        conv4_3, found = theirs.features(ours.normalise(picture)), ours(picture, ["conv4_3", "fc7"])
        torch.testing.assert_close(found["conv4_3"], conv4_3)
        torch.testing.assert_close(found["fc7"], theirs.extra[0](conv4_3))
    assert found["fc7"].shape == (1, 1024, 4, 6)  # half of 9 x 13, to which the third pooling rounds up
    assert ours.top() is None and ours.chop() is None and list(ours.stages())[-1] == "fc7"
    assert ours.levels["c5"].stride == ours.levels["fc7"].stride == 16


def test_fc6_and_fc7_become_convolutions():
    """Every fourth neuron, and of fc6's 7x7 positions every third."""
    network = vgg.vgg11(atrous=True)
    assert "fc7" not in network.pretrained_stages()  # nothing was loaded
    again = vgg.vgg11(**network.options)
    again.load_state_dict(network.state_dict())
    assert again.levels == network.levels
    network.make_atrous()
    assert len(network.fc) == 4
    loaded = vgg.VGG((1, 1, 2, 2, 2), classifier=False)
    loaded.options, loaded.weights, loaded.avgpool = {}, Origin("here"), torch.nn.Identity()
    fc6, fc7 = (torch.nn.utils.skip_init(torch.nn.Linear, n, 4096) for n in (25088, 4096))
    for layer in (fc6, fc7):  # memory that is not touched costs nothing
        layer.weight = torch.nn.Parameter(torch.zeros(layer.weight.shape))
        layer.bias = torch.nn.Parameter(torch.arange(4096.0))
    with torch.no_grad():
        fc6.weight[20].copy_(torch.rand(25088))
        fc7.weight[20].copy_(torch.rand(4096))
    loaded.classifier = torch.nn.Sequential(fc6, torch.nn.ReLU(), torch.nn.Dropout(), fc7)
    loaded.make_atrous()
    assert torch.equal(loaded.fc[0].weight[5], fc6.weight[20].view(512, 7, 7)[:, ::3, ::3])
    assert torch.equal(loaded.fc[2].weight[5, :, 0, 0], fc7.weight[20, ::4])
    assert torch.equal(loaded.fc[0].bias, torch.arange(0, 4096.0, 4)) and not loaded.fc[0].weight[6].any()
    assert "fc7" in loaded.pretrained_stages() and loaded.options == {"atrous": True}
    assert not hasattr(loaded, "classifier")
