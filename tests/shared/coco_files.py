"""COCO data sets of a few pictures, as their files are."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from retinue.datasets.coco import CocoPictures, splits

TRIANGLE = [[2, 3, 10, 3, 10, 12]]


def picture(path: Path, size: tuple[int, int] = (30, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name), 1, 2)).save(path)
    return path


def image(id: Any = 5, name: Any = "a.png", **more: Any) -> dict[str, Any]:
    return {"id": id, "file_name": name, "height": 20, "width": 30, **more}


def thing(
    id: Any = 1, image_id: Any = 5, category_id: Any = 3, bbox: Any = (2, 3, 8, 9), **more: Any
) -> dict[str, Any]:
    box = list(bbox) if isinstance(bbox, tuple) else bbox
    return {"id": id, "image_id": image_id, "category_id": category_id, "bbox": box, **more}


def write(file: Path, images: Any = None, things: Any = None, categories: Any = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    value = {
        "images": [image()] if images is None else images,
        "annotations": [thing()] if things is None else things,
        "categories": [{"id": 3, "name": "ant"}, {"id": 7, "name": "bee"}]
        if categories is None
        else categories,
    }
    file.write_text(json.dumps(value))
    return file


def only(root: Path, *things: Any, **more: Any) -> CocoPictures:
    """The data set of one picture with these objects."""
    picture(root / "a.png")
    return splits(str(write(root / "train.json", things=list(things), **more)))["train"]


def kinds(data: CocoPictures) -> list[str]:
    return [problem.kind for problem in data.problems()]
