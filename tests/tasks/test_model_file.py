"""Saved models: what the header brings back beside the weights."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from retinue.backbones import build
from retinue.backbones.backbone import Backbone, Origin, Preprocessing
from retinue.backbones.fpn import FPN
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks import model_file
from retinue.tasks.classification import Classifier
from retinue.tasks.task import Model

CLASSES = ClassMap(("blue", "red"))
ORIGIN = Origin("https://example.org/a-12345678.pth", "CC-BY-NC-4.0", 71.5)


def a_model(backbone: Backbone) -> Model:
    return Model(backbone, {"classification": Classifier(backbone, CLASSES)})


def test_licence_and_preprocessing_survive_any_number_of_saves(tmp_path: Path) -> None:
    backbone = build("lenet5")
    backbone.weights = ORIGIN
    backbone.prepare_for(Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), order="BGR", pad=(0.7, 0.8, 0.9)))
    path, model = tmp_path / "a.safetensors", a_model(backbone)
    for _ in range(2):
        model_file.save(model, path)
        model, header = model_file.load(path)
        assert header["backbone"]["weights"] == dataclasses.asdict(ORIGIN)
        assert model.backbone.weights == ORIGIN
        assert model.backbone.preprocessing == backbone.preprocessing


def test_a_header_of_before_with_one_number_of_padding_is_read() -> None:
    header = model_file.header(a_model(build("lenet5")))
    header["backbone"]["preprocessing"]["pad"] = 0.0
    del header["backbone"]["new_top"]
    channels = len(header["backbone"]["preprocessing"]["mean"])
    assert model_file.construct(header).backbone.preprocessing.pad == (0.0,) * channels


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": 3},
        {"weights": {"source": "x"}},
        {"weights": {"source": 1, "licence": "x"}},
        {"weights": {"source": "x", "licence": "x", "run": "y"}},
        {"architecture": "timm/hf-hub:evil/repo"},
        {"architecture": "timm/resnet10t", "options": {"checkpoint_path": "/tmp/evil.pth"}},
        {"architecture": "fpn", "options": {"body": "timm/local-dir:/tmp/evil"}},
    ],
)
def test_hostile_backbones_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    model = a_model(build("lenet5"))
    header = model_file.header(model, imgsz=32)
    header["backbone"] |= changes
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(save(model.state_dict(), {"retinue": json.dumps(header)}))
    with pytest.raises(DataError, match="hostile"):
        model_file.load(path)


@pytest.mark.parametrize("name", ["lenet5", "alexnet", "convnext_tiny", "mobilenet_v3_small", "fpn"])
def test_loading_gives_the_same_model(name: str, tmp_path: Path) -> None:
    backbone = FPN(build("resnet18")) if name == "fpn" else build(name)
    model, path = a_model(backbone).eval(), tmp_path / "a.safetensors"
    model_file.save(model, path)
    again, _ = model_file.load(path)
    state, buffers = again.state_dict(), dict(again.named_buffers())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert buffers.keys() == dict(model.named_buffers()).keys()
    assert all(torch.equal(buffers[key], value) for key, value in model.named_buffers())
