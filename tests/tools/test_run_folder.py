"""A run's folder: names that are never taken twice, files that are whole, values that json has words for."""

import csv
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from retinue.datasets.targets import DataError
from retinue.tools import run_folder


def test_names_are_numbered_and_args_are_there_from_the_first_moment(tmp_path: Path) -> None:
    folders = [run_folder.new_folder(tmp_path, "größe 1", {"task": "t", "k": i}) for i in range(3)]
    assert [folder.name for folder in folders] == ["größe 1", "größe 1-2", "größe 1-3"]
    assert [run_folder.read_args(folder)["k"] for folder in folders] == [0, 1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {folder.name for folder in folders}


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(
            pool.map(lambda i: run_folder.new_folder(tmp_path, "run", {"task": "t", "k": i}), range(24))
        )
    assert len(set(folders)) == 24
    assert [run_folder.read_args(folder)["k"] for folder in folders] == list(range(24))


def test_exist_ok_removes_an_older_run_and_nothing_else(tmp_path: Path) -> None:
    run = run_folder.new_folder(tmp_path, "run", {"task": "t"})
    (run / "old.txt").write_text("old")
    again = run_folder.new_folder(tmp_path, "run", {"task": "new"}, exist_ok=True)
    assert again == run and [path.name for path in run.iterdir()] == ["args.yaml"]
    photos = tmp_path / "photos"
    photos.mkdir()
    assert run_folder.new_folder(tmp_path, "photos", {"task": "t"}, exist_ok=True) == photos  # it was empty
    (photos / "args.yaml").rename(photos / "mine.jpg")
    with pytest.raises(DataError, match="is not replaced"):
        run_folder.new_folder(tmp_path, "photos", {"task": "t"}, exist_ok=True)
    assert (photos / "mine.jpg").is_file()
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is not replaced"):
        run_folder.new_folder(tmp_path, "file", {"task": "t"}, exist_ok=True)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/", "a/", "../a"])
def test_names_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name="):
        run_folder.new_folder(tmp_path / "runs", name, {"task": "t"}, exist_ok=True)
    assert not (tmp_path / "runs").exists()


def test_args_keep_their_types(tmp_path: Path) -> None:
    args = {"task": "t", "lr": "0.001", "name": None, "flag": True, "scale": (0.25, 1.0), "ü": "ü: - x"}
    folder = run_folder.new_folder(tmp_path, "run", {**args, "scale": list(args["scale"])})  # type: ignore[call-overload]
    assert run_folder.read_args(folder) == {**args, "scale": [0.25, 1.0]}


def test_tuples_of_a_tasks_settings_are_plain_in_the_file(tmp_path: Path) -> None:
    folder = run_folder.new_folder(tmp_path, "run", {"task": "t", "crop_scale": (0.25, 1.0)})
    assert list(run_folder.read_args(folder)["crop_scale"]) == [0.25, 1.0]


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run's folder"):
        run_folder.read_args(tmp_path)


def test_results_by_hand(tmp_path: Path) -> None:
    run_folder.write_results(tmp_path, [{"epoch": 1, "a": 0.123456789}, {"epoch": 2, "b": math.nan}])
    assert (tmp_path / "results.csv").read_text() == "epoch,a,b\n1,0.123457,\n2,,nan\n"
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["a"] for row in rows] == ["0.123457", ""]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(plain)
def test_any_figures_are_valid_json(value: object) -> None:
    strict = json.dumps(run_folder.finite(value), allow_nan=False)
    assert json.loads(strict) == run_folder.finite(value)
    assert json.loads(run_folder.json_text(value)) == run_folder.finite(value)


def test_numbers_take_one_line() -> None:
    value = {"boxes": [[1, 2.5], [], [None, True]], "names": ["[\n1\n]", "[1,2]"]}
    assert run_folder.json_text(value) == (
        '{\n  "boxes": [\n    [1, 2.5],\n    [],\n    [null, true]\n  ],\n'
        '  "names": [\n    "[\\n1\\n]",\n    "[1,2]"\n  ]\n}'
    )


def test_finite_by_hand() -> None:
    value = {"a": math.nan, "b": [1.5, -math.inf], "c": (2, {"d": math.inf})}
    assert run_folder.finite(value) == {"a": None, "b": [1.5, None], "c": [2, {"d": None}]}


def test_json_goes_where_it_is_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder.write_json(None, {"a": 1})
    assert capsys.readouterr().out == ""
    run_folder.write_json("-", {"ü": math.nan})
    assert json.loads(capsys.readouterr().out) == {"ü": None}
    run_folder.write_json(str(tmp_path / "new/folder/f.json"), [1])
    assert json.loads((tmp_path / "new/folder/f.json").read_text()) == [1]


def test_a_plot_of_a_run_without_validation(tmp_path: Path) -> None:
    run_folder.plot_results(tmp_path, [{"epoch": 1, "train/ce": 0.5, "lr/head": 0.1}], ["top1", "loss"])
    assert (tmp_path / "results.png").stat().st_size > 1000


def test_the_environment_names_what_one_needs_to_repeat_a_run() -> None:
    text = run_folder.environment()
    assert all(f"\n{name} " in text for name in ("torch", "numpy", "albumentations", "cpu", "command"))
    assert yaml.safe_load(text.splitlines()[0].partition(" on ")[0].split()[1].rpartition(".")[0])
