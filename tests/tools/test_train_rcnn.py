"""R-CNN through the engine: fine-tuning, then a fit, then the same numbers from eval; and what cannot be asked for."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retinue.datasets.formats import open_splits
from retinue.datasets.proposals import Proposals, Regions, write_proposals
from retinue.tasks import model_file
from retinue.tasks.detection.rcnn import RCNN
from retinue.tools import evaluate as evaluation
from retinue.tools import loop, run_folder, train
from retinue.tools.evaluate import evaluate
from retinue.tools.feature_file import FeatureFile
from retinue.tools.options import UsageError
from retinue.tools.predict import predict
from retinue.tools.run_folder import finite

SMALL: dict[str, Any] = {
    "backbone": "lenet5", "imgsz": 48, "region_side": 32, "context": 3, "batch": 3, "epochs": 2, "workers": 0,
    "warmup": 0, "lr": "0.001", "precision": "fp32", "sampled": 8, "svm_strength": 0.1,
}  # fmt: skip
SHAPES = [(60, 80), (80, 60), (64, 64), (50, 100), (100, 50)]


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves are tested elsewhere."""
    monkeypatch.setattr(evaluation, "draw_plots", lambda *_: None)
    monkeypatch.setattr(run_folder, "plot_results", lambda *_: None)


@pytest.fixture(scope="module")
def data(paint_boxes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures to train on, one of them without an object, and three to judge; proposals of each in a file."""
    pictures = [(*shape, [(4 + i, 6, 30 + i, 34), (10, 30 + i, 36, 48)]) for i, shape in enumerate(SHAPES)]
    pictures[2] = (64, 64, [])
    root = paint_boxes(tmp_path_factory.mktemp("boxes"), train=pictures, val=pictures[:3])
    rng, regions = np.random.default_rng(0), []
    for dataset in open_splits(str(root)).values():
        for i in range(len(dataset)):
            sample = dataset[i]
            corner = rng.uniform(0, 30, (12, 2))
            others = np.concatenate([corner, corner + rng.uniform(5, 30, (12, 2))], 1)
            boxes = np.concatenate([sample.targets["boxes"] + 1, others]).astype(np.float32)
            regions.append(Regions(dataset.id(i), sample.image.shape[:2], boxes))
    write_proposals(root / "p.safetensors", Proposals.join("p", regions))
    return root


def run(data: Path, project: Path, **settings: Any) -> Path:
    regions = {"regions": str(data / "p.safetensors"), "data": str(data), "project": str(project)}
    return train.train("rcnn", **{**SMALL, **regions, **settings})


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(data, tmp_path_factory.mktemp("runs"))


def own(folder: Path, name: str = "last") -> RCNN:
    task = model_file.load(folder / f"weights/{name}.safetensors")[0].named_tasks["rcnn"]
    assert isinstance(task, RCNN)
    return task


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


def test_it_is_tuned_then_fitted_then_judged(straight: Path, data: Path) -> None:
    said = (straight / "train.log").read_text()
    stages = ["2 epochs of descent", "epoch 2/2: class", "features of train: 76 x 84", "SVMs with hard negatives",
              "round 1:", "box regressors from", "box/AP50", "retinue predict"]  # fmt: skip
    places = [said.index(stage) for stage in stages]
    assert places == sorted(places) and "no val" not in said
    rows = table(straight)
    assert [row["epoch"] for row in rows] == ["1", "2", "2"]
    assert rows[1]["train/class"] and not rows[1]["box/AP"] and float(rows[2]["box/AP50"]) > 0
    for name in ("best", "last"):
        assert own(straight, name).fitted
    assert {path.name for path in straight.iterdir()} >= {
        "args.yaml",
        "state",
        "first_batch.jpg",
        "val_predictions.jpg",
    }


def test_eval_gives_the_numbers_that_training_printed(straight: Path, data: Path) -> None:
    weights = straight / "weights/best.safetensors"
    values = evaluate(str(weights), data=str(data), regions=str(data / "p.safetensors"), workers=0)
    assert finite(values) == model_file.read_header(weights)["metrics"]
    paths = [str(data / "val/000.png")]
    (found,) = predict(str(straight), paths, regions=str(data / "p.safetensors"), conf=0.0)
    assert len(found.results["rcnn"])


def test_a_run_that_is_broken_off_while_it_is_tuned_goes_on(
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
    resumed = train.train(resume=str(tmp_path / "rcnn/broken"))
    for name in ("weights/best.safetensors", "results.csv"):
        assert (straight / name).read_bytes() == (resumed / name).read_bytes(), name


def test_without_tuning_and_from_a_run(straight: Path, data: Path, tmp_path: Path) -> None:
    """The fit of a model that goes on without descent is the fit that it had."""
    again = run(data, tmp_path, model=str(straight), tune="none")
    assert not (again / "state").exists() and [row["epoch"] for row in table(again)] == ["0"]
    for name in ("svms", "boxes"):
        ours, theirs = (getattr(own(folder), name).weight.numpy() for folder in (again, straight))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_softmax_and_svms_are_judged_from_the_same_weights(straight: Path, data: Path) -> None:
    regions = {"data": str(data), "regions": str(data / "p.safetensors"), "workers": 0}
    svm, softmax = (evaluate(str(straight), scores=scores, **regions) for scores in ("svm", "softmax"))
    assert finite(svm) == finite(evaluate(str(straight), **regions)) != finite(softmax)


def test_descent_alone_is_judged_every_epoch_by_its_softmax(data: Path, tmp_path: Path) -> None:
    folder = run(data, tmp_path, method="descend")
    assert all(row["box/AP"] for row in table(folder)) and len(table(folder)) == 2
    assert not own(folder).fitted


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "linear"}, "method=linear: rcnn is fitted by method=svm"),
        ({"method": "descend", "tune": "none"}, "tune=none: nothing would descend"),
        ({"shots": "2"}, "shots=2 are pictures of a class"),
        ({"regions": None}, "rcnn needs proposals: regions=FILE"),
    ],
)
def test_what_cannot_be_done_is_named_before_there_is_a_folder(
    settings: Any, said: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        run(data, tmp_path, **settings)
    assert not (tmp_path / "rcnn").exists()
    assert isinstance(caught.value, UsageError) or "regions" in settings


def test_a_feature_file_gives_back_its_rows(tmp_path: Path) -> None:
    file = FeatureFile(tmp_path)
    first, second = np.arange(6, dtype=np.float16).reshape(3, 2), np.full((1, 2), 9, np.float16)
    for part, numbers in ((first, [1, 2, 3]), (first[:0], []), (second, [4])):
        file.add([part, np.array(numbers, np.int64)])
    rows, numbers = file.arrays()
    assert np.array_equal(rows, np.concatenate([first, second])) and numbers.tolist() == [1, 2, 3, 4]
    assert rows.dtype == np.float16 and not list(tmp_path.iterdir())  # the files have no names
    empty = FeatureFile(tmp_path)
    empty.add([np.zeros((0, 5), np.float32)])
    assert empty.arrays()[0].shape == (0, 5)
