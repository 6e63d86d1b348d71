"""A fitted last layer: scikit-learn's own answers, saved and evaluated like any model; and the few-shot curve."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from retinue.datasets.image_folder import ImageFolder
from retinue.datasets.targets import DataError
from retinue.tasks.classification import fit
from retinue.tools import evaluate, predict, probe, train
from retinue.tools.options import UsageError

SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.fixture
def data(paint_folder: Any, tmp_path: Path) -> Path:
    three = {"blue": 3, "green": 3, "red": 3}
    return paint_folder(tmp_path / "data", train=three, val={"blue": 2, "green": 2, "red": 2})


@pytest.fixture
def fitted(data: Path, tmp_path: Path) -> Callable[..., Path]:
    """fitted(...) -> the folder of a run with method=linear on `data`."""

    def fitted(**settings: Any) -> Path:
        options = {
            "data": str(data), "backbone": "lenet5", "imgsz": 32, "batch": 4, "workers": 0, "method": "linear",
            "project": str(tmp_path / "runs"),
        }  # fmt: skip
        return train.train("classification", **options | settings)

    return fitted


def spy_on_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every classifier that is fitted from now on, with what it was fitted to."""
    seen: list[Any] = []
    for kind in (LogisticRegression, LinearSVC):

        def spied(self: Any, x: Any, y: Any, real: Any = kind.fit, **more: Any) -> Any:
            seen.append(self)
            return real(self, x, y, **more)

        monkeypatch.setattr(kind, "fit", spied)
    return seen


@pytest.mark.parametrize("method", ["linear", "svm"])
def test_the_saved_model_answers_as_scikit_learn_did(
    method: str, fitted: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, embedded = spy_on_scikit_learn(monkeypatch), []
    real = fit.fit_linear

    def remember(features: np.ndarray, *rest: Any) -> Any:
        embedded.append(features)
        return real(features, *rest)

    monkeypatch.setattr("retinue.tasks.classification.classification.fit_linear", remember)
    folder = fitted(method=method)
    mean, scale = fit.standardisation(embedded[0].astype(np.float64))
    theirs = models[-1].predict((embedded[0] - mean) / scale)
    ours = predict.predict(str(folder), data / "train", device="cpu")
    paths = ImageFolder(data, "train")
    assert [p.path for p in ours] == [paths.path(i) for i in range(len(paths))]
    assert [p.results["classification"].index for p in ours] == theirs.tolist()
    if method == "linear":
        expected = models[-1].predict_proba((embedded[0] - mean) / scale)
        answers = np.stack([p.results["classification"].probabilities for p in ours])
        assert np.allclose(answers, expected, atol=1e-4)


def test_eval_gives_what_was_printed(fitted: Any, data: Path, tmp_path: Path, capsys: Any) -> None:
    folder = fitted(json=str(tmp_path / "figures.json"))
    printed = json.loads((tmp_path / "figures.json").read_text())
    capsys.readouterr()
    values = evaluate.evaluate(str(folder), data=str(data), workers=0)
    assert values == pytest.approx({key: printed[key] for key in values}, abs=1e-12)
    assert printed["run"] == str(folder)
    assert {"args.yaml", "train.log", "results.csv", "confusion.png", "env.txt"} <= set(os.listdir(folder))


def test_shots_are_parsed() -> None:
    assert [probe.shot_ladder(text) for text in (None, "", "1", "2", "6", "8", "9")] == [
        [], [], [1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8], [1, 2, 4, 8, 9]
    ]  # fmt: skip
    assert probe.shot_ladder("9,1,3,3") == [1, 3, 9]
    for text in ("0", "-1", "1.5", "many", "1,", "1,0", "2-4"):
        with pytest.raises(UsageError, match=f"shots={text}"):
            probe.shot_ladder(text)


def test_the_curve(fitted: Any) -> None:
    folder = fitted(shots="1,2", seeds=2, scratch_epochs=2, class_weights="balanced")
    rows = json.loads((folder / "shots.json").read_text())
    assert [(row["series"], row["shots"]) for row in rows] == [
        ("lenet5 features, linear", 1), ("lenet5 features, linear", 2),
        ("lenet5 from scratch", 1), ("lenet5 from scratch", 2),
    ]  # fmt: skip
    for row in rows:
        assert len(row["values"]) == 2 and row["mean"] == pytest.approx(np.mean(row["values"]))
        assert all(value * 6 == pytest.approx(round(value * 6)) for value in row["values"])  # of 6 pictures
    assert (folder / "shots.png").is_file()


def test_the_curve_repeats_and_can_do_without_the_contrast(fitted: Any) -> None:
    options = {"shots": "2", "seeds": 2, "scratch_epochs": 0, "backbone": "lenet5"}
    first, second = (json.loads((fitted(**options) / "shots.json").read_text()) for _ in range(2))
    assert first == second and {row["series"] for row in first} == {"lenet5 features, linear"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shots": "4"}, "class 'blue' has only 3"),
        ({"shots": "none at all"}, "shots=none at all"),
        ({"shots": "1", "seeds": 0}, "seeds is at least 1"),
        ({"method": "forest"}, "choose one of"),
    ],
)
def test_what_cannot_be_fitted_is_named_before_there_is_a_folder(
    settings: Any, said: str, fitted: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        fitted(**settings)
    assert not (tmp_path / "runs").exists()


def test_nothing_to_judge_on_is_named(fitted: Any, paint_folder: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no val or test split"):
        fitted(data=str(paint_folder(tmp_path / "d", train={"blue": 2, "red": 2})))


def test_several_processes_are_refused(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retinue.tools.setup.Setup.ranks", 2)
    with pytest.raises(UsageError, match="one process"):
        fitted()


def test_a_task_that_is_not_fitted_is_refused(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from retinue.tasks.classification.classification import Classifier

    monkeypatch.setattr(Classifier, "FITTED", {})
    with pytest.raises(UsageError, match="not fitted but descended"):
        fitted()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "least"), [("linear", 0.95), ("svm", 0.94)])
def test_ants_and_bees(method: str, least: float, fitted: Any) -> None:
    """scikit-learn on torchvision's features gets 96.1 %."""
    folder, weights = SHARED / "hymenoptera_data", SHARED / "weights/mobilenet_v2_imagenet.pth"
    for path in (folder, weights):
        if not path.exists():
            pytest.skip(f"needs {path}")
    run = fitted(
        data=str(folder), backbone="mobilenet_v2", weights=str(weights), imgsz=224, batch=16, method=method
    )
    values = evaluate.evaluate(str(run), data=str(folder), workers=0)
    assert values["top1"] >= least
