"""Write COCO json: annotations/instances_<split>.json and images/<split>/."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from retinue.datasets.coco_keypoints import flip_pairs
from retinue.datasets.conversion import Loss, Parts, count
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.targets import ClassMap

TOGETHER, BY_STEM, SINGLE_POLYGONS = False, False, False
"""Splits have folders of their own; nothing is called as a picture is; an outline may have several rings."""


def picture_path(split: str, name: str) -> str:
    """Where a picture lies in the new data set."""
    return f"images/{split}/{name}"


def losses(parts: Parts) -> list[Loss]:
    """What COCO json cannot hold: nothing that needs consent."""
    classes = next(iter(parts.values())).classes
    said = []
    if not _whole(classes.ids):
        said.append(Loss("", f"class ids are numbers from 1 on: {_numbered(classes)}"))
    points = classes.keypoints
    if points and flip_pairs(points["names"]) != points["pairs"]:
        said.append(Loss("", "which keypoints a flip exchanges is told by left and right in names only"))
    for name, part in parts.items():
        if (ids := part.annotations.object_ids) is not None and len(np.unique(ids)) < len(ids):
            said.append(Loss("", f"annotation ids of {name} occur twice and are numbered from 1"))
    return said


def write(parts: Parts, out: Path, names: dict[str, list[str]]) -> None:
    """Write one json file a split. Ids of categories, pictures and annotations stay where there are any."""
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    pictures = objects = 1
    for split, part in parts.items():
        value = as_json(part, names[split], pictures, objects)
        pictures, objects = pictures + len(part), objects + len(part.annotations.labels)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        (out / f"annotations/instances_{split}.json").write_text(text, encoding="utf-8")


def as_json(part: ObjectPictures, names: list[str], picture: int = 1, object: int = 1) -> dict[str, Any]:
    """One split as COCO's object of lists; picture, object: the first ids where the data have none of their own."""
    a, categories = part.annotations, _categories(part.classes)
    sizes = np.asarray(a.sizes).tolist()
    own = a.image_ids is not None
    image_ids = [part.image_id(i) if own else picture + i for i in range(len(part))]
    ids = a.object_ids
    if ids is None or len(np.unique(ids)) < len(ids):
        ids = np.arange(object, object + len(a.labels))
    return {
        "images": [
            {"id": id, "file_name": name, "height": height, "width": width}
            for id, name, (height, width) in zip(image_ids, names, sizes)
        ],
        "annotations": [
            {"id": int(id), "image_id": image_ids[i], "category_id": categories[a.labels[row]]["id"]}
            | _object(part, row, sizes[i])
            for row, (id, i) in enumerate(zip(ids.tolist(), a.pictures.tolist()))
        ],
        "categories": categories,
    }


def _object(part: ObjectPictures, row: int, size: list[int]) -> dict[str, Any]:
    a = part.annotations
    x1, y1, x2, y2 = a.boxes[row].tolist()
    width, height = _extent(x1, x2), _extent(y1, y2)
    outline = a.segments.written(row) if a.segments is not None else None
    if a.area is not None:
        area = float(a.area[row])
    else:
        area = a.segments.area(row, *size) if a.segments is not None and outline else (x2 - x1) * (y2 - y1)
    value: dict[str, Any] = {
        "bbox": [_plain(v) for v in (x1, y1, width, height)],
        "area": _plain(area),
        "iscrowd": int(count(a.crowd[row : row + 1]) if a.crowd is not None else 0),
        "segmentation": outline or [],
    }
    if a.keypoints is not None:
        points = a.keypoints[row]
        value["keypoints"] = [_plain(v) for v in points.ravel().tolist()]
        value["num_keypoints"] = int((points[:, 2] > 0).sum())
    for name, values in a.extras.items():
        each = values[row]
        value[name] = each.decode() if isinstance(each, bytes) else int(each)
    return value


def _extent(low: float, high: float) -> float:
    """The width w with the fewest decimals for which low + w is high: what was written where it was read from COCO."""
    for digits in range(17):
        if low + (width := round(high - low, digits)) == high:
            return width
    return high - low


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _whole(ids: tuple[int | str, ...]) -> bool:
    return all(isinstance(id, int) for id in ids)


def _numbered(classes: ClassMap) -> str:
    words = [f"{i} {name}" for i, name in enumerate(classes.names, 1)]
    return ", ".join(words[:10]) + (", ..." if len(words) > 10 else "")


def _categories(classes: ClassMap) -> list[dict[str, Any]]:
    ids = classes.ids if _whole(classes.ids) else tuple(range(1, len(classes) + 1))
    points = classes.keypoints
    more: dict[str, Any] = {}
    if points:
        skeleton = [[a + 1, b + 1] for a, b in points.get("skeleton", ())]
        more = {"keypoints": list(points["names"]), "skeleton": skeleton}
    return [{"id": id, "name": name, **more} for id, name in zip(ids, classes.names)]
