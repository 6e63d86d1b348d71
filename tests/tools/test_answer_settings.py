"""Settings of the answer alone: evaluation and prediction take other ones than the model was saved with."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectors import small

from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import DataError
from retinue.tasks import model_file
from retinue.tasks.detection.overfeat import OverFeat
from retinue.tools import command
from retinue.tools.evaluate import evaluate
from retinue.tools.open_model import open_model
from retinue.tools.predict import predict

SIDE = 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    model = small(OverFeat, Scenes.classes, score_threshold=0.0)
    model_file.save(model.eval(), tmp_path / "m.safetensors", imgsz=SIDE, batch=2)
    return tmp_path / "m.safetensors"


def test_the_weights_stay_and_other_settings_too(path: Path) -> None:
    plain, _, _ = open_model(str(path), None, "cpu")
    other, _, _ = open_model(str(path), None, "cpu", {"merge": False, "nms_iou": 0.25})
    one, two = plain.named_tasks["it"], other.named_tasks["it"]
    assert two.settings == one.settings | {"merge": False, "nms_iou": 0.25} and one.settings["merge"]
    assert not other.training
    for name, value in plain.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_the_command_is_judged_and_answers_by_them(
    path: Path, tmp_path: Path, paint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data=scenes:2", "workers=0", "device=cpu", f"plots={tmp_path / 'plots'}"]
    assert command.main(["eval", str(path), *words, "score-threshold=1", "regress=false"]) == 0
    printed = capsys.readouterr().out
    assert "score_threshold=1.0 regress=False" in printed and "box/AR100" in printed
    options = {"data": "scenes:2", "workers": 0, "device": "cpu", "plots": str(tmp_path / "plots")}
    assert evaluate(str(path), **options)["box/AR100"] > 0
    assert evaluate(str(path), **options, score_threshold=1.0)["box/AR100"] == 0  # nothing is as sure
    picture = paint(tmp_path / "a.png")
    ((_, one),) = predict(str(path), picture, device="cpu", conf=0.0, detections=1)
    ((_, all),) = predict(str(path), picture, device="cpu", conf=0.0)
    assert len(one["it"]) == 1 < len(all["it"])


def test_what_is_no_setting_of_the_answer_is_named(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*words: str) -> str:
        assert command.main(["eval", *words]) == 2
        return capsys.readouterr().err

    assert "did you mean nms_iou" in error(str(path), "nms_io=0.5")
    assert "eval has no option 'window'" in error(str(path), "window=32")
    assert "nms_iou=2.0: nms_iou is from 0 to 1" in error(str(path), "nms_iou=2", "data=scenes:1")
    assert "judged as they are" in error("predictions=x.json", "nms_iou=0.5")
    with pytest.raises(DataError, match="flip: no settings of it; those of its answer are candidates, detec"):
        open_model(str(path), None, "cpu", {"flip": False})
