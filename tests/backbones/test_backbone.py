import copy

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from retinue.backbones.backbone import Backbone, Pixels, Preprocessing
from retinue.backbones.resnet import BasicBlock, ResNet, resnet18, resnet50


@pytest.fixture
def network(spread):
    return spread(resnet18(classes=10)).eval()


SMALL = ResNet(BasicBlock, (1, 1, 1, 1), classes=2)


def picture(height=64, width=48, channels=3, n=2):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(0))


def trainable(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


# Pictures in, maps out


def test_normalisation_by_hand():
    network = Pixels()
    network.prepare_for(Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0)))
    pixel = torch.tensor([1.0, 0.5, 1.0]).view(1, 3, 1, 1)
    assert network(pixel)["image"].flatten().tolist() == [1.0, 1.0, 0.5]
    network.prepare_for(Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0), order="BGR", white=255))
    assert network(pixel)["image"].flatten().tolist() == [127.5, 255.0, 255.0]


def test_preprocessing_for_other_channels():
    colour = Preprocessing(mean=(0.1, 0.2, 0.6), std=(0.1, 0.2, 0.3))
    assert colour.for_channels(1).mean == pytest.approx((0.3,))
    assert colour.for_channels(1).std == pytest.approx((0.2,))
    assert colour.for_channels(5).mean == (0.1, 0.2, 0.6, 0.1, 0.2)
    assert colour.for_channels(3) == colour


def test_a_picture_with_other_channels_is_refused():
    with pytest.raises(ValueError, match="in_channels=4"):
        resnet18()(picture(channels=4))


def test_maps_come_finest_first_and_only_those_asked_for(network):
    assert list(network(picture())) == ["image", "c1", "c2", "c3", "c4", "c5"] == list(network.levels)
    some = network(picture(), {"c4", "c2"})
    assert list(some) == ["c2", "c4"]
    with pytest.raises(KeyError, match="c9"):
        network(picture(), ["c9"])


def test_nothing_above_the_last_level_is_computed(network):
    ran = []
    network.layer4.register_forward_hook(lambda *_: ran.append("c5"))
    network.layer3.register_forward_hook(lambda *_: ran.append("c4"))
    network(picture(), ["c4"])
    network(picture(), ["image"])
    assert ran == ["c4"]


