"""Data sets with all that a conversion may lose: in COCO's and YOLO's files."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from retinue.datasets.objects import ObjectPictures

WIDTH, HEIGHT = 64, 48


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), value, np.uint8))


def code(mask: np.ndarray) -> dict[str, Any]:
    made = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [HEIGHT, WIDTH], "counts": made["counts"].decode()}


def square(x: int, y: int, side: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def annotation(id: int, image: int, category: int, box: list[float], **more: Any) -> dict[str, Any]:
    given = {"segmentation": [], "iscrowd": 0, "area": box[2] * box[3]}
    return {"id": id, "image_id": image, "category_id": category, "bbox": box} | given | more


def coco_value(split: int) -> dict[str, Any]:
    """Holed ids, a crowd with a hole, both kinds of codes, floats with awkward sums, an empty picture."""
    ring = square(30, 5, 12) & ~square(34, 9, 4)
    polygon = [[2.13, 3.07, 12.41, 3.1, 12.4, 15.93], [20.1, 20.2, 25.3, 20.4, 25.5, 26.6]]
    first = 1000 * split
    return {
        "images": [
            {"id": first + n, "file_name": f"{split}{n}.png", "height": HEIGHT, "width": WIDTH} for n in (7, 3, 9)
        ],
        "annotations": [
            annotation(first + 42, first + 7, 90, [2.13, 3.07, 23.37, 23.53], segmentation=polygon, area=95.0625),
            annotation(first + 41, first + 7, 3, [30, 5, 12, 12], segmentation=code(ring), iscrowd=1, area=128),
            annotation(first + 5, first + 9, 3, [0.1, 0.2, 0.3, 0.7]),
            annotation(
                first + 6, first + 9, 17, [0, 0, 64, 1],
                segmentation={"size": [HEIGHT, WIDTH], "counts": [0] + [1, HEIGHT - 1] * WIDTH}, area=64,
            ),
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 17, "name": "cat"}, {"id": 90, "name": "tooth brush"}],
    }  # fmt: skip


def write_json(root: Path, values: dict[str, dict[str, Any]]) -> Path:
    for shade, (split, value) in enumerate(values.items()):
        for i, image in enumerate(value["images"]):
            picture(root / f"{split}2017" / image["file_name"], (11 * i + 100 * shade) % 256)
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(value))
    return root


def by_id(values: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    return {value["id"]: value for value in values}


def same_json(before: Path, after: Path) -> None:
    a, b = (json.loads(file.read_text()) for file in (before, after))
    assert by_id(a["images"]) == by_id(b["images"])
    assert [{k: c[k] for k in c if k in ("id", "name")} for c in a["categories"]] == [
        {k: c[k] for k in c if k in ("id", "name")} for c in b["categories"]
    ]
    known = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "keypoints")
    left, right = (
        {id: {k: v[k] for k in known if k in v} for id, v in by_id(x["annotations"]).items()} for x in (a, b)
    )
    assert left == right


def yolo_source(root: Path, lines: dict[str, str], more: str = "") -> Path:
    for i, (stem, text) in enumerate(lines.items()):
        picture(root / f"images/{stem}.png", i)
        (root / f"labels/{stem}.txt").parent.mkdir(parents=True, exist_ok=True)
        (root / f"labels/{stem}.txt").write_text(text)
    yaml = f"path: .\ntrain: images/train\nval: images/val\nnames: [no, 'a: b', c]\n{more}"
    (root / "data.yaml").write_text(yaml)
    return root


def numbers(file: Path) -> np.ndarray:
    return np.array([float(word) for word in file.read_text().split()])


def masks(part: ObjectPictures) -> dict[str, list[np.ndarray]]:
    return {Path(part.id(i)).name: list(part[i].targets["masks"]) for i in range(len(part))}
