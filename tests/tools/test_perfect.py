"""Perfect predictions are perfect: data -> target -> prediction -> json -> figures, for all ids, formats, orientations.

The predictions go the way of a model's own: the truth, as the evaluation transform brings it to the network, takes the
place of what the heads say, and the detector's own code leads it back to the file's frame.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from detectors import ALL, small
from PIL import Image
from torch import Tensor

from retinue.datasets.formats import open_splits
from retinue.datasets.pictures import orient
from retinue.datasets.targets import Pictures, Target, collate
from retinue.tasks.detection.detector import Detector
from retinue.tasks.detection.faster_rcnn import FasterRCNN
from retinue.tasks.detection.keypoint_rcnn import KeypointRCNN
from retinue.tasks.detection.keypoints import heatmap_cells
from retinue.tasks.detection.mask_rcnn import MaskRCNN, mask_targets
from retinue.tasks.detection.masks import EncodedMasks, encode
from retinue.tasks.detection.regions import Found
from retinue.tasks.task import Model
from retinue.tools.evaluate import collect, eval_loader
from retinue.tools.judge import judge
from retinue.tools.loader import View
from retinue.tools.predict import CocoFiles
from retinue.tools.predictor import Predicted
from retinue.tools.progress import Log

SIZE = (44, 60)
"""Height and width of the upright pictures."""
PICTURES: list[list[tuple[int, int, int, int, int]]] = [
    [(0, 4, 3, 31, 19), (1, 33, 20, 58, 43)],
    [],
    [(1, 0, 0, 24, 40), (0, 40, 2, 59, 25), (1, 30, 28, 43, 44)],
]
"""Class index and x1 y1 x2 y2 of the objects, upright."""
NAMES = ("ant", "bee")
SIDE = 61
"""Shorter side at the network: no whole multiple of the file's."""


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """(h, w) or (h, w, c) as it must be stored, so that `orientation` shows it upright."""
    planes = upright.reshape(*upright.shape[:2], -1)
    for guess in range(1, 9):  # one of the eight undoes it
        stored = orient(planes, guess)
        again = orient(stored, orientation)
        if again.shape == planes.shape and (again == planes).all():
            return np.ascontiguousarray(stored).reshape(*stored.shape[:2], *upright.shape[2:])
    raise AssertionError(orientation)


def mask_of(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]


