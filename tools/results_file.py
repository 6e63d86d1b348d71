"""Read a COCO results file: a json list of detections, checked entry by entry, into flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from retinue.datasets.json_values import load_json, numeric, shown
from retinue.datasets.rle import Rle
from retinue.datasets.segments import Segments, fault
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.detection.coco_engines import Found
from retinue.tasks.detection.coco_results import image_id

KINDS = {"bbox": "box", "segmentation": "mask", "keypoints": "keypoints"}
"""A result's key -> what it is."""


@dataclass
class Results:
    """kinds: what every entry has, the headline first. sizes: (pictures, 2), as given or as the masks state them."""

    file: Path
    kinds: list[str]
    found: Found
    sizes: np.ndarray


@dataclass
class _Columns:
    """What grows with every entry."""

    pictures: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    boxes: list[Any] = field(default_factory=list)
    masks: list[Rle] = field(default_factory=list)
    keypoints: list[Any] = field(default_factory=list)


def read_results(
    file: Path, image_ids: Sequence[int | str], paths: Sequence[str], classes: ClassMap, sizes: np.ndarray
) -> Results:
    """Read results for the pictures and classes given.

    paths: of the pictures' files. sizes: (pictures, 2) heights and widths, 0 where unknown.
    Raises DataError naming file, entry (counted from 0), value and remedy: not a list, an unknown image or category,
    numbers that are not finite, wrong lengths, broken run-length codes.
    """
    entries = _load(file)
    keys = [key for key in KINDS if entries and entries[0].get(key)] if entries else ["bbox"]
    if not keys:
        raise DataError(
            f"{file}: entry 0 has none of {list(KINDS)}, only {list(entries[0])[:10]}; add what is to be judged"
        )
    pictures, labels = _numbers(image_ids, paths), {str(id): k for k, id in enumerate(classes.ids)}
    columns, sizes = _Columns(), sizes.copy()
    for position, entry in enumerate(entries):
        try:
            picture, label = pictures.get(_key(entry["image_id"])), labels.get(_key(entry["category_id"]))
            if picture is None:
                raise _Fault(f"image_id {shown(entry['image_id'])} is not in the data")
            if label is None:
                raise _Fault(f"category_id {shown(entry['category_id'])} is not in the data")
            score = entry["score"]
            if not numeric([score]):
                raise _Fault(f"score {shown(score)} is not a finite number")
            _read(entry, keys, columns, sizes[picture])
        except KeyError as error:
            raise DataError(f"{file}: entry {position} has no {error}; it has {list(entry)[:10]}") from None
        except _Fault as error:
            hint = _hint(str(error), entries, image_ids, classes)
            raise DataError(f"{file}: entry {position}: {error}; {hint}") from None
        columns.pictures.append(picture)
        columns.labels.append(label)
        columns.scores.append(float(score))
    return Results(file, [KINDS[key] for key in keys], _found(columns, keys), sizes)


class _Fault(Exception):
    """What is wrong with an entry."""


def _load(file: Path) -> list[dict[str, Any]]:
    value = load_json(file, "results")
    if not isinstance(value, list):
        there = f"an object with {list(value)[:5]}" if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{file}: is {there}, COCO results are a list of detections")
    for position, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise DataError(f"{file}: entry {position} is {shown(entry)}, not an object; correct it")
    return value


def _numbers(image_ids: Sequence[int | str], paths: Sequence[str]) -> dict[str, int]:
    """Image id as text -> the picture's number. A file's name serves too, where only one picture has it; as a number
    only where the data have no ids of their own."""
    names: dict[str, list[int]] = {}
    for number, (id, path) in enumerate(zip(image_ids, paths)):
        aliases = {path, Path(path).name, Path(path).stem, str(image_id(path))}
        for alias in aliases:
            if isinstance(id, str) or not alias.isdigit():
                names.setdefault(alias, []).append(number)
    unique = {name: found[0] for name, found in names.items() if len(found) == 1}
    return unique | {str(id): number for number, id in enumerate(image_ids)}


