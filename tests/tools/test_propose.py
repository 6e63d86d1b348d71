"""From a region proposal network to Fast R-CNN: proposals are written, and trained, judged and predicted with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from retinue.backbones import build
from retinue.datasets.proposals import Proposals, Regions, read_proposals, write_proposals
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import DataError, collate
from retinue.tasks import model_file
from retinue.tasks.detection.faster_rcnn import FasterRCNN
from retinue.tasks.task import Model
from retinue.tools import command, run_folder, train
from retinue.tools import evaluate as evaluation
from retinue.tools.evaluate import evaluate
from retinue.tools.options import UsageError
from retinue.tools.predict import predict
from retinue.tools.propose import propose
from retinue.tools.run_folder import finite

SIDE = 64
SMALL: dict[str, Any] = {"pyramid_channels": 8, "sampled": 16, "score_threshold": 0.0, "detections": 1000}


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves are tested elsewhere."""
    monkeypatch.setattr(evaluation, "draw_plots", lambda *_: None)
    monkeypatch.setattr(run_folder, "plot_results", lambda *_: None)


@pytest.fixture(scope="module")
def faster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Faster R-CNN with random weights."""
    torch.manual_seed(0)
    settings = SMALL | {"proposals": (60, 40)}
    backbone = FasterRCNN.trunk_for(build("resnet18"), settings)
    model = Model(backbone, {"faster_rcnn": FasterRCNN(backbone, Scenes.classes, **settings)}).eval()
    path = tmp_path_factory.mktemp("faster") / "faster.safetensors"
    model_file.save(model, path, imgsz=SIDE, batch=4)
    return path


@pytest.fixture(scope="module")
def scenes(faster: Path) -> tuple[Path, dict[str, float]]:
    """The proposals of scenes:12, and what was said of their recall."""
    file = faster.parent / "scenes.safetensors"
    return file, propose(str(faster), data="scenes:12", out=str(file), workers=0)


@pytest.fixture(scope="module")
def run(scenes: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Fast R-CNN after an epoch on these."""
    return train.train(
        "fast_rcnn", data="scenes:12", regions=str(scenes[0]), backbone="resnet18", epochs=1, batch=4, workers=0,
        lr="0.001", project=str(tmp_path_factory.mktemp("runs")), **SMALL,
    )  # fmt: skip


def test_all_splits_are_in_one_file_in_the_files_pixels(
    scenes: tuple[Path, dict[str, float]], faster: Path
) -> None:
    made, values = read_proposals(scenes[0]), scenes[1]
    assert len(made) == 14 and made.sizes.tolist() == [[SIDE, SIDE]] * 14
    assert list(values)[:2] == ["train/proposals/AR100", "train/proposals/AR1000"] and len(values) == 6
    assert 0 < values["train/proposals/AR100"] <= values["train/proposals/AR1000"] < 1
    model, _ = model_file.load(faster)
    task = model.named_tasks["faster_rcnn"]
    assert isinstance(task, FasterRCNN)
    sample = Scenes(12, SIDE)[3]
    pictures, _ = collate([task.eval_transform(SIDE)(sample, np.random.default_rng(0), None)], divisor=32)
    task.rpn.top = 60, 1000
    with torch.no_grad():
        scored = task.score(model.backbone(pictures.pixels, set(task.levels)), pictures)
        (expected,) = task.rpn.propose(scored, pictures.sizes)
    part = made.boxes[slice(*made.offsets[3:5])]
    assert len(part) == len(expected) > 50
    assert np.abs(part - expected.numpy()).max() < 0.01


def test_eval_with_the_same_regions_gives_the_numbers_of_the_training(
    run: Path, scenes: tuple[Path, Any]
) -> None:
    weights = run / "weights/last.safetensors"
    values = evaluate(str(weights), data="scenes:12", regions=str(scenes[0]), workers=0)
    assert finite(values) == model_file.read_header(weights)["metrics"]
    assert values["box/AR100"] > 0
    others = scenes[0].parent / "others.safetensors"
    made = read_proposals(scenes[0])
    write_proposals(others, Proposals("p", made.ids, made.offsets * 0, made.sizes, made.boxes[:0]))
    assert evaluate(str(weights), data="scenes:12", regions=str(others), workers=0)["box/AR100"] == 0


