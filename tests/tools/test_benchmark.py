"""The speed figures: rivals take turns, ratios are of one round, and every bench runs."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from retinue.tools import bench_detection, bench_segmentation, benchmark, command
from retinue.tools.take_turns import ratio, take_turns


def test_rivals_take_turns_after_one_round_to_warm_up() -> None:
    calls: list[str] = []

    def rival(name: str, times: list[float]) -> Any:
        rounds = iter(times)

        def run() -> float:
            calls.append(name)
            return next(rounds)

        return run

    times = take_turns({"a": rival("a", [9, 1, 2, 3]), "b": rival("b", [9, 4, 5, 6])}, seconds=0)
    assert times == {"a": [1, 2, 3], "b": [4, 5, 6]}
    assert calls == ["a", "b"] * 4


def test_ratio_by_hand() -> None:
    times = {"base": [2.0, 9.0, 4.0], "ours": [1.0, 3.0, 1.0]}
    assert ratio(times, "base", "ours") == 3.0  # the median of 2, 3 and 4
    assert ratio(times, "ours", "base") == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("what", "figures"),
    [
        pytest.param("data", {"data/pictures_per_second_per_core"}, marks=pytest.mark.slow),
        ("scenes", {"scenes/per_second_per_process"}),
        ("startup", {"startup/help_seconds_over_empty_python"}),
    ],
)
def test_every_bench_gives_positive_figures(what: str, figures: set[str], capsys: Any) -> None:
    threads = torch.get_num_threads()
    assert command.main(["bench", what, "seconds=0.1", "json=-"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values.keys() == figures
    assert all(math.isfinite(value) and value > 0 for value in values.values())
    assert torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_detection_bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_detection, "NAMES", bench_detection.NAMES[:1])
    monkeypatch.setattr(bench_detection, "RESET", tmp_path / "none")
    assert command.main(["bench", "detection", "seconds=0", f"json={tmp_path / 'figures.json'}"]) == 0
    values = json.loads((tmp_path / "figures.json").read_text())
    assert {"fasterrcnn/fp32_over_torchvision_fp32", "fasterrcnn/step_over_torchvision"} <= values.keys()
    assert all(math.isfinite(value) and value > 0 for value in values.values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    not bench_detection.RESET.exists(), reason="this system does not tell a process's peak of memory"
)
def test_masks_take_less_memory_than_torchvisions() -> None:
    rises = bench_detection.bench_memory("maskrcnn_resnet50_fpn")
    theirs, fp32, bf16 = (rises[f"mask_rcnn/memory/{who}_mib"] for who in ("torchvision", "fp32", "bf16"))
    assert bf16 < fp32 < 0.8 * theirs


@pytest.mark.slow
def test_segmentation_bench(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(bench_segmentation, "SIZE", (72, 64))
    assert command.main(["bench", "segmentation", "seconds=0", "json=-"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert {"fcn/torchvision_seconds", "fcn/bf16_over_torchvision_fp32"} < values.keys() and len(values) == 5
    assert all(math.isfinite(value) and value > 0 for value in values.values())


def test_training_bench(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PICTURES": 8, "BATCH": 4, "SIDE": 64}.items():
        monkeypatch.setattr(benchmark, name, value)
    assert command.main(["bench", "train", "seconds=0.1", "json=-"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert "train/fp32_over_torch_loop" in values
    assert all(math.isfinite(value) and value > 0 for value in values.values())


def test_bench_data_on_pictures_of_ones_own(paint: Any, tmp_path: Path, capsys: Any) -> None:
    paint(tmp_path / "a.png"), paint(tmp_path / "b.png")
    assert command.main(["bench", "data", f"data={tmp_path}", "seconds=0"]) == 0
    assert float(capsys.readouterr().out.split()[-1]) > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "did you mean train"),
        (["data", "data=nowhere"], "nowhere"),
        (["seconds=-1"], "seconds is at least 0"),
        (["threads=-1"], "threads is at least 0"),
        (["seconds=nan"], "seconds=nan"),
    ],
)
def test_bad_usage(words: list[str], said: str, capsys: Any) -> None:
    assert command.main(["bench", *words]) == 2
    assert said in capsys.readouterr().err
