"""Darknet-53: the published counts, timm's maps, and darknet's own files."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from retinue.backbones import build
from retinue.backbones.backbone import is_norm
from retinue.backbones.darknet import TRUNK, Darknet53, convolution, read_trunk
from retinue.backbones.darknet_files import Header, file_order, is_darknet_file, read_values, take, to_bytes
from retinue.backbones.weights import WeightsError


def small() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(convolution(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(2, 3))
    for tensor in network.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape))
    return network


PARTS = ("0", "1", "3")


def test_the_published_file_has_as_many_numbers() -> None:
    """darknet53.conv.74 has 162,482,580 bytes, 20 of them the header."""
    with torch.device("meta"):
        network = Darknet53()
    own = network.state_dict()
    assert 4 * sum(own[name].numel() for name in file_order(network, TRUNK)) + 20 == 162_482_580
    assert len([m for m in network.modules() if isinstance(m, nn.Conv2d)]) == 52


@pytest.mark.slow
def test_its_maps_are_timms() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model("darknet53").eval()
    for module in theirs.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = 0.1  # darknet's; timm has torch's
    ours = build("darknet53").eval()
    layers = [[m for m in n.modules() if isinstance(m, nn.Conv2d) or is_norm(m)] for n in (ours, theirs)]
    for own, other in zip(*layers, strict=True):
        if is_norm(own):
            own.eps = other.eps
            nn.init.uniform_(other.weight, 0.5, 1.5)
        own.load_state_dict(other.state_dict())
    ours.fc.load_state_dict(theirs.head.fc.state_dict())
    images = torch.rand(1, 3, 97, 129)
    with torch.no_grad():
        maps, top = ours(images), ours.top()
        expected = theirs.forward_features(images)
        assert (maps["c5"] - expected).abs().max() < 1e-4 * expected.abs().max()
        assert torch.allclose(top(maps), theirs(images), atol=1e-4)


def test_a_file_by_hand(tmp_path: Path) -> None:
    """Shifts, scales, means, variances and kernels of a normed layer; biases and weights of others."""
    network = small()
    own = network.state_dict()
    path = tmp_path / "a.weights"
    path.write_bytes(to_bytes(own, file_order(network, PARTS), Header(0, 2, 5, 2**40)))
    content = path.read_bytes()
    assert struct.unpack("<iiiq", content[:20]) == (0, 2, 5, 2**40)
    values = np.frombuffer(content[20:], "<f4")
    expected = [own[f"0.1.{name}"] for name in ("bias", "weight", "running_mean", "running_var")]
    expected += [own[name] for name in ("0.0.weight", "1.bias", "1.weight", "3.bias", "3.weight")]
    assert values.tobytes() == torch.cat([tensor.flatten() for tensor in expected]).numpy().tobytes()
    header, again = read_values(path)
    assert header == (0, 2, 5, 2**40) and again.numpy().tobytes() == values.tobytes()
    assert is_darknet_file(path)


@pytest.mark.parametrize("header", [Header(0, 1, 0, 7), Header(0, 2, 0, 7), Header(1, 0, 0, 2**35)])
def test_round_trip_bit_for_bit(header: Header, tmp_path: Path) -> None:
    """Old files count pictures in 32 bits, newer ones in 64."""
    network, path = small(), tmp_path / "a.weights"
    names = file_order(network, PARTS)
    path.write_bytes(to_bytes(network.state_dict(), names, header))
    read, values = read_values(path)
    assert len(path.read_bytes()) == (16 if header.minor == 1 else 20) + 4 * len(values)
    tensors = take(values, network.state_dict(), names, "here")
    assert to_bytes(tensors, names, read) == path.read_bytes()
    assert all(torch.equal(tensors[name], network.state_dict()[name]) for name in names)


def test_what_is_no_darknet_file_is_refused(tmp_path: Path) -> None:
    path, network = tmp_path / "a.weights", small()
    names = file_order(network, PARTS)
    content = to_bytes(network.state_dict(), names, Header())
    with pytest.raises(WeightsError, match="no such file"):
        read_values(path)
    for wrong, message in (
        (content[:-1], "no header of 20 and whole numbers of 4"),
        (content[:20], "20 bytes are no header"),
        (content[:7], "does not begin with darknet's version numbers"),
        (b"", "does not begin"),
        (b"PK\x03\x04" + content, "does not begin"),
        (struct.pack("<iii", 0, 2000, 0) + content[12:], "does not begin"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(WeightsError, match=message):
            read_values(path)
    path.write_bytes(content + bytes(4))
    with pytest.raises(WeightsError, match=r"here: holds 144 numbers, this network has 143"):
        take(read_values(path)[1], network.state_dict(), names, "here")


def test_a_trunks_and_a_classifiers_file_are_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retinue.backbones.darknet.STAGES", ((4, 1), (6, 1)))
    torch.manual_seed(1)
    whole = build("darknet53", classes=3)
    own, trunk = whole.state_dict(), file_order(whole, TRUNK)
    for name, names in (("a.conv.74", trunk), ("a.weights", [*trunk, "fc.bias", "fc.weight"])):
        (tmp_path / name).write_bytes(to_bytes(own, names, Header()))
        again = build("darknet53", str(tmp_path / name), classes=3)
        assert again.new_top == (name == "a.conv.74")
        assert all(torch.equal(again.state_dict()[key], own[key]) for key in names)
        assert again.weights is not None and again.weights.source.endswith(name)
    grey = build("darknet53", str(tmp_path / "a.conv.74"), in_channels=1).state_dict()
    assert torch.equal(grey["conv.0.weight"], own["conv.0.weight"].sum(1, keepdim=True))
    torch.save(own, tmp_path / "a.pth")
    assert read_trunk(tmp_path / "a.pth").keys() == own.keys()
    with pytest.raises(WeightsError, match=r"fc\.bias has shape"):
        build("darknet53", str(tmp_path / "a.weights"), classes=4)
    (tmp_path / "b.weights").write_bytes(to_bytes(own, trunk[:-1], Header()))
    with pytest.raises(WeightsError, match=r"b\.weights: holds .* of another network"):
        build("darknet53", str(tmp_path / "b.weights"))
