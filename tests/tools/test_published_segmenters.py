"""Published segmenters by name: predicted with, fine-tuned on other classes, judged and listed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import segmentation as theirs
from torchvision_segmenters import blots, normalised, segmenter

from retinue.datasets.targets import DataError
from retinue.tasks import model_file
from retinue.tasks.segmentation import published
from retinue.tasks.segmentation.segmenter import Segmenter
from retinue.tools import command
from retinue.tools.open_model import open_model

LRASPP, DEEPLAB = "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"
SMALL = ["imgsz=64", "epochs=1", "batch=2", "workers=0", "device=cpu", "warmup=0", "data=scenes:4"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of files NAME.pth."""
    folder = tmp_path_factory.mktemp("weights")
    for name in (LRASPP, DEEPLAB):
        torch.save(segmenter(name).state_dict(), folder / f"{name}.pth")
    return folder


def test_predict_by_name_is_torchvisions_answer(weights: Path, tmp_path: Path, no_network: list[str]) -> None:
    """Of a picture that already has the published size."""
    pixels = (blots(1, 520, 640, seed=1)[0] * 255).byte()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    words = [LRASPP, str(tmp_path / "photo.png"), f"weights={weights / LRASPP}.pth", f"project={tmp_path}"]
    assert command.main(["predict", *words, "device=cpu", "precision=fp32"]) == 0
    assert no_network == []
    found = np.array(Image.open(tmp_path / LRASPP / "photo-labels.png"))
    with torch.no_grad():
        expected = segmenter(LRASPP)(normalised(pixels[None] / 255))["out"].argmax(1)[0].numpy()
    assert len(np.unique(expected)) > 5 and (found == expected).mean() > 0.9999
    (record,) = json.loads((tmp_path / LRASPP / "results.json").read_text())["results"]
    names = theirs.LRASPP_MobileNet_V3_Large_Weights.DEFAULT.meta["categories"]
    largest = np.bincount(expected.ravel(), minlength=21).argmax()
    assert next(iter(record["lraspp"]["shares"])) == names[largest].strip("_")


@pytest.mark.parametrize(
    ("task", "name"),
    [pytest.param("lraspp", LRASPP, marks=pytest.mark.slow), ("deeplabv3", DEEPLAB)],
)
def test_fine_tuned_on_other_classes_with_one_option(
    task: str, name: str, weights: Path, tmp_path: Path, capsys: Any
) -> None:
    words = [task, f"model={name}", f"weights={weights / name}.pth", f"project={tmp_path}"]
    assert command.main(["train", *words, *SMALL]) == 0
    assert "new last layers for other classes" in capsys.readouterr().out
    run = tmp_path / task / "mobilenet_v3_large"
    model, header, _ = open_model(str(run), None, "cpu")
    (tuned,) = model.named_tasks.values()
    assert isinstance(tuned, Segmenter)
    assert tuned.classes.names == ("background", "sphere", "box", "cylinder", "cone")
    assert header["imgsz"] == 64 and model.backbone.options["dilated"]
    if task == "deeplabv3":  # what the published one is made of, its auxiliary head included
        assert tuned.levels == ("block4", "c5") and tuned.settings["rates"] == [12, 24, 36]
        shapes = {key: value.shape for key, value in tuned.state_dict().items()}
        assert shapes["aux_classifier.4.weight"][0] == shapes["classifier.4.weight"][0] == 5
        assert "auxiliary" in (run / "train.log").read_text()
    assert command.main(["eval", str(run), "data=scenes:4", "workers=0", "json=-"]) == 0
    values = json.loads(capsys.readouterr().out)
    np.testing.assert_equal(values, model_file.read_header(run / "weights/best.safetensors")["metrics"])


@pytest.mark.slow
def test_the_largest_of_a_kind_is_fine_tuned_likewise(tmp_path: Path, capsys: Any) -> None:
    torch.save(segmenter("fcn_resnet50").state_dict(), tmp_path / "fcn.pth")
    words = ["dilated_fcn", "model=fcn_resnet50", f"weights={tmp_path / 'fcn.pth'}", f"project={tmp_path}"]
    assert command.main(["train", *words, *SMALL]) == 0
    assert "new: ['classifier.4', 'aux_classifier.4']" in capsys.readouterr().out


def test_names_near_by_are_meant_and_weights_of_another_are_refused(weights: Path) -> None:
    with pytest.raises(DataError, match="did you mean fcn_resnet50"):
        open_model("fcn_resnet_50", None, "cpu")
    for name, source, message in (
        (DEEPLAB, str(weights / f"{LRASPP}.pth"), "these weights are of another network"),
        (LRASPP, "COCO_V1", r"no weights 'COCO_V1' for lraspp.*did you mean COCO_WITH_VOC_LABELS_V1"),
    ):
        with pytest.raises(ValueError, match=message):
            open_model(name, source, "cpu")


def test_they_are_listed(capsys: Any) -> None:
    assert command.main(["list", "models"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in published.names()) and len(published.names()) == 6
