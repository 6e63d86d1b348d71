"""Detections to and from other ecosystems' forms: COCO's results json, torchvision's dicts, supervision."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from retinue.datasets.rle import is_rle
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.detection.masks import EncodedMasks, box_of, encode
from retinue.tasks.detection.results import Detections

Record = dict[str, Any]
"""One detection in COCO's results json."""

ImageId = int | str

Labels = Literal["ids", "from 0", "from 1"]
"""What the numbers in `labels` are: original category ids (torchvision's published COCO models), class indices from 0,
or from 1 with 0 as background (torchvision's models of one's own). Never guessed: a wrong guess shifts every class."""


def image_id(id: str) -> ImageId:
    """A picture's id in COCO's json: its file name without suffix as a number where it is one, else its file name."""
    name = PurePath(id)
    return int(name.stem) if name.stem.isascii() and name.stem.isdigit() else name.name


def coco_results(detections: Detections, image_id: ImageId) -> list[Record]:
    """One record a detection: bbox as x, y, width, height, category_id from `classes.ids`, masks as run-length codes.

    Numbers are written as they are, so that `from_coco_results` gives equal arrays. `keypoint_scores` is no key of
    COCO's; its evaluation leaves it aside.
    """
    x1, y1, x2, y2 = detections.boxes.astype(np.float64).T
    boxes = np.stack([x1, y1, x2 - x1, y2 - y1], 1)
    ids = detections.classes.ids
    records: list[Record] = [
        {"image_id": image_id, "category_id": ids[label], "bbox": box, "score": score}
        for label, box, score in zip(detections.labels, boxes.tolist(), detections.scores.tolist())
    ]
    more: dict[str, Sequence[Any] | None] = {
        "segmentation": detections.masks.rles() if detections.masks is not None else None,
        "keypoints": [points.ravel().tolist() for points in detections.keypoints]
        if detections.keypoints is not None
        else None,
        "keypoint_scores": detections.keypoint_scores.tolist()
        if detections.keypoint_scores is not None
        else None,
    }
    for key, values in more.items():
        for record, value in zip(records, values or ()):
            record[key] = value
    return records


def from_coco_results(
    records: Iterable[Any],
    classes: ClassMap,
    sizes: Mapping[ImageId, tuple[int, int]],
    names: Mapping[ImageId, str] | None = None,
    source: str = "results",
) -> dict[ImageId, Detections]:
    """Anybody's COCO results as `Detections` by image id, one for every picture of `sizes`, empty ones included.

    sizes: (height, width) by image id. names: the pictures' ids in the data set; default: the image id as text.
    A record without `bbox` gets the box around its mask or keypoints, as COCO's own reader does it. Raises DataError
    with `source` and the record's number for what is no such record, and for unknown pictures and categories.
    """
    index = {id: i for i, id in enumerate(classes.ids)}
    pictures: dict[ImageId, list[_Row]] = {id: [] for id in sizes}
    for number, record in enumerate(records):
        try:
            picture, row = _read(record, index, sizes)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{source}: record {number} ({str(record)[:80]}): {what}; correct it") from None
        pictures[picture].append(row)
    return {
        id: _gather(names[id] if names else str(id), rows, classes, sizes[id], source)
        for id, rows in pictures.items()
    }


class _Row(dict[str, Any]):
    """One record, checked: box, score, label, and rle, keypoints, keypoint_scores where it has them."""


def _read(
    record: Any, index: Mapping[int | str, int], sizes: Mapping[ImageId, tuple[int, int]]
) -> tuple[ImageId, _Row]:
    if not isinstance(record, dict):
        raise ValueError("it is no object with image_id, category_id, bbox and score")
    picture, category = record["image_id"], record["category_id"]
    if isinstance(picture, bool) or picture not in sizes:
        raise ValueError(f"image_id {picture!r} is none of the data's {len(sizes)} pictures")
    if isinstance(category, bool) or category not in index:
        raise ValueError(f"category_id {category!r} is none of {list(index)[:20]}")
    row = _Row(score=_numbers([record["score"]], "score")[0], label=index[category])
    if (rle := record.get("segmentation")) is not None:
        if not is_rle(rle, sizes[picture]):
            raise ValueError(f"segmentation is no compressed run-length code of {sizes[picture]} pixels")
        row["rle"] = rle
    if record.get("keypoints") is not None:
        points = _numbers(record["keypoints"], "keypoints")
        if not points or len(points) % 3:
            raise ValueError(f"keypoints {str(points)[:60]} are not x, y and a third number for each point")
        row["keypoints"] = np.array(points, float).reshape(-1, 3)
        if record.get("keypoint_scores") is not None:
            row["keypoint_scores"] = _numbers(record["keypoint_scores"], "keypoint_scores")
            if len(row["keypoint_scores"]) != len(row["keypoints"]):
                raise ValueError(f"keypoint_scores are {len(row['keypoint_scores'])}, not one a keypoint")
    row["box"] = _box(record, row)
    return picture, row


