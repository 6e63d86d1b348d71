"""What every data set must do: every format module is found and its smallest instance read by the contract's rules."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from retinue.datasets.formats import describe, format_modules, open_splits
from retinue.datasets.targets import KEYS, Sample

TYPES = {
    "label": (np.integer, 0), "boxes": (np.float32, 2), "box_labels": (np.integer, 1), "crowd": (np.bool_, 1),
    "area": (np.float32, 1), "masks": (np.bool_, 3), "keypoints": (np.float32, 3), "semantic": (np.integer, 2),
    "depth": (np.float32, 2), "normals": (np.float32, 3), "clean": (np.float32, 3), "hole": (np.bool_, 3),
}  # fmt: skip
"""Key -> (kind of number, dimensions), as `KEYS` words them."""


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((20, 30, 3), value, np.uint8))


def image_folder(root: Path) -> str:
    for i, place in enumerate(("train/a", "train/b", "val/a", "val/b")):
        picture(root / place / f"{i}.png", 50 * i)
    return str(root)


def csv_list(root: Path) -> str:
    rows = ["image,label,split"]
    for i in range(4):
        picture(root / f"{i}.png", 50 * i)
        rows.append(f"{i}.png,{'ab'[i % 2]},{'train' if i < 2 else 'val'}")
    (root / "list.csv").write_text("\n".join(rows))
    return str(root / "list.csv")


def voc(root: Path) -> str:
    box = "<xmin>2</xmin><ymin>3</ymin><xmax>10</xmax><ymax>12</ymax>"
    for i, split in enumerate(("train", "val")):
        picture(root / f"JPEGImages/{i}.png", 50 * i)
        (root / "Annotations").mkdir(exist_ok=True)
        text = f"<annotation><object><name>a</name><bndbox>{box}</bndbox></object></annotation>"
        (root / f"Annotations/{i}.xml").write_text(text)
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{split}.txt").write_text(f"{i}\n")
    return str(root)


def coco(root: Path) -> str:
    objects = {
        "id": 7,
        "image_id": 5,
        "category_id": 3,
        "bbox": [2, 3, 8, 9],
        "segmentation": [[2, 3, 10, 3, 10, 12]],
    }
    for i, split in enumerate(("train", "val")):
        picture(root / f"{split}2017/{i}.png", 50 * i)
        value = {
            "images": [{"id": 5, "file_name": f"{i}.png", "height": 20, "width": 30}],
            "categories": [{"id": 3, "name": "a"}],
            "annotations": [objects],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(value))
    return str(root)


def mask_folder(root: Path) -> str:
    for i in range(4):
        picture(root / f"PNGImages/{i}.png", 50 * i)
        mask = np.zeros((20, 30), np.uint8)
        mask[3:12, 2:10] = 1
        (root / "PedMasks").mkdir(exist_ok=True)
        cv2.imwrite(str(root / f"PedMasks/{i}_mask.png"), mask)
    return str(root)


def mask_pairs(root: Path) -> str:
    for i, split in enumerate(("train", "val")):
        picture(root / f"images/{split}/{i}.png", 50 * i)
        (root / f"labels/{split}").mkdir(parents=True)
        mask = np.zeros((20, 30), np.uint8)
        mask[3:12, 2:10] = i + 1
        cv2.imwrite(str(root / f"labels/{split}/{i}.png"), mask)
    return str(root)


def voc_semantic(root: Path) -> str:
    for i, split in enumerate(("train", "val")):
        picture(root / f"JPEGImages/{i}.png", 50 * i)
        mask = Image.fromarray(np.full((20, 30), 15, np.uint8))
        mask.putpalette(list(range(255, -1, -1)) * 3)
        (root / "SegmentationClass").mkdir(exist_ok=True)
        mask.save(root / f"SegmentationClass/{i}.png")
        (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(f"{i}\n")
    return str(root)


def yolo(root: Path) -> str:
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a, b]\n")
    for i, split in enumerate(("train", "val")):
        picture(root / f"images/{split}/{i}.png", 50 * i)
        (root / f"labels/{split}").mkdir(parents=True)
        (root / f"labels/{split}/{i}.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    return str(root)


SMALLEST: dict[str, Callable[[Path], str]] = {
    "image_folder": image_folder,
    "csv_list": csv_list,
    "voc": voc,
    "yolo": yolo,
    "coco": coco,
    "mask_folder": mask_folder,
    "mask_pairs": mask_pairs,
    "voc_semantic": voc_semantic,
    "scenes": lambda root: "scenes:3",
}
"""For each format, a function that writes a tiny copy of its layout and returns the source to open."""


def test_every_format_has_a_smallest_instance_here() -> None:
    assert format_modules().keys() == SMALLEST.keys()
    assert TYPES.keys() == KEYS.keys()


@pytest.mark.parametrize("name", SMALLEST)
def test_it_finds_its_own_and_nothing_else(name: str, tmp_path: Path) -> None:
    source = SMALLEST[name](tmp_path)
    found = {other for other, module in format_modules().items() if module.splits(source)}
    assert found == {name}
    assert format_modules()[name].__doc__


@pytest.mark.parametrize("name", SMALLEST)
def test_its_samples_keep_the_contract(name: str, tmp_path: Path) -> None:
    splits = open_splits(SMALLEST[name](tmp_path))
    assert "train" in splits and splits.keys() <= {"train", "val", "test"}
    assert all(part in describe(splits) for part in (name, *splits))
    ids: list[str] = []
    for part in splits.values():
        assert part.keys <= KEYS.keys() and len(part)
        for i in range(len(part)):
            sample = part[i]
            check(sample, part.keys)
            ids.append(sample.id)
            again = part[i]
            assert again.id == sample.id and (again.image == sample.image).all()
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", SMALLEST)
def test_other_processes_can_be_given_it(name: str, tmp_path: Path) -> None:
    for part in open_splits(SMALLEST[name](tmp_path)).values():
        again = pickle.loads(pickle.dumps(part))
        assert len(again) == len(part) and again.keys == part.keys and again.classes == part.classes
        assert again[0].id == part[0].id and (again[0].image == part[0].image).all()
        assert again[0].targets.keys() == part[0].targets.keys()


def check(sample: Sample, keys: frozenset[str]) -> None:
    assert isinstance(sample, Sample)
    height, width, channels = sample.image.shape
    assert sample.image.dtype in (np.uint8, np.uint16) and channels == 3
    assert sample.file_size == (height, width) and (sample.to_file == np.eye(2, 3)).all()
    assert sample.targets.keys() == keys
    for key, value in sample.targets.items():
        number, dimensions = TYPES[key]
        assert np.issubdtype(value.dtype, number) and value.ndim == dimensions, key
        if key in ("semantic", "depth", "normals", "masks", "clean", "hole"):
            assert value.shape[-2:] == (height, width), key
    rows = {len(sample.targets[k]) for k in ("boxes", "box_labels", "crowd", "area", "masks") if k in keys}
    assert len(rows) <= 1