def test_a_resumed_run_needs_no_word_about_its_regions(
    run: Path, scenes: tuple[Path, Any], tmp_path: Path
) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    assert f"regions: {scenes[0]}" in (copied / "args.yaml").read_text()
    assert train.train(resume=str(copied), device="cpu") == copied


def paint_scenes(root: Path, count: int = 3) -> list[Path]:
    root.mkdir(parents=True)
    paths = [root / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), np.ascontiguousarray(Scenes(12, (48 + 8 * i, 80))[i].image[..., ::-1]))
    return paths


def test_plain_pictures_are_proposed_for_and_predicted(run: Path, faster: Path, tmp_path: Path) -> None:
    paths, file = paint_scenes(tmp_path / "photos"), tmp_path / "p.safetensors"
    assert propose(str(faster), source=[str(tmp_path / "photos")], out=str(file), count=50, workers=0) == {}
    made = read_proposals(file)
    assert made.find(["photos/0.png", "0.png"]).tolist() == [0, -1]
    assert 30 < np.diff(made.offsets).min() <= np.diff(made.offsets).max() <= 50
    assert made.sizes.tolist() == [[48, 80], [56, 80], [64, 80]]
    assert (made.boxes.max(0) <= (80, 64, 80, 64)).all() and made.boxes[:, 2].max() > 64
    results = dict(predict(str(run), paths, regions=str(file), conf=0.0))
    assert len(results) == 3 and all(len(result["fast_rcnn"]) for result in results.values())
    part = tmp_path / "part.safetensors"
    propose(str(faster), source=[str(path) for path in paths[:2]], out=str(part), workers=0)
    with pytest.raises(DataError, match=r"2\.png: no proposals in .*; retinue propose MODEL .*2\.png"):
        predict(str(run), paths, regions=str(part), strict=True)