class Layout:
    """Tiny data whose objects are white on black; `stored` annotations are in the frame that the file is stored in."""

    def __init__(self, root: Path, orientation: int = 1, stored: bool = False) -> None:
        self.root, self.orientation, self.stored = root, orientation, stored
        self.size = as_stored(mask_of((0, 0, 1, 1)), orientation).shape if stored else SIZE

    def mask(self, box: tuple[int, int, int, int]) -> np.ndarray:
        mask = mask_of(box)
        return as_stored(mask, self.orientation) if self.stored else mask

    def boxes(self, i: int) -> list[tuple[int, list[int]]]:
        """Class index and box of each object, in the annotation's frame."""
        return [(label, box_of(self.mask(box))) for label, *box in PICTURES[i]]  # type: ignore[arg-type]

    def picture(self, path: Path, i: int) -> None:
        image = np.zeros((*SIZE, 3), np.uint8)
        for _, x1, y1, x2, y2 in PICTURES[i]:
            image[y1:y2, x1:x2] = 255
        exif = Image.Exif()
        exif[274] = self.orientation
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(as_stored(image, self.orientation)).save(path, exif=exif, quality=95, subsampling=0)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def coco(self, ids: tuple[int, int] = (1, 2)) -> None:
        images: list[dict[str, Any]] = []
        things: list[dict[str, Any]] = []
        for i in range(len(PICTURES)):
            self.picture(self.root / f"val/{7 + i:03d}.jpg", i)
            height, width = self.size
            images.append({"id": 7 + i, "file_name": f"{7 + i:03d}.jpg", "height": height, "width": width})
            for label, (x1, y1, x2, y2) in self.boxes(i):
                things.append(
                    {"id": len(things), "image_id": 7 + i, "category_id": ids[label], "iscrowd": 0,
                     "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "num_keypoints": 2,
                     "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                     "keypoints": [x1 + 2.5, y1 + 3.5, 2, x2 - 1.5, y2 - 2.5, 1, 0, 0, 0]}
                )  # fmt: skip
        names = [{"id": id, "name": n, "keypoints": ["a", "b", "c"]} for id, n in zip(ids, NAMES)]
        value = {"images": images, "annotations": things, "categories": names}
        self.write("annotations/instances_val.json", json.dumps(value))

    def yolo(self, ids: tuple[int, int] = (0, 1)) -> None:
        for i in range(len(PICTURES)):
            self.picture(self.root / f"images/val/{i}.jpg", i)
            height, width = self.size
            lines = ""
            for label, (x1, y1, x2, y2) in self.boxes(i):
                lines += f"{ids[label]} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} "
                lines += f"{(x2 - x1) / width} {(y2 - y1) / height}\n"
            self.write(f"labels/val/{i}.txt", lines)
        names = "".join(f"  {id}: {name}\n" for id, name in zip(ids, NAMES))
        self.write("data.yaml", f"path: .\ntrain: images/val\nval: images/val\nnames:\n{names}")

    def voc(self) -> None:
        for i in range(len(PICTURES)):
            self.picture(self.root / f"JPEGImages/p{i}.jpg", i)
            height, width = self.size
            things = "".join(
                f"<object><name>{NAMES[label]}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
                f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                for label, (x1, y1, x2, y2) in self.boxes(i)
            )
            size = f"<size><width>{width}</width><height>{height}</height></size>"
            source = "<source><annotation>PASCAL VOC2007</annotation></source>"
            text = f"<annotation><filename>p{i}.jpg</filename>{source}{size}{things}</annotation>"
            self.write(f"Annotations/p{i}.xml", text)
        self.write("ImageSets/Main/val.txt", "\n".join(f"p{i}" for i in range(len(PICTURES))))

    def mask_folder(self) -> None:
        for i, objects in enumerate(PICTURES):
            self.picture(self.root / f"val/PNGImages/{i}.jpg", i)
            mask = np.zeros(self.size, np.uint8)
            for k, (_, *box) in enumerate(objects, 1):
                mask[self.mask(box).astype(bool)] = k  # type: ignore[arg-type]
            (self.root / "val/BugMasks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(self.root / f"val/BugMasks/{i}_mask.png")


class Oracle(Model):
    """A detector whose heads say what the canvas's truth is; what follows them is its own.

    exact: masks at the picture's resolution and keypoints to the last bit, else by way of 28 x 28 masks and heat maps.
    """

    def __init__(self, kind: type[Detector], dataset: Any, exact: bool = True) -> None:
        model = small(kind, dataset.classes)
        super().__init__(model.backbone, dict(model.named_tasks))
        self.dataset, self.exact = dataset, exact
        self.view = View(dataset, self.task.eval_transform(SIDE), self.task.target_keys())
        self.number = {dataset.id(i): i for i in range(len(dataset))}

    @property
    def task(self) -> Any:
        return self.named_tasks["it"]

    def predict(self, pictures: Pictures) -> dict[str, list[Any]]:
        numbers = [self.number[id] for id in pictures.ids]
        _, truth = collate([self.view[0, i] for i in numbers])
        counts = [len(target["boxes"]) for target in truth]
        boxes, labels = (torch.cat([t[key] for t in truth]) for key in ("boxes", "box_labels"))
        scores = torch.cat([torch.linspace(1, 0.5, count) for count in counts])
        self.task.mask_logits = lambda features, own, _: small_masks(truth, own)
        self.task.heat = lambda features, own: heat_maps(truth, own)
        with mock.patch.object(self.task, "find", return_value=Found(boxes, scores, labels, counts)):
            results = super().predict(pictures)["it"]
        return {
            "it": [self.sharpen(r, i, t) for r, i, t in zip(results, numbers, truth)]
            if self.exact
            else results
        }

    def sharpen(self, result: Any, number: int, canvas: Target) -> Any:
        sample, changes = self.dataset[number], {}
        if result.masks is not None:
            changes["masks"] = EncodedMasks(
                tuple(encode(mask) for mask in sample.targets["masks"]), result.size
            )
        if result.keypoints is not None:
            changes["keypoints"] = sample.targets["keypoints"]
        return type(result)(**{**vars(result), **changes})


def small_masks(truth: list[Target], boxes: list[Tensor]) -> Tensor:
    parts = [mask_targets(t["masks"], b, torch.arange(len(b)), 28) for t, b in zip(truth, boxes)]
    return (torch.cat(parts) - 0.5) * 40


def heat_maps(truth: list[Target], boxes: list[Tensor]) -> Tensor:
    points = torch.cat([target["keypoints"] for target in truth])
    cells, _ = heatmap_cells(points, torch.cat(boxes), 56)
    side = torch.arange(56)
    across, down = ((side - part[..., None]) ** 2 for part in (cells % 56, cells // 56))
    return -(down[..., :, None] + across[..., None, :]).float()


def figures(
    kind: type[Detector], root: Path, exact: bool = True
) -> tuple[dict[str, float], dict[str, float]]:
    """(the metric's figures, those of the json that is written for `retinue eval predictions=`)."""
    dataset: Any = open_splits(str(root))["val"]
    for i in range(len(dataset)):  # the truth lies where the objects are seen
        sample = dataset[i]
        assert sample.image.shape[:2] == SIZE and len(sample.targets["boxes"]) == len(PICTURES[i])
        seen = [int(v) for v in np.flatnonzero(sample.image.min(2) > 128)]
        inside = np.zeros(SIZE, bool)
        for x1, y1, x2, y2 in sample.targets["boxes"].round().astype(int):
            inside[y1:y2, x1:x2] = True
        assert seen == np.flatnonzero(inside).tolist()
    oracle = Oracle(kind, dataset, exact).eval()
    loader = eval_loader(oracle.task, dataset, SIDE, 0, divisor=32)
    log, cpu = Log(quiet=True), torch.device("cpu")
    metrics = collect(oracle, loader, len(dataset), 2, cpu, "fp32", log)
    files = CocoFiles(log)
    for pictures, _ in loader.batches([[(0, i)] for i in range(len(dataset))]):
        (id,) = pictures.ids
        files.add(Predicted(dataset.path(oracle.number[id]), {"it": oracle.predict(pictures)["it"][0]}))
    files.write(root)
    values, remarks = judge(str(root / "predictions.json"), str(root), "val")
    assert not [remark for remark in remarks if "not judged" in remark]
    return metrics["it"].compute(), values


def perfect(values: dict[str, float], *names: str) -> bool:
    """Whether all of these kinds' figures, of classes and sizes too, are 1 where there is truth for them."""
    own = {k: v for k, v in values.items() if k.partition("/")[0] in names and not np.isnan(v)}
    own = {k: v for k, v in own.items() if not k.endswith(("AR1", "AR10"))}  # one or ten a picture, of three
    return {f"{name}/AP" for name in names} <= own.keys() and all(v == 1 for v in own.values())


IDS = [(0, 1), (1, 2), (17, 90), (90, 3)]


@pytest.mark.parametrize("ids", IDS)
def test_coco_boxes_masks_and_keypoints(ids: tuple[int, int], tmp_path: Path) -> None:
    Layout(tmp_path).coco(ids)
    for kind, names in ((MaskRCNN, ("box", "mask")), (KeypointRCNN, ("box", "keypoints"))):
        for values in figures(kind, tmp_path):
            assert perfect(values, *names), values
            assert {f"box/AP/{name}" for name in NAMES} <= values.keys()


@pytest.mark.parametrize("ids", [(0, 1), (1, 2), (17, 90)])
def test_yolo(ids: tuple[int, int], tmp_path: Path) -> None:
    Layout(tmp_path).yolo(ids)
    assert all(perfect(values, "box") for values in figures(FasterRCNN, tmp_path))


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_detector(kind: type[Detector], tmp_path: Path) -> None:
    Layout(tmp_path).coco((17, 90))
    assert all(perfect(values, *kind.kinds) for values in figures(kind, tmp_path))


def test_voc(tmp_path: Path) -> None:
    Layout(tmp_path).voc()
    assert all(perfect(values, "box") for values in figures(FasterRCNN, tmp_path))


def test_mask_folders(tmp_path: Path) -> None:
    Layout(tmp_path).mask_folder()
    assert all(perfect(values, "box", "mask") for values in figures(MaskRCNN, tmp_path))


def test_what_the_resolution_of_heads_costs(tmp_path: Path) -> None:
    """By way of 28 x 28 masks and 56 x 56 heat maps, in small objects: 0.97 of mask AP, all of the keypoints'."""
    Layout(tmp_path).coco()
    for values in figures(MaskRCNN, tmp_path, exact=False):
        assert perfect(values, "box") and values["mask/AP75"] == 1 and values["mask/AP"] > 0.95, values
    for values in figures(KeypointRCNN, tmp_path, exact=False):
        assert perfect(values, "box", "keypoints"), values


ORIENTED = [(o, False) for o in range(1, 9)] + [(o, True) for o in range(5, 9)]
"""Annotations of the stored frame can be told by their size alone: where EXIF turns by a quarter."""


@pytest.mark.parametrize(("orientation", "stored"), ORIENTED)
@pytest.mark.parametrize("form", ["coco", "voc", "mask_folder"])
def test_every_orientation(form: str, orientation: int, stored: bool, tmp_path: Path) -> None:
    layout = Layout(tmp_path, orientation, stored)
    write: Callable[[], None] = getattr(layout, form)
    write()
    kind, names = (FasterRCNN, ("box",)) if form == "voc" else (MaskRCNN, ("box", "mask"))
    for values in figures(kind, tmp_path):
        assert perfect(values, *names), values
    if form == "coco":
        assert all(perfect(values, "keypoints") for values in figures(KeypointRCNN, tmp_path))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_yolo(orientation: int, tmp_path: Path) -> None:
    """Its files state no size: what they say is of the upright picture."""
    Layout(tmp_path, orientation).yolo()
    assert all(perfect(values, "box") for values in figures(FasterRCNN, tmp_path))
