import pytest
import torch
import torchvision

from retinue.backbones.alexnet import alexnet

NODES = {
    "conv1": "features.1",
    "c2": "features.2",
    "conv2": "features.4",
    "c3": "features.5",
    "conv3": "features.7",
    "conv4": "features.9",
    "conv5": "features.11",
    "c5": "features.12",
}


@pytest.fixture(scope="module")
def network():
    return alexnet(classes=5).eval()


def test_maps_and_logits_are_torchvisions(check_parity):
    check_parity(alexnet(), torchvision.models.alexnet(), NODES)


def test_sizes_are_its_own(network):
    sizes = network.output_sizes(224, 224)
    assert [sizes[name] for name in ("conv1", "conv2", "conv3", "c5")] == [
        (55, 55),
        (27, 27),
        (13, 13),
        (6, 6),
    ]


@pytest.mark.parametrize("side", [224, 635, 1000])
def test_strides_are_true_as_far_as_one_number_says_it(network, side):
    for name, (height, _) in network.output_sizes(side, side).items():
        assert 0 <= side / network.levels[name].stride - height < 2, name


def test_a_picture_too_small_is_refused(network):
    with pytest.raises(ValueError, match="too small"):
        network.output_sizes(30, 30)
    assert network.output_sizes(63, 63)["c5"] == (1, 1)


def test_the_embedding_is_fc7(network):
    features = network(torch.rand(2, 3, 100, 100))
    top = network.top()
    assert top.embed(features["c5"]).shape == (2, 4096) == (2, top.embedding)
    assert top(features).shape == (2, 5)
