"""Evaluation: the numbers of a hand count, whatever the order of the classes, and errors where there is no number."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks import model_file
from retinue.tasks.classification.classification import Classifier
from retinue.tasks.task import Model
from retinue.tools import command, predict
from retinue.tools import evaluate as evaluation
from retinue.tools.evaluate import evaluate
from retinue.tools.progress import Log


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, float]]:
    """judge(model, data, ...) -> figures, without drawing the curves unless `plots` says where."""
    draw = evaluation.draw_plots

    def draw_if_asked(tasks: Any, metrics: Any, folder: Path) -> None:
        if folder != tmp_path / "plots":
            draw(tasks, metrics, folder)

    monkeypatch.setattr(evaluation, "draw_plots", draw_if_asked)

    def judge(model: Path, data: Path, **settings: Any) -> dict[str, float]:
        options = {"workers": 0, "plots": str(tmp_path / "plots"), "device": "cpu", **settings}
        return evaluate(str(model), data=str(data), **options)

    return judge


@pytest.fixture
def data(paint_folder: Any, tmp_path: Path) -> Path:
    return paint_folder(
        tmp_path / "data",
        train={"blue": 2, "red": 2},
        val={"blue": 3, "red": 4},
        test={"blue": 2, "red": 1},
    )


def counted(model: Path, folder: Path, names: tuple[str, ...]) -> dict[str, float]:
    """The figures by hand, from what predict says of the files one by one."""
    right: dict[str, list[bool]] = {name: [] for name in names}
    losses = []
    for path, results in predict.predict(str(model), folder, device="cpu", batch=1):
        truth, answer = path.parent.name, results["classification"]
        right[truth].append(answer.label == truth)
        losses.append(-math.log(answer.probabilities[answer.classes.names.index(truth)]))
    everything = [value for values in right.values() for value in values]
    recalls = [sum(values) / len(values) for values in right.values() if values]
    return {
        "top1": sum(everything) / len(everything),
        "mean_class_accuracy": sum(recalls) / len(recalls),
        "loss": sum(losses) / len(losses),
        **{f"top1/{name}": sum(values) / len(values) for name, values in right.items() if values},
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_figures_equal_a_hand_count(seed: int, tiny: Any, data: Path, judge: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model_file.save(tiny(seed=seed), path, imgsz=32, batch=3)
    for split in ("train", "val", "test"):
        values, expected = judge(path, data, split=split), counted(path, data / split, ("blue", "red"))
        assert {key: values[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_val_is_judged_unless_another_split_is_asked_for(saved: Path, data: Path, judge: Any) -> None:
    assert judge(saved, data) == judge(saved, data, split="val") != judge(saved, data, split="test")
    with pytest.raises(DataError, match="no split 'later'; it has train, val, test"):
        judge(saved, data, split="later")


def test_test_is_judged_where_there_is_no_val(
    saved: Path, paint_folder: Any, judge: Any, tmp_path: Path
) -> None:
    data = paint_folder(tmp_path / "d", train={"blue": 1, "red": 1}, test={"blue": 2, "red": 1})
    assert judge(saved, data) == judge(saved, data, split="test")


def test_neither_the_batch_nor_the_workers_change_a_figure(saved: Path, data: Path, judge: Any) -> None:
    first = judge(saved, data, batch=7)
    assert judge(saved, data, batch=7, workers=1) == first
    assert judge(saved, data, batch=1) == pytest.approx(first, abs=1e-5)
    assert judge(saved, data, batch=100) == pytest.approx(first, abs=1e-5)


def test_classes_go_by_name_not_by_order(tiny: Any, data: Path, judge: Any, tmp_path: Path) -> None:
    """A model that numbers red 0 and blue 1, on a folder that numbers them the other way."""
    swapped = tiny("red", "blue")
    path = tmp_path / "swapped.safetensors"
    model_file.save(swapped, path, imgsz=32)
    values, expected = judge(path, data), counted(path, data / "val", ("blue", "red"))
    assert {key: values[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    with torch.no_grad():  # the same network with the outputs the other way round answers the same
        last = swapped.tasks["classification"].top.last
        last.weight.copy_(last.weight.flip(0)), last.bias.copy_(last.bias.flip(0))
    swapped.tasks["classification"].classes = ClassMap(("blue", "red"), ("blue", "red"))
    model_file.save(swapped, path, imgsz=32)
    assert judge(path, data) == pytest.approx(values, abs=1e-6)


def test_a_class_that_the_data_lack_counts_for_nothing(
    tiny: Any, data: Path, judge: Any, tmp_path: Path
) -> None:
    path = tmp_path / "three.safetensors"
    model_file.save(tiny("blue", "green", "red"), path, imgsz=32)
    values, expected = judge(path, data), counted(path, data / "val", ("blue", "green", "red"))
    assert math.isnan(values["top1/green"])
    assert {key: values[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_a_class_that_the_model_lacks_is_named(
    saved: Path, paint_folder: Any, judge: Any, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="green"):
        judge(saved, paint_folder(tmp_path / "d", train={"blue": 1, "green": 1}, val={"green": 1}))


def test_other_targets_are_named(saved: Path, judge: Any) -> None:
    with pytest.raises(DataError, match="sphere"):
        judge(saved, Path("scenes:8"))


def test_an_empty_split_is_named(saved: Path, paint_folder: Any, judge: Any, tmp_path: Path) -> None:
    data = paint_folder(tmp_path / "d", train={"blue": 1, "red": 1})
    with pytest.raises(DataError, match="val or test"):
        judge(saved, data)
    (data / "val/red").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no data set found|no pictures"):
        judge(saved, data)
    (data / "val/red/x.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"x\.png"):
        judge(saved, data)


def test_unreadable_pictures_are_left_out_by_name(
    saved: Path, data: Path, judge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = judge(saved, data)
    (data / "val/red/broken.png").write_bytes(b"GIF89a")
    capsys.readouterr()
    assert judge(saved, data) == whole
    shown = capsys.readouterr().out
    assert "skipped: " in shown and "broken.png" in shown
    with pytest.raises(DataError, match=r"broken\.png"):
        judge(saved, data, strict=True)


def test_several_tasks_have_their_names_in_front(tiny: Any, data: Path, judge: Any, tmp_path: Path) -> None:
    model = tiny()
    other = Classifier(model.backbone, ClassMap(("blue", "red"), ("blue", "red")), head="pool")
    model_file.save(
        Model(model.backbone, {"a": model.tasks["classification"]}), tmp_path / "a.safetensors", imgsz=32
    )
    model_file.save(Model(model.backbone, {"b": other}), tmp_path / "b.safetensors", imgsz=32)
    both = Model(model.backbone, {"a": model.tasks["classification"], "b": other})
    model_file.save(both, tmp_path / "both.safetensors", imgsz=32)
    one, two = judge(tmp_path / "a.safetensors", data), judge(tmp_path / "b.safetensors", data)
    expected = {f"a/{k}": v for k, v in one.items()} | {f"b/{k}": v for k, v in two.items()}
    curves = tmp_path / "curves"
    assert judge(tmp_path / "both.safetensors", data, plots=str(curves)) == pytest.approx(expected, abs=1e-6)
    assert {p.name for p in curves.iterdir()} == {
        "a-confusion.png", "a-per_class.png", "b-confusion.png", "b-per_class.png"
    }  # fmt: skip


def test_grey_models_read_grey_pictures(paint_folder: Any, judge: Any, tmp_path: Path, data: Path) -> None:
    backbone = build("lenet5", in_channels=1)
    task = Classifier(backbone, ClassMap(("blue", "red"), ("blue", "red")))
    path = tmp_path / "grey.safetensors"
    model_file.save(Model(backbone, {"classification": task}), path, imgsz=32)
    values, expected = judge(path, data), counted(path, data / "val", ("blue", "red"))
    assert values["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    backbone = build("lenet5", in_channels=1)
    task = Classifier(backbone, ClassMap(("sphere", "box", "cylinder", "cone")))
    model_file.save(Model(backbone, {"classification": task}), path, imgsz=32)
    with pytest.raises(DataError, match="3 channels, the model reads 1"):
        judge(path, Path("scenes:8"))


def test_of_many_classes_only_those_that_occur_have_a_line(capsys: Any) -> None:
    values = {"box/AP": 0.5, "box/APs": math.nan, "box/AP/cat": 0.5, "box/AP/a/b": math.nan}
    evaluation.say_figures(values, "few", Log())
    assert len(capsys.readouterr().out.splitlines()) == 5
    values |= {f"box/AP/{i}": math.nan for i in range(60)}
    evaluation.say_figures(values, "many", Log())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rest = ["61", "classes", "that", "do", "not", "occur", "are", "n/a"]
    expected = [["box/AP", "0.5000"], ["box/APs", "n/a"], ["box/AP/cat", "0.5000"], rest]
    assert lines[1:] == expected
    assert evaluation.per_class("box/AP/a/b", values) and not evaluation.per_class("box/AP50", values)


def test_several_figures_of_a_class_share_a_line(capsys: Any) -> None:
    values = {"miou": 0.5, "class_accuracy": 0.75, "miou/sky": 0.5, "class_accuracy/sky": 0.75}
    values |= {"miou/a/b": math.nan, "class_accuracy/a/b": 0.0}
    evaluation.say_figures(values, "title", Log())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["miou", "0.5000"], ["class_accuracy", "0.7500"], ["miou", "class_accuracy"],
        ["sky", "0.5000", "0.7500"], ["a/b", "n/a", "0.0000"],
    ]  # fmt: skip
    assert len({line.rindex("0") for line in lines[4:]}) == 1 and not any(
        line.endswith(" ") for line in lines
    )


def test_json_and_curves(saved: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["eval", str(saved), f"data={data}/", "workers=0", "json=-"]) == 0
    shown = capsys.readouterr()
    values = json.loads(shown.out)
    assert 0 <= values["top1"] <= 1 and "7 pictures" in shown.err
    beside = saved.parent / "colours-eval-val"  # not two folders up, which is nobody's
    assert str(beside) in shown.err and (beside / "confusion.png").is_file()
    assert {p.name for p in saved.parent.parent.iterdir()} == {"models", "data"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["batch=0"], "batch is at least 1"),
        (["batch=-1"], "batch is at least 1"),
        (["workers=-1"], "workers is at least 0"),
        (["split=holdout"], "no split 'holdout'"),
        (["imgsz=64"], "no option 'imgsz'"),
        (["data=nowhere"], "nowhere"),
        (["json=."], "json=."),
    ],
)
def test_bad_usage(words: list[str], said: str, saved: Path, data: Path, capsys: Any) -> None:
    assert command.main(["eval", str(saved), f"data={data}", "workers=0", *words]) == 2
    shown = capsys.readouterr().err
    assert said in shown and "Traceback" not in shown


def test_eval_of_nothing(data: Path, capsys: Any) -> None:
    assert command.main(["eval", f"data={data}"]) == 2
    assert "evaluate what" in capsys.readouterr().err
