"""Weights: what is published, fetched once and checked by its hash; and how they get into a backbone."""

import functools
import hashlib
import http.server
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from retinue.backbones import weights as weights_module
from retinue.backbones.backbone import Origin, Preprocessing
from retinue.backbones.resnet import resnet18
from retinue.backbones.weights import WeightsError, fetch, published


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


@pytest.fixture(scope="module")
def site(tmp_path_factory, state):
    """(folder, address) of a file server that holds the state as `resnet18-<hash>.pth` and as `plain.pth`."""
    folder = tmp_path_factory.mktemp("site")
    torch.save(state, folder / "plain.pth")
    digest = hashlib.sha256((folder / "plain.pth").read_bytes()).hexdigest()[:8]
    (folder / f"resnet18-{digest}.pth").write_bytes((folder / "plain.pth").read_bytes())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def hashed(site):
    folder, address = site
    return f"{address}/{next(folder.glob('resnet18-*.pth')).name}"


@pytest.fixture
def saved(state, tmp_path):
    """Saves a changed copy of the state and returns the file's path."""

    def save(change=None, name="file.pth"):
        content = {key: value.clone() for key, value in state.items()}
        content = change(content) or content if change else content
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return save


# What is published


def test_published_resnet50_is_torchvisions():
    found = published("resnet50")
    assert list(found) == ["IMAGENET1K_V2", "IMAGENET1K_V1"]  # the default first
    v1, v2 = found["IMAGENET1K_V1"], found["IMAGENET1K_V2"]
    assert (v1.sha256, v1.top1, v1.parameters) == ("0676ba61", 76.13, 25_557_032)
    assert (v1.preprocessing.resize, v1.preprocessing.crop) == (256, 224)
    assert v2.preprocessing == Preprocessing(resize=232)
    assert len(v1.categories) == 1000 and v1.categories[0] == "tench"
    assert "BSD-3" in v1.licence and "research" in v1.licence


def test_published_quirks():
    assert published("googlenet")["IMAGENET1K_V1"].preprocessing.mean == (0.5, 0.5, 0.5)
    assert published("googlenet")["IMAGENET1K_V1"].preprocessing.std == (0.5, 0.5, 0.5)
    features = published("vgg16")["IMAGENET1K_FEATURES"]
    assert features.top1 is None and features.categories == ()
    assert published("efficientnet_b0")["IMAGENET1K_V1"].preprocessing.interpolation == "bicubic"
    assert published("seresnet50") == {}


@pytest.mark.parametrize(
    "name", ["alexnet", "vgg16", "resnet18", "mobilenet_v2", "squeezenet1_1", "convnext_tiny"]
)
def test_every_published_file_carries_its_hash(name):
    assert published(name)
    for found in published(name).values():
        assert found.sha256 in found.url and len(found.sha256) >= 8


# Fetching


def test_a_file_is_fetched_once_and_shared_with_torch_hub(hashed, site, hub):
    path = fetch(hashed)
    assert path.parent == hub and path.name == hashed.rsplit("/", 1)[1]
    assert path.read_bytes() == (site[0] / path.name).read_bytes()
    assert [p.name for p in hub.iterdir()] == [path.name]  # nothing half-written beside it
    before = path.stat().st_mtime_ns
    assert fetch(hashed) == path and path.stat().st_mtime_ns == before


def test_a_flipped_byte_in_the_cache_is_refused(hashed):
    path = fetch(hashed)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    actual = hashlib.sha256(content).hexdigest()[:8]
    expected = path.stem.rsplit("-", 1)[1]
    with pytest.raises(WeightsError) as error:
        fetch(hashed)
    for word in (str(path), expected, actual, "delete"):
        assert word in str(error.value)
    path.unlink()
    assert fetch(hashed) == path


def test_another_file_than_the_name_says_is_not_kept(site, hub):
    folder, address = site
    (folder / "resnet18-00000000.pth").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="00000000"):
        fetch(f"{address}/resnet18-00000000.pth")
    (folder / "resnet18-00000000.pth").unlink()
    assert list(hub.iterdir()) == []


