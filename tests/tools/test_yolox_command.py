"""YOLOX by name on the command line: pictures answered, and other classes learnt from an exported file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_bytes
import pytest
import torch
from PIL import Image

from retinue.backbones.fold import is_folded
from retinue.tasks.detection import published_yolox
from retinue.tools import command
from retinue.tools.open_model import open_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano detector with random weights that expects an object everywhere."""
    torch.manual_seed(0)
    model = published_yolox.construct("yolox_nano").eval()
    file = tmp_path_factory.mktemp("weights") / "nano.onnx"
    file.write_bytes(onnx_bytes.of_network(model, published_yolox.running_order(model), more=6))
    return file


def test_a_picture_is_answered_by_name(exported: Path, tmp_path: Path, no_network: list[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    words = ["predict", "yolox_nano", str(tmp_path / "photo.png"), f"weights={exported}", "device=cpu"]
    assert command.main([*words, f"project={tmp_path / 'runs'}", "conf=0.1"]) == 0 and no_network == []
    folder = tmp_path / "runs/yolox_nano"
    assert (folder / "photo.png").is_file()
    (record,) = json.loads((folder / "results.json").read_text())["results"]
    found = record["yolox"]
    assert len(found["boxes"]) > 0 and set(found["label_ids"]) <= set(range(1, 91))
    boxes = np.array(found["boxes"])
    assert (boxes >= 0).all() and (boxes <= [120, 90, 120, 90]).all()


def test_other_classes_are_learnt_from_it_and_the_run_goes_on(
    exported: Path, paint_boxes: Any, tmp_path: Path, capsys: Any
) -> None:
    pictures = [(60, 80, [(4, 6, 30, 34), (40, 10, 70, 50)]), (64, 64, []), (50, 70, [(10, 10, 40, 44)])]
    data = paint_boxes(tmp_path / "data", train=pictures, val=pictures[::2])
    words = [f"data={data}", f"project={tmp_path / 'runs'}", "workers=0", "device=cpu", "batch=2"]
    words += ["imgsz=64", "epochs=2", "close_mosaic=1", "mixup=0.5", "eval_every=2"]
    assert command.main(["train", "yolox", "model=yolox_nano", f"weights={exported}", *words]) == 0
    said = capsys.readouterr().out
    assert "new last layers for other classes" in said and "batch norms were folded" in said
    run = tmp_path / "runs/yolox/csp_darknet_nano"
    first, second = (run / "results.csv").read_text().splitlines()[1:3]
    header = (run / "results.csv").read_text().splitlines()[0].split(",")
    column = header.index("train/l1")
    assert first.split(",")[column] in ("", "nan") and float(second.split(",")[column]) > 0
    model, facts, _ = open_model(str(run), None, "cpu")
    assert not any(is_folded(module) for module in model.modules()) and facts["imgsz"] == 64
    (task,) = model.named_tasks.values()
    assert task.classes is not None and task.classes.names == ("sphere", "thing")
    assert command.main(["train", f"resume={run}"]) == 0
