"""YOLOX's published detectors: their checkpoints as they are, ONNX files of them, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_bytes
import pytest
import torch
from torch import Tensor, nn

from retinue.backbones.fold import is_folded
from retinue.backbones.weights import WeightsError
from retinue.tasks.detection import published_yolox
from retinue.tasks.find import published
from retinue.tasks.task import Model

DATA = Path(__file__).parents[4] / "shared/data"
NANO = DATA / "weights/yolox_nano_coco.onnx"


def raw(model: Model, pixels: Tensor) -> Tensor:
    """What the head says, as the published networks give it: codes, and probabilities of an object and of classes."""
    task = model.named_tasks["yolox"]
    with torch.no_grad():
        said, _ = task.score(model.eval().backbone(pixels, task.levels))  # type: ignore[operator]
    return torch.cat([said.codes, said.objectness.sigmoid()[..., None], said.logits.sigmoid()], 2)


@pytest.fixture(scope="module")
def trained() -> Model:
    """A nano detector none of whose numbers is as it began."""
    torch.manual_seed(0)
    model = published_yolox.construct("yolox_nano")
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None and norm.running_var is not None
                norm.weight.uniform_(0.5, 2), norm.bias.normal_(0, 0.2)
                norm.running_mean.normal_(0, 0.2), norm.running_var.uniform_(0.2, 2)
    return model.eval()


@pytest.fixture(scope="module")
def exported(trained: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of its convolutions, the norms folded into them."""
    file = tmp_path_factory.mktemp("weights") / "nano.onnx"
    file.write_bytes(onnx_bytes.of_network(trained, published_yolox.running_order(trained)))
    return file


def test_an_onnx_file_gives_the_same_answers(trained: Model, exported: Path) -> None:
    model, facts = published_yolox.build("yolox_nano", str(exported))
    pixels = torch.rand(1, 3, 96, 128)
    torch.testing.assert_close(raw(model, pixels), raw(trained, pixels), rtol=1e-3, atol=1e-4)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(map(is_folded, norms)) and facts["imgsz"] == 416
    assert model.backbone.weights and model.backbone.weights.source == str(exported)


def their_name(key: str) -> str:
    """Of a tensor, in the published checkpoints."""
    return key.replace("backbone.body.", "backbone.backbone.").replace("tasks.yolox.head.", "head.")


@pytest.mark.parametrize("wrap", [lambda state: {"start_epoch": 300, "model": state}, lambda state: state])
def test_a_checkpoint_gives_the_same_answers(
    wrap: Callable[[object], object], trained: Model, tmp_path: Path
) -> None:
    state = {their_name(key): value for key, value in trained.state_dict().items()}
    assert {
        "backbone.backbone.stem.conv.conv.weight",
        "backbone.C3_n4.m.0.conv2.dconv.bn.bias",
    } <= state.keys()
    assert {
        "head.stems.2.bn.weight",
        "head.cls_convs.0.1.pconv.conv.weight",
        "head.obj_preds.1.bias",
    } <= state.keys()
    torch.save(wrap(state), tmp_path / "yolox.pth")
    model, _ = published_yolox.build("yolox_nano", str(tmp_path / "yolox.pth"))
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in model.state_dict().items())


def test_weights_of_another_network_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nano\.onnx: 113 convolutions, this detector has 83"):
        published_yolox.build("yolox_tiny", str(exported))
    small = published_yolox.construct("yolox_tiny")
    torch.save({their_name(k): v for k, v in small.state_dict().items()}, tmp_path / "tiny.pth")
    with pytest.raises(WeightsError, match=r"tiny\.pth: these weights are of another network"):
        published_yolox.build("yolox_nano", str(tmp_path / "tiny.pth"))
    layers = [(np.ones((1, 1, 1, 1), np.float32), None)] * 113
    (tmp_path / "ones.onnx").write_bytes(onnx_bytes.of_convolutions(layers))
    with pytest.raises(WeightsError, match=r"ones\.onnx: .* has shape"):
        published_yolox.build("yolox_nano", str(tmp_path / "ones.onnx"))
    with pytest.raises(WeightsError, match=re.escape("the published weights are ['coco', 'COCO']")):
        published_yolox.build("yolox_nano", "imagenet")


@pytest.mark.parametrize("name", published_yolox.names())
def test_every_size_is_the_published_one(name: str) -> None:
    with torch.device("meta"):
        model = published_yolox.construct(name)
    facts = published_yolox.describe(name)
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"]
    assert facts["source"].endswith(f"/{name}.pth") and facts["licence"].startswith("Apache-2.0")
    assert published()[name] is published_yolox


def test_classes_are_coco_s_80_with_their_ids() -> None:
    classes = published_yolox.construct("yolox_nano").named_tasks["yolox"].classes
    assert classes is not None and len(classes) == 80
    assert [classes.ids[i] for i in (0, 11, 12, 79)] == [1, 13, 14, 90]
    assert [classes.names[i] for i in (0, 11, 79)] == ["person", "stop sign", "toothbrush"]


@pytest.mark.skipif(not NANO.is_file(), reason="shared/data/weights/yolox_nano_coco.onnx is absent")
def test_the_published_file_as_onnxruntime_runs_it() -> None:
    runtime = pytest.importorskip("onnxruntime")
    pixels = torch.rand(1, 3, 416, 416, generator=torch.Generator().manual_seed(0))
    (expected,) = runtime.InferenceSession(str(NANO)).run(None, {"images": (pixels.flip(1) * 255).numpy()})
    model, _ = published_yolox.build("yolox_nano", str(NANO))
    np.testing.assert_allclose(raw(model, pixels).numpy(), expected, rtol=0, atol=1e-3)
