import json
import socket
import sys

import pytest
import torch

from retinue.backbones import build
from retinue.backbones.backbone import Level
from retinue.backbones.from_timm import from_timm
from retinue.backbones.weights import WeightsError

timm = pytest.importorskip("timm")

SWIN = "swin_tiny_patch4_window7_224"
SMALL_SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)}
NETWORKS = {"resnet10t": {}, "mobilenetv3_small_050": {}, "convnext_atto": {}, SWIN: SMALL_SWIN}


@pytest.fixture
def resnet():
    return from_timm("resnet10t").eval()


@pytest.fixture
def saved(tmp_path):
    """A classifier's state as timm would save it, and the classifier."""
    classifier = timm.create_model("resnet10t", num_classes=7).eval()
    torch.save(classifier.state_dict(), tmp_path / "resnet10t.pth")
    return tmp_path / "resnet10t.pth", classifier


@pytest.mark.parametrize(("name", "options"), NETWORKS.items())
def test_maps_are_timms_own_channels_first(name, options):
    backbone = from_timm(name, **options).eval()
    images = torch.rand(2, 3, 128, 96)
    with torch.no_grad():
        features = backbone(images)
        expected = backbone.body(backbone.normalise(images))
    assert list(features) == list(backbone.levels)
    for (level, value), theirs in zip(list(features.items())[1:], expected, strict=True):
        theirs = theirs.permute(0, 3, 1, 2) if name == SWIN else theirs
        assert torch.equal(value, theirs)
        declared = backbone.levels[level]
        assert value.shape == (2, declared.channels, 128 // declared.stride, 96 // declared.stride)
    assert backbone.output_sizes(128, 96) == {n: tuple(v.shape[-2:]) for n, v in features.items()}


@pytest.mark.parametrize(("name", "options"), NETWORKS.items())
def test_levels_alone_equal_the_full_pass(name, options):
    backbone = from_timm(name, **options).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = backbone(images)
        for level in backbone.levels:
            alone = backbone(images, (level,))
            assert list(alone) == [level]
            assert torch.equal(alone[level], features[level])


def test_levels_are_named_by_stride(resnet):
    assert resnet.levels == {
        "image": Level(3, 1),
        "c1": Level(64, 2),
        "c2": Level(64, 4),
        "c3": Level(128, 8),
        "c4": Level(256, 16),
        "c5": Level(512, 32),
    }
    assert list(from_timm(SWIN, **SMALL_SWIN).levels) == ["image", "c2", "c3", "c4", "c5"]


def test_preprocessing_is_timms():
    """convnext_atto: 224 of 256, bicubic; resnet10t: 176 of 176 / 0.875 = 201; dpn68: its own mean and std."""
    expected = {"convnext_atto": (256, 224, "bicubic"), "resnet10t": (201, 176, "bicubic")}
    for name, values in expected.items():
        p = from_timm(name).preprocessing
        assert (p.resize, p.crop, p.interpolation) == values
    assert from_timm("mobilenetv3_small_050").preprocessing.mean == (0.485, 0.456, 0.406)
    odd = from_timm("dpn48b").preprocessing
    assert odd.mean == pytest.approx(timm.get_pretrained_cfg("dpn48b").mean)
    assert odd.std == pytest.approx(timm.get_pretrained_cfg("dpn48b").std)


def test_chain_freezes_by_stage_and_cuts_its_last(resnet):
    resnet.train().freeze("c2")
    frozen = {name.split(".")[1] for name, p in resnet.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    assert not resnet.body["bn1"].training
    removed = resnet.cut("c5")
    assert list(resnet(torch.rand(1, 3, 64, 64)))[-1] == "c4"
    assert sum(p.numel() for p in removed.parameters()) > 0


def test_other_extractors_freeze_as_a_whole():
    backbone = from_timm("mobilenetv3_small_050").train()
    backbone.freeze("all")
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(m.training for m in backbone.body.modules())


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(saved, channels):
    path, _ = saved
    backbone = from_timm("resnet10t", str(path), in_channels=channels).eval()
    assert backbone(torch.rand(1, channels, 64, 64), ("c5",))["c5"].isfinite().all()
    assert backbone.levels["image"] == Level(channels, 1)


def test_local_file_gives_the_saved_networks_maps(saved):
    path, classifier = saved
    backbone = from_timm("resnet10t", str(path)).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = classifier.forward_features(backbone.normalise(images))
        assert torch.allclose(backbone(images)["c5"], expected, atol=1e-6)
    assert backbone.weights.source == str(path)


def test_own_saved_state_loads_again(resnet, tmp_path):
    for prefix in ("", "backbone."):
        path = tmp_path / f"{prefix}own.pth"
        torch.save({f"{prefix}{key}": value for key, value in resnet.state_dict().items()}, path)
        again = from_timm("resnet10t", str(path))
        assert all(torch.equal(again.state_dict()[key], v) for key, v in resnet.state_dict().items())


def test_file_of_another_network_is_refused(saved, tmp_path):
    path, _ = saved
    with pytest.raises(WeightsError, match=r"resnet10t\.pth.*another network"):
        from_timm("convnext_atto", str(path))
    with pytest.raises(WeightsError, match="no such file"):
        from_timm("resnet10t", str(tmp_path / "none.pth"))


def test_imagenet_asks_timm_for_its_own(monkeypatch):
    asked, create = [], timm.create_model

    def offline(name, **arguments):
        asked.append(arguments.pop("pretrained"))
        return create(name, **arguments)

    monkeypatch.setattr(timm, "create_model", offline)
    backbone = from_timm("resnet10t", "imagenet")
    assert set(asked) == {True}
    assert "resnet10t" in backbone.weights.source
    asked.clear()
    assert from_timm("resnet10t").weights is None
    assert set(asked) == {False}


def test_architecture_and_options_rebuild_it():
    backbone = from_timm(SWIN, in_channels=1, **SMALL_SWIN)
    assert backbone.architecture == f"timm/{SWIN}"
    again = build(backbone.architecture, **json.loads(json.dumps(backbone.options)))
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in backbone.state_dict().items()
    }


def test_sizes_that_the_network_refuses_are_named():
    backbone = from_timm(SWIN, **SMALL_SWIN)
    with pytest.raises(ValueError, match=r"193x161.*multiples of 32"):
        backbone.output_sizes(193, 161)


def test_errors_say_what_to_do(monkeypatch):
    with pytest.raises(WeightsError, match=r"no pyramid.*16, 16, 16"):
        from_timm("vit_tiny_patch16_224")
    with pytest.raises(WeightsError, match=r"resnet50x.*resnet50"):
        from_timm("resnet50x")
    with pytest.raises(WeightsError, match="no_such_option"):
        from_timm("resnet10t", no_such_option=1)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match=r"pip install retinue\[timm\]"):
        from_timm("resnet10t")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm/hf-hub:evil/repo", {}),
        ("timm/local-dir:/tmp/evil", {}),
        ("timm/resnet10t", {"checkpoint_path": "/tmp/evil.pth"}),
        ("timm/resnet10t", {"pretrained_cfg_overlay": {"url": "http://192.0.2.1/x"}}),
        ("fpn", {"body": "timm/hf-hub:evil/repo"}),
        ("fpn", {"body": "timm/resnet10t", "body_options": {"checkpoint_path": "/tmp/evil.pth"}}),
    ],
)
def test_names_and_options_that_lead_elsewhere_are_refused_before_anything_is_opened(
    name, options, monkeypatch
):
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: asked.append(1))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: asked.append(2))
    with pytest.raises(WeightsError, match=r"elsewhere|no option"):
        build(name, **options)
    assert asked == []
