"""Weights whose batch norms were folded away: training begins with statistics, and with the same answers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from retinue.backbones import build
from retinue.backbones.fold import folded_norm, is_folded
from retinue.datasets.targets import ClassMap
from retinue.tasks import model_file
from retinue.tasks.classification.classification import Classifier
from retinue.tasks.task import Model
from retinue.tools.train import train

NAMES = ("blue", "red")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier all of whose norms are folded."""
    torch.manual_seed(0)
    backbone = build("mobilenet_v3_small")
    model = Model(backbone, {"classification": Classifier(backbone, ClassMap(NAMES, NAMES))})
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.load_state_dict(folded_norm(norm, 0.1 * torch.randn(norm.num_features)), strict=False)
    path = tmp_path_factory.mktemp("models") / "exported.safetensors"
    model_file.save(model, path, imgsz=32, batch=4)
    return path


def test_training_begins_with_statistics_and_the_same_answers(
    exported: Path, paint_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = paint_folder(tmp_path / "data", train={"blue": 3, "red": 3}, val={"blue": 1, "red": 1})
    how = {"data": str(data), "imgsz": 32, "batch": 3, "workers": 0, "device": "cpu", "seed": 1, "epochs": 1}
    still = {"lr": "0", "backbone_lr": 0.0, "frozen_norm": True, "project": str(tmp_path / "runs")}
    runs = [train("classification", model=str(exported), name=n, **how, **still) for n in ("a", "b")]
    log = (runs[0] / "train.log").read_text()
    assert "34 batch norms were folded into these weights; they have statistics again, of 6 training" in log
    before = model_file.load(exported)[0].eval()
    first, second = (model_file.load(run / "weights/last.safetensors")[0].eval() for run in runs)
    assert not any(is_folded(module) for module in first.modules())
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        maps, expected = first.backbone(x), before.backbone(x)
    for level, value in expected.items():
        torch.testing.assert_close(maps[level], value, rtol=1e-3, atol=1e-4)
    again = train("classification", model=str(runs[0]), name="c", **how, **still)
    assert "folded" not in (again / "train.log").read_text()
