"""`retinue propose selective_search`: from pictures to the file that Fast R-CNN is trained with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retinue.datasets.pictures import read_picture
from retinue.datasets.proposals import read_proposals
from retinue.datasets.scenes import Scenes
from retinue.tasks.detection.selective_search import selective_search
from retinue.tools import command, proposal_cache, run_folder, train
from retinue.tools import evaluate as evaluation
from retinue.tools.propose import propose


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is kept in the home of whoever runs the tests."""
    root = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    return root / "retinue/selective_search"


@pytest.fixture
def data(paint_boxes: Callable[..., Path], tmp_path: Path) -> Path:
    """Two pictures for training, and one without objects."""
    train = [(60, 80, [(4, 6, 30, 34)]), (64, 48, [(8, 10, 40, 50)])]
    return paint_boxes(tmp_path / "d", train=train, val=[(70, 50, [])])


def test_a_data_set_is_searched_by_processes_and_its_recall_said(
    data: Path, own_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, values = tmp_path / "p.safetensors", tmp_path / "values.json"
    words = ["selective_search", f"data={data}", f"out={file}", "workers=2", f"json={values}"]
    assert command.main(["propose", *words]) == 0
    made = read_proposals(file)
    assert [bytes(id).decode() for id in made.ids] == ["train/000.png", "train/001.png", "val/000.png"]
    assert made.sizes.tolist() == [[60, 80], [64, 48], [70, 50]]
    for i, id in enumerate(made.ids):
        expected = selective_search(read_picture(data / bytes(id).decode()).image)
        assert np.array_equal(made.boxes[slice(*made.offsets[i : i + 2])], expected)
    said = json.loads(values.read_text())
    assert said["train/proposals/AR1000"] > 0.8 and said["val/proposals/AR100"] is None
    assert "train    2 pictures" in capsys.readouterr().out
    assert len(list(own_cache.iterdir())) == 3


def test_interrupted_work_goes_on_where_it_stopped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    searched: list[tuple[int, ...]] = []

    def search(image: np.ndarray, mode: str, side: int) -> np.ndarray:
        if len(searched) == 2:
            searched.clear()
            raise KeyboardInterrupt
        searched.append(image.shape)
        return selective_search(image)

    monkeypatch.setattr(proposal_cache, "selective_search", search)
    words = [
        "selective_search",
        f"data={data}",
        f"out={tmp_path / 'p'}",
        "workers=0",
        f"cache={tmp_path / 'kept'}",
    ]
    assert command.main(["propose", *words]) == 1
    assert "interrupted" in capsys.readouterr().err and not (tmp_path / "p").exists()
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert command.main(["propose", *words]) == 0
    assert searched == [(70, 50, 3)] and len(read_proposals(tmp_path / "p")) == 3


def test_plain_pictures_and_a_count(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.safetensors"
    assert propose("selective_search", source=[str(data / "train")], out=str(file), count=5, workers=0) == {}
    made = read_proposals(file)
    assert np.diff(made.offsets).tolist() == [5, 5] and made.find(["train/001.png"]) == [1]


def test_modes_and_sides_are_those_of_the_search(data: Path, tmp_path: Path, own_cache: Path) -> None:
    settings: dict[str, Any] = {"data": str(data), "workers": 0, "count": 10**6}
    image = read_picture(data / "train/000.png").image
    for name, own in (("a", {"mode": "quality"}), ("b", {"imgsz": 40})):
        propose("selective_search", out=str(tmp_path / name), **own, **settings)
        made = read_proposals(tmp_path / name)
        mode, side = own.get("mode", "fast"), own.get("imgsz", 500)
        assert np.array_equal(made.boxes[: made.offsets[1]], selective_search(image, mode, side=side))
    assert len(list(own_cache.iterdir())) == 6


def test_fast_rcnn_is_trained_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "draw_plots", lambda *_: None)
    monkeypatch.setattr(run_folder, "plot_results", lambda *_: None)
    file = tmp_path / "scenes.safetensors"
    values = propose("selective_search", data="scenes:4", out=str(file), workers=0)
    assert values["train/proposals/AR1000"] > 0.2 and len(Scenes(4)) == 4
    run = train.train(
        "fast_rcnn", data="scenes:4", regions=str(file), backbone="resnet18", epochs=1, batch=4, workers=0,
        project=str(tmp_path / "runs"), pyramid_channels=8, sampled=16,
    )  # fmt: skip
    assert (run / "weights/best.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["selective_search"], "propose with what, on what"),
        (
            ["selective_search", "data=scenes:4", "out=p", "weights=COCO_V1"],
            "weights=COCO_V1: that is a published",
        ),
        (
            ["some.safetensors", "data=scenes:4", "out=p", "mode=quality"],
            "mode=quality: that is selective_search's",
        ),
        (
            ["some.safetensors", "data=scenes:4", "out=p", "cache=here"],
            "cache=here: that is selective_search's",
        ),
        (["selective_search", "data=scenes:4", "out=p", "mode=slow"], "choose one of fast, quality"),
        (
            ["selective_search", "data=scenes:4", "out=p", "cache=FILE"],
            "FILE: proposals cannot be kept there",
        ),
    ],
)
def test_bad_usage_is_named(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    assert command.main(["propose", *words]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]
