"""`retinue predict CLASSIFIER photo.jpg heatmap=CLASS`: drawn, said, and refused where it makes no sense."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from retinue.backbones import build
from retinue.datasets.targets import ClassMap
from retinue.tasks import model_file
from retinue.tasks.classification import Classifier
from retinue.tasks.segmentation.encoder_decoder import EncoderDecoder
from retinue.tasks.task import Model
from retinue.tools.command import main
from retinue.tools.predict import predict

CLASSES = ClassMap(("ant", "bee"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    backbone = build("lenet5")
    model_file.save(
        Model(backbone, {"classification": Classifier(backbone, CLASSES)}),
        tmp_path / "a.safetensors",
        imgsz=32,
    )
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((200, 40, 3), 99, np.uint8))
    return tmp_path


def test_pictures_of_other_sizes_in_one_batch(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "predict",
        str(saved / "a.safetensors"),
        str(saved / "a.png"),
        str(saved / "b.png"),
        "heatmap=bee",
    ]
    assert main([*command, f"project={saved}/out", "name=it"]) == 0
    assert "bee: at most" in capsys.readouterr().out
    for name, shape in (("a", (60, 90, 3)), ("b", (200, 40, 3))):
        drawn = cv2.imread(str(saved / f"out/it/{name}.png"))
        assert drawn.shape == shape and (drawn != cv2.imread(str(saved / f"{name}.png"))).any()
    first, second = json.loads((saved / "out/it/results.json").read_text())["results"]
    assert first["heat_map"]["label"] == second["heat_map"]["label"] == "bee"
    rows, columns = np.shape(first["heat_map"]["probabilities"])
    assert (rows, columns) == (17, 29)  # windows of 32 pixels every 4 of 96 x 144


def test_from_python(saved: Path) -> None:
    ((path, results),) = predict(str(saved / "a.safetensors"), saved / "a.png", heatmap="top")
    assert path == saved / "a.png" and results["heat_map"].label in CLASSES.names


@pytest.mark.parametrize(
    ("asked", "said"), [("be", "did you mean bee"), ("bee", "is for a classifier alone")]
)
def test_what_cannot_be_is_said(
    saved: Path, asked: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved / "a.safetensors"
    if asked == "bee":
        backbone = build("shufflenet_v2_x0_5")
        model_file.save(Model(backbone, {"it": EncoderDecoder(backbone, CLASSES)}), model, imgsz=32)
    assert main(["predict", str(model), str(saved / "a.png"), f"heatmap={asked}"]) == 2
    assert said in capsys.readouterr().err
