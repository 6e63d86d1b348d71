"""The published segmenters are torchvision's: same tensors in, same logits out."""

from pathlib import Path

import pytest
import torch
from canvases import pictures_of
from torch import Tensor, nn
from torchvision_segmenters import SPREAD, blots, normalised, segmenter

from retinue.backbones.weights import WeightsError
from retinue.datasets.targets import DataError
from retinue.tasks import model_file
from retinue.tasks.dense_task import DenseTask
from retinue.tasks.segmentation import published
from retinue.tasks.task import Model

HEAVY = ("fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101")
ALL = [pytest.param(n, marks=pytest.mark.slow if n in HEAVY else ()) for n in published.names()]


def pair(name: str, auxiliary: bool = True) -> tuple[nn.Module, Model]:
    network = segmenter(name, auxiliary=auxiliary)
    model = published.construct(name, auxiliary)
    published.insert(model, network.state_dict(), "here")
    return network, model.eval()


def only_task(model: Model) -> DenseTask:
    (task,) = model.named_tasks.values()
    assert isinstance(task, DenseTask)
    return task


def logits(model: Model, images: Tensor) -> Tensor:
    task = only_task(model)
    return task.maps(model.backbone(images, task.levels), pictures_of(images))


@torch.no_grad()
def compare(network: nn.Module, model: Model, images: Tensor) -> None:
    expected, found = network(normalised(images))["out"], logits(model, images)
    assert expected.std() > SPREAD / 2 and len(expected.argmax(1).unique()) > 5
    assert (found - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ALL)
def test_the_same_logits_as_torchvision(name: str) -> None:
    network, model = pair(name)
    compare(network, model, blots(2, 193, 161))
    compare(network, model, blots(1, 224, 320, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", published.names())
def test_the_same_logits_at_the_published_size(name: str) -> None:
    network, model = pair(name)
    compare(network, model, blots(2, 520, 520))
    compare(network, model, blots(1, 520, 693, seed=1))


@torch.no_grad()
@pytest.mark.parametrize(
    "name", [pytest.param("fcn_resnet50", marks=pytest.mark.slow), "deeplabv3_mobilenet_v3_large"]
)
def test_the_auxiliary_head_is_theirs_too_and_may_be_missing(name: str) -> None:
    network, model = pair(name)
    images, task = blots(1, 96, 112), only_task(model)
    features = model.backbone(images, task.levels)
    task.training = True  # of the task itself, whose layers stay in evaluation mode
    main, auxiliary = task.logits(features)
    task.training = False
    assert len(task.logits(features)) == 1
    expected = network(normalised(images))
    for own, key in ((main, "out"), (auxiliary, "aux")):
        own = nn.functional.interpolate(own, (96, 112), mode="bilinear")
        assert (own - expected[key]).abs().max() <= 1e-4 and expected[key].std() > 1
    network, model = pair(name, auxiliary=False)
    assert only_task(model).settings["auxiliary"] == 0 and len(only_task(model).levels) == 1
    compare(network, model, images)


def test_a_file_without_an_auxiliary_head_is_read(tmp_path: Path) -> None:
    name = "deeplabv3_mobilenet_v3_large"
    for auxiliary in (True, False):
        torch.save(segmenter(name, auxiliary=auxiliary).state_dict(), tmp_path / "weights.pth")
        model, facts = published.build(name, str(tmp_path / "weights.pth"))
        assert facts["imgsz"] == 520 and len(only_task(model).levels) == 1 + auxiliary
        assert model.backbone.weights is not None and model.backbone.weights.licence == "unknown"
        model_file.save(model, tmp_path / "saved.safetensors", **facts)
        again, _ = model_file.load(tmp_path / "saved.safetensors")
        images = blots(1, 64, 64)
        with torch.no_grad():
            assert torch.equal(logits(again, images), logits(model, images))


@pytest.mark.parametrize("name", published.names())
def test_what_is_said_of_them_is_so(name: str) -> None:
    with torch.device("meta"):
        model = published.construct(name)
    said = published.describe(name)
    assert said["parameters"] == sum(p.numel() for p in model.parameters())
    assert said["metric"] == "miou" and 0.5 < said["score"] < 0.7 and said["source"].endswith(".pth")
    classes = published.classes_of(name)
    assert classes.names[:2] == ("background", "aeroplane") and classes.ids == tuple(range(21))


@pytest.mark.parametrize(
    ("name", "stride", "asked"),
    [
        ("fcn_resnet50", 8, 16),
        ("deeplabv3_mobilenet_v3_large", 16, 32),
        ("lraspp_mobilenet_v3_large", 16, 32),
    ],
)
def test_a_stride_that_is_gone_is_not_asked_for_again(name: str, stride: int, asked: int) -> None:
    with torch.device("meta"):
        model = published.construct(name)
        (task,) = model.named_tasks.values()
        assert task.trunk_for(model.backbone, {"output_stride": stride}) is model.backbone
        with pytest.raises(
            DataError, match=f"output_stride={asked}: this model's backbone is dilated to {stride}; keep that"
        ):
            task.trunk_for(model.backbone, {"output_stride": asked})


def test_weights_of_another_network_are_refused() -> None:
    tensors = segmenter("lraspp_mobilenet_v3_large").state_dict()
    with pytest.raises(WeightsError, match="here: these weights are of another network"):
        published.insert(published.construct("deeplabv3_mobilenet_v3_large"), tensors, "here")
    tensors = segmenter("lraspp_mobilenet_v3_large", classes=5).state_dict()
    with pytest.raises(WeightsError, match=r"low_classifier.weight has shape \(5, 40, 1, 1\)"):
        published.insert(published.construct("lraspp_mobilenet_v3_large"), tensors, "here")