@settings(max_examples=12, deadline=None)
@given(height=st.integers(33, 140), width=st.integers(33, 140))
def test_output_sizes_are_the_real_ones(height, width):
    network = SMALL
    sizes = network.output_sizes(height, width)
    real = {name: tuple(m.shape[-2:]) for name, m in network(picture(height, width, n=1)).items()}
    assert sizes == real
    for name, (h, w) in sizes.items():
        stride = network.levels[name].stride
        assert (h, w) == (-(-height // stride), -(-width // stride))


def test_output_sizes_touch_nothing(network):
    network.train()
    before = copy.deepcopy(network.state_dict())
    network.output_sizes(640, 480)
    assert network.training and network.layer4.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_gradients_reach_the_picture(network):
    x = picture().requires_grad_()
    network(x, ["c5"])["c5"].sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0


def test_grey_weights_give_the_maps_of_grey_pictures(spread, tmp_path):
    equal = Preprocessing(mean=(0.4,) * 3, std=(0.2,) * 3)
    colour = spread(resnet18()).eval()
    torch.save(colour.state_dict(), tmp_path / "colour.pth")
    colour.prepare_for(equal)
    shade = picture(channels=1)
    for channels in (1, 6):
        network = resnet18(str(tmp_path / "colour.pth"), in_channels=channels).eval()
        network.prepare_for(equal)
        with torch.no_grad():
            ours = network(shade.expand(-1, channels, -1, -1), ["c1", "c5"])
            theirs = colour(shade.expand(-1, 3, -1, -1), ["c1", "c5"])
        for level in ours:
            torch.testing.assert_close(ours[level], theirs[level], rtol=1e-4, atol=1e-4)


# Chop and cut


def test_chop_takes_exactly_the_classifier(network):
    before = {name for name, _ in network.named_parameters()}
    maps = network(picture())
    logits = network.top()(maps)
    top = network.chop()
    assert before - {name for name, _ in network.named_parameters()} == {"fc.weight", "fc.bias"}
    assert sum(p.numel() for p in top.parameters()) == 512 * 10 + 10
    assert torch.equal(top(network(picture())), logits)
    assert network.chop() is None


def test_replaced_last_layer_counts_its_classes(network):
    top = network.chop()
    top.replace_last(3)
    assert top(network(picture())).shape == (2, 3)


def test_cut_gives_the_last_stage_to_another(network):
    c5 = network(picture())["c5"]
    stage = network.cut("c5")
    assert list(network.levels)[-1] == "c4" and list(network.stages())[-1] == "c4"
    maps = network(picture())
    assert list(maps)[-1] == "c4"
    assert torch.equal(stage(maps["c4"]), c5)
    assert not any(name.startswith("layer4") for name, _ in network.named_parameters())
    assert network.output_sizes(64, 48) == {name: tuple(m.shape[-2:]) for name, m in maps.items()}


def test_cut_networks_copy_and_cut_again(network):
    c4 = network(picture())["c4"]
    network.cut("c5")
    twin = copy.deepcopy(network)
    stage = twin.cut("c4")
    assert torch.equal(stage(twin(picture())["c3"]), c4)
    assert torch.equal(network(picture())["c4"], c4)


def test_only_the_last_stage_can_be_cut(network):
    with pytest.raises(ValueError, match="not the last"):
        network.cut("c4")


# Freezing


@pytest.mark.parametrize("layers", range(6))
def test_trainable_parameters_are_torchvisions_trainable_layers(layers):
    through = ["all", "c4", "c3", "c2", "c1", None][layers]
    ours, theirs = resnet50(), torchvision.models.resnet50()
    ours.chop(), ours.freeze(through)
    names = ["layer4", "layer3", "layer2", "layer1", "conv1", "bn1"]
    trained = names[: 6 if layers == 5 else layers]
    expected = sum(p.numel() for n, p in theirs.named_parameters() if n.split(".")[0] in trained)
    assert trainable(ours) == expected


def test_frozen_statistics_stay_whatever_train_says(network):
    network.freeze("c3")
    network.train()
    before = copy.deepcopy(network.state_dict())
    network(picture())["c5"].sum().backward()
    moved = {
        key.split(".")[0]
        for key, value in network.state_dict().items()
        if not torch.equal(value, before[key])
    }
    assert moved == {"layer3", "layer4"}
    assert network.layer2[0].conv1.weight.grad is None
    assert network.layer3[0].conv1.weight.grad is not None


def test_frozen_norms_stay_while_convolutions_learn(network):
    network.freeze(None, norm=True)
    network.train()
    before = copy.deepcopy(network.state_dict())
    network(picture())["c5"].sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    norms = sum(p.numel() for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert trainable(network) == sum(p.numel() for p in network.parameters()) - norms
    assert network.conv1.weight.grad is not None and network.bn1.weight.grad is None


def test_freezing_can_be_undone(network):
    total = trainable(network)
    network.train()
    network.freeze(norm=True)
    assert trainable(network) == sum(p.numel() for p in network.fc.parameters())
    network.freeze("c1")  # says nothing of the norms: they stay frozen
    assert not network.layer4[0].bn1.training
    network.freeze(None, norm=False)
    assert trainable(network) == total
    assert all(m.training for m in network.modules())


def test_freezing_an_unknown_stage_names_those_there_are(network):
    with pytest.raises(KeyError, match="c7"):
        network.freeze("c7")
    network.cut("c5")
    with pytest.raises(KeyError, match="c5"):
        network.freeze("c5")


def test_freezing_survives_a_copy_and_a_cut(network):
    network.freeze("c2")
    network.cut("c5")
    twin = copy.deepcopy(network).train()
    assert not twin.layer1.training and twin.layer2.training
    assert trainable(twin) == trainable(network)


# Padding


def test_padding_is_nothing_after_normalisation():
    network = resnet18()
    assert network.preprocessing.pad == network.preprocessing.mean
    canvas = torch.tensor(network.preprocessing.pad).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert torch.equal(network.normalise(canvas), torch.zeros(1, 3, 4, 4))
    grey = Preprocessing().for_channels(1)
    assert grey.pad == grey.mean and len(grey.mean) == 1
    five = Preprocessing(pad=(0.1, 0.2, 0.3)).for_channels(5)
    assert five.pad == (0.1, 0.2, 0.3, 0.1, 0.2)


def test_padding_is_one_number_or_one_for_each_channel():
    assert Preprocessing(pad=0.5).pad == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="2 channels"):
        Preprocessing(pad=(0.1, 0.2))


# Small things


def test_normalisation_is_not_part_of_the_state():
    assert list(Pixels().state_dict()) == []
    assert not {"mean", "std"} & set(resnet18().state_dict())


def test_pixels_are_the_picture():
    network = Pixels(1)
    x = picture(channels=1)
    assert torch.equal(network(x)["image"], x)
    assert network.output_sizes(7, 5) == {"image": (7, 5)}
    assert network.chop() is None and network.stages() == {}
    network.freeze()


def test_a_family_must_say_its_trunk():
    with pytest.raises(NotImplementedError):
        Backbone().trunk()
