"""Perfect masks are perfect: data -> target -> canvas -> result -> file -> data again, for all orientations and codes.

The truth, as the evaluation transform brings it to the network, takes the place of the logits; the way back to the file
is the task's own.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

from retinue.backbones import build
from retinue.datasets.formats import open_splits
from retinue.datasets.pictures import orient
from retinue.datasets.targets import IGNORE, Pictures
from retinue.tasks.segmentation.encoder_decoder import EncoderDecoder
from retinue.tasks.segmentation.metrics import SegmentationMetric
from retinue.tasks.segmentation.results import Segmentation
from retinue.tasks.segmentation.segmenter import truth_on_canvas
from retinue.tasks.task import Model
from retinue.tools.drawings import write_files
from retinue.tools.evaluate import collect, eval_loader
from retinue.tools.loader import View
from retinue.tools.progress import Log

SIZES = [(40, 56), (40, 72), (60, 40)]
BACK = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
"""The orientation that undoes another."""
KEYS = frozenset({"semantic"})


class Oracle(Model):
    """A segmenter whose maps are the truth on the canvas; what is ignored gets the first class."""

    def __init__(self, dataset: Any, side: int) -> None:
        backbone = build("resnet18")
        task = EncoderDecoder(backbone, dataset.classes, levels=["c1", "c2"])
        super().__init__(backbone, {"it": task})
        self.dataset, self.view = dataset, View(dataset, task.eval_transform(side), KEYS)
        self.number = {dataset.id(i): i for i in range(len(dataset))}

    def predict(self, pictures: Pictures) -> dict[str, list[Any]]:
        samples = [self.view[0, self.number[id]] for id in pictures.ids]
        targets = [{"semantic": torch.from_numpy(sample.targets["semantic"])} for sample in samples]
        truth = truth_on_canvas(targets, (pictures.pixels.shape[-2], pictures.pixels.shape[-1]))
        known = torch.where(truth == IGNORE, 0, truth)
        maps = one_hot(known, len(self.dataset.classes)).permute(0, 3, 1, 2).float()
        return {"it": self.named_tasks["it"].answer(maps, pictures)}  # type: ignore[attr-defined]


def predicted(root: Path, side: int) -> tuple[Any, SegmentationMetric, list[Segmentation]]:
    """The validation split, the metric of perfect predictions, and these."""
    dataset: Any = open_splits(str(root), keys=KEYS)["val"]
    oracle = Oracle(dataset, side).eval()
    loader = eval_loader(oracle.named_tasks["it"], dataset, side, 0)
    metric: Any = collect(oracle, loader, len(dataset), 2, torch.device("cpu"), "fp32", Log(quiet=True))["it"]
    found = []
    for pictures, _ in loader.batches([[(0, i)] for i in range(len(dataset))]):
        found += oracle.predict(pictures)["it"]
    return dataset, metric, found


def turn(root: Path, orientation: int, masks: bool) -> None:
    """Store pictures, and perhaps masks, so that the orientation in the pictures' EXIF shows them upright."""
    exif = Image.Exif()
    exif[274] = orientation
    for folder in ("val", "valannot") if masks else ("val",):
        for path in (root / folder).iterdir():
            stored = np.ascontiguousarray(orient(np.asarray(Image.open(path)), BACK[orientation]))
            Image.fromarray(stored).save(path, **({"exif": exif} if folder == "val" else {}))


@pytest.mark.parametrize("side", [40, 80])
def test_perfect_masks_score_one_and_so_do_their_files(side: int, paint_masks: Any, tmp_path: Path) -> None:
    root = paint_masks(tmp_path / "data", val=SIZES)
    dataset, metric, found = predicted(root, side)
    values = metric.compute()
    assert [v for v in values.values() if v != 1] == [] and {"miou", "miou/disc"} <= values.keys()
    read, written = SegmentationMetric(dataset.classes), tmp_path / "written/valannot"
    written.mkdir(parents=True)
    for i, result in enumerate(found):
        (name,) = write_files(dataset.path(i), dataset[i].image, {"it": result}, written)
        labels = np.asarray(Image.open(written / name))
        read.update([str(i)], [Segmentation("x", labels, dataset.classes)], [dataset[i].targets])
        (written / name).rename(written / f"{dataset.path(i).stem}.png")
    assert read.compute() == values
    # The written masks are data again, of the same classes.
    shutil.copytree(root / "val", written.parent / "val")
    (written.parent / "classes.txt").write_text("0 ground\n1 disc\n")
    again: Any = open_splits(str(written.parent), keys=KEYS)["val"]
    for i, result in enumerate(found):
        assert np.array_equal(again[i].targets["semantic"], result.labels)


@pytest.mark.parametrize(
    ("orientation", "masks"), [*((o, False) for o in range(1, 9)), *((o, True) for o in range(5, 9))]
)
def test_every_orientation(orientation: int, masks: bool, paint_masks: Any, tmp_path: Path) -> None:
    """Masks of the stored frame can be told by their size alone: where EXIF turns by a quarter."""
    root = paint_masks(tmp_path, val=SIZES)
    turn(root, orientation, masks)
    _, metric, found = predicted(root, 80)
    assert set(metric.compute().values()) == {1.0}
    assert [result.size for result in found] == SIZES


def test_what_a_canvas_of_another_size_costs(paint_masks: Any, tmp_path: Path) -> None:
    root = paint_masks(tmp_path, val=SIZES)
    assert predicted(root, 61)[1].compute()["miou"] == 1  # the rims are void
    assert 0.9 < predicted(root, 31)[1].compute()["miou"] < 1