def test_predict_names_pictures_without_proposals_and_goes_on(
    run: Path,
    faster: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    paint_scenes(tmp_path / "photos")
    assert command.main(["propose", str(faster), "photos/0.png", "photos/1.png", "out=p.safetensors"]) == 0
    assert command.main(["predict", str(run), "photos", "regions=p.safetensors", "draw=no", "name=it"]) == 0
    said = capsys.readouterr().out
    assert "skipped: photos/2.png: no proposals in p.safetensors" in said and "2 pictures, 1 skipped" in said
    assert command.main(["predict", str(run), "photos/2.png", "regions=p.safetensors"]) == 2
    assert "none of the 1 files" in capsys.readouterr().err


def test_data_with_other_classes_and_pictures_that_cannot_be_read(
    faster: Path, paint_boxes: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = paint_boxes(tmp_path / "d", train=[(60, 80, [(4, 6, 30, 34)])] * 3, val=[(64, 48, [])])
    (data / "train/001.png").write_bytes((data / "train/000.png").read_bytes()[:-30])
    json_file = tmp_path / "values.json"
    words = [f"data={data}", f"out={tmp_path / 'p.safetensors'}", f"json={json_file}", "workers=0", "batch=2"]
    assert command.main(["propose", str(faster), *words]) == 0
    values = json.loads(json_file.read_text())
    assert values["val/proposals/AR100"] is None and values["train/proposals/AR1000"] >= 0
    made = read_proposals(tmp_path / "p.safetensors")
    assert [bytes(id).decode() for id in made.ids] == ["train/000.png", "train/002.png", "val/000.png"]
    said = capsys.readouterr().out
    assert "skipped" in said and "001.png" in said and "AR100 n/a" in said


def test_a_picture_in_two_splits_is_proposed_for_once(
    faster: Path, paint_boxes: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = paint_boxes(tmp_path / "d", train=[(64, 64, [(4, 6, 30, 34)])], val=[(64, 64, [(4, 6, 30, 34)])])
    once = evaluation.open_splits(str(data))["train"]
    module = "retinue.tools.propose.open_splits"
    monkeypatch.setattr(module, lambda *_, **__: {"train": once, "val": once})
    propose(str(faster), data=str(data), out=str(tmp_path / "p.safetensors"), workers=0)
    assert len(read_proposals(tmp_path / "p.safetensors")) == 1
    other = paint_boxes(tmp_path / "e", train=[(64, 64, [])])
    elsewhere = evaluation.open_splits(str(other))["train"]
    monkeypatch.setattr(module, lambda *_, **__: {"train": once, "val": elsewhere})
    with pytest.raises(DataError, match=r"have the same id 'train/000.png'"):
        propose(str(faster), data=str(data), out=str(tmp_path / "q.safetensors"), workers=0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "propose with what"),
        (["MODEL"], "propose with what, on what"),
        (["MODEL", "data=scenes:12", "photo.jpg", "out=new"], "propose with what, on what"),
        (["MODEL", "data=scenes:12"], "name the file to write"),
        (["MODEL", "data=scenes:12", "out=p.json"], "name the file to write"),
        (["MODEL", "data=scenes:12", "out=FILE"], "exist_ok=true replaces it"),
        (["MODEL", "data=scenes:12", "out=FILE/x"], "cannot be written"),
        (["MODEL", "data=nowhere", "out=new"], "nowhere"),
        (["nothing_known", "data=scenes:12", "out=new"], "nothing_known"),
        (["MODEL", "data=scenes:12", "out=new", "count=0"], "count is at least 1"),
    ],
)
def test_bad_usage_is_named_before_any_work(
    words: list[str], said: str, faster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    words = [str(faster) if word == "MODEL" else word for word in words]
    assert command.main(["propose", *words]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


def test_a_model_without_proposals_of_its_own_makes_none(run: Path, tiny: Any, tmp_path: Path) -> None:
    model_file.save(tiny(), tmp_path / "colours.safetensors", imgsz=32, batch=4)
    for model in (run, tmp_path / "colours.safetensors"):
        with pytest.raises(DataError, match="has no region proposal network; give a trained faster_rcnn"):
            propose(str(model), data="scenes:12", out=str(tmp_path / "p.safetensors"), workers=0)


def test_regions_are_asked_for_where_they_are_read_and_refused_elsewhere(
    run: Path, faster: Path, scenes: tuple[Path, Any], tmp_path: Path
) -> None:
    regions = str(scenes[0])
    wanted, unread = "fast_rcnn needs proposals: regions=FILE, which", "faster_rcnn is given no proposals"
    settings: dict[str, Any] = {
        "data": "scenes:12",
        "project": str(tmp_path),
        "workers": 0,
        "backbone": "resnet18",
    }
    with pytest.raises(DataError, match=wanted):
        train.train("fast_rcnn", **settings, **SMALL)
    with pytest.raises(DataError, match=unread):
        train.train("faster_rcnn", regions=regions, **settings, **SMALL)
    with pytest.raises(DataError, match=wanted):
        evaluate(str(run), data="scenes:12")
    with pytest.raises(DataError, match=unread):
        evaluate(str(faster), data="scenes:12", regions=regions)
    (picture,) = paint_scenes(tmp_path / "photos", 1)
    with pytest.raises(DataError, match=wanted):
        predict(str(run), picture)
    with pytest.raises(DataError, match=unread):
        predict(str(faster), picture, regions=regions)
    with pytest.raises(DataError, match="no such file"):
        predict(str(run), picture, regions="nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_regions_of_other_pictures_stop_before_a_folder_is_made(
    scenes: tuple[Path, Any], run: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match=r"no proposals for 3 of 15 pictures: train/000012, .*retinue propose"
    ):
        train.train(
            "fast_rcnn", data="scenes:15", regions=str(scenes[0]), project=str(tmp_path / "runs"), **SMALL
        )
    assert not (tmp_path / "runs").exists()
    larger = Proposals.join("p", [Regions("val/000000", (128, 128), np.zeros((0, 4), np.float32))])
    write_proposals(tmp_path / "larger.safetensors", larger)
    with pytest.raises(DataError, match="made on 128x128 pixels, the picture has 64x64"):
        evaluate(str(run), data="scenes:12", regions=str(tmp_path / "larger.safetensors"), workers=0)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(UsageError, match="propose has no option 'most'"):
        propose("it", most=3)
