"""A run's data: the sizes of its pictures, and canvases that really occur, tried before the first step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retinue.backbones import build
from retinue.datasets.formats import open_splits
from retinue.datasets.targets import ClassMap
from retinue.datasets.transforms import Mosaic, Resize
from retinue.tasks.classification import Classifier
from retinue.tasks.task import Model
from retinue.tools.options import Train, UsageError
from retinue.tools.progress import Log
from retinue.tools.reading import readable
from retinue.tools.run_data import canvases, check_fit, open_data


def test_sizes_are_those_of_the_pictures_that_are_left(paint_folder: Any, paint: Any, tmp_path: Path) -> None:
    folder = paint_folder(tmp_path, train={"blue": 2, "red": 1})
    paint(folder / "train/blue/a.png", size=(20, 31))
    (folder / "train/blue/b.png").write_bytes(b"")
    sizes: dict[str, np.ndarray] = {}
    splits = readable({"train": open_splits(str(folder))["train"]}, False, Log(quiet=True), sizes)
    assert sizes["train"].tolist() == [
        list(splits["train"][i].image.shape[:2]) for i in range(len(splits["train"]))
    ]
    assert sizes["train"].tolist() == [[28, 36], [28, 36], [20, 31], [28, 36]]
    options = Train(task="classification", data=str(folder))
    _, side, again = open_data(options, Log(quiet=True), {"imgsz": 40})
    assert side == 40 and np.array_equal(again, sizes["train"])  # type: ignore[arg-type]


MOSAIC = (24, 24)


class Kept(Classifier):
    """A classifier that keeps the aspect of its pictures, and trains on mosaics of them."""

    def train_transform(self, side: int) -> Any:
        return Mosaic(MOSAIC[0], p=1.0)

    def eval_transform(self, side: int) -> Any:
        return Resize(side)


@pytest.fixture
def model() -> Model:
    backbone = build("lenet5")
    return Model(backbone, {"it": Kept(backbone, ClassMap(("a", "b")))})


def test_canvases_are_those_of_the_extreme_pictures(model: Model) -> None:
    sizes = np.array([(30, 40), (30, 300), (400, 40), (10, 10), (50, 60)])
    assert canvases(model, 32, sizes) == {(32, 320), (320, 32), (32, 32), MOSAIC}
    assert canvases(model, 32, None) == {(32, 32), MOSAIC}


def test_a_canvas_that_is_too_small_is_named_before_the_first_step(model: Model) -> None:
    splits, options = {"train": [0] * 8}, Train(batch=4)
    model.named_tasks["it"].needs = frozenset()  # type: ignore[misc]
    splits["train"] = type("Data", (list,), {"keys": frozenset()})([0] * 8)
    with pytest.raises(UsageError, match=r"imgsz=4: pictures of 4x\d+ are too small"):
        check_fit(model, splits, 4, np.array([(30, 40)]), options, 1)
    with pytest.raises(UsageError, match="5 processes need one each"):
        check_fit(model, splits, 32, None, options, 5)
    check_fit(model, splits, 32, np.array([(30, 40)]), options, 2)
