"""Detectors through the engine: the numbers of training are eval's, resumed is straight, negatives are learned from."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from retinue.tasks import model_file
from retinue.tools import evaluate as evaluation
from retinue.tools import loop, run_folder, train
from retinue.tools.evaluate import evaluate
from retinue.tools.run_folder import finite

SMALL: dict[str, Any] = {
    "backbone": "resnet18", "imgsz": 48, "batch": 3, "epochs": 2, "workers": 0, "warmup": 0, "lr": "0.001",
    "optimizer": "adamw", "precision": "fp32", "pyramid_channels": 8, "sampled": 16, "proposals": (40, 20),
    "scales": (0.7, 1.2), "colour": 0.2,
}  # fmt: skip
SHAPES = [(60, 80), (80, 60), (64, 64), (50, 100), (100, 50), (72, 64)]


def spheres(i: int, shape: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Any:
    return (*shape, list(boxes or [(4 + i, 6, 30 + i, 34), (10, 30 + i, 36, 44 + i)]))


@pytest.fixture(scope="module")
def data(paint_boxes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of many shapes to train on, one of them without an object, and four to judge."""
    pictures = [spheres(i, shape) for i, shape in enumerate(SHAPES)]
    pictures[2] = (64, 64, [])
    return paint_boxes(tmp_path_factory.mktemp("boxes"), train=pictures, val=pictures[:4])


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves are tested elsewhere."""
    monkeypatch.setattr(evaluation, "draw_plots", lambda *_: None)
    monkeypatch.setattr(run_folder, "plot_results", lambda *_: None)


def run(data: Path, project: Path, **settings: Any) -> Path:
    return train.train("faster_rcnn", **{**SMALL, "data": str(data), "project": str(project), **settings})


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(data, tmp_path_factory.mktemp("runs"))


def test_eval_gives_the_numbers_that_training_printed(straight: Path, data: Path) -> None:
    weights = straight / "weights/last.safetensors"
    for workers in (0, 1):
        values = evaluate(str(weights), data=str(data), workers=workers)
        assert finite(values) == model_file.read_header(weights)["metrics"]
    assert list(values)[:3] == ["box/AP", "box/AP50", "box/AP75"] and "box/AP/sphere" in values
    columns = table(straight)[0].keys()
    assert {"train/objectness", "train/box", "lr/head", "lr/backbone", "box/AP", "box/ARl"} < columns
    assert "box/AP/sphere" not in columns
    said = (straight / "train.log").read_text()
    assert "box/AP50 0." in said and said.count("no ground truth of the classes thing") == 1


def test_resume_equals_a_straight_run(
    straight: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = loop.descend, []

    def fails_in_the_middle(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:  # in the second of two epochs of two steps
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "descend", fails_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, name="broken", save_minutes=0.0)
    monkeypatch.setattr(loop, "descend", real)
    resumed = train.train(resume=str(tmp_path / "faster_rcnn/broken"))
    for name in ("weights/last.safetensors", "weights/best.safetensors", "results.csv"):
        assert (straight / name).read_bytes() == (resumed / name).read_bytes(), name


def test_pictures_without_objects_are_learned_from(paint_boxes: Any, tmp_path: Path) -> None:
    nothing = [(64, 48, [])] * 3
    some = [*nothing, spheres(0, (64, 48))]  # data without any object at all are refused
    data = paint_boxes(tmp_path, train=some, val=nothing)
    folder = run(data, tmp_path, batch=1, epochs=1)
    (row,) = table(folder)
    assert all(torch.tensor(float(row[k])).isfinite() for k in row if k.startswith("train/"))
    assert row["box/AP"] == "nan" and "n/a" in (folder / "train.log").read_text()
    assert (folder / "weights/best.safetensors").is_file()


def test_a_detector_goes_on_with_other_classes(
    straight: Path, paint_boxes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = paint_boxes(tmp_path, train=[spheres(0, (64, 64))] * 3, val=[spheres(0, (64, 64))])
    for split in ("train", "val"):
        file = data / f"annotations/instances_{split}.json"
        file.write_text(file.read_text().replace('"thing"', '"ring"').replace('"sphere"', '"ball"'))
    new = run(data, tmp_path, model=str(straight), epochs=1, lr="0", backbone_lr=0.0, frozen_norm=True)
    assert "new last layers for other classes" in capsys.readouterr().out
    before, after = (model_file.load(path / "weights/best.safetensors")[0] for path in (straight, new))
    assert after.named_tasks["faster_rcnn"].classes.names == ("ball", "ring")  # type: ignore[union-attr]
    old = before.state_dict()
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, old[name])}
    assert changed and all("box_predictor" in name for name in changed)


@pytest.mark.slow
def test_two_processes_of_which_one_sees_no_object(paint_boxes: Any, tmp_path: Path) -> None:
    pictures = [spheres(i, (64, 64)) if i % 2 else (64, 64, []) for i in range(6)]
    data = paint_boxes(tmp_path, train=pictures, val=pictures)
    settings = {**SMALL, "batch": 2, "data": data, "project": tmp_path, "name": "two", "device": "cpu"}
    words = [f"{k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in settings.items()]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "retinue.tools.train", "faster_rcnn", *words],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    weights = tmp_path / "faster_rcnn/two/weights/last.safetensors"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        values = evaluate(str(weights), data=str(data), workers=0)
    finally:
        torch.set_num_threads(threads)
    assert finite(values) == model_file.read_header(weights)["metrics"]
