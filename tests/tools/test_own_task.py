"""A task of a user's own on boxes: found by its path, trained, resumed, shared out, published and judged."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

import retinue.tasks
from retinue.datasets.targets import DataError
from retinue.tasks import model_file
from retinue.tools import command, loop, train
from retinue.tools.evaluate import evaluate
from retinue.tools.open_model import open_model
from retinue.tools.run_folder import finite

OWN = Path(__file__).parent / "own_tasks"
SMALL: dict[str, Any] = {
    "backbone": "resnet18", "imgsz": 48, "batch": 4, "epochs": 2, "workers": 0, "warmup": 0,
}  # fmt: skip
SHAPES = [(40, 60), (60, 40), (30, 90), (50, 50), (90, 30), (45, 60), (60, 45), (40, 44), (64, 40)]


@pytest.fixture(scope="module", autouse=True)
def own_tasks() -> Iterator[None]:
    """The tasks of `own_tasks` are among retinue's."""
    retinue.tasks.__path__.append(str(OWN))
    yield
    retinue.tasks.__path__.remove(str(OWN))


@pytest.fixture(scope="module")
def data(paint_boxes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures of many shapes to train on, every third without an object, and six to judge."""
    pictures = [
        (h, w, [(5 + i, 4, 25 + i, 24)] if i % 3 else [])
        for i, (h, w) in enumerate(SHAPES)
    ]  # fmt: skip
    return paint_boxes(tmp_path_factory.mktemp("boxes"), train=pictures, val=pictures[:6])


def run(data: Path, project: Path, **settings: Any) -> Path:
    return train.train("one_box", **{**SMALL, "data": str(data), "project": str(project), **settings})


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(data, tmp_path_factory.mktemp("runs"))


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


def test_it_is_trained_and_says_what_it_shows(finished: Path) -> None:
    rows = table(finished)
    assert {"train/box", "box/off", "box/small"} < rows[0].keys() and "box/off/sphere" not in rows[0]
    said = (finished / "train.log").read_text()
    assert "box/small n/a" in said and said.count("box/small is n/a: no small box") == 1
    assert "read ['area', 'box_labels', 'boxes']" in said
    assert (finished / "first_batch.jpg").is_file() and (finished / "val_predictions.jpg").is_file()


def test_eval_gives_the_numbers_that_training_printed(finished: Path, data: Path, capsys: Any) -> None:
    weights = finished / "weights/last.safetensors"
    values = evaluate(str(weights), data=str(data), workers=0)
    assert finite(values) == model_file.read_header(weights)["metrics"] and values["box/off"] > 0
    said = capsys.readouterr().out
    assert "box/small                    n/a" in said and "no small box" in said


def test_resume_equals_a_straight_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = run(data, tmp_path)
    real, calls = loop.descend, []

    def fails_in_the_middle(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # in the second of two epochs of three steps
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "descend", fails_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, name="broken", save_minutes=0.0)
    monkeypatch.undo()
    train.train(resume=str(tmp_path / "one_box/broken"))
    for name in ("weights/last.safetensors", "weights/best.safetensors", "results.csv"):
        one, two = ((tmp_path / "one_box" / run / name).read_bytes() for run in (straight.name, "broken"))
        assert sha256(one).digest() == sha256(two).digest(), name


def test_pictures_without_objects_are_learned_from(paint_boxes: Any, tmp_path: Path) -> None:
    data = paint_boxes(tmp_path, train=[(40, 50, [])] * 4 + [(40, 50, [(1, 1, 9, 9)])], val=[(40, 50, [])])
    folder = run(data, tmp_path, empty=True)
    assert [float(row["train/box"]) for row in table(folder)] == [0.0, 0.0]
    header = model_file.read_header(folder / "weights/best.safetensors")
    assert header["epoch"] == 2 and header["metrics"]["box/off"] is None
    assert "best" not in (folder / "train.log").read_text().splitlines()[-3]


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one_though_c4_and_c5_are_not_read(tmp_path: Path) -> None:
    same = {"frozen_norm": True, "one_size": True, "device": "cpu", "epochs": 1}
    alone = run(Path("scenes:15"), tmp_path, **same)
    words = {**SMALL, **same, "data": "scenes:15", "project": tmp_path, "name": "two"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(OWN / "command.py"), "train", "one_box", *(f"{k}={v}" for k, v in words.items())],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    one, two = (float(table(folder)[0]["train/box"]) for folder in (alone, tmp_path / "one_box/two"))
    assert two == pytest.approx(one, abs=1e-4)


def test_what_no_head_reads_keeps_its_weights(finished: Path, data: Path, tmp_path: Path) -> None:
    new = run(data, tmp_path, model=str(finished), epochs=1)
    before, after = (model_file.load(path / "weights/best.safetensors")[0] for path in (finished, new))
    same = {
        name
        for (name, a), b in zip(before.named_parameters(), after.state_dict(keep_vars=True).values())
        if name.startswith("backbone.") and torch.equal(a, after.get_parameter(name))
    }
    assert same == {
        n for n, _ in before.named_parameters() if n.startswith(("backbone.layer3", "backbone.layer4"))
    }


def test_a_published_model_is_opened_judged_and_trained_on_by_its_name(
    data: Path, tmp_path: Path, capsys: Any
) -> None:
    one, header, path = open_model("one_box_resnet18", None, "cpu")
    other, *_ = open_model("one_box_resnet18", "others", "cpu")
    weight = "tasks.one_box.last.weight"
    assert not torch.equal(one.get_parameter(weight), other.get_parameter(weight))
    assert path is None and header["imgsz"] == 48 and header["batch"] == 3
    assert evaluate("one_box_resnet18", data=str(data), workers=0)["box/off"] > 0
    assert command.main(["predict", "one_box_resnet18", str(data / "val"), f"project={tmp_path}/p"]) == 0
    new = run(data, tmp_path, model="one_box_resnet18", weights="others", lr="0", backbone_lr=0.0, imgsz=None)
    kept = model_file.load(new / "weights/best.safetensors")[0]
    assert torch.equal(kept.get_parameter(weight), other.get_parameter(weight)) and new.name == "resnet18"
    assert model_file.read_header(new / "weights/best.safetensors")["imgsz"] == 48
    capsys.readouterr()
    assert command.main(["list", "models"]) == 0 and "one_box_resnet18" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"one_boks.*did you mean one_box_resnet18"):
        open_model("one_boks_resnet18", None, "cpu")


def test_data_that_lack_a_target_are_named(finished: Path, paint_folder: Any, tmp_path: Path) -> None:
    folder = paint_folder(tmp_path, train={"blue": 2, "red": 2}, val={"blue": 1, "red": 1})
    for attempt in (
        lambda: run(folder, tmp_path),
        lambda: evaluate(str(finished), data=str(folder), workers=0),
    ):
        with pytest.raises(DataError, match=r"one_box needs \['box_labels', 'boxes'\].*label|classes"):
            attempt()