def _box(record: Record, row: _Row) -> Sequence[float]:
    """x1 y1 x2 y2 of a record."""
    if "bbox" in record or not row.keys() & {"rle", "keypoints"}:
        box = _numbers(record["bbox"], "bbox")
        if len(box) != 4 or box[2] < 0 or box[3] < 0:
            raise ValueError(f"bbox {record['bbox']} is not x, y, width, height")
        return [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    if "rle" in row:
        return box_of(row["rle"]).tolist()
    points = row["keypoints"][:, :2]
    return [*points.min(0), *points.max(0)]


def _numbers(values: Any, name: str) -> list[float]:
    """A list of plain numbers, finite in float32 too."""
    if type(values) is list:
        for value in values:
            if type(value) not in (int, float) or not abs(value) < 1e30:  # which NaN is not
                break
        else:
            return values
    raise ValueError(f"{name} {str(values)[:60]} is not made of finite numbers")


def _gather(id: str, rows: list[_Row], classes: ClassMap, size: tuple[int, int], source: str) -> Detections:
    """One picture's records, the surest first; of equal ones the earlier."""
    if not rows:
        return Detections.none(id, classes, size)
    rows = sorted(rows, key=lambda row: -row["score"])
    columns = {}
    for key in ("rle", "keypoints", "keypoint_scores"):
        column = [row[key] for row in rows if key in row]
        if len(column) not in (0, len(rows)) or len({np.shape(value) for value in column}) > 1:
            raise DataError(f"{source}: picture {id}: its records' {key} differ in number; complete them")
        columns[key] = column
    return Detections(
        id,
        np.array([row["box"] for row in rows], np.float32),
        np.array([row["score"] for row in rows], np.float32),
        np.array([row["label"] for row in rows], np.int64),
        classes,
        size,
        EncodedMasks(tuple(columns["rle"]), size) if columns["rle"] else None,
        *(
            np.array(columns[key], np.float32) if columns[key] else None
            for key in ("keypoints", "keypoint_scores")
        ),
    )


def to_torchvision(detections: Detections, *, labels: Labels) -> dict[str, Tensor]:
    """The dict of torchvision's detectors; `masks` (n, 1, h, w) float32 are painted in full, which takes memory."""
    indices = torch.from_numpy(detections.labels)
    if labels == "ids":
        indices = torch.tensor([detections.classes.ids[i] for i in detections.labels], dtype=torch.int64)
    result = {
        "boxes": torch.from_numpy(detections.boxes),
        "labels": indices + 1 if labels == "from 1" else indices,
        "scores": torch.from_numpy(detections.scores),
    }
    if (masks := detections.masks) is not None:
        result["masks"] = torch.zeros(len(detections), 1, *detections.size)
        for i in range(len(detections)):
            y, x, part = masks.probabilities_of(i)
            result["masks"][i, 0, y : y + part.shape[0], x : x + part.shape[1]] = torch.from_numpy(part)
    if detections.keypoints is not None:
        result["keypoints"] = torch.from_numpy(detections.keypoints)
    if detections.keypoint_scores is not None:
        result["keypoints_scores"] = torch.from_numpy(detections.keypoint_scores)
    return result


def from_torchvision(
    result: Mapping[str, Tensor], id: str, classes: ClassMap, size: tuple[int, int], *, labels: Labels
) -> Detections:
    """Detections from the dict that torchvision's detectors give, in a picture of `size` (height, width).

    Masks (n, 1, h, w) become run-length codes at probability 0.5. Raises DataError for labels outside the classes.
    """
    given = {key: value.detach().cpu().numpy() for key, value in result.items()}
    numbers = given["labels"].astype(np.int64)
    if labels == "ids":
        indices = np.array([classes.index(int(number)) for number in numbers], np.int64)
    else:
        indices = numbers - (labels == "from 1")
    if len(indices) and not (indices.min() >= 0 and indices.max() < len(classes)):
        raise DataError(f"{id}: labels {sorted(set(numbers.tolist()))} {labels} of {len(classes)} classes")
    order = np.argsort(-given["scores"], kind="stable")
    masks = None
    if "masks" in given:
        masks = EncodedMasks(tuple(encode(given["masks"][i, 0] > 0.5) for i in order), size)
    points, point_scores = (given.get(key) for key in ("keypoints", "keypoints_scores"))
    return Detections(
        id,
        given["boxes"][order].astype(np.float32),
        given["scores"][order].astype(np.float32),
        indices[order],
        classes,
        size,
        masks,
        points[order].astype(np.float32) if points is not None else None,
        point_scores[order].astype(np.float32) if point_scores is not None else None,
    )


def to_supervision(detections: Detections) -> Any:
    """`supervision.Detections`, class names under "class_name"; its masks (n, h, w) are painted in full."""
    try:
        import supervision
    except ImportError as error:
        raise DataError(f"supervision cannot be imported ({error}); try `pip install supervision`") from None
    masks = None
    if detections.masks is not None:
        masks = np.zeros((len(detections), *detections.size), bool)
        for i in range(len(detections)):
            y, x, part = detections.masks.one(i)
            masks[i, y : y + part.shape[0], x : x + part.shape[1]] = part
    return supervision.Detections(
        xyxy=detections.boxes,
        mask=masks,
        confidence=detections.scores,
        class_id=detections.labels.astype(int),
        data={"class_name": np.array(detections.names, dtype=str)},
    )