def test_a_given_hash_is_compared(site):
    folder, address = site
    right = hashlib.sha256((folder / "plain.pth").read_bytes()).hexdigest()
    assert fetch(f"{address}/plain.pth", right).is_file()
    with pytest.raises(WeightsError, match="sha256"):
        fetch(f"{address}/plain.pth", "0" * 64)


def test_files_of_one_name_from_two_places_stay_apart(site):
    folder, address = site
    (folder / "other").mkdir(exist_ok=True)
    (folder / "other" / "plain.pth").write_bytes(b"other")
    assert fetch(f"{address}/other/plain.pth").read_bytes() == b"other"
    assert fetch(f"{address}/plain.pth").read_bytes() == (folder / "plain.pth").read_bytes()


def test_no_connection_names_the_address_and_the_way_out(site, hub):
    address = site[1]
    for url in (f"{address}/missing-12345678.pth", "http://127.0.0.1:9/none-12345678.pth"):
        with pytest.raises(WeightsError) as error:
            fetch(url)
        assert url in str(error.value) and "path" in str(error.value)
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a.example/b.pth", "http://a.example/", "s3://a/b"]
)
def test_only_files_on_the_web_are_fetched(url):
    with pytest.raises(WeightsError, match="http"):
        fetch(url)


def test_a_date_in_a_name_is_no_hash(site):
    (site[0] / "epoch-20261120.pth").write_bytes(b"mine")
    assert fetch(f"{site[1]}/epoch-20261120.pth").read_bytes() == b"mine"


# Loading


def same(backbone, state, skip=()):
    own = backbone.state_dict()
    return all(torch.equal(own[key], value) for key, value in state.items() if key not in skip)


def test_published_names_load_with_all_that_is_known(hashed, state, monkeypatch):
    true = published("resnet18")["IMAGENET1K_V1"]
    served = replace(true, url=hashed, sha256=None, preprocessing=Preprocessing(resize=300))
    monkeypatch.setattr(weights_module, "published", lambda _: {"IMAGENET1K_V1": served})
    for source in ("imagenet", "IMAGENET1K_V1", "imagenet1k_v1", hashed):
        backbone = resnet18(source)
        assert same(backbone, state)
        assert backbone.preprocessing.resize == 300
        assert backbone.weights == Origin(hashed, true.licence, 69.758)
        assert backbone.categories[0] == "tench" and len(backbone.categories) == 1000


def test_nothing_is_loaded_unasked():
    backbone = resnet18()
    assert backbone.weights is None and backbone.categories == ()


def test_an_unknown_name_is_met_with_the_right_ones():
    with pytest.raises(WeightsError, match=r"did you mean IMAGENET1K_V1\?.*'imagenet'"):
        resnet18("IMAGENET_V1")
    with pytest.raises(WeightsError, match=r"none\.pth"):
        resnet18("none.pth")


def test_a_local_file_and_a_plain_url_load(saved, site, state):
    path = saved()
    for source in (path, f"{site[1]}/plain.pth"):
        backbone = resnet18(source)
        assert same(backbone, state)
        assert backbone.weights == Origin(source)
        assert len(backbone.categories) == 1000
    assert backbone.preprocessing.mean == (0.485, 0.456, 0.406)


def test_a_local_copy_of_a_published_file_is_verified(saved):
    with pytest.raises(WeightsError, match="f37072fd"):
        resnet18(saved(name="resnet18-f37072fd.pth"))


def test_a_published_file_is_known_by_its_content_under_any_name(saved, site, monkeypatch):
    path = saved(name="mine.pth")
    true = published("resnet18")["IMAGENET1K_V1"]
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8]
    choice = {
        "IMAGENET1K_V2": replace(true, name="IMAGENET1K_V2", url="https://a.example/other-f37072fd.pth"),
        "IMAGENET1K_V1": replace(true, sha256=digest, preprocessing=Preprocessing(resize=300)),
    }
    monkeypatch.setattr(weights_module, "published", lambda _: choice)
    (site[0] / "mirror.pth").write_bytes(Path(path).read_bytes())
    for source in (path, f"{site[1]}/mirror.pth"):
        backbone = resnet18(source)
        assert backbone.preprocessing.resize == 300
        assert backbone.weights == Origin(true.url, true.licence, 69.758)
    assert resnet18(saved(lambda s: {**s, "fc.bias": s["fc.bias"] + 1})).weights.licence != true.licence