def _key(id: Any) -> str:
    """Ids are compared as text: some tools write whole numbers here and strings or 42.0 there."""
    if isinstance(id, str):
        return id
    if isinstance(id, float) and id.is_integer():
        id = int(id)
    return str(id) if type(id) is int and abs(id) < 2**63 else ""


def _read(entry: dict[str, Any], keys: list[str], columns: _Columns, size: np.ndarray) -> None:
    """Add what is judged of one entry. Raises _Fault; `size` is written where it was unknown."""
    for key in keys:
        if not entry.get(key):
            raise _Fault(f"has no {key}, the entries before it have")
    if "bbox" in keys:
        box = entry["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not numeric(box):
            raise _Fault(f"bbox {shown(box)} is not four finite numbers x, y, width, height")
        columns.boxes.append(box)
    if "segmentation" in keys:
        columns.masks.append(_mask(entry["segmentation"], size))
    if "keypoints" in keys:
        points = entry["keypoints"]
        if not isinstance(points, list) or len(points) % 3 or not numeric(points):
            raise _Fault(f"keypoints {shown(points)} are not finite x, y, visibility for each point")
        if columns.keypoints and len(points) != len(columns.keypoints[0]):
            raise _Fault(
                f"{len(points) // 3} keypoints, the entries before it have {len(columns.keypoints[0]) // 3}"
            )
        columns.keypoints.append(points)


def _mask(written: Any, size: np.ndarray) -> Rle:
    stated = written.get("size") if isinstance(written, dict) else None
    if not size[0] and isinstance(stated, list) and len(stated) == 2:
        if not all(type(side) is int and 0 < side < 2**15 for side in stated):
            raise _Fault(f"segmentation of size {shown(stated)}")
        size[:] = stated
    height, width = (int(side) for side in size)
    if not height:
        raise _Fault("polygons of a picture whose height and width are unknown; write run-length codes")
    if what := fault(written, height, width):
        raise _Fault(what)
    if isinstance(written, dict) and isinstance(written["counts"], str):
        return written
    return Segments.of([written]).rle(0, height, width)


def _found(columns: _Columns, keys: list[str]) -> Found:
    """Flat arrays; boxes are those given, else around the masks or the keypoints."""
    n = len(columns.labels)
    keypoints = np.array(columns.keypoints, np.float64).reshape(n, -1, 3) if "keypoints" in keys else None
    xywh = np.array(columns.boxes, np.float64).reshape(-1, 4)
    if "bbox" not in keys and "segmentation" in keys:
        xywh = np.asarray(coco_mask.toBbox(columns.masks), np.float64).reshape(-1, 4)
    elif "bbox" not in keys and keypoints is not None:
        low = keypoints[..., :2].min(1)
        xywh = np.concatenate([low, keypoints[..., :2].max(1) - low], 1)
    return Found(
        np.array(columns.pictures, np.int64),
        np.array(columns.labels, np.int64),
        xywh,
        np.array(columns.scores, np.float64),
        columns.masks if "segmentation" in keys else None,
        keypoints,
    )


def _hint(what: str, entries: list[dict[str, Any]], image_ids: Sequence[int | str], classes: ClassMap) -> str:
    """What to do about an entry that is wrong."""
    if what.startswith("image_id"):
        known, used = {str(id) for id in image_ids}, {_key(entry.get("image_id")) for entry in entries}
        return (
            f"{len(used & known)} of the {len(used)} ids in the file are among the {len(known)} of the data, "
            f"like {_some(image_ids)}: give the data that were predicted on, or write their ids"
        )
    if what.startswith("category_id"):
        used = {_key(entry.get("category_id")) for entry in entries}
        indices = {str(k) for k in range(len(classes))}
        if used <= indices:
            return f"the ids look like class indices from 0; write the data's own: {_some(classes.ids)}"
        if used <= {str(k + 1) for k in range(len(classes))}:
            return f"the ids look like class indices from 1; write the data's own: {_some(classes.ids)}"
        return f"known are {_some(classes.ids)}: write those, or give the data that were trained on"
    return "correct the file, or what writes it"


def _some(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values[:10]) + (", ..." if len(values) > 10 else "")