def test_our_own_saved_models_load(state, tmp_path):
    model = {f"backbone.{key}": value for key, value in state.items() if not key.startswith("fc.")}
    safetensors.torch.save_file({**model, "tasks.a.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    backbone = resnet18(str(tmp_path / "model.safetensors"), classes=4)
    assert same(backbone, state, skip=("fc.weight", "fc.bias"))
    assert backbone.categories == ()


def test_half_precision_is_cast_up(saved, state):
    backbone = resnet18(
        saved(lambda s: {key: v.half() if v.is_floating_point() else v for key, v in s.items()})
    )
    assert backbone.conv1.weight.dtype == torch.float32
    assert torch.equal(backbone.conv1.weight, state["conv1.weight"].half().float())


def test_batch_counters_may_be_absent(saved, state):
    path = saved(lambda s: {key: value for key, value in s.items() if "num_batches" not in key})
    assert same(resnet18(path), {k: v for k, v in state.items() if "num_batches" not in k})


def test_the_first_convolution_reads_other_channels(saved, state):
    path, weight = saved(), state["conv1.weight"]
    grey = resnet18(path, in_channels=1).conv1.weight
    torch.testing.assert_close(grey, weight[:, :1] + weight[:, 1:2] + weight[:, 2:])
    five = resnet18(path, in_channels=5).conv1.weight
    torch.testing.assert_close(five, weight[:, [0, 1, 2, 0, 1]] * 0.6)
    assert resnet18(path, in_channels=1).preprocessing.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))


def test_weights_of_the_same_channels_are_left_alone(saved):
    grey = torch.randn(64, 1, 7, 7)
    backbone = resnet18(saved(lambda s: {**s, "conv1.weight": grey}), in_channels=1)
    assert torch.equal(backbone.conv1.weight, grey)


def test_a_file_without_a_classifier_leaves_it_random(saved, state):
    path = saved(lambda s: {key: value for key, value in s.items() if not key.startswith("fc.")})
    backbone = resnet18(path, classes=7)
    assert same(backbone, state, skip=("fc.weight", "fc.bias")) and backbone.fc.weight.isfinite().all()
    assert backbone.categories == ()


def test_a_classifier_of_nan_is_none(saved, state):
    backbone = resnet18(saved(lambda s: {**s, "fc.weight": s["fc.weight"] * torch.nan}))
    assert backbone.fc.weight.isfinite().all() and not torch.equal(backbone.fc.bias, state["fc.bias"])
    assert backbone.categories == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {**s, "fc.bias": torch.zeros(10)}, ["fc.bias", "(10,)", "(1000,)"]),
        (lambda s: {k: v for k, v in s.items() if k != "fc.bias"}, ["fc.bias", "1 keys are missing"]),
        (lambda s: {**s, "conv1.weight": torch.zeros(64, 4, 7, 7)}, ["conv1.weight", "(64, 4, 7, 7)"]),
        (
            lambda s: {k: v for k, v in s.items() if "layer4" not in k},
            ["25 keys are missing", "layer4.0.conv1"],
        ),
        (lambda s: {**s, "layer5.0.weight": torch.zeros(1)}, ["1 are unexpected", "layer5.0.weight"]),
        (lambda s: {**s, "bn1.bias": torch.full((64,), torch.nan)}, ["bn1.bias", "NaN"]),
    ],
)
def test_misfits_are_named_and_change_nothing(change, words, saved):
    backbone = resnet18()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    path = saved(change)
    with pytest.raises(WeightsError) as error:
        weights_module.load(backbone, "resnet18", path, {})
    for word in (path, *words):
        assert word in str(error.value)
    assert same(backbone, before)


def test_another_number_of_classes_names_both_and_the_remedy(saved):
    with pytest.raises(WeightsError, match=r"fc.weight has shape \(1000, 512\).*needs \(2, 512\).*classes"):
        resnet18(saved(), classes=2)


def test_a_chopped_backbone_takes_only_the_trunk(saved, state):
    backbone = resnet18()
    backbone.chop()
    weights_module.load(backbone, "resnet18", saved(), {})
    assert torch.equal(backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert backbone.categories == ()
